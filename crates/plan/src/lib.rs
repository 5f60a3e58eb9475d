//! Facts in, plan out: what a backup, a restore or a retention rule will do.

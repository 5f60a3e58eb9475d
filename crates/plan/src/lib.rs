//! Facts in, plan out: what a restore will do, decided before it does anything.
//!
//! Plain functions over values, without clock, file or socket; a table of cases tests them. The agent gathers the facts
//! and carries the plan out.

pub mod restore;

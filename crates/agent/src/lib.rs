//! The agent: makes and restores recovery points on a Hyper-V host.

//! The crate through its public API: what one side writes, the other reads.

mod faults;
mod foreign;
mod hostile;
mod recording;
mod round_trip;

//! The crate through its public API: trees there and back, a golden file, bytes nobody should write.

#[cfg(test)]
mod damage;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod round_trips;
#[cfg(test)]
mod support;

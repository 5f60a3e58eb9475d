//! The crate through its public API, against other implementations, a plain model, and bytes nobody should write.

#[cfg(test)]
mod chains;
#[cfg(test)]
mod checking;
#[cfg(test)]
mod concurrency;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod crash_layout;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod judges;
#[cfg(test)]
mod judges_docs;
#[cfg(test)]
mod judges_in_place;
#[cfg(test)]
mod judges_made;
#[cfg(test)]
mod judges_matrix;
#[cfg(test)]
mod judges_model;
#[cfg(test)]
mod judges_qemu;
#[cfg(test)]
mod judges_tools;
#[cfg(test)]
mod merging;
#[cfg(test)]
mod model;
#[cfg(test)]
mod power;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod repairing;
#[cfg(test)]
mod resuming;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod runs;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod support;
#[cfg(test)]
mod tolerance;
#[cfg(test)]
mod vhd;
#[cfg(test)]
mod vhd_file;
#[cfg(test)]
mod vhd_judges;

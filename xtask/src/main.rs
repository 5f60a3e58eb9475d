//! Chores: tests, checks, documentation. Run as `cargo xtask`.
fn main() {}

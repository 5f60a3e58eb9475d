//! Everything of the vault that touches disk: layouts, limits, magic bytes and versions.
//!
//! Numbers are little-endian. Every object opens with eight magic bytes and a version (`u32`); tree nodes, which live in
//! packs, with four and one byte. An unknown version is refused by name. Each version has golden files in `tests/golden`
//! that every later build reads.
//!
//! - [`pack`]: sealed entries and a sealed footer.
//! - [`node`]: leaves, delta leaves and inner nodes of image trees.
//! - [`point`]: recovery points and voids.
//! - [`keys`]: wrapped keys and the recovery kit's content.
//! - [`vault`]: the plain description of the vault.

mod cursor;
pub mod keys;
pub mod node;
pub mod pack;
pub mod point;
pub mod vault;

pub(crate) use cursor::Cursor;

//! Where a chunk lies: a local index that can be rebuilt.

//! From a disk to packs and from packs to a disk.

//! Where objects lie: a folder or memory, with the promises the store needs.

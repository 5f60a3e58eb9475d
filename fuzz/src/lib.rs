//! Runs a target of `fuzz_oracles` under libFuzzer, and counts what it allocates.
//!
//! Invariant: no input makes the code under test, the comparison included, hold more memory at once than
//! [`ALLOWED_BYTES`] and as much as its files claim to be long.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use fuzz_oracles::Target;

/// What an input may take whatever its files are.
pub const ALLOWED_BYTES: u64 = 64 << 20;

/// The target of this name as the body of a fuzz target.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        #[global_allocator]
        static ALLOCATOR: $crate::Counting = $crate::Counting;

        libfuzzer_sys::fuzz_target!(|input: &[u8]| {
            static TARGET: std::sync::LazyLock<&fuzz_oracles::Target> =
                std::sync::LazyLock::new(|| {
                    fuzz_oracles::target($name).expect("a target of this name")
                });
            $crate::run(*TARGET, input);
        });
    };
}

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// Tries an input.
pub fn run(target: &Target, input: &[u8]) {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let files = (target.run)(input);
    let taken = PEAK.load(Ordering::Relaxed).saturating_sub(before) as u64;
    let allowed = files.saturating_add(ALLOWED_BYTES);
    assert!(
        taken <= allowed,
        "{taken} bytes of memory for files of {files} bytes"
    );
}

/// The system's allocator, counting.
pub struct Counting;

fn add(bytes: usize) {
    let now = NOW.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(now, Ordering::Relaxed);
}

fn remove(bytes: usize) {
    NOW.fetch_sub(bytes, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        remove(layout.size());
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        add(size);
        remove(layout.size());
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(at, layout, size) }
    }
}

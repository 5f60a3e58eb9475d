//! Every error the driver tells apart: a host that gives it, its kind, the host's own words in it, and what an
//! administrator does about it.
//!
//! The lists are matches that name every variant, code, fault and rule: what is new fails to compile, or is missed by the
//! test of its list, until it is shown here.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod codes;
mod variants;

use std::error::Error as _;

use hyperv::{Error, ErrorKind};

/// The error with its causes, as people get it.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Checks what every error must have: its kind, the words that say what happened and where, and a hint.
#[track_caller]
fn check(error: &Error, kind: ErrorKind, words: &[&str]) {
    let text = chain(error);
    assert_eq!(error.kind(), kind, "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
    assert!(!text.ends_with('.'), "{text}");
    let hint = error.hint();
    assert!(
        hint.len() > 20 && !hint.ends_with('.') && !text.contains(hint),
        "{text}; {hint}"
    );
}

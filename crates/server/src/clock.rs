//! The only clock of the server.

use model::Timestamp;

/// Returns the moment by this machine's clock.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_millis(jiff::Timestamp::now().as_millisecond())
}

//! The one place that reads the clock.

use std::time::{SystemTime, UNIX_EPOCH};

use model::Timestamp;
use wsman::{CimTime, Moment};

/// Returns the present moment.
pub(crate) fn now() -> Timestamp {
    let millis = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis());
    Timestamp::from_millis(i64::try_from(millis).unwrap_or(i64::MAX))
}

/// Returns a moment as DMTF text.
pub(crate) fn dmtf(at: Timestamp) -> String {
    CimTime::Moment(Moment::from_unix_millis(at.as_millis())).to_dmtf()
}

/// Returns a length of time as DMTF text.
pub(crate) fn dmtf_interval(millis: u64) -> String {
    CimTime::Interval(wsman::Interval {
        micros: millis.saturating_mul(1000),
    })
    .to_dmtf()
}

//! Lists in pages.

use std::fmt;
use std::str::FromStr;

use model::Timestamp;

use crate::text::ParseTextError;

/// Most rows a page holds.
pub(crate) const PAGE_ROWS: u32 = 500;

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// Its rows.
    pub items: Vec<T>,
    /// Where the next part begins; `None` at the end.
    pub next: Option<Cursor>,
}

/// A place in a list that is ordered by time and id, newest first. New rows do not shift it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub(crate) at: Timestamp,
    pub(crate) id: String,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.at.as_millis(), self.id)
    }
}

impl FromStr for Cursor {
    type Err = ParseTextError;
    fn from_str(text: &str) -> Result<Self, ParseTextError> {
        let wrong = || ParseTextError {
            what: "cursor",
            text: text.chars().take(80).collect(),
        };
        let (millis, id) = text.split_once('.').ok_or_else(wrong)?;
        if id.len() > 80 {
            return Err(wrong());
        }
        let at = Timestamp::from_millis(millis.parse().map_err(|_| wrong())?);
        Ok(Self {
            at,
            id: id.to_owned(),
        })
    }
}

/// Cuts what was read with one row too many into a page.
pub(crate) fn cut<T>(mut items: Vec<T>, limit: u32, place: impl Fn(&T) -> Cursor) -> Page<T> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let next = if items.len() > limit {
        items.truncate(limit);
        items.last().map(place)
    } else {
        None
    };
    Page { items, next }
}

/// Returns the rows to ask for: at least one, at most [`PAGE_ROWS`].
pub(crate) fn bounded(limit: u32) -> u32 {
    limit.clamp(1, PAGE_ROWS)
}

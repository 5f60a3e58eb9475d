//! What people see of a result: a table, a list of fields, or plain text. Makes text, prints nothing.

use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
use model::HumanBytes;

use crate::output::clean;

/// A result for people.
#[derive(Debug)]
pub(crate) enum View {
    /// Rows under headings.
    Table(Rows),
    /// Names and values, one each line.
    Fields(Vec<(String, String)>),
    /// Text as it is.
    Text(String),
}

/// Rows under headings.
#[derive(Debug)]
pub(crate) struct Rows {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    empty: &'static str,
}

impl Rows {
    /// Makes a table without rows; `empty` is shown in place of one.
    pub(crate) fn new<const N: usize>(headings: [&'static str; N], empty: &'static str) -> Self {
        Self {
            headings: headings.to_vec(),
            rows: Vec::new(),
            empty,
        }
    }

    /// Adds a row.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows
            .push(cells.iter().map(|cell| clean(cell)).collect());
    }
}

impl View {
    /// Makes fields from names and values; the empty ones are left out.
    pub(crate) fn fields<const N: usize>(fields: [(&str, String); N]) -> Self {
        View::Fields(
            fields
                .into_iter()
                .filter(|(_, value)| !value.is_empty())
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        )
    }

    /// Returns the text, ending with a line break; with borders only for a terminal.
    pub(crate) fn render(self, terminal: bool) -> String {
        match self {
            View::Text(text) if text.is_empty() || text.ends_with('\n') => text,
            View::Text(text) => text + "\n",
            View::Fields(fields) => {
                let width = fields.iter().map(|(name, _)| name.chars().count()).max();
                let width = width.unwrap_or(0);
                let mut text = String::new();
                for (name, value) in fields {
                    let mut name = name.as_str();
                    for line in value.split('\n') {
                        text.push_str(&format!("{name:width$}  {}\n", clean(line)));
                        name = "";
                    }
                }
                text
            }
            View::Table(rows) if rows.rows.is_empty() => format!("{}\n", rows.empty),
            View::Table(rows) => {
                let mut table = Table::new();
                if terminal {
                    table.load_style(presets::UTF8_FULL_CONDENSED);
                    table.set_content_arrangement(ContentArrangement::Dynamic);
                } else {
                    table.load_style(presets::NOTHING);
                    table.force_no_tty();
                }
                table.set_header(rows.headings);
                for row in rows.rows {
                    table.add_row(row);
                }
                table.trim_fmt() + "\n"
            }
        }
    }
}

/// Shows a number of bytes.
pub(crate) fn bytes(count: u64) -> String {
    HumanBytes(count).to_string()
}

/// Shows an optional text, `-` where there is none.
pub(crate) fn or_dash(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty())
        .unwrap_or("-")
        .to_owned()
}

/// Shows how long something took.
pub(crate) fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// Shows the time between two RFC 3339 texts, or nothing where one is missing or no time.
pub(crate) fn between(from: Option<&str>, to: Option<&str>) -> String {
    let parse = |text: Option<&str>| text?.parse::<model::Timestamp>().ok();
    match (parse(from), parse(to)) {
        (Some(from), Some(to)) => seconds(Duration::from_millis(to.millis_since(from))),
        (Some(_) | None, Some(_) | None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_in_a_pipe_has_no_borders() {
        let mut rows = Rows::new(["NAME", "STATE"], "none");
        rows.row(["web01".to_owned(), "running".to_owned()]);
        let text = View::Table(rows).render(false);
        assert!(
            text.lines()
                .nth(1)
                .unwrap()
                .trim_start()
                .starts_with("web01"),
            "{text:?}"
        );
        assert!(text.is_ascii());
    }

    #[test]
    fn an_empty_table_says_so() {
        let rows = Rows::new(["NAME"], "no VM is known yet");
        assert_eq!(View::Table(rows).render(true), "no VM is known yet\n");
    }

    #[test]
    fn fields_line_up_and_empty_ones_vanish() {
        let view = View::fields([
            ("id", "7".to_owned()),
            ("locked until", String::new()),
            ("paths", "a\nb".to_owned()),
        ]);
        assert_eq!(view.render(false), "id     7\npaths  a\n       b\n");
    }
}

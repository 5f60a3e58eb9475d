//! Writing: escapes, and names made of any text.

use std::borrow::Cow;

/// Writes XML into a text. Names are the caller's and taken as they are, after [`name`] where they come from outside.
#[derive(Default)]
pub(crate) struct Writer {
    out: String,
}

impl Writer {
    pub(crate) fn open(&mut self, tag: &str) {
        self.open_with(tag, &[]);
    }

    pub(crate) fn open_with(&mut self, tag: &str, attributes: &[(&str, &str)]) {
        self.start(tag, attributes);
        self.out.push('>');
    }

    pub(crate) fn empty_with(&mut self, tag: &str, attributes: &[(&str, &str)]) {
        self.start(tag, attributes);
        self.out.push_str("/>");
    }

    pub(crate) fn close(&mut self, tag: &str) {
        self.out.push_str("</");
        self.out.push_str(tag);
        self.out.push('>');
    }

    pub(crate) fn text(&mut self, text: &str) {
        escape(text, &mut self.out);
    }

    pub(crate) fn leaf(&mut self, tag: &str, text: &str) {
        self.leaf_with(tag, &[], text);
    }

    pub(crate) fn leaf_with(&mut self, tag: &str, attributes: &[(&str, &str)], text: &str) {
        self.open_with(tag, attributes);
        self.text(text);
        self.close(tag);
    }

    pub(crate) fn finish(self) -> String {
        self.out
    }

    fn start(&mut self, tag: &str, attributes: &[(&str, &str)]) {
        self.out.push('<');
        self.out.push_str(tag);
        for (name, value) in attributes {
            self.out.push(' ');
            self.out.push_str(name);
            self.out.push_str("=\"");
            escape(value, &mut self.out);
            self.out.push('"');
        }
    }
}

/// Escapes for element text and quoted attributes alike. What XML cannot hold becomes the replacement character.
fn escape(text: &str, out: &mut String) {
    out.reserve(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\r' => out.push_str("&#13;"),
            '\n' => out.push_str("&#10;"),
            '\t' => out.push_str("&#9;"),
            c if is_xml_char(c) => out.push(c),
            _ => out.push('\u{FFFD}'),
        }
    }
}

/// Whether XML 1.0 can hold the character.
pub(super) fn is_xml_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..)
}

/// Makes an element name of any text: what the ASCII names of CIM classes and properties do not hold becomes `_`.
pub(crate) fn name(text: &str) -> Cow<'_, str> {
    let start = |c: char| c.is_ascii_alphabetic() || c == '_';
    let part = |c: char| start(c) || c.is_ascii_digit() || c == '-' || c == '.';
    let good = text.chars().next().is_some_and(start) && text.chars().all(part);
    if good {
        return Cow::Borrowed(text);
    }
    let mut out: String = text
        .chars()
        .map(|c| if part(c) { c } else { '_' })
        .collect();
    if !out.chars().next().is_some_and(start) {
        out.insert(0, '_');
    }
    Cow::Owned(out)
}

//! Limits of a document, looked for before the parser sees it.
//!
//! One pass over the bytes that builds nothing but a stack of at most [`limits::DEPTH`] numbers. What is not well-formed
//! may pass: the parser refuses it afterwards. What passes costs the parser time and memory in proportion to its length,
//! because everything it compares pair by pair or copies per element (attributes, namespaces in force) is bounded here,
//! and so is what it makes room for on the sight of a sign.

use super::{MessageError, limits};

/// Namespace declarations seen so far.
#[derive(Default)]
struct Namespaces {
    /// Of each open element.
    open: Vec<usize>,
    in_scope: usize,
    total: usize,
}

/// A start tag, its names unread.
struct StartTag {
    /// Position behind it.
    end: usize,
    attributes: usize,
    /// Namespace declarations among them.
    declared: usize,
}

/// Walks the tags without building anything.
pub(super) fn check_limits(text: &str) -> Result<(), MessageError> {
    let bytes = text.as_bytes();
    for sign in [b'<', b'='] {
        let signs = bytes.iter().filter(|&&byte| byte == sign).count();
        within(signs, limits::SIGNS, "signs of markup")?;
    }
    let skip_past = |from: usize, end: &'static str| {
        text.get(from..)
            .and_then(|rest| rest.find(end))
            .map(|at| from + at + end.len())
            .ok_or_else(unended)
    };
    let mut namespaces = Namespaces::default();
    let mut at = 0;
    while let Some(found) = bytes[at..].iter().position(|&b| b == b'<') {
        let tag = at + found;
        let rest = &bytes[tag..];
        at = if rest.starts_with(b"<!--") {
            skip_past(tag + 4, "-->")?
        } else if rest.starts_with(b"<![CDATA[") {
            skip_past(tag + 9, "]]>")?
        } else if rest.starts_with(b"<?") {
            skip_past(tag + 2, "?>")?
        } else if rest.starts_with(b"<!") {
            return Err(MessageError::Malformed {
                what: "a document type is not allowed".to_owned(),
            });
        } else if rest.starts_with(b"</") {
            namespaces.in_scope -= namespaces.open.pop().unwrap_or(0);
            skip_past(tag + 2, ">")?
        } else {
            let start = scan_start_tag(bytes, tag).ok_or_else(unended)?;
            namespaces.enter(&start, bytes[start.end - 2] == b'/')?;
            start.end
        };
    }
    Ok(())
}

impl Namespaces {
    fn enter(&mut self, tag: &StartTag, empty: bool) -> Result<(), MessageError> {
        within(tag.attributes, limits::ATTRIBUTES, "attributes")?;
        self.total += tag.declared;
        within(self.total, limits::NAMESPACES, "declared namespaces")?;
        let in_scope = self.in_scope + tag.declared;
        within(in_scope, limits::NAMESPACES_IN_SCOPE, "namespaces")?;
        within(self.open.len() + 1, limits::DEPTH, "nested elements")?;
        if !empty {
            self.open.push(tag.declared);
            self.in_scope = in_scope;
        }
        Ok(())
    }
}

fn within(found: usize, limit: usize, what: &'static str) -> Result<(), MessageError> {
    if found > limit {
        return Err(MessageError::Limit { what, limit });
    }
    Ok(())
}

fn unended() -> MessageError {
    MessageError::Malformed {
        what: "a tag does not end".to_owned(),
    }
}

fn scan_start_tag(bytes: &[u8], start: usize) -> Option<StartTag> {
    let (mut attributes, mut declared, mut quote, mut at) = (0, 0, None, start + 1);
    while let Some(&byte) = bytes.get(at) {
        match (quote, byte) {
            (Some(open), byte) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'>') => {
                return Some(StartTag {
                    end: at + 1,
                    attributes,
                    declared,
                });
            }
            (None, b'=') => attributes += 1,
            (None, b'x')
                if bytes[at..].starts_with(b"xmlns") && bytes[at - 1].is_ascii_whitespace() =>
            {
                declared += 1;
            }
            (None, _) => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::{decode, parse};
    use super::*;
    use crate::xml::NodeExt;

    /// The text within the limit is read, the one just over it is refused by the name of the limit.
    #[track_caller]
    fn check(what: &'static str, limit: usize, text: impl Fn(usize) -> String) {
        assert!(parse(&text(limit)).is_ok(), "{what} up to the limit");
        assert_eq!(
            parse(&text(limit + 1)).map(|_| ()),
            Err(MessageError::Limit { what, limit })
        );
    }

    fn list(n: usize, item: impl Fn(usize) -> String) -> String {
        (0..n).map(item).collect()
    }

    #[test]
    fn limits_are_kept() {
        check("nested elements", limits::DEPTH, |n| {
            format!("{}{}", "<a>".repeat(n), "</a>".repeat(n))
        });
        // An empty element is as deep as one with an end tag.
        check("nested elements", limits::DEPTH, |n| {
            format!("{}<b/>{}", "<a>".repeat(n - 1), "</a>".repeat(n - 1))
        });
        check("attributes", limits::ATTRIBUTES, |n| {
            format!("<a {}/>", list(n, |i| format!("b{i}='=>' ")))
        });
        check("namespaces", limits::NAMESPACES_IN_SCOPE, |n| {
            let two = |from: usize, to: usize| {
                (from..to)
                    .map(|i| format!("xmlns:n{i}='u{i}' "))
                    .collect::<String>()
            };
            format!("<a {}><b {}/></a>", two(0, n / 2), two(n / 2, n))
        });
        check("declared namespaces", limits::NAMESPACES, |n| {
            format!("<a>{}</a>", "<p:b xmlns:p='u'/>".repeat(n))
        });
    }

    #[test]
    fn room_is_made_for_a_bounded_number_of_signs() {
        // Signs that are no markup: the parser would make room for a node or an attribute at the sight of each.
        for sign in ["<", "="] {
            check("signs of markup", limits::SIGNS, |n| {
                let written = if sign == "<" { 3 } else { 0 };
                format!("<a><![CDATA[{}]]></a>", sign.repeat(n - written))
            });
        }
    }

    #[test]
    fn texts_and_messages_are_bounded() {
        let text = format!("<a>{}</a>", "x".repeat(limits::TEXT_BYTES + 1));
        let document = parse(&text).unwrap();
        assert!(matches!(
            document.root_element().own_text(),
            Err(MessageError::Limit {
                what: "bytes of a text",
                ..
            })
        ));
        // The same when it comes in pieces.
        let piece = format!("{}<!-- -->", "x".repeat(1 << 10));
        let pieces = |n: usize| format!("<a>{}</a>", piece.repeat(n));
        let read = |text: &str| {
            parse(text)
                .unwrap()
                .root_element()
                .own_text()
                .map(|text| text.len())
        };
        let most = limits::TEXT_BYTES >> 10;
        assert_eq!(read(&pieces(most)), Ok(limits::TEXT_BYTES));
        assert!(read(&pieces(most + 1)).is_err());
        assert!(matches!(
            decode(&vec![b' '; limits::ENVELOPE_BYTES + 1]),
            Err(MessageError::TooLarge { .. })
        ));
    }
}

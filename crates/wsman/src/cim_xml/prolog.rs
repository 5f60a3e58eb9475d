//! What may come before the first element of a CIM-XML text.

use crate::MessageError;

/// Returns the text from its first element on: an XML declaration, comments, processing instructions and one document
/// type without definitions of its own may come first. They are skipped; nothing they name is looked for.
pub(crate) fn skip_prolog(text: &str) -> Result<&str, MessageError> {
    let mut rest = text.trim_start_matches('\u{FEFF}').trim_start();
    let mut typed = false;
    loop {
        rest = if rest.starts_with("<?") {
            after(rest, "?>")?
        } else if let Some(comment) = rest.strip_prefix("<!--") {
            after(comment, "-->")?
        } else if rest.starts_with("<!DOCTYPE") && !typed {
            typed = true;
            skip_document_type(rest)?
        } else {
            return Ok(rest);
        }
        .trim_start();
    }
}

fn after<'a>(text: &'a str, end: &str) -> Result<&'a str, MessageError> {
    text.split_once(end)
        .map(|(_, rest)| rest)
        .ok_or_else(|| malformed("the text before the first element does not end"))
}

/// Skips `<!DOCTYPE name PUBLIC "..." "...">`. Its literals may hold any sign but their quote.
fn skip_document_type(text: &str) -> Result<&str, MessageError> {
    let mut quote = None;
    for (at, byte) in text.bytes().enumerate() {
        match (quote, byte) {
            (Some(open), byte) if open == byte => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'>') => return Ok(&text[at + 1..]),
            (None, b'[') => {
                return Err(malformed("a document type with definitions is not allowed"));
            }
            (None, _) => {}
        }
    }
    Err(malformed("a document type does not end"))
}

fn malformed(what: &str) -> MessageError {
    MessageError::Malformed {
        what: what.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_first_is_skipped() {
        for first in [
            "",
            "\u{FEFF}<?xml version='1.0' encoding='utf-16'?>\n  ",
            "<!-- <!DOCTYPE x [] --><!DOCTYPE CIM>",
            "<?xml version='1.0'?><!DOCTYPE CIM PUBLIC \"SYSTEM\" 'http://x/a>[b].dtd' > <!-- c --> <?pi?>",
        ] {
            assert_eq!(
                skip_prolog(&format!("{first}<a/>")).unwrap(),
                "<a/>",
                "{first}"
            );
        }
    }

    #[test]
    fn definitions_and_what_does_not_end_are_refused() {
        for wrong in [
            "<!DOCTYPE a [<!ENTITY b 'c'>]><a/>",
            "<!DOCTYPE a 'x>",
            "<!-- ",
            "<?xml ",
            "<!DOCTYPE a",
        ] {
            assert!(skip_prolog(wrong).is_err(), "{wrong}");
        }
        // A second one is left to the parser, which refuses it.
        assert_eq!(
            skip_prolog("<!DOCTYPE a><!DOCTYPE a><a/>").unwrap(),
            "<!DOCTYPE a><a/>"
        );
    }
}

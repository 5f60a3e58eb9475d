//! Sealed messages: refused, or the pieces lie in the message one behind the other; each is written and read the same.

use wsman::sealed;

pub(crate) fn run(input: &[u8]) -> u64 {
    // The first line is the header of the message.
    let at = input.iter().position(|&byte| byte == b'\n');
    let (head, body) = at.map_or((&input[..0], input), |at| (&input[..at], &input[at + 1..]));
    let head = String::from_utf8_lossy(head);
    let content_type = if head.is_empty() {
        sealed::CONTENT_TYPE
    } else {
        &head
    };
    if let Ok(pieces) = sealed::read(content_type, body) {
        assert!(!pieces.is_empty(), "a message of nothing");
        assert!(sealed::is_sealed(content_type));
        let mut from = 0;
        for piece in &pieces {
            for part in [piece.signature, piece.sealed] {
                let found = body[from..]
                    .windows(part.len().max(1))
                    .position(|found| found == part);
                from += found.unwrap_or(0) + part.len();
                assert!(part.is_empty() || found.is_some(), "a piece from elsewhere");
            }
        }
        for piece in pieces {
            let written = sealed::write(piece);
            assert_eq!(
                sealed::read(sealed::CONTENT_TYPE, &written),
                Ok(vec![piece])
            );
        }
    }
    input.len() as u64
}

//! What is durable of a file that a restore writes: its record, beside the journal in the agent's data folder.
//!
//! A record only grows: a header, then the pieces of each checkpoint, appended and synced after the data they speak of. A
//! later attempt of the job compares the file with it (`kept`).
//!
//! Layout, little-endian: magic (8 bytes), then batches: length of the body (`u32`), BLAKE3 of the hash of the batch before
//! and the body (32 bytes), body. The first body is the header as JSON; the others are pieces: offset, length (`u64` each),
//! 1 and the hash of the bytes (32 bytes), or 0 for zeros. A batch that is not whole, and what follows it, does not count.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::sync::Arc;

use model::{ByteRange, ImageRef};
use pipeline::Piece;
use serde::{Deserialize, Serialize};
use store::hash_mib;
use uuid::Uuid;

use crate::home::{Home, private};

const MAGIC: &[u8; 8] = b"RPRSPCS1";
/// The longest body; more pieces are written as several batches.
const BODY_BYTES_MAX: usize = 1 << 20;
const PIECE_BYTES_MAX: usize = 8 + 8 + 1 + 32;

/// What a record is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    /// Path of the file on the host.
    pub(super) path: String,
    /// Root of the tree of the image it becomes.
    pub(super) root: Option<String>,
    /// Length of the image in bytes.
    pub(super) image_bytes: u64,
    /// The id of the virtual disk that is laid out; `None` where the image is the file itself.
    pub(super) disk_id: Option<Uuid>,
}

impl Header {
    /// Whether the file becomes this image.
    pub(super) fn is_of(&self, image: &ImageRef) -> bool {
        self.root == image.root && self.image_bytes == image.len
    }
}

/// A record that can be added to.
#[derive(Debug)]
pub(super) struct Record {
    file: File,
    chain: [u8; 32],
}

impl Record {
    /// Makes a record anew, with what is held already; an older one of the name is replaced as a whole.
    pub(super) fn create(
        home: &Arc<Home>,
        name: &str,
        header: &Header,
        held: &[Piece],
    ) -> io::Result<Self> {
        let path = home.path(name);
        let temporary = path.with_extension("new");
        let mut file = File::create(&temporary)?;
        private(&temporary, 0o600)?;
        file.write_all(MAGIC)?;
        let mut record = Self {
            file,
            chain: [0; 32],
        };
        record.write_batch(&serde_json::to_vec(header)?)?;
        record.append(held)?;
        std::fs::rename(&temporary, &path)?;
        home.sync(name)?;
        Ok(record)
    }

    /// Opens a record and returns what it says, its newest word on each part of the image. `None` where there is none that
    /// can be read.
    pub(super) fn open(
        home: &Arc<Home>,
        name: &str,
    ) -> io::Result<Option<(Self, Header, Vec<Piece>)>> {
        let file = match File::options().read(true).write(true).open(home.path(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut reader = BufReader::new(&file);
        let mut magic = [0; 8];
        if reader.read_exact(&mut magic).is_err() || magic != *MAGIC {
            return Ok(None);
        }
        let (mut chain, mut end) = ([0; 32], MAGIC.len() as u64);
        let Some(body) = read_batch(&mut reader, &mut chain, &mut end)? else {
            return Ok(None);
        };
        let Ok(header) = serde_json::from_slice::<Header>(&body) else {
            return Ok(None);
        };
        let mut pieces = Vec::new();
        while let Some(body) = read_batch(&mut reader, &mut chain, &mut end)? {
            let Some(batch) = decode(&body) else {
                return Ok(None);
            };
            pieces.extend(batch);
        }
        drop(reader);
        // A batch that was torn goes, so that the next one follows those that count.
        let mut file = file;
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
        Ok(Some((Self { file, chain }, header, pieces)))
    }

    /// Adds pieces; they are durable once this returns.
    pub(super) fn append(&mut self, pieces: &[Piece]) -> io::Result<()> {
        for batch in pieces.chunks(BODY_BYTES_MAX / PIECE_BYTES_MAX) {
            self.write_batch(&encode(batch))?;
        }
        self.file.sync_all()
    }

    fn write_batch(&mut self, body: &[u8]) -> io::Result<()> {
        let len = u32::try_from(body.len()).map_err(io::Error::other)?;
        self.chain = linked(&self.chain, body);
        let mut batch = Vec::with_capacity(body.len() + 36);
        batch.extend_from_slice(&len.to_le_bytes());
        batch.extend_from_slice(&self.chain);
        batch.extend_from_slice(body);
        self.file.write_all(&batch)
    }
}

fn linked(chain: &[u8; 32], body: &[u8]) -> [u8; 32] {
    hash_mib(&[chain.as_slice(), body].concat())
}

/// Reads a batch; `None` at the end, or where it is not whole. Both are moved on only by one that is.
fn read_batch(
    reader: &mut impl Read,
    chain: &mut [u8; 32],
    end: &mut u64,
) -> io::Result<Option<Vec<u8>>> {
    let mut head = [0; 36];
    if !filled(reader, &mut head)? {
        return Ok(None);
    }
    let (len, hash) = head.split_at(4);
    let len = u32::from_le_bytes([len[0], len[1], len[2], len[3]]);
    let Some(len) = usize::try_from(len)
        .ok()
        .filter(|len| *len <= BODY_BYTES_MAX)
    else {
        return Ok(None);
    };
    let mut body = vec![0; len];
    if !filled(reader, &mut body)? {
        return Ok(None);
    }
    let found = linked(chain, &body);
    if found.as_slice() != hash {
        return Ok(None);
    }
    *chain = found;
    *end += (head.len() + body.len()) as u64;
    Ok(Some(body))
}

fn filled(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn encode(pieces: &[Piece]) -> Vec<u8> {
    let mut body = Vec::with_capacity(pieces.len() * PIECE_BYTES_MAX);
    for piece in pieces {
        body.extend_from_slice(&piece.range.offset.to_le_bytes());
        body.extend_from_slice(&piece.range.len.to_le_bytes());
        match &piece.hash {
            Some(hash) => {
                body.push(1);
                body.extend_from_slice(hash);
            }
            None => body.push(0),
        }
    }
    body
}

/// Reads the pieces of a batch; `None` where it holds anything else.
fn decode(mut body: &[u8]) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    while !body.is_empty() {
        let (offset, rest) = body.split_first_chunk::<8>()?;
        let (len, rest) = rest.split_first_chunk::<8>()?;
        let (kind, rest) = rest.split_first()?;
        let (hash, rest) = match kind {
            0 => (None, rest),
            1 => {
                let (hash, rest) = rest.split_first_chunk::<32>()?;
                (Some(*hash), rest)
            }
            _ => return None,
        };
        pieces.push(Piece {
            range: ByteRange {
                offset: u64::from_le_bytes(*offset),
                len: u64::from_le_bytes(*len),
            },
            hash,
        });
        body = rest;
    }
    Some(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            path: r"C:\a.vhdx".to_owned(),
            root: Some("00ff".to_owned()),
            image_bytes: 10 << 20,
            disk_id: Some(Uuid::from_u128(7)),
        }
    }

    fn piece(mib: u64, hash: Option<u8>) -> Piece {
        Piece {
            range: ByteRange {
                offset: mib << 20,
                len: 1 << 20,
            },
            hash: hash.map(|byte| [byte; 32]),
        }
    }

    const NAME: &str = "jobs/a.pieces";

    #[test]
    fn a_record_holds_what_was_added_and_can_be_added_to() {
        let dir = tempfile::tempdir().unwrap();
        let home = Arc::new(Home::open(dir.path()).unwrap());
        assert!(Record::open(&home, NAME).unwrap().is_none());
        let first = [piece(0, Some(1)), piece(1, None)];
        let mut record = Record::create(&home, NAME, &header(), &first).unwrap();
        record.append(&[piece(2, Some(3))]).unwrap();
        drop(record);
        let (mut record, found, pieces) = Record::open(&home, NAME).unwrap().unwrap();
        assert_eq!(found, header());
        assert_eq!(pieces, [first[0], first[1], piece(2, Some(3))]);
        record.append(&[piece(3, None)]).unwrap();
        let (_, _, pieces) = Record::open(&home, NAME).unwrap().unwrap();
        assert_eq!(pieces.len(), 4);
        Record::create(&home, NAME, &header(), &first[..1]).unwrap();
        let (_, _, pieces) = Record::open(&home, NAME).unwrap().unwrap();
        assert_eq!(pieces, first[..1]);
        // Nothing of the kind is taken for a journal.
        assert!(home.journals().unwrap().is_empty());
    }

    #[test]
    fn a_torn_or_changed_record_counts_up_to_the_damage() {
        let dir = tempfile::tempdir().unwrap();
        let home = Arc::new(Home::open(dir.path()).unwrap());
        let mut record = Record::create(&home, NAME, &header(), &[]).unwrap();
        let mut ends = vec![std::fs::metadata(home.path(NAME)).unwrap().len()];
        for mib in 0..3 {
            record
                .append(&[piece(mib, Some(9)), piece(mib + 4, None)])
                .unwrap();
            ends.push(std::fs::metadata(home.path(NAME)).unwrap().len());
        }
        let whole = std::fs::read(home.path(NAME)).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(home.path(NAME), &whole[..cut]).unwrap();
            let batches = ends.iter().filter(|end| **end <= cut as u64).count();
            match Record::open(&home, NAME).unwrap() {
                None => assert_eq!(batches, 0, "cut at {cut}"),
                Some((_, _, pieces)) => {
                    assert_eq!(pieces.len(), (batches - 1) * 2, "cut at {cut}");
                    let len = std::fs::metadata(home.path(NAME)).unwrap().len();
                    assert_eq!(len, ends[batches - 1]);
                }
            }
            let mut changed = whole.clone();
            changed[cut] ^= 1;
            std::fs::write(home.path(NAME), &changed).unwrap();
            let count = Record::open(&home, NAME)
                .unwrap()
                .map(|(.., found)| found.len());
            assert!(count < Some(6), "byte {cut}");
        }
    }
}

//! Measures each stage on a core and the whole path on all of them: `cargo run --release -p pipeline --example rates [FILE]`.
//!
//! FILE is a raw image to measure with; without one, 512 MiB are made: a third random, a third text-like, a third zero.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measuring tool")]

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use pipeline::{
    BackupLink, BackupSession, FetchedChunk, FileTarget, ImageTarget, Options, PlainFile, Plan,
    RestoreLink, image_digest, restore_image, verify_image,
};
use store::{
    BoxError, ChunkId, Encoder, EntryId, NodeId, PackKeys, PackReader, PackSeal, PackWriter,
    RegionCut, SealedEntry, SealedPack, VaultKeys, hash_mib,
};
use vhdx::MemoryFile;

/// Packs in memory, checked as a server does unless told otherwise.
struct Memory {
    keys: VaultKeys,
    entries: Mutex<HashMap<EntryId, SealedEntry>>,
}

impl BackupLink for Memory {
    fn have(&self, ids: &[ChunkId]) -> Result<Vec<bool>, BoxError> {
        let entries = self.entries.lock().unwrap();
        Ok(ids
            .iter()
            .map(|id| entries.contains_key(&EntryId::Chunk(*id)))
            .collect())
    }

    fn next_seal(&self) -> Result<PackSeal, BoxError> {
        Ok(self.keys.new_seal()?)
    }

    fn put_pack(&self, pack: SealedPack) -> Result<(), BoxError> {
        let reader = PackReader::open(&pack.id, pack.bytes, &self.keys)?;
        let mut entries = self.entries.lock().unwrap();
        for info in &reader.footer().entries {
            entries.insert(info.id, reader.sealed(info.number).unwrap());
        }
        Ok(())
    }

    fn read_nodes(&self, ids: &[NodeId]) -> Result<Vec<Bytes>, BoxError> {
        let entries = self.entries.lock().unwrap();
        let mut decoder = store::Decoder::new();
        ids.iter()
            .map(|id| {
                let entry = entries.get(&EntryId::Node(*id)).ok_or("no such node")?;
                Ok(entry
                    .open(&self.keys, self.keys.session(), &mut decoder)?
                    .plain
                    .into())
            })
            .collect()
    }
}

impl RestoreLink for Memory {
    fn read_nodes(&self, ids: &[NodeId]) -> Result<Vec<Bytes>, BoxError> {
        BackupLink::read_nodes(self, ids)
    }

    fn fetch(&self, ids: &[ChunkId]) -> Result<Vec<FetchedChunk>, BoxError> {
        let entries = self.entries.lock().unwrap();
        ids.iter()
            .map(|id| {
                let entry = entries
                    .get(&EntryId::Chunk(*id))
                    .ok_or("no such chunk")?
                    .clone();
                let key = Arc::new(self.keys.pack_key(entry.generation(), entry.salt())?);
                Ok(FetchedChunk { entry, key })
            })
            .collect()
    }
}

/// Takes bytes and forgets them.
struct Nowhere;

impl ImageTarget for Nowhere {
    fn write(&mut self, _: u64, bytes: &[u8]) -> Result<(), BoxError> {
        black_box(bytes);
        Ok(())
    }
}

fn sample() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512 << 20);
    let mut state = 1u64;
    while bytes.len() < 512 << 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        match bytes.len() / (1 << 20) % 3 {
            0 => bytes.extend_from_slice(&state.to_le_bytes()),
            1 => bytes
                .extend_from_slice(format!("{:04} GET /index.html 200\n", state % 2000).as_bytes()),
            _ => bytes.resize(bytes.len() + 4096, 0),
        }
    }
    bytes.truncate(512 << 20);
    bytes
}

fn time<T>(what: &str, bytes: usize, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let out = work();
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{what:<34} {:>8.2} GB/s  {seconds:>7.3} s",
        f64::from(u32::try_from(bytes >> 10).unwrap()) * 1024.0 / seconds / 1e9
    );
    out
}

fn main() {
    let content = match std::env::args().nth(1) {
        Some(path) => std::fs::read(path).unwrap(),
        None => sample(),
    };
    let len = content.len() / 4096 * 4096;
    let content = &content[..len];
    let keys = VaultKeys::generate(model::VaultId::random()).unwrap();
    let names = keys.session().clone();
    let cutter = names.cutter();

    let mut chunks = Vec::new();
    time("cut, one core", len, || {
        for region in content.chunks(64 << 20) {
            let mut at = 0;
            while let Some(cut) = cutter.next(&region[at..], true) {
                let (RegionCut::Chunk { cells } | RegionCut::Hole { cells }) = cut;
                let end = at + usize::from(cells) * 4096;
                if matches!(cut, RegionCut::Chunk { .. }) {
                    chunks.push(&region[at..end]);
                }
                at = end;
            }
        }
    });
    let data: usize = chunks.iter().map(|chunk| chunk.len()).sum();
    println!(
        "{} chunks of {} KiB on average, {} MiB of data",
        chunks.len(),
        data / chunks.len().max(1) / 1024,
        data >> 20
    );
    time("chunk ids, one core", data, || {
        chunks.iter().for_each(|chunk| {
            black_box(names.chunk_id(chunk));
        });
    });
    time("hash per MiB, one core", len, || {
        content.chunks(1 << 20).for_each(|mib| {
            black_box(hash_mib(mib));
        });
    });
    let mut encoder = Encoder::new();
    let mut stored = 0;
    time("compress, one core", data, || {
        chunks
            .iter()
            .for_each(|chunk| stored += encoder.encode(chunk).bytes.len());
    });
    println!("stored {} MiB", stored >> 20);
    time("seal and hash the pack, one core", data, || {
        let mut writer = PackWriter::new(keys.new_seal().unwrap());
        for chunk in &chunks {
            let encoded = store::Encoded {
                encoding: store::Encoding::Raw,
                plain_len: chunk.len(),
                bytes: chunk,
            };
            writer.add_encoded(ChunkId([0; 32]), encoded).unwrap();
            if writer.is_full() {
                black_box(writer.finish());
                writer = PackWriter::new(keys.new_seal().unwrap());
            }
        }
    });

    let vault = Arc::new(Memory {
        keys,
        entries: Mutex::default(),
    });
    let source = PlainFile::new(MemoryFile::from_bytes(content)).unwrap();
    let session = BackupSession::new(vault.clone(), names.clone(), Options::default());
    let outcome = time("full backup, all cores", len, || {
        let outcome = session.add_image(&source, &Plan::Full).unwrap();
        println!("{:?}", session.finish().unwrap());
        outcome
    });
    println!("{:?}", outcome.figures);
    let session = BackupSession::new(vault.clone(), names.clone(), Options::default());
    time("full backup again, all cores", len, || {
        session.add_image(&source, &Plan::Full).unwrap()
    });
    session.finish().unwrap();
    let options = Options::default();
    time("restore to nowhere, all cores", len, || {
        restore_image(&outcome.image, &names, &*vault, &mut Nowhere, &options).unwrap()
    });
    let mut target = FileTarget::create(MemoryFile::new(), outcome.image.len).unwrap();
    let restored = time("restore, all cores", len, || {
        restore_image(&outcome.image, &names, &*vault, &mut target, &options).unwrap()
    });
    let back = PlainFile::new(target.finish().unwrap()).unwrap();
    time("read back, all cores", len, || {
        verify_image(&restored.pieces, &back, &options).unwrap();
    });
    time("digest, all cores", len, || {
        image_digest(&back, &options).unwrap()
    });
}

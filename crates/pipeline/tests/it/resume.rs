//! Restores that were cut and go on: with what the target still holds, and nothing that it does not.

use std::sync::Arc;

use model::ImageRef;
use pipeline::{
    FileTarget, ImageTarget, Piece, PlainFile, Plan, RestoreError, WrittenPieces, held_pieces,
    image_digest, restore_image, resume_image, verify_image,
};
use store::BoxError;
use vhdx::{BulkWriter, Disk, MemoryFile, Params, ReadAt, Unfinished, WriteAt};

use crate::support::{CELL, Model, Vault, backup, options};

const MIB: u64 = 1 << 20;

/// A target that has a checkpoint after every so many bytes, and dies after some of them.
struct Cut<T> {
    inner: T,
    /// Bytes until the end comes.
    left: u64,
    since: u64,
    record: Vec<Piece>,
    durable: usize,
}

trait Checkpoint: ImageTarget {
    fn checkpoint(&mut self);
}

impl Checkpoint for BulkWriter {
    fn checkpoint(&mut self) {
        BulkWriter::checkpoint(self).unwrap();
    }
}

impl Checkpoint for FileTarget<Arc<MemoryFile>> {
    fn checkpoint(&mut self) {
        FileTarget::checkpoint(self).unwrap();
    }
}

impl<T: Checkpoint> ImageTarget for Cut<T> {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), BoxError> {
        self.left = self
            .left
            .checked_sub(bytes.len() as u64)
            .ok_or("the connection was cut")?;
        self.since += bytes.len() as u64;
        self.inner.write(offset, bytes)
    }

    fn reached(&mut self, pieces: &[Piece]) -> Result<(), BoxError> {
        self.record.extend_from_slice(pieces);
        if self.since >= 8 * MIB {
            self.inner.checkpoint();
            (self.since, self.durable) = (0, self.record.len());
        }
        Ok(())
    }
}

impl<T: Checkpoint> Cut<T> {
    fn new(inner: T, left: u64) -> Self {
        Self {
            inner,
            left,
            since: 0,
            record: Vec::new(),
            durable: 0,
        }
    }

    /// Restores until it is cut; returns what a record says of it.
    fn run(mut self, image: &ImageRef, vault: &Vault) -> WrittenPieces {
        let error = restore_image(image, &vault.names(), vault, &mut self, &options(2));
        assert!(matches!(error.unwrap_err(), RestoreError::Write { .. }));
        self.record.truncate(self.durable);
        WrittenPieces::from_record(image.len, self.record).unwrap()
    }
}

/// A disk with data here and there, in a vault.
fn stored(len: u64) -> (Arc<Vault>, ImageRef, u64) {
    let vault = Arc::new(Vault::new());
    let mut model = Model::new(len);
    model.write(3, 5000, 1);
    model.write(9000, 300, 2);
    model.write(20_000, 7001, 3);
    let image = backup(&vault, &model, &Plan::Full).unwrap().0.image;
    (vault, image, (5000 + 300 + 7001) * CELL as u64)
}

#[test]
fn a_disk_goes_on_where_it_was_cut() {
    let len = 130 * MIB + 512;
    let (vault, image, data) = stored(len);
    let params = Params {
        block_bytes: 1 << 20,
        ..Params::dynamic(len)
    };
    for params in [params.clone(), Params::fixed(len)] {
        for cut in [12 * MIB, 21 * MIB, 40 * MIB] {
            let file = Arc::new(MemoryFile::new());
            let writer = BulkWriter::create(Arc::clone(&file), &params).unwrap();
            let record = Cut::new(writer, cut).run(&image, &vault);
            assert!(record.covered_bytes() > 0);
            let reached = record.missing()[0].offset;
            let found = Unfinished::open(Arc::clone(&file), &params, reached).unwrap();
            let mut held = held_pieces(&record, &found, &options(2)).unwrap();
            assert_eq!(held.keep_front(), reached);
            let mut writer = found.resume(reached).unwrap();
            let outcome = resume_image(
                &image,
                &vault.names(),
                &*vault,
                &mut writer,
                held,
                &options(2),
            )
            .unwrap();
            writer.finish().unwrap();
            // At most what was written behind the checkpoint, the window that was cut included, comes again.
            assert!(outcome.figures.bytes_written <= data - cut + (8 + 4 + 4) * MIB);
            let disk = Disk::open(file).unwrap();
            verify_image(&outcome.pieces, &disk, &options(2)).unwrap();
            let digest = outcome.digest.unwrap();
            assert_eq!(Some(digest.to_string()), image.digest);
            assert_eq!(image_digest(&disk, &options(2)).unwrap(), digest);
        }
    }
}

#[test]
fn a_file_goes_on_with_what_it_still_holds() {
    let len = 130 * MIB + 777;
    let (vault, image, data) = stored(len);
    let file = Arc::new(MemoryFile::new());
    let target = FileTarget::create(Arc::clone(&file), len).unwrap();
    let record = Cut::new(target, 30 * MIB).run(&image, &vault);
    // Someone wrote into data, into a hole, and behind the checkpoint.
    for at in [2 * MIB + 17, 25 * MIB, 100 * MIB] {
        file.write_all_at(b"other bytes", at).unwrap();
    }
    let source = PlainFile::new(Arc::clone(&file)).unwrap();
    let held = held_pieces(&record, &source, &options(2)).unwrap();
    let lost = record.covered_bytes() - held.covered_bytes();
    assert!((2 * MIB..64 * MIB).contains(&lost), "{lost}");
    let mut target = FileTarget::resume(Arc::clone(&file), &held).unwrap();
    let outcome = resume_image(
        &image,
        &vault.names(),
        &*vault,
        &mut target,
        held,
        &options(2),
    )
    .unwrap();
    target.finish().unwrap();
    assert!(outcome.figures.bytes_written <= data - 30 * MIB + (8 + 4 + 4 + 1) * MIB);
    let source = PlainFile::new(Arc::clone(&file)).unwrap();
    verify_image(&outcome.pieces, &source, &options(2)).unwrap();
    assert_eq!(
        image_digest(&source, &options(2)).unwrap().to_string(),
        image.digest.clone().unwrap()
    );
    // All of it is there: nothing is fetched any more.
    let all = held_pieces(&outcome.pieces, &source, &options(2)).unwrap();
    assert_eq!(all.covered_bytes(), len);
    let mut target = FileTarget::resume(Arc::clone(&file), &all).unwrap();
    let again = resume_image(
        &image,
        &vault.names(),
        &*vault,
        &mut target,
        all,
        &options(2),
    );
    let again = again.unwrap();
    assert_eq!(again.figures.chunks, 0);
    assert_eq!(again.digest, outcome.digest);
    // Another length: nothing is known.
    WriteAt::set_len(&*file, len - 1).unwrap();
    assert!(FileTarget::resume(Arc::clone(&file), &again.pieces).is_err());
    let cut = PlainFile::new(Arc::clone(&file)).unwrap();
    let held = held_pieces(&again.pieces, &cut, &options(2)).unwrap();
    assert!(held.covered_bytes() < len);
    assert_eq!(ReadAt::len(&*file).unwrap(), len - 1);
}

#[test]
fn a_record_that_no_restore_makes_is_refused() {
    let piece = |offset, len, hash: Option<u8>| Piece {
        range: model::ByteRange { offset, len },
        hash: hash.map(|byte| [byte; 32]),
    };
    let len = 5 * MIB + 100;
    let good = vec![
        piece(0, MIB, Some(1)),
        piece(MIB, 3 * MIB, None),
        piece(5 * MIB, 100, Some(2)),
    ];
    let record = WrittenPieces::from_record(len, good).unwrap();
    assert_eq!(record.missing().len(), 1);
    assert_eq!(record.missing()[0].offset, 4 * MIB);
    assert!(record.digest().is_none());
    for bad in [
        vec![piece(0, MIB / 2, Some(1))],
        vec![piece(MIB / 2, MIB / 2, Some(1))],
        vec![piece(0, 2 * MIB, Some(1))],
        vec![piece(0, MIB, Some(1)), piece(0, MIB, Some(1))],
        vec![piece(MIB, MIB, None), piece(0, MIB, None)],
        vec![piece(0, 0, None)],
        vec![piece(5 * MIB, MIB, None)],
        vec![piece(MIB, u64::MAX, None)],
    ] {
        assert!(WrittenPieces::from_record(len, bad).is_none());
    }
}

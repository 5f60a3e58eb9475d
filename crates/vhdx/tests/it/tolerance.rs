//! What real files have and must be accepted, and what becomes of it when they are written.

use std::sync::Arc;

use crate::refusals::{
    BAT, Break, HEADERS, ITEMS, Make, TABLES, base, child, copy, headers, poke, poke64, put,
    tables, third_region, unclean,
};
use crate::support::{MIB, pattern, read};
use vhdx::{Disk, DiskWriter, Durability, MemoryFile, ReadAt, Rule, WriteAt, inspect, replay_log};

#[track_caller]
fn tolerates(make: Make, change: Break) -> Disk {
    let file = make();
    change(&file);
    let disk = Disk::open(file).unwrap();
    assert_eq!(read(&disk, 0, 512), pattern(1, 0, 512));
    assert_eq!(read(&disk, 7 * MIB, 512), pattern(3, 0, 512));
    disk
}

#[test]
fn tolerates_what_real_files_have() {
    // One bad header, one bad region table.
    HEADERS.iter().zip(TABLES).for_each(|(header, table)| {
        let file = base();
        poke(&file, *header, b"x");
        poke(&file, table, b"x");
        Disk::open(file).unwrap();
    });
    // Identical headers.
    tolerates(base, |f| copy(f, HEADERS[1], HEADERS[0], 4096));
    // Regions not marked as required.
    tolerates(base, |f| {
        tables(f, |t| [44, 76].iter().for_each(|at| t[*at] = 0));
    });
    // An unknown region; its space is left alone.
    tolerates(base, |f| {
        WriteAt::set_len(f, 20 * MIB).unwrap();
        tables(f, |t| {
            third_region(t, 0);
            put(t, 96, &(12 * MIB).to_le_bytes());
        });
    });
    // Entries of the table behind the last one, and reserved bits of used ones.
    tolerates(base, |f| {
        poke(f, BAT + 8 * 8, &[0xFF; 64]);
        poke64(f, BAT, (4 << 20) | 0xF_FFF8 | 6);
    });
    // A file longer than its content; a last block cut where the disk has ended.
    tolerates(base, |f| WriteAt::set_len(f, 100 * MIB + 17).unwrap());
    tolerates(base, |f| WriteAt::set_len(f, 7 * MIB - 4096).unwrap());
    // A trimmed block that keeps its space reads as zeros.
    let disk = tolerates(base, |f| poke64(f, BAT + 16, (5 << 20) | 3));
    assert_eq!(read(&disk, 2 * MIB, 512), [0; 512]);
}

#[test]
fn the_version_of_an_unused_log_is_not_that_of_the_one_begun() {
    let file = base();
    headers(&file, |header| header[64] = 1);
    let writer = DiskWriter::open(Arc::clone(&file), Vec::new(), Durability::PowerLoss).unwrap();
    writer.write_at(&[7; 512], 4 * MIB).unwrap();
    writer.zero(0, MIB).unwrap();
    writer.flush().unwrap();
    drop(writer);
    assert!(inspect(Arc::clone(&file)).unwrap().unclean);
    let disk = Disk::open(file).unwrap();
    assert_eq!(read(&disk, 4 * MIB, 512), [7; 512]);
}

#[test]
fn a_log_that_no_reader_would_take_is_not_begun() {
    let open = |file: &Arc<MemoryFile>| {
        Disk::open(Arc::clone(file)).unwrap();
        let leaf = Arc::clone(file);
        DiskWriter::open(leaf, Vec::new(), Durability::PowerLoss)
            .unwrap_err()
            .rule()
    };
    let file = base();
    WriteAt::set_len(&file, 1024 * MIB).unwrap();
    headers(&file, |header| {
        put(header, 68, &0x1010_0000_u32.to_le_bytes());
        put(header, 72, &(512 * MIB).to_le_bytes());
    });
    assert_eq!(open(&file), Some(Rule::LogTooLong));

    let file = base();
    WriteAt::set_len(&file, (256 << 40) + MIB).unwrap();
    assert_eq!(open(&file), Some(Rule::LogFileTooLong));
}

#[test]
fn a_damaged_region_table_is_made_anew_by_the_next_change() {
    for at in TABLES {
        let file = base();
        poke(&file, at, &[0xFF; 100]);
        let writer =
            DiskWriter::open(Arc::clone(&file), Vec::new(), Durability::PowerLoss).unwrap();
        writer.write_at(&[1; 512], 4 * MIB).unwrap();
        writer.close().unwrap();
        let mut tables = [vec![0; 64 << 10], vec![0; 64 << 10]];
        for (table, at) in tables.iter_mut().zip(TABLES) {
            file.read_exact_at(table, at).unwrap();
        }
        assert!(tables[0] == tables[1] && &tables[0][..4] == b"regi");
    }
}

#[test]
fn a_trimmed_block_is_written_again_in_its_own_space() {
    let file = base();
    poke64(&file, BAT + 16, (5 << 20) | 3);
    let before = ReadAt::len(&*file).unwrap();
    let writer = DiskWriter::open(Arc::clone(&file), Vec::new(), Durability::PowerLoss).unwrap();
    writer.write_at(&[9; 512], 2 * MIB + 512).unwrap();
    let mut bytes = [1; 1536];
    writer.read_at(&mut bytes, 2 * MIB).unwrap();
    assert_eq!(bytes, *[[0; 512], [9; 512], [0; 512]].concat());
    writer.close().unwrap();
    assert_eq!(ReadAt::len(&*file).unwrap(), before);
}

#[test]
fn unpaired_surrogates_in_paths_are_no_reason_to_refuse() {
    let file = child();
    // In the middle of the relative path.
    let key = ITEMS + 40 + 20 + 12;
    let mut offset = [0; 4];
    file.read_exact_at(&mut offset, key + 4).unwrap();
    poke(
        &file,
        ITEMS + 40 + u64::from(u32::from_le_bytes(offset)) + 4,
        &[0x00, 0xD8],
    );
    assert!(
        inspect(file)
            .unwrap()
            .parent
            .unwrap()
            .relative_path
            .unwrap()
            .contains('\u{FFFD}')
    );
}

#[test]
fn replaying_a_log_makes_a_file_clean_and_changes_nothing_else() {
    let file = unclean();
    let before = inspect(Arc::clone(&file)).unwrap();
    let bytes = read(&Disk::open(Arc::clone(&file)).unwrap(), 0, 4 << 20);
    let after = replay_log(Arc::clone(&file), Durability::PowerLoss).unwrap();
    assert!(before.unclean && !after.unclean);
    assert_eq!(after.data_write_guid, before.data_write_guid);
    assert!(read(&Disk::open(Arc::clone(&file)).unwrap(), 0, bytes.len()) == bytes);
    assert_eq!(replay_log(file, Durability::PowerLoss).unwrap(), after);
}

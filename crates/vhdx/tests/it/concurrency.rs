//! Readers beside a writer.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{MIB, disk_of, link};
use vhdx::{CompactOptions, DiskWriter, Durability, MemoryFile, Params, Vhdx, create_differencing};

#[test]
fn readers_see_old_or_new_bytes_while_another_thread_writes() {
    let params = Params {
        block_bytes: 1 << 20,
        ..Params::dynamic(8 * MIB)
    };
    let (parent, info) = disk_of(&params, &[(0, vec![1; 8 << 20])]);
    let child = Arc::new(MemoryFile::new());
    create_differencing(
        Arc::clone(&child),
        &Params::child_of(&info, link(&info, "parent.vhdx")),
    )
    .unwrap();
    let parents = vec![Vhdx::open(parent).unwrap()];
    let writer = DiskWriter::open(child, parents, Durability::ProcessKill).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..2_u64 {
            let (writer, done) = (&writer, &done);
            scope.spawn(move || {
                let mut bytes = [0; 512];
                let mut number = thread;
                while !done.load(Ordering::Relaxed) {
                    number = number
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    let sector = (number >> 33) % (8 * 2048);
                    writer.read_at(&mut bytes, sector * 512).unwrap();
                    assert!(
                        bytes.iter().all(|byte| *byte == bytes[0] && *byte < 3),
                        "sector {sector} of another block"
                    );
                }
            });
        }
        // Blocks lose their space to one another all the time, and move.
        let block_len = u64::from(writer.info().block_bytes);
        for round in 0..300_u64 {
            let block = round % 8;
            match round % 3 {
                0 => writer.zero(block * MIB, MIB).unwrap(),
                1 => writer
                    .trim(block * MIB / block_len * block_len, block_len)
                    .unwrap(),
                _ => {
                    let options = CompactOptions::default();
                    let mut go_on = |_| ControlFlow::Continue(());
                    writer.compact(options, &mut go_on).unwrap();
                }
            }
            writer.flush().unwrap();
            let other = (block + 3) % 8;
            writer
                .write_at(&[2; 4096], other * MIB + (round % 200) * 4096)
                .unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    writer.close().unwrap();
}

//! The work behind `cargo xtask bench vhdx`: one job per process, so that its processor time and memory can be told from
//! outside. Makes the files it works on, too.
//!
//! Prints one line of `key=value` words: `bytes` of payload moved, `seconds` the job took without starting the process,
//! `peak_kib` the most memory it held (`VmHWM`, where there is a `/proc`).

use std::error::Error;
use std::fs::File;
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use vhdx::{
    BulkWriter, Chain, ConvertOptions, DirectoryResolver, Disk, DiskWriter, Durability, ExtentKind,
    MergedIdentity, Params, ParentLink, ReadAt, Vhdx, WriteAt, convert, create_differencing, merge,
};

type Done = Result<u64, Box<dyn Error>>;

const USAGE: &str = "\
figures raw FILE BYTES                       make a raw image full of data
figures write RAW FILE BLOCK                 lay RAW out as a dynamic VHDX
figures read FILE                            read a disk from end to end
figures export FILE RAW                      write a disk out as a raw image
figures random FILE COUNT BYTES STEP THREADS read BYTES at COUNT places STEP apart, wrapping around
figures empty FILE BYTES                     make an empty dynamic disk
figures child PARENT FILE RUN GAP            make a child with RUN bytes written, GAP bytes not, and so on
figures merge CHILD PARENT                   merge
figures convert FOLDER LEAF FILE             copy a disk and its parents, if it has any, into one new dynamic disk
figures full-table FILE BYTES BLOCK          make a disk whose table is full, with no data; smaller where it does not fit
figures open FILE                            open a disk and read its last sector";

/// Bytes moved at a time, as `cp` does: larger pieces took more processor time where it was measured.
const BUFFER_BYTES: usize = 128 << 10;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let begun = Instant::now();
    let bytes = match words.as_slice() {
        ["raw", file, bytes] => raw(file, bytes.parse()?),
        ["write", raw, file, block] => write(raw, file, block.parse()?),
        ["read", file] => read(file),
        ["export", file, raw] => export(file, raw),
        ["random", file, count, bytes, step, threads] => random(
            file,
            count.parse()?,
            bytes.parse()?,
            step.parse()?,
            threads.parse()?,
        ),
        ["empty", file, bytes] => empty(file, bytes.parse()?),
        ["child", parent, file, run, gap] => child(parent, file, run.parse()?, gap.parse()?),
        ["merge", child, parent] => merge_files(child, parent),
        ["convert", folder, leaf, file] => convert_chain(folder, leaf, file),
        ["full-table", file, bytes, block] => full_table(file, bytes.parse()?, block.parse()?),
        ["open", file] => open(file),
        _ => Err(USAGE.into()),
    }?;
    let seconds = begun.elapsed().as_secs_f64();
    let peak = peak_kib().unwrap_or(0);
    writeln!(
        std::io::stdout(),
        "bytes={bytes} seconds={seconds:.6} peak_kib={peak}"
    )?;
    Ok(())
}

/// Returns the most memory this process held, in KiB.
fn peak_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn create(path: &str) -> std::io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
}

fn change(path: &str) -> std::io::Result<File> {
    File::options().read(true).write(true).open(path)
}

/// Fills a buffer with bytes that no one can compress, different for each `seed`.
fn noise(buffer: &mut [u8], seed: u64) {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for word in buffer.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
}

fn raw(path: &str, bytes: u64) -> Done {
    let mut file = create(path)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut done = 0;
    while done < bytes {
        noise(&mut buffer, done + 1);
        file.write_all(&buffer)?;
        done += buffer.len() as u64;
    }
    Ok(done)
}

fn write(raw: &str, path: &str, block_bytes: u32) -> Done {
    let mut source = File::open(raw)?;
    let size = ReadAt::len(&source)?;
    let params = Params {
        block_bytes,
        ..Params::dynamic(size)
    };
    let mut writer = BulkWriter::create(create(path)?, &params)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut at = 0;
    loop {
        let len = source.read(&mut buffer)?;
        if len == 0 {
            break;
        }
        writer.write(at, &buffer[..len])?;
        at += len as u64;
    }
    writer.finish()?;
    Ok(at)
}

/// Calls `each` with every piece of data of a disk, in order.
fn for_each_piece(disk: &Disk, mut each: impl FnMut(&[u8], u64) -> std::io::Result<()>) -> Done {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut bytes = 0;
    for extent in disk.extents(0, disk.size()) {
        let extent = extent?;
        if extent.kind == ExtentKind::Zero {
            continue;
        }
        let (mut at, end) = (extent.offset, extent.offset + extent.len);
        while at < end {
            let len = (end - at).min(BUFFER_BYTES as u64);
            let part = &mut buffer[..usize::try_from(len)?];
            disk.read_at(part, at)?;
            each(part, at)?;
            at += len;
            bytes += len;
        }
    }
    Ok(bytes)
}

fn read(path: &str) -> Done {
    for_each_piece(&Disk::open(File::open(path)?)?, |_, _| Ok(()))
}

fn export(path: &str, raw: &str) -> Done {
    let disk = Disk::open(File::open(path)?)?;
    let target = create(raw)?;
    target.set_len(disk.size())?;
    for_each_piece(&disk, |part, at| target.write_all_at(part, at))
}

fn random(path: &str, count: u64, bytes: usize, step: u64, threads: u64) -> Done {
    let disk = Disk::open(File::open(path)?)?;
    let threads = threads.max(1);
    // Each thread takes every so many-th place of the one sequence.
    let read = |first: u64| -> Result<u64, vhdx::Error> {
        let mut buffer = vec![0; bytes];
        let mut read = 0;
        let mut number = first;
        while number < count {
            let at = number.wrapping_mul(step) % disk.size();
            disk.read_at(&mut buffer, at)?;
            read += bytes as u64;
            number += threads;
        }
        Ok(read)
    };
    if threads == 1 {
        return Ok(read(0)?);
    }
    let sums: Result<Vec<u64>, vhdx::Error> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|first| scope.spawn(move || read(first)))
            .collect();
        running
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    });
    Ok(sums?.into_iter().sum())
}

fn empty(path: &str, bytes: u64) -> Done {
    BulkWriter::create(create(path)?, &Params::dynamic(bytes))?.finish()?;
    Ok(bytes)
}

fn child(parent_path: &str, path: &str, run: u64, gap: u64) -> Done {
    let parent = Vhdx::open(File::open(parent_path)?)?;
    let info = parent.info();
    let name = Path::new(parent_path).file_name();
    let name = name.and_then(|name| name.to_str()).ok_or("a file name")?;
    let link = ParentLink {
        data_write_guid: info.data_write_guid,
        relative_path: Some(format!(r".\{name}")),
        volume_path: None,
        absolute_path: None,
    };
    create_differencing(create(path)?, &Params::child_of(info, link))?;
    let size = info.size;
    let writer = DiskWriter::open(change(path)?, vec![parent], Durability::ProcessKill)?;
    let mut buffer = vec![0; usize::try_from(run.min(BUFFER_BYTES as u64))?];
    let (mut at, mut bytes) = (0, 0);
    while at < size {
        let end = size.min(at + run);
        while at < end {
            let len = (end - at).min(buffer.len() as u64);
            let part = &mut buffer[..usize::try_from(len)?];
            noise(part, !at);
            writer.write_at(part, at)?;
            at += len;
            bytes += len;
        }
        at += gap;
    }
    writer.close()?;
    Ok(bytes)
}

fn merge_files(child: &str, parent: &str) -> Done {
    let held = ReadAt::len(&File::open(child)?)?;
    merge(
        change(child)?,
        change(parent)?,
        MergedIdentity::New,
        Durability::PowerLoss,
        &mut |_| ControlFlow::Continue(()),
    )?;
    Ok(held)
}

fn convert_chain(folder: &str, leaf: &str, path: &str) -> Done {
    let file = File::open(Path::new(folder).join(leaf))?;
    let source = Chain::open(file, leaf, &DirectoryResolver::new(folder))?.into_disk();
    let params = Params::dynamic(source.size());
    convert(
        &source,
        create(path)?,
        &params,
        ConvertOptions::default(),
        &mut |_| ControlFlow::Continue(()),
    )?;
    Ok(source.size())
}

fn full_table(path: &str, bytes: u64, block_bytes: u32) -> Done {
    let mut size = bytes;
    loop {
        // A fixed disk has a place for every block from the start.
        let params = Params {
            block_bytes,
            ..Params::fixed(size)
        };
        let made = BulkWriter::create(create(path)?, &params).and_then(BulkWriter::finish);
        match made {
            Ok(_) => return Ok(size),
            // The file system has no files as long.
            Err(vhdx::Error::Write { .. }) if size > u64::from(block_bytes) => size /= 2,
            Err(error) => return Err(error.into()),
        }
    }
}

fn open(path: &str) -> Done {
    let disk = Disk::open(File::open(path)?)?;
    let mut sector = [1; 4096];
    disk.read_at(&mut sector, disk.size() - 4096)?;
    Ok(disk.size())
}

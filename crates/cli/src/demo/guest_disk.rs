//! Disks of the demo's guests: a GPT with one FAT partition full of files, first as a raw image, then as a VHDX.
//!
//! The raw image stays beside the simulated host as what the guest believes its disk to hold: a second truth to
//! compare with, made by other code.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, anyhow, ensure};
use blake3::Hash;
use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions, ReadWriteSeek};
use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use vhdx::{BulkWriter, FileInfo, Params, ReadAt};

use super::files::GuestFile;
use super::window::{Window, Written};

/// Bytes of a sector.
const SECTOR: u64 = 512;
/// How much of an image is looked at at once for bytes that are not zero: the smallest block of a VHDX.
const PIECE_BYTES: usize = 1 << 20;
/// Below this a FAT32 has too few clusters of 4 KiB.
const FAT32_FROM_BYTES: u64 = 320 << 20;

/// Files by path, with the hash of their content.
pub(crate) type Files = BTreeMap<String, Hash>;

/// Makes a raw image of `size` bytes: partition table, file system, files.
pub(crate) fn make_image(
    path: &Path,
    size: u64,
    label: &str,
    files: &[GuestFile],
) -> anyhow::Result<()> {
    let mut image = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .with_context(|| format!("make {}", path.display()))?;
    image
        .set_len(size)
        .context("set the length of a disk image")?;
    let sectors = u32::try_from(size / SECTOR - 1).unwrap_or(u32::MAX);
    ProtectiveMBR::with_lb_size(sectors)
        .overwrite_lba0(&mut image)
        .context("write the protective MBR")?;
    let mut table = GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512)
        .create_from_device(image, None)
        .context("make a partition table")?;
    // One MiB at either end, as installers leave it.
    table
        .add_partition(
            label,
            size - (3 << 20),
            gpt::partition_types::BASIC,
            0,
            Some((1 << 20) / SECTOR),
        )
        .context("add a partition")?;
    let mut image = table.write().context("write the partition table")?;
    let mut options = FormatVolumeOptions::new().volume_label(padded(label));
    if size >= FAT32_FROM_BYTES {
        options = options.fat_type(FatType::Fat32).bytes_per_cluster(4096);
    }
    let (start, len) = partition(&mut image)?;
    let mut window = Window::new(&mut image, start, len, Written::default());
    fatfs::format_volume(&mut window, options).context("make a file system")?;
    change(&mut image, |root| write_files(root, files))?;
    image.sync_all().context("write a disk image")
}

/// Adds, changes and removes files of an image as a guest would. Returns the ranges of the disk it wrote, in order.
pub(crate) fn change_image(
    path: &Path,
    added: &[GuestFile],
    changed: &[GuestFile],
    removed: &[GuestFile],
) -> anyhow::Result<Vec<Range<u64>>> {
    let mut image = File::options()
        .read(true)
        .write(true)
        .open(path)
        .with_context(|| format!("open {}", path.display()))?;
    change(&mut image, |root| {
        for file in removed {
            root.remove(&file.path)
                .with_context(|| format!("remove {}", file.path))?;
        }
        for file in changed {
            // In place: the clusters stay where they are.
            let mut target = root
                .open_file(&file.path)
                .with_context(|| format!("open {}", file.path))?;
            target
                .write_all(&file.content())
                .with_context(|| format!("change {}", file.path))?;
        }
        write_files(root, added)
    })
}

/// Reads every file of the file system on a disk.
pub(crate) fn read_files<D: Read + Write + Seek + std::fmt::Debug>(
    mut device: D,
) -> anyhow::Result<Files> {
    let (start, len) = partition(&mut device)?;
    let window = Window::new(device, start, len, Written::default());
    let system = FileSystem::new(window, FsOptions::new()).context("open the file system")?;
    let mut found = Files::new();
    let mut open = vec![(String::new(), system.root_dir())];
    while let Some((path, folder)) = open.pop() {
        for entry in folder.iter() {
            let entry = entry.with_context(|| format!("read the folder {path:?}"))?;
            let name = entry.file_name();
            if name == "." || name == ".." {
                continue;
            }
            let path = if path.is_empty() {
                name
            } else {
                format!("{path}/{name}")
            };
            if entry.is_dir() {
                open.push((path, entry.to_dir()));
                continue;
            }
            let mut hasher = blake3::Hasher::new();
            hasher
                .update_reader(entry.to_file())
                .with_context(|| format!("read {path}"))?;
            found.insert(path, hasher.finalize());
        }
    }
    Ok(found)
}

/// Turns a raw image into a dynamic VHDX.
pub(crate) fn to_vhdx(image: &Path, vhdx: &Path) -> anyhow::Result<FileInfo> {
    let source = File::open(image).with_context(|| format!("open {}", image.display()))?;
    let size = ReadAt::len(&source).context("read the length of a disk image")?;
    let target = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(vhdx)
        .with_context(|| format!("make {}", vhdx.display()))?;
    let mut writer = BulkWriter::create(target, &Params::dynamic(size))?;
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = 0;
    while at < size {
        let len = usize::try_from(size - at).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        source
            .read_exact_at(&mut piece[..len], at)
            .context("read a disk image")?;
        if piece[..len].iter().any(|byte| *byte != 0) {
            writer.write(at, &piece[..len])?;
        }
        at += u64::try_from(len).unwrap_or(0);
    }
    Ok(writer.finish()?)
}

/// Returns where the first partition lies, in bytes.
fn partition<D: Read + Write + Seek + std::fmt::Debug>(
    device: &mut D,
) -> anyhow::Result<(u64, u64)> {
    let table = GptConfig::new()
        .writable(false)
        .logical_block_size(LogicalBlockSize::Lb512)
        .only_valid_headers(true)
        .open_from_device(device)
        .context("read the partition table")?;
    let part = table
        .partitions()
        .values()
        .find(|part| part.is_used())
        .ok_or_else(|| anyhow!("the disk has no partition"))?;
    let start = part
        .bytes_start(LogicalBlockSize::Lb512)
        .context("read the partition table")?;
    let len = part
        .bytes_len(LogicalBlockSize::Lb512)
        .context("read the partition table")?;
    Ok((start, len))
}

/// Mounts the file system of an image, lets `work` change it, and returns the ranges of the disk that were written.
fn change(
    image: &mut File,
    work: impl FnOnce(&fatfs::Dir<'_, Window<&mut File>>) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Range<u64>>> {
    let (start, len) = partition(image)?;
    let written = Written::default();
    let window = Window::new(image, start, len, Written::clone(&written));
    let system = FileSystem::new(window, FsOptions::new()).context("open the file system")?;
    work(&system.root_dir())?;
    system.unmount().context("close the file system")?;
    let ranges = std::mem::take(&mut *written.lock().map_err(|_| anyhow!("a write panicked"))?);
    Ok(joined(ranges))
}

fn write_files<D: ReadWriteSeek>(
    root: &fatfs::Dir<'_, D>,
    files: &[GuestFile],
) -> anyhow::Result<()> {
    for file in files {
        let mut folder = String::new();
        let mut parts = file.path.split('/').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                break;
            }
            folder.push_str(part);
            root.create_dir(&folder)
                .with_context(|| format!("make the folder {folder}"))?;
            folder.push('/');
        }
        let mut target = root
            .create_file(&file.path)
            .with_context(|| format!("make {}", file.path))?;
        target
            .write_all(&file.content())
            .with_context(|| format!("write {}", file.path))?;
    }
    Ok(())
}

/// Widens ranges to whole sectors, sorts them, and joins those that touch.
fn joined(ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let mut sorted: Vec<Range<u64>> = ranges
        .into_iter()
        .map(|range| range.start - range.start % SECTOR..range.end.next_multiple_of(SECTOR))
        .collect();
    sorted.sort_unstable_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in sorted {
        match joined.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            Some(_) | None => joined.push(range),
        }
    }
    joined
}

fn padded(label: &str) -> [u8; 11] {
    let mut padded = [b' '; 11];
    for (to, from) in padded.iter_mut().zip(label.bytes()) {
        *to = from.to_ascii_uppercase();
    }
    padded
}

/// Returns the files an image should hold.
pub(crate) fn expected(files: &[GuestFile]) -> Files {
    files
        .iter()
        .map(|file| (file.path.clone(), blake3::hash(&file.content())))
        .collect()
}

/// Compares the files found on a disk with those that should be there.
pub(crate) fn same_files(found: &Files, expected: &Files) -> anyhow::Result<()> {
    for (path, hash) in expected {
        match found.get(path) {
            None => return Err(anyhow!("the file {path} is missing")),
            Some(other) => ensure!(other == hash, "the file {path} has another content"),
        }
    }
    ensure!(
        found.len() == expected.len(),
        "there are {} files, {} were expected",
        found.len(),
        expected.len()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::files;
    use super::*;

    #[test]
    fn files_written_are_files_read_and_changes_are_all_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        let all = files::own(7);
        let files = &all[..40];
        make_image(&path, FAT32_FROM_BYTES, "system", files).unwrap();
        let before = std::fs::read(&path).unwrap();
        same_files(
            &read_files(File::options().read(true).write(true).open(&path).unwrap()).unwrap(),
            &expected(files),
        )
        .unwrap();

        let later = files::later(7);
        let mut changed = files[3].clone();
        changed.seed += 1;
        let ranges = change_image(&path, &later, &[changed.clone()], &files[10..12]).unwrap();

        let after = std::fs::read(&path).unwrap();
        let mut patched = before;
        for range in &ranges {
            let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
            patched[range.clone()].copy_from_slice(&after[range]);
        }
        assert!(patched == after, "a write was not named");
        let mut now: Vec<GuestFile> = files.to_vec();
        now[3] = changed;
        now.drain(10..12);
        now.extend(later);
        same_files(
            &read_files(File::open(&path).unwrap()).unwrap(),
            &expected(&now),
        )
        .unwrap();
    }

    #[test]
    fn a_missing_or_changed_file_is_named() {
        let files = files::own(1);
        let expected = expected(&files[..3]);
        let mut found = expected.clone();
        found.insert(files[0].path.clone(), blake3::hash(b"other"));
        assert!(
            same_files(&found, &expected)
                .unwrap_err()
                .to_string()
                .contains(&files[0].path)
        );
        found.remove(&files[0].path);
        assert!(
            same_files(&found, &expected)
                .unwrap_err()
                .to_string()
                .contains("missing")
        );
    }

    #[test]
    fn ranges_are_joined_into_sectors() {
        assert_eq!(
            joined(vec![1000..1100, 512..600, 4096..4097, 600..700]),
            [512..1536, 4096..4608]
        );
    }
}

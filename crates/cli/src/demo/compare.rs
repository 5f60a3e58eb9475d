//! What the host had at backup time, and whether what came back is the same.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, anyhow};
use blake3::Hash;
use serde_json::{Value, json};

use super::guest_disk;
use super::guests::Guest;
use super::report::Report;
use super::site::Site;
use super::window::DiskReader;
use crate::view::bytes;

/// The content of every disk at one moment.
#[derive(Debug, Default)]
pub(crate) struct Moment {
    /// By VM and VirtualDiskId: hash of the virtual content, and its length.
    disks: BTreeMap<(String, String), (Hash, u64)>,
}

impl Moment {
    /// Adds the disks of a VM as its guest sees them now. Nothing may write meanwhile.
    pub(crate) async fn add(&mut self, site: &Site, vm: &str) -> anyhow::Result<()> {
        for disk in site.vm(vm).await?.disks {
            let hash = site.hash_disk(vm, &disk).await?;
            self.disks.insert(
                (vm.to_owned(), normal(&disk.disk_id)),
                (hash, disk.size_bytes),
            );
        }
        Ok(())
    }

    /// Compares a content with the one of this moment; says how they differ, where they do.
    pub(crate) fn difference(&self, vm: &str, disk_id: &str, found: Hash) -> Option<String> {
        match self.disks.get(&(vm.to_owned(), normal(disk_id))) {
            None => Some(format!("{vm} had no disk {disk_id}")),
            Some((expected, _)) if *expected == found => None,
            Some((expected, _)) => Some(format!(
                "BLAKE3 is {}, it was {}",
                found.to_hex(),
                expected.to_hex()
            )),
        }
    }

    /// Says how much was read.
    pub(crate) fn summary(&self) -> String {
        let total: u64 = self.disks.values().map(|(_, len)| len).sum();
        format!(
            "{} disks, {} of virtual content",
            self.disks.len(),
            bytes(total)
        )
    }

    /// Returns the hashes.
    pub(crate) fn json(&self) -> Value {
        let disks = self.disks.iter().map(|((vm, disk), (hash, len))| {
            json!({ "vm": vm, "disk": disk, "size_bytes": len, "blake3": hash.to_hex().as_str() })
        });
        Value::Array(disks.collect())
    }

    fn count(&self, vm: &str) -> usize {
        self.disks.keys().filter(|(name, _)| name == vm).count()
    }
}

/// Compares every disk of a restored VM with those of `original` at a moment.
pub(crate) async fn vm(
    report: &mut Report,
    site: &Site,
    original: &str,
    restored: &str,
    expected: &Moment,
) -> anyhow::Result<()> {
    let disks = site.vm(restored).await?.disks;
    let (is, was) = (disks.len(), expected.count(original));
    report.compared(
        &format!("number of disks of {restored}"),
        (is != was).then(|| format!("it has {is}, it had {was}")),
    );
    for disk in disks {
        let hash = site.hash_disk(restored, &disk).await?;
        report.compared(
            &format!("{} of {restored}", disk.path),
            expected.difference(original, &disk.disk_id, hash),
        );
    }
    Ok(())
}

/// Opens the file system on a guest's restored first disk and compares all files. Returns how many there are.
pub(crate) async fn files(
    report: &mut Report,
    site: &Site,
    guest: &Guest,
) -> anyhow::Result<usize> {
    let disk = guest
        .disks
        .first()
        .ok_or_else(|| anyhow!("{} has no disk", guest.name))?;
    let local = site.local(&disk.path).await?;
    let files = disk.files.clone();
    let compared = tokio::task::spawn_blocking(move || -> anyhow::Result<Option<String>> {
        let found = guest_disk::read_files(DiskReader::new(open(&local)?));
        let same =
            found.and_then(|found| guest_disk::same_files(&found, &guest_disk::expected(&files)));
        Ok(same.err().map(|error| format!("{error:#}")))
    });
    report.compared(
        &format!("files on {}", disk.path),
        compared.await.context("read files")??,
    );
    Ok(disk.files.len())
}

/// Hashes the virtual content of a VHDX file.
pub(crate) fn hash_vhdx(path: &Path) -> anyhow::Result<Hash> {
    let mut hasher = blake3::Hasher::new();
    let reader = std::io::BufReader::with_capacity(1 << 20, DiskReader::new(open(path)?));
    hasher
        .update_reader(reader)
        .with_context(|| format!("read {}", path.display()))?;
    Ok(hasher.finalize())
}

/// Hashes a file.
pub(crate) fn hash_file(path: &Path) -> anyhow::Result<Hash> {
    let mut hasher = blake3::Hasher::new();
    let file = std::fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
    hasher
        .update_reader(file)
        .with_context(|| format!("read {}", path.display()))?;
    Ok(hasher.finalize())
}

fn open(path: &Path) -> anyhow::Result<vhdx::Disk> {
    Ok(crate::commands::vhdx::chain(path)?.into_disk())
}

fn normal(disk_id: &str) -> String {
    disk_id.trim_matches(['{', '}']).to_ascii_lowercase()
}

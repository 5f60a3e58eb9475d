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
    /// By VM, in the order of attachment.
    vms: BTreeMap<String, Vec<Content>>,
}

/// The content of a disk.
#[derive(Debug)]
struct Content {
    disk_id: String,
    size_bytes: u64,
    hash: Hash,
}

impl Moment {
    /// Adds the disks of a VM as its guest sees them now. Nothing may write meanwhile.
    pub(crate) async fn add(&mut self, site: &Site, vm: &str) -> anyhow::Result<()> {
        let mut contents = Vec::new();
        for disk in site.vm(vm).await?.disks {
            contents.push(Content {
                hash: site.hash_disk(vm, &disk).await?,
                disk_id: normal(&disk.disk_id),
                size_bytes: disk.size_bytes,
            });
        }
        self.vms.insert(vm.to_owned(), contents);
        Ok(())
    }

    /// Compares a content with that of a disk at this moment; says how they differ, where they do.
    pub(crate) fn difference(&self, vm: &str, disk_id: &str, found: Hash) -> Option<String> {
        let disk_id = normal(disk_id);
        let content = self
            .of(vm)
            .iter()
            .find(|content| content.disk_id == disk_id);
        difference(content, found)
    }

    /// Says how much was read.
    pub(crate) fn summary(&self) -> String {
        let disks = self.vms.values().flatten();
        let total: u64 = disks.clone().map(|content| content.size_bytes).sum();
        format!(
            "{} disks, {} of virtual content",
            disks.count(),
            bytes(total)
        )
    }

    /// Returns the hashes.
    pub(crate) fn json(&self) -> Value {
        let contents = self
            .vms
            .iter()
            .flat_map(|(vm, disks)| disks.iter().map(move |disk| (vm, disk)));
        let disks = contents.map(|(vm, content)| {
            json!({
                "vm": vm,
                "disk": content.disk_id,
                "size_bytes": content.size_bytes,
                "blake3": content.hash.to_hex().as_str(),
            })
        });
        Value::Array(disks.collect())
    }

    fn of(&self, vm: &str) -> &[Content] {
        self.vms.get(vm).map_or(&[], Vec::as_slice)
    }
}

fn difference(expected: Option<&Content>, found: Hash) -> Option<String> {
    match expected {
        None => Some("there was no such disk".to_owned()),
        Some(content) if content.hash == found => None,
        Some(content) => Some(format!(
            "BLAKE3 is {}, it was {}",
            found.to_hex(),
            content.hash.to_hex()
        )),
    }
}

/// Compares every disk of a restored VM with those of `original` at a moment, in the order of attachment: a copy's disks
/// have ids of their own.
pub(crate) async fn vm(
    report: &mut Report,
    site: &Site,
    original: &str,
    restored: &str,
    expected: &Moment,
) -> anyhow::Result<()> {
    let disks = site.vm(restored).await?.disks;
    let contents = expected.of(original);
    let (is, was) = (disks.len(), contents.len());
    report.compared(
        &format!("number of disks of {restored}"),
        (is != was).then(|| format!("it has {is}, it had {was}")),
    );
    for (number, disk) in disks.into_iter().enumerate() {
        let hash = site.hash_disk(restored, &disk).await?;
        report.compared(
            &format!("{} of {restored}", disk.path),
            difference(contents.get(number), hash),
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

//! Disks that a point holds as files: whether their chains can be read as disks, out of the vault.
//!
//! The bytes of the files were compared before. Here each chain is opened as a restore would open it: headers, logs
//! replayed in memory, links between the files, and where every block lies. Block content is not read a second time.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use model::{ByteRange, DiskChain, MIB, RecoveryPoint};
use store::{Tree, TreeRoot};
use tokio::runtime::Handle;
use vhdx::{Chain, DiskFile, ReadAt};

use super::fill;
use crate::http::{ApiError, ApiResult};
use crate::vault::{ReadError, Vault, VaultNodes, read_root};

/// Bytes of a file that are read together.
const WINDOW_BYTES: u64 = MIB;
/// Windows of a file that are kept; chains have up to 256 files.
const WINDOWS: usize = 4;

/// What is wrong with the first chain that cannot be read; `None` where all can.
pub(super) fn check_chains(
    vault: &Arc<Vault>,
    runtime: &Handle,
    point: &RecoveryPoint,
) -> ApiResult<Option<String>> {
    for chain in &point.chains {
        let failure = Arc::new(Mutex::new(None));
        if let Err(what) = check_chain(vault, runtime, point, chain, &failure) {
            let failure = failure
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            return match failure {
                // The vault could not be read: that says nothing about the point.
                Some(err) => Err(err),
                None => Ok(Some(format!("disk {}: {what}", chain.base_path))),
            };
        }
    }
    Ok(None)
}

fn check_chain(
    vault: &Arc<Vault>,
    runtime: &Handle,
    point: &RecoveryPoint,
    chain: &DiskChain,
    failure: &Arc<Mutex<Option<ApiError>>>,
) -> Result<(), String> {
    let mut layers = Vec::new();
    for path in &chain.files {
        let stored = point
            .file(path)
            .ok_or_else(|| format!("the point does not hold {path}"))?;
        let file = ImageFile {
            nodes: VaultNodes::new(vault, runtime.clone()),
            root: read_root(&stored.image).map_err(|err| format!("{path}: {err}"))?,
            windows: Mutex::default(),
            failure: Arc::clone(failure),
        };
        let layer = DiskFile::open(file).map_err(|err| format!("{path}: {}", text(&err)))?;
        layers.push(layer);
    }
    let disk = Chain::from_layers(layers)
        .map_err(|err| text(&err))?
        .into_disk();
    if disk.size() != chain.size_bytes {
        return Err(format!(
            "its files make a disk of {} bytes, not of {}",
            disk.size(),
            chain.size_bytes
        ));
    }
    // Finds the place of every block.
    disk.allocated_bytes().map_err(|err| text(&err))?;
    Ok(())
}

/// An error with its causes.
fn text(err: &vhdx::Error) -> String {
    let mut text = err.to_string();
    let mut source = std::error::Error::source(err);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// A file image as a file. Read on a blocking thread only.
struct ImageFile {
    nodes: VaultNodes,
    root: TreeRoot,
    /// What was read last, newest at the end.
    windows: Mutex<Vec<(u64, Arc<Vec<u8>>)>>,
    /// Why the vault could not be read.
    failure: Arc<Mutex<Option<ApiError>>>,
}

impl ImageFile {
    fn window(&self, number: u64) -> io::Result<Arc<Vec<u8>>> {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = windows.iter().position(|(known, _)| *known == number) {
            let found = windows.remove(place);
            let bytes = Arc::clone(&found.1);
            windows.push(found);
            return Ok(bytes);
        }
        let bytes = self.read(number).map_err(|err| match err {
            ReadError::Missing(id) => io::Error::other(format!("{id} is missing or damaged")),
            ReadError::Failed(err) => {
                let text = err.to_string();
                if err.problem().code() != api::codes::DAMAGED {
                    *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(err);
                }
                io::Error::other(text)
            }
        })?;
        let bytes = Arc::new(bytes);
        if windows.len() == WINDOWS {
            windows.remove(0);
        }
        windows.push((number, Arc::clone(&bytes)));
        Ok(bytes)
    }

    fn read(&self, number: u64) -> Result<Vec<u8>, ReadError> {
        let offset = number * WINDOW_BYTES;
        let len = WINDOW_BYTES.min(self.root.len.saturating_sub(offset));
        let names = self.nodes.vault().keys().session().clone();
        let tree = Tree::new(self.root, &self.nodes, &names);
        let resolved = tree
            .resolve(ByteRange { offset, len })
            .map_err(|err| self.nodes.explain(err))?;
        let mut runs = Vec::new();
        for run in resolved {
            runs.push(run.map_err(|err| self.nodes.explain(err))?);
        }
        fill(&self.nodes, &runs, offset, len)
    }
}

impl ReadAt for ImageFile {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.root.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let window = self.window(at / WINDOW_BYTES)?;
            let within = usize::try_from(at % WINDOW_BYTES).map_err(io::Error::other)?;
            let rest = window
                .get(within..)
                .filter(|rest| !rest.is_empty())
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            let len = rest.len().min(buf.len() - done);
            buf[done..done + len].copy_from_slice(&rest[..len]);
            done += len;
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.root.len)
    }
}

//! From a source to packs.
//!
//! A [`BackupSession`] fills packs with the chunks of all images of a job; each image is read region by region, a region
//! (or a group of changed ones) by one thread from reading to sealing, so threads share nothing but the open pack.
//!
//! Memory: per thread 4 MiB of image and as much compressed; per session an open pack of 32 MiB, one of nodes of 8 MiB and
//! [`packer::UPLOADS_AHEAD`] packs on their way.

mod image;
mod packer;
mod worker;

use std::sync::Arc;

use model::{ChangedRanges, ImageRef};
use store::SessionKeys;

use crate::{BackupError, BackupLink, ImageSource, Options};
use packer::Packer;
pub(crate) use packer::lock;

/// How an image is read.
#[derive(Clone, Debug)]
pub enum Plan {
    /// Whole.
    Full,
    /// Only what has changed since a base image, which the session has pinned.
    Changed {
        /// What may differ from the base.
        ranges: ChangedRanges,
        /// The base.
        base: ImageRef,
    },
}

/// What an image cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageFigures {
    /// Bytes read from the source.
    pub bytes_read: u64,
    /// Plain bytes of chunks the vault did not have.
    pub bytes_new: u64,
    /// Plain bytes of chunks the vault had.
    pub bytes_reused: u64,
    /// Bytes of the new chunks as they are stored.
    pub bytes_stored: u64,
    /// Chunks looked up.
    pub chunks: u64,
    /// Chunks the vault did not have.
    pub chunks_new: u64,
    /// Tree nodes made.
    pub nodes: u64,
}

/// An image that was stored, once its session has finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageOutcome {
    /// What a recovery point says of it.
    pub image: ImageRef,
    /// What it cost.
    pub figures: ImageFigures,
}

/// What a session sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionFigures {
    /// Packs put.
    pub packs: u64,
    /// Their bytes.
    pub bytes_sent: u64,
}

/// The images of one job on their way into shared packs.
///
/// Nothing may be published before [`BackupSession::finish`] has returned. Dropped before, it leaves packs in the vault
/// that nothing refers to.
pub struct BackupSession {
    packer: Packer,
    names: SessionKeys,
    options: Options,
}

impl BackupSession {
    /// Starts a session; the threads that upload start with it.
    #[must_use]
    pub fn new(link: Arc<dyn BackupLink>, names: SessionKeys, options: Options) -> Self {
        Self {
            packer: Packer::new(link),
            names,
            options,
        }
    }

    /// Reads an image and stores what the vault lacks of it. Its packs may be on their way still when this returns.
    pub fn add_image(
        &self,
        source: &dyn ImageSource,
        plan: &Plan,
    ) -> Result<ImageOutcome, BackupError> {
        match plan {
            Plan::Full => image::full(self, source),
            Plan::Changed { ranges, base } => image::changed(self, source, ranges, base),
        }
    }

    /// Puts what is left and waits until all packs are durable: those with chunks first, then those with nodes.
    pub fn finish(self) -> Result<SessionFigures, BackupError> {
        self.packer.finish()
    }
}

impl std::fmt::Debug for BackupSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackupSession")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

//! Tree nodes for the sync core: reads them from the vault, for code on a blocking thread.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use store::{BoxError, EntryId, NodeId, NodeSource};
use tokio::runtime::Handle;

use super::{ReadError, Vault};
use crate::http::ApiError;

/// A source of nodes. Must be used on a blocking thread only: it waits for the store.
pub(crate) struct VaultNodes {
    vault: Arc<Vault>,
    runtime: Handle,
    failure: Mutex<Option<ReadError>>,
}

impl VaultNodes {
    pub(crate) fn new(vault: &Arc<Vault>, runtime: Handle) -> Self {
        Self {
            vault: Arc::clone(vault),
            runtime,
            failure: Mutex::new(None),
        }
    }

    /// Returns why nodes could not be read, where that made a walk fail.
    pub(crate) fn failure(&self) -> Option<ReadError> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    pub(crate) fn vault(&self) -> &Arc<Vault> {
        &self.vault
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Reads chunks, opened.
    pub(crate) fn read_chunks(&self, ids: Vec<EntryId>) -> Result<Vec<Bytes>, ReadError> {
        self.runtime.block_on(self.vault.read_plain(ids))
    }

    /// Turns the error of a walk into what it means: what is missing, or a fault.
    pub(crate) fn explain(&self, err: store::TreeError) -> ReadError {
        match self.failure() {
            Some(failure) => failure,
            None => ReadError::Failed(
                ApiError::new(api::codes::DAMAGED, super::locate::error_text(&err)).because(err),
            ),
        }
    }
}

impl NodeSource for VaultNodes {
    fn read_nodes(&self, ids: &[NodeId]) -> Result<Vec<Bytes>, BoxError> {
        self.runtime
            .block_on(self.vault.read_nodes(ids))
            .map_err(|err| {
                let text = match &err {
                    ReadError::Missing(id) => format!("{id} is missing"),
                    ReadError::Failed(err) => err.to_string(),
                };
                *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(err);
                text.into()
            })
    }
}

//! Chunks that more than one window needs: across a window's border, or joined from runs all over a region.
//!
//! A chunk one thread is fetching is waited for by the others. Nobody waits before what it fetches itself has come, so
//! nobody waits in a circle.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use store::{ChunkId, Opened};

use crate::backup::lock;

/// Plain bytes of chunks that are kept.
pub(super) const CACHE_BYTES: usize = 32 << 20;

#[derive(Default)]
pub(super) struct ChunkCache {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    chunks: HashMap<ChunkId, Slot>,
    /// The chunks that came, oldest first.
    order: VecDeque<ChunkId>,
    bytes: usize,
}

enum Slot {
    Fetching,
    Ready(Arc<Opened>),
}

/// What to do about a chunk.
pub(super) enum Claim {
    /// It is here.
    Ready(Arc<Opened>),
    /// Fetch it, then call [`ChunkCache::put`] or [`ChunkCache::give_up`].
    Fetch,
    /// Another thread fetches it.
    Wait,
}

impl ChunkCache {
    pub(super) fn claim(&self, id: ChunkId) -> Claim {
        let mut state = lock(&self.state);
        match state.chunks.get(&id) {
            Some(Slot::Ready(chunk)) => Claim::Ready(Arc::clone(chunk)),
            Some(Slot::Fetching) => Claim::Wait,
            None => {
                state.chunks.insert(id, Slot::Fetching);
                Claim::Fetch
            }
        }
    }

    pub(super) fn put(&self, id: ChunkId, chunk: Arc<Opened>) {
        let mut state = lock(&self.state);
        state.bytes += chunk.plain.len();
        state.chunks.insert(id, Slot::Ready(chunk));
        state.order.push_back(id);
        while state.bytes > CACHE_BYTES {
            let Some(oldest) = state.order.pop_front() else {
                break;
            };
            if let Some(Slot::Ready(chunk)) = state.chunks.remove(&oldest) {
                state.bytes -= chunk.plain.len();
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Lets others try, after a failure.
    pub(super) fn give_up(&self, ids: &[ChunkId]) {
        let mut state = lock(&self.state);
        for id in ids {
            if matches!(state.chunks.get(id), Some(Slot::Fetching)) {
                state.chunks.remove(id);
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Waits for what another thread fetches; `None` where that failed or it is gone again.
    pub(super) fn wait(&self, id: ChunkId) -> Option<Arc<Opened>> {
        let mut state = lock(&self.state);
        loop {
            match state.chunks.get(&id) {
                Some(Slot::Ready(chunk)) => return Some(Arc::clone(chunk)),
                None => return None,
                Some(Slot::Fetching) => {
                    state = self
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

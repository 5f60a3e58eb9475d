//! A cache with a budget in bytes; what was not used for longest goes first.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Values by key, up to a number of bytes.
#[derive(Debug)]
pub(crate) struct ByteCache<K, V> {
    budget_bytes: u64,
    inner: Mutex<Inner<K, V>>,
}

#[derive(Debug)]
struct Inner<K, V> {
    values: HashMap<K, Slot<V>>,
    by_use: BTreeMap<u64, K>,
    bytes: u64,
    uses: u64,
}

#[derive(Debug)]
struct Slot<V> {
    value: V,
    bytes: u64,
    last_use: u64,
}

impl<K: Clone + Eq + Hash, V: Clone> ByteCache<K, V> {
    pub(crate) fn new(budget_bytes: u64) -> Self {
        let inner = Inner {
            values: HashMap::new(),
            by_use: BTreeMap::new(),
            bytes: 0,
            uses: 0,
        };
        Self {
            budget_bytes,
            inner: Mutex::new(inner),
        }
    }

    pub(crate) fn get(&self, key: &K) -> Option<V> {
        let mut inner = self.lock();
        inner.uses += 1;
        let now = inner.uses;
        let slot = inner.values.get_mut(key)?;
        let before = std::mem::replace(&mut slot.last_use, now);
        let value = slot.value.clone();
        inner.by_use.remove(&before);
        inner.by_use.insert(now, key.clone());
        Some(value)
    }

    /// Keeps a value of `bytes` bytes; one above the budget is not kept.
    pub(crate) fn insert(&self, key: K, value: V, bytes: u64) {
        if bytes > self.budget_bytes {
            return;
        }
        let mut inner = self.lock();
        inner.remove(&key);
        while inner.bytes + bytes > self.budget_bytes {
            let Some((_, oldest)) = inner.by_use.pop_first() else {
                break;
            };
            if let Some(slot) = inner.values.remove(&oldest) {
                inner.bytes -= slot.bytes;
            }
        }
        inner.uses += 1;
        let last_use = inner.uses;
        inner.by_use.insert(last_use, key.clone());
        inner.values.insert(
            key,
            Slot {
                value,
                bytes,
                last_use,
            },
        );
        inner.bytes += bytes;
    }

    fn lock(&self) -> MutexGuard<'_, Inner<K, V>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash, V> Inner<K, V> {
    fn remove(&mut self, key: &K) {
        if let Some(slot) = self.values.remove(key) {
            self.by_use.remove(&slot.last_use);
            self.bytes -= slot.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unused_goes_first() {
        let cache = ByteCache::new(30);
        for key in 0..3 {
            cache.insert(key, key, 10);
        }
        assert_eq!(cache.get(&0), Some(0));
        cache.insert(3, 3, 10);
        let left: Vec<i32> = (0..4).filter(|key| cache.get(key).is_some()).collect();
        assert_eq!(left, [0, 2, 3]);
        cache.insert(4, 4, 31);
        assert_eq!(cache.get(&4), None);
        cache.insert(0, 7, 30);
        assert_eq!((cache.get(&0), cache.get(&2)), (Some(7), None));
    }
}

//! The brake on guessing passwords: per name and address, then per address, with a growing delay.
//!
//! In memory only: a restart forgets it, and costs a guesser more than it gives.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;

use model::Timestamp;

/// Beyond this many remembered names the oldest are forgotten.
const MAX_ENTRIES: usize = 10_000;
const MINUTE_MILLIS: u64 = 60_000;
/// The longest wait.
const MAX_WAIT_SECS: u64 = 15 * 60;
/// Wrong tries from one address, over all names, for each that one name may have.
const ADDRESS_FACTOR: u32 = 6;

/// Counts wrong tries.
#[derive(Debug)]
pub(crate) struct Throttle {
    per_minute: u32,
    entries: Mutex<HashMap<(Option<String>, IpAddr), Entry>>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    window_start: Timestamp,
    wrong: u32,
    blocks: u32,
    blocked_until: Timestamp,
}

impl Throttle {
    pub(crate) fn new(per_minute: u32) -> Self {
        Self {
            per_minute,
            entries: Mutex::default(),
        }
    }

    /// Returns how many seconds this name at this address has to wait, where it has to.
    pub(crate) fn wait_secs(&self, user: &str, from: IpAddr, now: Timestamp) -> Option<u64> {
        let entries = self.lock();
        let waits = keys(user, from).into_iter().filter_map(|key| {
            let entry = entries.get(&key)?;
            let millis = entry.blocked_until.millis_since(now);
            (millis > 0).then(|| millis.div_ceil(1000))
        });
        waits.max()
    }

    /// Takes note of a wrong try.
    pub(crate) fn note_wrong(&self, user: &str, from: IpAddr, now: Timestamp) {
        let mut entries = self.lock();
        if entries.len() >= MAX_ENTRIES {
            let oldest = entries
                .iter()
                .min_by_key(|(_, e)| e.window_start)
                .map(|(k, _)| k.clone());
            if let Some(oldest) = oldest {
                entries.remove(&oldest);
            }
        }
        for key in keys(user, from) {
            let limit = match key.0 {
                Some(_) => self.per_minute,
                None => self.per_minute.saturating_mul(ADDRESS_FACTOR),
            };
            let entry = entries.entry(key).or_insert(Entry {
                window_start: now,
                wrong: 0,
                blocks: 0,
                blocked_until: now,
            });
            if now.millis_since(entry.window_start) >= MINUTE_MILLIS {
                entry.window_start = now;
                entry.wrong = 0;
            }
            entry.wrong = entry.wrong.saturating_add(1);
            if entry.wrong >= limit {
                let wait = 30_u64
                    .saturating_mul(1 << entry.blocks.min(10))
                    .min(MAX_WAIT_SECS);
                entry.blocked_until = now.plus_secs(wait);
                entry.blocks = entry.blocks.saturating_add(1);
                entry.wrong = 0;
            }
        }
    }

    /// Forgets the wrong tries of a name that has now given the right password.
    pub(crate) fn note_right(&self, user: &str, from: IpAddr) {
        self.lock().remove(&(Some(user.to_lowercase()), from));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(Option<String>, IpAddr), Entry>> {
        self.entries
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn keys(user: &str, from: IpAddr) -> [(Option<String>, IpAddr); 2] {
    let name: String = user.to_lowercase().chars().take(200).collect();
    [(Some(name), from), (None, from)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_grows_and_ends() {
        let throttle = Throttle::new(5);
        let here = IpAddr::from([10, 0, 0, 1]);
        let mut now = Timestamp::from_millis(1_000_000);
        let mut delays = Vec::new();
        for _ in 0..3 {
            for _ in 0..5 {
                assert_eq!(throttle.wait_secs("Anna", here, now), None);
                throttle.note_wrong("anna", here, now);
            }
            let wait = throttle.wait_secs("anna", here, now).unwrap();
            delays.push(wait);
            now = now.plus_secs(wait);
        }
        assert_eq!(delays, [30, 60, 120]);
        assert_eq!(throttle.wait_secs("bert", here, now), None);
    }

    #[test]
    fn many_names_from_one_address_are_slowed_too() {
        let throttle = Throttle::new(5);
        let here = IpAddr::from([10, 0, 0, 1]);
        let now = Timestamp::from_millis(0);
        for user in 0..30 {
            throttle.note_wrong(&format!("user{user}"), here, now);
        }
        assert!(throttle.wait_secs("someone", here, now).is_some());
        assert_eq!(
            throttle.wait_secs("someone", IpAddr::from([10, 0, 0, 2]), now),
            None
        );
    }

    #[test]
    fn a_right_password_clears_the_name() {
        let throttle = Throttle::new(2);
        let here = IpAddr::from([10, 0, 0, 1]);
        let now = Timestamp::from_millis(0);
        throttle.note_wrong("anna", here, now);
        throttle.note_right("anna", here);
        throttle.note_wrong("anna", here, now);
        assert_eq!(throttle.wait_secs("anna", here, now), None);
    }
}

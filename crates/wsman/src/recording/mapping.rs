//! Pseudonyms: the same for the same, whatever its case; made up in the order things are met.

use std::collections::{BTreeSet, HashMap};

/// Names shorter than this are not looked for inside longer texts: they would be found in every word.
const SHORTEST_SOUGHT_CHARS: usize = 3;

/// What stands for what.
#[derive(Debug, Default)]
pub(super) struct Mapping {
    names: HashMap<String, String>,
    guids: HashMap<String, String>,
    addresses: HashMap<String, String>,
    /// Names to look for inside texts, longest first: by their length and themselves.
    sought: BTreeSet<(usize, String)>,
}

impl Mapping {
    /// A name of anything.
    pub(super) fn name(&mut self, text: &str) -> String {
        let key = text.to_lowercase();
        let next = self.names.len() + 1;
        let name = self.names.entry(key).or_insert_with_key(|key| {
            if key.chars().count() >= SHORTEST_SOUGHT_CHARS {
                self.sought.insert((usize::MAX - key.len(), key.clone()));
            }
            format!("name-{next}")
        });
        name.clone()
    }

    /// A GUID without braces, in the case it is written in.
    pub(super) fn guid(&mut self, text: &str) -> String {
        let next = self.guids.len() + 1;
        let key = text.to_lowercase();
        let made = self
            .guids
            .entry(key)
            .or_insert_with(|| format!("00000000-0000-4000-8000-{next:012x}"));
        if text.contains(|c: char| c.is_ascii_uppercase()) {
            made.to_uppercase()
        } else {
            made.clone()
        }
    }

    /// A MAC address; bytes are parted as in the text.
    pub(super) fn mac(&mut self, text: &str) -> String {
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        let next = self.addresses.len() + 1;
        let made = self
            .addresses
            .entry(digits.to_lowercase())
            .or_insert_with(|| format!("02005E{next:06X}"));
        let mut made = made.chars();
        let parted = |c: char| {
            if c.is_ascii_hexdigit() {
                made.next().unwrap_or('0')
            } else {
                c
            }
        };
        text.chars().map(parted).collect()
    }

    /// An IP address, of those kept for documentation.
    pub(super) fn ip(&mut self, address: std::net::IpAddr) -> String {
        let next = self.addresses.len() + 1;
        let made = self.addresses.entry(address.to_string());
        let made = made.or_insert_with(|| {
            if address.is_ipv4() {
                format!("198.18.{}.{}", next / 256 % 256, next % 256)
            } else {
                format!("2001:db8::{next:x}")
            }
        });
        made.clone()
    }

    /// Replaces every name that is known, longest first, inside a text.
    pub(super) fn replace_known(&self, text: &str) -> String {
        let mut out = text.to_owned();
        for (_, sought) in &self.sought {
            let lower = out.to_lowercase();
            // Lower-casing moves few letters; where it does, positions would not fit.
            if lower.len() != out.len() || !lower.contains(sought.as_str()) {
                continue;
            }
            let Some(name) = self.names.get(sought) else {
                continue;
            };
            let mut replaced = String::with_capacity(out.len());
            let mut from = 0;
            for (at, found) in lower.match_indices(sought.as_str()) {
                replaced.push_str(&out[from..at]);
                replaced.push_str(name);
                from = at + found.len();
            }
            replaced.push_str(&out[from..]);
            out = replaced;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_gets_the_same() {
        let mut mapping = Mapping::default();
        let name = mapping.name("Web 01");
        assert_eq!(mapping.name("WEB 01"), name);
        assert_ne!(mapping.name("Web 02"), name);
        let guid = mapping.guid("6ba7b810-9dad-11d1-80b4-00c04fd430c8");
        assert_eq!(
            mapping.guid("6BA7B810-9DAD-11D1-80B4-00C04FD430C8"),
            guid.to_uppercase()
        );
        assert_eq!(
            mapping.mac("00-15-5D-01-02-03").replace('-', ""),
            mapping.mac("00155d010203")
        );
        let ip = "10.0.0.1".parse().unwrap();
        assert_eq!(mapping.ip(ip), mapping.ip(ip));
        assert_eq!(
            mapping.replace_known("the web 01 VM"),
            format!("the {name} VM")
        );
    }
}

//! WMI object paths, the string form of a reference: `\\HOST\root\virtualization\v2:Class.Key1="v1",Key2="v2"`.
//!
//! Hosts vary the case of namespaces between properties, so paths are compared by [`ObjectPath::same_object`] or by
//! [`ObjectPath::key`], never as strings.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use crate::Epr;

/// A text that should have been a WMI object path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a WMI object path")]
pub struct ParsePathError {
    text: String,
}

/// A parsed path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectPath {
    /// The machine, where the path names one.
    pub host: Option<String>,
    /// The namespace with backslashes, where the path names one.
    pub namespace: Option<String>,
    /// The class.
    pub class: String,
    /// Keys by name; the name is empty for the short form `Class="value"`.
    pub keys: BTreeMap<String, String>,
}

const LIMIT_CHARS: usize = 16 * 1024;

impl ObjectPath {
    /// Returns a relative path without keys yet.
    pub fn new(class: impl Into<String>) -> Self {
        Self {
            host: None,
            namespace: None,
            class: class.into(),
            keys: BTreeMap::new(),
        }
    }

    /// Adds a key.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.keys.insert(name.into(), value.into());
        self
    }

    /// Makes the path absolute.
    #[must_use]
    pub fn on(mut self, host: &str, namespace: &str) -> Self {
        self.host = Some(host.to_owned());
        self.namespace = Some(namespace.replace('/', "\\"));
        self
    }

    /// Returns a key; its name in any case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let exact = self.keys.get(name);
        let found = exact.or_else(|| {
            self.keys
                .iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, v)| v)
        });
        found.map(String::as_str)
    }

    /// Returns class and keys without host and namespace.
    #[must_use]
    pub fn relative(&self) -> String {
        let mut out = self.class.clone();
        for (i, (name, value)) in self.keys.iter().enumerate() {
            if i > 0 {
                out.push(',');
            } else if !name.is_empty() {
                out.push('.');
            }
            out.push_str(name);
            out.push_str("=\"");
            for c in value.chars() {
                if matches!(c, '\\' | '"') {
                    out.push('\\');
                }
                out.push(c);
            }
            out.push('"');
        }
        out
    }

    /// Returns the reference to the same object; its namespace is empty where the path names none.
    #[must_use]
    pub fn to_epr(&self) -> Epr {
        let namespace = self.namespace.as_deref().unwrap_or_default();
        let keys = self.keys.iter();
        keys.fold(Epr::new(namespace, &self.class), |epr, (name, value)| {
            epr.with(name, value)
        })
    }

    /// Returns whether both can name the same object: without regard to case, and to host and namespace only where both
    /// name them.
    ///
    /// Two paths that each leave out what the other two say are both the same as a third and not as each other: among
    /// paths of which some are incomplete, compare [`ObjectPath::key`] of [`ObjectPath::on`] instead.
    #[must_use]
    pub fn same_object(&self, other: &Self) -> bool {
        let (one, two) = (self.key(), other.key());
        let agree = |a: &Option<String>, b: &Option<String>| a.is_none() || b.is_none() || a == b;
        agree(&one.host, &two.host)
            && agree(&one.namespace, &two.namespace)
            && one.class == two.class
            && one.keys == two.keys
    }

    /// Returns what paths of the same object, written as completely, have in common. `.` for a host is none.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        let host = self.host.as_deref().filter(|&host| host != ".");
        let namespace = self.namespace.as_deref();
        ObjectKey {
            host: host.map(folded),
            namespace: namespace.map(|namespace| folded(&namespace.replace('/', "\\"))),
            class: folded(&self.class),
            keys: self
                .keys
                .iter()
                .map(|(name, value)| (folded(name), folded(value)))
                .collect(),
        }
    }
}

/// A path without what paths of the same object may differ in: equal, ordered and hashed without regard to case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    host: Option<String>,
    namespace: Option<String>,
    class: String,
    keys: BTreeMap<String, String>,
}

fn folded(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).collect()
}

impl fmt::Display for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(host) = &self.host {
            write!(f, r"\\{host}\")?;
        }
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}:")?;
        }
        f.write_str(&self.relative())
    }
}

impl FromStr for ObjectPath {
    type Err = ParsePathError;

    fn from_str(text: &str) -> Result<Self, ParsePathError> {
        let wrong = || ParsePathError {
            text: text.chars().take(200).collect(),
        };
        if text.len() > LIMIT_CHARS {
            return Err(wrong());
        }
        let text = text.trim();
        // The keys begin at the first `.` or `=` after the class; the namespace ends at the last `:` before.
        let rest = text.strip_prefix(r"\\").or_else(|| text.strip_prefix("//"));
        let (host, rest) = match rest {
            Some(rest) => {
                let (host, rest) = rest.split_once(['\\', '/']).ok_or_else(wrong)?;
                (Some(host.to_owned()), rest)
            }
            None => (None, text),
        };
        if host.as_deref() == Some("") {
            return Err(wrong());
        }
        // A host name may hold dots; what follows it may not before the class ends.
        let head_end = rest.find(['.', '=']).unwrap_or(rest.len());
        let (head, keys) = rest.split_at(head_end);
        let (namespace, class) = match head.rsplit_once(':') {
            Some((namespace, class)) => (Some(namespace.replace('/', "\\")), class),
            None if host.is_some() => return Err(wrong()),
            None => (None, head),
        };
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let odd = |c: char| c.is_control() || "?*#\"'{}".contains(c);
        let wrong_namespace = |namespace: &String| {
            namespace.contains(odd) || namespace.split('\\').any(str::is_empty)
        };
        if class.is_empty()
            || !class.chars().all(word)
            || namespace.as_ref().is_some_and(wrong_namespace)
        {
            return Err(wrong());
        }
        let keys = match keys {
            "" | "=@" => BTreeMap::new(),
            keys => parse_keys(keys).ok_or_else(wrong)?,
        };
        Ok(Self {
            host,
            namespace,
            class: class.to_owned(),
            keys,
        })
    }
}

/// Reads `.A="x",B=1` or `="x"`.
fn parse_keys(text: &str) -> Option<BTreeMap<String, String>> {
    let (mut keys, mut names) = (BTreeMap::new(), BTreeSet::new());
    let Some(mut rest) = text.strip_prefix('.') else {
        let (value, rest) = parse_key_value(text.strip_prefix('=')?)?;
        keys.insert(String::new(), value);
        return rest.is_empty().then_some(keys);
    };
    loop {
        let (name, after) = rest.split_once('=')?;
        let name = name.trim();
        if name.is_empty() || !name.chars().all(|c| c.is_alphanumeric() || c == '_') {
            return None;
        }
        let (value, after) = parse_key_value(after)?;
        // Names differ by more than case.
        if !names.insert(folded(name)) || keys.insert(name.to_owned(), value).is_some() {
            return None;
        }
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None => return after.is_empty().then_some(keys),
        }
    }
}

fn parse_key_value(text: &str) -> Option<(String, &str)> {
    let quote = text.chars().next()?;
    if quote != '"' && quote != '\'' {
        let end = text.find(',').unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        let value = value.trim();
        return (!value.is_empty()
            && value
                .chars()
                .all(|c| c.is_alphanumeric() || "-_".contains(c)))
        .then(|| (value.to_owned(), rest));
    }
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.push(chars.next()?.1),
            c if c == quote => return Some((value, &text[at + c.len_utf8()..])),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> ObjectPath {
        text.parse().unwrap()
    }

    #[test]
    fn paths_are_taken_apart() {
        let path = parse(
            r#"\\HV01\root\virtualization\v2:Msvm_X.InstanceID="Microsoft:G\\C\\0",Name='a"b'"#,
        );
        assert_eq!(path.host.as_deref(), Some("HV01"));
        assert_eq!(path.namespace.as_deref(), Some(r"root\virtualization\v2"));
        assert_eq!(path.class, "Msvm_X");
        assert_eq!(path.get("instanceid"), Some(r"Microsoft:G\C\0"));
        assert_eq!(path.get("Name"), Some("a\"b"));
        assert_eq!(
            parse(r"\\hv01.example.com\root\v2:C.K=1").get("K"),
            Some("1")
        );
        assert_eq!(parse(r#"Win32_Service="vmms""#).get(""), Some("vmms"));
        assert_eq!(parse("Win32_Service=@").keys.len(), 0);
    }

    #[test]
    fn the_same_object_may_be_written_differently() {
        let a = parse(r#"\\HV01\root\virtualization\v2:C.A="x",B="Y""#);
        for same in [
            r#"\\hv01\Root\Virtualization\V2:c.b="y",a="X""#,
            r#"C.A="x",B="y""#,
            r#"root/virtualization/v2:C.A="x",B="y""#,
            r#"\\.\root\virtualization\v2:C.A="x",B="y""#,
        ] {
            assert!(a.same_object(&parse(same)), "{same}");
            assert_eq!(
                parse(same).on("hv01", "root/virtualization/v2").key(),
                a.key(),
                "{same}"
            );
        }
        for other in [
            r#"\\HV02\root\virtualization\v2:C.A="x",B="Y""#,
            r#"C.A="x""#,
            r#"D.A="x",B="y""#,
            r#"C.A="x",B="z""#,
        ] {
            assert!(!a.same_object(&parse(other)), "{other}");
        }
    }

    #[test]
    fn refuses_what_is_no_path() {
        for wrong in [
            "",
            r"\\",
            r"\\h",
            r"\\h\ns",
            r#"C.A="x"#,
            r"C.A",
            r#"C.="x""#,
            r#"C.A="x",A="y""#,
            r#"C.A="x",a="y""#,
            r#"C.A="x"y"#,
            "C:\\disk.vhdx",
            r#".A="x""#,
            r#"\\h\\root:C.A="x""#,
            r#"root\a?b:C.A="x""#,
        ] {
            assert!(wrong.parse::<ObjectPath>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn built_paths_are_read_back(host in proptest::option::of("[a-zA-Z0-9.-]{1,15}"), keys in proptest::collection::btree_map("[A-Za-z_]{1,9}", ".{0,20}", 1..4)) {
            let mut path = ObjectPath { host: None, namespace: None, class: "Msvm_Thing".into(), keys };
            if let Some(host) = &host {
                path = path.on(host, "root/virtualization/v2");
            }
            prop_assert_eq!(path.to_string().parse::<ObjectPath>().unwrap(), path);
        }

        #[test]
        fn any_text_is_a_path_or_an_error(text in ".{0,80}") {
            let _ = text.parse::<ObjectPath>();
        }
    }
}

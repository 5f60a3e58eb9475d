//! Values: what kind a text is of, by the property it belongs to and by its form, and what is written instead.
//!
//! Each function falls through to a pseudonym for the whole text: a form that is not recognised is never let through.

use std::net::IpAddr;

use super::mapping::Mapping;
use super::vocabulary::{
    is_class, is_dropped, is_enumerated, is_known_extension, is_known_folder, is_known_token,
    is_known_value, is_mac, is_message, is_number, is_plain_word,
};
use crate::{CimTime, ObjectPath, wql_literal};

/// Characters of a GUID without braces.
const GUID_CHARS: usize = 36;

impl Mapping {
    /// The value of a property, parameter or key. CIM-XML is the caller's to recognise before.
    pub(super) fn value(&mut self, property: &str, text: &str) -> String {
        let trimmed = text.trim();
        if trimmed.is_empty() || is_dropped(property) {
            return String::new();
        }
        if matches!(trimmed.to_ascii_lowercase().as_str(), "true" | "false") {
            return text.to_owned();
        }
        if is_mac(property) && is_mac_form(trimmed) {
            return self.mac(trimmed);
        }
        if let Some(number) = number(property, trimmed) {
            return number;
        }
        if CimTime::parse(trimmed).is_ok() {
            return trimmed.to_owned();
        }
        if let Ok(address) = trimmed.parse::<IpAddr>()
            && !is_enumerated(property)
        {
            return self.ip(address);
        }
        if is_known_value(trimmed) || is_class(trimmed) {
            return text.to_owned();
        }
        if is_message(property) {
            return self.message(trimmed);
        }
        if let Some(path) = object_path(trimmed) {
            return self.path_of_object(&path).to_string();
        }
        if is_file_path(trimmed) {
            return self.file_path(trimmed);
        }
        if is_enumerated(property) && is_plain_term(trimmed) {
            return text.to_owned();
        }
        if is_identifier(trimmed) {
            return self.identifier(trimmed);
        }
        self.name(trimmed)
    }

    /// A path of an object; its keys are values.
    pub(super) fn path_of_object(&mut self, path: &ObjectPath) -> ObjectPath {
        let keys = path.keys.iter();
        let keys = keys
            .map(|(name, value)| (name.clone(), self.value(name, value)))
            .collect();
        let class = if is_class(&path.class) {
            path.class.clone()
        } else {
            self.name(&path.class).replace('-', "_")
        };
        let namespace = path.namespace.as_deref().map(|namespace| {
            let parts = namespace.split('\\').map(|part| {
                if is_known_folder(part)
                    || is_known_token(part)
                    || part.eq_ignore_ascii_case("mscluster")
                {
                    part.to_owned()
                } else {
                    self.name(part)
                }
            });
            parts.collect::<Vec<_>>().join("\\")
        });
        let host = path.host.as_deref().map(|host| match host {
            "." => host.to_owned(),
            host => self.host(host),
        });
        ObjectPath {
            host,
            namespace,
            class,
            keys,
        }
    }

    /// A host's name or address.
    pub(super) fn host(&mut self, text: &str) -> String {
        match text.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) if address.is_ipv6() => format!("[{}]", self.ip(address)),
            Ok(address) => self.ip(address),
            Err(_) => text
                .split('.')
                .map(|label| self.name(label))
                .collect::<Vec<_>>()
                .join("."),
        }
    }

    /// A file's path: drive, extensions and folders of every host stay.
    pub(super) fn file_path(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for (at, component) in text.split(['\\', '/']).enumerate() {
            if at > 0 {
                out.push('\\');
            }
            let drive = component.len() == 2
                && component.ends_with(':')
                && component.as_bytes()[0].is_ascii_alphabetic();
            if component.is_empty() || drive || is_known_folder(component) {
                out.push_str(component);
            } else {
                out.push_str(&self.component(component));
            }
        }
        out
    }

    fn component(&mut self, text: &str) -> String {
        let (stem, extension) = match text.rsplit_once('.') {
            Some((stem, extension)) if is_known_extension(extension) => (stem, Some(extension)),
            _ => (text, None),
        };
        let stem = self.around_guids(stem, |mapping, part| {
            // `name_GUID.avhdx`, `Volume{GUID}`, and stars of a mask.
            let inner = part.trim_matches(['_', '{', '}', '*', '%', '-']);
            if inner.is_empty() || is_known_folder(inner) || is_known_token(inner) {
                part.to_owned()
            } else {
                part.replace(inner, &mapping.name(inner))
            }
        });
        match extension {
            Some(extension) => format!("{stem}.{extension}"),
            None => stem,
        }
    }

    /// An identifier made of parts: `Microsoft:GUID\GUID\0\0\D`.
    pub(super) fn identifier(&mut self, text: &str) -> String {
        self.around_guids(text, |mapping, part| {
            let mut out = String::new();
            for piece in part.split_inclusive(|c: char| !c.is_alphanumeric()) {
                let token = piece.trim_end_matches(|c: char| !c.is_alphanumeric());
                let small_number =
                    token.len() <= 3 && token.bytes().all(|byte| byte.is_ascii_digit());
                if token.is_empty() || small_number || is_known_token(token) {
                    out.push_str(token);
                } else {
                    out.push_str(&mapping.name(token));
                }
                out.push_str(&piece[token.len()..]);
            }
            out
        })
    }

    /// A text for people: plain words stay, what else there is becomes names.
    pub(super) fn message(&mut self, text: &str) -> String {
        let text = self.replace_known(text);
        self.around_guids(&text, |mapping, part| {
            let mut out = String::new();
            let inside = |c: char| {
                c.is_alphanumeric()
                    || matches!(
                        c,
                        '_' | '-' | '.' | ':' | '\\' | '/' | '@' | '$' | '#' | '%'
                    )
            };
            let mut rest = part;
            while let Some(first) = rest.chars().next() {
                let end = rest
                    .find(|c| inside(c) != inside(first))
                    .unwrap_or(rest.len());
                let (run, after) = rest.split_at(end);
                if inside(first) {
                    let word = run.trim_end_matches(['.', ':', '-']);
                    out.push_str(&mapping.word(word));
                    out.push_str(&run[word.len()..]);
                } else {
                    out.push_str(run);
                }
                rest = after;
            }
            out
        })
    }

    fn word(&mut self, word: &str) -> String {
        let pseudonym = word
            .strip_prefix("name-")
            .is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
        let code = word.strip_prefix("0x").is_some_and(|digits| {
            digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        });
        let number = word.bytes().all(|byte| byte.is_ascii_digit());
        // Error numbers of hosts have five digits, or ten from 0x80000000 on.
        let error = number && (word.len() <= 5 || (word.len() == 10 && word >= "2147483648"));
        if word.is_empty() || pseudonym || code || error || is_plain_word(word) || is_class(word) {
            word.to_owned()
        } else if number {
            word.replace(|c: char| c.is_ascii_digit(), "1")
        } else if is_file_path(word) {
            self.file_path(word)
        } else {
            self.name(word)
        }
    }

    /// A query: its words are those of the language and the schema; its literals are values.
    pub(super) fn query(&mut self, text: &str) -> String {
        let mut out = String::new();
        let (mut property, mut word) = (String::new(), String::new());
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            if first == '\'' || first == '"' {
                let (literal, after) = read_literal(rest);
                out.push_str(&wql_literal(&self.pattern(&property, &literal)));
                rest = after;
            } else if let Some((path, after)) = braced_path(rest) {
                out.push_str(&format!("{{{}}}", self.path_of_object(&path)));
                rest = after;
            } else {
                let end = rest
                    .find(|c: char| !(c.is_alphanumeric() || c == '_'))
                    .unwrap_or(rest.len());
                if end == 0 {
                    out.push(if first.is_ascii() { first } else { '?' });
                    rest = &rest[first.len_utf8()..];
                    continue;
                }
                word.clear();
                word.push_str(&rest[..end]);
                let harmless = word.is_ascii();
                out.push_str(if harmless { &word } else { "_" });
                if !matches!(
                    word.to_ascii_uppercase().as_str(),
                    "LIKE" | "IS" | "NOT" | "ISA"
                ) {
                    property.clone_from(&word);
                }
                rest = &rest[end..];
            }
        }
        out
    }

    /// A literal, perhaps with the wildcards of LIKE.
    fn pattern(&mut self, property: &str, text: &str) -> String {
        if text.contains('%') {
            self.identifier(text)
        } else {
            self.value(property, text)
        }
    }

    /// A text with its GUIDs replaced, and what is between them by `other`.
    pub(super) fn around_guids(
        &mut self,
        text: &str,
        mut other: impl FnMut(&mut Self, &str) -> String,
    ) -> String {
        let mut out = String::new();
        let (mut from, mut at) = (0, 0);
        while at < text.len() {
            match text.get(at..at + GUID_CHARS).filter(|guid| is_guid(guid)) {
                Some(guid) => {
                    if from < at {
                        out.push_str(&other(self, &text[from..at]));
                    }
                    out.push_str(&self.guid(guid));
                    at += GUID_CHARS;
                    from = at;
                }
                None => at += 1,
            }
        }
        if from < text.len() {
            out.push_str(&other(self, &text[from..]));
        }
        out
    }
}

fn is_guid(text: &str) -> bool {
    text.len() == GUID_CHARS
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// Numbers of properties known to hold some stay; of others only that it is a number, and how long.
fn number(property: &str, text: &str) -> Option<String> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let real = digits
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    if !real || !digits.bytes().any(|byte| byte.is_ascii_digit()) || digits.matches('.').count() > 1
    {
        return None;
    }
    let keep = is_number(property) || is_enumerated(property);
    Some(if keep {
        text.to_owned()
    } else {
        text.replace(|c: char| c.is_ascii_digit(), "1")
    })
}

fn is_mac_form(text: &str) -> bool {
    let digits = text.chars().filter(|c| !matches!(c, ':' | '-')).count();
    digits == 12
        && text
            .chars()
            .all(|c| c.is_ascii_hexdigit() || matches!(c, ':' | '-'))
}

/// A path of an object rather than of a file: its namespace or class is Microsoft's.
fn object_path(text: &str) -> Option<ObjectPath> {
    let path: ObjectPath = text.parse().ok()?;
    let whole = path.namespace.is_some() && (path.host.is_some() || !path.keys.is_empty());
    (whole || is_class(&path.class)).then_some(path)
}

fn is_file_path(text: &str) -> bool {
    let bytes = text.as_bytes();
    text.starts_with(r"\\")
        || (bytes.len() >= 2
            && bytes[0].is_ascii_alphabetic()
            && bytes[1] == b':'
            && (bytes.len() == 2 || matches!(bytes[2], b'\\' | b'/')))
}

/// A term of the schema: plain letters, no identifier in it.
fn is_plain_term(text: &str) -> bool {
    text.len() <= 64
        && text
            .split(|c: char| !c.is_ascii_alphanumeric())
            .all(|part| part.len() <= 24)
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b" :._-*^()/\\,".contains(&byte))
}

/// Made of parts rather than a name somebody gave: one is a GUID or what every host has.
fn is_identifier(text: &str) -> bool {
    let has_guid = (0..text.len()).any(|at| text.get(at..at + GUID_CHARS).is_some_and(is_guid));
    has_guid || text.starts_with("Microsoft:")
}

/// Reads a literal of a query; what does not end goes to the end.
fn read_literal(text: &str) -> (String, &str) {
    let mut chars = text.char_indices();
    let quote = chars.next().map_or('\'', |(_, quote)| quote);
    let mut literal = String::new();
    while let Some((at, c)) = chars.next() {
        if c == '\\' {
            literal.extend(chars.next().map(|(_, c)| c));
        } else if c == quote {
            return (literal, &text[at + c.len_utf8()..]);
        } else {
            literal.push(c);
        }
    }
    (literal, "")
}

/// The path in `{...}` at the start of a text.
fn braced_path(text: &str) -> Option<(ObjectPath, &str)> {
    let inner = text.strip_prefix('{')?;
    inner
        .match_indices('}')
        .take(8)
        .find_map(|(at, _)| Some((inner[..at].parse().ok()?, &inner[at + 1..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(property: &str, text: &str, expected: &str) {
        assert_eq!(
            Mapping::default().value(property, text),
            expected,
            "{property}: {text}"
        );
    }

    #[test]
    fn what_is_harmless_stays() {
        check("MaxInternalSize", "137438953472", "137438953472");
        check("EnabledState", "2", "2");
        check("DynamicMemoryEnabled", "False", "False");
        check(
            "ResourceSubType",
            "Microsoft:Hyper-V:Synthetic Disk Drive",
            "Microsoft:Hyper-V:Synthetic Disk Drive",
        );
        check("Version", "10.0", "10.0");
        check("Version", "10.0.20348", "10.0.20348");
        check(
            "CreationClassName",
            "Msvm_ComputerSystem",
            "Msvm_ComputerSystem",
        );
        check("ElementName", "SCSI Controller", "SCSI Controller");
        check(
            "InstallDate",
            "20260102030405.000000+000",
            "20260102030405.000000+000",
        );
    }

    #[test]
    fn what_may_say_something_does_not() {
        check("ElementName", "Payroll", "name-1");
        check("Unheard", "Payroll & more", "name-1");
        check("Unheard", "123456789", "111111111");
        check("SerialNumber", "7", "1");
        check("Notes", "ask Bob", "name-1");
        check("KeyProtector", "AAECAw==", "");
        check(
            "Name",
            "6BA7B810-9DAD-11D1-80B4-00C04FD430C8",
            "00000000-0000-4000-8000-000000000001",
        );
        check("Address", "00155D380501", "02005E000001");
        check("NetworkAddresses", "192.168.3.4", "198.18.0.1");
        check("NetworkAddresses", "fe80::1", "2001:db8::1");
        check("DNSHostName", "hv01.contoso.com", "name-1");
        check(
            "Version",
            "built by Bob the builder on a Tuesday, for Contoso (internal use only)",
            "name-1",
        );
    }

    #[test]
    fn paths_keep_what_every_host_has() {
        check(
            "Path",
            r"C:\Hyper-V\Payroll\disk 0.vhdx",
            r"C:\Hyper-V\name-1\name-2.vhdx",
        );
        check(
            "HostResource",
            r"D:\vm\web_6BA7B810-9DAD-11D1-80B4-00C04FD430C8.avhdx",
            r"D:\name-1\name-2_00000000-0000-4000-8000-000000000001.avhdx",
        );
        check("Path", r"\\fs01\vms$\a.txt", r"\\name-1\name-2\name-3");
        check(
            "DeviceID",
            r"\\?\Volume{6ba7b810-9dad-11d1-80b4-00c04fd430c8}\",
            r"\\?\Volume{00000000-0000-4000-8000-000000000001}\",
        );
        check(
            "DeviceObject",
            r"\\?\GLOBALROOT\Device\HarddiskVolumeShadowCopy7",
            r"\\?\GLOBALROOT\Device\HarddiskVolumeShadowCopy7",
        );
    }

    #[test]
    fn identifiers_and_object_paths_keep_their_form() {
        check(
            "InstanceID",
            r"Microsoft:6BA7B810-9DAD-11D1-80B4-00C04FD430C8\0\0\D",
            r"Microsoft:00000000-0000-4000-8000-000000000001\0\0\D",
        );
        check(
            "Parent",
            r#"\\HV01\root\virtualization\v2:Msvm_ResourceAllocationSettingData.InstanceID="Microsoft:6BA7B810-9DAD-11D1-80B4-00C04FD430C8\\C\\0""#,
            r#"\\name-1\root\virtualization\v2:Msvm_ResourceAllocationSettingData.InstanceID="Microsoft:00000000-0000-4000-8000-000000000001\\C\\0""#,
        );
    }

    #[test]
    fn messages_keep_plain_words() {
        let mut mapping = Mapping::default();
        let payroll = mapping.name("Payroll");
        assert_eq!(
            mapping.message("'Payroll' failed to start. (Virtual machine ID 6ba7b810-9dad-11d1-80b4-00c04fd430c8) Bob: error 32775, 0x80041002 in C:\\vms\\x.vhdx."),
            format!("'{payroll}' failed to start. (Virtual machine ID 00000000-0000-4000-8000-000000000001) name-2: error 32775, 0x80041002 in C:\\name-3\\name-4.vhdx.")
        );
    }

    #[test]
    fn queries_keep_their_language() {
        let mut mapping = Mapping::default();
        assert_eq!(
            mapping.query(r"SELECT * FROM Msvm_ComputerSystem WHERE Name != __SERVER AND ElementName = 'Bob\'s VM' AND EnabledState = 2"),
            r"SELECT * FROM Msvm_ComputerSystem WHERE Name != __SERVER AND ElementName = 'name-1' AND EnabledState = 2"
        );
        assert_eq!(
            mapping.query(r#"ASSOCIATORS OF {Msvm_ConcreteJob.InstanceID="6ba7b810-9dad-11d1-80b4-00c04fd430c8"} WHERE AssocClass = Msvm_AffectedJobElement"#),
            r#"ASSOCIATORS OF {Msvm_ConcreteJob.InstanceID="00000000-0000-4000-8000-000000000001"} WHERE AssocClass = Msvm_AffectedJobElement"#
        );
        assert_eq!(
            mapping.query(r"SELECT * FROM C WHERE InstanceID LIKE '%\\Default'"),
            r"SELECT * FROM C WHERE InstanceID LIKE '%\\Default'"
        );
    }
}

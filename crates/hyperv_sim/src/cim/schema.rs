//! The classes: names, bases, properties. Read once from `classes.txt`.
//!
//! Class and namespace names are compared in any case; property names exactly.

use std::collections::BTreeMap;
use std::sync::LazyLock;

/// A CIM type, as far as the host uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CimType {
    Boolean,
    Text,
    /// Width in bits.
    Unsigned(u8),
    /// Width in bits.
    Signed(u8),
    /// Held as DMTF text.
    Datetime,
    /// Held as a WMI object path.
    Reference,
    /// An object within the object.
    Object,
}

impl CimType {
    /// Returns the name in CIM-XML and MOF.
    pub(crate) fn name(self) -> &'static str {
        match self {
            CimType::Boolean => "boolean",
            CimType::Text => "string",
            CimType::Unsigned(8) => "uint8",
            CimType::Unsigned(16) => "uint16",
            CimType::Unsigned(32) => "uint32",
            CimType::Unsigned(_) => "uint64",
            CimType::Signed(8) => "sint8",
            CimType::Signed(16) => "sint16",
            CimType::Signed(32) => "sint32",
            CimType::Signed(_) => "sint64",
            CimType::Datetime => "datetime",
            CimType::Reference => "ref",
            CimType::Object => "object",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "boolean" => CimType::Boolean,
            "string" => CimType::Text,
            "uint8" => CimType::Unsigned(8),
            "uint16" => CimType::Unsigned(16),
            "uint32" => CimType::Unsigned(32),
            "uint64" => CimType::Unsigned(64),
            "sint8" => CimType::Signed(8),
            "sint16" => CimType::Signed(16),
            "sint32" => CimType::Signed(32),
            "sint64" => CimType::Signed(64),
            "datetime" => CimType::Datetime,
            "ref" => CimType::Reference,
            "object" => CimType::Object,
            _ => return None,
        })
    }
}

/// A property of a class.
#[derive(Clone, Debug)]
pub(crate) struct Property {
    pub(crate) name: &'static str,
    pub(crate) cim_type: CimType,
    pub(crate) array: bool,
    pub(crate) key: bool,
}

/// A class with all its properties, inherited ones first.
#[derive(Debug)]
pub(crate) struct Class {
    pub(crate) name: &'static str,
    pub(crate) namespace: &'static str,
    base: Option<&'static str>,
    properties: Vec<Property>,
}

impl Class {
    pub(crate) fn base(&self) -> Option<&'static str> {
        self.base
    }

    pub(crate) fn properties(&self) -> &[Property] {
        &self.properties
    }

    pub(crate) fn property(&self, name: &str) -> Option<&Property> {
        self.properties
            .iter()
            .find(|property| property.name == name)
    }

    /// Finds a property as WQL does: in any case.
    pub(crate) fn property_any_case(&self, name: &str) -> Option<&Property> {
        self.properties
            .iter()
            .find(|property| property.name.eq_ignore_ascii_case(name))
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &Property> {
        self.properties.iter().filter(|property| property.key)
    }

    /// Whether this class is `name` or derives from it.
    pub(crate) fn is_a(&self, name: &str) -> bool {
        let mut class = self;
        loop {
            if class.name.eq_ignore_ascii_case(name) {
                return true;
            }
            match class.base.and_then(|base| find(class.namespace, base)) {
                Some(base) => class = base,
                None => return false,
            }
        }
    }
}

struct Schema {
    classes: BTreeMap<(&'static str, String), Class>,
}

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| parse(include_str!("classes.txt")));

/// Finds a class by namespace (`root/virtualization/v2`) and name, in any case.
pub(crate) fn find(namespace: &str, name: &str) -> Option<&'static Class> {
    let namespace = known_namespace(namespace)?;
    SCHEMA.classes.get(&(namespace, name.to_ascii_lowercase()))
}

/// Returns every class of a namespace, as this host spells it.
pub(crate) fn classes(namespace: &str) -> impl Iterator<Item = &'static Class> {
    let namespace = known_namespace(namespace);
    SCHEMA
        .classes
        .values()
        .filter(move |class| Some(class.namespace) == namespace)
}

/// Finds a class of `root/virtualization/v2` that this program names itself.
pub(crate) fn v2(name: &str) -> &'static Class {
    find(V2, name).expect("classes named in the source are in classes.txt; a test checks the table")
}

/// Finds a class of `root/cimv2` that this program names itself.
pub(crate) fn cimv2(name: &str) -> &'static Class {
    find(CIMV2, name)
        .expect("classes named in the source are in classes.txt; a test checks the table")
}

pub(crate) const V2: &str = "root/virtualization/v2";
pub(crate) const CIMV2: &str = "root/cimv2";
/// There on nodes of a cluster only.
pub(crate) const MSCLUSTER: &str = "root/MSCluster";

/// Returns the namespace as this host spells it, or nothing where it has no such namespace.
pub(crate) fn known_namespace(text: &str) -> Option<&'static str> {
    let plain = text.replace('\\', "/");
    [V2, CIMV2, MSCLUSTER]
        .into_iter()
        .find(|namespace| namespace.eq_ignore_ascii_case(plain.trim_matches('/')))
}

fn parse(text: &'static str) -> Schema {
    let mut classes: BTreeMap<(&'static str, String), Class> = BTreeMap::new();
    let mut namespace = "";
    let mut current: Option<Class> = None;
    let mut finish = |class: Option<Class>| {
        if let Some(class) = class {
            classes.insert((class.namespace, class.name.to_ascii_lowercase()), class);
        }
    };
    // Bases come before what derives from them, so their properties can be copied at once.
    let mut inherited: BTreeMap<(&'static str, &'static str), Vec<Property>> = BTreeMap::new();
    for line in text.lines() {
        let bare = line.trim();
        if bare.is_empty() || bare.starts_with('#') {
            continue;
        }
        if let Some(name) = bare
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            finish(current.take());
            namespace = name;
        } else if line.starts_with(' ') {
            let class = current
                .as_mut()
                .expect("classes.txt: a property stands under a class");
            let mut words = bare.split(' ');
            let cim_type = words
                .next()
                .and_then(CimType::parse)
                .expect("classes.txt: a known type");
            for word in words {
                let (word, key) = word
                    .strip_suffix('*')
                    .map_or((word, false), |word| (word, true));
                let (name, array) = word
                    .strip_suffix("[]")
                    .map_or((word, false), |word| (word, true));
                class.properties.retain(|property| property.name != name);
                class.properties.push(Property {
                    name,
                    cim_type,
                    array,
                    key,
                });
            }
            inherited.insert((namespace, class.name), class.properties.clone());
        } else {
            finish(current.take());
            let (name, base) = bare
                .split_once(" : ")
                .map_or((bare, None), |(name, base)| (name, Some(base)));
            let name = name.strip_prefix('!').unwrap_or(name);
            let properties = base.map_or_else(Vec::new, |base| {
                inherited
                    .get(&(namespace, base))
                    .cloned()
                    .expect("classes.txt: a base stands before its classes")
            });
            inherited.insert((namespace, name), properties.clone());
            current = Some(Class {
                name,
                namespace,
                base,
                properties,
            });
        }
    }
    finish(current.take());
    Schema { classes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_classes_have_the_properties_and_keys_of_their_bases() {
        let class = v2("Msvm_StorageAllocationSettingData");
        assert!(class.is_a("cim_resourceallocationsettingdata"));
        assert!(!class.is_a("Msvm_ResourceAllocationSettingData"));
        assert_eq!(
            class.keys().map(|key| key.name).collect::<Vec<_>>(),
            ["InstanceID"]
        );
        assert!(
            class
                .property("HostResource")
                .is_some_and(|property| property.array)
        );
        assert!(class.property("hostresource").is_none());
    }

    #[test]
    fn names_are_found_in_any_case_and_strangers_are_not() {
        assert!(find("Root\\Virtualization\\V2", "msvm_computersystem").is_some());
        assert!(find("root/cimv2", "Msvm_ComputerSystem").is_none());
        assert!(find("root/mscluster", "MSCluster_Cluster").is_some());
        assert!(find("root/MSCluster", "Win32_Volume").is_none());
    }
}

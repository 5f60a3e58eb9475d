//! WMI paths: what is read is printed and read the same; being the same object is an equivalence.

use wsman::{ObjectPath, uri};

pub(crate) fn run(input: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(input);
    // Two paths in one input, so that the fuzzer finds pairs that differ little.
    let paths: Vec<ObjectPath> = text
        .split('\n')
        .filter_map(|path| path.parse().ok())
        .collect();
    for path in &paths {
        let printed = path.to_string();
        assert_eq!(printed.parse().as_ref(), Ok(path), "{printed}");
        assert!(path.same_object(path), "{printed} is not itself");
        let shouted = ObjectPath {
            keys: path
                .keys
                .iter()
                .map(|(name, value)| (name.to_ascii_uppercase(), value.to_ascii_uppercase()))
                .collect(),
            class: path.class.to_ascii_uppercase(),
            ..path.clone()
        };
        assert!(path.same_object(&shouted), "{printed} in capitals");
        assert_eq!(shouted.key(), path.key());
        for name in path.keys.keys() {
            assert!(path.get(&name.to_ascii_uppercase()).is_some());
        }
        // The reference to the object leads back to the path.
        if path.namespace.is_some() {
            let mut bare = path.to_epr().to_path();
            bare.host.clone_from(&path.host);
            assert!(
                bare.namespace.is_none() || bare.same_object(path),
                "{printed}"
            );
        }
    }
    for one in &paths {
        for two in &paths {
            assert_eq!(
                one.same_object(two),
                two.same_object(one),
                "{one} and {two}"
            );
            if one.key() == two.key() {
                assert!(one.same_object(two), "{one} and {two}");
            }
            let full = |path: &ObjectPath| path.clone().on("HV01", uri::NS_VIRTUALIZATION);
            assert_eq!(
                full(one).same_object(&full(two)),
                full(one).key() == full(two).key(),
                "{one} and {two}"
            );
        }
    }
    input.len() as u64
}

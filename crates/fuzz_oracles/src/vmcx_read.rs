//! HyperVStorage: refused, or the tree holds what the plain reading lists; written and read again it is the same.

use vmcx::Storage;

use crate::plain::vmcx::{Content, content, list};
use crate::vmcx_image::VmcxImage;
use crate::wire::Input;

pub(crate) fn run(input: &[u8]) -> u64 {
    let file = VmcxImage::decode(input).build();
    let len = file.len() as u64;
    let Ok(storage) = Storage::read(&file) else {
        return len;
    };
    let values = storage.values();
    let mut listed: Vec<(String, Content)> =
        values.map(|(path, value)| (path, content(value))).collect();
    listed.sort();
    assert_eq!(listed, list(&file), "read plainly");

    let written = storage.encode().expect("what was read can be written");
    let again = Storage::read(&written).expect("what was written can be read");
    // A tree with a number that is none does not equal itself.
    let comparable = storage == storage.clone();
    assert!(again == storage || !comparable, "written and read");
    assert!(
        again.encode().is_ok_and(|bytes| bytes == written),
        "one tree, other bytes"
    );
    len
}

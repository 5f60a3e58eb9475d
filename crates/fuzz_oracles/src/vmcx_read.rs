//! HyperVStorage: refused, or the tree holds what the plain reading lists; written and read again it is the same.

use vmcx::Storage;

use crate::plain;
use crate::vmcx_image::VmcxImage;
use crate::wire::Input;

pub(crate) fn run(input: &[u8]) -> u64 {
    let file = VmcxImage::decode(input).build();
    let len = file.len() as u64;
    let Ok(storage) = Storage::read(&file) else {
        return len;
    };
    let values = storage.values();
    let mut listed: Vec<(String, String)> = values
        .map(|(path, value)| (path, format!("{value:?}")))
        .collect();
    listed.sort();
    assert_eq!(listed, plain::vmcx::list(&file), "read plainly");

    let written = storage.encode().expect("what was read can be written");
    let again = Storage::read(&written).expect("what was written can be read");
    // As text, in which a number that is none equals itself.
    assert_eq!(
        format!("{again:?}"),
        format!("{storage:?}"),
        "written and read"
    );
    assert!(
        again.encode().is_ok_and(|bytes| bytes == written),
        "one tree, other bytes"
    );
    len
}

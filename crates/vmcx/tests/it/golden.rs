//! A file that every later build reads, and writes byte for byte.

use std::path::Path;

use vmcx::Storage;

use crate::support::sample;

#[test]
fn the_golden_file_is_read_and_written() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/storage-4.0.vmcx");
    if std::env::var_os("GOLDEN_WRITE").is_some() {
        std::fs::write(&path, sample().encode().unwrap()).unwrap();
    }
    let golden = std::fs::read(&path).expect("the golden file belongs to the repository");
    assert_eq!(Storage::read(&golden).unwrap(), sample());
    assert!(sample().encode().unwrap() == golden, "written otherwise");
    let file = std::fs::File::open(&path).unwrap();
    assert_eq!(Storage::read(&file).unwrap(), sample());
}

//! Reading back finds every difference and names its place.

use std::sync::Arc;

use pipeline::{Plan, VerifyError, image_digest, verify_image};

use crate::support::{CELL, Model, Vault, backup, options, restore};

#[test]
fn a_flipped_bit_on_the_target_is_found_where_it_is() {
    let vault = Arc::new(Vault::new());
    let mut disk = Model::new((70 << 20) + 999);
    disk.write(100, 900, 1);
    disk.write(17_900, 30, 3);
    let image = backup(&vault, &disk, &Plan::Full).unwrap().0.image;
    let (outcome, restored) = restore(&vault, &image, &options(2)).unwrap();
    let digest = image_digest(&restored, &options(2)).unwrap();
    assert_eq!(Some(digest.to_string()), image.digest);
    for cell in [0u64, 100, 511, 999, 1500, 16_384, 17_920] {
        let mut changed = restored.clone();
        let mut bytes = changed
            .cells
            .get(&cell)
            .map_or_else(|| vec![0; CELL], |cell| cell.to_vec());
        bytes[7] ^= 1;
        changed.cells.insert(cell, Arc::new(bytes));
        let place = cell * CELL as u64 + 7;
        match verify_image(&outcome.pieces, &changed, &options(2)) {
            Err(VerifyError::Mismatch { offset, len }) => {
                assert!((offset..offset + len).contains(&place));
            }
            other => panic!("{other:?} for cell {cell}"),
        }
        assert_ne!(image_digest(&changed, &options(2)).unwrap(), digest);
    }
    let mut unreadable = restored.clone();
    unreadable.fail_at = Some(120 * CELL as u64);
    assert!(matches!(
        verify_image(&outcome.pieces, &unreadable, &options(2)),
        Err(VerifyError::Read { .. })
    ));
    let longer = Model {
        len: restored.len + 1,
        ..restored
    };
    assert!(matches!(
        verify_image(&outcome.pieces, &longer, &options(2)),
        Err(VerifyError::WrongLength { .. })
    ));
}

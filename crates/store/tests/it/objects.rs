//! Recovery points, keys and the vault's description.

use model::Timestamp;
use store::format::keys::{KeysObject, Wrap, WrapKind, decode_material, encode_material};
use store::format::vault::VaultDescription;
use store::{
    KeyError, MasterKey, PointObject, Salt, VaultKeys, VoidRecord, open_point, seal_point,
    seal_void,
};

use crate::support::{keys, material, point};

#[test]
fn a_point_and_a_void_are_read_back() {
    let point = point();
    let object = seal_point(&point, &keys(), Salt([1; 16])).unwrap();
    assert!(!object.windows(4).any(|part| part == b"HV01"), "sealed");
    assert_eq!(
        open_point(point.id, &object, &keys()).unwrap(),
        PointObject::Point(point.clone())
    );
    let void = VoidRecord {
        id: point.id,
        reason: "the job was lost".to_owned(),
        voided: "2026-01-02T03:04:05.678Z".parse::<Timestamp>().unwrap(),
    };
    let object = seal_void(&void, &keys(), Salt([2; 16])).unwrap();
    assert_eq!(
        open_point(point.id, &object, &keys()).unwrap(),
        PointObject::Void(void)
    );
}

#[test]
fn one_attempt_makes_one_point() {
    let point = point();
    assert_eq!(
        store::point_id(point.job, point.vm_id(), point.fence),
        point.id
    );
    assert_ne!(
        store::point_id(point.job, point.vm_id(), model::Fence(4)),
        point.id
    );
    assert_ne!(
        store::point_id(model::JobId::random(), point.vm_id(), point.fence),
        point.id
    );
}

#[test]
fn a_point_damaged_cut_renamed_or_of_another_vault_is_refused() {
    let point = point();
    let object = seal_point(&point, &keys(), Salt([1; 16])).unwrap();
    for at in 0..object.len() {
        let mut bytes = object.clone();
        bytes[at] ^= 1 << (at % 8);
        assert!(open_point(point.id, &bytes, &keys()).is_err(), "byte {at}");
        assert!(
            open_point(point.id, &object[..at], &keys()).is_err(),
            "cut to {at}"
        );
    }
    assert!(open_point(model::PointId::random(), &object, &keys()).is_err());
    assert!(
        open_point(
            point.id,
            &object,
            &VaultKeys::generate(material().vault).unwrap()
        )
        .is_err()
    );
}

#[test]
fn a_keys_object_opens_with_its_master_key_or_what_came_out_of_a_kit() {
    let master = MasterKey::new([9; 32]);
    let mut object = KeysObject::new(&material());
    object
        .wrap_with_master(&material(), &MasterKey::new([8; 32]), Salt([1; 16]))
        .unwrap();
    object
        .wrap_with_master(&material(), &master, Salt([2; 16]))
        .unwrap();
    object.wraps.push(Wrap {
        kind: WrapKind::RecoveryKit,
        label: "age1kit".to_owned(),
        bytes: vec![1, 2, 3],
    });
    object.wraps.push(Wrap {
        kind: WrapKind::Unknown(77),
        label: String::new(),
        bytes: vec![],
    });
    let bytes = object.encode().unwrap();
    let read = KeysObject::decode(&bytes).unwrap();
    assert_eq!(read, object);
    assert_eq!(read.unwrap_with_master(&master).unwrap(), material());
    assert!(matches!(
        read.unwrap_with_master(&MasterKey::new([7; 32])),
        Err(KeyError::NoWrapOpens)
    ));
    assert_eq!(
        read.check_material(&*encode_material(&material())).unwrap(),
        material()
    );
    assert_eq!(
        decode_material(&*encode_material(&material())).unwrap(),
        material()
    );

    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        assert!(KeysObject::decode(&flipped).is_err(), "byte {at}");
        assert!(KeysObject::decode(&bytes[..at]).is_err(), "cut to {at}");
    }
    // A wrap moved to the object of another generation does not open.
    let mut next = keys().next_generation().unwrap();
    next.generation = 2;
    let mut moved = KeysObject::new(&next);
    moved.wraps = object.wraps;
    assert!(moved.unwrap_with_master(&master).is_err());
    assert!(
        moved
            .check_material(&*encode_material(&material()))
            .is_err()
    );
}

#[test]
fn a_description_of_another_format_is_refused_by_name() {
    let description = VaultDescription {
        vault: material().vault,
        created: "2026-01-02T03:04:05.678Z".parse().unwrap(),
    };
    let json = description.encode();
    assert_eq!(VaultDescription::decode(&json).unwrap(), description);
    let text = String::from_utf8(json).unwrap();
    let newer = text.replace("\"version\": 1", "\"version\": 2");
    assert!(
        VaultDescription::decode(newer.as_bytes())
            .unwrap_err()
            .to_string()
            .contains("version 2")
    );
    for wrong in [
        "",
        "{}",
        "[]",
        &text.replace("16384", "8192"),
        &text.replace("reprise vault", "other"),
    ] {
        assert!(
            VaultDescription::decode(wrong.as_bytes()).is_err(),
            "{wrong}"
        );
    }
}

//! Shadow copies of volumes.

use std::sync::Arc;

use hyperv::{Shadow, ShadowView, VolumeFacts};
use hyperv_sim::ctl::FaultRule;
use model::MIB;

use super::Bed;
use crate::sim::pattern;

async fn volume(bed: &Bed) -> VolumeFacts {
    let volumes = bed.host().volumes().await.unwrap();
    let found = volumes
        .into_iter()
        .find(|volume| volume.path.eq_ignore_ascii_case(r"C:\"));
    found.expect("the host has a volume C:")
}

async fn make(bed: &Bed, volume: &VolumeFacts) -> Shadow {
    let before: Vec<String> = ids(bed).await;
    let made = bed.host().create_shadow(volume, &before).await;
    made.expect("a shadow copy can be made")
}

async fn ids(bed: &Bed) -> Vec<String> {
    let all = bed.host().shadows().await.unwrap();
    all.into_iter().map(|shadow| shadow.id).collect()
}

pub(super) async fn hold_the_moment_they_were_made(bed: Arc<Bed>) {
    let vm = bed.running_vm().await;
    bed.sim.user_checkpoint(vm, "one").await;
    bed.sim.guest_write(vm, 0, 5 * MIB, 3, MIB).await;
    let volume = volume(&bed).await;
    let shadow = make(&bed, &volume).await;
    assert_eq!(shadow.volume, volume.device_id);
    assert!(shadow.created.is_some());
    let found = bed.host().shadow(&shadow.id).await.unwrap();
    assert_eq!(found.as_ref(), Some(&shadow));

    // Later writes are not in it.
    bed.sim.guest_write(vm, 0, 5 * MIB, 4, MIB).await;
    let facts = bed.host().vm(vm).await.unwrap();
    let all = bed.host().files_of(&facts).await.unwrap();
    assert_eq!((all.configs.len(), all.disks[0].chain.len()), (2, 2));
    let mut view = ShadowView::new(bed.sim.files_with_shadows());
    view.add(&volume, &shadow).unwrap();
    let disk = view.open_chain(&all.disks[0].path).unwrap().into_disk();
    let mut content = vec![0; 1 << 20];
    disk.read_at(&mut content, 5 * MIB).unwrap();
    assert_eq!(content, pattern(3, 1 << 20));
    for place in &all.configs {
        let files = view.config_files(place).unwrap();
        assert!(files.iter().any(|file| file.role == "config"), "{place:?}");
    }
    bed.host().delete_shadow(&shadow.id).await.unwrap();
}

pub(super) async fn are_deleted_once(bed: Arc<Bed>) {
    let volume = volume(&bed).await;
    let shadow = make(&bed, &volume).await;
    bed.fault(FaultRule::ConnectionLostAfter, "delete").await;
    for _ in 0..2 {
        bed.host().delete_shadow(&shadow.id).await.unwrap();
    }
    assert_eq!(bed.host().shadow(&shadow.id).await.unwrap(), None);
}

pub(super) async fn whose_answer_was_lost_are_found(bed: Arc<Bed>) {
    let volume = volume(&bed).await;
    for rule in [FaultRule::ConnectionLostAfter, FaultRule::TimedOut] {
        let before = ids(&bed).await;
        bed.fault(rule, "Win32_ShadowCopy.Create").await;
        let made = make(&bed, &volume).await;
        assert!(!before.contains(&made.id), "{rule}");
        bed.host().delete_shadow(&made.id).await.unwrap();
        assert_eq!(ids(&bed).await, before, "{rule}");
    }
}

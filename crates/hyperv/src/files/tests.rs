use std::fs;

use super::*;

fn host() -> (tempfile::TempDir, HostFiles) {
    let dir = tempfile::tempdir().unwrap();
    let map = PathMap::new([
        (r"C:\", dir.path().join("c")),
        (r"C:\ClusterStorage\Volume1", dir.path().join("csv")),
    ]);
    fs::create_dir_all(dir.path().join("c/VMs/Web 01")).unwrap();
    fs::create_dir_all(dir.path().join("csv")).unwrap();
    fs::write(dir.path().join("c/VMs/Web 01/Disk.vhdx"), b"0123456789").unwrap();
    (dir, HostFiles::new(map.unwrap()))
}

#[test]
fn paths_go_through_the_longest_entry() {
    let (dir, files) = host();
    let local = |path: &str| {
        files
            .local_path(path)
            .unwrap()
            .strip_prefix(dir.path())
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        local(r"c:\vms\WEB 01\disk.VHDX"),
        Path::new("c/VMs/Web 01/Disk.vhdx")
    );
    assert_eq!(local("C:/VMs/new.vhdx"), Path::new("c/VMs/new.vhdx"));
    assert_eq!(local(r"\\?\C:\VMs"), Path::new("c/VMs"));
    assert_eq!(local(r"C:\clusterstorage\volume1\x"), Path::new("csv/x"));
    assert_eq!(
        local(r"C:\ClusterStorage\Volume10\x"),
        Path::new("c/ClusterStorage/Volume10/x")
    );
    assert_eq!(local(r"C:\"), Path::new("c"));
}

#[test]
fn refuses_paths_that_leave_the_map_or_are_no_plain_names() {
    let (_dir, files) = host();
    for path in [
        r"C:\..\etc",
        r"C:\a\..\..\b",
        r"C:\a\.\b",
        r"C:\a\\b",
        r"C:\disk.vhdx:stream",
        r"C:\NUL",
        r"C:\com1.vhdx",
        r"C:\a.",
        r"D:\x",
        r"\\server\share\x",
        r"\\?\GLOBALROOT\Device\HarddiskVolumeShadowCopy1\x",
        "relative",
        "",
        r"C:",
        "C:x",
    ] {
        match files.stat(path) {
            Err(error) => assert_eq!(error.kind(), FileErrorKind::BadPath, "{path}: {error}"),
            Ok(found) => assert!(path == "C:" && found.unwrap().folder, "{path}"),
        }
    }
    let error = files.stat(r"D:\x").unwrap_err().to_string();
    assert!(error.contains(r"D:\ = "), "{error}");
}

#[test]
fn shares_and_shadow_copies_can_be_mapped() {
    let dir = tempfile::tempdir().unwrap();
    let shadow = r"\\?\GLOBALROOT\Device\HarddiskVolumeShadowCopy1";
    let map = PathMap::new([
        (r"\\srv\vms\", dir.path().join("s")),
        (shadow, dir.path().join("shadow")),
    ])
    .unwrap();
    let files = HostFiles::new(map);
    assert_eq!(
        files.local_path(r"\\SRV\vms\a\b").unwrap(),
        dir.path().join("s/a/b")
    );
    assert_eq!(
        files.local_path(&format!(r"{shadow}\a")).unwrap(),
        dir.path().join("shadow/a")
    );
    assert!(files.local_path(&format!(r"{shadow}0\a")).is_err());
    assert!(PathMap::new([("nonsense", "/x")]).is_err());
}

#[test]
fn files_are_made_once_and_renamed_without_replacing() {
    let (_dir, files) = host();
    assert_eq!(
        files.create_folders(r"C:\New\Inner").unwrap(),
        [r"C:\New", r"C:\New\Inner"]
    );
    assert!(files.create_folders(r"C:\new\inner").unwrap().is_empty());
    let file = files.create_new(r"C:\New\Inner\a.vhdx").unwrap();
    file.write_all_at(b"abc", 4096).unwrap();
    file.set_len(8192).unwrap();
    file.sync().unwrap();
    assert_eq!(ReadAt::len(&file).unwrap(), 8192);
    drop(file);
    // Windows sees no difference between these names.
    assert_eq!(
        files.create_new(r"C:\New\Inner\A.VHDX").unwrap_err().kind(),
        FileErrorKind::Exists
    );
    files.create_new(r"C:\New\Inner\b.vhdx").unwrap();
    let error = files
        .rename(r"C:\New\Inner\a.vhdx", r"C:\New\Inner\B.vhdx")
        .unwrap_err();
    assert_eq!(error.kind(), FileErrorKind::Exists);
    files
        .rename(r"C:\New\Inner\a.vhdx", r"C:\New\c.vhdx")
        .unwrap();
    assert_eq!(
        files
            .rename(r"C:\New\Inner\a.vhdx", r"C:\New\d.vhdx")
            .unwrap_err()
            .kind(),
        FileErrorKind::NotFound
    );
    let names: Vec<String> = files
        .list(r"C:\New")
        .unwrap()
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    assert_eq!(names, ["Inner", "c.vhdx"]);
    files.delete(r"C:\New\c.vhdx").unwrap();
    files.delete(r"C:\New\c.vhdx").unwrap();
    assert_eq!(files.stat(r"C:\New\c.vhdx").unwrap(), None);
    assert_eq!(files.stat(r"C:\New\c.vhdx\below").unwrap(), None);
    assert_eq!(
        files.list(r"C:\Nowhere").unwrap_err().kind(),
        FileErrorKind::NotFound
    );
}

#[test]
fn files_in_use_on_the_host_are_told_apart() {
    let (dir, files) = host();
    let path = r"C:\VMs\Web 01\disk.vhdx";
    let held = File::open(dir.path().join("c/VMs/Web 01/Disk.vhdx")).unwrap();

    // A running VM holds a parent shared: it can be read, not written or deleted.
    held.lock_shared().unwrap();
    let mut buf = [0; 3];
    files
        .open_read(path)
        .unwrap()
        .read_exact_at(&mut buf, 2)
        .unwrap();
    assert_eq!(&buf, b"234");
    for error in [
        files.open_write(path).unwrap_err(),
        files.delete(path).unwrap_err(),
    ] {
        assert_eq!(error.kind(), FileErrorKind::InUse, "{error}");
    }
    // It holds its leaf exclusively: nobody else can open it.
    held.unlock().unwrap();
    held.lock().unwrap();
    assert_eq!(
        files.open_read(path).unwrap_err().kind(),
        FileErrorKind::InUse
    );
    held.unlock().unwrap();
    files.open_write(path).unwrap();
}

#[test]
fn free_space_is_measured_where_the_folder_will_be() {
    let (_dir, files) = host();
    assert!(
        files
            .local_free_bytes(r"C:\not\yet\there")
            .unwrap()
            .is_none_or(|bytes| bytes > 0)
    );
}

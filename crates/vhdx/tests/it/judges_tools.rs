//! Other implementations as judges of what a file reads as.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::judges_model::Model;
use crate::support::{MIB, run, text};
use vhdx::ReadAt;

/// Returns whether a disk is so large that it is not read from end to end.
pub(crate) fn is_large(size: u64) -> bool {
    size > 256 * MIB
}

/// QEMU: checks the file and compares the content. A file with a log in use is judged by a copy of it that QEMU repaired.
pub(crate) fn qemu_agrees(file: &Path, unclean: bool, model: &Model, what: &str) {
    let what = format!("{what}: qemu");
    let copy = file.with_extension("copy");
    let file = if unclean {
        // Keeps the holes.
        run("cp", &["--sparse=always", text(file), text(&copy)]);
        // "-r all" is how QEMU replays a log.
        run(
            "qemu-img",
            &["check", "-q", "-r", "all", "-f", "vhdx", text(&copy)],
        );
        &copy
    } else {
        file
    };
    run("qemu-img", &["check", "-q", "-f", "vhdx", text(file)]);
    if !is_large(model.size) {
        let raw = file.with_extension("raw");
        model.write_raw(&raw);
        run(
            "qemu-img",
            &[
                "compare",
                "-q",
                "-f",
                "vhdx",
                "-F",
                "raw",
                text(file),
                text(&raw),
            ],
        );
        std::fs::remove_file(&raw).unwrap();
    } else {
        let size = run("qemu-io", &["-r", "-f", "vhdx", "-c", "length", text(file)]);
        assert!(!size.is_empty(), "{what}: no length");
        for (offset, bytes) in qemu_reads(file, &model.probes()) {
            model.check(offset, &bytes, &what);
        }
    }
    if unclean {
        std::fs::remove_file(&copy).unwrap();
    }
}

/// Has QEMU read ranges, all by one process, which prints them as hexadecimal numbers.
fn qemu_reads(file: &Path, ranges: &[(u64, usize)]) -> Vec<(u64, Vec<u8>)> {
    let commands: Vec<String> = ranges
        .iter()
        .map(|(offset, len)| format!("read -v {offset} {len}"))
        .collect();
    let mut arguments = vec!["-r", "-f", "vhdx"];
    for command in &commands {
        arguments.extend(["-c", command]);
    }
    arguments.push(text(file));
    let told = run("qemu-io", &arguments);
    let mut bytes = Vec::new();
    for line in told.lines() {
        // `00000200:  DA 57 ...  text`
        let Some((place, rest)) = line.split_once(":  ") else {
            continue;
        };
        if u64::from_str_radix(place, 16).is_ok() {
            let numbers = rest.split("  ").next().unwrap_or_default();
            let numbers = numbers.split_whitespace();
            bytes.extend(numbers.map(|number| u8::from_str_radix(number, 16).unwrap()));
        }
    }
    let mut rest = bytes.as_slice();
    let mut read = Vec::new();
    for (offset, len) in ranges {
        let (part, tail) = rest
            .split_at_checked(*len)
            .unwrap_or_else(|| panic!("qemu-io printed too little: {told:.300}"));
        read.push((*offset, part.to_vec()));
        rest = tail;
    }
    assert!(rest.is_empty(), "qemu-io printed more than was asked for");
    read
}

/// 7-Zip: writes out the disk. Finds parents by itself.
pub(crate) fn seven_zip_agrees(file: &Path, model: &Model, what: &str) {
    let whole = [(0, usize::try_from(model.size).unwrap())];
    seven_zip_prints(&["-tvhdx", text(file)], model, &whole, what);
}

/// 7-Zip, asked for some partitions: so it need not write out a large disk from the start.
pub(crate) fn seven_zip_agrees_on_parts(
    file: &Path,
    model: &Model,
    parts: &[(u64, usize)],
    what: &str,
) {
    let names: Vec<String> = (0..parts.len())
        .map(|number| format!("{number}.img"))
        .collect();
    let mut arguments = vec![text(file)];
    arguments.extend(names.iter().map(String::as_str));
    seven_zip_prints(&arguments, model, parts, what);
}

fn seven_zip_prints(arguments: &[&str], model: &Model, parts: &[(u64, usize)], what: &str) {
    let what = format!("{what}: 7-Zip");
    let mut child = Command::new("7zz")
        .args(["x", "-so"])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the tool was found before");
    let mut out = child.stdout.take().unwrap();
    let mut buffer = vec![0; 1 << 20];
    for &(offset, len) in parts {
        let mut done = 0;
        while done < len {
            let wanted = (len - done).min(buffer.len());
            let read = out.read(&mut buffer[..wanted]).unwrap();
            assert!(
                read > 0,
                "{what}: ends after {done} of {len} bytes at {offset}"
            );
            model.check(offset + done as u64, &buffer[..read], &what);
            done += read;
        }
    }
    let more = out.read(&mut buffer).unwrap();
    drop(out);
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(more, 0, "{what}: prints more than was asked for");
    assert!(output.status.success(), "{what}: {told}");
}

/// A disk shown as a file by `vhdimount`, until dropped.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = [("fusermount", "-u"), ("umount", "-l")]
            .iter()
            .any(|(tool, flag)| {
                Command::new(tool)
                    .args([flag, text(&self.0)])
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status()
                    .is_ok_and(|status| status.success())
            });
        if !unmounted {
            println!("{} is still mounted", self.0.display());
        }
    }
}

/// Returns whether `vhdimount` can show disks as files: it needs FUSE.
pub(crate) fn can_mount() -> bool {
    let fuse = Path::new("/dev/fuse").exists();
    if !fuse {
        println!("skipped: no FUSE here, so libvhdi does not judge");
    }
    fuse
}

/// libvhdi: the size, and what it reads at the probes. Finds parents by itself.
pub(crate) fn libvhdi_agrees(file: &Path, model: &Model, what: &str) {
    let what = format!("{what}: libvhdi");
    let told = run("vhdiinfo", &[text(file)]);
    assert!(
        told.contains(&format!("({} bytes)", model.size)),
        "{what}: {told}"
    );
    let at = file.with_extension("mount");
    std::fs::create_dir(&at).unwrap();
    run("vhdimount", &[text(file), text(&at)]);
    {
        let mounted = Mounted(at.clone());
        // One file per disk of the chain, the leaf last.
        let mut names: Vec<_> = std::fs::read_dir(&mounted.0)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        names.sort();
        let shown = File::open(names.last().expect("a disk is shown")).unwrap();
        assert_eq!(ReadAt::len(&shown).unwrap(), model.size, "{what}: size");
        for (offset, len) in model.probes() {
            let mut found = vec![0xEE; len];
            shown.read_exact_at(&mut found, offset).unwrap();
            model.check(offset, &found, &what);
        }
    }
    std::fs::remove_dir(&at).unwrap();
}

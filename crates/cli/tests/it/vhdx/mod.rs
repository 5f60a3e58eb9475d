//! `reprise vhdx` on real files, through the executable; content is judged by `qemu-img` and by plain images the tests keep.

mod checking;
mod making;
mod merging;
mod reading;
mod repairing;
mod shaping;
mod stopping;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

use ::vhdx::{DirectoryResolver, DiskFile, DiskWriter, Durability, Vhdx, WriteAt};
use harness::{Cli, Done, tool};
use serde_json::Value;

use crate::{EXE, MIB};

/// A folder with disks, and the command line to work on them.
struct Bench {
    folder: tempfile::TempDir,
    cli: Cli,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            folder,
            cli: Cli::new(EXE),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Runs a verb; words that end like a file name are files of the folder.
    fn run(&self, words: &[&str]) -> Done {
        self.run_as(words, &[])
    }

    fn run_as(&self, words: &[&str], more: &[&str]) -> Done {
        let words = self.words(words);
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        words.extend(more);
        self.cli.run(&words)
    }

    /// Runs a verb that must succeed and returns its one object.
    #[track_caller]
    fn json(&self, words: &[&str]) -> Value {
        let done = self.run_as(words, &["--json"]);
        done.expect(0).value()
    }

    fn words(&self, words: &[&str]) -> Vec<String> {
        let is_file = |word: &str| {
            [".vhdx", ".avhdx", ".vhd", ".raw", ".img", ".txt"]
                .iter()
                .any(|end| word.ends_with(end))
        };
        let words = words.iter().map(|word| {
            if is_file(word) && !word.starts_with('/') && !word.contains('\\') {
                self.text(word)
            } else {
                (*word).to_owned()
            }
        });
        std::iter::once("vhdx".to_owned()).chain(words).collect()
    }

    /// Makes a disk and a plain image of what it holds.
    fn disk(&self, name: &str, size: u64, more: &[&str]) -> Content {
        let size_text = size.to_string();
        let mut words = vec!["create", name, "--size", &size_text];
        words.extend(more);
        self.run(&words).expect(0);
        Content::new(self.path(name), self.path(&format!("{name}.raw")), size)
    }

    /// Makes a child of a disk.
    fn child(&self, name: &str, parent: &Content) -> Content {
        let parent_name = parent.disk.file_name().unwrap().to_str().unwrap();
        self.run(&["create", name, "--parent", parent_name])
            .expect(0);
        let content = Content {
            disk: self.path(name),
            image: self.path(&format!("{name}.raw")),
        };
        std::fs::copy(&parent.image, &content.image).unwrap();
        content
    }

    /// Starts a verb, asks it to stop once it tells progress, and returns how it ended.
    fn stopped(&self, words: &[&str]) -> Done {
        self.signalled("INT", words)
    }

    /// Starts a verb, sends it a signal once it tells progress, and returns how it ended.
    fn signalled(&self, signal: &str, words: &[&str]) -> Done {
        let (child, mut stderr) = self.started(words);
        // Stopped, it gets the signal when it goes on; a kill comes at once.
        send(signal, &child);
        send("CONT", &child);
        let mut text = String::new();
        stderr.read_to_string(&mut text).unwrap();
        let output = child.wait_with_output().unwrap();
        Done {
            words: words.join(" "),
            code: output.status.code().unwrap_or(-1),
            stdout: output.stdout,
            stderr: text,
        }
    }

    /// Starts a verb and stops it (SIGSTOP) once it tells progress; also returns its standard error.
    fn started(&self, words: &[&str]) -> (Child, BufReader<ChildStderr>) {
        let words = self.words(words);
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        words.push("--progress");
        let mut child = self
            .cli
            .command(&words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        assert!(line.contains(" bytes"), "no progress: {line}");
        send("STOP", &child);
        (child, stderr)
    }

    /// Returns the names of all files in the folder that begin like this.
    fn names(&self, start: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with(start))
            .collect()
    }
}

/// Sends a signal to a program that was started here.
fn send(signal: &str, child: &Child) {
    let killed = Command::new("kill")
        .args([format!("-{signal}"), child.id().to_string()])
        .status();
    assert!(signal == "CONT" || killed.unwrap().success());
}

/// A disk and the plain image of what it is to read as.
struct Content {
    disk: PathBuf,
    image: PathBuf,
}

impl Content {
    fn new(disk: PathBuf, image: PathBuf, size: u64) -> Self {
        let file = File::create_new(&image).unwrap();
        file.set_len(size).unwrap();
        Self { disk, image }
    }

    /// Writes `len` bytes that tell where they belong, in pieces of a MiB at most.
    fn write(&self, offset: u64, len: u64, seed: u8) {
        let writer = self.writer();
        let image = File::options().write(true).open(&self.image).unwrap();
        let mut at = offset;
        while at < offset + len {
            let some = usize::try_from((offset + len - at).min(MIB)).unwrap();
            let mut bytes = vec![seed; some];
            for sector in bytes.chunks_mut(512) {
                let end = sector.len().min(8);
                sector[..end].copy_from_slice(&at.to_le_bytes()[..end]);
            }
            writer.write_at(&bytes, at).unwrap();
            WriteAt::write_all_at(&image, &bytes, at).unwrap();
            at += some as u64;
        }
        writer.close().unwrap();
    }

    /// Makes a range zeros.
    fn zero(&self, offset: u64, len: u64) {
        let writer = self.writer();
        writer.zero(offset, len).unwrap();
        writer.close().unwrap();
        let image = File::options().write(true).open(&self.image).unwrap();
        let zeros = vec![0; usize::try_from(len).unwrap()];
        WriteAt::write_all_at(&image, &zeros, offset).unwrap();
    }

    /// Opens the disk over its parents.
    fn writer(&self) -> DiskWriter {
        let leaf = File::options()
            .read(true)
            .write(true)
            .open(&self.disk)
            .unwrap();
        let name = self.disk.file_name().unwrap().to_str().unwrap();
        let resolver = DirectoryResolver::new(self.disk.parent().unwrap());
        let opened = ::vhdx::Chain::open(File::open(&self.disk).unwrap(), name, &resolver).unwrap();
        let parents = opened.into_layers().into_iter().skip(1);
        let parents: Vec<Vhdx> = parents
            .map(|parent| match parent {
                DiskFile::Vhdx(parent) => *parent,
                DiskFile::Vhd(_) => panic!("a VHD among the parents"),
            })
            .collect();
        DiskWriter::open(leaf, parents, Durability::ProcessKill).unwrap()
    }

    /// Fails unless `other`, a disk without parents, reads as this content to `qemu-img`.
    #[track_caller]
    fn judge(&self, other: &Path) {
        let Some(qemu) = tool("qemu-img") else {
            return;
        };
        let done = Command::new(qemu)
            .args(["compare", "-f", "raw", "-F", "vhdx"])
            .args([&self.image, &other.to_owned()])
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "{}: {}{}",
            other.display(),
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        );
    }

    /// Fails unless a raw image holds exactly this content.
    #[track_caller]
    fn is_image(&self, other: &Path) {
        let status = Command::new("cmp")
            .args([&self.image, &other.to_owned()])
            .status();
        assert!(status.unwrap().success(), "{}", other.display());
    }
}

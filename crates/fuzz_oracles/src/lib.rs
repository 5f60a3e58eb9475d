//! Tests only: what the fuzz targets feed to the readers of disk formats and messages, and what must hold.
//!
//! A [`Target`] takes any bytes, makes files or messages of them and compares what the code under test says with the plainest reading
//! of the format there is (module `plain`), and with itself along another way. It panics where they differ. The fuzzer
//! in the folder `fuzz` runs targets for hours; a test here runs seeds and the kept corpus in seconds.
//!
//! - An input is a description (module `image`): what a sound file holds, how it is then spoiled, and which checksums are left
//!   wrong. So the fuzzer gets behind signatures and checksums, and inputs stay small although a VHDX file never is.
//! - A message is written down with one byte for each word of its protocol (module `message`).
//! - Files are sparse and in memory (module `sparse`); a target returns how long they claim to be, which bounds what reading
//!   them may allocate.
//!
//! Not here: the fuzzer itself, and the allocator that counts; both are in the workspace of the folder `fuzz`.

mod chain;
mod cim_xml;
mod image;
mod look;
mod message;
mod plain;
mod seeds;
mod sparse;
mod vhd_image;
mod vhd_open_read;
mod vhdx_chain;
mod vhdx_log_replay;
mod vhdx_open_read;
mod vhdx_write;
mod vmcx_image;
mod vmcx_read;
mod wire;
mod wmi_path;
mod wmi_time;
mod wsman_message;
mod wsman_sealed;

const MIB: u64 = 1 << 20;

/// Something to be fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: that of the fuzz target, and of the file its corpus is kept in.
    pub name: &'static str,
    /// Tries an input; panics where something that must hold does not. Returns the lengths of all files, added up.
    pub run: fn(&[u8]) -> u64,
    /// Says what an input means.
    pub describe: fn(&[u8]) -> String,
    /// Inputs kept from the fuzzer: the length of each in two bytes, then the input.
    pub kept: &'static [u8],
    /// Inputs to start from: sound files, and one spoiled in each way that has a name.
    pub seeds: fn() -> Vec<Seed>,
}

/// An input made by hand.
#[derive(Clone, Debug)]
pub struct Seed {
    /// What is special about it.
    pub name: String,
    /// The input.
    pub bytes: Vec<u8>,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target {
        name: "vhdx_open_read",
        run: vhdx_open_read::run,
        describe: describe::<vhdx_open_read::OpenRead>,
        kept: include_bytes!("../kept/vhdx_open_read"),
        seeds: seeds::vhdx_open_read,
    },
    Target {
        name: "vhdx_log_replay",
        run: vhdx_log_replay::run,
        describe: describe::<vhdx_log_replay::LogReplay>,
        kept: include_bytes!("../kept/vhdx_log_replay"),
        seeds: seeds::vhdx_log_replay,
    },
    Target {
        name: "vhdx_chain",
        run: vhdx_chain::run,
        describe: describe::<vhdx_chain::Links>,
        kept: include_bytes!("../kept/vhdx_chain"),
        seeds: seeds::vhdx_chain,
    },
    Target {
        name: "vhdx_write",
        run: vhdx_write::run,
        describe: describe::<vhdx_write::Work>,
        kept: include_bytes!("../kept/vhdx_write"),
        seeds: seeds::vhdx_write,
    },
    Target {
        name: "vhd_open_read",
        run: vhd_open_read::run,
        describe: describe::<vhd_image::VhdLinks>,
        kept: include_bytes!("../kept/vhd_open_read"),
        seeds: seeds::vhd_open_read,
    },
    Target {
        name: "vmcx_read",
        run: vmcx_read::run,
        describe: describe::<vmcx_image::VmcxImage>,
        kept: include_bytes!("../kept/vmcx_read"),
        seeds: seeds::vmcx_read,
    },
    Target {
        name: "wsman_request",
        run: wsman_message::request,
        describe: message::describe,
        kept: include_bytes!("../kept/wsman_request"),
        seeds: seeds::wsman_request,
    },
    Target {
        name: "wsman_response",
        run: wsman_message::response,
        describe: message::describe,
        kept: include_bytes!("../kept/wsman_response"),
        seeds: seeds::wsman_response,
    },
    Target {
        name: "cim_xml",
        run: cim_xml::run,
        describe: message::describe,
        kept: include_bytes!("../kept/cim_xml"),
        seeds: seeds::cim_xml,
    },
    Target {
        name: "wmi_path",
        run: wmi_path::run,
        describe: text,
        kept: include_bytes!("../kept/wmi_path"),
        seeds: seeds::wmi_path,
    },
    Target {
        name: "wmi_time",
        run: wmi_time::run,
        describe: text,
        kept: include_bytes!("../kept/wmi_time"),
        seeds: seeds::wmi_time,
    },
    Target {
        name: "wsman_sealed",
        run: wsman_sealed::run,
        describe: text,
        kept: include_bytes!("../kept/wsman_sealed"),
        seeds: seeds::wsman_sealed,
    },
];

/// Returns the target of this name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Returns the inputs that are kept for a target: what the fuzzer found to reach different code, and what it once broke.
#[must_use]
pub fn kept(target: &Target) -> Vec<Seed> {
    let mut packed = target.kept;
    let mut seeds = Vec::new();
    while let Some((len, rest)) = packed.split_first_chunk() {
        let len = usize::from(u16::from_le_bytes(*len)).min(rest.len());
        let (bytes, rest) = rest.split_at(len);
        seeds.push(Seed {
            name: format!("kept {}", seeds.len()),
            bytes: bytes.to_vec(),
        });
        packed = rest;
    }
    seeds
}

/// Packs inputs as [`Target::kept`] has them; those over 64 KiB are left out.
#[must_use]
pub fn pack(inputs: &[Vec<u8>]) -> Vec<u8> {
    let mut packed = Vec::new();
    for input in inputs {
        if let Ok(len) = u16::try_from(input.len()) {
            packed.extend(len.to_le_bytes());
            packed.extend(input);
        }
    }
    packed
}

fn describe<T: wire::Input + std::fmt::Debug>(input: &[u8]) -> String {
    format!("{:#?}", T::decode(input))
}

fn text(input: &[u8]) -> String {
    String::from_utf8_lossy(input).into_owned()
}

/// Converts a length or offset that was bounded before to an index.
fn index(value: u64) -> usize {
    usize::try_from(value).expect("bounded by the caller to what fits memory")
}

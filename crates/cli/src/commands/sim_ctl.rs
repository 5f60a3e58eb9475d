//! `reprise sim ctl ...`: the control verbs of a simulated host, on the command line.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use hyperv_sim::ctl::{
    Command, DiskAdd, DiskSelector, FaultRule, FaultSpec, FeatureAdd, GuestContent, PowerAction,
    Reply, VmAdd, VmFeature, VmInfo,
};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Output, stdout_failed};
use crate::values;
use crate::view::{Rows, View, bytes, or_dash};

/// Arguments of `sim ctl`.
#[derive(Args, Debug)]
pub(crate) struct CtlArgs {
    /// Folder of the host
    #[arg(long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    noun: Noun,
}

#[derive(Subcommand, Debug)]
enum Noun {
    /// Virtual machines
    #[command(subcommand)]
    Vm(VmVerb),
    /// Start, turn off, save or pause a VM
    #[command(after_help = "Example:\n  reprise sim ctl power web01 on --dir hv01")]
    Power {
        /// Name or id
        vm: String,
        /// on, off, save or pause
        #[arg(value_name = "on|off|save|pause")]
        action: PowerAction,
    },
    /// What the guest of a VM does with its disks
    #[command(subcommand)]
    Guest(GuestVerb),
    /// Checkpoints
    #[command(subcommand)]
    Checkpoint(CheckpointVerb),
    /// Volumes of the host
    #[command(subcommand)]
    Volume(VolumeVerb),
    /// Make the host a node of a failover cluster; volumes below C:\ClusterStorage are shared
    #[command(
        after_help = "Example:\n  reprise sim ctl cluster CL01 --node HV02 --dir hv01\n  reprise sim ctl volume set 'C:\\ClusterStorage\\Volume1' --capacity 100GiB --dir hv01"
    )]
    Cluster {
        /// Name of the cluster
        name: String,
        /// Name of another node, which is down; may be repeated
        #[arg(long = "node", value_name = "NAME")]
        nodes: Vec<String>,
    },
    /// Make the host misbehave
    #[command(subcommand)]
    Fault(FaultVerb),
    /// List the files on the host's volumes
    #[command(after_help = "Example:\n  reprise sim ctl files --glob '*.avhdx' --json --dir hv01")]
    Files {
        /// Only paths like this, with * and ?
        #[arg(long, value_name = "PATTERN")]
        glob: Option<String>,
    },
    /// Show the local path behind a path of the host
    #[command(after_help = "Example:\n  reprise sim ctl path 'C:\\VMs\\web01.vhdx' --dir hv01")]
    Path {
        /// Path on the host
        path: String,
    },
}

#[derive(Subcommand, Debug)]
enum VmVerb {
    /// Add a VM, which stays off
    #[command(
        after_help = "Example:\n  reprise sim ctl vm add web01 --disk 'C:\\VMs\\web01.vhdx=disk.vhdx' --nic LAN --dir hv01"
    )]
    Add {
        /// Display name
        name: String,
        /// 1 or 2
        #[arg(long, value_name = "1|2", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
        generation: u8,
        /// Configuration version [default: the host's own]
        #[arg(long, value_name = "V")]
        version: Option<String>,
        /// A disk: its path on the host and the local VHDX file that is copied there; may be repeated
        #[arg(long = "disk", value_name = "PATH=FILE")]
        disks: Vec<DiskAdd>,
        /// A network adapter on this switch, which is made where it is missing; may be repeated
        #[arg(long = "nic", value_name = "SWITCH")]
        nics: Vec<String>,
    },
    /// Give a VM something that a backup must recognise: a pass-through disk, a TPM, a VLAN and so on
    #[command(
        after_help = "Example:\n  reprise sim ctl vm feature web01 pass-through --dir hv01\n  reprise sim ctl vm feature web01 vlan --number 12 --dir hv01"
    )]
    Feature {
        /// Name or id
        vm: String,
        /// What it gets
        feature: VmFeature,
        /// Path on the host of the file it needs [default: beside the VM's other files]
        #[arg(long, value_name = "PATH")]
        path: Option<String>,
        /// Name of the switch or checkpoint
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Number of the VLAN or of the host's disk
        #[arg(long, value_name = "N")]
        number: Option<u16>,
    },
    /// Add many VMs with empty disks, to see how things go with a full host
    #[command(
        after_help = "Example:\n  reprise sim ctl vm populate --count 500 --disks 4 --dir hv01"
    )]
    Populate {
        /// What the VMs' names and their folder on C: begin with
        #[arg(long, value_name = "PREFIX", default_value = "vm")]
        prefix: String,
        /// How many VMs
        #[arg(long, value_name = "N")]
        count: u32,
        /// Disks of each VM
        #[arg(long, value_name = "N", default_value_t = 1)]
        disks: u32,
    },
    /// List the VMs
    #[command(after_help = "Example:\n  reprise sim ctl vm list --dir hv01")]
    List,
    /// Show one VM
    #[command(after_help = "Example:\n  reprise sim ctl vm show web01 --json --dir hv01")]
    Show {
        /// Name or id
        vm: String,
    },
    /// Turn a VM off and remove it; its disk files stay
    #[command(after_help = "Example:\n  reprise sim ctl vm remove web01 --dir hv01")]
    Remove {
        /// Name or id
        vm: String,
    },
}

#[derive(Subcommand, Debug)]
enum GuestVerb {
    /// Write into a disk of a running VM
    #[command(
        after_help = "Example:\n  reprise sim ctl guest write web01 0 --offset 1MiB --pattern 7 --length 64MiB --dir hv01"
    )]
    Write {
        /// Name or id
        vm: String,
        /// Path of the disk on the host, or its place in the order of attachment, from 0
        disk: DiskSelector,
        /// Where on the virtual disk
        #[arg(long, value_name = "SIZE", value_parser = values::size)]
        offset: u64,
        /// Write the bytes of this file
        #[arg(long, value_name = "FILE", required_unless_present = "pattern", conflicts_with_all = ["pattern", "length"])]
        file: Option<PathBuf>,
        /// Write bytes made from this number
        #[arg(long, value_name = "SEED", requires = "length")]
        pattern: Option<u64>,
        /// How many bytes of the pattern
        #[arg(long, value_name = "SIZE", value_parser = values::size)]
        length: Option<u64>,
    },
    /// Read a disk and write its bytes to standard output
    #[command(
        after_help = "Example:\n  reprise sim ctl guest read web01 0 --offset 0 --length 512 --dir hv01 > sector.bin"
    )]
    Read {
        /// Name or id
        vm: String,
        /// Path of the disk on the host, or its place in the order of attachment, from 0
        disk: DiskSelector,
        /// Where on the virtual disk
        #[arg(long, value_name = "SIZE", value_parser = values::size)]
        offset: u64,
        /// How many bytes
        #[arg(long, value_name = "SIZE", value_parser = values::size)]
        length: u64,
    },
    /// Write over the VM's disks the way a file system would
    #[command(
        after_help = "Example:\n  reprise sim ctl guest workload web01 --seed 1 --bytes 64MiB --dir hv01"
    )]
    Workload {
        /// Name or id
        vm: String,
        /// The same number writes the same
        #[arg(long, value_name = "SEED")]
        seed: u64,
        /// How many bytes in all
        #[arg(long, value_name = "SIZE", value_parser = values::size)]
        bytes: u64,
    },
}

#[derive(Subcommand, Debug)]
enum CheckpointVerb {
    /// Take a checkpoint
    #[command(
        after_help = "Example:\n  reprise sim ctl checkpoint create web01 before-update --dir hv01"
    )]
    Create {
        /// Name or id of the VM
        vm: String,
        /// Name of the checkpoint [default: the host makes one up]
        name: Option<String>,
    },
    /// Put a VM that is off or saved back to a checkpoint
    #[command(
        after_help = "Example:\n  reprise sim ctl checkpoint apply web01 before-update --dir hv01"
    )]
    Apply {
        /// Name or id of the VM
        vm: String,
        /// Name or id of the checkpoint
        name: String,
    },
    /// Delete a checkpoint and wait until its files are merged
    #[command(
        after_help = "Example:\n  reprise sim ctl checkpoint delete web01 before-update --dir hv01"
    )]
    Delete {
        /// Name or id of the VM
        vm: String,
        /// Name or id of the checkpoint
        name: String,
    },
    /// List the checkpoints of a VM
    #[command(after_help = "Example:\n  reprise sim ctl checkpoint list web01 --dir hv01")]
    List {
        /// Name or id of the VM
        vm: String,
    },
}

#[derive(Subcommand, Debug)]
enum VolumeVerb {
    /// Set the capacity of a volume, which is made where it is missing
    #[command(after_help = "Example:\n  reprise sim ctl volume set C --capacity 10GiB --dir hv01")]
    Set {
        /// Drive letter, or the folder it is mounted at, such as C:\Mount\Data
        volume: String,
        /// Capacity
        #[arg(long, value_name = "SIZE", value_parser = values::size)]
        capacity: u64,
    },
}

#[derive(Subcommand, Debug)]
enum FaultVerb {
    /// Add a rule
    #[command(after_help = fault_help())]
    Add {
        /// What goes wrong: one of the rules below
        rule: FaultRule,
        /// Where: Class.Method, Method or an operation; everywhere without
        #[arg(long, value_name = "WHERE")]
        on: Option<String>,
        /// How often; until cleared without
        #[arg(long, value_name = "N")]
        times: Option<u32>,
        /// Only for this VM
        #[arg(long, value_name = "VM")]
        vm: Option<String>,
    },
    /// List rules, how often each struck, and settings
    #[command(after_help = "Example:\n  reprise sim ctl fault list --dir hv01")]
    List,
    /// Remove all rules; settings stay
    #[command(after_help = "Example:\n  reprise sim ctl fault clear --dir hv01")]
    Clear,
    /// Change a setting, such as how long jobs and merges take
    #[command(after_help = "Example:\n  reprise sim ctl fault set job_millis=50 --dir hv01")]
    Set {
        /// Name and value
        #[arg(value_name = "KEY=VALUE", value_parser = values::pair)]
        setting: (String, String),
    },
}

fn fault_help() -> String {
    format!(
        "Rules:\n  {}\n  WHICH is the name of a fault (QuotaLimit), a WMI result (0x80041002) or a WSManFault code.\n\n\
         Examples:\n  reprise sim ctl fault add job-failed --on CreateSnapshot --times 1 --dir hv01\n  \
         reprise sim ctl fault add return-code=32775 --on DestroySystem --dir hv01",
        FaultRule::choices()
    )
}

/// Runs a control verb.
pub(crate) async fn run(out: Output, args: CtlArgs) -> Result<Exit, Failure> {
    let command = command(args.noun)?;
    let reads = matches!(command, Command::GuestRead { .. });
    let dir = args.dir.ok_or_else(|| {
        Failure::usage("which simulated host is meant?").hint("give its folder with --dir DIR")
    })?;
    // The call blocks, as long as a merge takes.
    let work = tokio::task::spawn_blocking(move || -> Result<Reply, Failure> {
        let mut data = out.writer();
        let reply = hyperv_sim::ctl(&dir, &command, &mut data)?;
        data.flush().map_err(|error| stdout_failed(&error))?;
        Ok(reply)
    });
    let reply = work
        .await
        .map_err(|error| Failure::new("failed", format!("the command broke: {error}")))??;
    // Standard output holds what was read, and nothing beside it.
    if !reads {
        out.show(&reply.to_json(), |_| view(&reply))?;
    }
    Ok(Exit::Ok)
}

fn command(noun: Noun) -> Result<Command, Failure> {
    Ok(match noun {
        Noun::Vm(VmVerb::Add {
            name,
            generation,
            version,
            disks,
            nics,
        }) => Command::VmAdd(VmAdd {
            name,
            generation,
            version,
            disks: disks.into_iter().map(absolute).collect::<Result<_, _>>()?,
            nics,
        }),
        Noun::Vm(VmVerb::Feature {
            vm,
            feature,
            path,
            name,
            number,
        }) => Command::VmFeature(FeatureAdd {
            vm,
            feature,
            path,
            name,
            number,
        }),
        Noun::Vm(VmVerb::Populate {
            prefix,
            count,
            disks,
        }) => Command::VmPopulate {
            prefix,
            count,
            disks,
        },
        Noun::Cluster { name, nodes } => Command::ClusterMake {
            name,
            others: nodes,
        },
        Noun::Vm(VmVerb::List) => Command::VmList,
        Noun::Vm(VmVerb::Show { vm }) => Command::VmShow { vm },
        Noun::Vm(VmVerb::Remove { vm }) => Command::VmRemove { vm },
        Noun::Power { vm, action } => Command::Power { vm, action },
        Noun::Guest(GuestVerb::Write {
            vm,
            disk,
            offset,
            file,
            pattern,
            length,
        }) => Command::GuestWrite {
            vm,
            disk,
            offset,
            content: content(file, pattern, length)?,
        },
        Noun::Guest(GuestVerb::Read {
            vm,
            disk,
            offset,
            length,
        }) => Command::GuestRead {
            vm,
            disk,
            offset,
            length,
        },
        Noun::Guest(GuestVerb::Workload { vm, seed, bytes }) => {
            Command::GuestWorkload { vm, seed, bytes }
        }
        Noun::Checkpoint(CheckpointVerb::Create { vm, name }) => {
            Command::CheckpointCreate { vm, name }
        }
        Noun::Checkpoint(CheckpointVerb::Apply { vm, name }) => Command::CheckpointApply {
            vm,
            checkpoint: name,
        },
        Noun::Checkpoint(CheckpointVerb::Delete { vm, name }) => Command::CheckpointDelete {
            vm,
            checkpoint: name,
        },
        Noun::Checkpoint(CheckpointVerb::List { vm }) => Command::CheckpointList { vm },
        Noun::Volume(VolumeVerb::Set { volume, capacity }) => Command::VolumeSet {
            volume,
            capacity_bytes: capacity,
        },
        Noun::Fault(FaultVerb::Add {
            rule,
            on,
            times,
            vm,
        }) => Command::FaultAdd(FaultSpec {
            rule,
            on,
            times,
            vm,
        }),
        Noun::Fault(FaultVerb::List) => Command::FaultList,
        Noun::Fault(FaultVerb::Clear) => Command::FaultClear,
        Noun::Fault(FaultVerb::Set {
            setting: (key, value),
        }) => Command::FaultSet { key, value },
        Noun::Files { glob } => Command::Files { glob },
        Noun::Path { path } => Command::Path { path },
    })
}

/// The running host opens the file, and may run in another folder than this process.
fn absolute(disk: DiskAdd) -> Result<DiskAdd, Failure> {
    Ok(DiskAdd {
        file: absolute_file(&disk.file)?,
        ..disk
    })
}

fn absolute_file(file: &std::path::Path) -> Result<PathBuf, Failure> {
    let missing = |error: std::io::Error| {
        let code = if error.kind() == std::io::ErrorKind::NotFound {
            api::codes::NOT_FOUND
        } else {
            "failed"
        };
        Failure::new(code, format!("cannot open {}: {error}", file.display()))
    };
    std::fs::metadata(file).map_err(missing)?;
    std::path::absolute(file).map_err(missing)
}

fn content(
    file: Option<PathBuf>,
    pattern: Option<u64>,
    length: Option<u64>,
) -> Result<GuestContent, Failure> {
    match (file, pattern, length) {
        (Some(file), _, _) => Ok(GuestContent::File(absolute_file(&file)?)),
        (None, Some(seed), Some(length)) => Ok(GuestContent::Pattern { seed, length }),
        (None, _, _) => Err(Failure::usage("give --file, or --pattern with --length")),
    }
}

/// Shows a reply to people.
fn view(reply: &Reply) -> View {
    match reply {
        Reply::Done => View::Text("done".to_owned()),
        Reply::Vm(vm) => vm_view(vm),
        Reply::Vms(vms) => {
            let mut rows = Rows::new(["NAME", "STATE", "DISKS", "CHECKPOINTS", "ID"], "no VMs");
            for vm in vms {
                rows.row([
                    vm.name.clone(),
                    vm.state.clone(),
                    vm.disks.len().to_string(),
                    vm.checkpoints.to_string(),
                    vm.id.clone(),
                ]);
            }
            View::Table(rows)
        }
        Reply::Bytes(info) => View::Text(bytes(info.bytes)),
        Reply::Checkpoint(checkpoint) => View::Text(format!(
            "checkpoint {} ({})",
            checkpoint.name, checkpoint.id
        )),
        Reply::Checkpoints(checkpoints) => {
            let mut rows = Rows::new(
                ["CREATED", "NAME", "KIND", "CURRENT", "PARENT", "ID"],
                "no checkpoints",
            );
            for checkpoint in checkpoints {
                rows.row([
                    checkpoint.created.clone(),
                    checkpoint.name.clone(),
                    checkpoint.kind.clone(),
                    if checkpoint.current {
                        "yes".to_owned()
                    } else {
                        String::new()
                    },
                    or_dash(checkpoint.parent.as_deref()),
                    checkpoint.id.clone(),
                ]);
            }
            View::Table(rows)
        }
        Reply::Volume(volume) => View::Text(format!(
            "{}: {} of {} free",
            volume.volume,
            bytes(volume.free_bytes),
            bytes(volume.capacity_bytes)
        )),
        Reply::Faults(faults) => {
            let mut fields = Vec::new();
            for hyperv_sim::ctl::RuleInfo { spec, hits } in &faults.rules {
                let times = match spec.times {
                    None => "until cleared".to_owned(),
                    Some(0) => "used up".to_owned(),
                    Some(1) => "once more".to_owned(),
                    Some(times) => format!("{times} times more"),
                };
                let on = spec.on.as_deref().unwrap_or("everywhere");
                let vm = spec
                    .vm
                    .as_ref()
                    .map_or_else(String::new, |vm| format!(", VM {vm}"));
                let hits = match hits {
                    0 => "has not struck".to_owned(),
                    1 => "struck once".to_owned(),
                    hits => format!("struck {hits} times"),
                };
                fields.push((spec.rule.to_string(), format!("{on}, {times}{vm}; {hits}")));
            }
            for (key, value) in &faults.settings {
                fields.push((key.clone(), value.to_string()));
            }
            View::Fields(fields)
        }
        Reply::Files(files) => {
            let mut rows = Rows::new(["BYTES", "PATH"], "no files");
            for file in files {
                rows.row([file.size_bytes.to_string(), file.path.clone()]);
            }
            View::Table(rows)
        }
        Reply::Path(path) => View::Text(path.local.display().to_string()),
    }
}

fn vm_view(vm: &VmInfo) -> View {
    let disks: Vec<String> = vm
        .disks
        .iter()
        .flat_map(|disk| {
            let leaf = format!("{}  {}  {}", disk.slot, bytes(disk.size_bytes), disk.path);
            std::iter::once(leaf)
                .chain(disk.parents.iter().map(|parent| format!("  over {parent}")))
        })
        .collect();
    View::fields([
        ("id", vm.id.clone()),
        ("name", vm.name.clone()),
        ("state", vm.state.clone()),
        ("busy", vm.busy.join(", ")),
        (
            "generation",
            format!("{} (version {})", vm.generation, vm.version),
        ),
        ("disks", disks.join("\n")),
        ("switches", vm.nics.join(", ")),
        ("checkpoints", vm.checkpoints.to_string()),
        ("reference points", vm.reference_points.join("\n")),
    ])
}

//! `reprise vm list|show|protect|unprotect|exclude`.

use api::v1::{ProtectRequest, Vm};
use api_client::People;
use clap::{Args, Subcommand};

use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::view::{Rows, View, or_dash};

/// Arguments of `vm`.
#[derive(Args, Debug)]
pub(crate) struct VmArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// List the VMs of all hosts
    #[command(after_help = "Example:\n  reprise vm list --json")]
    List,
    /// Show one VM
    #[command(after_help = "Example:\n  reprise vm show web01")]
    Show {
        /// Name or id
        vm: String,
    },
    /// Put VMs under a policy, so that they are backed up
    #[command(after_help = "Example:\n  reprise vm protect web01 --policy nightly")]
    Protect {
        /// Names or ids
        #[arg(required = true, value_name = "VM")]
        vms: Vec<String>,
        /// Policy by name or id [default: the policy `default`]
        #[arg(long, value_name = "POLICY")]
        policy: Option<String>,
    },
    /// Take VMs from their policy; their recovery points stay
    #[command(after_help = "Example:\n  reprise vm unprotect web01")]
    Unprotect {
        /// Names or ids
        #[arg(required = true, value_name = "VM")]
        vms: Vec<String>,
    },
    /// Leave disks out of a VM's backups; the list replaces the one before
    #[command(
        after_help = "Examples:\n  reprise vm exclude web01 --disk 'D:\\swap.vhdx'\n  reprise vm exclude web01 --none"
    )]
    Exclude {
        /// Name or id
        vm: String,
        /// Path of a disk on the host; may be repeated
        #[arg(
            long = "disk",
            value_name = "PATH",
            required_unless_present = "none",
            conflicts_with = "none"
        )]
        disks: Vec<String>,
        /// Leave out nothing any more
        #[arg(long)]
        none: bool,
    },
}

/// Runs a verb.
pub(crate) async fn run(out: Output, args: VmArgs) -> Result<Exit, Failure> {
    let client = args.connection.open()?;
    match args.verb {
        Verb::List => {
            let vms: Vec<Vm> = super::list::all(&client, "/vms", None).await?;
            out.show(&vms, |vms| View::Table(table(vms)))?;
        }
        Verb::Show { vm } => {
            let vm: Vm = client.get(&path(&vm)).await?;
            out.show(&vm, details)?;
        }
        Verb::Protect { vms, policy } => {
            for vm in vms {
                let request = ProtectRequest {
                    policy: policy.clone(),
                    excluded: None,
                };
                let vm: Vm = client
                    .put(&format!("{}/protection", path(&vm)), &request)
                    .await?;
                out.show(&vm, |vm| {
                    let policy = vm
                        .protection
                        .as_ref()
                        .map_or("?", |p| p.policy.name.as_str());
                    View::Text(format!("{} is protected by the policy {policy}", vm.name))
                })?;
            }
        }
        Verb::Unprotect { vms } => {
            for vm in vms {
                client.delete(&format!("{}/protection", path(&vm))).await?;
                super::done(
                    out,
                    &format!("{vm} is no longer backed up by itself; its recovery points stay"),
                )?;
            }
        }
        Verb::Exclude { vm, disks, none: _ } => {
            let known: Vm = client.get(&path(&vm)).await?;
            let Some(protection) = &known.protection else {
                return Err(Failure::new(
                    api::codes::CONFLICT,
                    format!("{} is not protected", known.name),
                )
                .hint(format!(
                    "put it under a policy first: reprise vm protect {vm}"
                )));
            };
            let request = ProtectRequest {
                policy: Some(protection.policy.id.clone()),
                excluded: Some(disks),
            };
            let vm: Vm = client
                .put(&format!("{}/protection", path(&vm)), &request)
                .await?;
            out.show(&vm, details)?;
        }
    }
    Ok(Exit::Ok)
}

fn path(vm: &str) -> String {
    format!("/vms/{}", People::segment(vm))
}

fn table(vms: &[Vm]) -> Rows {
    let mut rows = Rows::new(
        ["NAME", "HOST", "STATE", "POLICY", "LATEST POINT", "ID"],
        "no VM is known yet; they appear once an agent has reached its host",
    );
    for vm in vms {
        rows.row([
            vm.name.clone(),
            vm.host.name.clone(),
            vm.state.clone(),
            or_dash(vm.protection.as_ref().map(|p| p.policy.name.as_str())),
            or_dash(vm.latest_point_created.as_deref()),
            vm.id.clone(),
        ]);
    }
    rows
}

fn details(vm: &Vm) -> View {
    let disks: Vec<String> = vm
        .disks
        .iter()
        .map(|disk| {
            let excluded = if disk.excluded { " (left out)" } else { "" };
            format!("{}  {}{excluded}", disk.slot, disk.path)
        })
        .collect();
    let protection = vm.protection.as_ref().map_or_else(
        || "none".to_owned(),
        |p| match &p.next {
            Some(next) => format!("{}, next backup {next}", p.policy.name),
            None => format!("{}, on request only", p.policy.name),
        },
    );
    View::fields([
        ("id", vm.id.clone()),
        ("name", vm.name.clone()),
        ("host", vm.host.name.clone()),
        ("state", vm.state.clone()),
        (
            "generation",
            format!("{} (version {})", vm.generation, vm.version),
        ),
        ("disks", disks.join("\n")),
        ("checkpoints", vm.checkpoints.to_string()),
        ("cannot keep", vm.unsupported.join("\n")),
        ("policy", protection),
        ("latest point", or_dash(vm.latest_point.as_deref())),
        ("made", vm.latest_point_created.clone().unwrap_or_default()),
    ])
}

//! Starting what a plan in a file says, and nothing else.
//!
//! The server and the agent look whether the plan still holds. Here only what stands on the command line is held against it.

use std::path::Path;

use api::v1::{RestorePlan, RestoreRequest};

use super::WishArgs;
use crate::failure::Failure;

/// Returns the requests of the plans in a file; VMs and options that were named as well must agree with them.
pub(super) fn requests(
    file: &Path,
    vms: &[String],
    wish: &WishArgs,
) -> Result<Vec<RestoreRequest>, Failure> {
    let plans = read(file)?;
    let named = |plan: &RestorePlan| {
        let vm = &plan.planned.vm;
        vms.iter()
            .any(|text| text.eq_ignore_ascii_case(&vm.id) || *text == vm.name)
    };
    let all_named = plans.iter().all(named) && vms.len() == plans.len();
    if !vms.is_empty() && !all_named {
        let planned: Vec<&str> = plans
            .iter()
            .map(|plan| plan.planned.vm.name.as_str())
            .collect();
        return Err(differs(
            file,
            &format!("it is of {}, not of {}", planned.join(", "), vms.join(", ")),
        ));
    }
    let mut requests = Vec::new();
    for plan in plans {
        if let Some(refusal) = plan.planned.refusals.first() {
            return Err(Failure::new(
                api::codes::CONFLICT,
                format!(
                    "the plan in {} was refused: {}; nothing was started",
                    file.display(),
                    refusal.message
                ),
            )
            .hint(refusal.hint.clone()));
        }
        for given in super::requests(std::slice::from_ref(&plan.request.vm), wish)? {
            check(file, &given, &plan)?;
        }
        requests.push(plan.request);
    }
    Ok(requests)
}

/// Reads one plan or several, as `restore plan --json` writes them.
fn read(file: &Path) -> Result<Vec<RestorePlan>, Failure> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| {
        let code = if error.kind() == std::io::ErrorKind::NotFound {
            api::codes::NOT_FOUND
        } else {
            "failed"
        };
        Failure::new(code, format!("cannot read the plan {shown}: {error}"))
    })?;
    let plans: Vec<RestorePlan> = serde_json::Deserializer::from_str(&text)
        .into_iter()
        .collect::<Result<_, _>>()
        .map_err(|error| no_plan(file, &error.to_string()))?;
    let pinned =
        |plan: &RestorePlan| plan.request.plan.is_some() || !plan.planned.refusals.is_empty();
    match plans.iter().all(pinned) && !plans.is_empty() {
        true => Ok(plans),
        false => Err(no_plan(file, "it says nothing to hold the restore to")),
    }
}

fn no_plan(file: &Path, why: &str) -> Failure {
    Failure::usage(format!("{} holds no plan: {why}", file.display()))
        .hint("make one with `reprise restore plan VM --json > FILE`")
}

fn differs(file: &Path, how: &str) -> Failure {
    Failure::new(
        api::codes::CONFLICT,
        format!("the plan in {} differs: {how}", file.display()),
    )
    .hint("nothing was started; leave the option out, or make a new plan with it")
}

/// Refuses an option that was given and says something else than the plan.
fn check(file: &Path, given: &RestoreRequest, plan: &RestorePlan) -> Result<(), Failure> {
    let planned = &plan.request;
    let text = |flag: &str, given: &Option<String>, planned: &Option<String>| match given {
        Some(given) if Some(given) != planned.as_ref() => Some(format!(
            "{flag} {given}, planned {}",
            planned.as_deref().unwrap_or("without")
        )),
        Some(_) | None => None,
    };
    let point = given.point.clone().filter(|point| point != "latest");
    let host = &plan.planned.host;
    let same_host = |to: &String| match planned.to {
        None => to == "original",
        Some(_) => to.eq_ignore_ascii_case(&host.id) || to.eq_ignore_ascii_case(&host.name),
    };
    let to = given.to.clone().filter(|to| !same_host(to));
    let flag = |name: &str, more: bool| more.then(|| format!("{name}, planned without"));
    let listed = |flag: &str, same: bool| (!same).then(|| format!("other values of {flag}"));
    let found = [
        text("--point", &point, &planned.point),
        text("--to", &to, &planned.to.clone().map(|_| host.name.clone())),
        text("--folder", &given.folder, &planned.folder),
        text("--name", &given.name, &planned.name),
        text("--id", &given.id, &planned.id),
        text("--mac", &given.mac, &planned.mac),
        text("--power", &given.power, &planned.power),
        listed(
            "--disk",
            given.disks.is_empty() || given.disks == planned.disks,
        ),
        listed(
            "--folder DISK=PATH",
            given.disk_folders.is_empty() || given.disk_folders == planned.disk_folders,
        ),
        listed(
            "--network",
            given.networks.is_empty() || given.networks == planned.networks,
        ),
        listed(
            "--seed",
            given.seeds.is_empty() || given.seeds == planned.seeds,
        ),
        text("--attach", &given.attach, &planned.attach),
        flag(
            "--replace-disk",
            given.replace_disk && !planned.replace_disk,
        ),
        flag(
            "--in-place",
            given.in_place.is_some() && given.in_place != planned.in_place,
        ),
        flag(
            "--skip-damaged",
            given.skip_damaged && !planned.skip_damaged,
        ),
    ];
    match found.into_iter().flatten().next() {
        Some(how) => Err(differs(file, &how)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::commands::restore::StartArgs;
    use crate::exit::Exit;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        start: StartArgs,
    }

    fn plan() -> serde_json::Value {
        let agreed = serde_json::json!({
            "fingerprint": "1-ab", "named_at": "2026-11-23T10:20:30Z", "effects": ["one"],
        });
        serde_json::json!({
            "request": {"vm": "V1", "point": "P1", "to": "H1", "name": "copy", "plan": agreed},
            "vm": {"id": "V1", "name": "web01"}, "host": {"id": "H1", "name": "HV01"}, "point": "P1", "made": "", "kind": "vm",
            "steps": [], "disks": [], "volumes": [], "fetch_bytes": 0, "reuse_bytes": 0, "hole_bytes": 0,
            "checkpoints": {"outcome": "none", "rule": "", "allowed": "none", "decided_by": [], "names": [],
                "conditions": {"vss_method": false, "nothing_excluded": true, "same_host": true}},
            "identities": {"collisions": []}, "warnings": [], "refusals": [],
        })
    }

    #[track_caller]
    fn check(text: &str, words: &[&str], exit: Option<Exit>) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("plan.json");
        std::fs::write(&file, text).unwrap();
        let line = [&["start", "--plan", "x"], words].concat();
        let line = Line::try_parse_from(line).unwrap();
        let made = requests(&file, &line.start.vms, &line.start.wish);
        assert_eq!(made.err().map(|failure| failure.exit), exit, "{words:?}");
    }

    #[test]
    fn what_the_command_line_says_beside_a_plan_must_agree_with_it() {
        let text = plan().to_string();
        for words in [
            &[][..],
            &["web01"],
            &["v1", "--to", "hv01", "--name", "copy"],
            &["--point", "P1"],
        ] {
            check(&text, words, None);
        }
        for words in [
            &["db01"][..],
            &["--to", "original"],
            &["--name", "other"],
            &["--folder", "D:\\x"],
            &["--point", "P2"],
            &["--network", "A=B"],
            &["--disk", "data.vhdx"],
        ] {
            check(&text, words, Some(Exit::Conflict));
        }
    }

    #[test]
    fn a_file_without_a_plan_is_refused_and_so_is_a_plan_that_was() {
        check("", &[], Some(Exit::Usage));
        check("{\"steps\": []}", &[], Some(Exit::Usage));
        let mut refused = plan();
        refused["refusals"] =
            serde_json::json!([{"code": "vm-exists", "message": "m", "hint": "h"}]);
        check(&refused.to_string(), &[], Some(Exit::Conflict));
    }
}

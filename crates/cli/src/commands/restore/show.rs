//! A plan for people: what happens, disks, volumes, identities, checkpoints, and what speaks against it.

use api::v1::{PlanAdapter, PlanIdentity, PlanVolume, PlannedRestore, RestorePlan};

use crate::output::clean;
use crate::view::{View, bytes};

/// Returns the view of a plan.
pub(super) fn plan(plan: &RestorePlan) -> View {
    let planned = &plan.planned;
    let mut text = heading(planned);
    section(&mut text, "What happens", steps(planned));
    section(&mut text, "Disks", disks(planned));
    section(&mut text, "Volumes", volumes(planned));
    section(&mut text, "Data", data(planned));
    section(&mut text, "Identities", identities(planned));
    section(&mut text, "Checkpoints", checkpoints(planned));
    section(&mut text, "Warnings", planned.warnings.clone());
    section(&mut text, "Refusals", refusals(planned));
    View::Text(text)
}

/// Adds a section; without lines there is none.
fn section(text: &mut String, title: &str, lines: Vec<String>) {
    if lines.is_empty() {
        return;
    }
    text.push_str(&format!("\n{title}\n"));
    for line in lines {
        text.push_str(&format!("  {}\n", clean(&line)));
    }
}

fn heading(planned: &PlannedRestore) -> String {
    let what = match planned.kind.as_str() {
        "vm" => "full virtual machine restore",
        _ => "virtual disk restore",
    };
    let verdict = match planned.refusals.is_empty() {
        true => "Nothing speaks against it.",
        false => "It cannot be done: see the refusals below.",
    };
    format!(
        "{} of {} to host {}, from recovery point {}\n{verdict} Nothing has been changed.\n",
        what,
        clean(&planned.vm.name),
        clean(&planned.host.name),
        clean(&planned.point),
    )
}

fn steps(planned: &PlannedRestore) -> Vec<String> {
    let numbered = planned.steps.iter().zip(1..);
    numbered
        .map(|(step, number)| format!("{number:2}. {}", step.text))
        .collect()
}

fn disks(planned: &PlannedRestore) -> Vec<String> {
    let mut lines = Vec::new();
    for disk in &planned.disks {
        lines.push(format!(
            "{}: {} virtual, {}, {}, fetches {} and takes {} at most",
            disk.path,
            bytes(disk.size_bytes),
            if disk.fixed { "fixed" } else { "dynamic" },
            if disk.new_id {
                "new disk id"
            } else {
                "same disk id"
            },
            bytes(disk.fetch_bytes),
            bytes(disk.needed_bytes),
        ));
        lines.extend(
            disk.files
                .iter()
                .map(|file| format!("  merged from {file}")),
        );
        lines.extend(disk.slot.iter().map(|slot| format!("  hangs at {slot}")));
        lines.extend(
            disk.parks
                .iter()
                .map(|file| format!("  keeps {file} aside")),
        );
    }
    lines
}

fn volumes(planned: &PlannedRestore) -> Vec<String> {
    let short = |volume: &PlanVolume| {
        let wanted = volume.needed_bytes.saturating_add(volume.reserve_bytes);
        match wanted > volume.available_bytes {
            true => "  NOT ENOUGH",
            false => "",
        }
    };
    let volumes = planned.volumes.iter();
    volumes
        .map(|volume| {
            format!(
                "{}  needs {} at its peak, keeps {} free, has {}{}",
                volume.path,
                bytes(volume.needed_bytes),
                bytes(volume.reserve_bytes),
                bytes(volume.available_bytes),
                short(volume)
            )
        })
        .collect()
}

fn data(planned: &PlannedRestore) -> Vec<String> {
    if planned.fingerprint.is_none() {
        return Vec::new();
    }
    let estimated = planned.reuse_bytes > 0;
    let mut lines = vec![format!(
        "fetches {} {}, reuses {}, leaves out {} that hold nothing",
        bytes(planned.fetch_bytes),
        if estimated { "or more" } else { "at most" },
        match estimated {
            true => format!(
                "up to {} (what the disks below hold)",
                bytes(planned.reuse_bytes)
            ),
            false => bytes(planned.reuse_bytes),
        },
        bytes(planned.hole_bytes)
    )];
    lines.extend(planned.seeds.iter().map(|seed| match &seed.problem {
        None => format!("blocks of {}  {}", seed.path, seed.found_as),
        Some(problem) => format!("not of {}  {problem}", seed.path),
    }));
    lines.push(match &planned.estimate {
        Some(estimate) => format!(
            "takes about {} s: {} at {} {} a second",
            estimate.seconds,
            bytes(estimate.bytes),
            match estimate.basis.as_str() {
                "measured" => "a measured",
                _ => "an assumed",
            },
            bytes(estimate.bytes_per_sec)
        ),
        None => "how long it takes is not known".to_owned(),
    });
    lines
}

fn identities(planned: &PlannedRestore) -> Vec<String> {
    let identities = &planned.identities;
    let (Some(before), Some(after)) = (&identities.before, &identities.after) else {
        return Vec::new();
    };
    let id = |of: &PlanIdentity| of.id.clone().unwrap_or_else(|| "a new one".to_owned());
    let mac = |of: &PlanAdapter| of.mac.clone().unwrap_or_else(|| "a new one".to_owned());
    let switch = |of: &PlanAdapter| {
        of.switch
            .clone()
            .unwrap_or_else(|| "disconnected".to_owned())
    };
    let mut lines = vec![
        change("name", &before.name, &after.name),
        change("id", &id(before), &id(after)),
    ];
    for (was, will) in before.adapters.iter().zip(&after.adapters) {
        let mut line = change(
            &format!("adapter {:?}: MAC address", was.name),
            &mac(was),
            &mac(will),
        );
        line.push_str("; ");
        line.push_str(&change("network", &switch(was), &switch(will)));
        lines.push(line);
    }
    let collisions = identities.collisions.iter();
    lines.extend(collisions.map(|collision| format!("! {}", collision.text)));
    lines
}

fn change(what: &str, before: &str, after: &str) -> String {
    match before == after {
        true => format!("{what} {after} (kept)"),
        false => format!("{what} {before} -> {after}"),
    }
}

fn checkpoints(planned: &PlannedRestore) -> Vec<String> {
    let checkpoints = &planned.checkpoints;
    let outcome = match checkpoints.outcome.as_str() {
        "none" => "none".to_owned(),
        outcome => format!("{outcome}: {}", checkpoints.names.join(", ")),
    };
    vec![outcome, format!("rule: {}", checkpoints.rule)]
}

fn refusals(planned: &PlannedRestore) -> Vec<String> {
    let mut lines = Vec::new();
    for refusal in &planned.refusals {
        lines.push(format!("{}: {}", refusal.code, refusal.message));
        lines.push(format!("  hint: {}", refusal.hint));
    }
    lines
}

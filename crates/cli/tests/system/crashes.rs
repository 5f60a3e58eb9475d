//! Agent, server or host are killed while a restore runs. Whatever it was: once the job has come to its end, the old or
//! the new is there, whole, and nothing else is left.
//!
//! A kill is either at a call that makes something durable (`strace` kills the program as it enters its Nth `rename`,
//! `fsync`, ...: between any two of them nothing changes that a crash would keep), or after a time. The short form takes
//! a few of the calls. The campaign, run by hand (`.ci/long`), takes call after call until a restore comes to its end
//! unkilled, then random moments: `REPRISE_CRASHES` of them, 500 if not said, from the seed `REPRISE_CRASH_SEED`.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use harness::{World, disk_hash, tool};
use serde_json::Value;

use crate::support::{EXE, MIB, add_vm, destroy_vm, guest_write, job_id, text};

/// What is restored, and where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A VM that is no longer there, to where it was.
    Gone,
    /// A VM to another place.
    Copy,
    /// A VM over itself: the one that is there makes room.
    Over,
    /// A restore of a VM over itself is undone.
    Undo,
    /// A disk to a file.
    Files,
    /// A disk in place of the one that the VM has.
    Replace,
    /// A disk to another VM.
    Attach,
}

const KINDS: [Kind; 7] = [
    Kind::Gone,
    Kind::Copy,
    Kind::Over,
    Kind::Undo,
    Kind::Files,
    Kind::Replace,
    Kind::Attach,
];

/// The VMs of the host: whether each runs, and what its guest sees of every disk.
type Fleet = BTreeMap<String, (String, Vec<String>)>;

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Agent,
    Server,
    Host,
}

/// When.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// As it enters the call of this name for the Nth time in a thread.
    Call(&'static str, u32),
    /// A while after the restore was asked for.
    After(Duration),
}

/// Calls that make something durable, or visible to others.
const CALLS: [&str; 6] = [
    "rename",
    "renameat2",
    "fsync",
    "fdatasync",
    "unlink",
    "mkdir",
];

/// An installation with a VM `vm` of two disks, and a recovery point of it that is not what the VM holds now.
struct Ground {
    world: World,
    point: String,
    /// What the disks hold in the recovery point.
    stored: Vec<String>,
    /// Restores so far; names what they make.
    number: u32,
}

/// One restore that is to be struck.
struct Round {
    kind: Kind,
    name: String,
    /// The restore that an undo undoes.
    undone: Option<String>,
    job: String,
    /// The VMs before.
    old: Fleet,
    /// The VMs if it goes well.
    new: Fleet,
    /// The files before, without those of the tracker.
    files: Vec<String>,
}

impl Ground {
    fn new() -> Self {
        let world = World::with_host(EXE);
        add_vm(&world, 0, "vm", &[32, 32]);
        let job = world.back_up("vm", &[]);
        let point = text(&job["point"]).to_owned();
        let stored = fleet(&world)["vm"].1.clone();
        // The VM goes on: what it holds from here on is in no recovery point.
        guest_write(&world, "vm", 0, 2 * MIB, MIB, 1);
        guest_write(&world, "vm", 1, 2 * MIB, MIB, 2);
        Self {
            world,
            point,
            stored,
            number: 0,
        }
    }

    /// Makes the ground ready for a restore of a kind, sets the trap and asks for the restore.
    fn begin(
        &mut self,
        kind: Kind,
        trap: impl FnOnce(&Self) -> Option<Trap>,
    ) -> (Round, Option<Trap>) {
        self.number += 1;
        let name = format!(
            "{}{}",
            if kind == Kind::Attach {
                "spare"
            } else {
                "copy"
            },
            self.number
        );
        let folder = format!("D:\\{name}");
        let (files, before) = (files(&self.world), fleet(&self.world));
        let mut undone = None;
        match kind {
            Kind::Gone => destroy_vm(&self.world, 0, "vm"),
            Kind::Attach => add_vm(&self.world, 0, &name, &[8]),
            // A disk is only replaced while the VM is off.
            Kind::Replace => drop(self.world.hosts[0].ctl(&["power", "vm", "off"])),
            Kind::Copy | Kind::Over | Kind::Files => {}
            Kind::Undo => {
                undone = Some(job_id(&self.world.restore("vm", &["--point", &self.point])));
            }
        }
        let old = fleet(&self.world);
        let mut new = if kind == Kind::Undo {
            before
        } else {
            old.clone()
        };
        let restored = ("off".to_owned(), self.stored.clone());
        match kind {
            Kind::Gone | Kind::Over => drop(new.insert("vm".to_owned(), restored)),
            Kind::Copy => drop(new.insert(name.clone(), restored)),
            // The undo gives back what was there, running as it was.
            Kind::Undo | Kind::Files => {}
            Kind::Replace => new.get_mut("vm").unwrap().1[1].clone_from(&self.stored[1]),
            Kind::Attach => new.get_mut(&name).unwrap().1.push(self.stored[1].clone()),
        }
        let trap = trap(self);
        let point = ["vm", "--point", &self.point];
        let start = [&["restore", "start"], &point[..]].concat();
        let words = match kind {
            Kind::Gone | Kind::Over => start,
            Kind::Copy => [
                &start[..],
                &["--to", "HV01", "--name", &name, "--folder", &folder],
            ]
            .concat(),
            Kind::Undo => vec!["restore", "undo", undone.as_ref().unwrap()],
            Kind::Files => [&start[..], &["--disk", "disk1.vhdx", "--folder", &folder]].concat(),
            Kind::Replace => [&start[..], &["--disk", "disk1.vhdx", "--replace-disk"]].concat(),
            Kind::Attach => [&start[..], &["--disk", "disk1.vhdx", "--attach", &name]].concat(),
        };
        let job = job_id(&self.world.cli.json(&words));
        let round = Round {
            kind,
            name,
            undone,
            job,
            old,
            new,
            files,
        };
        (round, trap)
    }

    /// Restores with a kill in between and looks at what is there afterwards. Says whether the kill came in time, and how
    /// the job ended.
    fn strike(&mut self, kind: Kind, victim: Victim, moment: Moment) -> (bool, String) {
        let (round, trap) = self.begin(kind, |ground| match moment {
            Moment::Call(call, nth) => Some(Trap::set(ground.pid(victim), call, nth)),
            Moment::After(_) => None,
        });
        let struck = match (moment, trap) {
            (Moment::After(time), _) => {
                // A random moment is what is tested here.
                std::thread::sleep(time);
                !is_over(&self.world.cli.json(&["job", "show", &round.job]))
            }
            (Moment::Call(..), trap) => self.wait_for_kill(victim, &round.job, trap),
        };
        if struck || matches!(moment, Moment::After(_)) {
            self.revive(victim);
        }
        let end = self
            .world
            .wait_for_job(&round.job, &["succeeded", "warnings", "failed"]);
        let end = text(&end["state"]).to_owned();
        let context = format!(
            "restore {} {kind:?}, {victim:?} killed at {moment:?} ({struck}), {end}",
            self.number
        );
        self.check(&round, &end, &context);
        (struck, end)
    }

    /// Waits until the victim is dead or the job is over; says whether it is dead.
    fn wait_for_kill(&mut self, victim: Victim, job: &str, trap: Option<Trap>) -> bool {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            if !self.runs(victim) {
                return true;
            }
            let shown = self.world.cli.run_json(&["job", "show", job]);
            if shown.code == 0 && is_over(&shown.value()) {
                drop(trap);
                return !self.runs(victim);
            }
            assert!(
                Instant::now() < deadline,
                "neither killed nor over: {}",
                shown.text()
            );
        }
    }

    fn pid(&self, victim: Victim) -> u32 {
        let name = match victim {
            Victim::Agent => "HV01-agent",
            Victim::Server => "server",
            Victim::Host => "HV01",
        };
        let processes = self.world.processes();
        processes.iter().find(|(of, _)| of == name).unwrap().1
    }

    fn runs(&self, victim: Victim) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid(victim)));
        // A killed child that was not waited for is a zombie.
        stat.is_ok_and(|stat| {
            !stat
                .rsplit_once(')')
                .unwrap()
                .1
                .trim_start()
                .starts_with('Z')
        })
    }

    fn revive(&mut self, victim: Victim) {
        match victim {
            Victim::Agent => {
                self.world.kill_agent(0);
                self.world.start_agent(0);
            }
            Victim::Server => {
                self.world.kill_server();
                self.world.start_server();
            }
            Victim::Host => {
                self.world.hosts[0].kill();
                self.world.hosts[0].start();
            }
        }
    }

    /// The old or the new is there, whole, and nothing else; then makes room for the next restore.
    fn check(&mut self, round: &Round, end: &str, context: &str) {
        let (kind, name) = (round.kind, &round.name);
        let well = matches!(end, "succeeded" | "warnings");
        // What a failed job left is removed before its agent is ready again.
        self.world.wait_for_host("HV01", "ready");
        self.world
            .wait_for(&format!("an empty journal: {context}"), || {
                self.journals().is_empty().then_some(())
            });
        let expected = if well { &round.new } else { &round.old };
        assert_eq!(&fleet(&self.world), expected, "{context}");
        let host = &self.world.hosts[0];
        if kind == Kind::Files && well {
            let file = host.local(&format!("D:\\{name}\\disk1.vhdx"));
            assert_eq!(disk_hash(&file), self.stored[1], "{context}");
        }
        // What is kept goes when it is said to.
        let keeps = match kind {
            Kind::Over | Kind::Replace | Kind::Undo if well => Some(&round.job),
            Kind::Undo => round.undone.as_ref(),
            Kind::Gone | Kind::Copy | Kind::Over | Kind::Files | Kind::Replace | Kind::Attach => {
                None
            }
        };
        if let Some(job) = keeps {
            self.world
                .run_and_wait(&["restore", "finish", job], &[])
                .expect(0);
        }
        if kind == Kind::Attach || kind == Kind::Copy && well {
            host.ctl(&["vm", "remove", name]);
        }
        for volume in ["D", r"C"] {
            let folder = host.volume(volume);
            let _ = std::fs::remove_dir_all(folder.join(name));
            let _ = std::fs::remove_dir_all(folder.join("VMs").join(name));
        }
        if kind == Kind::Gone && !well {
            self.world.restore("vm", &["--point", &self.point]);
        }
        // Of what the restore made nothing is left but the VM.
        assert_eq!(files(&self.world), round.files, "{context}");
        if fleet(&self.world)["vm"].0 == "off" {
            self.world.hosts[0].run_ctl(&["power", "vm", "on"]);
        }
        for disk in [0, 1] {
            guest_write(
                &self.world,
                "vm",
                disk,
                3 * MIB,
                MIB,
                u64::from(self.number),
            );
        }
    }

    /// Journals of jobs that the agent has not settled.
    fn journals(&self) -> Vec<String> {
        let folder = self.world.path("HV01-agent").join("jobs");
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| name.ends_with(".json")).collect()
    }
}

/// Kills a program as it enters a call for the Nth time.
struct Trap(Child);

impl Trap {
    fn set(pid: u32, call: &str, nth: u32) -> Self {
        let mut child = Command::new("strace")
            .args(["-f", "-o", "/dev/null", "-e", &format!("trace={call}")])
            .args(["-e", &format!("inject={call}:signal=KILL:when={nth}")])
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It says so once it is attached.
        let mut said = std::io::BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        std::io::BufRead::read_line(&mut said, &mut line).unwrap();
        assert!(line.contains("attached"), "strace: {line}");
        Self(child)
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        // Asked to end, it lets go of the program, which runs on.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

fn is_over(job: &Value) -> bool {
    !matches!(text(&job["state"]), "queued" | "running")
}

fn fleet(world: &World) -> Fleet {
    let host = &world.hosts[0];
    let seen = |vm: &Value| {
        let name = text(&vm["name"]).to_owned();
        let shown = host.vm(&name).unwrap();
        let disks = shown["disks"].as_array().map_or(0, Vec::len);
        let content = (0..disks).map(|disk| host.guest_hash(&name, disk));
        (
            name.clone(),
            (text(&shown["state"]).to_owned(), content.collect()),
        )
    };
    let vms = host.ctl(&["vm", "list"]);
    vms.as_array().unwrap().iter().map(seen).collect()
}

/// The files of the host. The change tracker's come and go with the disks that it watches.
fn files(world: &World) -> Vec<String> {
    let files = world.hosts[0].files("*").into_iter();
    let mut paths: Vec<String> = files.map(|(path, _)| path).collect();
    paths.retain(|path| !path.ends_with(".rct") && !path.ends_with(".mrt"));
    paths.sort();
    paths
}

#[test]
fn a_restore_that_is_killed_leaves_the_old_or_the_new() {
    if tool("strace").is_none() {
        return;
    }
    let mut ground = Ground::new();
    for (kind, victim, call, nth) in [
        (Kind::Gone, Victim::Agent, "renameat2", 1),
        (Kind::Copy, Victim::Agent, "rename", 6),
        (Kind::Files, Victim::Server, "fdatasync", 3),
        (Kind::Over, Victim::Host, "rename", 4),
    ] {
        ground.strike(kind, victim, Moment::Call(call, nth));
    }
}

#[test]
#[ignore = "a campaign of hours: .ci/long runs it"]
fn campaign_of_kills() {
    let number = |name: &str, otherwise: u64| {
        std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
    };
    let (count, seed) = (
        number("REPRISE_CRASHES", 500),
        number("REPRISE_CRASH_SEED", 1),
    );
    let mut dice = Dice(seed);
    let mut ground = Ground::new();
    let told = |line: &str| {
        let _ = writeln!(std::io::stderr(), "{line}");
    };
    let (mut kills, mut ends) = (0, BTreeMap::<String, u32>::new());
    if number("REPRISE_CRASH_CALLS", 1) == 1 {
        for kind in KINDS {
            for victim in [Victim::Agent, Victim::Host, Victim::Server] {
                for call in CALLS {
                    for nth in 1.. {
                        let (struck, end) = ground.strike(kind, victim, Moment::Call(call, nth));
                        told(&format!("{kind:?} {victim:?} {call} {nth}: {struck} {end}"));
                        if !struck {
                            break;
                        }
                        kills += 1;
                        *ends.entry(end).or_default() += 1;
                    }
                }
            }
        }
        told(&format!("{kills} kills at calls: {ends:?}"));
    }
    let mut usual = Vec::new();
    for kind in KINDS {
        let begun = Instant::now();
        ground.strike(kind, Victim::Agent, Moment::Call("reboot", 1));
        usual.push(begun.elapsed());
    }
    let (mut kills, mut rounds) = (0, 0);
    ends.clear();
    while kills < count {
        rounds += 1;
        let kind = dice.below(KINDS.len());
        let victim = [Victim::Agent, Victim::Server, Victim::Host][dice.below(3)];
        let millis = usize::try_from(usual[kind].as_millis()).unwrap();
        let after = Duration::from_millis(u64::try_from(dice.below(millis)).unwrap());
        let (struck, end) = ground.strike(KINDS[kind], victim, Moment::After(after));
        told(&format!(
            "{rounds} {:?} {victim:?} {after:?}: {struck} {end}",
            KINDS[kind]
        ));
        if struck {
            kills += 1;
            *ends.entry(end).or_default() += 1;
        }
    }
    told(&format!(
        "seed {seed}: {kills} kills at random moments in {rounds} restores: {ends:?}"
    ));
}

/// Numbers from a seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        usize::try_from(mixed % u64::try_from(limit.max(1)).unwrap()).unwrap()
    }
}

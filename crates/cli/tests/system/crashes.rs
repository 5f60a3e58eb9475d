//! Agent, server or host are killed while a restore runs. Whatever it was: once the job has come to its end, the old or
//! the new is there, whole, and nothing else is left.
//!
//! A kill is either at a call that makes something durable (`strace` kills the program as it enters its Nth `rename`,
//! `fsync`, ...: between any two of them nothing changes that a crash would keep), or after a time. The short form takes
//! a few of the calls. The campaign, run by hand (`.ci/long`), takes call after call until a restore comes to its end
//! unkilled, then random moments: `REPRISE_CRASHES` of them, 500 if not said, from the seed `REPRISE_CRASH_SEED`.

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
    /// A disk to a file.
    Files,
}

const KINDS: [Kind; 3] = [Kind::Gone, Kind::Copy, Kind::Files];

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
    stored: [String; 2],
    /// Restores so far; names what they make.
    number: u32,
}

impl Ground {
    fn new() -> Self {
        let world = World::with_host(EXE);
        add_vm(&world, 0, "vm", &[32, 32]);
        let job = world.back_up("vm", &[]);
        let point = text(&job["point"]).to_owned();
        let stored = hashes(&world, "vm");
        Self {
            world,
            point,
            stored,
            number: 0,
        }
    }

    /// Asks for a restore and returns the job.
    fn start(&self, kind: Kind) -> String {
        let name = format!("copy{}", self.number);
        let folder = format!("D:\\{name}");
        let mut words = vec!["restore", "start", "vm", "--point", &self.point];
        match kind {
            Kind::Gone => {}
            Kind::Copy => words.extend(["--to", "HV01", "--name", &name, "--folder", &folder]),
            Kind::Files => words.extend(["--disk", "disk1.vhdx", "--folder", &folder]),
        }
        job_id(&self.world.cli.json(&words))
    }

    /// Restores with a kill in between and looks at what is there afterwards. Says whether the kill came in time, and how
    /// the job ended.
    fn strike(&mut self, kind: Kind, victim: Victim, moment: Moment) -> (bool, String) {
        self.number += 1;
        if kind == Kind::Gone {
            destroy_vm(&self.world, 0, "vm");
        }
        let trap = match moment {
            Moment::Call(call, nth) => Some(Trap::set(self.pid(victim), call, nth)),
            Moment::After(_) => None,
        };
        let job = self.start(kind);
        let struck = match (moment, trap) {
            (Moment::After(time), _) => {
                // A random moment is what is tested here.
                std::thread::sleep(time);
                !is_over(&self.world.cli.json(&["job", "show", &job]))
            }
            (Moment::Call(..), trap) => self.wait_for_kill(victim, &job, trap),
        };
        if struck || matches!(moment, Moment::After(_)) {
            self.revive(victim);
        }
        let end = self
            .world
            .wait_for_job(&job, &["succeeded", "warnings", "failed"]);
        let end = text(&end["state"]).to_owned();
        let context = format!(
            "restore {} {kind:?}, {victim:?} killed at {moment:?} ({struck}), {end}",
            self.number
        );
        self.check(kind, &end, &context);
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
    fn check(&mut self, kind: Kind, end: &str, context: &str) {
        let well = matches!(end, "succeeded" | "warnings");
        // What a failed job left is removed before its agent is ready again.
        self.world.wait_for_host("HV01", "ready");
        let host = &self.world.hosts[0];
        let name = format!("copy{}", self.number);
        self.world
            .wait_for(&format!("an empty journal: {context}"), || {
                self.journals().is_empty().then_some(())
            });
        let mut expected: Vec<String> = vec!["vm".to_owned()];
        match kind {
            Kind::Gone if well => assert_eq!(hashes(&self.world, "vm"), self.stored, "{context}"),
            Kind::Gone => expected.clear(),
            Kind::Copy if well => {
                assert_eq!(hashes(&self.world, &name), self.stored, "{context}");
                expected.push(name.clone());
            }
            Kind::Files if well => {
                let file = host.local(&format!("D:\\{name}\\disk1.vhdx"));
                assert_eq!(disk_hash(&file), self.stored[1], "{context}");
            }
            Kind::Copy | Kind::Files => {}
        }
        let vms = host.ctl(&["vm", "list"]);
        let mut found: Vec<&str> = vms
            .as_array()
            .unwrap()
            .iter()
            .map(|vm| text(&vm["name"]))
            .collect();
        found.sort_unstable();
        expected.sort();
        assert_eq!(found, expected, "{context}");
        let files = host.files("*");
        let stray: Vec<_> = files
            .iter()
            .filter(|(path, _)| path.contains(".reprise-"))
            .collect();
        assert!(stray.is_empty(), "{context}: {stray:?}");
        let copies: Vec<_> = files
            .iter()
            .filter(|(path, _)| path.starts_with("D:\\"))
            .collect();
        assert!(
            well && kind != Kind::Gone || copies.is_empty(),
            "{context}: {copies:?}"
        );
        if kind == Kind::Copy && well {
            host.ctl(&["vm", "remove", &name]);
        }
        let _ = std::fs::remove_dir_all(host.volume("D").join(&name));
        if kind == Kind::Gone && !well {
            self.world.restore("vm", &["--point", &self.point]);
            assert_eq!(hashes(&self.world, "vm"), self.stored, "{context}");
        }
        // Restored, it is off.
        self.world.hosts[0].run_ctl(&["power", "vm", "on"]);
        // The VM goes on: what it holds now is in no recovery point.
        guest_write(&self.world, "vm", 0, 3 * MIB, MIB, u64::from(self.number));
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

fn hashes(world: &World, vm: &str) -> [String; 2] {
    [0, 1].map(|disk| world.hosts[0].guest_hash(vm, disk))
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
        (Kind::Copy, Victim::Host, "rename", 2),
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
    let (mut kills, mut ends) = (0, std::collections::BTreeMap::<String, u32>::new());
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

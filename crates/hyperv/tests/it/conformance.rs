//! What a host must do for us: one suite of named cases, written against the public API alone, that runs over every
//! form of log-in and with both forms of NULL arrays.
//!
//! A test is one pair of form and NULL arrays: it starts a host, lets every case work on a VM of its own, and names
//! all cases that failed. Cases leave nothing behind that another could see: fault rules and settings go back after
//! each. Not here: what one form of log-in alone does (`auth`, `tls`), replies no host gives (`wire`).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod backup;
mod changes;
mod checkpoints;
mod definition;
mod disks;
mod facts;
mod faults;
mod import;
mod log_in;
mod power;
mod recovery;
mod shadows;

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hyperv::{Authentication, Credentials, Endpoint, Host, HostFiles, ReferencePoint, Trust};
use hyperv_sim::ctl::{Command, FaultRule, FaultSpec, PowerAction, Reply};
use hyperv_sim::{AuthSchemes, RunOptions, TlsOptions};
use model::{ConsistencyWish, VmId, host_path};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use vhdx::{ReadAt, WriteAt};

use crate::sim::{Sim, mark};

const USER: &str = "HV01\\backup";
const PASSWORD: &str = "s3cret: with colon ü";

/// How the driver logs in, and how the host is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// HTTP; the host asks for no log-in.
    Open,
    /// Basic over HTTP.
    Basic,
    /// Basic over HTTPS; the host's certificate is signed by a given CA.
    BasicTlsCa,
    /// Basic over HTTPS; the host's own certificate is pinned.
    BasicTlsPinned,
    /// NTLM over HTTP, every message sealed.
    Ntlm,
    /// NTLM over HTTPS.
    NtlmTls,
    /// What the host offers, over HTTP.
    Auto,
    /// What the host offers, over HTTPS.
    AutoTls,
}

impl Form {
    fn schemes(self) -> AuthSchemes {
        match self {
            Form::Basic | Form::BasicTlsCa | Form::BasicTlsPinned => AuthSchemes::Basic,
            Form::Ntlm | Form::NtlmTls => AuthSchemes::Negotiate,
            Form::Open | Form::Auto | Form::AutoTls => AuthSchemes::Both,
        }
    }

    fn authentication(self) -> Authentication {
        match self {
            Form::Basic | Form::BasicTlsCa | Form::BasicTlsPinned => Authentication::Basic,
            Form::Ntlm | Form::NtlmTls => Authentication::Ntlm,
            Form::Open | Form::Auto | Form::AutoTls => Authentication::Auto,
        }
    }

    fn credentials(self) -> Option<(&'static str, &'static str)> {
        (self != Form::Open).then_some((USER, PASSWORD))
    }

    /// Returns what the host serves HTTPS with; a certificate of a CA goes into `certificates`.
    fn tls(self, certificates: &Path) -> Option<TlsOptions> {
        match self {
            Form::Open | Form::Basic | Form::Ntlm | Form::Auto => None,
            Form::BasicTlsPinned | Form::NtlmTls | Form::AutoTls => Some(TlsOptions::SelfSigned),
            Form::BasicTlsCa => Some(signed_certificate(certificates)),
        }
    }

    fn trust(self, certificates: &Path, host_dir: &Path) -> Trust {
        let read = |path: &Path| std::fs::read_to_string(path).expect("it was written");
        match self {
            Form::Open | Form::Basic | Form::Ntlm | Form::Auto => Trust::System,
            Form::BasicTlsPinned | Form::NtlmTls | Form::AutoTls => {
                Trust::Fingerprint(read(&host_dir.join("tls/fingerprint")).trim().to_owned())
            }
            Form::BasicTlsCa => Trust::CaPem(read(&certificates.join("ca.pem"))),
        }
    }

    /// Makes and starts a host that is reached this way.
    async fn start(self, nil_arrays: bool) -> Bed {
        let certificates = tempfile::tempdir().expect("there is room");
        let tls = self.tls(certificates.path());
        let mut endpoint = None;
        let serve = |options| RunOptions {
            credentials: self
                .credentials()
                .map(|(user, password)| hyperv_sim::Credentials {
                    user: user.into(),
                    password: password.into(),
                }),
            auth: self.schemes(),
            tls,
            ..options
        };
        let connect = |base: Endpoint, host_dir: &Path| {
            let whole = Endpoint {
                credentials: self.credentials().map(credentials),
                authentication: self.authentication(),
                trust: self.trust(certificates.path(), host_dir),
                ..base
            };
            endpoint.insert(whole).clone()
        };
        let sim = Sim::start_served(nil_arrays, serve, connect).await;
        // Quick, and with a short memory: a host that remembers all jobs slows down.
        for (key, value) in [
            ("job_millis", "2"),
            ("merge_millis", "10"),
            ("job_kept_millis", "3000"),
        ] {
            sim.set(key, value).await;
        }
        Bed {
            sim,
            endpoint: endpoint.expect("the driver was connected"),
            next: AtomicUsize::new(0),
            changed: Mutex::default(),
        }
    }
}

fn credentials((user, password): (&str, &str)) -> Credentials {
    Credentials {
        user: user.into(),
        password: password.to_owned().into(),
    }
}

/// Makes a CA (`ca.pem`) and a certificate of it for this machine.
fn signed_certificate(folder: &Path) -> TlsOptions {
    let ca_key = KeyPair::generate().expect("keys can be made");
    let mut ca = CertificateParams::new(Vec::new()).expect("no names are fine");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).expect("a CA can be made").pem();
    let key = KeyPair::generate().expect("keys can be made");
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let certificate = CertificateParams::new(names)
        .expect("names are fine")
        .signed_by(&key, &Issuer::new(ca, ca_key))
        .expect("it can be signed");
    for (name, text) in [
        ("ca.pem", ca_pem),
        ("cert.pem", certificate.pem()),
        ("key.pem", key.serialize_pem()),
    ] {
        std::fs::write(folder.join(name), text).expect("there is room");
    }
    TlsOptions::Files {
        cert: folder.join("cert.pem"),
        key: folder.join("key.pem"),
    }
}

/// Settings that cases change, and what they are otherwise.
const SETTINGS: &[(&str, &str)] = &[
    ("partial_changes", "0"),
    ("coarse_bytes", "512"),
    ("envelope_bytes", "512000"),
];

/// A host to try things on.
struct Bed {
    sim: Sim,
    /// How the driver reaches it.
    endpoint: Endpoint,
    next: AtomicUsize,
    /// Settings the case at work has changed.
    changed: Mutex<Vec<&'static str>>,
}

impl Bed {
    fn host(&self) -> &Host {
        &self.sim.host
    }

    fn files(&self) -> &HostFiles {
        &self.sim.files
    }

    /// A name no other VM has.
    fn name(&self) -> String {
        format!("vm{}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// A VM of the second generation, off.
    async fn vm(&self, disks: usize) -> VmId {
        self.sim.add_vm(&self.name(), 2, disks).await
    }

    /// A VM with one disk that runs.
    async fn running_vm(&self) -> VmId {
        let vm = self.vm(1).await;
        self.sim.power(vm, PowerAction::On).await;
        vm
    }

    /// Lets a rule strike once.
    async fn fault(&self, rule: FaultRule, on: &str) {
        self.sim.fault(rule, on).await;
    }

    /// Lets a rule stand until the end of the case.
    async fn fault_stands(&self, rule: FaultRule, on: &str) {
        let spec = FaultSpec {
            rule,
            on: (!on.is_empty()).then(|| on.to_owned()),
            times: None,
            vm: None,
        };
        self.sim.ctl(Command::FaultAdd(spec)).await;
    }

    /// Takes a checkpoint and turns it into a reference point, as a backup that read everything does.
    async fn back_up(&self, vm: VmId) -> ReferencePoint {
        let known: Vec<String> = self.points(vm).await;
        let taken = self
            .host()
            .take_checkpoint(vm, ConsistencyWish::PreferApplication, mark(1))
            .await
            .expect("the VM can be checkpointed");
        self.host()
            .convert_to_reference_point(vm, &taken.id, &known)
            .await
            .expect("it can be converted")
    }

    async fn points(&self, vm: VmId) -> Vec<String> {
        let points = self.host().reference_points(vm).await;
        let points = points.expect("points can be listed");
        points.into_iter().map(|point| point.id).collect()
    }

    /// Reads a disk that nobody writes, through its chain.
    fn read(&self, path: &str, offset: u64, len: usize) -> Vec<u8> {
        let chain = self.files().open_chain(path).expect("the chain is whole");
        let mut bytes = vec![0; len];
        chain
            .into_disk()
            .read_at(&mut bytes, offset)
            .expect("the disk can be read");
        bytes
    }

    /// Copies a file of the host.
    fn copy(&self, from: &str, to: &str) {
        let source = self.files().open_read(from).expect("it can be read");
        let len = source.len().expect("it has a length");
        let mut bytes = vec![0; usize::try_from(len).expect("it is small")];
        source.read_exact_at(&mut bytes, 0).expect("it can be read");
        self.files()
            .create_folders(host_path::parent(to).expect("it has a folder"))
            .expect("folders can be made");
        let target = self.files().create_new(to).expect("the name is new");
        target.write_all_at(&bytes, 0).expect("there is room");
        target.sync().expect("it can be written out");
    }

    /// Changes a setting until the end of the case.
    async fn set(&self, key: &'static str, value: &str) {
        assert!(SETTINGS.iter().any(|(known, _)| *known == key), "{key}");
        self.changed.lock().expect("no case holds it").push(key);
        self.sim.set(key, value).await;
    }

    /// Undoes what a case did to the simulated host: what stays would slow down the others.
    async fn calm(&self) {
        self.sim.ctl(Command::FaultClear).await;
        let Reply::Vms(left) = self.sim.ctl(Command::VmList).await else {
            panic!("no VMs")
        };
        for vm in left {
            self.sim.ctl(Command::VmRemove { vm: vm.id }).await;
        }
        let changed = std::mem::take(&mut *self.changed.lock().expect("no case holds it"));
        for (key, value) in SETTINGS.iter().filter(|(key, _)| changed.contains(key)) {
            self.sim.set(key, value).await;
        }
    }
}

type Case = fn(Arc<Bed>) -> Pin<Box<dyn Future<Output = ()> + Send>>;

macro_rules! cases {
    ($($module:ident: $($name:ident)*;)*) => {
        /// What a host must do for us, by name.
        const CASES: &[(&str, Case)] = &[$($(
            (
                concat!(stringify!($module), "::", stringify!($name)),
                |bed| Box::pin($module::$name(bed)),
            ),
        )*)*];
    };
}

cases! {
    log_in:
        is_asked_for
        tells_who_the_service_is;
    facts:
        of_the_host_are_told
        of_every_vm_are_told_at_once
        of_one_vm_are_told_whole
        of_a_damaged_disk_do_not_hide_the_rest
        of_what_is_not_there_are_not_found
        come_in_as_many_pieces_as_it_takes;
    backup:
        reads_the_moment_of_its_checkpoint
        leaves_nothing_but_a_reference_point
        of_a_vm_that_is_off_reads_it_as_it_lies
        of_a_crash_consistent_checkpoint_says_so
        without_the_guests_help_says_so
        that_must_have_the_guests_help_fails_without
        reads_through_user_checkpoints_and_keeps_them;
    changes:
        are_told_whole
        are_told_in_parts
        are_told_coarsely
        are_asked_for_in_smaller_parts_where_the_answer_does_not_fit
        since_an_unknown_id_are_not_known
        of_a_file_that_is_gone_are_not_known;
    recovery:
        finds_what_carries_a_mark
        destroys_a_checkpoint_once
        finds_a_checkpoint_whose_answer_was_lost
        finds_a_reference_point_whose_answer_was_lost
        gives_up_on_a_merge_that_does_not_end;
    checkpoints:
        are_taken_and_renamed
        are_applied_to_a_vm_that_is_off
        are_deleted_one_by_one
        are_deleted_with_all_below;
    disks:
        are_attached_and_detached
        are_replaced
        that_are_missing_leave_no_drive
        under_checkpoints_are_not_replaced;
    definition:
        of_the_first_generation_comes_back
        of_the_second_generation_comes_back
        that_fails_leaves_no_vm;
    import:
        brings_back_a_vm_with_its_id
        brings_back_a_copy_with_a_new_id
        names_what_is_missing
        that_is_given_up_leaves_the_disks
        of_an_export_keeps_the_host_merging;
    power:
        goes_where_it_is_asked_to
        of_a_guest_goes_down
        is_off_before_a_vm_is_destroyed;
    shadows:
        hold_the_moment_they_were_made
        are_deleted_once
        whose_answer_was_lost_are_found;
    faults:
        of_the_account_are_told
        that_pass_are_waited_for
        of_a_job_tell_the_hosts_words;
}

/// Runs every case and names those that failed.
async fn all_cases(form: Form, nil_arrays: bool) {
    let bed = Arc::new(form.start(nil_arrays).await);
    let mut failed = Vec::new();
    for (name, case) in CASES {
        bed.calm().await;
        // A task of its own: a case that panics does not end the others.
        if tokio::spawn(case(Arc::clone(&bed))).await.is_err() {
            failed.push(*name);
        }
    }
    assert!(failed.is_empty(), "failed over {form:?}: {failed:?}");
}

macro_rules! forms {
    ($($name:ident = $form:ident;)*) => {
        $(mod $name {
            use super::{Form, all_cases};

            #[tokio::test]
            async fn with_null_arrays_left_out() {
                all_cases(Form::$form, false).await;
            }

            #[tokio::test]
            async fn with_null_arrays_as_nil() {
                all_cases(Form::$form, true).await;
            }
        })*
    };
}

forms! {
    open = Open;
    basic = Basic;
    basic_tls_ca = BasicTlsCa;
    basic_tls_pinned = BasicTlsPinned;
    ntlm = Ntlm;
    ntlm_tls = NtlmTls;
    auto = Auto;
    auto_tls = AutoTls;
}

//! Every variant of [`Error`], given by the simulated host, or by a scripted peer where no sound host would.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use hyperv::{
    Authentication, CimSession, Credentials, Endpoint, Error, ErrorKind, ExportCheckpoints, Host,
    Limits, Merge, Slot, Trust,
};
use hyperv_sim::ctl::{Command, FaultName, FaultRule, FaultSpec, PowerAction};
use hyperv_sim::{AuthSchemes, RunOptions, TlsOptions};
use model::{ConsistencyWish, ControllerKind, VmId};
use tokio_util::sync::CancellationToken;
use wsman::{Items, Reply};

use super::check;
use crate::between::{Mischief, Proxy};
use crate::peer::{Answer, Peer};
use crate::sim::{Sim, mark};

const USER: &str = r"HV01\backup";
const PASSWORD: &str = "s3cret";

macro_rules! variants {
    ($($name:ident)*) => {
        const VARIANTS: &[&str] = &[$(stringify!($name)),*];

        fn variant(error: &Error) -> &'static str {
            match error {
                $(Error::$name { .. } => stringify!($name),)*
            }
        }
    };
}

variants! {
    Settings
    Unreachable
    Untrusted
    Broken
    LogIn
    NoScheme
    NotAsked
    Unsealed
    Tampered
    Http
    Message
    Nonsense
    Fault
    Return
    Job
    JobTimeout
    JobGone
    JobLost
    Cancelled
    NoRights
    NoHyperV
    NotFound
    StillBusy
    NotMerged
    Shadow
    Refused
    Unsupported
}

/// The variants seen so far.
#[derive(Default)]
struct Seen(BTreeSet<&'static str>);

impl Seen {
    #[track_caller]
    fn see(&mut self, name: &str, error: &Error, kind: ErrorKind, words: &[&str]) {
        assert_eq!(variant(error), name, "{error:?}");
        check(error, kind, words);
        self.0.insert(variant(error));
    }
}

#[tokio::test]
async fn every_error_says_what_happened_and_what_to_do() {
    let sim = Sim::start(false).await;
    let mut seen = Seen::default();
    of_the_way_to_the_host(&sim, &mut seen).await;
    of_log_ins(&sim, &mut seen).await;
    of_answers(&mut seen).await;
    of_calls(&sim, &mut seen).await;
    of_jobs(&sim, &mut seen).await;
    of_what_is_asked(&sim, &mut seen).await;
    let missed: Vec<_> = VARIANTS
        .iter()
        .filter(|name| !seen.0.contains(*name))
        .collect();
    assert!(missed.is_empty(), "shown by nothing: {missed:?}");
}

async fn stands(sim: &Sim, rule: FaultRule, on: &str) {
    let spec = FaultSpec {
        rule,
        on: (!on.is_empty()).then(|| on.to_owned()),
        times: None,
        vm: None,
    };
    sim.ctl(Command::FaultAdd(spec)).await;
}

async fn of_the_way_to_the_host(sim: &Sim, seen: &mut Seen) {
    let error = Host::new(&Endpoint::new("ftp://hv01/wsman")).unwrap_err();
    let words = ["ftp://hv01/wsman", "https://HOST:5986/wsman"];
    seen.see("Settings", &error, ErrorKind::Refused, &words);

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap().to_string();
    drop(nobody);
    let host = Host::new(&Endpoint::new(format!("http://{address}/wsman"))).unwrap();
    let error = host.facts().await.unwrap_err();
    let words = [address.as_str(), "WinRM"];
    seen.see("Unreachable", &error, ErrorKind::Retry, &words);

    let vm = sim.add_vm("way", 2, 1).await;
    sim.fault(FaultRule::ConnectionLostBefore, "RequestStateChange")
        .await;
    let error = sim.host.start(vm).await.unwrap_err();
    let words = [&sim.url(), "RequestStateChange"];
    seen.see("Broken", &error, ErrorKind::ResultUnknown, &words);

    stands(sim, FaultRule::Busy, "get").await;
    let error = sim.host.power(vm).await.unwrap_err();
    let words = [&sim.url(), "503", "Msvm_ComputerSystem"];
    seen.see("Http", &error, ErrorKind::Retry, &words);
    sim.ctl(Command::FaultClear).await;
}

/// A host that asks for a log-in.
async fn locked(auth: AuthSchemes, tls: Option<TlsOptions>, connect: Endpoint) -> Sim {
    let serve = |options| RunOptions {
        credentials: Some(hyperv_sim::Credentials {
            user: USER.into(),
            password: PASSWORD.into(),
        }),
        auth,
        tls,
        ..options
    };
    let connect = |base: Endpoint, _: &Path| Endpoint {
        url: base.url,
        ..connect
    };
    Sim::start_served(false, serve, connect).await
}

fn account(authentication: Authentication, password: &str) -> Endpoint {
    Endpoint {
        credentials: Some(Credentials {
            user: USER.into(),
            password: password.to_owned().into(),
        }),
        authentication,
        ..Endpoint::new("")
    }
}

async fn of_log_ins(open: &Sim, seen: &mut Seen) {
    let wrong = account(Authentication::Ntlm, "wrong");
    let sim = locked(AuthSchemes::Negotiate, None, wrong).await;
    let error = sim.host.facts().await.unwrap_err();
    let words = [&sim.url(), USER, "NTLM", "password"];
    seen.see("LogIn", &error, ErrorKind::AccessDenied, &words);

    let right = account(Authentication::Ntlm, PASSWORD);
    for (mischief, name) in [
        (Mischief::FlipAnswer, "Tampered"),
        (Mischief::AnswerInPlain, "Unsealed"),
    ] {
        let address = sim.url().replace("http://", "").replace("/wsman", "");
        let proxy = Proxy::start(address.parse().unwrap(), mischief).await;
        let endpoint = Endpoint {
            url: proxy.url(),
            ..right.clone()
        };
        let error = Host::new(&endpoint).unwrap().facts().await.unwrap_err();
        seen.see(name, &error, ErrorKind::Protocol, &[&proxy.url()]);
    }

    let by_choice = account(Authentication::Auto, PASSWORD);
    let sim = locked(AuthSchemes::Basic, None, by_choice).await;
    let error = sim.host.facts().await.unwrap_err();
    let words = [&sim.url(), "Basic", "use HTTPS"];
    seen.see("NoScheme", &error, ErrorKind::AccessDenied, &words);

    let another = Endpoint {
        trust: Trust::Fingerprint("ab".repeat(32)),
        ..right.clone()
    };
    let sim = locked(AuthSchemes::Both, Some(TlsOptions::SelfSigned), another).await;
    let error = sim.host.facts().await.unwrap_err();
    let words = [&sim.url(), "fingerprint"];
    seen.see("Untrusted", &error, ErrorKind::Refused, &words);

    let endpoint = Endpoint {
        url: open.url(),
        ..right
    };
    let error = Host::new(&endpoint).unwrap().facts().await.unwrap_err();
    let words = [&open.url(), "asks for no log-in"];
    seen.see("NotAsked", &error, ErrorKind::Refused, &words);
}

async fn of_answers(seen: &mut Seen) {
    let peer = Peer::start(|_| Answer::Raw(200, b"<html>a proxy's page</html>".to_vec())).await;
    let session = CimSession::new(&Endpoint::new(peer.url.as_str())).unwrap();
    let error = session.identify().await.unwrap_err();
    seen.see("Message", &error, ErrorKind::Protocol, &["Identify"]);

    let peer = Peer::start(|_| Reply::Empty.into()).await;
    let session = CimSession::new(&Endpoint::new(peer.url.as_str())).unwrap();
    let error = session.identify().await.unwrap_err();
    let words = ["Identify", "it is empty"];
    seen.see("Nonsense", &error, ErrorKind::Protocol, &words);

    // An account without rights gets nothing, rather than a fault.
    let peer = Peer::start(|_| {
        let batch = Items {
            end: true,
            ..Items::default()
        };
        let reply = Reply::Enumerate {
            batch,
            optimized: true,
        };
        reply.into()
    })
    .await;
    let host = Host::new(&Endpoint::new(peer.url.as_str())).unwrap();
    let error = host.vms().await.unwrap_err();
    let words = ["Hyper-V Administrators", "Remote Management Users"];
    seen.see("NoRights", &error, ErrorKind::AccessDenied, &words);
}

async fn of_calls(sim: &Sim, seen: &mut Seen) {
    let vm = sim.add_vm("calls", 2, 1).await;
    sim.fault(
        FaultRule::Fault(FaultName::InvalidParameter),
        "RequestStateChange",
    )
    .await;
    let error = sim.host.start(vm).await.unwrap_err();
    let words = ["RequestStateChange", "a fault rule says so"];
    seen.see("Fault", &error, ErrorKind::Refused, &words);

    sim.fault(FaultRule::ReturnCode(32775), "RequestStateChange")
        .await;
    let error = sim.host.start(vm).await.unwrap_err();
    let words = ["RequestStateChange", "32775", "invalid state"];
    seen.see("Return", &error, ErrorKind::WrongState, &words);

    let fresh = Host::new(&Endpoint::new(sim.url())).unwrap();
    sim.fault(
        FaultRule::Fault(FaultName::DestinationUnreachable),
        "enumerate",
    )
    .await;
    let error = fresh.vms().await.unwrap_err();
    let words = [&sim.url(), "root/virtualization/v2"];
    seen.see("NoHyperV", &error, ErrorKind::Unsupported, &words);

    sim.set("shadow_code", "6").await;
    let volume = sim.host.volumes().await.unwrap().remove(0);
    let error = sim.host.create_shadow(&volume, &[]).await.unwrap_err();
    seen.see("Shadow", &error, ErrorKind::Refused, &[&volume.path]);
    sim.set("shadow_code", "0").await;
}

async fn of_jobs(sim: &Sim, seen: &mut Seen) {
    let vm = sim.add_vm("jobs", 2, 1).await;
    sim.fault(FaultRule::JobFailedWith(32774), "RequestStateChange")
        .await;
    let error = sim.host.start(vm).await.unwrap_err();
    let Error::Job { text, .. } = &error else {
        panic!("{error:?}")
    };
    let words = ["RequestStateChange", "32774", "in use", text];
    seen.see("Job", &error, ErrorKind::InUse, &words);

    let export = async |host: &Host, folder: &str| {
        host.export_definition(vm, folder, ExportCheckpoints::None)
            .await
            .unwrap_err()
    };
    sim.fault(FaultRule::JobVanishes, "ExportSystemDefinition")
        .await;
    let error = export(&sim.host, r"C:\E1").await;
    let words = ["ExportSystemDefinition", "unknown"];
    seen.see("JobGone", &error, ErrorKind::ResultUnknown, &words);

    // Long enough that something can happen while it runs.
    sim.set("job_millis", "1000").await;
    let (error, ()) = tokio::join!(export(&sim.host, r"C:\E2"), async {
        wait_for_a_job(sim).await;
        stands(sim, FaultRule::AccessDenied, "get").await;
    });
    let words = ["ExportSystemDefinition", "Access is denied"];
    seen.see("JobLost", &error, ErrorKind::ResultUnknown, &words);
    sim.ctl(Command::FaultClear).await;
    sim.host.wait_settled(vm).await.unwrap();

    let cancel = CancellationToken::new();
    let host = sim.host.clone().with_cancel(cancel.clone());
    let (error, ()) = tokio::join!(export(&host, r"C:\E3"), async {
        wait_for_a_job(sim).await;
        cancel.cancel();
    });
    let words = ["ExportSystemDefinition"];
    seen.see("Cancelled", &error, ErrorKind::Cancelled, &words);
    sim.host.wait_settled(vm).await.unwrap();

    let impatient = sim.host.clone().with_limits(Limits {
        job: Duration::from_millis(50),
        first_poll: Duration::from_millis(5),
        ..Limits::default()
    });
    let error = impatient.start(vm).await.unwrap_err();
    let words = ["RequestStateChange", "still under way"];
    seen.see("JobTimeout", &error, ErrorKind::Timeout, &words);
    sim.set("job_millis", "20").await;
    sim.host.wait_settled(vm).await.unwrap();
}

/// Waits until the host works on a job.
async fn wait_for_a_job(sim: &Sim) {
    let wql = "SELECT * FROM Msvm_ConcreteJob WHERE JobState < 7";
    for _ in 0..1000 {
        let jobs = sim.host.session().query("root/virtualization/v2", wql);
        if !jobs.await.unwrap().is_empty() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("no job was started");
}

async fn of_what_is_asked(sim: &Sim, seen: &mut Seen) {
    let nobody = VmId::random();
    let error = sim.host.vm(nobody).await.unwrap_err();
    let id = nobody.to_string();
    seen.see("NotFound", &error, ErrorKind::NotFound, &[&id]);

    let vm = sim.add_vm("asked", 2, 2).await;
    let slot = Slot {
        kind: ControllerKind::Scsi,
        controller: 0,
        slot: 1,
    };
    let error = sim
        .host
        .attach_disk(vm, r"C:\VMs\asked\disk0.vhdx", Some(slot))
        .await
        .unwrap_err();
    seen.see("Refused", &error, ErrorKind::Refused, &[]);

    sim.power(vm, PowerAction::On).await;
    let taken = sim
        .host
        .take_checkpoint(vm, ConsistencyWish::Crash, mark(1))
        .await
        .unwrap();
    stands(sim, FaultRule::MergeNeverEnds, "").await;
    sim.host.destroy_checkpoint(vm, &taken.id).await.unwrap();
    let impatient = sim.host.clone().with_limits(Limits {
        merge: Duration::from_millis(100),
        first_poll: Duration::from_millis(5),
        ..Limits::default()
    });
    let error = impatient.wait_merged(vm).await.unwrap_err();
    let id = vm.to_string();
    seen.see("StillBusy", &error, ErrorKind::Timeout, &[&id, "merging"]);
    sim.ctl(Command::FaultClear).await;
    sim.host.wait_merged(vm).await.unwrap();

    // A merge that has not even begun when the host is quiet.
    let merge = Merge {
        from: r"C:\VMs\asked\disk1.vhdx".into(),
        into: r"C:\VMs\asked\disk0.vhdx".into(),
        bytes: 0,
    };
    let impatient = sim.host.clone().with_limits(Limits {
        settle: Duration::from_millis(50),
        first_poll: Duration::from_millis(5),
        last_poll: Duration::from_millis(20),
        ..Limits::default()
    });
    let error = impatient
        .wait_merged_with(vm, std::slice::from_ref(&merge), |_| {})
        .await
        .unwrap_err();
    let words = [id.as_str(), &merge.from, "Hyper-V-VMMS"];
    seen.see("NotMerged", &error, ErrorKind::Failed, &words);

    // The guest of a VM that is paused hears nothing.
    sim.power(vm, PowerAction::Pause).await;
    let error = sim.host.shut_down(vm).await.unwrap_err();
    let words = [id.as_str(), "turn it off"];
    seen.see("Unsupported", &error, ErrorKind::Unsupported, &words);
}

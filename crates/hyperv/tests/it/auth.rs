//! Log-ins: every form over real HTTP and HTTPS, what goes wrong with them, and who listens on the wire.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use hyperv::{Authentication, CimSession, Credentials, Endpoint, Error, ErrorKind, Trust};
use hyperv_sim::ctl::{Command, FaultRule, FaultSpec};
use hyperv_sim::{AuthSchemes, InitOptions, RunOptions, Running, TlsOptions};
use wsman::{Epr, Properties};

use crate::between::{Mischief, Proxy};

const USER: &str = "größe";
const PASSWORD: &str = "pässwörd: €";
const CIMV2: &str = "root/cimv2";
const V2: &str = "root/virtualization/v2";

/// A host that asks for a log-in.
struct Sim {
    dir: tempfile::TempDir,
    running: Running,
}

impl Sim {
    async fn start(auth: AuthSchemes, tls: bool) -> Self {
        let dir = tempfile::tempdir().expect("there is room");
        let init = InitOptions {
            dir: dir.path().to_owned(),
            name: "HV01".into(),
            volumes: Vec::new(),
        };
        hyperv_sim::init(&init).expect("the folder is new");
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let options = RunOptions {
            credentials: Some(hyperv_sim::Credentials {
                user: USER.into(),
                password: PASSWORD.into(),
            }),
            auth,
            tls: tls.then_some(TlsOptions::SelfSigned),
            ..RunOptions::new(dir.path(), listen)
        };
        let running = hyperv_sim::start(options)
            .await
            .expect("nothing else serves it");
        Self { dir, running }
    }

    fn endpoint(&self, authentication: Authentication) -> Endpoint {
        let trust = self.running.fingerprint().map(str::to_owned);
        Endpoint {
            credentials: Some(credentials(USER, PASSWORD)),
            authentication,
            trust: trust.map_or(Trust::System, Trust::Fingerprint),
            ..Endpoint::new(self.running.url())
        }
    }

    fn session(&self, authentication: Authentication) -> CimSession {
        CimSession::new(&self.endpoint(authentication)).expect("the address is good")
    }

    async fn ctl(&self, command: Command) {
        let dir = self.dir.path().to_owned();
        let work = move || hyperv_sim::ctl(&dir, &command, &mut Vec::new()).map(drop);
        let done = tokio::task::spawn_blocking(work).await;
        done.expect("control commands do not panic")
            .expect("the host runs");
    }

    async fn fault(&self, rule: FaultRule, on: &str, times: u32) {
        self.ctl(Command::FaultAdd(FaultSpec {
            rule,
            on: (!on.is_empty()).then(|| on.to_owned()),
            times: Some(times),
            vm: None,
        }))
        .await;
    }
}

fn credentials(user: &str, password: &str) -> Credentials {
    Credentials {
        user: user.into(),
        password: password.to_owned().into(),
    }
}

async fn ask(session: &CimSession) -> Result<usize, Error> {
    let found = session
        .query(CIMV2, "SELECT * FROM Win32_ComputerSystem")
        .await?;
    Ok(found.len())
}

/// Calls a method that changes something; what it is called for does not exist, which the host says.
async fn change(session: &CimSession) -> Result<Properties, Error> {
    let service = Epr::new(V2, "Msvm_ImageManagementService")
        .with("CreationClassName", "Msvm_ImageManagementService");
    let parameters = Properties::new()
        .with("ChildPath", r"C:\none.vhdx")
        .with("ParentPath", r"C:\none either.vhdx")
        .with("IgnoreIDMismatch", false);
    session
        .invoke(&service, "SetParentVirtualHardDisk", parameters)
        .await
}

use AuthSchemes as Offered;
use Authentication as Asked;

#[tokio::test]
async fn every_form_of_log_in_works_over_http_and_https() {
    for (offered, tls, asked) in [
        (Offered::Both, false, Asked::Auto),
        (Offered::Both, false, Asked::Ntlm),
        (Offered::Both, false, Asked::Basic),
        (Offered::Negotiate, false, Asked::Auto),
        (Offered::Basic, false, Asked::Basic),
        (Offered::Both, true, Asked::Auto),
        (Offered::Both, true, Asked::Ntlm),
        (Offered::Both, true, Asked::Basic),
        (Offered::Negotiate, true, Asked::Ntlm),
        (Offered::Basic, true, Asked::Auto),
    ] {
        let sim = Sim::start(offered, tls).await;
        let session = sim.session(asked);
        for _ in 0..3 {
            let found = ask(&session).await;
            assert_eq!(
                found.unwrap_or_else(|error| panic!("{offered:?} {tls} {asked:?}: {error:?}")),
                1
            );
        }
        let identity = session.identify().await.expect("it is logged in");
        assert_eq!(identity.version, "OS: 10.0.20348 SP: 0.0 Stack: 3.0");
    }
}

#[tokio::test]
async fn accounts_may_be_written_in_every_way() {
    let sim = Sim::start(Offered::Negotiate, false).await;
    for user in ["GRÖßE", r"HV01\größe", r".\größe"] {
        let endpoint = Endpoint {
            credentials: Some(credentials(user, PASSWORD)),
            ..sim.endpoint(Asked::Auto)
        };
        let session = CimSession::new(&endpoint).expect("the address is good");
        assert_eq!(ask(&session).await.expect(user), 1);
    }
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_named_as_such() {
    for tls in [false, true] {
        let sim = Sim::start(Offered::Both, tls).await;
        for asked in [Asked::Auto, Asked::Ntlm, Asked::Basic] {
            for (user, password) in [(USER, "wrong"), (USER, ""), ("nobody", PASSWORD)] {
                let endpoint = Endpoint {
                    credentials: Some(credentials(user, password)),
                    ..sim.endpoint(asked)
                };
                let session = CimSession::new(&endpoint).expect("the address is good");
                let error = ask(&session).await.expect_err("the account is wrong");
                assert_eq!(error.kind(), ErrorKind::AccessDenied);
                assert!(matches!(error, Error::LogIn { .. }), "{asked:?}: {error:?}");
                assert!(error.to_string().contains("check user name"), "{error}");
            }
        }
        let endpoint = Endpoint {
            credentials: None,
            ..sim.endpoint(Asked::Auto)
        };
        let session = CimSession::new(&endpoint).expect("the address is good");
        let error = ask(&session).await.expect_err("nobody is no account");
        assert_eq!(error.kind(), ErrorKind::AccessDenied);
    }
}

#[tokio::test]
async fn a_host_that_offers_nothing_we_may_use_is_told_with_both_lists() {
    for (offered, tls, asked, words) in [
        (
            Offered::Basic,
            false,
            Asked::Auto,
            ["offers Basic", "HTTPS"],
        ),
        (
            Offered::Basic,
            false,
            Asked::Ntlm,
            ["offers Basic", "NTLM through Negotiate"],
        ),
        (
            Offered::Basic,
            true,
            Asked::Ntlm,
            ["offers Basic", "Negotiate=\"true\""],
        ),
        (
            Offered::Negotiate,
            false,
            Asked::Basic,
            ["offers Negotiate", "Basic=\"true\""],
        ),
        (
            Offered::Negotiate,
            true,
            Asked::Basic,
            ["offers Negotiate", "use NTLM"],
        ),
    ] {
        let sim = Sim::start(offered, tls).await;
        let error = ask(&sim.session(asked)).await.expect_err("no scheme fits");
        assert!(matches!(error, Error::NoScheme { .. }), "{error:?}");
        assert_eq!(error.kind(), ErrorKind::AccessDenied);
        for word in words {
            assert!(error.to_string().contains(word), "{word}: {error}");
        }
    }
}

#[tokio::test]
async fn a_log_in_that_expired_is_made_anew_once() {
    for (tls, asked) in [
        (false, Asked::Ntlm),
        (true, Asked::Ntlm),
        (false, Asked::Basic),
    ] {
        let sim = Sim::start(Offered::Both, tls).await;
        let session = sim.session(asked);
        ask(&session).await.expect("the log-in is good");
        sim.fault(FaultRule::Unauthorized, "", 1).await;
        ask(&session).await.expect("it logs in anew");
        // The method has certainly not run: the host wanted a log-in first.
        sim.fault(FaultRule::Unauthorized, "SetParentVirtualHardDisk", 1)
            .await;
        let answer = change(&session).await.expect("it logs in anew");
        assert!(answer.u32("ReturnValue").is_some());
        sim.fault(FaultRule::Unauthorized, "", 2).await;
        let error = ask(&session).await.expect_err("twice is a refusal");
        assert!(matches!(error, Error::LogIn { .. }), "{error:?}");
        ask(&session).await.expect("the rule is used up");
    }
}

#[tokio::test]
async fn a_connection_that_was_cut_is_replaced() {
    let sim = Sim::start(Offered::Negotiate, false).await;
    let proxy = Proxy::start(sim.running.address(), Mischief::None).await;
    let endpoint = Endpoint {
        url: proxy.url(),
        ..sim.endpoint(Asked::Ntlm)
    };
    let session = CimSession::new(&endpoint).expect("the address is good");
    for _ in 0..3 {
        ask(&session).await.expect("a connection is made");
        proxy.cut();
    }
    assert!(proxy.connections() >= 3);
    // A method whose connection is lost after it ran is not called again.
    ask(&session).await.expect("a connection is made");
    sim.fault(
        FaultRule::ConnectionLostAfter,
        "SetParentVirtualHardDisk",
        1,
    )
    .await;
    let error = change(&session).await.expect_err("the answer is lost");
    assert_eq!(error.kind(), ErrorKind::ResultUnknown, "{error:?}");
}

#[tokio::test]
async fn many_requests_at_once_each_have_a_connection_of_their_own() {
    for (tls, asked) in [
        (false, Asked::Ntlm),
        (true, Asked::Ntlm),
        (true, Asked::Basic),
    ] {
        let sim = Sim::start(Offered::Both, tls).await;
        let session = Arc::new(sim.session(asked));
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..40 {
            let session = Arc::clone(&session);
            tasks.spawn(async move {
                if n % 4 == 0 {
                    change(&session).await.map(drop)
                } else {
                    ask(&session).await.map(drop)
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.expect("no task panics")
                .expect("every request is answered");
        }
    }
}

#[tokio::test]
async fn a_request_given_up_half_way_takes_its_connection_with_it() {
    let sim = Sim::start(Offered::Negotiate, false).await;
    let session = Arc::new(sim.session(Asked::Ntlm));
    ask(&session).await.expect("the log-in is good");
    sim.ctl(Command::FaultSet {
        key: "slow_millis".into(),
        value: "300".into(),
    })
    .await;
    sim.fault(FaultRule::SlowReply, "", 1).await;
    let waiting = Arc::clone(&session);
    let limit = std::time::Duration::from_millis(50);
    let given_up = tokio::time::timeout(limit, async move { ask(&waiting).await }).await;
    assert!(given_up.is_err());
    for _ in 0..3 {
        ask(&session).await.expect("another connection serves");
    }
}

#[tokio::test]
async fn large_messages_are_sealed_whole() {
    let sim = Sim::start(Offered::Negotiate, false).await;
    let session = sim.session(Asked::Ntlm);
    // As large as a host takes: 500 kB.
    let large = "x".repeat(480_000);
    let query = format!("SELECT * FROM Win32_ComputerSystem WHERE Name != '{large}'");
    let found = session.query(CIMV2, &query).await;
    assert_eq!(found.expect("it is opened whole").len(), 1);
    // Beyond that it says so.
    let query = format!("SELECT * FROM Win32_ComputerSystem WHERE Name != '{large}{large}'");
    session
        .query(CIMV2, &query)
        .await
        .expect_err("it is too large");
    ask(&session).await.expect("another connection serves");
}

#[tokio::test]
async fn changed_answers_are_refused_loudly() {
    let sim = Sim::start(Offered::Negotiate, false).await;
    let proxy = Proxy::start(sim.running.address(), Mischief::FlipAnswer).await;
    let endpoint = Endpoint {
        url: proxy.url(),
        ..sim.endpoint(Asked::Ntlm)
    };
    let session = CimSession::new(&endpoint).expect("the address is good");
    let error = ask(&session).await.expect_err("a byte was changed");
    assert!(matches!(error, Error::Tampered { .. }), "{error:?}");
    assert!(error.to_string().contains("does not open"), "{error}");
}

#[tokio::test]
async fn changed_requests_and_plain_answers_are_refused_loudly() {
    for mischief in [Mischief::FlipRequest, Mischief::AnswerInPlain] {
        let sim = Sim::start(Offered::Negotiate, false).await;
        let proxy = Proxy::start(sim.running.address(), mischief).await;
        let endpoint = Endpoint {
            url: proxy.url(),
            ..sim.endpoint(Asked::Auto)
        };
        let session = CimSession::new(&endpoint).expect("the address is good");
        let error = change(&session).await.expect_err("somebody meddles");
        assert!(matches!(error, Error::Unsealed { .. }), "{error:?}");
        assert_eq!(error.kind(), ErrorKind::Protocol);
        assert!(error.to_string().contains("plain text"), "{error}");
    }
}

#[tokio::test]
async fn an_account_is_given_to_no_host_that_asks_for_none() {
    let sim = crate::sim::Sim::start(false).await;
    let endpoint = |authentication| Endpoint {
        credentials: Some(credentials(USER, PASSWORD)),
        authentication,
        ..Endpoint::new(sim.url())
    };
    for asked in [Asked::Auto, Asked::Ntlm] {
        let session = CimSession::new(&endpoint(asked)).expect("the address is good");
        let error = ask(&session).await.expect_err("it asks for nothing");
        assert!(matches!(error, Error::NotAsked { .. }), "{error:?}");
    }
    let session = CimSession::new(&endpoint(Asked::Basic)).expect("the address is good");
    ask(&session).await.expect("Basic was asked for by name");
}

#[tokio::test]
async fn credentials_that_cannot_be_sent_are_refused_at_once() {
    for (asked, user, password) in [
        (Asked::Basic, "a:b", "p"),
        (Asked::Ntlm, "", "p"),
        (Asked::Auto, "u", "$NTLM$:00000000000000000000000000000000"),
    ] {
        let endpoint = Endpoint {
            credentials: Some(credentials(user, password)),
            authentication: asked,
            ..Endpoint::new("http://127.0.0.1:1/wsman")
        };
        let error = CimSession::new(&endpoint).expect_err("it cannot work");
        assert!(matches!(error, Error::Settings { .. }), "{error:?}");
        assert!(!error.to_string().contains("0000"), "{error}");
    }
}

#[tokio::test]
async fn an_account_without_rights_is_told_which_groups_it_needs() {
    let sim = Sim::start(Offered::Negotiate, false).await;
    let session = sim.session(Asked::Auto);
    sim.fault(FaultRule::AccessDenied, "", 1).await;
    let error = ask(&session).await.expect_err("it has no rights");
    assert_eq!(error.kind(), ErrorKind::AccessDenied);
    assert!(
        error.to_string().contains("Remote Management Users"),
        "{error}"
    );
    ask(&session)
        .await
        .expect("the log-in is as good as before");
}

/// A writer that keeps everything.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("nobody panics").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_secret_is_in_any_log() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing_subscriber::util::SubscriberInitExt::set_default(subscriber);
    let sim = Sim::start(Offered::Both, false).await;
    for asked in [Asked::Ntlm, Asked::Basic] {
        let session = sim.session(asked);
        ask(&session).await.expect("the log-in is good");
        sim.fault(FaultRule::Unauthorized, "", 1).await;
        ask(&session).await.expect("it logs in anew");
        let shown = format!("{session:?}");
        assert!(!shown.contains(PASSWORD), "{shown}");
    }
    let text = String::from_utf8_lossy(&log.0.lock().expect("nobody panics")).into_owned();
    assert!(
        text.contains("the host wants a new log-in"),
        "the log is caught"
    );
    // The password, Basic's header and NTLM's tokens in base64, and the password as NTLM sees it.
    let hex: String = PASSWORD
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .map(|byte| format!("{byte:02X}"))
        .collect();
    for secret in [PASSWORD, "Z3LDtsOfZTpww6Rzc3c", "TlRMTVNTUA", &hex] {
        assert!(!text.contains(secret), "{secret}");
    }
}

/// Sends bytes on a new connection and returns the head of the answer.
async fn raw(address: SocketAddr, content_type: &str, body: &[u8]) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address)
        .await
        .expect("the host listens");
    let head = format!(
        "POST /wsman HTTP/1.1\r\nHost: hv01\r\nConnection: close\r\nContent-Type: {content_type}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("it reads");
    stream.write_all(body).await.expect("it reads");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .await
        .expect("it answers");
    answer.to_ascii_lowercase()
}

#[tokio::test]
async fn who_has_not_logged_in_is_challenged_whatever_was_sent() {
    let sim = Sim::start(Offered::Negotiate, false).await;
    let sealed = wsman::sealed::write(wsman::sealed::Sealed {
        signature: &[1; 16],
        sealed: b"of another connection",
    });
    for (content_type, body) in [
        (wsman::sealed::CONTENT_TYPE, sealed.as_slice()),
        ("application/soap+xml;charset=UTF-8", b"<x/>"),
        ("application/soap+xml;charset=UTF-8", b""),
    ] {
        let answer = raw(sim.running.address(), content_type, body).await;
        assert!(answer.starts_with("http/1.1 401 "), "{answer}");
        assert!(
            answer.contains("www-authenticate: negotiate\r\n"),
            "{answer}"
        );
    }
}

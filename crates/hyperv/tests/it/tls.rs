//! HTTPS: which hosts are the right one.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use hyperv::{Authentication, CimSession, Credentials, Endpoint, Error, ErrorKind, Trust};
use hyperv_sim::{AuthSchemes, InitOptions, RunOptions, Running, TlsOptions};
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ECDSA_P384_SHA384,
    date_time_ymd,
};

/// A host with a certificate of its own CA.
struct Host {
    dir: tempfile::TempDir,
    running: Running,
    ca: String,
}

/// What is special about a certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Special {
    Nothing,
    Expired,
    OtherName,
    /// Signed with SHA-384, so log-ins are bound to another hash.
    Sha384,
}

impl Host {
    async fn start(special: Special) -> Self {
        let dir = tempfile::tempdir().expect("there is room");
        let (cert, key, ca) = make(dir.path(), special);
        let host = dir.path().join("host");
        let init = InitOptions {
            dir: host.clone(),
            name: "HV01".into(),
            volumes: Vec::new(),
        };
        hyperv_sim::init(&init).expect("the folder is new");
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let options = RunOptions {
            credentials: Some(hyperv_sim::Credentials {
                user: "backup".into(),
                password: "secret".into(),
            }),
            auth: AuthSchemes::Negotiate,
            tls: Some(TlsOptions::Files { cert, key }),
            ..RunOptions::new(host, listen)
        };
        let running = hyperv_sim::start(options)
            .await
            .expect("nothing else serves it");
        Self { dir, running, ca }
    }

    fn fingerprint(&self) -> Trust {
        Trust::Fingerprint(self.running.fingerprint().expect("it is HTTPS").to_owned())
    }

    async fn ask(&self, trust: Trust) -> Result<(), Error> {
        ask(&self.running.url(), trust).await
    }
}

fn make(dir: &Path, special: Special) -> (std::path::PathBuf, std::path::PathBuf, String) {
    let ca_key = match special {
        Special::Sha384 => KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384),
        Special::Nothing | Special::Expired | Special::OtherName => KeyPair::generate(),
    }
    .expect("keys can be made");
    let mut ca = CertificateParams::new(Vec::new()).expect("no names are fine");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).expect("a CA can be made").pem();
    let key = KeyPair::generate().expect("keys can be made");
    let names = if special == Special::OtherName {
        vec!["hv02.example".to_owned()]
    } else {
        vec!["localhost".to_owned(), "127.0.0.1".to_owned()]
    };
    let mut params = CertificateParams::new(names).expect("names are fine");
    if special == Special::Expired {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    }
    let certificate = params
        .signed_by(&key, &Issuer::new(ca, ca_key))
        .expect("it can be signed");
    let (cert_file, key_file) = (dir.join("cert.pem"), dir.join("key.pem"));
    std::fs::write(&cert_file, certificate.pem()).expect("there is room");
    std::fs::write(&key_file, key.serialize_pem()).expect("there is room");
    (cert_file, key_file, ca_pem)
}

/// Logs in by NTLM, which is bound to the channel, and asks who the host is.
async fn ask(url: &str, trust: Trust) -> Result<(), Error> {
    let endpoint = Endpoint {
        trust,
        credentials: Some(Credentials {
            user: "backup".into(),
            password: "secret".to_owned().into(),
        }),
        authentication: Authentication::Ntlm,
        ..Endpoint::new(url)
    };
    CimSession::new(&endpoint)?.identify().await.map(drop)
}

fn untrusted(result: Result<(), Error>) -> String {
    let error = result.expect_err("it is not the right host");
    assert!(matches!(error, Error::Untrusted { .. }), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("fingerprint"), "{error}");
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[tokio::test]
async fn the_right_certificate_is_accepted_and_no_other() {
    let host = Host::start(Special::Nothing).await;
    let other = Host::start(Special::Nothing).await;
    host.ask(Trust::CaPem(host.ca.clone()))
        .await
        .expect("it is its CA");
    host.ask(host.fingerprint())
        .await
        .expect("it is its fingerprint");
    for wrong in [
        Trust::CaPem(other.ca.clone()),
        other.fingerprint(),
        Trust::System,
    ] {
        untrusted(host.ask(wrong).await);
    }
    for nonsense in [
        Trust::CaPem("nothing".into()),
        Trust::Fingerprint("12".into()),
    ] {
        let error = host.ask(nonsense).await.expect_err("it makes no sense");
        assert!(matches!(error, Error::Settings { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn an_expired_certificate_and_one_of_another_name_are_refused_unless_pinned() {
    for (special, word) in [
        (Special::Expired, "expired"),
        (Special::OtherName, "hv02.example"),
    ] {
        let host = Host::start(special).await;
        let text = untrusted(host.ask(Trust::CaPem(host.ca.clone())).await);
        assert!(text.contains(word), "{text}");
        host.ask(host.fingerprint())
            .await
            .expect("this very certificate is meant");
    }
}

#[tokio::test]
async fn log_ins_are_bound_to_the_hash_the_certificate_is_signed_with() {
    let host = Host::start(Special::Sha384).await;
    host.ask(Trust::CaPem(host.ca.clone()))
        .await
        .expect("it is its CA");
}

#[tokio::test]
async fn a_log_in_is_of_no_use_to_a_machine_in_between() {
    // It shows a certificate that the driver trusts, and passes everything on to the host.
    let host = Host::start(Special::Nothing).await;
    let between = crate::between::tls(host.running.address(), &host.ca, host.dir.path()).await;
    let error = ask(&between.url, Trust::Fingerprint(between.fingerprint))
        .await
        .expect_err("the log-in belongs to another channel");
    assert!(matches!(error, Error::LogIn { .. }), "{error:?}");
}

const CHILD: &str = "REPRISE_TEST_SYSTEM_STORE";

/// Not a test of its own: a driver whose system store is the one its parent names.
#[tokio::test]
async fn system_store() {
    if let Some(url) = std::env::var_os(CHILD) {
        let url = url.into_string().expect("addresses are text");
        ask(&url, Trust::System)
            .await
            .expect("the system trusts it");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_store_of_the_system_decides_where_nothing_else_is_given() {
    let host = Host::start(Special::Nothing).await;
    let store = host.dir.path().join("store.pem");
    std::fs::write(&store, &host.ca).expect("there is room");
    let url = host.running.url();
    let child = tokio::process::Command::new(std::env::current_exe().expect("it runs"))
        .args(["--exact", "tls::system_store", "--nocapture"])
        .env(CHILD, url)
        .env("SSL_CERT_FILE", store)
        .env_remove("SSL_CERT_DIR")
        .output()
        .await
        .expect("tests can be started");
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && text.contains("1 passed"),
        "{text}"
    );
}

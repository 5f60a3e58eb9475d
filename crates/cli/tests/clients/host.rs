//! A simulated host for one scenario, and the Python that plays it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use harness::{Cli, Process};

/// How long a scenario may take.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(20);
/// The account that the host knows. Its password has what a careless split would trip over.
const USER: &str = "operator";
const PASSWORD: &str = "s3cret: of <this> & that";
/// Basic leaves open how such letters are written; NTLM does not.
const NTLM_PASSWORD: &str = "s3cret: <Größe> & 密码";

/// Who plays a scenario, and how it proves who it is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Form {
    /// `pypsrp` with Basic over HTTP.
    Basic,
    /// `pypsrp` with NTLM and sealed messages over HTTP.
    Ntlm,
    /// `pypsrp` with Basic over HTTPS.
    HttpsBasic,
    /// `pypsrp` with NTLM over HTTPS, nothing sealed.
    HttpsNtlm,
    /// The client of the standard library, with Basic after a 401.
    Bare,
}

impl Form {
    /// How the client logs in.
    fn word(self) -> &'static str {
        match self {
            Self::Basic | Self::HttpsBasic => "basic",
            Self::Ntlm | Self::HttpsNtlm => "ntlm",
            Self::Bare => "bare",
        }
    }

    /// What the host offers: no more than is used, and all of it to the client that has to choose.
    fn offered(self) -> &'static str {
        match self {
            Self::Basic | Self::HttpsBasic => "basic",
            Self::Ntlm | Self::HttpsNtlm => "negotiate",
            Self::Bare => "both",
        }
    }

    fn is_https(self) -> bool {
        match self {
            Self::HttpsBasic | Self::HttpsNtlm => true,
            Self::Basic | Self::Ntlm | Self::Bare => false,
        }
    }

    fn password(self) -> &'static str {
        match self {
            Self::Basic | Self::HttpsBasic | Self::Bare => PASSWORD,
            Self::Ntlm | Self::HttpsNtlm => NTLM_PASSWORD,
        }
    }
}

/// Returns the Python that has what the clients need.
pub(crate) fn python() -> Option<PathBuf> {
    harness::python()
}

/// Returns a command that plays scenarios.
pub(crate) fn command(python: &Path) -> Command {
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hyperv_sim/tests/clients");
    let mut command = Command::new(python);
    // No compiled files in the source folder; nothing of the caller's Python.
    command.arg("-B").arg("-s").arg(clients.join("run.py"));
    for name in ["PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// Plays a scenario against a host of its own.
#[track_caller]
pub(crate) fn run(form: Form, scenario: &str) {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = folder.path();
    let cli = Cli::new(env!("CARGO_BIN_EXE_reprise"));
    let (dir, port_file) = (folder.join("HV01"), folder.join("port"));
    let password = folder.join("password");
    std::fs::write(&password, form.password()).expect("a password file can be written");
    cli.json(&[
        "sim",
        "init",
        "--dir",
        text(&dir),
        "--name",
        "HV01",
        "--volume",
        "C=64GiB",
        "--volume",
        "D=64GiB",
    ]);
    let mut words = vec!["sim", "run", "--dir", text(&dir), "--listen", "127.0.0.1:0"];
    words.extend(["--port-file", text(&port_file)]);
    words.extend(["--user", USER, "--password-file", text(&password)]);
    words.extend(["--auth", form.offered()]);
    words.extend(form.is_https().then_some("--tls"));
    let mut process = Process::start(&cli, "sim", folder, &words);
    let port = process.wait_for_file(&port_file);
    let scheme = if form.is_https() { "https" } else { "http" };

    let log = folder.join("scenario.log");
    let output = File::create(&log).expect("a log can be made");
    let errors = output.try_clone().expect("a file can be shared");
    let mut child = command(&python)
        .arg(scenario)
        .env("REPRISE_EXE", env!("CARGO_BIN_EXE_reprise"))
        .env("REPRISE_FOLDER", folder)
        .env(
            "REPRISE_URL",
            format!("{scheme}://127.0.0.1:{}/wsman", port.trim()),
        )
        .env("REPRISE_CERTIFICATE", dir.join("tls/cert.pem"))
        .env("REPRISE_USER", USER)
        .env("REPRISE_PASSWORD", form.password())
        .env("REPRISE_AUTH", form.word())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .expect("python can be started");
    let end = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait().expect("a child can be waited for") {
            Some(status) => break status,
            None if Instant::now() < end => std::thread::sleep(PAUSE),
            None => {
                child.kill().expect("a child can be killed");
                break child.wait().expect("a child can be waited for");
            }
        }
    };
    assert!(
        status.success(),
        "{scenario} ({form:?}) ended with {status}\n{}\nthe host's log:\n{}",
        std::fs::read_to_string(&log).unwrap_or_default(),
        process.log()
    );
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are Unicode")
}

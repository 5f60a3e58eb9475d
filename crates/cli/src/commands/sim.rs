//! `reprise sim init|run|ctl|replay-check`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use hyperv_sim::replay::Difference;
use hyperv_sim::{AuthSchemes, Credentials, InitOptions, RunOptions, TlsOptions, VolumeSpec};

use super::sim_ctl::CtlArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::process;
use crate::values;
use crate::view::View;

/// Arguments of `sim`.
#[derive(Args, Debug)]
pub(crate) struct SimArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Make a simulated host in a folder
    #[command(
        after_help = "Example:\n  reprise sim init --dir hv01 --name HV01 --volume C=64GiB --volume D=200GiB"
    )]
    Init(InitArgs),
    /// Serve a simulated host until told to stop
    #[command(after_help = "Examples:\n  \
        reprise sim run --dir hv01 --listen 127.0.0.1:5985\n  \
        reprise sim run --dir hv01 --user 'HV01\\backup' --password-file password.txt --auth negotiate\n  \
        reprise sim run --dir hv01 --user backup --password-file password.txt --tls\n\n\
        With --tls the SHA-256 of the certificate is printed at the start, and written to DIR/tls/fingerprint.")]
    Run(RunArgs),
    /// Change a simulated host, running or stopped, from outside
    Ctl(CtlArgs),
    /// Say where a simulated host would have answered a recorded host's requests differently; 3 where it would
    #[command(
        after_help = "Example:\n  reprise agent record --out hv01.jsonl --host https://hv01:5986/wsman --host-user backup --host-password-file password.txt\n  reprise sim replay-check hv01.jsonl"
    )]
    ReplayCheck(ReplayArgs),
}

#[derive(Args, Debug)]
struct ReplayArgs {
    /// Recording of `reprise agent record` or of `reprise agent run --record`
    file: PathBuf,
}

#[derive(Args, Debug)]
struct InitArgs {
    /// Folder of the host; made where it does not exist
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Computer name
    #[arg(long, value_name = "NAME", default_value = "HV01")]
    name: String,
    /// A volume and its capacity, such as C=64GiB; may be repeated [default: C=64GiB]
    #[arg(long = "volume", value_name = "LETTER=SIZE", value_parser = volume)]
    volumes: Vec<VolumeSpec>,
}

#[derive(Args, Debug)]
struct RunArgs {
    /// Folder of the host, as made by `reprise sim init`
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Address of the WS-Management port; port 0 takes a free one [default: 127.0.0.1:5985, with --tls 127.0.0.1:5986]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Ask for this user name: user (of any domain), DOMAIN\user or user@domain
    #[arg(long, value_name = "NAME", requires = "password_file")]
    user: Option<String>,
    /// File that holds the password of --user; - reads standard input
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// How --user may log in; negotiate is NTLM, and over HTTP takes sealed messages only
    #[arg(long, value_name = "SCHEMES", value_enum, default_value_t = Auth::Both, requires = "user")]
    auth: Auth,
    /// Serve HTTPS, with a self-signed certificate that is kept in DIR/tls
    #[arg(long)]
    tls: bool,
    /// Serve HTTPS with this certificate (PEM; those up to its CA may follow)
    #[arg(
        long,
        value_name = "FILE",
        requires = "tls_key",
        conflicts_with = "tls"
    )]
    tls_cert: Option<PathBuf>,
    /// Key of --tls-cert (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// File that gets the port number once the host answers
    #[arg(long, value_name = "FILE")]
    port_file: Option<PathBuf>,
}

/// How one may log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Auth {
    Basic,
    Negotiate,
    Both,
}

impl From<Auth> for AuthSchemes {
    fn from(auth: Auth) -> Self {
        match auth {
            Auth::Basic => Self::Basic,
            Auth::Negotiate => Self::Negotiate,
            Auth::Both => Self::Both,
        }
    }
}

/// Runs a verb.
pub(crate) async fn run(out: Output, args: SimArgs) -> Result<Exit, Failure> {
    match args.verb {
        Verb::Init(args) => {
            let options = InitOptions {
                dir: args.dir.clone(),
                name: args.name.clone(),
                volumes: args.volumes,
            };
            let id = hyperv_sim::init(&options)?;
            let value = serde_json::json!({ "id": id, "name": args.name, "dir": args.dir });
            out.show(&value, |_| {
                View::Text(format!(
                    "the simulated host {} is in {dir}\nserve it with: reprise sim run --dir {dir}",
                    args.name,
                    dir = args.dir.display()
                ))
            })?;
            Ok(Exit::Ok)
        }
        Verb::Run(args) => {
            let credentials = match args.user {
                None => None,
                Some(user) => Some(Credentials {
                    user,
                    password: values::secret(args.password_file.as_deref(), "password")?,
                }),
            };
            let tls = match (args.tls_cert, args.tls_key) {
                (Some(cert), Some(key)) => Some(TlsOptions::Files { cert, key }),
                (None, None) | (Some(_), None) | (None, Some(_)) => {
                    args.tls.then_some(TlsOptions::SelfSigned)
                }
            };
            let port = if tls.is_some() { 5986 } else { 5985 };
            let options = RunOptions {
                dir: args.dir,
                listen: args
                    .listen
                    .unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
                credentials,
                auth: args.auth.into(),
                tls,
                port_file: args.port_file,
            };
            hyperv_sim::run(options, process::asked_to_end()).await?;
            Ok(Exit::Ok)
        }
        Verb::Ctl(args) => super::sim_ctl::run(out, args).await,
        Verb::ReplayCheck(args) => replay_check(out, &args),
    }
}

fn replay_check(out: Output, args: &ReplayArgs) -> Result<Exit, Failure> {
    let text = std::fs::read_to_string(&args.file)
        .with_context(|| format!("read the recording {}", args.file.display()))?;
    let report = hyperv_sim::replay::check(&text)
        .with_context(|| format!("check {}", args.file.display()))?;
    out.show(&report, |report| {
        let mut lines: Vec<String> = report.differences.iter().map(shown).collect();
        lines.push(format!(
            "{} differences; {} of {} answers compared, {} requests answered by a simulated host",
            report.differences.len(),
            report.compared,
            report.exchanges,
            report.live
        ));
        View::Text(lines.join("\n"))
    })?;
    Ok(if report.differences.is_empty() {
        Exit::Ok
    } else {
        Exit::Warnings
    })
}

fn shown(difference: &Difference) -> String {
    let kind = serde_json::to_value(difference.kind);
    let kind = kind.as_ref().ok().and_then(serde_json::Value::as_str);
    format!(
        "{}: {} ({} times, first in exchange {}): {}",
        kind.unwrap_or_default(),
        difference.what,
        difference.count,
        difference.first,
        difference.example
    )
}

fn volume(text: &str) -> Result<VolumeSpec, String> {
    let wrong =
        || format!("{text:?} is not a volume; write a letter and a capacity, such as C=64GiB");
    let (letter, capacity) = text.split_once('=').ok_or_else(wrong)?;
    let mut letters = letter.strip_suffix(':').unwrap_or(letter).chars();
    match (letters.next(), letters.next()) {
        (Some(letter), None) if letter.is_ascii_alphabetic() => Ok(VolumeSpec {
            letter: letter.to_ascii_uppercase(),
            capacity_bytes: values::size(capacity)?,
        }),
        (Some(_) | None, Some(_) | None) => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_a_letter_and_a_capacity() {
        for text in ["C=64GiB", "c:=64GiB"] {
            let spec = volume(text).unwrap();
            assert_eq!((spec.letter, spec.capacity_bytes), ('C', 64 << 30));
        }
        for wrong in ["", "C", "=1GiB", "CD=1GiB", "C=1GB", "1=1GiB"] {
            assert!(volume(wrong).is_err(), "{wrong}");
        }
    }
}

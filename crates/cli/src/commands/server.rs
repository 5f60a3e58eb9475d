//! `reprise server init|run`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use server::{InitOptions, MasterKeySource, RunOptions};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::process;
use crate::view::View;

/// Arguments of `server`.
#[derive(Args, Debug)]
pub(crate) struct ServerArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Set up a data folder: vault, keys, certificates, the first administrator
    #[command(
        after_help = "Example:\n  reprise server init --data /var/lib/reprise --name backup.example"
    )]
    Init(InitArgs),
    /// Serve a data folder until told to stop
    #[command(
        after_help = "Example:\n  reprise server run --data /var/lib/reprise --listen 0.0.0.0:8443 --agent-listen 0.0.0.0:8444"
    )]
    Run(RunArgs),
}

#[derive(Args, Debug)]
struct InitArgs {
    /// Folder for everything the server keeps; made where it does not exist
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Name of the first administrator
    #[arg(long, value_name = "NAME", default_value = "admin")]
    admin: String,
    /// Name or address people and agents reach this server by (localhost and the host name are included); may be repeated
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    /// Where the master key comes from: file:PATH, env:VARIABLE or command:PROGRAM ARGUMENT...; else a file in the data folder
    #[arg(long, value_name = "SOURCE", value_parser = master_key)]
    master_key: Option<MasterKeySource>,
    /// Also make an API token of the administrator, with this name
    #[arg(long, value_name = "NAME")]
    token: Option<String>,
}

#[derive(Args, Debug)]
struct RunArgs {
    /// Data folder, as made by `reprise server init`
    #[arg(long, value_name = "DIR", required_unless_present = "config")]
    data: Option<PathBuf>,
    /// Configuration file (TOML); what is given on the command line wins
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address of the people's port [default: 127.0.0.1:8443]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Address of the agents' port [default: 127.0.0.1:8444]
    #[arg(long, value_name = "ADDR")]
    agent_listen: Option<SocketAddr>,
    /// File that gets the ports, as JSON, once both are open
    #[arg(long, value_name = "FILE")]
    port_file: Option<PathBuf>,
    /// Where the master key comes from: file:PATH, env:VARIABLE or command:PROGRAM ARGUMENT...; else a file in the data folder
    #[arg(long, value_name = "SOURCE", value_parser = master_key)]
    master_key: Option<MasterKeySource>,
}

/// Runs a verb.
pub(crate) async fn run(out: Output, args: ServerArgs) -> Result<Exit, Failure> {
    match args.verb {
        Verb::Init(args) => init(out, args).await,
        Verb::Run(args) => {
            let options = RunOptions {
                data_dir: args.data,
                config: args.config,
                listen: args.listen,
                agent_listen: args.agent_listen,
                port_file: args.port_file,
                master_key: args.master_key,
            };
            server::run(options, process::asked_to_end()).await?;
            Ok(Exit::Ok)
        }
    }
}

async fn init(out: Output, args: InitArgs) -> Result<Exit, Failure> {
    let data = args.data.clone();
    let made = server::init(InitOptions {
        data_dir: args.data,
        admin_name: args.admin,
        names: args.names,
        master_key: args.master_key,
        token_name: args.token,
    })
    .await?;
    let value = serde_json::json!({
        "data": data,
        "vault": made.vault,
        "user": made.admin_name,
        "password": made.admin_password,
        "token": made.token,
        "recovery_kit": made.recovery_kit,
        "ca_fingerprint": made.ca_fingerprint,
        "ca_file": made.ca_file,
    });
    out.show(&value, |_| {
        let token = made.token.as_ref().map_or_else(String::new, |token| format!("API token     {token}\n"));
        View::Text(format!(
            "The server in {data} is set up. What follows is shown once and kept nowhere: write it down.\n\n\
             vault         {vault}\n\
             user          {user}\n\
             password      {password}\n\
             {token}\
             CA            {fingerprint} (SHA-256)\n\
             CA file       {ca}\n\n\
             Recovery kit, which opens the vault without this server. Keep it elsewhere:\n\n{kit}\n\n\
             Next: reprise server run --data {data}\n\
             then: reprise login --server https://localhost:8443 --ca {fingerprint} --user {user}\n",
            data = data.display(),
            vault = made.vault,
            user = made.admin_name,
            password = made.admin_password,
            fingerprint = made.ca_fingerprint,
            ca = made.ca_file.display(),
            kit = made.recovery_kit.trim_end(),
        ))
    })?;
    Ok(Exit::Ok)
}

fn master_key(text: &str) -> Result<MasterKeySource, String> {
    let wrong = || "write file:PATH, env:VARIABLE or command:PROGRAM ARGUMENT...".to_owned();
    let (kind, value) = text.split_once(':').ok_or_else(wrong)?;
    if value.trim().is_empty() {
        return Err(wrong());
    }
    match kind {
        "file" => Ok(MasterKeySource::File(value.into())),
        "env" => Ok(MasterKeySource::Env(value.to_owned())),
        "command" => Ok(MasterKeySource::Command(
            value.split_whitespace().map(str::to_owned).collect(),
        )),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn master_keys_come_from_three_places() {
        assert_eq!(
            master_key("env:KEY").unwrap(),
            MasterKeySource::Env("KEY".to_owned())
        );
        assert_eq!(
            master_key(r"file:C:\key").unwrap(),
            MasterKeySource::File(r"C:\key".into())
        );
        assert_eq!(
            master_key("command:pass show reprise").unwrap(),
            MasterKeySource::Command(vec![
                "pass".to_owned(),
                "show".to_owned(),
                "reprise".to_owned()
            ])
        );
        for wrong in ["", "key", "file:", "vault:x"] {
            assert!(master_key(wrong).is_err(), "{wrong}");
        }
    }
}

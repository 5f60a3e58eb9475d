//! `reprise login|logout|status`.

use std::path::PathBuf;

use api::v1::{LoginReply, LoginRequest, Status};
use api_client::People;
use clap::Args;

use crate::connection::{ConnectionArgs, trust_text};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::profile::Profile;
use crate::values;
use crate::view::{View, bytes};

/// Arguments of `login`.
#[derive(Args, Debug)]
#[command(
    after_help = "The password is read from --password-file, or from standard input.\n\nExample:\n  \
    reprise login --server https://backup.example:8443 --ca ca.pem --user admin --password-file password.txt"
)]
pub(crate) struct LoginArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// User name
    #[arg(long, value_name = "NAME", default_value = "admin")]
    user: String,
    /// File that holds the password; - or nothing reads standard input
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// Arguments of `logout`.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  reprise logout")]
pub(crate) struct LogoutArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Arguments of `status`.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  reprise status --json")]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Logs in and writes the profile.
pub(crate) async fn login(out: Output, args: LoginArgs) -> Result<Exit, Failure> {
    // What an earlier login knows of this server (its CA) is used again.
    let destination = args
        .connection
        .destination(None, Profile::read().unwrap_or_default())?;
    if args.password_file.is_none() {
        out.note(&format!("password of {} (standard input):", args.user));
    }
    let password = values::secret(args.password_file.as_deref(), "password")?;
    let client = People::new(&destination.server, &destination.trust, None)?;
    let request = LoginRequest {
        user: args.user.clone(),
        password,
    };
    let reply: LoginReply = client
        .post("/login", &request, None)
        .await
        .map_err(|error| {
            let mut failure = Failure::from(error);
            if failure.code == api::codes::NOT_AUTHENTICATED {
                failure.hint = Some(
                    "check the name and the password; an administrator can make a new user"
                        .to_owned(),
                );
            }
            failure
        })?;
    let profile = Profile {
        server: destination.server.clone(),
        user: args.user.clone(),
        token: reply.token,
        expires: reply.expires.clone(),
        ca: trust_text(&destination.trust),
    };
    let path = profile.write()?;
    let value = serde_json::json!({
        "server": destination.server,
        "user": args.user,
        "role": reply.role,
        "expires": reply.expires,
        "profile": path,
    });
    out.show(&value, |_| {
        View::Text(format!(
            "logged in to {} as {} ({}) until {}; the token lies in {}",
            destination.server,
            args.user,
            super::user::role_name(reply.role),
            reply.expires,
            path.display()
        ))
    })?;
    Ok(Exit::Ok)
}

/// Ends the token and removes the profile.
pub(crate) async fn logout(out: Output, args: LogoutArgs) -> Result<Exit, Failure> {
    let ended = match args.connection.open() {
        Ok(client) => client.post_empty("/logout").await.map_err(Failure::from),
        Err(failure) => Err(failure),
    };
    Profile::remove()?;
    match ended {
        Ok(()) => out.note("logged out"),
        // The profile is gone in any case; the token ends by itself.
        Err(failure) => out.note(&format!(
            "the profile is removed, but the server did not end the token: {}",
            failure.message
        )),
    }
    if out.is_json() {
        out.json_line(&serde_json::json!({}))?;
    }
    Ok(Exit::Ok)
}

/// Shows the state of the installation.
pub(crate) async fn status(out: Output, args: StatusArgs) -> Result<Exit, Failure> {
    let client = args.connection.open()?;
    let status: Status = client.get("/status").await?;
    out.show(&status, |status| {
        View::fields([
            (
                "server",
                format!("{} (version {})", client.server(), status.version),
            ),
            ("time there", status.time.clone()),
            (
                "you are",
                format!("{} ({})", status.user, super::user::role_name(status.role)),
            ),
            ("vault", status.vault.clone()),
            (
                "hosts",
                format!("{}, of these {} ready", status.hosts, status.hosts_ready),
            ),
            (
                "VMs",
                format!(
                    "{}, of these {} protected",
                    status.vms, status.vms_protected
                ),
            ),
            ("recovery points", status.points.to_string()),
            ("stored", bytes(status.stored_bytes)),
            (
                "jobs",
                format!(
                    "{} running, {} waiting",
                    status.jobs_running, status.jobs_queued
                ),
            ),
        ])
    })?;
    Ok(Exit::Ok)
}

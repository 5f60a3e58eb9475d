//! `reprise`: server, agent, simulated host and command line in one executable.
//!
//! This file only wires: parse, run, print what went wrong, end with the exit code of [`exit`].

mod args;
mod commands;
mod connection;
mod demo;
mod exit;
mod failure;
mod follow;
mod output;
mod process;
mod profile;
mod values;
mod view;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use exit::Exit;
use failure::Failure;
use output::Output;

fn main() -> ExitCode {
    // The TLS library has no default provider compiled in; a second call would find this one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = Cli::parse();
    let out = Output::new(cli.json, cli.quiet);
    process::log_to_stderr(&cli.command);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            out.failure(&Failure::new("failed", format!("cannot start: {error}")));
            return ExitCode::from(Exit::Failed.number());
        }
    };
    let result = runtime.block_on(async {
        if cli.command.ends_itself() {
            return run(out, cli.command).await;
        }
        tokio::select! {
            // A command that works without waiting is never disturbed.
            biased;
            result = run(out, cli.command) => result,
            () = process::asked_to_end() => Ok(Exit::Interrupted),
        }
    });
    // Threads that still read or hash for a command that was interrupted are not waited for.
    runtime.shutdown_background();
    let exit = result.unwrap_or_else(|failure| {
        if failure.code != "closed-pipe" {
            out.failure(&failure);
        }
        failure.exit
    });
    ExitCode::from(exit.number())
}

async fn run(out: Output, command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Server(args) => commands::server::run(out, args).await,
        Command::Sim(args) => commands::sim::run(out, args).await,
        Command::Agent(args) => commands::agent::run(out, args).await,
        Command::Demo(args) => commands::demo::run(out, args).await,
        Command::Login(args) => commands::login::login(out, args).await,
        Command::Logout(args) => commands::login::logout(out, args).await,
        Command::Status(args) => commands::login::status(out, args).await,
        Command::Host(args) => commands::host::run(out, args).await,
        Command::Vm(args) => commands::vm::run(out, args).await,
        Command::Policy(args) => commands::policy::run(out, args).await,
        Command::Backup(args) => commands::backup::run(out, args).await,
        Command::Point(args) => commands::point::run(out, args).await,
        Command::Restore(args) => commands::restore::run(out, args).await,
        Command::Job(args) => commands::job::run(out, args).await,
        Command::User(args) => commands::user::run(out, args).await,
        Command::Token(args) => commands::token::run(out, args).await,
        Command::Audit(args) => commands::audit::run(out, args).await,
        Command::VerifyReceipt(args) => commands::verify_receipt::run(out, args).await,
        Command::Vhdx(args) => commands::vhdx::run(out, args).await,
        Command::Completions(args) => commands::documents::completions(out, &args),
        Command::Man(args) => commands::documents::man(out, &args),
    }
}

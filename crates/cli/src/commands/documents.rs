//! `reprise completions` and `reprise man`: made from the command line itself, so they cannot differ from it.

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::args::Cli;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;

/// Arguments of `completions`.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  reprise completions bash > /etc/bash_completion.d/reprise")]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Arguments of `man`.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  reprise man /usr/local/share/man/man1")]
pub(crate) struct ManArgs {
    /// Folder; made where it does not exist
    dir: PathBuf,
}

/// Prints the completion script.
pub(crate) fn completions(out: Output, args: &CompletionsArgs) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "reprise", &mut script);
    if out.is_json() {
        let script = String::from_utf8_lossy(&script).into_owned();
        out.json_line(&serde_json::json!({ "shell": args.shell.to_string(), "script": script }))?;
    } else {
        out.data(&script)?;
    }
    Ok(Exit::Ok)
}

/// Writes a manual page for the program and for each noun and verb.
pub(crate) fn man(out: Output, args: &ManArgs) -> Result<Exit, Failure> {
    let trouble = |error: std::io::Error| {
        Failure::new(
            "failed",
            format!(
                "cannot write manual pages to {}: {error}",
                args.dir.display()
            ),
        )
    };
    std::fs::create_dir_all(&args.dir).map_err(trouble)?;
    clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), &args.dir)
        .map_err(trouble)?;
    super::done(
        out,
        &format!("the manual pages are in {}", args.dir.display()),
    )?;
    Ok(Exit::Ok)
}

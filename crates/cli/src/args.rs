//! The command line as a whole: nouns, and what every verb takes.

use clap::{Parser, Subcommand};

use crate::commands::{
    agent, audit, backup, demo, documents, host, job, login, point, policy, restore, server, sim,
    token, user, verify_receipt, vhdx, vm,
};

const EXIT_CODES: &str = "\
Exit codes:
  0 done                       5 not logged in or not allowed
  1 failed                     6 conflict
  2 wrong usage                7 integrity failure
  3 finished with warnings     8 timed out
  4 not found                  130 interrupted

Example:
  reprise demo";

/// Backup and restore of Hyper-V virtual machines.
#[derive(Parser, Debug)]
#[command(name = "reprise", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// Print results as JSON: one object, or one per line
    #[arg(long, global = true, help_heading = "Output")]
    pub(crate) json: bool,
    /// Print nothing but results and errors
    #[arg(long, short, global = true, help_heading = "Output")]
    pub(crate) quiet: bool,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The nouns.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Set up and run the server
    Server(server::ServerArgs),
    /// The simulated Hyper-V host
    Sim(sim::SimArgs),
    /// Enrol and run the agent of a Hyper-V host
    Agent(agent::AgentArgs),
    /// Show the whole on this machine: server, simulated host, backups, restores, comparison
    Demo(demo::DemoArgs),
    /// Log in to a server and keep the token in the profile
    Login(login::LoginArgs),
    /// End the login and remove the profile
    Logout(login::LogoutArgs),
    /// Show the state of the installation and who you are
    Status(login::StatusArgs),
    /// Hyper-V hosts and their agents
    Host(host::HostArgs),
    /// Virtual machines and their protection
    Vm(vm::VmArgs),
    /// Backup policies
    Policy(policy::PolicyArgs),
    /// Make recovery points
    Backup(backup::BackupArgs),
    /// Recovery points
    Point(point::PointArgs),
    /// Bring VMs and disks back
    Restore(restore::RestoreArgs),
    /// Jobs: what runs, waits and has ended
    Job(job::JobArgs),
    /// People who may log in
    User(user::UserArgs),
    /// API tokens for scripts
    Token(token::TokenArgs),
    /// The audit log
    Audit(audit::AuditArgs),
    /// Check the receipt of a restore, and disks against it, without any server
    VerifyReceipt(verify_receipt::VerifyReceiptArgs),
    /// Look into, check, make and change VHDX files, without any server
    Vhdx(vhdx::VhdxArgs),
    /// Print a completion script for a shell
    Completions(documents::CompletionsArgs),
    /// Write the manual pages into a folder
    Man(documents::ManArgs),
}

impl Command {
    /// Returns whether the command ends in its own way when asked to.
    pub(crate) fn ends_itself(&self) -> bool {
        self.is_service() || matches!(self, Command::Vhdx(_))
    }

    /// Returns whether the command may run for ever.
    pub(crate) fn is_service(&self) -> bool {
        match self {
            Command::Server(_) | Command::Agent(_) | Command::Sim(_) => true,
            Command::Demo(_)
            | Command::Login(_)
            | Command::Logout(_)
            | Command::Status(_)
            | Command::Host(_)
            | Command::Vm(_)
            | Command::Policy(_)
            | Command::Backup(_)
            | Command::Point(_)
            | Command::Restore(_)
            | Command::Job(_)
            | Command::User(_)
            | Command::Token(_)
            | Command::Audit(_)
            | Command::VerifyReceipt(_)
            | Command::Vhdx(_)
            | Command::Completions(_)
            | Command::Man(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn leaves(command: &clap::Command, path: &str, found: &mut Vec<(String, clap::Command)>) {
        let path = format!("{path} {}", command.get_name());
        let mut children = command
            .get_subcommands()
            .filter(|child| child.get_name() != "help")
            .peekable();
        if children.peek().is_none() {
            found.push((path.trim().to_owned(), command.clone()));
            return;
        }
        for child in children {
            leaves(child, &path, found);
        }
    }

    fn verbs() -> Vec<(String, clap::Command)> {
        let mut found = Vec::new();
        leaves(&Cli::command(), "", &mut found);
        found
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_has_help_with_an_example_of_itself() {
        for (path, command) in verbs() {
            assert!(command.get_about().is_some(), "{path}: no help");
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(help.contains("Example"), "{path}: no example");
            assert!(
                help.contains(&path),
                "{path}: the example shows another verb: {help}"
            );
        }
    }

    #[test]
    fn every_example_can_be_parsed() {
        for (path, command) in verbs() {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            for line in help
                .lines()
                .map(str::trim)
                .filter(|line| line.starts_with("reprise "))
            {
                let line = line.split(['|', '<', '>']).next().unwrap_or(line);
                let words = split(line);
                if let Err(error) = Cli::try_parse_from(&words) {
                    panic!("{path}: {line}: {error}");
                }
            }
        }
    }

    /// Splits a line at blanks, as a shell does with single quotes.
    fn split(line: &str) -> Vec<String> {
        let mut words = Vec::new();
        let (mut word, mut quoted) = (String::new(), false);
        for c in line.chars() {
            match c {
                '\'' => quoted = !quoted,
                ' ' if !quoted => {
                    if !word.is_empty() {
                        words.push(std::mem::take(&mut word));
                    }
                }
                c => word.push(c),
            }
        }
        if !word.is_empty() {
            words.push(word);
        }
        words
    }

    #[test]
    fn every_option_says_what_it_is_for() {
        for (path, command) in verbs() {
            for argument in command.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "{path}: {} has no help",
                    argument.get_id()
                );
            }
        }
    }

    #[test]
    fn the_verbs_of_the_contract_exist() {
        let known: Vec<String> = verbs().into_iter().map(|(path, _)| path).collect();
        for verb in [
            "server init",
            "server run",
            "agent enroll",
            "agent run",
            "demo",
            "sim init",
            "sim run",
            "sim ctl vm add",
            "sim ctl vm list",
            "sim ctl vm show",
            "sim ctl vm remove",
            "sim ctl power",
            "sim ctl guest write",
            "sim ctl guest read",
            "sim ctl guest workload",
            "sim ctl checkpoint create",
            "sim ctl checkpoint apply",
            "sim ctl checkpoint delete",
            "sim ctl checkpoint list",
            "sim ctl volume set",
            "sim ctl fault add",
            "sim ctl fault set",
            "sim ctl fault list",
            "sim ctl fault clear",
            "sim ctl files",
            "sim ctl path",
            "login",
            "logout",
            "status",
            "host list",
            "host show",
            "host token",
            "host revoke",
            "vm list",
            "vm show",
            "vm protect",
            "vm unprotect",
            "vm exclude",
            "policy list",
            "policy show",
            "policy create",
            "policy edit",
            "policy delete",
            "backup start",
            "point list",
            "point show",
            "point verify",
            "point delete",
            "restore start",
            "restore receipt",
            "verify-receipt",
            "job list",
            "job show",
            "job watch",
            "job cancel",
            "user list",
            "user create",
            "user delete",
            "token list",
            "token create",
            "token delete",
            "audit list",
            "vhdx info",
            "vhdx check",
            "vhdx ranges",
            "vhdx export",
            "vhdx create",
            "vhdx convert",
            "vhdx merge",
            "vhdx compact",
            "vhdx resize",
            "vhdx repair",
            "completions",
            "man",
        ] {
            let path = format!("reprise {verb}");
            assert!(known.contains(&path), "{path} is missing");
        }
    }
}

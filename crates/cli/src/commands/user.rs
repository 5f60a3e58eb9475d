//! `reprise user list|create|delete`.

use std::path::PathBuf;

use api::v1::{Page, Role, User, UserSpec};
use api_client::People;
use clap::{Args, Subcommand, ValueEnum};

use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::values;
use crate::view::{Rows, View};

/// Arguments of `user`.
#[derive(Args, Debug)]
pub(crate) struct UserArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// List the people who may log in
    #[command(after_help = "Example:\n  reprise user list")]
    List,
    /// Add a person; the password is read from --password-file or standard input
    #[command(
        after_help = "Example:\n  reprise user create ann --role operator --password-file password.txt"
    )]
    Create {
        /// Unique name
        name: String,
        /// What the person may do
        #[arg(long, value_enum)]
        role: RoleName,
        /// File that holds the password; - or nothing reads standard input
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Remove a person
    #[command(after_help = "Example:\n  reprise user delete ann")]
    Delete {
        /// Name or id
        user: String,
    },
}

/// A role on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum RoleName {
    /// May look at everything
    Viewer,
    /// May also start and cancel backups and verify
    Operator,
    /// May do everything
    Administrator,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Viewer => Role::Viewer,
            RoleName::Operator => Role::Operator,
            RoleName::Administrator => Role::Administrator,
        }
    }
}

/// Returns the name of a role as it is written.
pub(crate) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Viewer => "viewer",
        Role::Operator => "operator",
        Role::Administrator => "administrator",
    }
}

/// Runs a verb.
pub(crate) async fn run(out: Output, args: UserArgs) -> Result<Exit, Failure> {
    let client = args.connection.open()?;
    match args.verb {
        Verb::List => {
            let users: Vec<User> = super::list::all(&client, "/users", None).await?;
            out.show(&users, |users| {
                let mut rows = Rows::new(["NAME", "ROLE", "CREATED", "ID"], "no users");
                for user in users {
                    rows.row([
                        user.name.clone(),
                        role_name(user.role).to_owned(),
                        user.created.clone(),
                        user.id.clone(),
                    ]);
                }
                View::Table(rows)
            })?;
        }
        Verb::Create {
            name,
            role,
            password_file,
        } => {
            let password = values::secret(password_file.as_deref(), "password")?;
            let spec = UserSpec {
                name,
                password,
                role: role.into(),
            };
            let user: User = client.post("/users", &spec, None).await?;
            out.show(&user, |user| {
                View::Text(format!(
                    "{} may log in as {}",
                    user.name,
                    role_name(user.role)
                ))
            })?;
        }
        Verb::Delete { user } => {
            client
                .delete(&format!("/users/{}", id_of(&client, &user).await?))
                .await?;
            super::done(out, &format!("{user} may no longer log in"))?;
        }
    }
    Ok(Exit::Ok)
}

/// Finds a user by name; what is no name is passed on as an id.
async fn id_of(client: &People, user: &str) -> Result<String, Failure> {
    let page: Page<User> = client.get("/users").await?;
    let id = page
        .items
        .iter()
        .find(|known| known.name == user)
        .map_or(user, |known| &known.id);
    Ok(People::segment(id))
}

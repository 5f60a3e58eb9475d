//! `reprise token list|create|delete`.

use api::v1::{NewToken, Token, TokenSpec};
use api_client::People;
use clap::{Args, Subcommand};

use super::user::{RoleName, role_name};
use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::view::{Rows, View};

/// Arguments of `token`.
#[derive(Args, Debug)]
pub(crate) struct TokenArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// List the API tokens
    #[command(after_help = "Example:\n  reprise token list")]
    List,
    /// Make an API token; its secret is printed once
    #[command(after_help = "Example:\n  reprise token create nightly --role operator --days 90")]
    Create {
        /// What it is for
        name: String,
        /// What it allows; not more than you may do
        #[arg(long, value_enum)]
        role: RoleName,
        /// Days until it ends [default: 365]
        #[arg(long, value_name = "DAYS")]
        days: Option<u32>,
    },
    /// End an API token
    #[command(after_help = "Example:\n  reprise token delete 7b0c9d0e-8a51-4f6e-9c53-0d9b6f3c2a11")]
    Delete {
        /// Id of the token
        token: String,
    },
}

/// Runs a verb.
pub(crate) async fn run(out: Output, args: TokenArgs) -> Result<Exit, Failure> {
    let client = args.connection.open()?;
    match args.verb {
        Verb::List => {
            let tokens: Vec<Token> = super::list::all(&client, "/tokens", None).await?;
            out.show(&tokens, |tokens| {
                let mut rows = Rows::new(["NAME", "ROLE", "EXPIRES", "ID"], "no API tokens");
                for token in tokens {
                    rows.row([
                        token.name.clone(),
                        role_name(token.role).to_owned(),
                        token.expires.clone(),
                        token.id.clone(),
                    ]);
                }
                View::Table(rows)
            })?;
        }
        Verb::Create { name, role, days } => {
            let spec = TokenSpec {
                name,
                role: role.into(),
                days,
            };
            let made: NewToken = client.post("/tokens", &spec, None).await?;
            out.note(&format!("shown once; it ends {}", made.token.expires));
            out.show(&made, |made| View::Text(made.secret.clone()))?;
        }
        Verb::Delete { token } => {
            client
                .delete(&format!("/tokens/{}", People::segment(&token)))
                .await?;
            super::done(out, &format!("token {token} is ended"))?;
        }
    }
    Ok(Exit::Ok)
}

//! Commands that look around over the API: `events`, `webhooks`, `listen`.
//!
//! They need a token and the address of the API, and no other setting: whoever develops against
//! Posthorn has no access to its database. All that is printed from outside is data of the
//! API, in which control characters are escaped.

mod client;
mod events;
mod listen;
mod webhooks;

use clap::{Args, Subcommand};
use secrecy::SecretString;
use shared::ids::Tenant;
use url::Url;

pub use client::Client;

/// Where the API is, and who asks.
#[derive(Args, Debug)]
pub struct Connection {
    /// The address of the API; also `POSTHORN_URL`.
    #[arg(long, global = true)]
    url: Option<Url>,
    /// The tenant, if the token is a global one; also `POSTHORN_TENANT`.
    #[arg(long, global = true)]
    tenant: Option<Tenant>,
}

/// Publish, list and follow events over the API. The token is in `POSTHORN_TOKEN`.
#[derive(Args)]
pub struct Events {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: events::Command,
}

/// List and show webhooks over the API. The token is in `POSTHORN_TOKEN`.
#[derive(Args)]
pub struct Webhooks {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: webhooks::Command,
}

/// Send the deliveries of a temporary webhook to a port on this machine, to develop a receiver
/// without a public address. The token is in `POSTHORN_TOKEN`.
#[derive(Args)]
pub struct Listen {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    options: listen::Options,
}

/// One of these commands.
#[derive(Subcommand)]
pub enum Command {
    Events(Events),
    Webhooks(Webhooks),
    Listen(Listen),
}

impl Command {
    /// Runs the command. `environment` looks variables up.
    ///
    /// # Errors
    /// If the API can't be reached, or refuses.
    pub async fn run(self, environment: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<()> {
        match self {
            Self::Events(Events {
                connection,
                command,
            }) => command.run(&connection.client(environment)?).await,
            Self::Webhooks(Webhooks {
                connection,
                command,
            }) => command.run(&connection.client(environment)?).await,
            Self::Listen(Listen {
                connection,
                options,
            }) => listen::run(&connection.client(environment)?, options).await,
        }
    }
}

impl Connection {
    fn client(self, environment: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<Client> {
        let variable = |name: &str| environment(name).filter(|text| !text.is_empty());
        let url = match (self.url, variable("POSTHORN_URL")) {
            (Some(url), _) => url,
            (None, Some(text)) => text
                .parse()
                .map_err(|error| anyhow::anyhow!("POSTHORN_URL: {error}"))?,
            (None, None) => "http://127.0.0.1:8080".parse()?,
        };
        let tenant = match (self.tenant, variable("POSTHORN_TENANT")) {
            (None, Some(text)) => Some(text.parse()?),
            (tenant, _) => tenant,
        };
        let token = variable("POSTHORN_TOKEN").ok_or_else(|| {
            anyhow::anyhow!("POSTHORN_TOKEN is not set: the API token to use; `posthorn-ingest token create` makes one")
        })?;
        Client::new(url, tenant, SecretString::from(token))
    }
}

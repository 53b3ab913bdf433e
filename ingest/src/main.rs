//! `posthorn-ingest`: the service by default, and commands for operators.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use ingest::apply::file::Rules;
use ingest::apply::{self, Apply};
use ingest::console::session;
use ingest::event_types::command;
use ingest::import::{self, Import};
use ingest::settings::Settings;
use ingest::webhooks::store::Writing;
use ingest::{api, audit, cli, doctor, preview, rekey, run};
use secrecy::ExposeSecret;
use shared::ids::Tenant;
use shared::settings::{environment, process_environment};
use shared::{health_check, postgres, settings, supervise, telemetry, trace};
use tokio_util::sync::CancellationToken;

/// Takes events from RabbitMQ, matches them to webhooks and serves the API.
///
/// Settings come from environment variables, which README.md lists.
#[derive(Parser)]
#[command(name = "posthorn-ingest", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Take events and serve the API (the default).
    Serve {
        /// Serve only the API, or only take events; run a second process for the other.
        #[arg(long)]
        only: Option<run::Only>,
    },
    /// Bring the database's schema up to date.
    Migrate,
    /// Count deliveries that are neither finished nor on their way, and fail if
    /// there are any.
    Audit {
        /// How many seconds after its due time a delivery counts as lost. The default
        /// is the longest timeout and twice the sweeper's grace.
        #[arg(long, default_value_t = 180)]
        grace: u64,
    },
    /// Check this installation for faults by which it would lose messages, stop delivering or
    /// let strangers in; fail if something is wrong.
    Doctor {
        /// RabbitMQ's management API, as http://user:password@host:15672. The default is that
        /// port of the broker, with the user of `AMQP_URL`. Better: set the variable
        /// `RABBITMQ_MANAGEMENT_URL`, because lists of processes show arguments.
        #[arg(long)]
        management: Option<url::Url>,
    },
    /// Encrypt secrets with the current master key that an older key encrypted; fail if one
    /// can't be.
    Rekey,
    /// Print the API's OpenAPI document.
    Openapi,
    /// Ask the process that listens on `HTTP_ADDR` whether it is ready.
    Healthy,
    /// List the dialects, and preview deliveries in them.
    #[command(subcommand)]
    Dialect(Dialect),
    /// Manage API tokens.
    #[command(subcommand)]
    Token(Token),
    /// Print a link that signs a browser in to the console, once.
    ConsoleLink(ConsoleLink),
    /// End sessions of the console.
    #[command(subcommand)]
    Console(ConsoleCommand),
    /// List the built-in catalogues of event types, and import one.
    #[command(subcommand)]
    Catalogue(Catalogue),
    Apply(Apply),
    Import(Import),
    #[command(flatten)]
    OverApi(cli::Command),
}

#[derive(Subcommand)]
enum Catalogue {
    /// List the built-in catalogues.
    List,
    /// Add a catalogue's event types to a tenant's.
    Import {
        /// The tenant that gets them.
        #[arg(long)]
        tenant: Tenant,
        /// The name of a built-in catalogue, or a JSON file.
        source: String,
    },
}

#[derive(Subcommand)]
#[allow(clippy::large_enum_variant)] // There is one in the process.
enum Dialect {
    /// List the dialects, including those in `DIALECTS_DIR`, and fail if one is invalid.
    List,
    /// Print the request that would deliver an event: headers and body.
    Preview(preview::Preview),
}

#[derive(Subcommand)]
enum ConsoleCommand {
    /// Sign everybody out, and invalidate links that nobody has opened yet.
    EndSessions {
        /// The tenant whose sessions end. Without it, all sessions end, also the operator's.
        #[arg(long)]
        tenant: Option<Tenant>,
    },
}

#[derive(clap::Args)]
struct ConsoleLink {
    /// The tenant whose pages the link opens. Without it, the link opens those of all tenants.
    #[arg(long)]
    tenant: Option<Tenant>,
    /// The role that the link gives: admin, manager or viewer.
    #[arg(long, default_value = "admin")]
    role: api::access::role::Role,
    /// Where people reach the console. The default is `HTTP_ADDR` on this machine.
    #[arg(long)]
    url: Option<String>,
    /// For how many minutes the link can be opened.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(i64).range(1..=1440))]
    minutes: i64,
}

#[derive(Subcommand)]
enum Token {
    /// Create a token and print it, once.
    Create {
        /// The tenant that the token belongs to. Without it, the token is a global one.
        #[arg(long)]
        tenant: Option<Tenant>,
        /// What the token may do: admin, manager or viewer.
        #[arg(long, default_value = "manager")]
        role: api::access::role::Role,
        /// The owner whose webhooks the token can see and change. It can't see others.
        #[arg(long, requires = "tenant")]
        owner: Option<shared::ids::Owner>,
    },
}

#[tokio::main]
#[allow(clippy::print_stdout)] // The commands for operators print their answer.
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let command = arguments.command.unwrap_or(Command::Serve { only: None });
    if let Command::Dialect(command) = command {
        // Needs no server, so no more than this is asked for.
        let dialects = settings::dialects(&environment())?;
        match command {
            Dialect::List => println!("{}", preview::list(&dialects)),
            Dialect::Preview(preview) => println!("{}", preview.write(&dialects)?),
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::Healthy = command {
        let default = SocketAddr::from(([127, 0, 0, 1], 8080));
        println!("{}", health_check::ask(&environment(), default)?);
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::OverApi(command) = command {
        command.run(&process_environment()).await?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::Openapi = command {
        println!("{:#}", api::document());
        return Ok(ExitCode::SUCCESS);
    }
    // The folder in which `apply` runs is a repository of other people's files: a
    // `.env` there must not say where deliveries may go.
    let settings = match command {
        Command::Apply(_) => Settings::read(&process_environment())?,
        _ => Settings::read(&environment())?,
    };
    telemetry::log_to_stderr(settings.common.log_format);
    supervise::die_on_panic();
    match command {
        Command::Serve { only } => {
            let stop = CancellationToken::new();
            supervise::stop_on_signals(stop.clone())?;
            trace::start(&settings.common.tracing, "posthorn-ingest")?;
            let ended = run::run(settings, only, stop).await;
            trace::stop().await;
            ended?;
        }
        Command::Migrate => {
            let applied = postgres::migrate(&pool(&settings)?).await?;
            println!("{applied} migrations applied");
        }
        Command::Audit { grace } => {
            let audit = audit::audit(&pool(&settings)?, Duration::from_secs(grace)).await?;
            println!("{audit}");
            anyhow::ensure!(
                audit.is_clean(),
                "some deliveries are neither finished nor on their way"
            );
        }
        Command::Doctor { management } => {
            let variable = environment()("RABBITMQ_MANAGEMENT_URL");
            let of_variable = variable.map(|url| url.parse()).transpose();
            let of_variable = of_variable.context("RABBITMQ_MANAGEMENT_URL is not a URL")?;
            let report = doctor::examine(&settings, management.or(of_variable)).await;
            println!("{report}");
            if !report.is_healthy() {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Rekey => {
            let rekeyed = rekey::rekey(&pool(&settings)?, &settings.common.keys).await?;
            println!("{rekeyed}");
            anyhow::ensure!(
                rekeyed.is_complete(),
                "some webhooks still need an older key: keep it in MASTER_KEY_PREVIOUS"
            );
        }
        Command::Dialect(_) | Command::Openapi | Command::Healthy | Command::OverApi(_) => {
            unreachable!("answered above")
        }
        Command::Token(Token::Create {
            tenant,
            role,
            owner,
        }) => {
            anyhow::ensure!(
                owner.is_none() || role != api::access::role::Role::Admin,
                "--owner: an admin's token is for all webhooks"
            );
            let token = api::access::tokens::create_token(
                &pool(&settings)?,
                &ingest::actor::Actor::command("token create"),
                tenant.as_ref(),
                role,
                owner.as_ref(),
                None,
            )
            .await
            .map_err(|error| or_no_tenant(error, tenant.as_ref()))?;
            println!("{}", token.secret.expose_secret());
        }
        Command::ConsoleLink(wanted) => {
            let ConsoleLink {
                tenant,
                role,
                url,
                minutes,
            } = wanted;
            let minutes = time::Duration::minutes(minutes);
            let link =
                session::links::create_link(&pool(&settings)?, tenant.as_ref(), role, minutes)
                    .await
                    .map_err(|error| or_no_tenant(error, tenant.as_ref()))?;
            let here = || format!("http://localhost:{}", settings.http_addr.port());
            let base = url.unwrap_or_else(here);
            let base = base.trim_end_matches('/');
            println!("{base}/console/_/open?link={}", link.expose_secret());
        }
        Command::Console(ConsoleCommand::EndSessions { tenant }) => {
            let ended = session::end_all(&pool(&settings)?, tenant.as_ref()).await?;
            println!("{ended} sessions ended");
        }
        Command::Catalogue(Catalogue::List) => {
            print!("{}", command::list()?);
        }
        Command::Catalogue(Catalogue::Import { tenant, source }) => {
            println!(
                "{}",
                command::import(&pool(&settings)?, &tenant, &source).await?
            );
        }
        Command::Import(arguments) => {
            let common = &settings.common;
            let rules = import::Rules {
                destinations: &common.destinations,
                writing: Writing {
                    keys: &common.keys,
                    dialects: &common.dialects,
                },
            };
            let report = import::import(&arguments, &pool(&settings)?, &rules).await?;
            println!("{report}");
            if report.refused() > 0 {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Apply(arguments) => {
            let common = &settings.common;
            let rules = Rules {
                destinations: &common.destinations,
                writing: Writing {
                    keys: &common.keys,
                    dialects: &common.dialects,
                },
                variable: &process_environment(),
            };
            let report = apply::apply(&arguments, &pool(&settings)?, &rules).await?;
            println!("{report}");
            if arguments.exit_code && report.has_changes() {
                return Ok(ExitCode::from(2));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn pool(settings: &Settings) -> anyhow::Result<deadpool_postgres::Pool> {
    let config = postgres::config(&settings.common.database_url, "posthorn-ingest (command)")?;
    postgres::pool(&config, 2)
}

/// Says it if the command failed because there is no such tenant.
fn or_no_tenant(error: anyhow::Error, tenant: Option<&Tenant>) -> anyhow::Error {
    match tenant {
        Some(tenant) if api::access::tokens::is_unknown_tenant(&error) => {
            anyhow::anyhow!("there is no tenant `{tenant}`")
        }
        _ => error,
    }
}

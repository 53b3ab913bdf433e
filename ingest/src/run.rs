//! Starts everything, keeps it running, stops it in order.
//!
//! It is one process, or two with the same settings ([`Only`]): one serves the
//! API, the other takes events. So an end of the one that takes what strangers
//! publish over AMQP isn't an end of the API.
//!
//! Each part has a RabbitMQ session of its own: publishing, the lanes, the
//! keeper of dead letters. Trouble on one leaves the others alone.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use deadpool_postgres::Pool;
use shared::amqp::{Broker, Session, keep_session};
use shared::attempt::Sender;
use shared::clock;
use shared::job::bundle::MOST_JOBS;
use shared::processes::{self, Process};
use shared::publish::Publisher;
use shared::revisions::{Changes, Feed};
use shared::serve::serve;
use shared::supervise::{Readiness, Supervisor, on_a_worker};
use shared::webhook::Subscription;
use shared::{health, postgres, queues};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::api;
use crate::api::access::jwt::Jwts;
use crate::api::access::rate_limit::Rates;
use crate::api::access::token_lookup::TokenLookup;
use crate::api::webhooks::tester::Tester;
use crate::batch::Writer;
use crate::console::rail::Rail;
use crate::console::state::{Console, SignIns};
use crate::console::watch::Watching;
use crate::dead_letters::letter::Origin;
use crate::dead_letters::{self, Keeper};
use crate::door::{Door, Room};
use crate::event_types::EventTypes;
use crate::intake::{Intake, LANES, take_events};
use crate::look_ahead::LookAhead;
use crate::metrics::metrics;
use crate::settings::Settings;
use crate::subscriptions::Subscriptions;
use crate::tenant_permits::TenantPermits;
use crate::type_counts::TypeCounts;
use crate::{console, deleted_webhooks, listening, partitions, replay, survey, tenant_deletion};

const NAME: &str = "posthorn-ingest";
/// To PostgreSQL, for the lanes, the feed, dead letters, replays and upkeep.
const WORK_CONNECTIONS: usize = 8;
/// To PostgreSQL, for the API's requests alone, so that they delay no event.
const API_CONNECTIONS: usize = 8;
/// To PostgreSQL, for looking tokens up.
const TOKEN_CONNECTIONS: usize = 2;
/// To PostgreSQL, for what the console's pages list and count. A tenant's pages use less than half of
/// them at a time (`auth::OF_A_TENANT`).
const CONSOLE_CONNECTIONS: usize = 7;
/// To PostgreSQL, for the live parts of the console's pages.
const LIVE_CONNECTIONS: usize = 2;
/// How long each of the console's statements may take: its part of the page says so then.
const CONSOLE_STATEMENT: Duration = Duration::from_secs(2);
/// How often partitions are made and dropped.
const MAINTENANCE: Duration = Duration::from_secs(3600);
/// How often the sweeper's findings and dead letters are read for the metrics.
const SWEEP_REPORT: Duration = Duration::from_secs(5);
/// How often PostgreSQL is asked for the metrics that cost more than that.
const SURVEY: Duration = Duration::from_secs(15);

/// How long requests that are under way may still publish when the intake has finished.
const LAST_REQUESTS: Duration = Duration::from_secs(3);

/// Which part of ingest a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Only {
    /// Serves the API.
    Api,
    /// Takes events and dead letters, replays, and keeps the log's partitions.
    Intake,
}

/// Runs ingest, or one part of it, until `stop`.
///
/// # Errors
/// If it can't start, or a part of it ends unasked.
pub async fn run(
    settings: Settings,
    only: Option<Only>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    metrics();
    let (has_api, has_intake) = (only != Some(Only::Intake), only != Some(Only::Api));
    // Sessions to RabbitMQ: the publisher's, and the lanes'.
    let ready = Readiness::with_sessions(1 + u8::from(has_intake));
    // Cancelled when intake has finished. The parts that serve it must not end before
    // it does: an end before that counts as a failure.
    let work_done = CancellationToken::new();
    let config = postgres::config(&settings.common.database_url, NAME)?;
    config.warn_if_plain();
    let pool = postgres::pool(&config, WORK_CONNECTIONS)?;
    let planned_once = config.clone().planned_once();
    let accepting = postgres::pool(&planned_once, LANES)?;
    let listener = TcpListener::bind(settings.http_addr)
        .await
        .with_context(|| format!("HTTP_ADDR: listening on {}", settings.http_addr))?;

    if postgres::wait_until_ready(&pool, &stop).await.is_none() {
        return Ok(());
    }
    let subscriptions = Arc::new(Subscriptions::new(settings.common.dialects.clone()));
    let event_types = Arc::new(EventTypes::default());
    let keys = settings.common.keys.clone();
    let feed = Feed::new(pool.clone(), keys, ready.clone(), {
        let (subscriptions, event_types) = (subscriptions.clone(), event_types.clone());
        move |mut changes: Changes<Subscription>| {
            event_types.apply(std::mem::take(&mut changes.event_types));
            subscriptions.apply(changes);
        }
    });
    let shards = settings.common.shards;
    let most_jobs = if settings.job_bundles { MOST_JOBS } else { 1 };
    let (publisher, publications) = Publisher::new(shards);
    let ahead = Arc::<LookAhead>::default();
    let tokens = Arc::new(TokenLookup::new(postgres::pool(
        &planned_once,
        TOKEN_CONNECTIONS,
    )?));
    let door = Arc::new(Door {
        ahead: ahead.clone(),
        publisher: publisher.clone(),
        feed: feed.clone(),
        subscriptions: subscriptions.clone(),
        event_types: event_types.clone(),
        tokens: tokens.clone(),
        given_up: TaskTracker::new(),
        stop: stop.clone(),
        room: Room::default(),
    });

    let mut routes = health::routes(ready.clone());
    if has_api {
        let jwts = Jwts::new(settings.jwt.clone())?;
        let rates =
            (settings.api_rate_limit > 0).then(|| Arc::new(Rates::new(settings.api_rate_limit)));
        let sender = Sender::new(
            settings.common.destinations.clone(),
            settings.common.egress.clone(),
        )?;
        let reading = config.clone().reading_pages();
        let state = api::state::Api {
            pool: postgres::pool(&reading, API_CONNECTIONS)?,
            tokens,
            permits: Arc::new(TenantPermits::new(api::access::auth::OF_A_TENANT)),
            streams: Arc::new(TenantPermits::new(api::listeners::STREAMS_OF_A_TENANT)),
            changes: Arc::default(),
            checks: Arc::new(Rates::new(api::signatures::CHECKS_PER_SECOND)),
            previews: Arc::new(Rates::new(api::webhooks::preview::PREVIEWS_PER_SECOND)),
            publisher: publisher.clone(),
            door: door.clone(),
            tester: Arc::new(Tester::new(sender, settings.defaults.timeout)),
            keys: settings.common.keys.clone(),
            destinations: settings.common.destinations.clone(),
            egress: settings.common.egress.clone(),
            dialects: settings.common.dialects.clone(),
            admin_token: settings.admin_token.clone(),
            rates,
            jwts: jwts.map(Arc::new),
            feed: feed.clone(),
            subscriptions: subscriptions.clone(),
            event_types: event_types.clone(),
            retention: settings.retention,
            loads: Arc::default(),
            webhook_metrics: settings.webhook_metrics,
        };
        let api = Arc::new(state);
        if settings.console {
            let hasty = reading.giving_up_after(CONSOLE_STATEMENT);
            let reads = api::state::Api {
                pool: postgres::pool(&hasty, CONSOLE_CONNECTIONS)?,
                ..(*api).clone()
            };
            let live = api::state::Api {
                pool: postgres::pool(&hasty, LIVE_CONNECTIONS)?,
                permits: Arc::new(TenantPermits::new(console::watch::READS_OF_A_TENANT)),
                ..(*api).clone()
            };
            routes = routes.merge(console::routes(Console {
                api: api.clone(),
                reads: Arc::new(reads),
                live: Arc::new(live),
                sign_ins: SignIns::default(),
                rail: Rail::default(),
                watching: Watching::default(),
                stop: stop.clone(),
            }));
        }
        routes = api::routes(api, &settings.cors_origins).merge(routes);
    }
    info!(address = %listener.local_addr()?, api = has_api, intake = has_intake, "serving metrics and health");
    let stop_serving = CancellationToken::new();
    let serving = serve(listener, routes, settings.common.http, stop_serving.clone());

    let mut services = Supervisor::new(work_done.clone());
    services.spawn("serving HTTP", serving);
    services.spawn("listening for changes of webhooks", {
        let (feed, work_done) = (feed.clone(), work_done.clone());
        let url = settings.common.database_url.clone();
        async move { feed.listen(&url, NAME, &work_done).await }
    });
    let type_counts = Arc::<TypeCounts>::default();
    services.spawn("counting events by type", {
        let (counts, pool, work_done) = (type_counts.clone(), pool.clone(), work_done.clone());
        async move { counts.keep_written(pool, work_done).await }
    });
    let process = Process::this(match only {
        None => "ingest",
        Some(Only::Api) => "api",
        Some(Only::Intake) => "intake",
    });
    let work = {
        let counts = type_counts.clone();
        move || processes::Work {
            events: counts.events(),
            ..processes::Work::default()
        }
    };
    let told = process.keep_told(pool.clone(), work, work_done.clone());
    services.spawn("telling of this process", told);
    if has_intake {
        let upkeep = upkeep(pool.clone(), settings.retention, work_done.clone());
        services.spawn("upkeep", upkeep);
        let (dialects, stop) = (settings.common.dialects.clone(), work_done.clone());
        let replaying = replay::run(pool.clone(), publisher.clone(), dialects, stop);
        services.spawn("replaying", replaying);
        let deleting = tenant_deletion::run(pool.clone(), work_done.clone());
        services.spawn("deleting tenants", deleting);
    }
    // Publications end when no publisher is left.
    drop(publisher);

    let broker = Broker::new(settings.common.amqp_url.clone(), NAME, shards);
    let publishing = {
        let (broker, ready, work_done) = (broker.clone(), ready.clone(), work_done.clone());
        let publications = Arc::new(Mutex::new(publications));
        on_a_worker(async move {
            keep_session(&broker, "publishing", &ready, &work_done, |session| {
                let (publications, work_done) = (publications.clone(), work_done.clone());
                async move {
                    let mut publications = publications.lock().await;
                    let channel = session.publishing_channel().await?;
                    tokio::select! {
                        // It may end only when no publisher is left.
                        ended = publications.serve(&channel) => ended,
                        () = work_done.cancelled() => Ok(()),
                    }
                }
            })
            .await;
        })
    };
    let working = async {
        if !has_intake {
            return stop.cancelled().await;
        }
        let keeper = Keeper {
            pool: pool.clone(),
            room: settings.dead_letters,
            stop: stop.clone(),
            unacked: TaskTracker::new(),
        };
        let queues_pool = pool.clone();
        let writer = Writer {
            pool,
            accepting,
            ahead: ahead.clone(),
            feed,
            subscriptions,
            event_types,
            type_counts,
            stop: stop.clone(),
        };
        let intake = Intake {
            writer,
            shards,
            most_jobs,
        };
        let events = {
            let (broker, ready, stop) = (broker.clone(), ready.clone(), stop.clone());
            on_a_worker(async move {
                keep_session(&broker, "events", &ready, &stop, |session| {
                    let intake = intake.clone();
                    async move { take_events(&intake, &session, session.is_careful()).await }
                })
                .await;
            })
        };
        // Ingest counts as ready even while dead letters can't be taken.
        let unasked = Readiness::default();
        let dead_letters = keep_session(&broker, "dead letters", &unasked, &stop, |session| {
            let (keeper, pool) = (keeper.clone(), queues_pool.clone());
            async move {
                tokio::select! {
                    ended = take_dead_letters(&keeper, &session) => ended,
                    never = queues::keep_measured(&pool, &session, shards) => match never {},
                }
            }
        });
        tokio::join!(events, dead_letters);
        keeper.unacked.close();
        keeper.unacked.wait().await;
    };
    let mut publishing = Box::pin(publishing);
    tokio::select! {
        () = Box::pin(working) => {}
        () = &mut publishing => anyhow::bail!("publishing ended unexpectedly"),
        ended = services.watch() => ended?,
    }
    // What came over HTTP and waits, or was given up by a lane, is published meanwhile.
    ahead.close();
    door.given_up.close();
    tokio::select! {
        () = door.given_up.wait() => {}
        () = &mut publishing => anyhow::bail!("publishing ended unexpectedly"),
    }
    // Then requests that are under way, which may publish still.
    stop_serving.cancel();
    tokio::select! {
        _ = tokio::time::timeout(LAST_REQUESTS, services.watch()) => {}
        () = &mut publishing => anyhow::bail!("publishing ended unexpectedly"),
    }
    work_done.cancel();
    publishing.await;
    services.stop().await;
    info!("stopped");
    Ok(())
}

/// Runs the keeper of dead letters on a session.
async fn take_dead_letters(keeper: &Keeper, session: &Session) -> anyhow::Result<()> {
    if session.is_careful() {
        // One queue at a time; which one has the message to blame isn't known.
        let queues = [Origin::Unrouted, Origin::Parking];
        let queue = session
            .one_with_messages(&queues.map(Origin::queue))
            .await?;
        let is_it = |origin: &Origin| queue == Some(origin.queue());
        let origin = queues.into_iter().find(is_it);
        return keeper
            .keep(session, origin.unwrap_or(Origin::Parking))
            .await;
    }
    tokio::try_join!(
        keeper.keep(session, Origin::Parking),
        keeper.keep(session, Origin::Unrouted),
    )
    .map(|_| ())
}

/// Makes and drops partitions; shows what the sweeper found, and how many dead
/// letters there are.
async fn upkeep(pool: Pool, retention: time::Duration, stop: CancellationToken) {
    let mut maintenance = tokio::time::interval(MAINTENANCE);
    let mut report = tokio::time::interval(SWEEP_REPORT);
    let mut surveys = tokio::time::interval(SURVEY);
    loop {
        tokio::select! {
            _ = maintenance.tick() => {
                let until = clock::now() - retention;
                if let Err(error) = partitions::maintain(&pool, until).await {
                    warn!(error = format!("{error:#}"), "creating or dropping partitions failed; trying again in a minute");
                    maintenance.reset_after(Duration::from_secs(60));
                }
                match partitions::weigh(&pool, retention).await {
                    Ok(size) => {
                        metrics().storage.set(size.now);
                        metrics().storage_forecast.set(size.forecast);
                    }
                    Err(error) => warn!(error = format!("{error:#}"), "measuring the log's size failed; its metrics keep their old values for an hour"),
                }
                if let Err(error) = dead_letters::store::delete_outdated(&pool, until).await {
                    warn!(error = format!("{error:#}"), "deleting outdated dead letters failed; trying again in an hour");
                }
                if let Err(error) = replay::delete_outdated(&pool, until).await {
                    warn!(error = format!("{error:#}"), "deleting outdated replays failed; trying again in an hour");
                }
                if let Err(error) = tenant_deletion::delete_outdated(&pool).await {
                    warn!(error = format!("{error:#}"), "deleting the records of finished deletions failed; trying again in an hour");
                }
                if let Err(error) = api::access::tokens::delete_outdated(&pool).await {
                    warn!(error = format!("{error:#}"), "deleting outdated tokens failed; trying again in an hour");
                }
                // After the days of the log and the replays that name them.
                if let Err(error) = deleted_webhooks::purge(&pool, until).await {
                    warn!(error = format!("{error:#}"), "purging deleted webhooks failed; trying again in an hour");
                }
            }
            _ = report.tick() => {
                if let Err(error) = read_sweep(&pool).await {
                    warn!(error = format!("{error:#}"), "reading the count of unaccounted deliveries failed; trying again in 5 s");
                }
                match dead_letters::store::held(&pool).await {
                    Ok(held) => {
                        metrics().dead_letters.set(held.letters);
                        metrics().dead_letters_bytes.set(held.bytes);
                    }
                    Err(error) => warn!(error = format!("{error:#}"), "counting dead letters failed; trying again in 5 s"),
                }
            }
            _ = surveys.tick() => {
                if let Err(error) = listening::delete_expired(&pool).await {
                    warn!(error = format!("{error:#}"), "deleting listeners whose lease is over failed; trying again in 15 s");
                }
                if let Err(error) = survey::survey(&pool).await {
                    warn!(error = format!("{error:#}"), "counting open deliveries for the metrics failed; trying again with the next survey");
                }
            }
            () = stop.cancelled() => return,
        }
    }
}

async fn read_sweep(pool: &Pool) -> anyhow::Result<()> {
    let client = pool.get().await?;
    let statement = client
        .prepare_cached("-- read_unaccounted\nSELECT unaccounted FROM sweep")
        .await?;
    metrics()
        .unaccounted
        .set(client.query_one(&statement, &[]).await?.get(0));
    Ok(())
}

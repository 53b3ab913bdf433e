//! Starts everything, keeps it running, stops it in order.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use deadpool_postgres::Pool;
use futures_util::future::try_join_all;
use shared::amqp::{Broker, Session, keep_session};
use shared::attempt::Sender;
use shared::catalogue::Feed;
use shared::publish::{Publications, publisher};
use shared::serve::serve;
use shared::supervise::{Readiness, until_done};
use shared::topology::INGEST_QUEUE;
use shared::{postgres, telemetry};
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api;
use crate::api::jwt::Jwts;
use crate::api::rates::Rates;
use crate::api::test_deliveries::Tester;
use crate::dead_letters::letter::Origin;
use crate::dead_letters::{self, Keeper};
use crate::event_types::EventTypes;
use crate::intake::{Intake, LANES, PREFETCH, lane};
use crate::metrics::metrics;
use crate::settings::Settings;
use crate::subscriptions::Subscriptions;
use crate::{partitions, replay};

const NAME: &str = "posthorn-ingest";
/// Of the lanes, the feed, the keepers of dead letters, replays and upkeep.
const WORK_CONNECTIONS: usize = 8;
/// Of the API's requests: what waits for one of these waits for nothing else.
const API_CONNECTIONS: usize = 8;
/// How often partitions are made and dropped.
const MAINTENANCE: Duration = Duration::from_secs(3600);
/// How often the sweeper's findings and dead letters are read for the metrics.
const SWEEP_REPORT: Duration = Duration::from_secs(5);

/// Runs ingest until `stop`.
///
/// # Errors
/// If it can't start, or a part of it ends unasked.
pub async fn run(settings: Settings, stop: CancellationToken) -> anyhow::Result<()> {
    metrics();
    let ready = Readiness::default();
    // What serves the work outlives it: one that ended with `stop` would look
    // like one that failed.
    let over = CancellationToken::new();
    let config = postgres::config(&settings.common.database_url, NAME)?;
    config.warn_if_plain();
    let pool = postgres::pool(&config, WORK_CONNECTIONS)?;
    let listener = TcpListener::bind(settings.http_addr)
        .await
        .with_context(|| format!("HTTP_ADDR: listening on {}", settings.http_addr))?;

    if wait_for_schema(&pool, &stop).await.is_none() {
        return Ok(());
    }
    let subscriptions = Arc::new(Subscriptions::default());
    let event_types = Arc::new(EventTypes::default());
    let feed = Feed::with_event_types(pool.clone(), settings.common.keys.clone(), {
        let (subscriptions, event_types) = (subscriptions.clone(), event_types.clone());
        move |mut changes| {
            event_types.apply(std::mem::take(&mut changes.event_types));
            subscriptions.apply(changes);
        }
    });
    let (publisher, publications) = publisher();

    let jwts = Jwts::new(settings.jwt.clone())?;
    let rates = (settings.api_rate_limit > 0).then(|| Rates::new(settings.api_rate_limit));
    let shards = settings.common.shards;
    let sender = Sender::new(settings.common.destinations.clone())?;
    let state = api::Api {
        pool: postgres::pool(&config, API_CONNECTIONS)?,
        publisher: publisher.clone(),
        shards,
        tester: Tester::new(sender, settings.defaults.timeout),
        keys: settings.common.keys.clone(),
        destinations: settings.common.destinations.clone(),
        dialects: settings.common.dialects.clone(),
        admin_token: settings.admin_token.clone(),
        rates,
        jwts,
        feed: feed.clone(),
        subscriptions: subscriptions.clone(),
        event_types: event_types.clone(),
    };
    let api = api::routes(state, &settings.cors_origins).merge(telemetry::routes(ready.clone()));
    info!(address = %listener.local_addr()?, "API, metrics and health");
    let mut serving = tokio::spawn(serve(listener, api, settings.common.http, over.clone()));

    let mut listening = tokio::spawn({
        let (feed, ready, over) = (feed.clone(), ready.clone(), over.clone());
        let url = settings.common.database_url.clone();
        async move { feed.listen(&url, NAME, &ready, &over).await }
    });
    let mut upkeep = tokio::spawn(upkeep(pool.clone(), settings.retention, over.clone()));

    let keeper = Keeper {
        pool: pool.clone(),
        stop: stop.clone(),
    };
    let replaying = replay::run(pool.clone(), publisher, shards, over.clone());
    let mut replaying = tokio::spawn(replaying);
    let intake = Intake {
        pool,
        feed,
        subscriptions,
        event_types,
        shards,
        stop: stop.clone(),
    };
    let broker = Broker::new(settings.common.amqp_url.clone(), NAME, shards);
    let mut work = Work {
        intake,
        keeper,
        publications,
    };
    let working = keep_session(&broker, &ready, &stop, async |session| {
        work.on(session).await
    });
    tokio::select! {
        () = working => {}
        ended = &mut serving => anyhow::bail!("serving HTTP ended unasked: {ended:?}"),
        ended = &mut listening => anyhow::bail!("listening ended unasked: {ended:?}"),
        ended = &mut upkeep => anyhow::bail!("upkeep ended unasked: {ended:?}"),
        ended = &mut replaying => anyhow::bail!("replaying ended unasked: {ended:?}"),
    }
    over.cancel();
    // Requests that wait for a confirm get their answer: there is none any more.
    drop(work);
    let _ = tokio::join!(serving, listening, upkeep, replaying);
    info!("stopped");
    Ok(())
}

async fn wait_for_schema(pool: &Pool, stop: &CancellationToken) -> Option<()> {
    until_done(stop, "not started yet", || postgres::check_schema(pool)).await
}

/// What runs on each session in turn.
struct Work {
    intake: Intake,
    keeper: Keeper,
    publications: Publications,
}

impl Work {
    async fn on(&mut self, session: &Session) -> anyhow::Result<()> {
        let mut lanes = Vec::new();
        for _ in 0..LANES {
            let channel = session.publishing_channel().await?;
            let (consuming, consumer) = session.consumer(INGEST_QUEUE, PREFETCH).await?;
            let intake = &self.intake;
            lanes.push(async move {
                // Held as long as its consumer.
                let _consuming = consuming;
                lane(intake, consumer, channel).await
            });
        }
        let channel = session.publishing_channel().await?;
        let keep = |origin| self.keeper.keep(session, origin);
        tokio::select! {
            // Told to stop, all of them return.
            ended = async {
                tokio::try_join!(
                    try_join_all(lanes),
                    keep(Origin::Parking),
                    keep(Origin::Unrouted),
                )
            } => ended.map(|_| ()),
            ended = self.publications.serve(&channel) => {
                ended?;
                anyhow::bail!("nobody publishes any more")
            }
        }
    }
}

/// Makes and drops partitions; shows what the sweeper found, and how many dead
/// letters there are.
async fn upkeep(pool: Pool, retention: time::Duration, stop: CancellationToken) {
    let mut maintenance = tokio::time::interval(MAINTENANCE);
    let mut report = tokio::time::interval(SWEEP_REPORT);
    loop {
        tokio::select! {
            _ = maintenance.tick() => {
                let until = OffsetDateTime::now_utc() - retention;
                if let Err(error) = partitions::maintain(&pool, until).await {
                    warn!(error = format!("{error:#}"), "maintaining partitions");
                    maintenance.reset_after(Duration::from_secs(60));
                }
                match partitions::weigh(&pool, retention).await {
                    Ok(size) => {
                        metrics().storage.set(size.now);
                        metrics().storage_forecast.set(size.forecast);
                    }
                    Err(error) => warn!(error = format!("{error:#}"), "weighing the log"),
                }
                if let Err(error) = dead_letters::store::delete_outdated(&pool, until).await {
                    warn!(error = format!("{error:#}"), "deleting outdated dead letters");
                }
                if let Err(error) = replay::delete_outdated(&pool, until).await {
                    warn!(error = format!("{error:#}"), "deleting outdated replays");
                }
            }
            _ = report.tick() => {
                if let Err(error) = read_sweep(&pool).await {
                    warn!(error = format!("{error:#}"), "reading the sweeper's findings");
                }
                match dead_letters::store::held(&pool).await {
                    Ok(held) => metrics().dead_letters.set(held),
                    Err(error) => warn!(error = format!("{error:#}"), "counting dead letters"),
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

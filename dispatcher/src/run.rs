//! Starts everything, keeps it running, stops it in order.
//!
//! To stop is: take no more jobs; let attempts under way finish within the
//! grace; settle what they came to; give back the rest, which is what closing
//! the connection does.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use deadpool_postgres::Pool;
use futures_util::future::try_join_all;
use lapin::options::BasicCancelOptions;
use shared::amqp::{Broker, Session, keep_session};
use shared::attempt::Sender;
use shared::catalogue::Feed;
use shared::ids::WebhookId;
use shared::publish::{Publications, Publisher, publisher};
use shared::serve::serve;
use shared::settings::Defaults;
use shared::supervise::{Readiness, until_done};
use shared::topology::jobs_queue;
use shared::webhook::Webhook;
use shared::{partitions, postgres, telemetry};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::admit::UnderWay;
use crate::endpoint::cache::Endpoints;
use crate::endpoint::rate_limit::{Rates, keep_rates};
use crate::metrics::metrics;
use crate::settings::Settings;
use crate::settle::{Settlement, Settler};
use crate::ticket::Tickets;
use crate::upkeep::sweep::Watermarks;
use crate::upkeep::{failing, sweep};
use crate::{intake, tally};

const NAME: &str = "posthorn-dispatcher";
/// Settling, rechecks, large payloads, the sweeper, the feed.
const POSTGRES_CONNECTIONS: usize = 8;

/// How many days from today a dispatcher makes sure that the log has room for.
pub(crate) const TOMORROW: i32 = 1;

/// What a job's task needs, and everyone else.
pub struct Dispatcher {
    /// To PostgreSQL.
    pub pool: Pool,
    /// Webhooks in memory.
    pub endpoints: Arc<Endpoints>,
    /// What keeps them fresh.
    pub feed: Arc<Feed<Webhook>>,
    /// The HTTP client.
    pub sender: Sender,
    /// Where a webhook says nothing.
    pub defaults: Defaults,
    /// The longest that an attempt takes where a webhook says nothing.
    pub longest_timeout: Duration,
    /// How much of the rate limits is used.
    pub rates: Rates,
    /// Deliveries under way here.
    pub under_way: UnderWay,
    /// Jobs held at a time.
    pub places: Arc<Semaphore>,
    /// Jobs' tasks, and their settlements.
    pub tasks: TaskTracker,
    /// Puts jobs into queues.
    pub publisher: Publisher,
    /// Re-parks jobs.
    pub settler: Settler,
    settlements: mpsc::Sender<Settlement>,
    /// For the routing of jobs.
    pub shards: u16,
    /// For the sweeper.
    pub watermarks: Watermarks,
    /// See [`Settings::disable_after`].
    pub disable_after: Option<Duration>,
    /// See [`Settings::sweep_grace`].
    pub sweep_grace: Duration,
    /// See [`Settings::sweep_interval`].
    pub sweep_interval: Duration,
    /// Take no more.
    pub stop: CancellationToken,
    /// The grace is over.
    pub hurry: CancellationToken,
}

impl Dispatcher {
    /// How long after a job was taken its verdict is on record: its webhook's
    /// timeout, and the time to wait for a place and to be recorded, as the sweeper
    /// allows them.
    pub fn time_of_an_attempt(&self, webhook: WebhookId) -> Duration {
        let endpoint = self.endpoints.get(webhook);
        let timeout = endpoint.and_then(|endpoint| {
            let dialect = endpoint.dialect.clone()?;
            Some(endpoint.timeout(&self.defaults, &dialect))
        });
        timeout.unwrap_or(self.longest_timeout) + sweep::allowance(self.sweep_grace)
    }

    /// Hands a verdict to be written.
    pub async fn settle(&self, settlement: Settlement) {
        // Closed only when the grace is over: the job is redelivered.
        let _ = self.settlements.send(settlement).await;
    }
}

/// Runs a dispatcher until `stop`.
///
/// # Errors
/// If it can't start, or a part of it ends unasked.
pub async fn run(settings: Settings, stop: CancellationToken) -> anyhow::Result<()> {
    metrics();
    let ready = Readiness::with_sessions(1);
    let hurry = CancellationToken::new();
    // What serves the work outlives it: one that ended with `hurry` would look
    // like one that failed.
    let over = CancellationToken::new();
    let config = postgres::config(&settings.common.database_url, NAME)?;
    config.warn_if_plain();
    let pool = postgres::pool(&config, POSTGRES_CONNECTIONS)?;

    let listener = TcpListener::bind(settings.http_addr)
        .await
        .with_context(|| format!("HTTP_ADDR: listening on {}", settings.http_addr))?;
    info!(address = %listener.local_addr()?, "metrics and health");
    let routes = telemetry::routes(ready.clone());
    let mut health = tokio::spawn(serve(listener, routes, settings.common.http, over.clone()));

    if wait_for_schema(&pool, &stop).await.is_none() {
        return Ok(());
    }

    let endpoints = Arc::new(Endpoints::new(
        settings.common.dialects.clone(),
        usize::from(settings.concurrency),
    ));
    let keys = settings.common.keys.clone();
    let feed = Feed::new(pool.clone(), keys, ready.clone(), {
        let endpoints = endpoints.clone();
        move |changes| endpoints.apply(changes)
    });
    let mut listening = tokio::spawn({
        let (feed, over) = (feed.clone(), over.clone());
        let url = settings.common.database_url.clone();
        async move { feed.listen(&url, NAME, &over).await }
    });

    let mut partitions = tokio::spawn(partitions::keep(pool.clone(), TOMORROW, over.clone()));

    let (publisher, publications) = publisher();
    let (sender, receiver) = mpsc::channel(usize::from(settings.concurrency));
    let shards = settings.common.shards;
    let settler = || Settler {
        pool: pool.clone(),
        tickets: Tickets {
            pool: pool.clone(),
            hurry: hurry.clone(),
        },
        publisher: publisher.clone(),
        shards,
        slot: tally::any_slot(),
        hurry: hurry.clone(),
    };
    let mut settling = tokio::spawn(settler().run(receiver));
    let (rates, asks) = Rates::new();
    let mut rating = tokio::spawn(keep_rates(pool.clone(), asks, hurry.clone()));
    let dispatcher = Arc::new(Dispatcher {
        settler: settler(),
        pool: pool.clone(),
        endpoints,
        feed,
        sender: Sender::new(settings.common.destinations.clone())?,
        defaults: settings.defaults.clone(),
        longest_timeout: settings
            .defaults
            .timeout
            .unwrap_or(settings.common.dialects.longest_timeout()),
        rates,
        under_way: UnderWay::default(),
        places: Arc::new(Semaphore::new(usize::from(settings.concurrency))),
        tasks: TaskTracker::new(),
        publisher,
        settlements: sender,
        shards,
        watermarks: Watermarks::new(shards),
        disable_after: settings.disable_after,
        sweep_grace: settings.sweep_grace,
        sweep_interval: settings.sweep_interval,
        stop: stop.clone(),
        hurry: hurry.clone(),
    });

    // After the grace nothing waits any longer.
    let grace = tokio::spawn({
        let (stop, hurry, grace) = (stop.clone(), hurry.clone(), settings.shutdown_grace);
        async move {
            stop.cancelled().await;
            tokio::time::sleep(grace).await;
            hurry.cancel();
        }
    });

    let broker = Broker::new(settings.common.amqp_url.clone(), NAME, shards);
    let mut serving = Serving {
        dispatcher,
        publications,
    };
    let prefetch = (settings.concurrency / shards).max(1);
    let working = keep_session(&broker, "jobs", &ready, &hurry, async |session| {
        serving.on(session, prefetch).await
    });
    // A dispatcher with a dead part looks healthy and delivers nothing.
    tokio::select! {
        () = working => {}
        ended = &mut settling => {
            anyhow::ensure!(hurry.is_cancelled(), "settling ended unasked: {ended:?}");
        }
        ended = &mut rating => {
            anyhow::ensure!(hurry.is_cancelled(), "keeping rates ended unasked: {ended:?}");
        }
        ended = &mut partitions => anyhow::bail!("making partitions ended unasked: {ended:?}"),
        ended = &mut listening => anyhow::bail!("listening ended unasked: {ended:?}"),
        ended = &mut health => anyhow::bail!("serving HTTP ended unasked: {ended:?}"),
    }

    hurry.cancel();
    over.cancel();
    grace.abort();
    // Everything that could be settled has been, see `Serving::on`.
    settling.abort();
    rating.abort();
    let _ = tokio::join!(listening, partitions, health);
    info!("stopped");
    Ok(())
}

async fn wait_for_schema(pool: &Pool, stop: &CancellationToken) -> Option<()> {
    until_done(stop, "not started yet", || async {
        postgres::check_schema(pool).await?;
        postgres::measure_clock(pool).await
    })
    .await
}

/// What runs on each session in turn.
struct Serving {
    dispatcher: Arc<Dispatcher>,
    publications: Publications,
}

impl Serving {
    /// Takes jobs until told to stop, then sees those it holds through.
    async fn on(&mut self, session: &Session, prefetch: u16) -> anyhow::Result<()> {
        let dispatcher = &self.dispatcher;
        let channel = session.publishing_channel().await?;
        let mut shards = Vec::new();
        for shard in shards_to_take(session, dispatcher.shards).await? {
            let (channel, consumer) = session.consumer(&jobs_queue(shard), prefetch).await?;
            shards.push((shard, channel, consumer));
        }
        let taking = shards
            .iter()
            .map(|(shard, _, consumer)| intake::take(dispatcher, *shard, consumer.clone()));
        let work = async {
            tokio::try_join!(
                try_join_all(taking),
                sweep::sweep(dispatcher, session),
                failing::watch(dispatcher),
            )?;
            // Told to stop. Without the consumers, what comes in late stays
            // unacked and returns to its queue when the session closes.
            for (_, channel, consumer) in &shards {
                channel
                    .basic_cancel(consumer.tag(), BasicCancelOptions::default())
                    .await?;
            }
            dispatcher.tasks.close();
            tokio::select! {
                () = dispatcher.tasks.wait() => {}
                () = dispatcher.hurry.cancelled() => warn!("the grace is over; giving jobs back"),
            }
            anyhow::Ok(())
        };
        tokio::select! {
            ended = work => ended,
            ended = self.publications.serve(&channel) => {
                ended?;
                anyhow::bail!("nobody publishes any more")
            }
        }
    }
}

/// All shards. One of them if messages are taken one at a time; which one has the
/// message to blame isn't known.
async fn shards_to_take(session: &Session, shards: u16) -> anyhow::Result<Range<u16>> {
    if !session.is_careful() || shards < 2 {
        return Ok(0..shards);
    }
    let queues: Vec<_> = (0..shards).map(jobs_queue).collect();
    let queue = session.one_with_messages(&queues).await?;
    let found = queue.and_then(|queue| queues.iter().position(|one| one == queue));
    let shard = found.map_or_else(|| fastrand::u16(..shards), |shard| shard as u16);
    Ok(shard..shard + 1)
}

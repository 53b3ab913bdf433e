//! Builds the stages, runs them, and stops them in order.
//!
//! To stop, a dispatcher takes no more jobs. Requests in flight get the shutdown grace to
//! finish, and their verdicts are settled. Then the RabbitMQ connection is closed, which
//! gives all other jobs back to their queues.
//!
//! No other module imports this one: each stage has the fields that it needs.

use std::ops::Range;
use std::sync::Arc;

use anyhow::Context;
use futures_util::future::try_join_all;
use shared::amqp::{Broker, Session, keep_session};
use shared::attempt::{MOST_KEPT, Sender};
use shared::job::per_message::JobsPerMessage;
use shared::processes::{self, Process};
use shared::publish::{Publications, Publisher};
use shared::revisions::Feed;
use shared::serve::serve;
use shared::stats::OUTCOMES;
use shared::supervise::{Readiness, Supervisor, on_a_worker};
use shared::topology::jobs_queue;
use shared::{descriptors, health, partitions, postgres, queues};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::admit::Admitter;
use crate::attempt_times::AttemptTimes;
use crate::deliver::Deliverer;
use crate::endpoint::cache::EndpointCache;
use crate::endpoint::rate_limit::RateLimiter;
use crate::endpoint::report::EndpointReporter;
use crate::in_flight::InFlight;
use crate::intake::{Capacity, Intake, MostMessages};
use crate::metrics::metrics;
use crate::record::{Recorder, TOMORROW};
use crate::settings::Settings;
use crate::settle::{Settler, stats};
use crate::spread::RetrySpread;
use crate::ticket::Tickets;
use crate::upkeep::alerts::AlertWatch;
use crate::upkeep::backlog::Backlog;
use crate::upkeep::failing::FailureWatch;
use crate::upkeep::paused::PausedDeliveries;
use crate::upkeep::sweep::Sweeper;
use crate::upkeep::watermark::{LossCriteria, Watermarks};

const NAME: &str = "posthorn-dispatcher";
/// For tickets, payloads, rate limits, upkeep and the feed.
const POSTGRES_CONNECTIONS: usize = 8;
/// Webhooks in trouble are looked for every so many sweeps: every thirty seconds.
const SWEEPS_PER_ALERT_CHECK: u32 = 6;
/// The largest frame of AMQP, in bytes. A job's properties are Posthorn's own and have a few
/// kilobytes at most.
const FRAME_MAX: u32 = 32 * 1024;
/// For connections to PostgreSQL and RabbitMQ, listeners, files and the runtime.
const OWN_DESCRIPTORS: usize = 64;
/// For settling, which writes one batch at a time, and for the sweep.
const PLANNED_CONNECTIONS: usize = 2;

/// Runs a dispatcher until `stop`.
///
/// # Errors
/// If it can't start, or one of its tasks ends unexpectedly.
pub async fn run(settings: Settings, stop: CancellationToken) -> anyhow::Result<()> {
    metrics();
    descriptors::provide(descriptors_needed(&settings));
    let ready = Readiness::with_sessions(1);
    let config = postgres::config(&settings.common.database_url, NAME)?;
    config.warn_if_plain();
    let pool = postgres::pool(&config, POSTGRES_CONNECTIONS)?;
    let planned_pool = postgres::pool(&config.planned_once(), PLANNED_CONNECTIONS)?;

    // The services stop last: the stages need them until the end.
    let services_stop = CancellationToken::new();
    let mut services = Supervisor::new(services_stop.clone());
    let listener = TcpListener::bind(settings.http_addr)
        .await
        .with_context(|| format!("HTTP_ADDR: listening on {}", settings.http_addr))?;
    info!(address = %listener.local_addr()?, "serving metrics and health");
    let routes = health::routes(ready.clone());
    let http = serve(
        listener,
        routes,
        settings.common.http,
        services_stop.clone(),
    );
    services.spawn("serving HTTP", http);

    if postgres::wait_until_ready(&pool, &stop).await.is_none() {
        return Ok(());
    }

    let endpoints = Arc::new(EndpointCache::new(
        settings.common.dialects.clone(),
        usize::from(settings.concurrency),
    ));
    let keys = settings.common.keys.clone();
    let feed = Feed::new(pool.clone(), keys, ready.clone(), {
        let endpoints = endpoints.clone();
        move |changes| endpoints.apply(changes)
    });
    services.spawn("listening for changes of webhooks", {
        let (feed, stop) = (feed.clone(), services_stop.clone());
        let url = settings.common.database_url.clone();
        async move { feed.listen(&url, NAME, &stop).await }
    });
    let partitions = partitions::keep(pool.clone(), TOMORROW, services_stop.clone());
    services.spawn("creating partitions", partitions);
    let process = Process::this("dispatcher");
    let reporter = EndpointReporter {
        pool: pool.clone(),
        endpoints: endpoints.clone(),
        process: process.id,
        stop: services_stop.clone(),
    };
    services.spawn("telling of endpoints", reporter.run());
    let concurrency = settings.concurrency;
    let told = process.keep_told(pool.clone(), move || work_done(concurrency), services_stop);
    services.spawn("telling of this process", told);

    // These may end when the shutdown grace is over.
    let grace_over = CancellationToken::new();
    let mut workers = Supervisor::new(grace_over.clone());
    workers.spawn("the timer of the shutdown grace", {
        let (stop, grace_over) = (stop.clone(), grace_over.clone());
        async move {
            stop.cancelled().await;
            tokio::time::sleep(settings.shutdown_grace).await;
            grace_over.cancel();
        }
    });
    let shards = settings.common.shards;
    let (publisher, publications) = Publisher::new(shards);
    let tickets = Tickets {
        pool: pool.clone(),
        grace_over: grace_over.clone(),
    };
    let criteria = LossCriteria {
        default_timeout: settings
            .defaults
            .timeout
            .unwrap_or(settings.common.dialects.longest_timeout()),
        grace: settings.sweep_grace,
    };
    let times = AttemptTimes {
        endpoints: endpoints.clone(),
        defaults: settings.defaults.clone(),
        criteria,
    };
    let settler = Arc::new(Settler {
        recorder: Recorder {
            pool: planned_pool.clone(),
            slot: stats::any_slot(),
            grace_over: grace_over.clone(),
        },
        tickets: tickets.clone(),
        times: times.clone(),
        publisher: publisher.clone(),
        concurrency: usize::from(settings.concurrency),
        grace_over: grace_over.clone(),
    });
    let (settlements, unsettled) = mpsc::channel(usize::from(settings.concurrency));
    workers.spawn("settling", settler.clone().run(unsettled));
    let (rate_limits, rate_limiter) = RateLimiter::new(pool.clone(), grace_over.clone());
    workers.spawn("limiting rates", rate_limiter.run());

    let tasks = TaskTracker::new();
    let watermarks = Arc::new(Watermarks::new(shards));
    let deliverer = Deliverer {
        admitter: Admitter {
            endpoints,
            feed,
            rate_limits,
            tickets,
            pool: pool.clone(),
            grace_over: grace_over.clone(),
        },
        in_flight: InFlight::default(),
        sender: Sender::new(
            settings.common.destinations.clone(),
            settings.common.egress.clone(),
        )?,
        defaults: settings.defaults.clone(),
        times,
        spread: RetrySpread::new(concurrency),
        settler,
        settlements,
        tasks: tasks.clone(),
    };
    let per_message = Arc::<JobsPerMessage>::default();
    let intake = Intake {
        deliverer: Arc::new(deliverer),
        publisher: publisher.clone(),
        watermarks: watermarks.clone(),
        capacity: Capacity::new(settings.concurrency, per_message.clone()),
        tasks: tasks.clone(),
        stop: stop.clone(),
    };
    let sweeper = Sweeper {
        pool: planned_pool,
        publisher: publisher.clone(),
        watermarks,
        criteria,
        interval: settings.sweep_interval,
        backlog: Backlog {
            pool: pool.clone(),
            publisher: publisher.clone(),
            per_message: per_message.clone(),
            default_timeout: criteria.default_timeout,
            stop: stop.clone(),
        },
        paused: PausedDeliveries {
            pool: pool.clone(),
            publisher: publisher.clone(),
            per_message,
            stop: stop.clone(),
        },
        stop: stop.clone(),
    };
    let alert_watch = AlertWatch {
        pool: pool.clone(),
        publisher: publisher.clone(),
        interval: settings.sweep_interval * SWEEPS_PER_ALERT_CHECK,
        stop: stop.clone(),
    };
    let failure_watch = FailureWatch {
        pool,
        publisher,
        disable_after: settings.disable_after,
        stop,
    };

    let work = Work {
        intake,
        sweeper,
        failure_watch,
        alert_watch,
        publications,
        tasks,
        grace_over: grace_over.clone(),
        shards,
        most_messages: MostMessages {
            share: usize::from(settings.concurrency / shards).max(1),
            stuck: usize::from(settings.concurrency),
        },
    };
    let broker =
        Broker::new(settings.common.amqp_url.clone(), NAME, shards).with_frames_of(FRAME_MAX);
    let work = Arc::new(Mutex::new(work));
    let working = {
        let (ready, grace_over) = (ready.clone(), grace_over.clone());
        let work = work.clone();
        on_a_worker(async move {
            keep_session(&broker, "jobs", &ready, &grace_over, |session| {
                let work = work.clone();
                async move { work.lock().await.run(&session).await }
            })
            .await;
        })
    };
    tokio::select! {
        () = working => {}
        Err(error) = workers.watch() => return Err(error),
        Err(error) = services.watch() => return Err(error),
    }

    grace_over.cancel();
    // Whatever could be settled is settled by now, see `Work::run`. The workers end when `work`, which
    // sends to them, is dropped. Before `grace_over` that would be an error.
    drop(work);
    drop(workers);
    services.stop().await;
    info!("stopped");
    Ok(())
}

/// How many file descriptors this process may have at the same time: for requests whose
/// connections are closed, for connections that are kept, for clients of `/metrics`, and for itself.
fn descriptors_needed(settings: &Settings) -> usize {
    let in_flight = usize::from(settings.concurrency);
    in_flight + MOST_KEPT + settings.common.http.connections + OWN_DESCRIPTORS
}

/// What this process tells of itself.
fn work_done(concurrency: u16) -> processes::Work {
    let attempts = |outcome: &&str| metrics().attempts.with_label_values(&[*outcome]).get();
    processes::Work {
        in_flight: Some(metrics().in_flight.get() as i32),
        concurrency: Some(concurrency.into()),
        events: 0,
        attempts: OUTCOMES.iter().map(attempts).sum(),
    }
}

/// What runs on each RabbitMQ session in turn.
struct Work {
    intake: Intake,
    sweeper: Sweeper,
    failure_watch: FailureWatch,
    alert_watch: AlertWatch,
    publications: Publications,
    /// Of the jobs that this process holds.
    tasks: TaskTracker,
    grace_over: CancellationToken,
    shards: u16,
    /// The most unacked messages, per jobs queue.
    most_messages: MostMessages,
}

impl Work {
    /// Takes jobs until the process stops, and then waits for those that it holds.
    async fn run(&mut self, session: &Session) -> anyhow::Result<()> {
        let channel = session.publishing_channel().await?;
        let shards = shards_to_take(session, self.shards).await?;
        let taking = shards.map(|shard| self.intake.take(session, shard, self.most_messages));
        let work = async {
            tokio::try_join!(try_join_all(taking), self.sweeper.run(session), async {
                tokio::join!(self.failure_watch.run(), self.alert_watch.run());
                Ok(())
            },)?;
            self.tasks.close();
            tokio::select! {
                () = self.tasks.wait() => {}
                () = self.grace_over.cancelled() => warn!(
                    "SHUTDOWN_GRACE is over and some jobs aren't finished; \
                     giving them back to RabbitMQ for another dispatcher"
                ),
            }
            anyhow::Ok(())
        };
        tokio::select! {
            ended = work => ended,
            never = queues::keep_measured(&self.failure_watch.pool, session, self.shards) => match never {},
            ended = self.publications.serve(&channel) => {
                ended?;
                anyhow::bail!("the last publisher is gone")
            }
        }
    }
}

/// The jobs queues to consume: all of them. In a careful session, which takes one message
/// at a time to find the message that ends sessions, only one queue that has messages.
async fn shards_to_take(session: &Session, shards: u16) -> anyhow::Result<Range<u16>> {
    if !session.is_careful() || shards < 2 {
        return Ok(0..shards);
    }
    let queues: Vec<_> = (0..shards).map(jobs_queue).collect();
    let queues: Vec<_> = queues.iter().map(String::as_str).collect();
    let queue = session.one_with_messages(&queues).await?;
    let found = queue.and_then(|queue| queues.iter().position(|one| *one == queue));
    let shard = found.map_or_else(|| fastrand::u16(..shards), |shard| shard as u16);
    Ok(shard..shard + 1)
}

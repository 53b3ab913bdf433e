//! The measurements of `make bench`, one function per kind of round.
//!
//! Each function sets up its stage, warms up, measures, and takes the stage down. A rate
//! is computed from the timestamps of the receiver or the generator, not from the
//! moments at which they were polled.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use shared::ids::{DeliveryId, EventUid, WebhookId};
use shared::job::{Job, Payload};
use time::OffsetDateTime;

use super::floor::{self, Floor};
use super::generator::{EVENT_TYPE, Generator, Load, PAYLOAD, data};
use super::now_us;
use super::stage::{Month, Stage, until};
use super::usage::{ByProcess, Meter, between};
use crate::pair::Pair;
use crate::service::Service;

/// Events published and delivered before measuring begins.
const WARM_UP: u64 = 300;
/// The receiver's latency in rounds with several dispatchers.
const SLOW: Duration = Duration::from_millis(100);
/// Requests in flight in the floor: as many as a dispatcher allows per webhook.
const FLOOR_PLACES: usize = 64;
/// For how long RabbitMQ is watched at rest before a round at a steady rate.
const AT_REST: Duration = Duration::from_secs(3);
/// How long a finished round may take to record and ack the last jobs.
const AFTERMATH: Duration = Duration::from_millis(300);

/// The interface through which events come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Published to the exchange.
    Amqp,
    /// Posted to the API.
    Http,
}

/// A kind of round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// First ingest alone, then a dispatcher alone on the jobs that have gathered.
    Halves(Door, usize),
    /// Everything together, at full speed; with logs or without.
    Whole(Door, usize, bool),
    /// Everything, at so many events a second.
    Pace(Door, u64),
    /// The floor.
    Floor,
    /// This many dispatchers on a backlog, with a slow receiver.
    Dispatchers(usize),
}

impl Kind {
    /// The name in the table. The second half of [`Kind::Halves`] is
    /// [`Kind::backlog_name`].
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Halves(door, webhooks) => format!("accept alone, {}", via(door, webhooks)),
            Self::Whole(door, webhooks, logs) => {
                let logs = if logs { ", logging each" } else { "" };
                format!("accept and deliver, {}{logs}", via(door, webhooks))
            }
            Self::Pace(door, rate) => format!("{rate} events/s, {}", via(door, 1)),
            Self::Floor => "floor: consume, POST, ack".to_owned(),
            Self::Dispatchers(n) => format!("deliver to a 100 ms receiver, {n} dispatchers"),
        }
    }

    /// The name of delivering a backlog in the table.
    #[must_use]
    pub fn backlog_name(webhooks: usize) -> String {
        format!("deliver a backlog alone, {webhooks} per event")
    }
}

fn via(door: Door, webhooks: usize) -> String {
    let door = match door {
        Door::Amqp => "AMQP",
        Door::Http => "HTTP",
    };
    format!("{door}, {webhooks} per event")
}

/// What is in the database before a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Past {
    /// Nothing.
    None,
    /// A month of deliveries, analyzed.
    Month,
}

impl Past {
    /// What the table adds to a round's name.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Month => ", after a month",
        }
    }
}

/// What a round came to.
#[derive(Debug, Clone, Serialize, Default)]
pub struct Measured {
    /// The name in the table.
    pub what: String,
    /// Events a second.
    pub events_per_s: Option<f64>,
    /// Deliveries a second.
    pub deliveries_per_s: Option<f64>,
    /// Milliseconds from publishing to arrival: p50, p95, p99, the longest.
    pub latency_ms: Option<[f64; 4]>,
    /// The number of deliveries, or of events if nothing is delivered. Processor
    /// time is divided by it.
    pub units: u64,
    /// Processor seconds by process, for all units.
    pub cpu_seconds: ByProcess,
    /// Peak memory in MiB, by process.
    pub peak_mib: ByProcess,
}

/// What all rounds share.
pub struct Bench<'a> {
    /// The servers.
    pub pair: &'a Pair,
    /// The folder for logs.
    pub folder: &'a Path,
    /// Events a round, where each has one webhook.
    pub events: u64,
    /// Seconds at a steady rate.
    pub seconds: u64,
    /// A month of deliveries, if there is one.
    pub month: Option<Month>,
}

impl Bench<'_> {
    /// Runs one round.
    ///
    /// # Errors
    /// If it doesn't come to its end.
    pub async fn round(&self, kind: Kind, past: Past) -> anyhow::Result<Vec<Measured>> {
        let (log_level, latency) = match kind {
            Kind::Whole(_, _, true) => ("info,lapin=off", Duration::ZERO),
            Kind::Dispatchers(_) => ("warn", SLOW),
            _ => ("warn", Duration::ZERO),
        };
        let template = match past {
            Past::None => None,
            Past::Month => self.month.as_ref(),
        };
        let stage = Stage::set_on(self.pair, self.folder, log_level, latency, template).await?;
        let mut measured = match kind {
            Kind::Halves(door, webhooks) => self.halves(&stage, kind, door, webhooks).await,
            Kind::Whole(door, webhooks, _) => {
                let events = self.events_for(webhooks);
                self.whole(&stage, kind, door, webhooks, events, 0).await
            }
            Kind::Pace(door, rate) => {
                let events = rate * self.seconds;
                self.whole(&stage, kind, door, 1, events, rate).await
            }
            Kind::Floor => self.floor(&stage, kind).await,
            Kind::Dispatchers(n) => self.dispatchers(&stage, kind, n).await,
        }?;
        stage.strike().await?;
        for one in &mut measured {
            one.what.push_str(past.suffix());
        }
        Ok(measured)
    }

    /// Fewer events where each causes more work.
    fn events_for(&self, webhooks: usize) -> u64 {
        match webhooks {
            1 => self.events,
            _ => self.events / 4,
        }
    }

    async fn halves(
        &self,
        stage: &Stage<'_>,
        kind: Kind,
        door: Door,
        webhooks: usize,
    ) -> anyhow::Result<Vec<Measured>> {
        let events = self.events_for(webhooks);
        let ingest = stage.ingest(webhooks).await?;
        publish_and_accept(stage, &ingest, door, WARM_UP, WARM_UP).await?;
        stage.checkpoint().await?;
        let meter = Meter::new(stage).with("ingest", ingest.pid());
        let before = meter.cpu();
        let (seconds, generator) =
            publish_and_accept(stage, &ingest, door, events, WARM_UP + events).await?;
        let mut cpu = between(&before, &meter.cpu());
        cpu.insert("generator", generator);
        let accepted = Measured {
            what: kind.name(),
            events_per_s: Some(events as f64 / seconds),
            units: events,
            cpu_seconds: cpu,
            peak_mib: meter.memory(),
            ..Measured::default()
        };
        if door == Door::Http {
            return Ok(vec![accepted]);
        }
        let total = (WARM_UP + events) * webhooks as u64;
        stage.checkpoint().await?;
        let mut drained = drain(stage, 1, total, total).await?;
        drained.what = Kind::backlog_name(webhooks);
        drained.events_per_s = drained.deliveries_per_s.map(|rate| rate / webhooks as f64);
        Ok(vec![accepted, drained])
    }

    async fn whole(
        &self,
        stage: &Stage<'_>,
        kind: Kind,
        door: Door,
        webhooks: usize,
        events: u64,
        rate: u64,
    ) -> anyhow::Result<Vec<Measured>> {
        let ingest = stage.ingest(webhooks).await?;
        let dispatcher = stage.dispatcher().await?;
        let per_event = webhooks as u64;
        Generator::start(&load(stage, &ingest, door, WARM_UP))?
            .finished()
            .await?;
        arrived(stage, WARM_UP * per_event).await?;
        stage.receiver.reset().await?;
        stage.checkpoint().await?;

        let meter = Meter::new(stage)
            .with("ingest", ingest.pid())
            .with("dispatcher", dispatcher.pid());
        let idle_share = match rate {
            0 => 0.0,
            _ => rabbitmq_at_rest(&meter).await,
        };
        let (before, begun) = (meter.cpu(), Instant::now());
        let mut load = load(stage, &ingest, door, events);
        load.rate = rate;
        let sent = Generator::start(&load)?.finished().await?;
        arrived(stage, events * per_event).await?;
        settled(
            std::slice::from_ref(&dispatcher),
            (WARM_UP + events) * per_event,
        )
        .await?;
        let mut cpu = between(&before, &meter.cpu());
        cpu.insert("generator", sent.cpu_seconds);
        if let Some(rabbitmq) = cpu.get_mut("rabbitmq").filter(|_| rate > 0) {
            let idle = idle_share * begun.elapsed().as_secs_f64();
            *rabbitmq -= idle;
            cpu.insert("idle", idle);
        }
        let memory = meter.memory();
        let seen = stage.receiver.reset().await?;
        let seconds = (seen.last_us - sent.first_us) as f64 / 1e6;
        Ok(vec![Measured {
            what: kind.name(),
            events_per_s: Some(events as f64 / seconds),
            deliveries_per_s: Some(seen.count as f64 / seconds),
            // At full speed the latency only shows the length of the queues.
            latency_ms: seen.latency_ms.filter(|_| rate > 0),
            units: seen.count,
            cpu_seconds: cpu,
            peak_mib: memory,
        }])
    }

    async fn floor(&self, stage: &Stage<'_>, kind: Kind) -> anyhow::Result<Vec<Measured>> {
        stage.declare().await?;
        let total = self.events + WARM_UP;
        Generator::start(&Load {
            to: stage.amqp_url.clone(),
            exchange: shared::topology::JOBS.to_owned(),
            routing_key: "0.0".to_owned(),
            spread: 0,
            token: String::new(),
            count: total,
            rate: 0,
            bytes: bytes_of_a_job()?,
        })?
        .finished()
        .await?;
        let floor = floor::start(&Floor {
            amqp_url: stage.amqp_url.clone(),
            queue: shared::topology::jobs_queue(0),
            target: stage.receiver.url(0),
            places: FLOOR_PLACES,
        })?;
        let meter = Meter::new(stage).with("floor", floor.pid());
        let window = Window::begin(stage, &meter, total / 10).await?;
        arrived(stage, total).await?;
        tokio::time::sleep(AFTERMATH).await;
        let mut measured = window.end(stage, &meter).await?;
        measured.what = kind.name();
        Ok(vec![measured])
    }

    async fn dispatchers(
        &self,
        stage: &Stage<'_>,
        kind: Kind,
        dispatchers: usize,
    ) -> anyhow::Result<Vec<Measured>> {
        let ingest = stage.ingest(1).await?;
        // The same duration for any number of dispatchers.
        let total = self.events * dispatchers as u64 / 4;
        publish_and_accept(stage, &ingest, Door::Amqp, total, total).await?;
        // All events are acked, so ingest isn't needed any more.
        drop(ingest);
        stage.checkpoint().await?;
        // Towards the end some dispatchers have no jobs left while others do.
        let mut measured = drain(stage, dispatchers, total, total * 3 / 4).await?;
        measured.what = kind.name();
        Ok(vec![measured])
    }
}

/// Publishes, and waits until ingest has acked `total` events in all. Answers
/// the seconds from the first publishing, and the generator's processor time.
async fn publish_and_accept(
    stage: &Stage<'_>,
    ingest: &Service,
    door: Door,
    count: u64,
    total: u64,
) -> anyhow::Result<(f64, f64)> {
    let generator = Generator::start(&load(stage, ingest, door, count))?;
    let accepting = async {
        // Batches are counted when they are acked.
        until("accepting", total, async || {
            count_of(ingest, "posthorn_ingest_batch_size_sum").await
        })
        .await?;
        anyhow::Ok(now_us())
    };
    let (sent, accepted_us) = tokio::try_join!(generator.finished(), accepting)?;
    let end = accepted_us.max(sent.last_us);
    Ok(((end - sent.first_us) as f64 / 1e6, sent.cpu_seconds))
}

/// The processor seconds that RabbitMQ uses in a second without messages. At low rates it
/// is as much as the messages' own.
async fn rabbitmq_at_rest(meter: &Meter<'_>) -> f64 {
    let (before, begun) = (meter.cpu(), Instant::now());
    tokio::time::sleep(AT_REST).await;
    let used = between(&before, &meter.cpu());
    used.get("rabbitmq").copied().unwrap_or_default() / begun.elapsed().as_secs_f64()
}

/// Dispatchers deliver a backlog of `total` jobs. Measured from a tenth of it to
/// `until_count`.
async fn drain(
    stage: &Stage<'_>,
    dispatchers: usize,
    total: u64,
    until_count: u64,
) -> anyhow::Result<Measured> {
    let starting = (0..dispatchers).map(|_| stage.dispatcher());
    let running = futures_util::future::try_join_all(starting).await?;
    let meter = running.iter().fold(Meter::new(stage), |meter, service| {
        meter.with("dispatcher", service.pid())
    });
    let window = Window::begin(stage, &meter, total / 10).await?;
    arrived(stage, until_count).await?;
    if until_count == total {
        settled(&running, total).await?;
    }
    let measured = window.end(stage, &meter).await?;
    arrived(stage, total).await?;
    settled(&running, total).await?;
    Ok(measured)
}

/// The measured part of a round, after the warm-up.
struct Window {
    count: u64,
    at_us: u64,
    cpu: ByProcess,
}

impl Window {
    /// Begins after this many arrivals.
    async fn begin(stage: &Stage<'_>, meter: &Meter<'_>, count: u64) -> anyhow::Result<Self> {
        arrived(stage, count).await?;
        let seen = stage.receiver.seen().await?;
        Ok(Self {
            count: seen.count,
            at_us: seen.last_us,
            cpu: meter.cpu(),
        })
    }

    async fn end(self, stage: &Stage<'_>, meter: &Meter<'_>) -> anyhow::Result<Measured> {
        let seen = stage.receiver.seen().await?;
        let units = seen.count - self.count;
        let seconds = (seen.last_us - self.at_us) as f64 / 1e6;
        Ok(Measured {
            deliveries_per_s: Some(units as f64 / seconds),
            units,
            cpu_seconds: between(&self.cpu, &meter.cpu()),
            peak_mib: meter.memory(),
            ..Measured::default()
        })
    }
}

fn load(stage: &Stage<'_>, ingest: &Service, door: Door, count: u64) -> Load {
    Load {
        to: match door {
            Door::Amqp => stage.amqp_url.clone(),
            Door::Http => ingest.url(""),
        },
        exchange: shared::topology::EVENTS.to_owned(),
        routing_key: format!("acme.{EVENT_TYPE}"),
        spread: 0,
        token: stage.token.clone(),
        count,
        rate: 0,
        bytes: PAYLOAD,
    }
}

async fn arrived(stage: &Stage<'_>, count: u64) -> anyhow::Result<()> {
    until("arriving", count, async || {
        Ok(stage.receiver.seen().await?.count)
    })
    .await?;
    Ok(())
}

/// Waits until the dispatchers have recorded this many deliveries.
async fn settled(dispatchers: &[Service], count: u64) -> anyhow::Result<()> {
    until("settling", count, async || {
        let mut sum = 0;
        for dispatcher in dispatchers {
            sum += count_of(dispatcher, "posthorn_deliveries_finished_total").await?;
        }
        Ok(sum)
    })
    .await?;
    tokio::time::sleep(AFTERMATH).await;
    Ok(())
}

/// A counter that doesn't appear in the metrics before its first increment.
async fn count_of(service: &Service, metric: &str) -> anyhow::Result<u64> {
    Ok(service.metric(metric).await.unwrap_or(0.0) as u64)
}

fn bytes_of_a_job() -> anyhow::Result<usize> {
    let now = OffsetDateTime::now_utc();
    let event_uid = EventUid::at(now);
    let job = Job {
        delivery: DeliveryId::for_event(event_uid),
        webhook: WebhookId::generate(),
        tenant: "acme".parse()?,
        event_uid,
        event_id: super::generator::event_id(0).parse()?,
        event_type: EVENT_TYPE.parse()?,
        occurred_at: now,
        attempt: 1,
        due_at: now,
        recheck: false,
        payload: Payload::from_data(&data(PAYLOAD), None),
        restart: None,
        late: None,
        trace: None,
    };
    Ok(job.encode().len())
}

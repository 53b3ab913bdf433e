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

use super::floor::{self, Floor, door};
use super::generator::{EVENT_TYPE, Generator, Load, PAYLOAD, Sent, data};
use super::kinds::{Door, Kind, MATCHING, Past};
use super::stage::{Month, Stage};
use super::steps::{
    AFTERMATH, Running, WARM_UP, arrived, load, load_to, publish_and_accept, rabbitmq_at_rest,
    settled,
};
use super::usage::{ByProcess, Meter, between};
use super::webhooks;
use crate::pair::Pair;
use crate::service::Service;

/// The receiver's latency in rounds with several dispatchers.
const SLOW: Duration = Duration::from_millis(100);
/// Jobs that each of several dispatchers holds at a time. With the slow receiver, a dispatcher
/// delivers less than 640 a second: far less than the processors allow.
const HELD_BY_EACH: u16 = 64;

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
    /// Memory at the end in MiB, by process, where everything ran together.
    pub resident_mib: ByProcess,
}

/// What all rounds share.
pub struct Bench<'a> {
    /// The servers.
    pub pair: &'a Pair,
    /// The folder for logs.
    pub folder: &'a Path,
    /// Events of a round. Rounds with ten webhooks per event have a quarter of them, except
    /// [`Kind::Among`].
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
            Kind::Among(all) => {
                webhooks::insert(&stage, all.saturating_sub(MATCHING)).await?;
                self.whole(&stage, kind, Door::Amqp, MATCHING, self.events, 0)
                    .await
            }
            Kind::Pace(door, rate) => {
                let events = rate * self.seconds;
                self.whole(&stage, kind, door, 1, events, rate).await
            }
            Kind::Floor => self.floor(&stage, kind).await,
            Kind::FloorPace(rate) => self.floor_at(&stage, kind, rate).await,
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
        let dispatcher = stage.dispatcher().await?;
        let mut drained = drain(stage, std::slice::from_ref(&dispatcher), total, total).await?;
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
        let running = Running::start(stage, door, webhooks).await?;
        let meter = running.meter(stage);
        let per_event = webhooks as u64;
        let idle_share = match rate {
            0 => 0.0,
            _ => rabbitmq_at_rest(&meter).await,
        };
        let (before, begun) = (meter.cpu(), Instant::now());
        let mut load = load(stage, &running.ingest, door, events);
        load.rate = rate;
        let sent = Generator::start(&load)?.finished().await?;
        arrived(stage, events * per_event).await?;
        running.settled((WARM_UP + events) * per_event).await?;
        let cpu = cpu_at_a_rate(&meter, &before, &sent, idle_share, begun);
        let (peak_mib, resident_mib) = (meter.memory(), meter.resident());
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
            peak_mib,
            resident_mib,
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
            places: floor::PLACES,
        })?;
        let meter = Meter::new(stage).with("floor", floor.pid());
        let window = Window::begin(stage, &meter, total / 10).await?;
        arrived(stage, total).await?;
        tokio::time::sleep(AFTERMATH).await;
        let mut measured = window.end(stage, &meter).await?;
        measured.what = kind.name();
        Ok(vec![measured])
    }

    async fn floor_at(
        &self,
        stage: &Stage<'_>,
        kind: Kind,
        rate: u64,
    ) -> anyhow::Result<Vec<Measured>> {
        stage.declare().await?;
        let (door, address) = door::start(stage).await?;
        let floor = floor::start(&Floor {
            amqp_url: stage.amqp_url.clone(),
            queue: shared::topology::jobs_queue(0),
            target: stage.receiver.url(0),
            places: floor::PLACES,
        })?;
        let mut load = load_to(stage, address, WARM_UP);
        Generator::start(&load)?.finished().await?;
        arrived(stage, WARM_UP).await?;
        stage.receiver.reset().await?;
        stage.checkpoint().await?;
        let meter = Meter::new(stage)
            .with("floor", floor.pid())
            .with("floor", door.pid());
        let idle_share = rabbitmq_at_rest(&meter).await;
        (load.rate, load.count) = (rate, rate * self.seconds);
        let (before, begun) = (meter.cpu(), Instant::now());
        let sent = Generator::start(&load)?.finished().await?;
        arrived(stage, load.count).await?;
        tokio::time::sleep(AFTERMATH).await;
        let cpu = cpu_at_a_rate(&meter, &before, &sent, idle_share, begun);
        let seen = stage.receiver.reset().await?;
        let seconds = (seen.last_us - sent.first_us) as f64 / 1e6;
        Ok(vec![Measured {
            what: kind.name(),
            events_per_s: Some(load.count as f64 / seconds),
            deliveries_per_s: Some(seen.count as f64 / seconds),
            latency_ms: seen.latency_ms,
            units: seen.count,
            cpu_seconds: cpu,
            peak_mib: meter.memory(),
            ..Measured::default()
        }])
    }

    async fn dispatchers(
        &self,
        stage: &Stage<'_>,
        kind: Kind,
        dispatchers: usize,
    ) -> anyhow::Result<Vec<Measured>> {
        let ingest = stage.ingest(MATCHING).await?;
        // A third of a round's events as jobs for each dispatcher, so a round takes the same time
        // with any number of them. Ten webhooks share them, so none reaches its limit of requests.
        let events = self.events * dispatchers as u64 / (3 * MATCHING as u64);
        let total = events * MATCHING as u64;
        publish_and_accept(stage, &ingest, Door::Amqp, events, events).await?;
        // All events are acked, so ingest isn't needed any more.
        drop(ingest);
        stage.checkpoint().await?;
        let starting = (0..dispatchers).map(|_| stage.dispatcher_holding(HELD_BY_EACH));
        let running = futures_util::future::try_join_all(starting).await?;
        // Towards the end some dispatchers have no jobs left while others do.
        let mut measured = drain(stage, &running, total, total * 3 / 4).await?;
        measured.what = kind.name();
        Ok(vec![measured])
    }
}

/// What was used since `begun`. What RabbitMQ uses without messages, this share of a processor, is
/// told apart.
fn cpu_at_a_rate(
    meter: &Meter<'_>,
    before: &ByProcess,
    sent: &Sent,
    idle_share: f64,
    begun: Instant,
) -> ByProcess {
    let mut cpu = between(before, &meter.cpu());
    cpu.insert("generator", sent.cpu_seconds);
    if let Some(rabbitmq) = cpu.get_mut("rabbitmq").filter(|_| idle_share > 0.0) {
        let idle = idle_share * begun.elapsed().as_secs_f64();
        *rabbitmq -= idle;
        cpu.insert("idle", idle);
    }
    cpu
}

/// Dispatchers deliver a backlog of `total` jobs. Measured from a tenth of it to
/// `until_count`.
async fn drain(
    stage: &Stage<'_>,
    running: &[Service],
    total: u64,
    until_count: u64,
) -> anyhow::Result<Measured> {
    let meter = running.iter().fold(Meter::new(stage), |meter, service| {
        meter.with("dispatcher", service.pid())
    });
    let window = Window::begin(stage, &meter, total / 10).await?;
    arrived(stage, until_count).await?;
    if until_count == total {
        settled(running, total).await?;
    }
    let measured = window.end(stage, &meter).await?;
    arrived(stage, total).await?;
    settled(running, total).await?;
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

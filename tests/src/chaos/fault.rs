//! The fault of a round: drawn from the seed, injected, healed.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::field::{Field, Link, REPLICAS, SWEEP_GRACE, Victim};
use super::publisher::Publisher;
use crate::proxy::{End, Way};
use crate::world::eventually;

/// How often a fault ends a connection in one round.
const ENDS: u32 = 3;
/// The pause between two of those.
const BETWEEN_ENDS: Duration = Duration::from_millis(700);

/// An outage of everything that jobs need. It is longer than the sweeper's grace. So when it
/// is over, the late copies of jobs are due at about the time at which the sweeper counts
/// these jobs as lost.
const LONG_OUTAGE: Duration = Duration::from_secs(SWEEP_GRACE + 1);

/// A fault that is injected in one round.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// kill -9 of all of these at once; they are started again after this time.
    Kill(Vec<Victim>, Duration),
    /// SIGSTOP for this long.
    Freeze(Victim, Duration),
    /// All connections of a link end, a few times.
    End(Link, End),
    /// No byte passes a link for this long: to the server, back, or both.
    Stall(Link, [bool; 2], Duration),
    /// Every byte on a link is delayed by this much, for a few seconds.
    Delay(Link, Duration),
    /// RabbitMQ raises its memory alarm and accepts no messages, for this long.
    MemoryAlarm(Duration),
    /// PostgreSQL's disk is full, for this long.
    FullDisk(Duration),
    /// RabbitMQ loses all its data while jobs wait in it.
    Wipe,
    /// Every service is stopped and started, one after the other.
    Deploy,
}

/// The period of a fault.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// Just before the fault began.
    pub begin: Instant,
    /// When everything was healed.
    pub healed: Instant,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(victims, down) => {
                let names: Vec<_> = victims.iter().map(ToString::to_string).collect();
                write!(f, "kill -9 {}, down {down:.1?}", names.join(", "))
            }
            Self::Freeze(victim, long) => write!(f, "freeze {victim} {long:.1?}"),
            Self::End(link, End::Cut) => write!(f, "cut {link} {ENDS}x"),
            Self::End(link, End::Reset) => write!(f, "reset {link} {ENDS}x"),
            Self::Stall(link, ways, long) => {
                let ways = match ways {
                    [true, true] => "both ways",
                    [true, false] => "there",
                    _ => "back",
                };
                write!(f, "stall {link} {ways} {long:.1?}")
            }
            Self::Delay(link, by) => write!(f, "delay {link} by {by:.1?}"),
            Self::MemoryAlarm(long) => write!(f, "rabbitmq's memory alarm {long:.1?}"),
            Self::FullDisk(long) => write!(f, "postgresql's disk full {long:.1?}"),
            Self::Wipe => f.write_str("rabbitmq wiped clean"),
            Self::Deploy => f.write_str("rolling deploy"),
        }
    }
}

/// One fault of each kind, in random order. A full disk is only possible with a
/// small disk.
#[must_use]
pub fn deck(rng: &mut fastrand::Rng, small_disk: bool) -> Vec<Fault> {
    use Victim::{Dispatcher, Ingest, PostgreSql, RabbitMq};
    let all = |of: fn(usize) -> Victim| (0..REPLICAS).map(of);
    let (one, other) = (rng.usize(..REPLICAS), rng.usize(..REPLICAS));
    let mut everything: Vec<_> = all(Ingest).chain(all(Dispatcher)).collect();
    everything.extend([RabbitMq, PostgreSql]);
    let together = [
        vec![Ingest(one)],
        vec![Dispatcher(one)],
        vec![RabbitMq],
        vec![PostgreSql],
        all(Dispatcher).collect(),
        vec![Ingest(one), Dispatcher(other)],
        vec![Dispatcher(one), PostgreSql],
        vec![RabbitMq, PostgreSql],
        everything,
    ];
    let mut deck: Vec<Fault> = together
        .into_iter()
        .map(|victims| Fault::Kill(victims, some(rng, 0, 2_500)))
        .collect();
    for victim in [Ingest(other), Dispatcher(other), RabbitMq, PostgreSql] {
        deck.push(Fault::Freeze(victim, some(rng, 6_000, 9_000)));
    }
    for link in links(rng) {
        let trouble = match rng.u8(..4) {
            0 => Fault::End(link, End::Cut),
            1 => Fault::End(link, End::Reset),
            2 => {
                let ways = [[true, true], [true, false], [false, true]][rng.usize(..3)];
                Fault::Stall(link, ways, some(rng, 1_000, 9_000))
            }
            _ => Fault::Delay(link, some(rng, 20, 200)),
        };
        deck.push(trouble);
    }
    deck.push(Fault::MemoryAlarm(some(rng, 1_000, 4_000)));
    deck.push(Fault::Wipe);
    deck.push(Fault::Deploy);
    deck.push(Fault::FullDisk(some(rng, 4_000, 9_000)));
    rng.shuffle(&mut deck);
    deck.insert(
        rng.usize(..=deck.len()),
        Fault::Kill(vec![RabbitMq, PostgreSql], LONG_OUTAGE),
    );
    // Filtered afterwards, so that a seed gives the same other faults without a
    // small disk.
    deck.retain(|fault| small_disk || !matches!(fault, Fault::FullDisk(_)));
    deck
}

/// One link of every kind, each of one replica.
fn links(rng: &mut fastrand::Rng) -> [Link; 6] {
    let mut one = || rng.usize(..REPLICAS);
    [
        Link::ProducerToRabbitMq,
        Link::IngestToRabbitMq(one()),
        Link::IngestToPostgreSql(one()),
        Link::DispatcherToRabbitMq(one()),
        Link::DispatcherToPostgreSql(one()),
        Link::ToReceivers,
    ]
}

/// The few faults of `make test`: the most dangerous ones.
#[must_use]
pub fn short_deck() -> Vec<Fault> {
    use Victim::{Dispatcher, Ingest, PostgreSql, RabbitMq};
    vec![
        Fault::Kill(vec![Dispatcher(0)], Duration::from_secs(1)),
        Fault::Freeze(Dispatcher(1), Duration::from_secs(6)),
        Fault::End(Link::DispatcherToRabbitMq(0), End::Reset),
        Fault::Kill(
            vec![Ingest(0), Dispatcher(0), RabbitMq, PostgreSql],
            Duration::from_millis(500),
        ),
        Fault::Wipe,
    ]
}

fn some(rng: &mut fastrand::Rng, least: u64, most: u64) -> Duration {
    Duration::from_millis(rng.u64(least..most))
}

impl Fault {
    /// Whether a healthy endpoint may see a failed attempt. Only if the network
    /// between it and the dispatchers fails.
    #[must_use]
    pub fn may_fail_attempts(&self) -> bool {
        matches!(
            self,
            Self::End(Link::ToReceivers, _) | Self::Stall(Link::ToReceivers, ..)
        )
    }

    /// Whether a delivery may arrive twice. Only if a dispatcher is lost, or its
    /// jobs are given to another one, between a POST and its record.
    #[must_use]
    pub fn may_duplicate(&self) -> bool {
        let hands_on = |victim: &Victim| matches!(victim, Victim::Dispatcher(_) | Victim::RabbitMq);
        match self {
            Self::Kill(victims, _) => victims.iter().any(hands_on),
            Self::Freeze(victim, _) => hands_on(victim),
            Self::End(link, _) | Self::Stall(link, ..) | Self::Delay(link, _) => {
                matches!(link, Link::DispatcherToRabbitMq(_))
            }
            Self::Wipe => true,
            Self::MemoryAlarm(_) | Self::FullDisk(_) | Self::Deploy => false,
        }
    }

    /// Whether another dispatcher takes over at once: only one dispatcher died.
    #[must_use]
    pub fn leaves_another(&self) -> bool {
        matches!(self, Self::Kill(victims, _) if matches!(victims[..], [Victim::Dispatcher(_)]))
    }

    /// Injects the fault and heals it.
    pub async fn strike(
        &self,
        field: &mut Field,
        publisher: &mut Publisher,
    ) -> anyhow::Result<Window> {
        let mut begin = Instant::now();
        match self {
            Self::Kill(victims, down) => {
                for victim in victims {
                    field.kill(*victim).await?;
                }
                tokio::time::sleep(*down).await;
                // Kill the servers first: services that are killed with them don't
                // notice either way.
                let is_server = |v: &&Victim| matches!(v, Victim::RabbitMq | Victim::PostgreSql);
                for victim in victims.iter().filter(is_server) {
                    field.start(*victim).await?;
                }
                for victim in victims.iter().filter(|v| !is_server(v)) {
                    field.start(*victim).await?;
                }
            }
            Self::Freeze(victim, long) => {
                field.freeze(*victim)?;
                tokio::time::sleep(*long).await;
                field.thaw(*victim)?;
            }
            Self::End(link, how) => {
                for _ in 0..ENDS {
                    field.link(*link).end(*how);
                    tokio::time::sleep(BETWEEN_ENDS).await;
                }
            }
            Self::Stall(link, ways, long) => {
                let [there, back] =
                    ways.map(|stalled| if stalled { Way::Stalled } else { Way::Clear });
                field.link(*link).set(there, back);
                tokio::time::sleep(*long).await;
                field.link(*link).clear();
            }
            Self::Delay(link, by) => {
                field.link(*link).set(Way::Slow(*by), Way::Slow(*by));
                tokio::time::sleep(Duration::from_secs(4)).await;
                field.link(*link).clear();
            }
            Self::MemoryAlarm(long) => {
                let rabbitmq = field.servers()?.rabbitmq();
                let watermark = "set_vm_memory_high_watermark";
                rabbitmq
                    .rabbitmqctl(&[watermark, "absolute", "1MB"])
                    .await?;
                tokio::time::sleep(*long).await;
                rabbitmq.rabbitmqctl(&[watermark, "0.4"]).await?;
            }
            Self::FullDisk(long) => {
                let disk = field.servers()?.disk().context("no small disk")?;
                let balloon = disk.fill()?;
                tokio::time::sleep(*long).await;
                drop(balloon);
                // PostgreSQL may have panicked when it wrote its log, and again
                // during recovery.
                field.servers()?.postgres().recover().await?;
            }
            Self::Wipe => begin = wipe(field, publisher).await?,
            Self::Deploy => {
                for n in 0..REPLICAS {
                    for victim in [Victim::Ingest(n), Victim::Dispatcher(n)] {
                        field.stop(victim).await?;
                        field.start(victim).await?;
                    }
                }
            }
        }
        Ok(Window {
            begin,
            healed: Instant::now(),
        })
    }
}

/// An event that no ingest has taken exists only in the broker and would be lost
/// with it. So this waits until all confirmed events are accepted, and makes sure
/// that many of their jobs still wait for a dispatcher.
async fn wipe(field: &mut Field, publisher: &mut Publisher) -> anyhow::Result<Instant> {
    let begin = Instant::now();
    let dispatchers = || (0..REPLICAS).map(Victim::Dispatcher);
    for dispatcher in dispatchers() {
        field.freeze(dispatcher)?;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    publisher.hold().await;
    let confirmed = field.ledger.confirmed_in_all();
    eventually("all that was confirmed is accepted", async || {
        field.world.count("events").await >= confirmed
    })
    .await;
    field.servers()?.rabbitmq().wipe().await?;
    for dispatcher in dispatchers() {
        field.thaw(dispatcher)?;
    }
    publisher.go_on();
    Ok(begin)
}

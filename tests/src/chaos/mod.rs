//! Chaos test: injects every kind of fault under load and checks that nothing is lost.
//!
//! A run consists of rounds. In each round, events are published at a steady rate for
//! thirty webhooks of three tenants. Some of the endpoints are slow, flaky or dead. One
//! fault is injected and healed. Then the publisher stops, all deliveries come to an
//! end, and the round is judged. The fault is drawn from a seed, which is printed. The same
//! seed gives the same run, as far as the machine allows.
//!
//! | file | |
//! |---|---|
//! | [`ledger`] | confirmed events and arrivals: the only evidence that the judge believes |
//! | [`publisher`] | a producer that goes on publishing through any fault |
//! | [`endpoints`] | the receivers, each with its own behaviour |
//! | [`field`] | the servers, the services, the proxies between them |
//! | [`fault`] | the faults |
//! | [`judge`](mod@judge) | judges a round |

pub mod endpoints;
pub mod fault;
pub mod field;
pub mod judge;
pub mod ledger;
pub mod publisher;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use fault::Fault;
use field::Field;
use judge::{Judged, judge};
use ledger::Kind;
use publisher::Publisher;

/// How long events flow before the fault, and again after the healing.
const UNDISTURBED: Duration = Duration::from_millis(1_500);
/// How long the last arrivals may take after the last event.
const PATIENCE: Duration = Duration::from_secs(120);

/// The plan of a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed of all random decisions.
    pub seed: u64,
    /// The faults, one per round.
    pub faults: Vec<Fault>,
    /// Events per second; each goes to about five webhooks.
    pub rate: u32,
}

/// Gets each line of the printed table.
pub type Say<'a> = &'a dyn Fn(&str);

/// Runs the plan, up to the first faulty round.
pub async fn run(plan: Plan, say: Say<'_>) -> anyhow::Result<()> {
    let fills_disk = |fault: &Fault| matches!(fault, Fault::FullDisk(_));
    let mut field = Field::set(plan.seed, plan.faults.iter().any(fills_disk)).await?;
    let played = play_all(&mut field, &plan, say).await;
    if played.is_err() {
        say(&format!("The logs are in {}", field.world.keep().display()));
        return played;
    }
    field.world.abandon().await;
    Ok(())
}

async fn play_all(field: &mut Field, plan: &Plan, say: Say<'_>) -> anyhow::Result<()> {
    say(HEADING);
    for (round, fault) in (1..).zip(&plan.faults) {
        let judged = play(field, round, fault, plan.rate)
            .await
            .with_context(|| format!("seed {}, round {round}, {fault}", plan.seed))?;
        say(&line(round, fault, &judged));
        if !judged.complaints.is_empty() {
            let (seed, what) = (plan.seed, judged.complaints.join("\n  "));
            bail!("seed {seed}, round {round}, {fault}:\n  {what}");
        }
    }
    let logs = field.world.logs();
    ensure!(!logs.contains("panicked at"), "a service panicked: {logs}");
    Ok(())
}

async fn play(field: &mut Field, round: u32, fault: &Fault, rate: u32) -> anyhow::Result<Judged> {
    let begun = Instant::now();
    let url = field.producers_url()?;
    let mut publisher = Publisher::start(url, field.ledger.clone(), round, rate);
    let flowing = async || field.ledger.last().is_some_and(|last| last > begun);
    wait(flowing).await;
    tokio::time::sleep(UNDISTURBED).await;
    let window = fault.strike(field, &mut publisher).await?;
    tokio::time::sleep(UNDISTURBED).await;
    publisher.stop().await?;
    wait(async || field.ledger.owed().is_empty()).await;
    // An arrival is on record a moment later. Don't wait for the dead endpoints.
    let database = field.world.sql().await;
    let subscribers = field.ledger.subscribers().iter().enumerate();
    let dead: Vec<String> = subscribers
        .filter(|(_, subscriber)| subscriber.kind == Kind::Dead)
        .map(|(webhook, _)| webhook.to_string())
        .collect();
    wait(async || {
        let open = "SELECT count(*) FROM deliveries d JOIN webhooks w ON w.id = d.webhook_id \
                    WHERE d.due_at IS NOT NULL AND substring(w.url from '[^/]*$') <> ALL($1)";
        let open = database.query_one(open, &[&dead]).await;
        open.is_ok_and(|row| row.get::<_, i64>(0) == 0)
    })
    .await;
    judge(field, round, fault, window, begun).await
}

/// Waits for a condition, but not for ever: the judge reports what is missing.
async fn wait(mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline && !condition().await {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

const HEADING: &str =
    "round  events  arrivals  twice  under way  resumed  next after  caught up  retried  fault";

fn line(round: u32, fault: &Fault, judged: &Judged) -> String {
    let seconds = |span: Duration| format!("{:.1} s", span.as_secs_f64());
    let mut line = String::new();
    // Can't fail: this writes to memory.
    let _ = write!(
        line,
        "{round:>5}  {:>6}  {:>8}  {:>5}  {:>9}  {:>7}  {:>10}  {:>9}  {:>7}  {fault}",
        judged.events,
        judged.arrivals,
        judged.duplicates,
        judged.under_way,
        seconds(judged.resumed),
        judged.next.map_or_else(|| "-".to_owned(), seconds),
        seconds(judged.caught_up),
        seconds(judged.retried),
    );
    line
}

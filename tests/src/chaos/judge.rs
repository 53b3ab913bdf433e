//! Judges a round: which arrivals are missing, what arrived twice and why, which attempts
//! were charged to an endpoint, how long everything took.
//!
//! Losses and duplicates are judged by the ledger alone. The judge asks the database only
//! for what nobody outside can know: which attempts are on record.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::fault::{Fault, Window};
use super::field::Field;
use super::ledger::{Arrival, Event, Kind, Pair};

/// The time from an endpoint's answer until the attempt is recorded and the job
/// acked, on a healthy but busy system.
const RECORDING: Duration = Duration::from_millis(300);
/// After the loss of a dispatcher, another one must continue its work within this
/// time.
const RESUMES_WITHIN: Duration = Duration::from_secs(5);
/// The grace of the audit, in seconds: how long the sweeper of `field` lets a job
/// for a dead endpoint be in progress.
const AUDIT_GRACE: &str = "40";
/// After a restart, or after losing PostgreSQL or RabbitMQ, the sweeper knows only
/// jobs that were taken since then. It can't call a job lost before an attempt that
/// began then would be recorded: the timeout and 15 s of `field`, 20 s. One pass
/// before and one after take a second each, and putting the jobs back takes 8 s.
const SWEEPER_BEGINS_ANEW: Duration = Duration::from_secs(30);
/// How many complaints of one kind are printed.
const SHOWN: usize = 10;

/// The result of a round.
#[derive(Debug, Clone)]
pub struct Judged {
    /// Confirmed events.
    pub events: usize,
    pub arrivals: usize,
    /// Arrivals beyond the attempts on record.
    pub duplicates: usize,
    /// Requests that had arrived when the fault began, but may not have been on
    /// record.
    pub under_way: usize,
    /// The time from the fault until the last event that was confirmed before it had
    /// arrived, at endpoints that are fast and healthy.
    pub resumed: Duration,
    /// The time from the healing until the next arrival.
    pub next: Option<Duration>,
    /// The time from the healing until the last event that was confirmed before it
    /// had arrived.
    pub caught_up: Duration,
    /// The longest time from a refused attempt to the next one.
    pub retried: Duration,
    /// Everything that is wrong.
    pub complaints: Vec<String>,
}

/// A delivery in the database.
struct Recorded {
    state: String,
    attempts: i32,
    numbers: Vec<i16>,
}

/// Judges a round after all its deliveries have come to an end.
pub async fn judge(
    field: &Field,
    round: u32,
    fault: &Fault,
    window: Window,
    begun: Instant,
) -> anyhow::Result<Judged> {
    let mut complaints = Complaints::default();
    for pair in field.ledger.owed() {
        complaints.about("confirmed and never taken", field_of(field, pair));
    }
    for wrong in field.ledger.wrong() {
        complaints.about("arrived and wrong", wrong);
    }
    let confirmed: HashMap<Event, Instant> = field.ledger.confirmed(round).into_iter().collect();
    let recorded = recorded(field, round).await?;
    let arrivals = field.ledger.arrivals_since(begun);

    for event in confirmed.keys() {
        for (webhook, subscriber) in field.ledger.subscribers().iter().enumerate() {
            if !subscriber.wants(*event) || subscriber.kind == Kind::Gone {
                continue;
            }
            let pair = (*event, webhook);
            let rows = recorded.get(&pair).map_or(&[][..], Vec::as_slice);
            let [row] = rows else {
                let what = format!("{} has {} rows", field_of(field, pair), rows.len());
                complaints.about("an event is one delivery per webhook", what);
                continue;
            };
            let said = || {
                let (state, attempts) = (&row.state, row.attempts);
                format!(
                    "{} is {state}, {attempts} attempts, {:?}",
                    field_of(field, pair),
                    row.numbers
                )
            };
            let is_right = match subscriber.kind {
                Kind::Dead => matches!(row.state.as_str(), "queued" | "retrying"),
                _ => row.state == "delivered",
            };
            if !is_right {
                complaints.about("the wrong state", said());
            }
            if row.numbers.len() as i32 != row.attempts
                || (1..).zip(&row.numbers).any(|(n, is)| n != *is)
            {
                complaints.about("attempts are not numbered one by one", said());
            }
            if subscriber.kind.never_fails() && row.attempts != 1 && !fault.may_fail_attempts() {
                complaints.about("our own fault was charged as an attempt", said());
            }
        }
    }

    let busy = |arrival: &Arrival| {
        let ended = arrival.ended.map(|ended| ended + RECORDING);
        arrival.at <= window.healed + RECORDING && ended.is_none_or(|ended| ended >= window.begin)
    };
    let mut judged = Judged {
        events: confirmed.len(),
        arrivals: 0,
        duplicates: 0,
        under_way: 0,
        resumed: Duration::ZERO,
        next: None,
        caught_up: Duration::ZERO,
        retried: Duration::ZERO,
        complaints: Vec::new(),
    };
    for (pair, all) in &arrivals {
        let (event, webhook) = *pair;
        judged.arrivals += all.iter().filter(|arrival| arrival.at >= begun).count();
        if all
            .iter()
            .any(|arrival| busy(arrival) && arrival.at <= window.begin)
        {
            judged.under_way += 1;
        }
        if let Some(after) = all.iter().map(|a| a.at).find(|at| *at > window.healed) {
            let next = after - window.healed;
            judged.next = Some(judged.next.map_or(next, |least| least.min(next)));
        }
        for two in all.windows(2).filter(|two| two[0].status >= 300) {
            let pause = two[1].at.saturating_duration_since(two[0].at);
            judged.retried = judged.retried.max(pause);
        }
        let first = all.first().map_or(begun, |first| first.at);
        let kind = field.ledger.subscribers()[webhook].kind;
        if let Some(at) = confirmed.get(&event) {
            if *at < window.begin && kind == Kind::Healthy {
                let resumed = first.saturating_duration_since(window.begin);
                judged.resumed = judged.resumed.max(resumed);
            }
            if *at < window.healed {
                let caught_up = first.saturating_duration_since(window.healed);
                judged.caught_up = judged.caught_up.max(caught_up);
            }
        }
        let attempts = match recorded.get(pair).map(Vec::as_slice) {
            Some([row]) => row.numbers.len(),
            // An event of an earlier round. That round was judged; each arrival now
            // is a duplicate.
            _ if event.round < round => all.iter().filter(|a| a.at < begun).count(),
            _ => continue,
        };
        let extra = all.len().saturating_sub(attempts);
        judged.duplicates += extra;
        if extra == 0 {
            continue;
        }
        let said = || {
            let at = |arrival: &Arrival| {
                let after = arrival.at.checked_duration_since(window.begin);
                let before = window.begin.saturating_duration_since(arrival.at);
                after.map_or(format!("-{before:.2?}"), |after| format!("+{after:.2?}"))
            };
            let times: Vec<_> = all.iter().map(at).collect();
            format!("{} arrived at {}", field_of(field, *pair), times.join(", "))
        };
        if !fault.may_duplicate() {
            complaints.about("twice, though no dispatcher lost its work", said());
        }
        // All arrivals but the last one may have been in flight when the fault
        // began.
        let explained = all[..all.len() - 1].iter().filter(|a| busy(a)).count();
        if explained < extra {
            complaints.about("twice, though it was not under way", said());
        }
    }
    if fault.leaves_another() {
        if judged.resumed > RESUMES_WITHIN {
            let what = format!("the last after {:.1?}", judged.resumed);
            complaints.about("the work went on too late", what);
        }
        if judged.duplicates > judged.under_way {
            let what = format!("{} of {}", judged.duplicates, judged.under_way);
            complaints.about("more came twice than was under way", what);
        }
    }
    while let Err(error) = field
        .world
        .try_command(&["audit", "--grace", AUDIT_GRACE])
        .await
    {
        if window.healed.elapsed() > SWEEPER_BEGINS_ANEW {
            complaints.about("audit", format!("{error:#}"));
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    judged.complaints = complaints
        .0
        .into_iter()
        .map(|one| one.to_string())
        .collect();
    Ok(judged)
}

fn field_of(field: &Field, (event, webhook): Pair) -> String {
    let subscriber = &field.ledger.subscribers()[webhook];
    format!(
        "{event} to {webhook} ({}, {:?})",
        subscriber.tenant, subscriber.kind
    )
}

/// The deliveries of a round's events in the database.
async fn recorded(field: &Field, round: u32) -> anyhow::Result<HashMap<Pair, Vec<Recorded>>> {
    let rows = field
        .world
        .sql()
        .await
        .query(
            "SELECT e.id, substring(w.url from '[^/]*$'), d.state, d.attempts::int4, \
                 coalesce(array_agg(a.n ORDER BY a.n) FILTER (WHERE a.n IS NOT NULL), '{}') \
             FROM events e \
             JOIN deliveries d ON d.event_uid = e.uid \
             JOIN webhooks w ON w.id = d.webhook_id \
             LEFT JOIN attempts a ON a.delivery_id = d.id \
             WHERE e.id LIKE $1 GROUP BY e.id, w.url, d.id, d.state, d.attempts",
            &[&format!("r{round}-%")],
        )
        .await?;
    let mut recorded: HashMap<Pair, Vec<Recorded>> = HashMap::new();
    for row in rows {
        let event = Event::of_id(row.get(0)).context("an event of nobody's")?;
        let webhook = row.get::<_, String>(1).parse()?;
        let delivery = Recorded {
            state: row.get(2),
            attempts: row.get(3),
            numbers: row.get(4),
        };
        recorded.entry((event, webhook)).or_default().push(delivery);
    }
    Ok(recorded)
}

/// The complaints by kind, with the first few of each kind.
#[derive(Default)]
struct Complaints(Vec<Complaint>);

struct Complaint {
    kind: &'static str,
    count: usize,
    shown: Vec<String>,
}

impl Complaints {
    fn about(&mut self, kind: &'static str, what: String) {
        let known = self.0.iter().position(|complaint| complaint.kind == kind);
        let at = known.unwrap_or_else(|| {
            self.0.push(Complaint {
                kind,
                count: 0,
                shown: Vec::new(),
            });
            self.0.len() - 1
        });
        let complaint = &mut self.0[at];
        complaint.count += 1;
        if complaint.shown.len() < SHOWN {
            complaint.shown.push(what);
        }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}):", self.kind, self.count)?;
        for one in &self.shown {
            write!(f, "\n    {one}")?;
        }
        Ok(())
    }
}

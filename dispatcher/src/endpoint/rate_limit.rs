//! Rate limits, held across replicas: may this attempt begin now, and if not,
//! when is its turn?
//!
//! A limit is a number of attempts in any period of a length. How much of it is
//! used is a row of `rate_usage`, which the replicas lock in turn: one
//! transaction for all that was asked while the last one ran, so a limited
//! webhook costs its attempts a round trip and the others nothing.
//!
//! What doesn't get its turn is given a moment: one after the other at the
//! limit's own pace, so that a backlog comes back as fast as it may be sent and
//! isn't carried round in between. New jobs queue up behind it. One that comes
//! back and finds no room after all is next when there is some: it doesn't begin
//! again at the end of the line. A crash forgets no more than what was begun in
//! its last milliseconds, and nothing that is remembered is ever exceeded.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use deadpool_postgres::Pool;
use serde_json::json;
use shared::supervise::until_done;
use shared::webhook::Rate;
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Into how many slots a period is divided: what is used is known this exactly.
const SLOTS: i64 = 60;
/// The most that is asked in one transaction.
const BATCH: usize = 512;
/// The farthest that a job is put off: so many periods of its limit, and at least
/// so long.
const FARTHEST_PERIODS: u32 = 12;
const FARTHEST_AT_LEAST: Duration = Duration::from_secs(900);

/// A limit and whose it is: jobs with the same subject share it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// Its row's name.
    key: String,
    rate: Rate,
}

impl Limit {
    /// Of a subject, `tenant/…` or `webhook/…`. Slots of another length are
    /// another row.
    pub fn new(subject: &str, rate: Rate) -> Self {
        Self {
            key: format!("{subject}/{}", rate.period.as_secs()),
            rate,
        }
    }
}

/// When an attempt may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub enum Turn {
    /// Now, and it counts as begun.
    Now,
    /// Not before, and then it has to ask again.
    At(OffsetDateTime),
}

/// Asks [`keep_rates`].
pub struct Rates(mpsc::Sender<Ask>);

/// What was asked.
pub struct Ask {
    limits: Vec<Limit>,
    returns: bool,
    answer: oneshot::Sender<Turn>,
}

impl Rates {
    /// Both ends.
    pub fn new() -> (Self, mpsc::Receiver<Ask>) {
        let (asks, receiver) = mpsc::channel(BATCH);
        (Self(asks), receiver)
    }

    /// Whether an attempt within these limits may begin. `returns`: whether the
    /// job has waited before. `None`: stopping.
    pub async fn ask(&self, limits: Vec<Limit>, returns: bool) -> Option<Turn> {
        if limits.is_empty() {
            return Some(Turn::Now);
        }
        let (answer, turn) = oneshot::channel();
        let ask = Ask {
            limits,
            returns,
            answer,
        };
        self.0.send(ask).await.ok()?;
        turn.await.ok()
    }
}

/// Answers until nobody asks any more, or `hurry`.
pub async fn keep_rates(pool: Pool, mut asks: mpsc::Receiver<Ask>, hurry: CancellationToken) {
    let doing = "reading rate limits";
    let mut batch = Vec::new();
    while asks.recv_many(&mut batch, BATCH).await > 0 {
        let Some(turns) = until_done(&hurry, doing, || take_turns(&pool, &batch)).await else {
            return;
        };
        for (ask, turn) in batch.drain(..).zip(turns) {
            // Whoever asked may be gone: then its turn is lost, no more.
            let _ = ask.answer.send(turn);
        }
    }
}

/// A turn for each, in their order.
async fn take_turns(pool: &Pool, asked: &[Ask]) -> anyhow::Result<Vec<Turn>> {
    let limits = asked.iter().flat_map(|ask| &ask.limits);
    let keys: BTreeSet<&str> = limits.map(|limit| limit.key.as_str()).collect();
    let keys: Vec<&str> = keys.into_iter().collect();
    let mut client = pool.get().await?;
    loop {
        if let Some(turns) = try_turns(&mut client, &keys, asked).await? {
            return Ok(turns);
        }
        // Before any is locked: else two replicas could wait for each other.
        begin_usage(&client, &keys).await?;
    }
}

/// `None` if a limit is used for the first time.
async fn try_turns(
    client: &mut deadpool_postgres::Client,
    keys: &[&str],
    asked: &[Ask],
) -> anyhow::Result<Option<Vec<Turn>>> {
    let transaction = client.transaction().await?;
    // What a crash of PostgreSQL forgets is some milliseconds of a limit.
    transaction
        .batch_execute("SET LOCAL synchronous_commit = off")
        .await?;
    let rows = lock_usage(&transaction, keys).await?;
    if rows.len() < keys.len() {
        return Ok(None);
    }
    let mut usage = BTreeMap::new();
    let mut now = OffsetDateTime::UNIX_EPOCH;
    for row in rows {
        now = now.max(row.get("now"));
        usage.insert(
            row.get::<_, String>("subject"),
            Usage {
                first_slot: row.get("first_slot"),
                used: serde_json::from_value(row.get("used"))?,
                horizon: row.get("horizon"),
            },
        );
    }
    let turns = asked
        .iter()
        .map(|ask| turn(&ask.limits, ask.returns, &mut usage, now))
        .collect();
    let write = transaction
        .prepare_cached(
            "-- write_usage\n\
             UPDATE rate_usage u SET first_slot = v.first_slot, used = v.used, horizon = v.horizon \
             FROM unnest($1::text[], $2::int8[], $3::jsonb[], $4::timestamptz[]) \
                 AS v (subject, first_slot, used, horizon) \
             WHERE u.subject = ANY($1) AND u.subject = v.subject",
        )
        .await?;
    let (mut subjects, mut firsts, mut used, mut horizons) = (vec![], vec![], vec![], vec![]);
    for (subject, usage) in &usage {
        subjects.push(subject.as_str());
        firsts.push(usage.first_slot);
        used.push(json!(usage.used));
        horizons.push(usage.horizon);
    }
    transaction
        .execute(&write, &[&subjects, &firsts, &used, &horizons])
        .await?;
    transaction.commit().await?;
    Ok(Some(turns))
}

async fn begin_usage(client: &deadpool_postgres::Client, keys: &[&str]) -> anyhow::Result<()> {
    let statement = client
        .prepare_cached(
            "-- begin_usage\n\
             INSERT INTO rate_usage (subject, first_slot, used, horizon) \
             SELECT k, 0, '[]', 'epoch' FROM unnest($1::text[]) k ORDER BY k \
             ON CONFLICT DO NOTHING",
        )
        .await?;
    client.execute(&statement, &[&keys]).await?;
    Ok(())
}

/// Locks rows in the order of their names, so that two replicas never wait for
/// each other, and reads the one clock that all of them have.
async fn lock_usage(
    transaction: &deadpool_postgres::Transaction<'_>,
    keys: &[&str],
) -> anyhow::Result<Vec<tokio_postgres::Row>> {
    let statement = transaction
        .prepare_cached(
            "-- lock_usage\n\
             WITH locked AS MATERIALIZED ( \
                 SELECT subject, first_slot, used, horizon FROM rate_usage \
                 WHERE subject = ANY($1) ORDER BY subject FOR UPDATE) \
             SELECT *, clock_timestamp() AS now FROM locked",
        )
        .await?;
    Ok(transaction.query(&statement, &[&keys]).await?)
}

/// All of its limits have room, and it takes its place in each; or it takes none
/// and its turn comes when the last of those that have no room has.
fn turn(
    limits: &[Limit],
    returns: bool,
    usage: &mut BTreeMap<String, Usage>,
    now: OffsetDateTime,
) -> Turn {
    let mut last = None;
    for limit in limits {
        // Every subject that was asked for has been read.
        let Some(usage) = usage.get_mut(&limit.key) else {
            continue;
        };
        let at = usage.wait(limit.rate, returns, now);
        last = last.max(at.map(|at| (at, &limit.key)));
    }
    if let Some((at, key)) = last {
        return Turn::At(match usage.get_mut(key) {
            Some(usage) if !returns => usage.queue_up(limits, at, now),
            _ => at,
        });
    }
    for limit in limits {
        if let Some(usage) = usage.get_mut(&limit.key) {
            usage.take(limit.rate, now);
        }
    }
    Turn::Now
}

/// How far a job may be put off.
fn farthest(rate: Rate) -> Duration {
    (rate.period * FARTHEST_PERIODS).max(FARTHEST_AT_LEAST)
}

/// How much of a limit is used: attempts begun, by slot.
#[derive(Debug, Clone, PartialEq)]
struct Usage {
    first_slot: i64,
    used: Vec<u32>,
    /// Where the last job that was put off has its turn.
    horizon: OffsetDateTime,
}

/// A slot's length.
fn slot_length(rate: Rate) -> Duration {
    rate.period / SLOTS as u32
}

fn slot_at(rate: Rate, at: OffsetDateTime) -> i64 {
    (at.unix_timestamp_nanos() / slot_length(rate).as_nanos() as i128) as i64
}

impl Usage {
    /// Forgets what no period that ends now or later reaches back to.
    fn advance(&mut self, rate: Rate, now: OffsetDateTime) {
        let first = slot_at(rate, now) - SLOTS;
        let gone = (first - self.first_slot).clamp(0, self.used.len() as i64);
        self.used.drain(..gone as usize);
        self.first_slot = self.first_slot.max(first);
    }

    fn total(&self) -> u32 {
        self.used.iter().sum()
    }

    /// Until when a job has to wait; none if there is room for it.
    fn wait(&mut self, rate: Rate, returns: bool, now: OffsetDateTime) -> Option<OffsetDateTime> {
        self.advance(rate, now);
        let used = self.total();
        if used == 0 || used < rate.limit / 2 {
            // Nobody is in line who would use it, or the limit has been raised.
            self.horizon = self.horizon.min(now);
        }
        if used < rate.limit && (returns || self.horizon <= now) {
            return None;
        }
        let free = self.free_at(rate, now);
        Some(if returns {
            // Next, among those who come back with it.
            free + slot_length(rate).mul_f64(fastrand::f64())
        } else {
            let pace = slot_length(rate) * (SLOTS as u32 + 1) / rate.limit;
            (self.horizon + pace).max(free)
        })
    }

    /// The line now ends with this moment, unless that is too far to plan.
    fn queue_up(
        &mut self,
        limits: &[Limit],
        at: OffsetDateTime,
        now: OffsetDateTime,
    ) -> OffsetDateTime {
        let farthest = limits.iter().map(|limit| farthest(limit.rate)).max();
        let farthest = farthest.unwrap_or(FARTHEST_AT_LEAST);
        if at > now + farthest {
            // Anywhere in the second half of what is allowed.
            return now + farthest.mul_f64(0.5 + 0.5 * fastrand::f64());
        }
        self.horizon = at;
        at
    }

    fn take(&mut self, rate: Rate, now: OffsetDateTime) {
        self.advance(rate, now);
        // A clock that was set back counts into the latest slot that there is.
        let latest = (self.used.len() as i64 - 1).max(0);
        let slot = (slot_at(rate, now) - self.first_slot).max(latest) as usize;
        if self.used.len() <= slot {
            self.used.resize(slot + 1, 0);
        }
        self.used[slot] += 1;
    }

    /// When enough of what is used is forgotten; now, if there is room.
    fn free_at(&self, rate: Rate, now: OffsetDateTime) -> OffsetDateTime {
        let mut rest = self.total();
        if rest < rate.limit {
            return now;
        }
        let mut forgotten = self.first_slot;
        for used in &self.used {
            if rest < rate.limit {
                break;
            }
            rest -= used;
            forgotten += 1;
        }
        // What is in a slot counts until a whole period after the slot's end.
        let free = i128::from(forgotten + SLOTS) * slot_length(rate).as_nanos() as i128;
        let free = OffsetDateTime::from_unix_timestamp_nanos(free).unwrap_or(now);
        free.max(now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-22 10:00:30 UTC);

    fn hourly(limit: u32) -> Limit {
        limit_of("tenant/acme", limit, 3600)
    }

    fn limit_of(subject: &str, limit: u32, period: u64) -> Limit {
        let period = Duration::from_secs(period);
        Limit::new(subject, Rate { limit, period })
    }

    fn unused(limits: &[Limit]) -> BTreeMap<String, Usage> {
        let none = Usage {
            first_slot: 0,
            used: Vec::new(),
            horizon: OffsetDateTime::UNIX_EPOCH,
        };
        limits
            .iter()
            .map(|limit| (limit.key.clone(), none.clone()))
            .collect()
    }

    #[test]
    fn a_burst_may_use_all_of_it_and_the_rest_comes_back_at_its_pace() {
        let limits = [hourly(60)];
        let mut usage = unused(&limits);
        let turns: Vec<_> = (0..180)
            .map(|_| turn(&limits, false, &mut usage, NOW))
            .collect();
        assert!(turns[..60].iter().all(|turn| *turn == Turn::Now));
        let at = |n: usize| match turns[n] {
            Turn::At(at) => at,
            Turn::Now => panic!("{n} has its turn now"),
        };
        // What was begun at 10:00:30 counts until 11:01.
        assert_eq!(at(60), datetime!(2026-11-22 11:01 UTC));
        assert_eq!(at(61) - at(60), Duration::from_secs(61));
        assert_eq!(at(179) - at(60), Duration::from_secs(119 * 61));
        // Its time come, each has its turn.
        for n in 60..180 {
            assert_eq!(turn(&limits, true, &mut usage, at(n)), Turn::Now, "{n}");
        }
    }

    #[test]
    fn a_place_is_taken_in_all_limits_or_in_none() {
        let limits = [hourly(1), limit_of("webhook/a", 5, 1)];
        let mut usage = unused(&limits);
        assert_eq!(turn(&limits, false, &mut usage, NOW), Turn::Now);
        for _ in 0..10 {
            assert!(turn(&limits, false, &mut usage, NOW) > Turn::Now);
        }
        assert_eq!(usage[&limits[1].key].total(), 1);
        assert_eq!(turn(&limits[1..], false, &mut usage, NOW), Turn::Now);
    }

    #[test]
    fn nothing_is_put_off_farther_than_half_a_day() {
        let limits = [hourly(1)];
        let mut usage = unused(&limits);
        for _ in 0..100 {
            if let Turn::At(at) = turn(&limits, false, &mut usage, NOW) {
                assert!(at <= NOW + farthest(limits[0].rate));
            }
        }
    }

    #[test]
    fn a_clock_that_is_set_back_loses_no_count() {
        let limits = [hourly(3)];
        let mut usage = unused(&limits);
        for back in [0, 7200, 90_000] {
            let now = NOW - Duration::from_secs(back);
            assert_eq!(turn(&limits, false, &mut usage, now), Turn::Now);
        }
        assert!(turn(&limits, false, &mut usage, NOW) > Turn::Now);
    }

    #[test]
    fn a_limit_that_was_raised_leaves_nobody_behind_the_old_line() {
        let mut usage = unused(&[hourly(10)]);
        for _ in 0..100 {
            turn(&[hourly(10)], false, &mut usage, NOW);
        }
        assert!(turn(&[hourly(10)], false, &mut usage, NOW) > Turn::Now);
        assert_eq!(turn(&[hourly(1000)], false, &mut usage, NOW), Turn::Now);
    }

    #[test]
    fn a_backlog_is_worked_off_although_it_comes_back_late_and_others_come() {
        let mut rng = fastrand::Rng::with_seed(7);
        let limits = [limit_of("webhook/a", 10, 1)];
        let mut usage = unused(&limits);
        // When each asks, and whether it returns: fifty at once, then two a second.
        let newcomers = (0..20).map(|n| (NOW + Duration::from_millis(500 * n), false));
        let mut asking: Vec<_> = (0..50).map(|_| (NOW, false)).chain(newcomers).collect();
        let mut begun = Vec::new();
        while let Some(next) = (0..asking.len()).min_by_key(|n| asking[*n].0) {
            let (now, returns) = asking.swap_remove(next);
            match turn(&limits, returns, &mut usage, now) {
                Turn::Now => begun.push(now),
                // As late as a delay queue makes it.
                Turn::At(at) => asking.push((at + Duration::from_millis(rng.u64(0..900)), true)),
            }
        }
        assert_eq!(begun.len(), 70);
        let took = begun[69] - NOW;
        // Seven seconds at the limit's own pace.
        assert!(took < Duration::from_secs(15), "{took}");
    }

    proptest! {
        #[test]
        fn no_period_has_more_than_its_limit(
            limit in 1_u32..20,
            period in prop_oneof![Just(1_u64), Just(60), Just(3600)],
            waits in prop::collection::vec(0.0_f64..0.3, 1..200),
        ) {
            let limits = [limit_of("webhook/a", limit, period)];
            let period = Duration::from_secs(period);
            let mut usage = unused(&limits);
            let mut now = NOW;
            let mut begun: Vec<OffsetDateTime> = Vec::new();
            for wait in waits {
                now += period.mul_f64(wait * wait);
                if turn(&limits, false, &mut usage, now) == Turn::Now {
                    begun.push(now);
                    let within = begun.iter().filter(|at| now - **at < period).count();
                    prop_assert!(within <= limit as usize, "{within} of {limit}");
                }
            }
        }
    }
}

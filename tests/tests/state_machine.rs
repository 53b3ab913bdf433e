//! The states of deliveries under random histories, on the statements that write
//! them: settle, defer, hold, release, restart and sweep, as the services call them.
//!
//! There is no broker. A set of jobs stands for its queues; the test loses, repeats and
//! reorders jobs in it. A crash is a call that is dropped at a random await: its
//! transaction is committed or isn't, and its jobs are delivered again. After every step
//! the test reads the rows and compares them with the rows before the step
//! ([`Machine::check`]). At the end every endpoint accepts everything, and no delivery may
//! be left open.
//!
//! `POSTHORN_SEED` repeats a history, except for the await at which a crash happens. A
//! failure names its seed.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Pool;
use dispatcher::deliver::deferral_of_copy;
use dispatcher::in_flight::InFlight;
use dispatcher::judge::{Deferral, GaveUp, Timing, TooOld, Verdict};
use dispatcher::record::{Recorded, Recorder};
use dispatcher::settlement::Settlement;
use dispatcher::ticket::{LATE, Tickets};
use dispatcher::upkeep::paused::{release_batch, resumed_webhooks};
use dispatcher::upkeep::sweep::take_lost;
use dispatcher::upkeep::watermark::{LossCriteria, Reading, TIME_TO_RECORD};
use harness::world::{TENANT, World};
use ingest::restart::{FINISHED, restart_deliveries};
use shared::attempt::{Answer, Failure, Report};
use shared::dialect::Since;
use shared::ids::{DeliveryId, EventUid, WebhookId};
use shared::job::{Job, Late};
use shared::postgres;
use shared::receipts::Held;
use shared::seal::Keyring;
use shared::stats::{OUTCOMES, Subject};
use shared::webhook::Webhook;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Histories per test, and steps per history.
const HISTORIES: u64 = 3;
const STEPS: usize = 50;
/// Deliveries per history, of [`WEBHOOKS`] webhooks.
const DELIVERIES: usize = 8;
const WEBHOOKS: usize = 3;
/// The most passes of the sweeper until nothing is open.
const ROUNDS: usize = 12;

#[tokio::test]
async fn no_history_of_a_delivery_breaks_its_states_or_leaves_it_open() {
    let world = World::start().await;
    let seeds: Vec<u64> = match std::env::var("POSTHORN_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        // The same histories in every run, and a new one.
        Err(_) => (1..HISTORIES).chain([fastrand::u64(..)]).collect(),
    };
    for seed in seeds {
        eprintln!("POSTHORN_SEED={seed}");
        Machine::new(&world, seed).await.live().await;
    }
    world.finish().await;
}

#[tokio::test]
async fn a_late_copy_that_is_sent_is_the_only_job_of_its_delivery() {
    let world = World::start().await;
    let mut machine = Machine::new(&world, 1).await;
    // The sweeper has published a job of each delivery. An outage follows that is longer
    // than the sweeper's grace. After it, two late copies of a job wait until different times.
    machine.time_passes().await;
    let mut original = machine.bag[0].clone();
    original.due_at = machine.rows[&original.delivery].due_at.unwrap();
    let copy = |ago: u64| Job {
        late: Some(Late::Until(shared::clock::now() - Duration::from_secs(ago))),
        ..original.clone()
    };
    let (mut sent, mut other) = (copy(2), copy(1));
    // RabbitMQ may deliver the message again while the copy is being sent.
    let mut message = Job::decode(&sent.encode()).unwrap();
    let tickets = machine.tickets.clone();

    assert!(tickets.claim(&mut sent).await.unwrap());
    assert!(!tickets.claim(&mut other).await.unwrap());
    assert!(!tickets.claim(&mut original).await.unwrap());
    assert!(tickets.claim(&mut message).await.unwrap());
    assert_eq!(sent, message);
    machine.bag.clear();
    machine.sweep().await;
    let swept: BTreeSet<_> = machine.bag.iter().map(|job| job.delivery).collect();
    assert_eq!(swept.len(), DELIVERIES - 1, "{}", machine.history());
    assert!(!swept.contains(&sent.delivery), "{}", machine.history());
    // What follows if its dispatcher dies and RabbitMQ loses the message as well.
    machine.time_passes().await;
    machine.sweep().await;
    let swept = machine
        .bag
        .iter()
        .filter(|job| job.delivery == sent.delivery);
    assert_eq!(swept.count(), 1, "{}", machine.history());
    machine.close().await;
    world.finish().await;
}

/// The contents of a row.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    state: String,
    attempts: i16,
    before: i16,
    due_at: Option<OffsetDateTime>,
    restarted_at: Option<OffsetDateTime>,
    held: bool,
}

impl Row {
    fn is_finished(&self) -> bool {
        FINISHED.contains(&self.state.as_str())
    }

    /// Whether the delivery waits for this job.
    fn waits_for(&self, job: &Job) -> bool {
        !self.is_finished()
            && job.attempt as i16 == self.attempts + 1
            && job.restart.map(|restart| restart.at) == self.restarted_at
    }
}

/// One history.
struct Machine {
    /// A second connection, to look at the rows.
    sql: tokio_postgres::Client,
    /// Decides what happens, in which order.
    dice: fastrand::Rng,
    /// One connection: a statement that a crash left running has ended before the
    /// connection is used again.
    pool: Pool,
    recorder: Recorder,
    tickets: Tickets,
    tasks: TaskTracker,
    webhooks: Vec<WebhookId>,
    /// For receipts: none is used.
    held: Arc<Held>,
    /// What is in the queues.
    bag: Vec<Job>,
    rows: BTreeMap<DeliveryId, Row>,
    /// Attempts by outcome, and finished deliveries by state: the expected
    /// statistics.
    counted: BTreeMap<String, i64>,
    steps: Vec<String>,
}

impl Machine {
    async fn new(world: &World, seed: u64) -> Self {
        let url = world.database_url().to_owned().into();
        let config = postgres::config(&url, "state_machine").unwrap();
        let pool = postgres::pool(&config.planned_once(), 1).unwrap();
        let channel = world.connection().await.create_channel().await.unwrap();
        let mut machine = Self {
            held: Held::new(channel),
            sql: world.sql().await,
            dice: fastrand::Rng::with_seed(seed),
            recorder: Recorder {
                pool: pool.clone(),
                slot: 0,
                grace_over: CancellationToken::new(),
            },
            tickets: Tickets {
                pool: pool.clone(),
                grace_over: CancellationToken::new(),
            },
            pool,
            tasks: TaskTracker::new(),
            webhooks: Vec::new(),
            bag: Vec::new(),
            rows: BTreeMap::new(),
            counted: BTreeMap::new(),
            steps: vec![format!("seed {seed}")],
        };
        machine.begin().await;
        machine
    }

    /// Creates webhooks and an event, whose deliveries are due.
    async fn begin(&mut self) {
        let client = &self.sql;
        let clear = "TRUNCATE events, deliveries, attempts, webhooks, stats, holds CASCADE";
        client.batch_execute(clear).await.unwrap();
        let uid = EventUid::at(OffsetDateTime::now_utc());
        client
            .execute(
                "INSERT INTO events (uid, tenant, id, type, occurred_at, data, matched) \
                 VALUES ($1, $2, 'evt-1', 'order.created', now(), '{}', $3)",
                &[&uid, &TENANT, &(DELIVERIES as i32)],
            )
            .await
            .unwrap();
        for n in 0..WEBHOOKS {
            let id = WebhookId::generate();
            client
                .execute(
                    "INSERT INTO webhooks (id, tenant, url, patterns, secret, revision, operational) \
                     VALUES ($1, $2, 'https://example.com/', '{*}', '', 0, $3)",
                    &[&id, &TENANT, &(n == 0)],
                )
                .await
                .unwrap();
            self.webhooks.push(id);
        }
        for n in 0..DELIVERIES {
            client
                .execute(
                    "INSERT INTO deliveries (id, event_uid, webhook_id, event_type, state, due_at) \
                     VALUES ($1, $2, $3, 'order.created', 'queued', now() - interval '1 hour')",
                    &[
                        &DeliveryId::for_event(uid),
                        &uid,
                        &self.webhooks[n % WEBHOOKS],
                    ],
                )
                .await
                .unwrap();
        }
        self.rows = self.read().await;
        self.sweep().await;
    }

    async fn live(mut self) {
        for _ in 0..STEPS {
            let before = self.rows.clone();
            let restarts = match self.dice.u32(..20) {
                0..=10 => {
                    let crashes = self.dice.u32(..4) == 0;
                    self.settle(crashes).await;
                    BTreeSet::new()
                }
                11 | 12 => self.restart().await,
                13 => {
                    self.sweep().await;
                    BTreeSet::new()
                }
                14 | 15 => {
                    self.release().await;
                    BTreeSet::new()
                }
                16 => {
                    self.time_passes().await;
                    BTreeSet::new()
                }
                17 | 18 => {
                    self.change_webhook().await;
                    BTreeSet::new()
                }
                _ => {
                    self.the_broker_loses_or_repeats();
                    BTreeSet::new()
                }
            };
            self.check(&before, &restarts).await;
        }
        self.close().await;
    }

    fn say(&mut self, step: impl Into<String>) {
        self.steps.push(step.into());
    }

    fn history(&self) -> String {
        self.steps.join("\n  ")
    }

    /// A dispatcher takes some jobs and settles them, or crashes meanwhile.
    async fn settle(&mut self, crashes: bool) {
        let mut jobs = Vec::new();
        for _ in 0..self.dice.usize(1..=4) {
            if self.bag.is_empty() {
                break;
            }
            let at = self.dice.usize(..self.bag.len());
            jobs.push(self.bag.swap_remove(at));
        }
        let in_flight = InFlight::default();
        let mut batch = Vec::new();
        for job in &jobs {
            batch.push(self.settlement(job.clone(), &in_flight).await);
        }
        let told: Vec<String> = batch
            .iter()
            .map(|one| {
                format!(
                    "{} n={} {:?}",
                    one.job.delivery, one.job.attempt, one.verdict
                )
            })
            .collect();
        self.say(format!("settle (crashes: {crashes}) {told:#?}"));
        let expected: BTreeSet<DeliveryId> = batch
            .iter()
            .filter(|one| one.mark.is_some() && self.rows[&one.job.delivery].waits_for(&one.job))
            .map(|one| one.job.delivery)
            .collect();

        let recorded = if crashes {
            let polls = self.dice.usize(..60);
            dropped_after(self.recorder.record(&batch), polls).await
        } else {
            self.recorder.record(&batch).await
        };
        let wrote = match &recorded {
            Some(Recorded { applied, .. }) => {
                let applied: BTreeSet<_> = applied.iter().copied().collect();
                assert_eq!(applied, expected, "{}", self.history());
                true
            }
            // All of it is written or nothing: one row tells.
            None => {
                let rows = self.read().await;
                expected.iter().any(|id| rows[id] != self.rows[id])
            }
        };
        if wrote {
            for one in &batch {
                if expected.contains(&one.job.delivery) && one.mark.is_some() {
                    self.count(one);
                }
            }
        }
        let finishes = recorded.is_some() && self.dice.u32(..5) > 0;
        if let (Some(recorded), true) = (recorded, finishes) {
            self.say("…and queued what follows");
            for one in batch {
                if one.mark.is_none() || expected.contains(&one.job.delivery) {
                    self.bag.extend(follows(one));
                }
            }
            self.bag.extend(recorded.announcements);
        } else {
            // Its connection is lost. The broker still has the jobs, and the next
            // dispatcher makes sure that the follow-up job of each exists.
            for mut job in jobs {
                let tickets = &self.tickets;
                if tickets.claim(&mut job).await.unwrap() {
                    self.bag.push(Job {
                        recheck: true,
                        ..job
                    });
                } else if let Some(next) = tickets.successor(&job, LATE).await.unwrap() {
                    self.bag.push(next);
                }
            }
        }
        self.check_jobs(&expected).await;
    }

    async fn settlement(&mut self, job: Job, in_flight: &InFlight) -> Settlement {
        let mark = in_flight.mark(job.delivery);
        let (verdict, report) = match mark {
            Some(_) => self.verdict(),
            None => (deferral_of_copy(), None),
        };
        let webhook_as_sent = match verdict {
            Verdict::Failed(GaveUp::Gone) => Some(self.webhook(job.webhook).await),
            _ => None,
        };
        Settlement {
            job,
            verdict,
            report,
            webhook_as_sent,
            receipt: self.held.take(0),
            mark,
            held: self.tasks.token(),
            spans: None,
        }
    }

    fn verdict(&mut self) -> (Verdict, Option<Report>) {
        let now = OffsetDateTime::now_utc();
        let at = now + Duration::from_secs(self.dice.u64(..10_000));
        let answered = |status| {
            Some(report(Ok(Answer {
                status,
                ..Answer::default()
            })))
        };
        match self.dice.u32(..14) {
            0 | 1 => (Verdict::Delivered, answered(200)),
            2 => (Verdict::Failed(GaveUp::Exhausted), answered(500)),
            3 => (Verdict::Failed(GaveUp::Refused), answered(400)),
            4 => (Verdict::Failed(GaveUp::Gone), answered(410)),
            5 => {
                let too_old = TooOld {
                    limit: time::Duration::WEEK,
                    since: Since::AcceptedAt,
                };
                // Before an attempt, or after the last one that the age limit allows.
                let attempt = if self.dice.bool() {
                    answered(500)
                } else {
                    None
                };
                (Verdict::Expired(too_old), attempt)
            }
            6 => (Verdict::Cancelled, None),
            7 => (Verdict::Held, None),
            8 => {
                let because = Deferral::EndpointFull;
                (Verdict::Deferred { until: at, because }, None)
            }
            9 => {
                let because = Timing::RetryAfter;
                (Verdict::RetryAt { at, because }, answered(503))
            }
            _ => {
                let failures = [
                    Failure::Timeout,
                    Failure::Dns("nobody\0there".to_owned()),
                    Failure::Broken("…".to_owned()),
                ];
                let failure = failures[self.dice.usize(..failures.len())].clone();
                let because = Timing::Schedule;
                (Verdict::RetryAt { at, because }, Some(report(Err(failure))))
            }
        }
    }

    async fn webhook(&self, id: WebhookId) -> Arc<Webhook> {
        let keys = Keyring::from_base64(["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]).unwrap();
        let sql = format!("SELECT {} FROM webhooks WHERE id = $1", Webhook::COLUMNS);
        let row = self.sql.query_one(&sql, &[&id]).await.unwrap();
        Arc::new(Webhook::read(&row, &keys).unwrap())
    }

    fn count(&mut self, one: &Settlement) {
        let ends = match one.verdict {
            Verdict::Delivered | Verdict::Failed(_) | Verdict::Expired(_) | Verdict::Cancelled => {
                Some(one.verdict.as_str())
            }
            Verdict::RetryAt { .. } | Verdict::Deferred { .. } | Verdict::Held => None,
        };
        for what in ends
            .into_iter()
            .chain(one.report.as_ref().map(Report::outcome))
        {
            *self.counted.entry(what.to_owned()).or_default() += 1;
        }
    }

    /// The API restarts some deliveries. It may crash before it publishes their
    /// jobs.
    async fn restart(&mut self) -> BTreeSet<DeliveryId> {
        let some: Vec<DeliveryId> = self
            .rows
            .keys()
            .copied()
            .filter(|_| self.dice.bool())
            .collect();
        let mut client = self.pool.get().await.unwrap();
        let transaction = client.transaction().await.unwrap();
        let jobs = restart_deliveries(&transaction, &some, &FINISHED)
            .await
            .unwrap();
        transaction.commit().await.unwrap();
        drop(client);
        let restarted: BTreeSet<_> = jobs.iter().map(|job| job.delivery).collect();
        self.say(format!("restart {restarted:?}"));
        let finished = some.iter().filter(|id| self.rows[id].is_finished());
        assert_eq!(restarted, finished.copied().collect(), "{}", self.history());
        if self.dice.bool() {
            self.bag.extend(jobs);
            self.check_jobs(&restarted).await;
        }
        restarted
    }

    async fn sweep(&mut self) {
        let criteria = LossCriteria {
            default_timeout: Duration::from_secs(30),
            grace: Duration::from_secs(60),
        };
        // An attempt ago, every job that was due by then had reached a dispatcher.
        let at = OffsetDateTime::now_utc();
        let watermark = at - criteria.default_timeout;
        let readings = [
            Reading {
                at: watermark - TIME_TO_RECORD,
                watermark,
            },
            Reading { at, watermark: at },
        ];
        let jobs = take_lost(&self.pool, &readings, criteria).await.unwrap();
        self.say(format!("the sweeper puts {} back", jobs.len()));
        let swept = jobs.iter().map(|job| job.delivery).collect();
        self.bag.extend(jobs);
        self.check_jobs(&swept).await;
    }

    async fn release(&mut self) {
        let resumed = resumed_webhooks(&self.pool).await.unwrap();
        let Some(webhook) = resumed.first() else {
            return;
        };
        let (jobs, _) = release_batch(&self.pool, *webhook).await.unwrap();
        self.say(format!("{} are released", jobs.len()));
        if self.dice.u32(..4) > 0 {
            let released = jobs.iter().map(|job| job.delivery).collect();
            self.bag.extend(jobs);
            self.check_jobs(&released).await;
        }
    }

    /// Makes all deliveries due long ago.
    async fn time_passes(&mut self) {
        self.say("time passes");
        let passes = "UPDATE deliveries SET due_at = due_at - interval '1 day' \
                      WHERE due_at IS NOT NULL";
        self.sql.execute(passes, &[]).await.unwrap();
        let rows = self.read().await;
        self.rows = rows;
    }

    async fn change_webhook(&mut self) {
        let webhook = self.webhooks[self.dice.usize(..WEBHOOKS)];
        let statuses = ["active", "active", "paused", "inactive"];
        let status = statuses[self.dice.usize(..statuses.len())];
        self.say(format!("{webhook} becomes {status}"));
        self.set_status(webhook, status).await;
    }

    async fn set_status(&self, webhook: WebhookId, status: &str) {
        let sql = "UPDATE webhooks SET status = $2, disabled_reason = NULL WHERE id = $1";
        let client = &self.sql;
        client.execute(sql, &[&webhook, &status]).await.unwrap();
    }

    fn the_broker_loses_or_repeats(&mut self) {
        if self.bag.is_empty() {
            return;
        }
        let at = self.dice.usize(..self.bag.len());
        let (what, all) = (self.dice.bool(), self.dice.u32(..6) == 0);
        self.say(format!("repeats: {what}, all: {all}"));
        match (what, all) {
            (true, true) => self.bag.extend(self.bag.clone()),
            (true, false) => self.bag.push(self.bag[at].clone()),
            (false, true) => self.bag.clear(),
            (false, false) => drop(self.bag.swap_remove(at)),
        }
        // So that the set of jobs can't grow without end.
        self.bag.truncate(64);
    }

    async fn read(&self) -> BTreeMap<DeliveryId, Row> {
        // A statement that a crash left running on the connection has ended after
        // this.
        let client = self.pool.get().await.unwrap();
        client.batch_execute("ROLLBACK").await.unwrap();
        let rows = client
            .query(
                "SELECT id, state, attempts, attempts_before, due_at, restarted_at, \
                        deferred_because IS NOT DISTINCT FROM 'paused' AS held FROM deliveries",
                &[],
            )
            .await
            .unwrap();
        rows.iter()
            .map(|row| {
                let read = Row {
                    state: row.get(1),
                    attempts: row.get(2),
                    before: row.get(3),
                    due_at: row.get(4),
                    restarted_at: row.get(5),
                    held: row.get(6),
                };
                (row.get(0), read)
            })
            .collect()
    }

    /// Checks the rules that hold after any step. The tables' CHECKs hold anyway: a
    /// statement that violates one fails.
    async fn check(&mut self, before: &BTreeMap<DeliveryId, Row>, restarts: &BTreeSet<DeliveryId>) {
        let rows = self.read().await;
        for (id, row) in &rows {
            let says = || format!("{id}: {row:?}, after\n  {}", self.history());
            assert_eq!(
                row.due_at.is_some(),
                !row.is_finished() && !row.held,
                "what is open is due or held: {}",
                says()
            );
            let Some(was) = before.get(id) else {
                continue;
            };
            let more = row.attempts - was.attempts;
            assert!((0..=1).contains(&more), "one attempt a verdict: {}", says());
            if restarts.contains(id) {
                assert_eq!(
                    (row.state.as_str(), row.before, more),
                    ("queued", row.attempts, 0),
                    "{}",
                    says()
                );
            } else {
                assert_eq!(row.restarted_at, was.restarted_at, "{}", says());
                assert_eq!(row.before, was.before, "{}", says());
                if was.is_finished() {
                    assert_eq!(
                        row.state,
                        was.state,
                        "what is finished stays so: {}",
                        says()
                    );
                    assert_eq!(more, 0, "{}", says());
                }
            }
        }
        self.rows = rows;
        self.check_attempts().await;
        self.check_holds().await;
        self.check_statistics().await;
    }

    /// Checks that each due delivery has the job that it waits for.
    async fn check_jobs(&self, deliveries: &BTreeSet<DeliveryId>) {
        let rows = self.read().await;
        for id in deliveries {
            let row = &rows[id];
            let has_ticket = |job: &&Job| {
                // With the precision of a queued job: microseconds.
                let job = Job::decode(&job.encode()).unwrap();
                job.delivery == *id && row.waits_for(&job) && row.due_at == Some(job.due_at)
            };
            assert!(
                row.due_at.is_none() || self.bag.iter().any(|job| has_ticket(&job)),
                "{id}: {row:?} has no job, after\n  {}",
                self.history()
            );
        }
    }

    async fn check_attempts(&self) {
        let sql = "SELECT d.id, d.attempts, count(a.n), coalesce(min(a.n), 1::int2), coalesce(max(a.n), 0::int2) \
                   FROM deliveries d LEFT JOIN attempts a ON a.delivery_id = d.id GROUP BY d.id";
        let client = &self.sql;
        for row in client.query(sql, &[]).await.unwrap() {
            let (attempts, count): (i16, i64) = (row.get(1), row.get(2));
            let (first, last): (i16, i16) = (row.get(3), row.get(4));
            assert_eq!(
                (count, first, last),
                (i64::from(attempts), 1, attempts),
                "every attempt has its row: {}, after\n  {}",
                row.get::<_, DeliveryId>(0),
                self.history()
            );
        }
    }

    async fn check_holds(&self) {
        let forgotten = "SELECT count(*) FROM deliveries d WHERE d.deferred_because = 'paused' AND d.due_at IS NULL \
             AND d.state IN ('queued', 'retrying') \
             AND NOT EXISTS (SELECT FROM holds h WHERE h.webhook_id = d.webhook_id)";
        let row = self.sql.query_one(forgotten, &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), 0, "{}", self.history());
    }

    async fn check_statistics(&self) {
        let tenant = Subject::Tenant(&TENANT.parse().unwrap()).to_string();
        let sql = "SELECT outcomes, delivered, failed, expired, cancelled FROM stats \
                   WHERE subject = $1";
        let mut stored: BTreeMap<String, i64> = BTreeMap::new();
        let client = &self.sql;
        for row in client.query(sql, &[&tenant]).await.unwrap() {
            let outcomes: Vec<i32> = row.get(0);
            let ends = ["delivered", "failed", "expired", "cancelled"];
            let ends = ends
                .iter()
                .enumerate()
                .map(|(n, end)| (*end, row.get(n + 1)));
            for (what, n) in OUTCOMES.into_iter().zip(outcomes).chain(ends) {
                if n > 0 {
                    *stored.entry(what.to_owned()).or_default() += i64::from(n);
                }
            }
        }
        assert_eq!(stored, self.counted, "{}", self.history());
    }

    /// Every endpoint accepts everything from now on: nothing may stay open.
    async fn close(&mut self) {
        self.say("everything succeeds");
        for webhook in self.webhooks.clone() {
            self.set_status(webhook, "active").await;
        }
        // The broker has lost all jobs.
        self.bag.clear();
        for _ in 0..ROUNDS {
            if self.rows.values().all(Row::is_finished) {
                break;
            }
            self.release().await;
            self.time_passes().await;
            self.sweep().await;
            let jobs: BTreeMap<DeliveryId, Job> = std::mem::take(&mut self.bag)
                .into_iter()
                .map(|job| (job.delivery, job))
                .collect();
            let mut batch = Vec::new();
            for job in jobs.into_values() {
                let mut one = self.settlement(job, &InFlight::default()).await;
                one.verdict = Verdict::Delivered;
                one.report = Some(report(Ok(Answer {
                    status: 200,
                    ..Answer::default()
                })));
                batch.push(one);
            }
            let recorded = self.recorder.record(&batch).await.unwrap();
            assert_eq!(recorded.applied.len(), batch.len(), "{}", self.history());
            batch.iter().for_each(|one| self.count(one));
            let before = self.rows.clone();
            self.check(&before, &BTreeSet::new()).await;
        }
        let open = self.rows.values().filter(|row| !row.is_finished()).count();
        assert_eq!(open, 0, "{}", self.history());
    }
}

/// The job that follows from a verdict, as the dispatcher publishes it.
fn follows(
    Settlement {
        job, verdict, mark, ..
    }: Settlement,
) -> Option<Job> {
    match verdict {
        Verdict::RetryAt { at, .. } => Some(Job {
            attempt: job.attempt + 1,
            due_at: at,
            recheck: false,
            late: None,
            ..job
        }),
        Verdict::Deferred { until, .. } if mark.is_none() => Some(Job {
            recheck: true,
            late: Some(Late::Until(until)),
            ..job
        }),
        Verdict::Deferred { until, .. } => Some(Job {
            due_at: until,
            recheck: true,
            late: None,
            ..job
        }),
        _ => None,
    }
}

fn report(result: Result<Answer, Failure>) -> Report {
    Report {
        request: None,
        started_at: OffsetDateTime::now_utc(),
        took: Duration::from_millis(3),
        remote: None,
        result,
    }
}

/// Drops a future after this many polls.
async fn dropped_after<T>(future: impl Future<Output = Option<T>>, polls: usize) -> Option<T> {
    let mut future = Box::pin(future);
    let mut left = polls;
    std::future::poll_fn(|context| {
        if left == 0 {
            return std::task::Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context)
    })
    .await
}

//! One history: what is in the queues and the rows, and which steps have been taken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use deadpool_postgres::Pool;
use dispatcher::in_flight::InFlight;
use dispatcher::judge::Verdict;
use dispatcher::record::Recorder;
use dispatcher::ticket::Tickets;
use harness::world::{TENANT, World};
use ingest::restart::FINISHED;
use shared::attempt::Answer;
use shared::ids::{DeliveryId, EventUid, WebhookId};
use shared::job::Job;
use shared::postgres;
use shared::receipts::Held;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::settling::report;

/// Steps per history.
const STEPS: usize = 50;
/// Deliveries per history, of [`WEBHOOKS`] webhooks.
pub(crate) const DELIVERIES: usize = 8;
pub(crate) const WEBHOOKS: usize = 3;
/// The most passes of the sweeper until nothing is open.
const ROUNDS: usize = 12;

/// The contents of a row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) state: String,
    pub(crate) attempts: i16,
    pub(crate) before: i16,
    pub(crate) due_at: Option<OffsetDateTime>,
    pub(crate) restarted_at: Option<OffsetDateTime>,
    pub(crate) held: bool,
}

impl Row {
    pub(crate) fn is_finished(&self) -> bool {
        FINISHED.contains(&self.state.as_str())
    }

    /// Whether the delivery waits for this job.
    pub(crate) fn waits_for(&self, job: &Job) -> bool {
        !self.is_finished()
            && job.attempt as i16 == self.attempts + 1
            && job.restart.map(|restart| restart.at) == self.restarted_at
    }
}

/// One history.
pub(crate) struct Machine {
    /// A second connection, to look at the rows.
    pub(crate) sql: tokio_postgres::Client,
    /// Decides what happens, in which order.
    pub(crate) dice: fastrand::Rng,
    /// One connection: a statement that a crash left running has ended before the
    /// connection is used again.
    pub(crate) pool: Pool,
    pub(crate) recorder: Recorder,
    pub(crate) tickets: Tickets,
    pub(crate) tasks: TaskTracker,
    pub(crate) webhooks: Vec<WebhookId>,
    /// For receipts: none is used.
    pub(crate) held: Arc<Held>,
    /// What is in the queues.
    pub(crate) bag: Vec<Job>,
    pub(crate) rows: BTreeMap<DeliveryId, Row>,
    /// Attempts by outcome, and finished deliveries by state: the expected
    /// statistics.
    pub(crate) counted: BTreeMap<String, i64>,
    steps: Vec<String>,
}

impl Machine {
    pub(crate) async fn new(world: &World, seed: u64) -> Self {
        let url = world.database_url().to_owned().into();
        let config = postgres::config(&url, "state_machine").unwrap();
        let pool = postgres::pool(&config.planned_once(), 1).unwrap();
        let channel = world.connection().await.create_channel().await.unwrap();
        let mut machine = Self {
            held: Held::new(channel, 1),
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

    pub(crate) async fn live(mut self) {
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

    pub(crate) fn say(&mut self, step: impl Into<String>) {
        self.steps.push(step.into());
    }

    pub(crate) fn history(&self) -> String {
        self.steps.join("\n  ")
    }

    pub(crate) async fn read(&self) -> BTreeMap<DeliveryId, Row> {
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

    /// Every endpoint accepts everything from now on: nothing may stay open.
    pub(crate) async fn close(&mut self) {
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

//! The rules that hold after any step.

use std::collections::{BTreeMap, BTreeSet};

use harness::world::TENANT;
use shared::ids::DeliveryId;
use shared::job::Job;
use shared::stats::{OUTCOMES, Subject};

use crate::machine::{Machine, Row};

impl Machine {
    /// Checks the rules that hold after any step. The tables' CHECKs hold anyway: a
    /// statement that violates one fails.
    pub(crate) async fn check(
        &mut self,
        before: &BTreeMap<DeliveryId, Row>,
        restarts: &BTreeSet<DeliveryId>,
    ) {
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
    pub(crate) async fn check_jobs(&self, deliveries: &BTreeSet<DeliveryId>) {
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
}

//! Everything that happens beside dispatchers: restarts, the sweeper, releases, changes to webhooks,
//! and jobs that the broker loses or repeats.

use std::collections::BTreeSet;
use std::time::Duration;

use dispatcher::upkeep::paused::{release_batch, resumed_webhooks};
use dispatcher::upkeep::sweep::take_lost;
use dispatcher::upkeep::watermark::{LossCriteria, Reading, TIME_TO_RECORD};
use ingest::restart::{FINISHED, restart_deliveries};
use shared::ids::{DeliveryId, WebhookId};
use time::OffsetDateTime;

use crate::machine::{Machine, WEBHOOKS};

impl Machine {
    /// The API restarts some deliveries. It may crash before it publishes their
    /// jobs.
    pub(crate) async fn restart(&mut self) -> BTreeSet<DeliveryId> {
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

    pub(crate) async fn sweep(&mut self) {
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

    pub(crate) async fn release(&mut self) {
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
    pub(crate) async fn time_passes(&mut self) {
        self.say("time passes");
        let passes = "UPDATE deliveries SET due_at = due_at - interval '1 day' \
                      WHERE due_at IS NOT NULL";
        self.sql.execute(passes, &[]).await.unwrap();
        let rows = self.read().await;
        self.rows = rows;
    }

    pub(crate) async fn change_webhook(&mut self) {
        let webhook = self.webhooks[self.dice.usize(..WEBHOOKS)];
        let statuses = ["active", "active", "paused", "inactive"];
        let status = statuses[self.dice.usize(..statuses.len())];
        self.say(format!("{webhook} becomes {status}"));
        self.set_status(webhook, status).await;
    }

    pub(crate) async fn set_status(&self, webhook: WebhookId, status: &str) {
        let sql = "UPDATE webhooks SET status = $2, disabled_reason = NULL WHERE id = $1";
        let client = &self.sql;
        client.execute(sql, &[&webhook, &status]).await.unwrap();
    }

    pub(crate) fn the_broker_loses_or_repeats(&mut self) {
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
}

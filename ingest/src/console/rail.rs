//! The counts in the rail: how many webhooks a tenant has and how many of them fail, its running
//! replays and its rejected events. For the operator also the tenants and the dead letters.
//!
//! The rail is on every page, so its counts are read at most every ten seconds for each tenant,
//! and shared by all pages and streams of that tenant. Each statement looks at a bounded number of
//! rows of one tenant. A count that can't be read is left out: no page waits for it or fails
//! because of it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shared::ids::{Tenant, WebhookId};

use crate::api::access::auth::permit;
use crate::api::http::problem::Result;
use crate::api::state::Api;
use crate::api::webhooks::health::{Health, summaries};
use crate::console::moments::number;

/// The parts of the rail that change, by the names that live parts have.
pub const WEBHOOKS: &str = "rail-webhooks";
pub const REPLAYS: &str = "rail-replays";
pub const REJECTED: &str = "rail-rejected";
pub const TENANTS: &str = "rail-tenants";
pub const DEAD_LETTERS: &str = "rail-dead-letters";

/// How old counts may be.
const GOOD: Duration = Duration::from_secs(10);
/// How long a page waits for them.
const PATIENCE: Duration = Duration::from_millis(500);
/// How far webhooks and rejected events are counted.
const COUNTED: i64 = 1_000;
/// How many of a tenant's latest replays are looked at.
const REPLAYS_LOOKED_AT: i64 = 200;
/// How far tenants are counted.
const TENANTS_COUNTED: i64 = 10_000;
/// The most tenants whose counts are remembered.
const REMEMBERED: usize = 1_000;

tokio::task_local! {
    static CURRENT: Counts;
}

/// The counts by part, as text of ours: digits and words. A count of nothing is an empty text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(Vec<(&'static str, String)>);

impl Counts {
    /// Those of the page that this task answers with.
    pub fn current() -> Self {
        CURRENT.try_with(Self::clone).unwrap_or_default()
    }

    /// Runs `answer`, whose pages may ask for the [`current`](Self::current) counts.
    pub async fn scope<F: Future>(self, answer: F) -> F::Output {
        CURRENT.scope(self, answer).await
    }

    pub fn parts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(part, text)| (*part, text.as_str()))
    }

    /// What stands beside an entry of the rail.
    pub fn text(&self, part: &str) -> &str {
        let found = self.parts().find(|(name, _)| *name == part);
        found.map_or("", |(_, text)| text)
    }
}

/// Whose counts they are. `None`: of all tenants.
type Scope = Option<Tenant>;

struct Remembered {
    since: Instant,
    counts: Counts,
}

/// The latest counts of each tenant.
#[derive(Default)]
pub struct Rail(Mutex<HashMap<Scope, Remembered>>);

impl Rail {
    /// The counts for somebody's rail. `tenant`: the tenant whose pages they see, which the caller
    /// has taken from the session. `operator`: whether they see those of all tenants, too.
    pub async fn counts(&self, api: &Api, tenant: Option<&Tenant>, operator: bool) -> Counts {
        let mut all = Counts::default();
        if let Some(tenant) = tenant {
            let counted = self.latest(Some(tenant.clone()), of_tenant(api, tenant));
            all.0.extend(counted.await.0);
        }
        if operator {
            all.0.extend(self.latest(None, of_all(api)).await.0);
        }
        all
    }

    /// Forgets counts that somebody may just have changed. Only the next page reads them again.
    pub fn forget(&self, tenant: Option<&Tenant>, operator: bool) {
        let mut remembered = self.remembered();
        if let Some(tenant) = tenant {
            remembered.remove(&Some(tenant.clone()));
        }
        if operator {
            remembered.remove(&None);
        }
    }

    /// The remembered counts, or what `read` answers if they are too old. While somebody reads,
    /// others get the older ones.
    async fn latest(&self, scope: Scope, read: impl Future<Output = Result<Counts>>) -> Counts {
        let older = match self.take_turn(&scope, Instant::now()) {
            Turn::Read(older) => older,
            Turn::Good(counts) => return counts,
        };
        match tokio::time::timeout(PATIENCE, read).await {
            Ok(Ok(counts)) => {
                if let Some(remembered) = self.remembered().get_mut(&scope) {
                    remembered.counts = counts.clone();
                }
                counts
            }
            Ok(Err(_)) | Err(_) => older,
        }
    }

    fn take_turn(&self, scope: &Scope, now: Instant) -> Turn {
        let is_good =
            |remembered: &Remembered| now.saturating_duration_since(remembered.since) < GOOD;
        let mut all = self.remembered();
        if let Some(remembered) = all.get_mut(scope) {
            if is_good(remembered) {
                return Turn::Good(remembered.counts.clone());
            }
            remembered.since = now;
            return Turn::Read(remembered.counts.clone());
        }
        if all.len() >= REMEMBERED {
            all.retain(|_, remembered| is_good(remembered));
        }
        if all.len() >= REMEMBERED {
            // So many at once aren't people. Their pages have no counts.
            return Turn::Good(Counts::default());
        }
        let counts = Counts::default();
        let remembered = Remembered {
            since: now,
            counts: counts.clone(),
        };
        all.insert(scope.clone(), remembered);
        Turn::Read(counts)
    }

    fn remembered(&self) -> MutexGuard<'_, HashMap<Scope, Remembered>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Turn {
    /// It is this caller's turn to read. If that fails, these are shown.
    Read(Counts),
    Good(Counts),
}

/// Counts among the tenant's requests that use PostgreSQL, as a page or a live part does.
async fn of_tenant(api: &Api, tenant: &Tenant) -> Result<Counts> {
    let _permit = permit(tenant, api).await?;
    let client = api.pool.get().await?;
    // A range of one tenant, in the order of its index: by `tenant = $1 ORDER BY id` the planner may
    // go through the primary key, which has all tenants' rows.
    let statement = client
        .prepare_cached(
            "-- rail_of_tenant\n\
             WITH hooks AS MATERIALIZED ( \
                 SELECT id, status FROM webhooks \
                 WHERE tenant >= $1 AND tenant <= $1 AND status <> 'deleted' \
                 ORDER BY tenant DESC, id DESC LIMIT $2) \
             SELECT (SELECT count(*) FROM hooks) AS webhooks, \
                 (SELECT coalesce(array_agg(id), '{}') FROM hooks WHERE status = 'active') AS active, \
                 (SELECT count(*) FILTER (WHERE state = 'running') FROM ( \
                     SELECT state FROM replays WHERE tenant >= $1 AND tenant <= $1 \
                     ORDER BY tenant DESC, id DESC LIMIT $3) latest \
                 ) AS running, \
                 (SELECT count(*) FILTER (WHERE tenant = $1) FROM ( \
                     SELECT tenant FROM dead_letters WHERE owner >= $1 AND owner <= $1 \
                     ORDER BY owner DESC, id DESC LIMIT $2) letters \
                 ) AS rejected",
        )
        .await?;
    let row = client
        .query_one(&statement, &[tenant, &(COUNTED + 1), &REPLAYS_LOOKED_AT])
        .await?;
    let active: Vec<WebhookId> = row.get("active");
    let summaries = summaries(&client, &active).await?;
    let failing = summaries
        .values()
        .filter(|summary| summary.health == Health::Failing)
        .count();
    let (running, rejected): (i64, i64) = (row.get("running"), row.get("rejected"));
    Ok(Counts(vec![
        (WEBHOOKS, webhooks(row.get("webhooks"), failing as i64)),
        (
            REPLAYS,
            match running {
                0 => String::new(),
                running => format!("{} running", number(running)),
            },
        ),
        (REJECTED, counted(rejected, COUNTED)),
    ]))
}

async fn of_all(api: &Api) -> Result<Counts> {
    let client = api.pool.get().await?;
    // There is one row for each owner of dead letters, so nothing is counted one by one.
    let statement = client
        .prepare_cached(
            "-- rail_of_all\n\
             SELECT (SELECT count(*) FROM ( \
                     SELECT FROM tenants WHERE deleted_at IS NULL LIMIT $1) t) AS tenants, \
                 (SELECT coalesce(sum(letters), 0)::int8 FROM dead_letter_use) AS letters",
        )
        .await?;
    let row = client
        .query_one(&statement, &[&(TENANTS_COUNTED + 1)])
        .await?;
    Ok(Counts(vec![
        (TENANTS, counted(row.get("tenants"), TENANTS_COUNTED)),
        (DEAD_LETTERS, counted(row.get("letters"), i64::MAX)),
    ]))
}

fn webhooks(many: i64, failing: i64) -> String {
    let many = counted(many, COUNTED);
    match failing {
        0 => many,
        failing => format!("{many}, {} failing", number(failing)),
    }
}

/// A number that was counted up to `most`. Nothing is no text at all.
fn counted(many: i64, most: i64) -> String {
    match many {
        0 => String::new(),
        many if many > most => format!("{}+", number(most)),
        many => number(many),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::api::http::problem::Problem;

    fn counts(text: &str) -> Counts {
        Counts(vec![(WEBHOOKS, text.to_owned())])
    }

    fn acme() -> Scope {
        "acme".parse().ok()
    }

    #[tokio::test]
    async fn counts_are_read_once_in_ten_seconds_and_again_after_a_change() {
        let (rail, reads) = (Rail::default(), AtomicUsize::new(0));
        let reads = &reads;
        let read = || async move {
            let before = reads.fetch_add(1, Ordering::Relaxed);
            Ok(counts(&before.to_string()))
        };
        for _ in 0..5 {
            assert_eq!(rail.latest(acme(), read()).await, counts("0"));
        }
        // Another tenant's are others.
        assert_eq!(
            rail.latest("globex".parse().ok(), read()).await,
            counts("1")
        );
        rail.forget(acme().as_ref(), false);
        assert_eq!(rail.latest(acme(), read()).await, counts("2"));
        assert!(matches!(
            rail.take_turn(&acme(), Instant::now() + GOOD),
            Turn::Read(older) if older == counts("2")
        ));
        // Whoever asks in the meantime doesn't read, too.
        assert!(matches!(
            rail.take_turn(&acme(), Instant::now() + GOOD),
            Turn::Good(older) if older == counts("2")
        ));
    }

    #[tokio::test]
    async fn what_cant_be_read_is_left_out() {
        let rail = Rail::default();
        let fails = async { Err(Problem::unavailable("PostgreSQL is away")) };
        assert_eq!(rail.latest(acme(), fails).await, Counts::default());
    }

    #[test]
    fn tenants_beyond_those_that_are_remembered_have_no_counts() {
        let (rail, now) = (Rail::default(), Instant::now());
        for n in 0..REMEMBERED {
            let scope = format!("t{n}").parse().ok();
            assert!(matches!(rail.take_turn(&scope, now), Turn::Read(_)));
        }
        assert!(matches!(rail.take_turn(&acme(), now), Turn::Good(_)));
        assert!(matches!(rail.take_turn(&acme(), now + GOOD), Turn::Read(_)));
        assert_eq!(rail.remembered().len(), 1);
    }

    #[test]
    fn a_count_says_when_there_are_more() {
        assert_eq!(counted(0, COUNTED), "");
        assert_eq!(counted(1_000, COUNTED), "1,000");
        assert_eq!(counted(1_001, COUNTED), "1,000+");
        assert_eq!(webhooks(8, 0), "8");
        assert_eq!(webhooks(8, 1), "8, 1 failing");
    }
}

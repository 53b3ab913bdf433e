//! Counts accepted events by type, for the statistics of event types.
//!
//! Lanes count in memory, so that accepting an event costs nothing more. Every ten seconds
//! the counts are added to the table `event_type_counts`. A process that is killed loses up
//! to ten seconds of them: they are for charts, not for bills.
//!
//! Producers choose types, so their number is bounded: 1,000 a tenant and 50,000 in all, a
//! day and process. The events of all further types are counted together.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use deadpool_postgres::Pool;
use shared::clock;
use shared::ids::Tenant;
use shared::stats::PERIOD;
use time::{Date, OffsetDateTime};
use tokio_util::sync::CancellationToken;
use tracing::warn;

const EVERY: Duration = Duration::from_secs(10);
/// The most types of a tenant that are told apart on one day.
pub const TYPES: usize = 1000;
/// The most types of all tenants.
const ALL_TYPES: usize = 50_000;
/// What events of further types are counted as. No type has this name.
pub const OTHER: &str = "*";
/// Dispatchers have the slots below: see `stats`.
const SLOTS: std::ops::Range<i16> = 16..32;

/// Counts of this process that aren't written yet.
#[derive(Default)]
pub struct TypeCounts(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    /// Types without new events stay until the day is over.
    by_tenant: HashMap<Tenant, HashMap<String, i32>>,
    types: usize,
    /// All events since the process started.
    events: u64,
    day: Option<Date>,
}

impl TypeCounts {
    /// Counts one batch of accepted events.
    pub fn count<'a>(&self, events: impl Iterator<Item = (&'a Tenant, &'a str)>) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (tenant, event_type) in events {
            counts.events += 1;
            counts.add(tenant, event_type, 1);
        }
    }

    /// The number of events since the process started.
    pub fn events(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).events
    }

    /// Writes the counts every ten seconds, and once more at `stop`.
    pub async fn keep_written(&self, pool: Pool, stop: CancellationToken) {
        let slot = fastrand::i16(SLOTS);
        let mut next = tokio::time::interval(EVERY);
        loop {
            let is_last = tokio::select! {
                _ = next.tick() => false,
                () = stop.cancelled() => true,
            };
            let now = clock::now();
            let taken = self.take(now);
            if !taken.is_empty()
                && let Err(error) = write(&pool, slot, now, &taken).await
            {
                let error = format!("{error:#}");
                warn!(
                    error,
                    "counts of events by type could not be written; trying again in 10 s"
                );
                self.give_back(&taken);
            }
            if is_last {
                return;
            }
        }
    }

    /// The counts that aren't 0, which are 0 then.
    fn take(&self, now: OffsetDateTime) -> Vec<(Tenant, String, i32)> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = Vec::new();
        for (tenant, types) in &mut counts.by_tenant {
            for (name, count) in types.iter_mut().filter(|(_, count)| **count > 0) {
                taken.push((tenant.clone(), name.clone(), std::mem::take(count)));
            }
        }
        if counts.day.replace(now.date()) != Some(now.date()) {
            counts.by_tenant.clear();
            counts.types = 0;
        }
        taken
    }

    fn give_back(&self, taken: &[(Tenant, String, i32)]) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (tenant, name, count) in taken {
            counts.add(tenant, name, *count);
        }
    }
}

impl Counts {
    fn add(&mut self, tenant: &Tenant, name: &str, events: i32) {
        let known = self.by_tenant.get_mut(tenant);
        if let Some(count) = known.and_then(|types| types.get_mut(name)) {
            *count += events;
            return;
        }
        let types = self.by_tenant.entry(tenant.clone()).or_default();
        let is_full = types.len() >= TYPES || self.types >= ALL_TYPES;
        let name = if is_full { OTHER } else { name };
        let count = types.entry(name.to_owned()).or_insert_with(|| {
            self.types += 1;
            0
        });
        *count += events;
    }
}

async fn write(
    pool: &Pool,
    slot: i16,
    now: OffsetDateTime,
    counts: &[(Tenant, String, i32)],
) -> anyhow::Result<()> {
    let client = pool.get().await.context("connecting to PostgreSQL")?;
    let statement = client
        .prepare_cached(
            "-- count_event_types\n\
             INSERT INTO event_type_counts AS c (tenant, quarter, event_type, slot, events) \
             SELECT v.tenant, to_timestamp($4), v.event_type, $5, v.events \
             FROM unnest($1::text[], $2::text[], $3::int4[]) AS v (tenant, event_type, events) \
             ORDER BY v.tenant, v.event_type \
             ON CONFLICT (tenant, quarter, event_type, slot) \
             DO UPDATE SET events = c.events + excluded.events",
        )
        .await?;
    let quarter = now.unix_timestamp().div_euclid(PERIOD) * PERIOD;
    let tenants: Vec<_> = counts.iter().map(|(tenant, _, _)| tenant).collect();
    let types: Vec<_> = counts.iter().map(|(_, name, _)| name).collect();
    let events: Vec<_> = counts.iter().map(|(_, _, count)| *count).collect();
    client
        .execute(
            &statement,
            &[&tenants, &types, &events, &(quarter as f64), &slot],
        )
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn beyond_a_thousand_types_of_a_tenant_events_are_counted_together_until_the_next_day() {
        let counts = TypeCounts::default();
        let (acme, other): (Tenant, Tenant) = ("acme".parse().unwrap(), "other".parse().unwrap());
        let now = datetime!(2026-11-29 10:00 UTC);
        counts.take(now);
        for round in 0..2 {
            for n in 0..1500 {
                let name = format!("type.{n}");
                counts.count([(&acme, name.as_str())].into_iter());
            }
            counts.count([(&other, "type.1")].into_iter());
            let taken = counts.take(now);
            assert_eq!(taken.len(), TYPES + 2, "{round}");
            let found = |tenant: &Tenant, name: &str| {
                let mut all = taken.iter();
                all.find(|it| it.0 == *tenant && it.1 == name)
                    .map(|it| it.2)
            };
            assert_eq!(found(&acme, OTHER), Some(500));
            assert_eq!(found(&acme, "type.999"), Some(1));
            assert_eq!(found(&other, "type.1"), Some(1));
        }
        assert_eq!(counts.events(), 3002);
        counts.take(now + time::Duration::DAY);
        counts.count([(&acme, "type.1400")].into_iter());
        assert_eq!(counts.take(now + time::Duration::DAY)[0].1, "type.1400");
    }
}

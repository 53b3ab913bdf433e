//! How many jobs were made of each tenant's events of late.

use std::collections::HashMap;
use std::time::Instant;

use shared::ids::Tenant;

/// A tenant with more jobs than this made of late by this process is restrained,
/// even if none of its events waits: what dispatchers don't keep up with waits in
/// front of others' jobs.
const BUSY: f64 = 256.0;
/// Jobs a second that "of late" forgets; it never remembers more than twice [`BUSY`].
const FORGOTTEN: f64 = 256.0;

/// Of tenants that had any jobs made.
#[derive(Default)]
pub(super) struct JobsOfLate(HashMap<Tenant, OfLate>);

/// A leaky bucket, and what went into it for an event.
struct OfLate {
    jobs: f64,
    at: Instant,
    /// Jobs that an event makes: the latest weigh most.
    per_event: f64,
}

impl JobsOfLate {
    /// Forgets tenants that had none made of late.
    pub(super) fn forget(&mut self) {
        self.0.retain(|_, of_late| of_late.now() > 0.0);
    }

    pub(super) fn is_busy(&self, tenant: &Option<Tenant>) -> bool {
        let of_late = tenant.as_ref().and_then(|tenant| self.0.get(tenant));
        of_late.is_some_and(|of_late| of_late.now() > BUSY)
    }

    pub(super) fn remember(&mut self, tenant: Option<Tenant>, jobs: usize) {
        let Some(tenant) = tenant else {
            return;
        };
        // Whoever made none of late and makes none now isn't remembered.
        if jobs > 0 || self.0.contains_key(&tenant) {
            let at = Instant::now();
            let of_late = self.0.entry(tenant);
            let of_late = of_late.or_insert(OfLate {
                jobs: 0.0,
                at,
                per_event: jobs as f64,
            });
            let per_event = of_late.per_event + (jobs as f64 - of_late.per_event) / 16.0;
            let jobs = (of_late.now() + jobs as f64).min(2.0 * BUSY);
            *of_late = OfLate {
                jobs,
                at,
                per_event,
            };
        }
    }

    /// How many jobs an event of a tenant makes, by its latest ones. Of one that made
    /// none of late nobody knows, so it counts as if it had one webhook; a look at the
    /// queues soon says what it really was.
    pub(super) fn expected(&self, tenant: &Option<Tenant>) -> f64 {
        let of_late = tenant.as_ref().and_then(|tenant| self.0.get(tenant));
        of_late.map_or(1.0, |of_late| of_late.per_event)
    }
}

impl OfLate {
    fn now(&self) -> f64 {
        (self.jobs - self.at.elapsed().as_secs_f64() * FORGOTTEN).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_reserves_the_jobs_that_its_events_are_expected_to_make() {
        let mut of_late = JobsOfLate::default();
        let tenant: Option<Tenant> = "acme".parse().ok();
        assert!((of_late.expected(&tenant) - 1.0).abs() < 1e-9);
        of_late.remember(tenant.clone(), 100);
        assert!((of_late.expected(&tenant) - 100.0).abs() < 1e-9);
        for _ in 0..100 {
            of_late.remember(tenant.clone(), 2);
        }
        assert!(of_late.expected(&tenant) < 3.0);
        // One that is known for nothing takes no memory.
        of_late.remember("other".parse().ok(), 0);
        assert_eq!(of_late.0.len(), 1);
    }
}

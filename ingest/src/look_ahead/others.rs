//! Whether events of several tenants come at the moment.

use std::time::{Duration, Instant};

use shared::ids::Tenant;

/// For so long after another tenant's event, tenants count as having others beside them.
const REMEMBERED: Duration = Duration::from_secs(1);

/// What is known of whose events came.
#[derive(Default)]
pub(super) struct Others {
    latest: Option<Tenant>,
    /// When an event last came that was another tenant's than the one before.
    changed_at: Option<Instant>,
}

impl Others {
    /// An event of this tenant came.
    pub(super) fn came(&mut self, tenant: &Tenant, now: Instant) {
        if self.latest.as_ref() == Some(tenant) {
            return;
        }
        if self.latest.replace(tenant.clone()).is_some() {
            self.changed_at = Some(now);
        }
    }

    /// Whether the tenant of the latest event wasn't alone of late.
    pub(super) fn are_there(&self, now: Instant) -> bool {
        let ago = |at: Instant| now.saturating_duration_since(at);
        self.changed_at.is_some_and(|at| ago(at) < REMEMBERED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_alone_until_anothers_event_comes_and_a_second_after() {
        let (acme, globex) = ("acme".parse().unwrap(), "globex".parse().unwrap());
        let (mut others, now) = (Others::default(), Instant::now());
        for _ in 0..100 {
            others.came(&acme, now);
            assert!(!others.are_there(now));
        }
        others.came(&globex, now);
        others.came(&acme, now);
        assert!(others.are_there(now));
        others.came(&acme, now + REMEMBERED);
        assert!(!others.are_there(now + REMEMBERED));
    }
}

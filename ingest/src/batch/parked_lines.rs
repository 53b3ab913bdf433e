//! Limits how often the log tells of a tenant's parked events: a producer can have thousands
//! parked in a second. The metrics and the dead letters have all of them.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use shared::ids::Tenant;

/// The most lines of a tenant in a second.
const LINES: u32 = 10;
const SECOND: Duration = Duration::from_secs(1);

static OF_TENANTS: LazyLock<Mutex<HashMap<Option<Tenant>, Lines>>> = LazyLock::new(Mutex::default);

/// The lines of one tenant within one second, which began at `begun`.
struct Lines {
    begun: Instant,
    written: u32,
    /// How many lines were left out since the last one that was written.
    left_out: u64,
}

/// Whether a line about an event of this tenant may be written. If so, answers how many lines were
/// left out since the last one. Messages that name no tenant share one count (`tenant` is `None`).
pub(super) fn may_be_written(tenant: Option<&Tenant>) -> Option<u64> {
    let now = Instant::now();
    let mut tenants = OF_TENANTS.lock().unwrap_or_else(PoisonError::into_inner);
    let lines = tenants.entry(tenant.cloned());
    lines.or_insert_with(|| Lines::new(now)).take(now)
}

impl Lines {
    fn new(begun: Instant) -> Self {
        Self {
            begun,
            written: 0,
            left_out: 0,
        }
    }

    fn take(&mut self, now: Instant) -> Option<u64> {
        if now.duration_since(self.begun) >= SECOND {
            (self.begun, self.written) = (now, 0);
        }
        if self.written == LINES {
            self.left_out += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_ten_lines_a_second_and_what_is_left_out_is_counted() {
        let begun = Instant::now();
        let mut lines = Lines::new(begun);
        let written: Vec<_> = (0..500).filter_map(|_| lines.take(begun)).collect();
        assert_eq!(written, [0; 10]);
        let next = begun + SECOND;
        assert_eq!(lines.take(next), Some(490));
        assert_eq!(lines.take(next), Some(0));
    }

    #[test]
    fn one_tenants_parked_events_leave_out_no_line_of_anothers() {
        let (acme, globex) = ("acme".parse().unwrap(), "globex".parse().unwrap());
        let written = (0..500).filter(|_| may_be_written(Some(&acme)).is_some());
        assert!(written.count() < 500);
        assert_eq!(may_be_written(Some(&globex)), Some(0));
    }
}

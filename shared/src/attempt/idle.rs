//! Bounds the idle connections of all endpoints together.
//!
//! The HTTP client keeps a connection open after a request, for the next one to the same host.
//! It can bound them per host, but not in total: a tenant with a thousand hosts would hold tens
//! of thousands of sockets. So this counts, per host, how many requests were in flight at the same
//! time of late. The host has about as many connections, at most. A request for which there is
//! no more room is sent by a client that keeps none.
//!
//! A tenant has no more of these connections than are left for all other tenants together: alone
//! it gets half of them. So its many hosts don't take the others' hosts their connections.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::ids::Tenant;

/// The most connections of all hosts together that are in use by the client that keeps them, or
/// idle.
pub const MOST_KEPT: usize = 2048;
/// The most idle connections per host: as many as a dispatcher has requests in flight by default
/// (`CONCURRENCY`). A webhook has fewer, but many webhooks may share a host. With a lower bound
/// their connections would be closed after each burst and opened again for the next one.
pub(super) const MOST_OF_A_HOST: usize = 512;
/// The client closes connections that were idle for this long.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// For how long a host's connections count after they were in use, at least. The client looks
/// for those that have been idle for too long once in [`IDLE_TIMEOUT`].
const WINDOW: Duration = Duration::from_secs(120);

/// The connections that may be kept.
pub(super) struct Idle {
    most: usize,
    hosts: Mutex<Hosts>,
}

struct Hosts {
    by_tenant: HashMap<Tenant, Own>,
    /// The sum of [`Own::kept`].
    kept: usize,
    /// When the window began.
    since: Instant,
}

/// The hosts of one tenant.
#[derive(Default)]
struct Own {
    by_name: HashMap<String, Host>,
    /// The sum of [`Host::kept`].
    kept: usize,
}

#[derive(Default)]
struct Host {
    in_flight: usize,
    /// The most requests in flight, in this window and in the one before.
    most: [usize; 2],
}

/// A request on a connection that may be kept, until it is dropped.
pub(super) struct Kept {
    idle: Arc<Idle>,
    tenant: Tenant,
    host: String,
}

impl Idle {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            hosts: Mutex::new(Hosts {
                by_tenant: HashMap::new(),
                kept: 0,
                since: Instant::now(),
            }),
        })
    }

    /// Begins a tenant's request to a host. `None`: its connection must not be kept.
    pub(super) fn begin(
        self: &Arc<Self>,
        tenant: &Tenant,
        host: &str,
        now: Instant,
    ) -> Option<Kept> {
        let mut guard = self.hosts();
        let hosts = &mut *guard;
        hosts.turn_to(now);
        let own = hosts.by_tenant.get(tenant);
        let kept_of_tenant = own.map_or(0, |own| own.kept);
        let (kept, needed) = match own.and_then(|own| own.by_name.get(host)) {
            Some(host) => (host.kept(), host.in_flight + 1),
            None => (0, 1),
        };
        // Beyond its most idle connections, the host's others are closed after their requests.
        // They count all the same: they are open now.
        let is_another = needed > kept;
        if is_another && kept_of_tenant >= self.most.saturating_sub(hosts.kept) {
            return None;
        }
        let own = hosts.by_tenant.entry(tenant.clone()).or_default();
        own.kept += usize::from(is_another);
        hosts.kept += usize::from(is_another);
        let entry = own.by_name.entry(host.to_owned()).or_default();
        entry.in_flight = needed;
        entry.most[0] = entry.most[0].max(needed);
        Some(Kept {
            idle: self.clone(),
            tenant: tenant.clone(),
            host: host.to_owned(),
        })
    }

    fn hosts(&self) -> MutexGuard<'_, Hosts> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host {
    fn kept(&self) -> usize {
        self.most[0].max(self.most[1])
    }
}

impl Hosts {
    /// Begins a new window if the last one is over. It looks at each host, of which there are
    /// no more than connections.
    fn turn_to(&mut self, now: Instant) {
        let windows = now.saturating_duration_since(self.since).as_secs() / WINDOW.as_secs();
        if windows == 0 {
            return;
        }
        self.since = now;
        self.by_tenant.retain(|_, own| {
            own.by_name.retain(|_, host| {
                let before = if windows == 1 { host.most[0] } else { 0 };
                host.most = [host.in_flight, before];
                host.kept() > 0
            });
            own.kept = own.by_name.values().map(Host::kept).sum();
            own.kept > 0
        });
        self.kept = self.by_tenant.values().map(|own| own.kept).sum();
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut hosts = self.idle.hosts();
        let own = hosts.by_tenant.get_mut(&self.tenant);
        if let Some(host) = own.and_then(|own| own.by_name.get_mut(&self.host)) {
            host.in_flight -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_connections_of_all_hosts_together_are_bounded() {
        // A tenant that is alone gets half of them.
        let idle = Idle::new(200);
        let (tenant, now) = ("acme".parse().unwrap(), Instant::now());
        let begin = |host: usize, now| idle.begin(&tenant, &format!("https://{host}.example"), now);
        // Each of these leaves an idle connection.
        for host in 0..100 {
            assert!(begin(host, now).is_some());
        }
        assert!(begin(100, now).is_none());
        // A second request at the same time to a host would need another connection.
        let first = begin(0, now);
        assert!(first.is_some() && begin(0, now).is_none());
        // What was idle for long enough was closed.
        let later = now + 2 * WINDOW;
        assert!(begin(100, later).is_some());
        drop(first);
        assert_eq!(idle.hosts().by_tenant[&tenant].by_name.len(), 2);
    }

    #[test]
    fn a_host_needs_as_many_connections_as_it_had_requests_at_the_same_time() {
        let idle = Idle::new(20);
        let (tenant, now) = ("acme".parse().unwrap(), Instant::now());
        let begin = |now| idle.begin(&tenant, "https://example.com", now);
        for _ in 0..1_000 {
            assert!(begin(now).is_some(), "one after the other");
        }
        assert_eq!(idle.hosts().kept, 1);
        let many: Vec<_> = (0..10).map(|_| begin(now)).collect();
        assert!(many.iter().all(Option::is_some) && begin(now).is_none());
        drop(many);
        // They count in the next window, too, and not in the one after it.
        assert!(begin(now + WINDOW).is_some());
        assert_eq!(idle.hosts().kept, 10);
        assert!(begin(now + 2 * WINDOW).is_some());
        assert_eq!(idle.hosts().kept, 1);
    }

    #[test]
    fn a_tenants_many_hosts_leave_connections_to_other_tenants() {
        let idle = Idle::new(100);
        let now = Instant::now();
        let kept = |tenant: &str| {
            let tenant = tenant.parse().unwrap();
            let hosts = 0..1_000;
            hosts
                .filter(|port| {
                    let host = format!("https://{tenant}.example:{port}");
                    idle.begin(&tenant, &host, now).is_some()
                })
                .count()
        };
        // Each has half of what the ones before it have left.
        assert_eq!(kept("acme"), 50);
        assert_eq!(kept("globex"), 25);
        assert_eq!(kept("initech"), 13);
        // The first gets no more by asking again for other hosts.
        let first = "acme".parse().unwrap();
        assert!(idle.begin(&first, "https://other.example", now).is_none());
    }
}

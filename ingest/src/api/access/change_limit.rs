//! Limits changes to webhooks, tenants and event types: one at a time per tenant, a few per process.
//!
//! Every change holds a connection to PostgreSQL while it waits for the one
//! counter of revisions, and makes every process load what changed. Without a
//! limit, one tenant's changes could hold all of the API's connections, and other
//! tenants' requests would wait for one. Here changes wait without a connection;
//! a tenant's seventeenth change at once is refused with 429.

use shared::ids::Tenant;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::api::http::problem::{Problem, Result};
use crate::tenant_permits::TenantPermits;

/// Changes under way in a process: less than half of the API's connections.
const AT_ONCE: usize = 3;
/// Changes of one tenant that may wait or be under way.
const OF_A_TENANT: usize = 16;

/// Hands out the right to make one change.
pub struct ChangeLimiter {
    all: Arc<Semaphore>,
    /// Bounds how many of a tenant's changes wait.
    waiting: TenantPermits,
    /// Lets them through one by one.
    turn: TenantPermits,
}

/// The right to make one change, until it is dropped.
pub struct ChangePermit(
    #[expect(dead_code, reason = "held, never read")] [OwnedSemaphorePermit; 3],
);

impl Default for ChangeLimiter {
    fn default() -> Self {
        Self {
            all: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: TenantPermits::new(OF_A_TENANT),
            turn: TenantPermits::new(1),
        }
    }
}

impl ChangeLimiter {
    /// Waits until the tenant may make a change.
    ///
    /// # Errors
    /// 429 if too many of its changes wait already.
    pub async fn acquire(&self, tenant: &Tenant) -> Result<ChangePermit> {
        let waiting = self
            .waiting
            .try_acquire(tenant)
            .ok_or_else(|| Problem::too_many_changes(OF_A_TENANT))?;
        // The tenant's own turn first: while it waits for that, it holds none of all tenants'.
        let turn = self.turn.acquire(tenant).await;
        match self.all.clone().acquire_owned().await {
            Ok(all) => Ok(ChangePermit([all, turn, waiting])),
            Err(_) => unreachable!("nobody closes this semaphore"),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn tenant(name: &str) -> Tenant {
        name.parse().unwrap()
    }

    #[tokio::test]
    async fn one_tenants_changes_keep_no_other_tenant_waiting() {
        let changes = ChangeLimiter::default();
        let (acme, globex) = (tenant("acme"), tenant("globex"));
        let first = changes.acquire(&acme).await.unwrap();
        let mut second = Box::pin(changes.acquire(&acme));
        assert!(second.as_mut().now_or_never().is_none());
        let other = changes.acquire(&globex).now_or_never();
        assert!(other.is_some_and(|turn| turn.is_ok()));
        drop(first);
        assert!(second.await.is_ok());
    }

    #[tokio::test]
    async fn more_changes_at_once_than_may_wait_are_refused() {
        let changes = ChangeLimiter::default();
        let acme = tenant("acme");
        let mut all: Vec<_> = (0..OF_A_TENANT)
            .map(|_| Box::pin(changes.acquire(&acme)))
            .collect();
        let mut held = Vec::new();
        for turn in &mut all {
            if let Some(turn) = turn.as_mut().now_or_never() {
                held.push(turn.unwrap());
            }
        }
        assert_eq!(held.len(), 1);
        assert!(changes.acquire(&acme).await.is_err());
        drop((all, held));
        assert!(changes.acquire(&acme).await.is_ok());
    }
}

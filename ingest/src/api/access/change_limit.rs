//! Changes to webhooks, tenants and event types take turns.
//!
//! Every change holds a connection to PostgreSQL while it waits for the one
//! counter of revisions, and has every process load something. So the changes of
//! one tenant that come at once would take all connections that the API has, and
//! other tenants' requests would wait for one. A tenant has one change under way
//! at a time, a process a few; what is beyond waits without a connection, and
//! beyond that is refused.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use shared::ids::Tenant;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::api::http::problem::{Problem, Result};

/// Changes under way in a process: less than half of the API's connections.
const AT_ONCE: usize = 3;
/// A tenant's changes that may wait or be under way.
const OF_A_TENANT: usize = 16;
/// Tenants without a change are forgotten when there are more than this.
const REMEMBERED: usize = 1024;

/// Lets changes in.
pub struct ChangeLimiter {
    all: Arc<Semaphore>,
    tenants: Mutex<HashMap<Tenant, Arc<Queue>>>,
}

struct Queue {
    waiting: Arc<Semaphore>,
    turn: Arc<Semaphore>,
}

/// The right to make one change, until it is dropped.
pub struct Turn {
    _all: OwnedSemaphorePermit,
    _turn: OwnedSemaphorePermit,
    _waiting: OwnedSemaphorePermit,
}

impl Default for ChangeLimiter {
    fn default() -> Self {
        Self {
            all: Arc::new(Semaphore::new(AT_ONCE)),
            tenants: Mutex::default(),
        }
    }
}

impl ChangeLimiter {
    /// Waits for a tenant's turn.
    ///
    /// # Errors
    /// 429 if too many of its changes wait already.
    pub async fn turn(&self, tenant: &Tenant) -> Result<Turn> {
        let queue = self.queue(tenant);
        let Ok(waiting) = queue.waiting.clone().try_acquire_owned() else {
            return Err(Problem::too_many_changes(OF_A_TENANT));
        };
        // The tenant's own turn first: who waits for it takes none of the others'.
        let turn = queue.turn.clone().acquire_owned().await;
        let all = self.all.clone().acquire_owned().await;
        let (Ok(turn), Ok(all)) = (turn, all) else {
            unreachable!("nobody closes these semaphores");
        };
        Ok(Turn {
            _all: all,
            _turn: turn,
            _waiting: waiting,
        })
    }

    fn queue(&self, tenant: &Tenant) -> Arc<Queue> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if tenants.len() > REMEMBERED {
            tenants.retain(|_, queue| queue.waiting.available_permits() < OF_A_TENANT);
        }
        let new = || {
            Arc::new(Queue {
                waiting: Arc::new(Semaphore::new(OF_A_TENANT)),
                turn: Arc::new(Semaphore::new(1)),
            })
        };
        tenants.entry(tenant.clone()).or_insert_with(new).clone()
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
        let first = changes.turn(&acme).await.unwrap();
        let mut second = Box::pin(changes.turn(&acme));
        assert!(second.as_mut().now_or_never().is_none());
        let other = changes.turn(&globex).now_or_never();
        assert!(other.is_some_and(|turn| turn.is_ok()));
        drop(first);
        assert!(second.await.is_ok());
    }

    #[tokio::test]
    async fn more_changes_at_once_than_may_wait_are_refused() {
        let changes = ChangeLimiter::default();
        let acme = tenant("acme");
        let mut all: Vec<_> = (0..OF_A_TENANT)
            .map(|_| Box::pin(changes.turn(&acme)))
            .collect();
        let mut held = Vec::new();
        for turn in &mut all {
            if let Some(turn) = turn.as_mut().now_or_never() {
                held.push(turn.unwrap());
            }
        }
        assert_eq!(held.len(), 1);
        assert!(changes.turn(&acme).await.is_err());
        drop((all, held));
        assert!(changes.turn(&acme).await.is_ok());
    }
}

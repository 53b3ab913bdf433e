//! Keeps costly computations from blocking async workers, and limits how many the API does at once.
//!
//! Reading a schema, checking data against one and explaining filters each take a
//! processor for up to some tens of milliseconds. Requests do at most as many of
//! these at once as there are processors, first come, first served, so that a
//! thousand requests don't hold a thousand results in memory. One tenant gets at
//! most half of them, so that other tenants' requests find a free permit. A request waits
//! for [`PATIENCE`] at most, so that it doesn't hold its connection for ever.
//!
//! Intake asks for no permit: its lanes bound what it computes at once, and
//! requests must not make it wait.

use std::num::NonZero;
use std::sync::OnceLock;
use std::thread::available_parallelism;
use std::time::Duration;

use shared::ids::Tenant;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::tenant_permits::TenantPermits;

/// How long a request waits until it may compute: as long as for a broker's confirm.
const PATIENCE: Duration = Duration::from_secs(10);

/// Other requests kept all processors busy until this request's wait was over.
#[derive(Debug, thiserror::Error)]
#[error("other requests' checks took all processors for {} s; try again", PATIENCE.as_secs())]
pub struct Busy;

/// Allows one costly computation, until it is dropped.
pub struct CpuPermit {
    _all: SemaphorePermit<'static>,
    _own: OwnedSemaphorePermit,
}

/// Waits until a tenant's request may compute something costly.
///
/// # Errors
/// If that takes too long.
pub async fn permit(tenant: &Tenant) -> Result<CpuPermit, Busy> {
    permit_within(tenant, PATIENCE).await
}

async fn permit_within(tenant: &Tenant, patience: Duration) -> Result<CpuPermit, Busy> {
    static PERMITS: OnceLock<(Semaphore, TenantPermits)> = OnceLock::new();
    let (all, tenants) = PERMITS.get_or_init(|| {
        let processors = available_parallelism().map_or(1, NonZero::get);
        let half = (processors / 2).max(1);
        (Semaphore::new(processors), TenantPermits::new(half))
    });
    let both = async {
        // The tenant's own permit first: while it waits for that, it holds none of all tenants'.
        let own = tenants.acquire(tenant).await;
        match all.acquire().await {
            Ok(permit) => CpuPermit {
                _all: permit,
                _own: own,
            },
            Err(_) => unreachable!("nobody closes this semaphore"),
        }
    };
    tokio::time::timeout(patience, both).await.map_err(|_| Busy)
}

/// Runs `work`, which may take long, on a thread where it blocks no other task.
///
/// # Panics
/// If `work` does, which ends the process (see `shared::supervise::die_on_panic`).
pub async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // Nobody cancels it: whoever waits for it is gone before the runtime is.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_that_may_not_compute_in_time_is_refused() {
        let acme: Tenant = "acme".parse().unwrap();
        let patience = Duration::from_millis(50);
        let mut held = Vec::new();
        while let Ok(permit) = permit_within(&acme, patience).await {
            held.push(permit);
        }
        let processors = available_parallelism().map_or(1, NonZero::get);
        assert_eq!(held.len(), (processors / 2).max(1));
        held.pop();
        assert!(permit_within(&acme, patience).await.is_ok());
    }
}

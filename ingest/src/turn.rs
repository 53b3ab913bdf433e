//! The API's costly computations take turns.
//!
//! Reading a schema, checking data against one and explaining filters take a
//! processor for up to some tens of milliseconds each. Requests may do as many of
//! those at once as there are processors, in the order in which they asked for
//! it, so that a thousand requests don't hold a thousand results in memory. A tenant
//! may have half of these places, so that the others find one.
//! Intake doesn't ask: its lanes bound what it does at once, and requests can't
//! make it wait.

use std::collections::HashMap;
use std::num::NonZero;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::available_parallelism;

use shared::ids::Tenant;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// Tenants without a place are forgotten when there are more than this.
const REMEMBERED: usize = 1024;

/// A place, which is free again when this is dropped.
pub struct Turn {
    _all: SemaphorePermit<'static>,
    _own: OwnedSemaphorePermit,
}

/// Waits for a place.
pub async fn turn(tenant: &Tenant) -> Turn {
    static PLACES: OnceLock<(Semaphore, TenantPlaces)> = OnceLock::new();
    let (all, tenants) = PLACES.get_or_init(|| {
        let processors = available_parallelism().map_or(1, NonZero::get);
        let half = (processors / 2).max(1);
        (Semaphore::new(processors), TenantPlaces::new(half))
    });
    // The tenant's own first: who waits for it takes none of the others'.
    let own = tenants.place(tenant).await;
    match all.acquire().await {
        Ok(place) => Turn {
            _all: place,
            _own: own,
        },
        Err(_) => unreachable!("nobody closes this semaphore"),
    }
}

/// So many places for each tenant.
pub struct TenantPlaces {
    each: usize,
    tenants: Mutex<HashMap<Tenant, Arc<Semaphore>>>,
}

impl TenantPlaces {
    /// With none taken.
    pub fn new(each: usize) -> Self {
        Self {
            each,
            tenants: Mutex::default(),
        }
    }

    /// Waits for one of the tenant's, in the order in which it is asked for.
    pub async fn place(&self, tenant: &Tenant) -> OwnedSemaphorePermit {
        match self.of(tenant).acquire_owned().await {
            Ok(place) => place,
            Err(_) => unreachable!("nobody closes this semaphore"),
        }
    }

    fn of(&self, tenant: &Tenant) -> Arc<Semaphore> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if tenants.len() > REMEMBERED {
            // Who has a place, or waits for one, has the semaphore too.
            tenants.retain(|_, places| Arc::strong_count(places) > 1);
        }
        let new = || Arc::new(Semaphore::new(self.each));
        tenants.entry(tenant.clone()).or_insert_with(new).clone()
    }
}

/// Runs what may take long on a thread where it keeps no task waiting.
///
/// # Panics
/// If `work` does, which ends the process (see `shared::supervise::die_on_panic`).
pub async fn elsewhere<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // Nobody cancels it: whoever waits for it is gone before the runtime is.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_tenants_places_are_bounded_and_take_none_of_anothers() {
        let places = TenantPlaces::new(2);
        let (acme, globex): (Tenant, Tenant) = ("acme".parse().unwrap(), "globex".parse().unwrap());
        let first = places.place(&acme).await;
        let _second = places.place(&acme).await;
        let mut third = Box::pin(places.place(&acme));
        assert!(third.as_mut().now_or_never().is_none());
        assert!(places.place(&globex).now_or_never().is_some());
        drop(first);
        assert!(third.now_or_never().is_some());
    }
}

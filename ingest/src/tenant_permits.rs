//! Limits how much of one kind of work each tenant has under way: a bulkhead per tenant.
//!
//! A tenant that asks for more waits for its own permits, and takes none of
//! another tenant's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shared::ids::Tenant;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// When more tenants than this are known, those that hold and await no permit are forgotten.
const REMEMBERED: usize = 1024;

/// The most callers for one tenant that wait in [`TenantPermits::acquire_within`] at a time.
pub const MAX_WAITING: usize = 64;

/// The same number of permits for each tenant.
pub struct TenantPermits {
    each: usize,
    tenants: Mutex<HashMap<Tenant, OfTenant>>,
}

#[derive(Clone)]
struct OfTenant {
    permits: Arc<Semaphore>,
    /// Bounds how many wait: each has one of [`MAX_WAITING`] permits while it waits.
    waiting: Arc<Semaphore>,
}

/// Why there was no permit.
#[derive(Debug, PartialEq, Eq)]
pub enum NoPermit {
    /// [`MAX_WAITING`] others wait already.
    Crowded,
    /// None was returned in time.
    Late,
}

impl TenantPermits {
    /// `each` permits for every tenant, all of them free.
    pub fn new(each: usize) -> Self {
        Self {
            each,
            tenants: Mutex::default(),
        }
    }

    /// Waits for a permit of the tenant's, first come, first served.
    pub async fn acquire(&self, tenant: &Tenant) -> OwnedSemaphorePermit {
        match self.of(tenant).permits.acquire_owned().await {
            Ok(permit) => permit,
            Err(_) => unreachable!("nobody closes this semaphore"),
        }
    }

    /// As [`acquire`](Self::acquire), but for at most `patience`, and not at all if
    /// [`MAX_WAITING`] others wait for this tenant's permits already.
    ///
    /// # Errors
    /// Says why there is none.
    pub async fn acquire_within(
        &self,
        tenant: &Tenant,
        patience: Duration,
    ) -> Result<OwnedSemaphorePermit, NoPermit> {
        if let Some(permit) = self.try_acquire(tenant) {
            return Ok(permit);
        }
        let waiting = self.of(tenant).waiting;
        let _waits = waiting.try_acquire().map_err(|_| NoPermit::Crowded)?;
        tokio::time::timeout(patience, self.acquire(tenant))
            .await
            .map_err(|_| NoPermit::Late)
    }

    /// A permit of the tenant's, if one is free.
    pub fn try_acquire(&self, tenant: &Tenant) -> Option<OwnedSemaphorePermit> {
        self.of(tenant).permits.try_acquire_owned().ok()
    }

    fn of(&self, tenant: &Tenant) -> OfTenant {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if tenants.len() > REMEMBERED {
            // Whoever holds or awaits a permit has a reference to the semaphore.
            tenants.retain(|_, of| {
                Arc::strong_count(&of.permits) > 1 || Arc::strong_count(&of.waiting) > 1
            });
        }
        let new = || OfTenant {
            permits: Arc::new(Semaphore::new(self.each)),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
        };
        tenants.entry(tenant.clone()).or_insert_with(new).clone()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_tenants_permits_are_bounded_and_take_none_of_anothers() {
        let permits = TenantPermits::new(2);
        let (acme, globex): (Tenant, Tenant) = ("acme".parse().unwrap(), "globex".parse().unwrap());
        let first = permits.acquire(&acme).await;
        let _second = permits.acquire(&acme).await;
        assert!(permits.try_acquire(&acme).is_none());
        let mut third = Box::pin(permits.acquire(&acme));
        assert!(third.as_mut().now_or_never().is_none());
        assert!(permits.try_acquire(&globex).is_some());
        drop(first);
        assert!(third.now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_tenant_waits_for_a_bounded_time_and_with_a_bounded_number_of_others() {
        let permits = TenantPermits::new(1);
        let acme: Tenant = "acme".parse().unwrap();
        let patience = Duration::from_millis(50);
        let held = permits.acquire(&acme).await;
        let waiting = (0..MAX_WAITING).map(|_| permits.acquire_within(&acme, patience));
        let mut waiting: Vec<_> = waiting.map(Box::pin).collect();
        for one in &mut waiting {
            assert!(one.as_mut().now_or_never().is_none());
        }
        let refused = permits.acquire_within(&acme, patience).now_or_never();
        assert_eq!(refused.unwrap().unwrap_err(), NoPermit::Crowded);
        for one in waiting {
            assert_eq!(one.await.unwrap_err(), NoPermit::Late);
        }
        drop(held);
        assert!(permits.acquire_within(&acme, patience).await.is_ok());
    }
}

//! Limits how much of one kind of work each tenant has under way: a bulkhead per tenant.
//!
//! A tenant that asks for more waits for its own permits, and takes none of
//! another tenant's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use shared::ids::Tenant;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// When more tenants than this are known, those that hold and await no permit are forgotten.
const REMEMBERED: usize = 1024;

/// The same number of permits for each tenant.
pub struct TenantPermits {
    each: usize,
    tenants: Mutex<HashMap<Tenant, Arc<Semaphore>>>,
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
        match self.semaphore(tenant).acquire_owned().await {
            Ok(permit) => permit,
            Err(_) => unreachable!("nobody closes this semaphore"),
        }
    }

    /// A permit of the tenant's, if one is free.
    pub fn try_acquire(&self, tenant: &Tenant) -> Option<OwnedSemaphorePermit> {
        self.semaphore(tenant).try_acquire_owned().ok()
    }

    fn semaphore(&self, tenant: &Tenant) -> Arc<Semaphore> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if tenants.len() > REMEMBERED {
            // Whoever holds or awaits a permit has a reference to the semaphore.
            tenants.retain(|_, permits| Arc::strong_count(permits) > 1);
        }
        let new = || Arc::new(Semaphore::new(self.each));
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
}

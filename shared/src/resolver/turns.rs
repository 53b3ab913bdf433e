//! Lookups take turns: a tenant has few at a time, and so has the process.
//!
//! Each lookup takes a thread of tokio's pool for blocking work, which has 512. A lookup that
//! gets no turn within [`LONGEST_WAIT`] is given up.
//!
//! A few tenants whose name servers hang could take all turns of the process. So a quarter of
//! the turns is for tenants that have few lookups under way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::ids::Tenant;

/// The most lookups at a time: half of tokio's threads for blocking work.
const MOST: usize = 256;
/// The most lookups of a tenant at a time. That is four hundred a second if name servers take
/// 150 ms.
const MOST_OF_A_TENANT: usize = 64;
/// This many of the [`MOST`] lookups are reserved for tenants that have few lookups under way.
const FOR_FEW: usize = 64;
/// A tenant has few lookups under way while it has no more than this many.
const FEW: usize = 4;
/// The longest time that a lookup waits for its turn.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The lookups that may still begin, in all and for each tenant.
pub(super) struct Turns {
    for_all: Arc<Semaphore>,
    for_few: Arc<Semaphore>,
    /// The turns of each tenant that has a lookup. `None`: lookups of which the tenant isn't known.
    tenants: Mutex<HashMap<Option<Tenant>, Arc<Semaphore>>>,
}

/// The right to look up one name, until it is dropped.
pub(super) struct Turn {
    turns: Arc<Turns>,
    tenant: Option<Tenant>,
    _of_process: OwnedSemaphorePermit,
    own: Option<OwnedSemaphorePermit>,
}

impl Turns {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            for_all: Arc::new(Semaphore::new(MOST - FOR_FEW)),
            for_few: Arc::new(Semaphore::new(FOR_FEW)),
            tenants: Mutex::default(),
        })
    }

    /// A turn for a lookup of this tenant. `None`: there was none in time.
    pub(super) async fn take(self: &Arc<Self>, tenant: Option<&Tenant>) -> Option<Turn> {
        let tenant = tenant.cloned();
        let own = {
            let mut tenants = self.tenants();
            let own = tenants.entry(tenant.clone());
            own.or_insert_with(|| Arc::new(Semaphore::new(MOST_OF_A_TENANT)))
                .clone()
        };
        // A tenant's lookups that wait for their tenant's turn take none of the others'.
        let both = async move {
            let turn = own.clone().acquire_owned().await.ok()?;
            // With this one.
            let under_way = MOST_OF_A_TENANT - own.available_permits();
            let of_process = tokio::select! {
                biased;
                of_all = self.for_all.clone().acquire_owned() => of_all,
                of_few = self.for_few.clone().acquire_owned(), if under_way <= FEW => of_few,
            };
            Some((turn, of_process.ok()?))
        };
        let both = timeout(LONGEST_WAIT, both).await;
        let Ok(Some((own, of_process))) = both else {
            self.forget(&tenant);
            return None;
        };
        Some(Turn {
            turns: self.clone(),
            tenant,
            _of_process: of_process,
            own: Some(own),
        })
    }

    /// Forgets a tenant that has no lookup.
    fn forget(&self, tenant: &Option<Tenant>) {
        let mut tenants = self.tenants();
        // Whoever has a turn or waits for one has a reference, taken under this lock.
        if tenants
            .get(tenant)
            .is_some_and(|own| Arc::strong_count(own) == 1)
        {
            tenants.remove(tenant);
        }
    }

    fn tenants(&self) -> MutexGuard<'_, HashMap<Option<Tenant>, Arc<Semaphore>>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        drop(self.own.take());
        self.turns.forget(&self.tenant);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tenant_without_lookups_is_forgotten() {
        let turns = Turns::new();
        let tenant: Tenant = "acme".parse().unwrap();
        let first = turns.take(Some(&tenant)).await;
        let second = turns.take(Some(&tenant)).await;
        assert!(first.is_some() && second.is_some());
        drop(first);
        assert_eq!(turns.tenants().len(), 1);
        drop(second);
        assert_eq!(turns.tenants().len(), 0);
        let free = turns.for_all.available_permits() + turns.for_few.available_permits();
        assert_eq!(free, MOST);
    }

    #[tokio::test]
    async fn tenants_whose_lookups_hang_leave_turns_to_tenants_with_few() {
        let turns = Turns::new();
        let take = async |tenant: &str| {
            let tenant: Tenant = tenant.parse().unwrap();
            let turn = timeout(Duration::from_millis(20), turns.take(Some(&tenant))).await;
            turn.ok().flatten()
        };
        let mut held = Vec::new();
        for tenant in ["acme", "globex", "initech", "hooli"] {
            while let Some(turn) = take(tenant).await {
                held.push(turn);
            }
        }
        // Three have all of their turns. The fourth has few.
        assert_eq!(held.len(), MOST - FOR_FEW + FEW);
        assert!(take("umbrella").await.is_some());
    }
}

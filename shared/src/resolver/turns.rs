//! Lookups take turns: a tenant has few at a time, and so has the process.
//!
//! Each lookup takes a thread of tokio's pool for blocking work, which has 512. A lookup that
//! gets no turn within [`LONGEST_WAIT`] is given up.
//!
//! A few tenants whose name servers hang could take all turns of the process. So of a quarter of
//! the turns a tenant has few at a time.

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
/// Of this many of the [`MOST`] lookups a tenant has [`FEW`] at a time.
const FOR_FEW: usize = 64;
/// The most lookups of a tenant at a time among those [`FOR_FEW`].
const FEW: usize = 4;
/// The longest time that a lookup waits for its turn.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The lookups that may still begin, in all and for each tenant.
pub(super) struct Turns {
    for_all: Arc<Semaphore>,
    for_few: Arc<Semaphore>,
    /// The turns of each tenant that has a lookup. `None`: lookups of which the tenant isn't known.
    tenants: Mutex<HashMap<Option<Tenant>, Arc<Own>>>,
}

/// The turns of one tenant.
struct Own {
    all: Arc<Semaphore>,
    few: Arc<Semaphore>,
}

/// The right to look up one name, until it is dropped.
pub(super) struct Turn {
    turns: Arc<Turns>,
    tenant: Option<Tenant>,
    held: Option<Held>,
}

struct Held {
    _of_tenant: OwnedSemaphorePermit,
    _of_process: OwnedSemaphorePermit,
    /// If it is one of those [`FOR_FEW`].
    _of_few: Option<OwnedSemaphorePermit>,
    /// So that the tenant isn't forgotten.
    _own: Arc<Own>,
}

impl Own {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            all: Arc::new(Semaphore::new(MOST_OF_A_TENANT)),
            few: Arc::new(Semaphore::new(FEW)),
        })
    }
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
            own.or_insert_with(Own::new).clone()
        };
        let Ok(Some(held)) = timeout(LONGEST_WAIT, self.hold(own)).await else {
            self.forget(&tenant);
            return None;
        };
        Some(Turn {
            turns: self.clone(),
            tenant,
            held: Some(held),
        })
    }

    /// Waits for a turn of the tenant, and then for one of the process. A tenant's lookups that
    /// wait for their tenant's turn take none of the others'.
    async fn hold(&self, own: Arc<Own>) -> Option<Held> {
        let of_tenant = own.all.clone().acquire_owned().await.ok()?;
        // Whichever comes first: a lookup that waits among all is also the next of its tenant's few.
        let for_few = async {
            let of_few = own.few.clone().acquire_owned().await;
            (self.for_few.clone().acquire_owned().await, of_few)
        };
        let (of_process, of_few) = tokio::select! {
            biased;
            of_process = self.for_all.clone().acquire_owned() => (of_process, None),
            (of_process, of_few) = for_few => (of_process, Some(of_few.ok()?)),
        };
        Some(Held {
            _of_tenant: of_tenant,
            _of_process: of_process.ok()?,
            _of_few: of_few,
            _own: own,
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

    fn tenants(&self) -> MutexGuard<'_, HashMap<Option<Tenant>, Arc<Own>>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        drop(self.held.take());
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

    #[tokio::test]
    async fn a_tenant_with_more_than_few_lookups_takes_the_turns_for_few_one_after_another() {
        let turns = Turns::new();
        let mut held = Vec::new();
        for tenant in ["acme", "globex", "initech", "hooli"] {
            let tenant: Tenant = tenant.parse().unwrap();
            let brief = Duration::from_millis(20);
            while let Ok(Some(turn)) = timeout(brief, turns.take(Some(&tenant))).await {
                held.push(turn);
            }
        }
        // All at the same time, and each takes a moment.
        let lookups: Vec<_> = (0..2 * FEW)
            .map(|_| {
                let turns = turns.clone();
                tokio::spawn(async move {
                    let turn = turns.take(Some(&"umbrella".parse().unwrap())).await;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    turn.is_some()
                })
            })
            .collect();
        let begun = std::time::Instant::now();
        for lookup in lookups {
            assert!(lookup.await.unwrap());
        }
        assert!(begun.elapsed() < LONGEST_WAIT / 2);
        drop(held);
        assert_eq!(turns.tenants().len(), 0);
    }
}

//! Bounds the bytes of request bodies that are held at a time, per tenant and in all.
//!
//! Each request has an account ([`HeldBody`]), which the middleware puts into the request's
//! extensions. Authentication writes the tenant into it, `read_body` charges it chunk by
//! chunk, and it is given back when the handler has answered. So a client that sends slowly
//! is charged for what it has sent, and no byte more.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};

use shared::ids::Tenant;

use crate::api::http::problem::Problem;
use crate::metrics::metrics;

/// The most bytes of one tenant's bodies: four of the largest batches.
const OF_A_TENANT: usize = 32 << 20;
/// The most bytes of all bodies.
const OF_ALL: usize = 128 << 20;
/// The part of [`OF_ALL`] that is reserved for tenants that hold little. So a few tenants can't take
/// all of it.
const KEPT: usize = 32 << 20;
/// A tenant holds little while its bodies have no more bytes than this.
const LITTLE: usize = 2 << 20;

static HELD: LazyLock<Arc<Held>> = LazyLock::new(Arc::default);

/// The bytes that are held, by tenant. Requests that belong to no tenant count together as one more
/// tenant: those without a valid token, and those of a global caller that names no tenant.
#[derive(Default)]
struct Held(Mutex<Bytes>);

#[derive(Default)]
struct Bytes {
    all: usize,
    tenants: HashMap<Option<Tenant>, usize>,
}

/// What one request holds of its body.
pub struct HeldBody {
    of: Arc<Held>,
    tenant: OnceLock<Tenant>,
    /// The tenant that is charged, and how many bytes. The tenant is decided when the first byte
    /// comes.
    charged: Mutex<Option<(Option<Tenant>, usize)>>,
}

/// There is no room for more.
#[derive(Debug, PartialEq, Eq)]
pub enum Full {
    /// The tenant's bodies have [`OF_A_TENANT`] bytes.
    Tenant,
    /// All bodies together leave no room for this tenant's.
    All,
}

impl Default for HeldBody {
    fn default() -> Self {
        Self::new(&HELD)
    }
}

impl HeldBody {
    fn new(of: &Arc<Held>) -> Self {
        Self {
            of: of.clone(),
            tenant: OnceLock::new(),
            charged: Mutex::default(),
        }
    }

    /// The request is made for this tenant. What it holds already isn't charged again.
    pub fn is_of(&self, tenant: &Tenant) {
        self.tenant.get_or_init(|| tenant.clone());
    }

    /// Charges the bytes of a chunk.
    ///
    /// # Errors
    /// If there is no room for them. Then nothing is charged.
    pub fn take(&self, bytes: usize) -> Result<(), Full> {
        let mut charged = self.charged.lock().unwrap_or_else(PoisonError::into_inner);
        let (tenant, own) = charged.get_or_insert_with(|| (self.tenant.get().cloned(), 0));
        self.of.take(tenant, bytes)?;
        *own += bytes;
        Ok(())
    }

    /// Gives everything back.
    pub fn give_back(&self) {
        let mut charged = self.charged.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((tenant, bytes)) = charged.take() {
            self.of.give_back(&tenant, bytes);
        }
    }
}

impl Drop for HeldBody {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Held {
    fn take(&self, tenant: &Option<Tenant>, bytes: usize) -> Result<(), Full> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = held.tenants.get(tenant).copied().unwrap_or_default();
        if own + bytes > OF_A_TENANT {
            return Err(Full::Tenant);
        }
        let most = if own + bytes <= LITTLE {
            OF_ALL
        } else {
            OF_ALL - KEPT
        };
        if held.all + bytes > most {
            return Err(Full::All);
        }
        held.all += bytes;
        metrics().held_bodies.set(held.all as i64);
        held.tenants.insert(tenant.clone(), own + bytes);
        Ok(())
    }

    fn give_back(&self, tenant: &Option<Tenant>, bytes: usize) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.all -= bytes;
        metrics().held_bodies.set(held.all as i64);
        if let Some(own) = held.tenants.get_mut(tenant) {
            *own -= bytes;
            if *own == 0 {
                held.tenants.remove(tenant);
            }
        }
    }
}

impl From<Full> for Problem {
    fn from(full: Full) -> Self {
        match full {
            Full::Tenant => Self::too_many_bytes_at_once(OF_A_TENANT),
            Full::All => Self::unavailable(
                "the bodies of all requests under way have as many bytes as they may: try again",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_bounded_per_tenant_and_in_all_and_given_back() {
        const LARGEST: usize = 8 << 20;
        let held = Arc::<Held>::default();
        let of = |tenant: usize| {
            let body = HeldBody::new(&held);
            body.is_of(&format!("t{tenant}").parse().unwrap());
            body
        };
        let mut bodies = Vec::new();
        for tenant in 0..3 {
            for _ in 0..4 {
                bodies.push(of(tenant));
                assert_eq!(bodies.last().unwrap().take(LARGEST), Ok(()));
            }
            assert_eq!(of(tenant).take(1), Err(Full::Tenant));
        }
        // What is left is for those that hold little.
        assert_eq!(of(9).take(LARGEST), Err(Full::All));
        assert_eq!(of(9).take(1), Ok(()));
        for tenant in 10..26 {
            bodies.push(of(tenant));
            assert_eq!(bodies.last().unwrap().take(LITTLE), Ok(()));
        }
        assert_eq!(of(9).take(1), Err(Full::All));
        // Without them, and without one of the largest, there is room for all.
        bodies.truncate(11);
        assert_eq!(of(9).take(1), Ok(()));
        assert_eq!(of(9).take(LARGEST), Ok(()));
        bodies.clear();
        let left = held.0.lock().unwrap();
        assert!(left.all == 0 && left.tenants.is_empty());
    }
}

//! A cache of compiled schemas, bounded in memory.
//!
//! A schema is compiled for the first event of its type. When the cache is full, the
//! tenant whose schemas take the most memory loses those that it used longest ago.
//! So one tenant with many schemas can't make other tenants' schemas be compiled
//! again and again.
//!
//! The schema's text is part of the key, so a change to a tenant's catalogue leaves
//! the schemas that it doesn't change in the cache.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shared::ids::{EventType, Tenant};
use tracing::error;

use super::schema::Schema;

/// How much memory compiled schemas may take together, in bytes. One takes 25 MiB at
/// most, an ordinary one some hundred KiB.
const MOST: usize = 128 << 20;
/// The memory of an entry without a usable schema.
const UNUSABLE: usize = 1024;

pub struct Kept {
    most: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tenants: HashMap<Tenant, OfTenant>,
    bytes: usize,
    /// A counter of uses, by which the oldest is found.
    uses: u64,
}

#[derive(Default)]
struct OfTenant {
    schemas: HashMap<EventType, Entry>,
    bytes: usize,
}

struct Entry {
    text: Arc<str>,
    compiled: Arc<Compiled>,
    bytes: usize,
    used: u64,
}

/// A compiled schema; `None` if its text is invalid.
pub struct Compiled(pub Option<Schema>);

impl Default for Kept {
    fn default() -> Self {
        Self::new(MOST)
    }
}

impl Kept {
    fn new(most: usize) -> Self {
        let state = Mutex::default();
        Self { most, state }
    }

    /// The compiled schema of this text, if it is in the cache.
    pub fn get(
        &self,
        tenant: &Tenant,
        event_type: &EventType,
        text: &Arc<str>,
    ) -> Option<Arc<Compiled>> {
        let mut state = self.state();
        state.uses += 1;
        let used = state.uses;
        let of_tenant = state.tenants.get_mut(tenant)?;
        let entry = of_tenant.schemas.get_mut(event_type)?;
        if !Arc::ptr_eq(&entry.text, text) {
            if entry.text != *text {
                return None;
            }
            // The catalogue was read again.
            entry.text = text.clone();
        }
        entry.used = used;
        Some(entry.compiled.clone())
    }

    /// The same; compiles it if it isn't in the cache, which takes milliseconds.
    pub fn compiled(
        &self,
        tenant: &Tenant,
        event_type: &EventType,
        text: &Arc<str>,
    ) -> Arc<Compiled> {
        if let Some(compiled) = self.get(tenant, event_type, text) {
            return compiled;
        }
        let schema = Schema::read(text)
            // It was checked when it was saved, so this is a hand-made row.
            .inspect_err(
                |error| error!(%tenant, %event_type, %error, "a stored schema is invalid; events of its type are not checked until it is changed"),
            )
            .ok();
        let bytes = schema.as_ref().map_or(UNUSABLE, Schema::memory);
        let compiled = Arc::new(Compiled(schema));
        self.state().put(
            tenant,
            event_type,
            text.clone(),
            compiled.clone(),
            bytes,
            self.most,
        );
        compiled
    }

    /// Drops schemas that a tenant's catalogue doesn't have any more.
    pub fn retain(&self, tenant: &Tenant, is_in: impl Fn(&EventType, &str) -> bool) {
        let mut state = self.state();
        let Some(of_tenant) = state.tenants.get_mut(tenant) else {
            return;
        };
        of_tenant
            .schemas
            .retain(|event_type, entry| is_in(event_type, &entry.text));
        let before = of_tenant.bytes;
        of_tenant.bytes = of_tenant.schemas.values().map(|entry| entry.bytes).sum();
        let freed = before - of_tenant.bytes;
        if of_tenant.schemas.is_empty() {
            state.tenants.remove(tenant);
        }
        state.bytes -= freed;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn put(
        &mut self,
        tenant: &Tenant,
        event_type: &EventType,
        text: Arc<str>,
        compiled: Arc<Compiled>,
        bytes: usize,
        most: usize,
    ) {
        self.uses += 1;
        let entry = Entry {
            text,
            compiled,
            bytes,
            used: self.uses,
        };
        let of_tenant = self.tenants.entry(tenant.clone()).or_default();
        let before = of_tenant.schemas.insert(event_type.clone(), entry);
        let freed = before.map_or(0, |before| before.bytes);
        of_tenant.bytes = of_tenant.bytes + bytes - freed;
        self.bytes = self.bytes + bytes - freed;
        while self.bytes > most && self.drop_one() {}
    }

    /// Drops the longest unused schema of the tenant with the most memory. False if there is
    /// none.
    fn drop_one(&mut self) -> bool {
        let tenants = self.tenants.iter_mut();
        let Some((tenant, of_tenant)) = tenants.max_by_key(|(_, of_tenant)| of_tenant.bytes) else {
            return false;
        };
        let schemas = of_tenant.schemas.iter();
        let longest_unused = schemas.min_by_key(|(_, entry)| entry.used);
        let event_type = longest_unused.map(|(event_type, _)| event_type.clone());
        let dropped = event_type.and_then(|event_type| of_tenant.schemas.remove(&event_type));
        let freed = dropped.map_or(0, |entry| entry.bytes);
        of_tenant.bytes -= freed;
        if of_tenant.schemas.is_empty() {
            let tenant = tenant.clone();
            self.tenants.remove(&tenant);
        }
        self.bytes -= freed;
        true
    }
}

#[allow(clippy::unwrap_used, reason = "a test may fail")]
#[cfg(test)]
mod tests {
    use super::*;

    fn text(of: &str) -> Arc<str> {
        format!(r#"{{"type": "string", "pattern": "^{of}+[0-9]$"}}"#).into()
    }

    #[test]
    fn the_tenant_with_most_compiled_schemas_gives_them_up_first() {
        let one = Schema::read(&text("a")).unwrap().memory();
        let kept = Kept::new(10 * one + one / 2);
        let (many, few): (Tenant, Tenant) = ("many".parse().unwrap(), "few".parse().unwrap());
        let event_type = |n: usize| format!("t{n}").parse::<EventType>().unwrap();
        let text = text("a");
        kept.compiled(&few, &event_type(0), &text);
        for n in 0..50 {
            kept.compiled(&many, &event_type(n), &text);
            // In use.
            assert!(kept.get(&many, &event_type(0), &text).is_some());
        }
        assert!(kept.state().bytes <= 10 * one);
        assert!(kept.get(&few, &event_type(0), &text).is_some());
        let left = (0..50).filter(|n| kept.get(&many, &event_type(*n), &text).is_some());
        assert_eq!(
            left.collect::<Vec<_>>(),
            [vec![0], (42..50).collect()].concat()
        );
    }

    #[test]
    fn a_schema_stays_compiled_while_its_text_is_the_same() {
        let kept = Kept::default();
        let (tenant, event_type) = ("acme".parse().unwrap(), "a.b".parse().unwrap());
        let before = kept.compiled(&tenant, &event_type, &text("a"));
        let again = kept.compiled(&tenant, &event_type, &text("a"));
        assert!(Arc::ptr_eq(&before, &again));
        let changed = kept.compiled(&tenant, &event_type, &text("b"));
        assert!(!Arc::ptr_eq(&before, &changed));
        kept.retain(&tenant, |_, known| *known == *text("b"));
        assert!(kept.get(&tenant, &event_type, &text("b")).is_some());
        kept.retain(&tenant, |_, _| false);
        assert_eq!(kept.state().bytes, 0);
        assert!(kept.get(&tenant, &event_type, &text("b")).is_none());
    }
}

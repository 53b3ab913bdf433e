//! What tenants say about their types of events, in memory.
//!
//! Filled by the shared catalogue's feed; asked by `intake` for every event and
//! by the API at publish, so that checking an event costs no query. The rows are
//! written by [`store`], what a schema may be is said by [`schema`],
//! and [`collections`] has the catalogues that Posthorn comes with.
//!
//! A type that the catalogue doesn't have is as good as any other, unless the
//! tenant is strict. An archived type is out of use for new webhooks; its events
//! are still taken and checked, since their producers may not have stopped.

pub mod collections;
pub mod command;
pub mod schema;
pub mod store;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use shared::catalogue::TenantEventTypes;
use shared::ids::{EventType, Tenant};
use tracing::error;

use schema::{Schema, Violation};

/// See the module's text.
#[derive(Default)]
pub struct EventTypes(RwLock<HashMap<Tenant, OfTenant>>);

struct OfTenant {
    strict: bool,
    /// Each with its schema, if it has one.
    types: HashMap<EventType, Option<Arc<Compiled>>>,
}

/// A schema, compiled when the first event of its type comes.
struct Compiled {
    text: String,
    schema: OnceLock<Option<Schema>>,
}

/// Why an event isn't what its tenant's catalogue says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The tenant is strict, and the type isn't known.
    #[error("event type `{0}` is not in the catalogue, and `{1}` takes no other")]
    UnknownType(EventType, Tenant),
    /// Its type has a schema.
    #[error("the data is not what the schema of `{0}` says: {1}")]
    Schema(EventType, Violation),
}

impl Unfit {
    /// The member of an event that is to blame.
    pub fn field(&self) -> &'static str {
        match self {
            Self::UnknownType(..) => "type",
            Self::Schema(..) => "data",
        }
    }
}

impl EventTypes {
    /// Takes in what changed: each tenant's types as a whole.
    pub fn apply(&self, changed: Vec<TenantEventTypes>) {
        let mut tenants = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for of_tenant in changed {
            let known = |row: shared::catalogue::EventTypeRow| {
                let compiled = |text| {
                    let schema = OnceLock::new();
                    Arc::new(Compiled { text, schema })
                };
                (row.name, row.schema.map(compiled))
            };
            let types = of_tenant.types.into_iter().map(known).collect();
            let strict = of_tenant.strict;
            tenants.insert(of_tenant.tenant, OfTenant { strict, types });
        }
    }

    fn tenants(&self) -> RwLockReadGuard<'_, HashMap<Tenant, OfTenant>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an event is what the catalogue says of its type.
    ///
    /// # Errors
    /// Says why not.
    pub fn check(&self, tenant: &Tenant, event_type: &EventType, data: &str) -> Result<(), Unfit> {
        let Some(compiled) = self.schema_of(tenant, event_type)? else {
            return Ok(());
        };
        // The lock is free again: compiling and checking take their time.
        let schema = compiled.schema.get_or_init(|| {
            Schema::read(&compiled.text)
                // Checked when it was saved; only a hand-made row gets here.
                .inspect_err(
                    |error| error!(%tenant, %event_type, %error, "a schema that cannot be used"),
                )
                .ok()
        });
        match schema {
            Some(schema) => schema
                .check(data)
                .map_err(|violation| Unfit::Schema(event_type.clone(), violation)),
            None => Ok(()),
        }
    }

    /// Whether events of this type are held to a schema, which takes time.
    pub fn has_schema(&self, tenant: &Tenant, event_type: &EventType) -> bool {
        let tenants = self.tenants();
        let of_tenant = tenants.get(tenant);
        of_tenant.is_some_and(|known| matches!(known.types.get(event_type), Some(Some(_))))
    }

    fn schema_of(
        &self,
        tenant: &Tenant,
        event_type: &EventType,
    ) -> Result<Option<Arc<Compiled>>, Unfit> {
        let tenants = self.tenants();
        let Some(of_tenant) = tenants.get(tenant) else {
            return Ok(None);
        };
        match of_tenant.types.get(event_type) {
            Some(schema) => Ok(schema.clone()),
            None if of_tenant.strict => Err(Unfit::UnknownType(event_type.clone(), tenant.clone())),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use shared::catalogue::EventTypeRow;

    use super::*;

    fn row(name: &str, schema: Option<&str>) -> EventTypeRow {
        EventTypeRow {
            name: name.parse().unwrap(),
            schema: schema.map(str::to_owned),
        }
    }

    fn of_acme(strict: bool, types: Vec<EventTypeRow>) -> EventTypes {
        let known = EventTypes::default();
        let tenant = "acme".parse().unwrap();
        known.apply(vec![TenantEventTypes {
            tenant,
            strict,
            types,
        }]);
        known
    }

    fn check(known: &EventTypes, tenant: &str, event_type: &str, data: &str) -> Result<(), String> {
        let (tenant, event_type) = (tenant.parse().unwrap(), event_type.parse().unwrap());
        known
            .check(&tenant, &event_type, data)
            .map_err(|unfit| unfit.to_string())
    }

    const NUMBER: Option<&str> = Some(r#"{"type": "number"}"#);

    #[test]
    fn only_a_strict_tenants_events_must_be_in_its_catalogue() {
        let lenient = of_acme(false, vec![row("a.b", None)]);
        assert_eq!(check(&lenient, "acme", "x.y", "{}"), Ok(()));
        let strict = of_acme(true, vec![row("a.b", None)]);
        assert_eq!(check(&strict, "acme", "a.b", "{}"), Ok(()));
        let said = check(&strict, "acme", "x.y", "{}").unwrap_err();
        assert!(said.contains("`x.y` is not in the catalogue"), "{said}");
        assert_eq!(check(&strict, "other", "x.y", "{}"), Ok(()));
    }

    #[test]
    fn data_must_be_what_its_types_schema_says() {
        let known = of_acme(false, vec![row("a.b", NUMBER)]);
        assert_eq!(check(&known, "acme", "a.b", "1"), Ok(()));
        assert!(check(&known, "acme", "a.b", "\"1\"").is_err());
    }

    #[test]
    fn what_is_applied_replaces_what_was_known() {
        let known = of_acme(true, vec![row("a.b", NUMBER)]);
        let tenant = "acme".parse().unwrap();
        known.apply(vec![TenantEventTypes {
            tenant,
            strict: false,
            types: Vec::new(),
        }]);
        assert_eq!(check(&known, "acme", "a.b", "\"1\""), Ok(()));
    }

    #[test]
    fn a_schema_made_by_hand_that_is_none_stops_no_event() {
        let known = of_acme(false, vec![row("a.b", Some("{\"type\": 7}"))]);
        assert_eq!(check(&known, "acme", "a.b", "1"), Ok(()));
    }
}

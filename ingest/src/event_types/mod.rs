//! The event types of tenants, in memory: which there are, and their schemas.
//!
//! The shared catalogue's feed fills it. `intake` and the API's publishing check
//! each event against it, without a query. [`store`] writes the rows, [`schema`]
//! says what a schema may be, [`collections`] are the catalogues that Posthorn comes
//! with.
//!
//! Events of a type that isn't in the catalogue are taken, unless the tenant is
//! strict. An archived type is closed to new webhooks; its events are still taken
//! and checked, because their producers may not have stopped.

pub mod collections;
pub mod command;
pub mod counted;
pub mod form;
pub mod kept;
pub mod patterns;
pub mod schema;
pub mod store;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use shared::ids::{EventType, Tenant};
use shared::revisions::{ReadSchema, TenantEventTypes};

use kept::Kept;
use schema::{Flaw, MAX_STEPS, Violation};

use crate::cpu::{self, Busy, CpuPermit, run_blocking};

#[derive(Default)]
pub struct EventTypes {
    tenants: RwLock<HashMap<Tenant, OfTenant>>,
    kept: Arc<Kept>,
}

struct OfTenant {
    strict: bool,
    /// Each type, with its schema's text if it has one.
    types: HashMap<EventType, Option<Arc<str>>>,
}

/// A type's schema, and where to find it compiled.
struct Declared<'a> {
    tenant: &'a Tenant,
    event_type: &'a EventType,
    text: Arc<str>,
    kept: &'a Arc<Kept>,
}

impl Declared<'_> {
    /// The answer, if the check takes a fraction of a millisecond.
    fn check_quickly(&self, data: &str) -> Option<Result<(), Unfit>> {
        let compiled = self.kept.get(self.tenant, self.event_type, &self.text)?;
        let answer = match &compiled.0 {
            Some(schema) => schema.check_quickly(data)?,
            None => Ok(()),
        };
        Some(answer.map_err(|flaw| unfit(self.event_type, flaw)))
    }

    /// Checks off the async workers. The permit is held until the check ends, even if nobody
    /// waits for its answer any more.
    async fn check_aside(self, permit: Option<CpuPermit>, data: &str) -> Result<(), Unfit> {
        let (tenant, event_type) = (self.tenant.clone(), self.event_type.clone());
        let (kept, text, data) = (self.kept.clone(), self.text, data.to_owned());
        run_blocking(move || {
            let _permit = permit;
            let compiled = kept.compiled(&tenant, &event_type, &text);
            let schema = compiled.0.as_ref();
            let answer = schema.map_or(Ok(()), |schema| schema.check(&data));
            answer.map_err(|flaw| unfit(&event_type, flaw))
        })
        .await
    }
}

fn unfit(event_type: &EventType, flaw: Flaw) -> Unfit {
    match flaw {
        Flaw::Violation(violation) => Unfit::Schema(event_type.clone(), violation),
        Flaw::TooCostly => Unfit::TooCostly(event_type.clone()),
    }
}

/// Why an event doesn't conform to its tenant's catalogue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The tenant is strict, and its catalogue doesn't have the type.
    #[error("event type `{0}` is not in the catalogue, and `{1}` takes no other")]
    UnknownType(EventType, Tenant),
    /// The data doesn't conform to its type's schema.
    #[error("the data is not what the schema of `{0}` says: {1}")]
    Schema(EventType, Violation),
    /// Checking the data against its type's schema takes more steps than it may.
    #[error(
        "the data is too costly to check against the schema of `{0}`: it takes more than {MAX_STEPS} steps"
    )]
    TooCostly(EventType),
}

impl Unfit {
    /// The event's member that is to blame.
    pub fn field(&self) -> &'static str {
        match self {
            Self::UnknownType(..) => "type",
            Self::Schema(..) | Self::TooCostly(..) => "data",
        }
    }
}

impl EventTypes {
    /// Replaces the types of the tenants that changed. A schema that didn't change stays.
    pub fn apply(&self, changed: Vec<TenantEventTypes>) {
        let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
        for of_tenant in changed {
            let before = tenants.get(&of_tenant.tenant);
            let types = of_tenant.types.into_iter().map(|row| {
                let schema = match row.schema {
                    ReadSchema::Text(text) => text.map(Arc::<str>::from),
                    ReadSchema::Unchanged => {
                        before.and_then(|before| before.types.get(&row.name)?.clone())
                    }
                };
                (row.name, schema)
            });
            let types: HashMap<_, _> = types.collect();
            self.kept.retain(&of_tenant.tenant, |event_type, text| {
                let known = types.get(event_type).and_then(Option::as_deref);
                known == Some(text)
            });
            let strict = of_tenant.strict;
            tenants.insert(of_tenant.tenant, OfTenant { strict, types });
        }
    }

    fn tenants(&self) -> RwLockReadGuard<'_, HashMap<Tenant, OfTenant>> {
        self.tenants.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks an event against the catalogue: off the async workers if it may take long.
    ///
    /// # Errors
    /// Says why not.
    pub async fn check(
        &self,
        tenant: &Tenant,
        event_type: &EventType,
        data: &str,
    ) -> Result<(), Unfit> {
        let Some(declared) = self.schema_of(tenant, event_type)? else {
            return Ok(());
        };
        match declared.check_quickly(data) {
            Some(answer) => answer,
            None => declared.check_aside(None, data).await,
        }
    }

    /// The same for the API: a check that may take long needs a permit of the tenant's.
    ///
    /// # Errors
    /// If there is no permit in time. The inner error says why the event doesn't conform.
    pub async fn check_in_turn(
        &self,
        tenant: &Tenant,
        event_type: &EventType,
        data: &str,
    ) -> Result<Result<(), Unfit>, Busy> {
        let declared = match self.schema_of(tenant, event_type) {
            Ok(Some(declared)) => declared,
            Ok(None) => return Ok(Ok(())),
            Err(unfit) => return Ok(Err(unfit)),
        };
        if let Some(answer) = declared.check_quickly(data) {
            return Ok(answer);
        }
        let permit = Some(cpu::permit(tenant).await?);
        Ok(declared.check_aside(permit, data).await)
    }

    fn schema_of<'a>(
        &'a self,
        tenant: &'a Tenant,
        event_type: &'a EventType,
    ) -> Result<Option<Declared<'a>>, Unfit> {
        let tenants = self.tenants();
        let Some(of_tenant) = tenants.get(tenant) else {
            return Ok(None);
        };
        match of_tenant.types.get(event_type) {
            Some(text) => Ok(text.clone().map(|text| Declared {
                tenant,
                event_type,
                text,
                kept: &self.kept,
            })),
            None if of_tenant.strict => Err(Unfit::UnknownType(event_type.clone(), tenant.clone())),
            None => Ok(None),
        }
    }
}

#[allow(clippy::unwrap_used, reason = "a test may fail")]
#[cfg(test)]
mod tests {
    use shared::revisions::EventTypeRow;

    use super::*;

    fn row(name: &str, schema: Option<&str>) -> EventTypeRow {
        EventTypeRow {
            name: name.parse().unwrap(),
            schema: ReadSchema::Text(schema.map(str::to_owned)),
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

    #[tokio::main(flavor = "current_thread")]
    async fn check(
        known: &EventTypes,
        tenant: &str,
        event_type: &str,
        data: &str,
    ) -> Result<(), String> {
        let (tenant, event_type) = (tenant.parse().unwrap(), event_type.parse().unwrap());
        let checked = known.check(&tenant, &event_type, data).await;
        checked.map_err(|unfit| unfit.to_string())
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
    fn a_schema_that_did_not_change_stays_although_its_type_is_applied_again() {
        let known = of_acme(false, vec![row("a.b", NUMBER), row("c.d", NUMBER)]);
        let unchanged = EventTypeRow {
            name: "a.b".parse().unwrap(),
            schema: ReadSchema::Unchanged,
        };
        known.apply(vec![TenantEventTypes {
            tenant: "acme".parse().unwrap(),
            strict: true,
            types: vec![unchanged],
        }]);
        assert_eq!(check(&known, "acme", "a.b", "1"), Ok(()));
        assert!(check(&known, "acme", "a.b", "\"1\"").is_err());
        let said = check(&known, "acme", "c.d", "1").unwrap_err();
        assert!(said.contains("`c.d` is not in the catalogue"), "{said}");
    }

    #[test]
    fn a_schema_made_by_hand_that_is_none_stops_no_event() {
        let known = of_acme(false, vec![row("a.b", Some("{\"type\": 7}"))]);
        assert_eq!(check(&known, "acme", "a.b", "1"), Ok(()));
    }
}

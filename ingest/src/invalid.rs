//! Why something that a client or a file declares is not stored.
//!
//! Forms and rows of webhooks, tenants and event types answer with these errors.
//! They know nothing of HTTP: the API turns them into problems (`api::http::problem`),
//! `apply` into lines with a file's name and a line's number.

use std::fmt;

use shared::excerpt::{MAX_ERROR, excerpt};
use shared::ids::{EventType, Tenant, WebhookId};

/// The longest name of a field that is shown, in bytes: a client may have chosen it.
const MAX_FIELD: usize = 256;

/// A member of a declaration is not within its bounds.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Invalid {
    /// The member's path: `url`, `events[3]`.
    pub field: String,
    /// What is wrong, with the bound. At most [`MAX_ERROR`] bytes.
    pub reason: String,
    /// Whether the member isn't there, though it must be.
    pub is_missing: bool,
}

impl Invalid {
    /// Both are cut, and control characters replaced: a client may have chosen parts of them.
    pub fn new(field: impl AsRef<str>, reason: impl fmt::Display) -> Self {
        Self {
            field: excerpt(field.as_ref(), MAX_FIELD),
            reason: excerpt(&reason.to_string(), MAX_ERROR),
            is_missing: false,
        }
    }

    /// A member must be there, and isn't.
    pub fn missing(field: impl AsRef<str>) -> Self {
        Self {
            is_missing: true,
            ..Self::new(field, "is missing")
        }
    }
}

/// Everything that is wrong with a declaration. There is at least one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct Invalids(pub Vec<Invalid>);

impl From<Invalid> for Invalids {
    fn from(invalid: Invalid) -> Self {
        Self(vec![invalid])
    }
}

/// Gathers what is wrong with a form, so that a client sees all of it at once.
#[derive(Debug, Default)]
pub struct Gathered(Vec<Invalid>);

impl Gathered {
    /// The value, or its type's default after an error. Nobody sees that one: [`Self::finish`]
    /// answers with the error.
    pub fn take<T: Default>(&mut self, checked: Result<T, impl Into<Invalids>>) -> T {
        self.take_or(T::default(), checked)
    }

    /// The value, or another one after an error, for types without a default.
    pub fn take_or<T>(&mut self, other: T, checked: Result<T, impl Into<Invalids>>) -> T {
        checked.unwrap_or_else(|invalid| {
            self.0.extend(invalid.into().0);
            other
        })
    }

    /// The value, or `None` after an error: for [`Self::finish_with`].
    pub fn keep<T>(&mut self, checked: Result<T, impl Into<Invalids>>) -> Option<T> {
        self.take(checked.map(Some))
    }

    /// One more thing that is wrong.
    pub fn add(&mut self, invalid: Invalid) {
        self.0.push(invalid);
    }

    /// Whether nothing is wrong so far.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Everything that is wrong.
    pub fn into_invalids(self) -> Invalids {
        Invalids(self.0)
    }

    /// What was checked, unless something is wrong.
    ///
    /// # Errors
    /// With everything that is wrong.
    pub fn finish<T>(self, checked: T) -> Result<T, Invalids> {
        self.finish_with(Some(checked))
    }

    /// What was made of values that were [kept](Self::keep). Something is wrong if it is `None`.
    ///
    /// # Errors
    /// With everything that is wrong.
    pub fn finish_with<T>(self, checked: Option<T>) -> Result<T, Invalids> {
        match checked {
            Some(checked) if self.0.is_empty() => Ok(checked),
            _ => Err(Invalids(self.0)),
        }
    }
}

/// There is no such thing, or it is another tenant's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotFound(String);

impl NotFound {
    /// No webhook has this id.
    pub fn webhook(id: WebhookId) -> Self {
        Self(format!("there is no webhook {id}"))
    }

    /// No tenant has this id, which may be any text.
    pub fn tenant(id: impl fmt::Display) -> Self {
        Self(format!("tenant `{id}` does not exist"))
    }

    /// The tenant's catalogue has no event type of this name.
    pub fn event_type(name: &EventType) -> Self {
        Self(format!("there is no event type {name} in the catalogue"))
    }
}

/// It contradicts what is stored already.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// There is such a thing already.
    #[error("{0}")]
    Exists(String),
    /// There are as many as there may be.
    #[error("{0}")]
    Limit(String),
}

impl Conflict {
    /// Another tenant has this id.
    pub fn tenant_exists(id: &Tenant) -> Self {
        Self::Exists(format!("tenant `{id}` exists already"))
    }

    /// The tenant has as many webhooks as it may.
    pub fn webhooks(has: i64, limit: i32) -> Self {
        Self::Limit(format!(
            "this tenant has {has} webhooks; at most {limit} are allowed"
        ))
    }

    /// Another webhook of the tenant has this external id.
    pub fn external_id(webhook: WebhookId) -> Self {
        Self::Exists(format!(
            "the webhook {webhook} has this `external_id` already: it is unique within a tenant"
        ))
    }

    /// The tenant has as many listeners as it may.
    pub fn listeners(has: i64, limit: i64) -> Self {
        Self::Limit(format!(
            "this tenant has {has} listeners; at most {limit} are allowed. A listener ends two \
             minutes after it was last asked"
        ))
    }

    /// The tenant's catalogue would have more event types than it may.
    pub fn event_types(would_have: i64, limit: i64) -> Self {
        Self::Limit(format!(
            "a tenant has at most {limit} event types; these would make {would_have}"
        ))
    }
}

/// Why a declaration was not stored.
#[derive(Debug, thiserror::Error)]
pub enum Unsaved {
    /// It is not within its bounds, or those of what is stored.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// What it changes doesn't exist.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// It contradicts what is stored.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// PostgreSQL failed.
    #[error("the change was not stored: PostgreSQL failed")]
    Postgres(#[from] tokio_postgres::Error),
}

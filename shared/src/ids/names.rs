//! Names that people and other systems choose: tenants, event types, event ids and the like.
//!
//! Each is a text of its own type, which was checked when it was made.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, private::BytesMut};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type as JsonType};
use utoipa::{PartialSchema, ToSchema};

/// A string that isn't a valid id or name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {reason}")]
pub struct Malformed {
    what: &'static str,
    reason: String,
}

impl Malformed {
    pub(super) fn new(what: &'static str, reason: impl Into<String>) -> Self {
        Self {
            what,
            reason: reason.into(),
        }
    }
}

macro_rules! name {
    (
        $(#[$doc:meta])* $name:ident, $check:path,
        $schema:literal, $pattern:literal, $longest:literal, $example:literal
    ) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub struct $name(pub(super) Arc<str>);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = Malformed;

            fn from_str(text: &str) -> Result<Self, Malformed> {
                $check(text)?;
                Ok(Self(text.into()))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl ToSql for $name {
            fn to_sql(
                &self,
                ty: &Type,
                out: &mut BytesMut,
            ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
                self.as_str().to_sql(ty, out)
            }

            fn accepts(ty: &Type) -> bool {
                <&str as ToSql>::accepts(ty)
            }

            tokio_postgres::types::to_sql_checked!();
        }

        impl<'a> FromSql<'a> for $name {
            fn from_sql(
                ty: &Type,
                raw: &'a [u8],
            ) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
                Ok(<&str as FromSql>::from_sql(ty, raw)?.parse()?)
            }

            fn accepts(ty: &Type) -> bool {
                <&str as FromSql>::accepts(ty)
            }
        }

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new()
                    .schema_type(JsonType::String)
                    .pattern(Some($pattern))
                    .min_length(Some(1))
                    .max_length(Some($longest))
                    .examples([$example])
                    .into()
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                Cow::Borrowed($schema)
            }
        }
    };
}

name!(
    /// Whose events and webhooks these are: a slug, `[a-z0-9][a-z0-9_-]{0,62}`.
    Tenant, check_tenant, "TenantId", "^[a-z0-9][a-z0-9_-]{0,62}$", 63, "acme"
);

name!(
    /// What kind of thing happened: `order.created`, `item-checkout`.
    EventType, check_event_type, "EventTypeName",
    "^[A-Za-z0-9][A-Za-z0-9_-]*(\\.[A-Za-z0-9_-]+)*$", 128, "order.created"
);

name!(
    /// The producer's id of an event: 1 to 255 visible ASCII characters (the
    /// most that AMQP's `message_id`, a short string, can carry).
    EventId, check_event_id, "EventId", "^[!-~]{1,255}$", 255, "order-4711-created"
);

name!(
    /// What another system called a webhook before it moved here: 1 to 128 visible ASCII
    /// characters, which a header's value may contain.
    ExternalId, check_external_id, "ExternalId", "^[!-~]{1,128}$", 128, "webhook_123"
);

name!(
    /// The user of a tenant that a webhook belongs to, in the tenant's own words: 1 to 128
    /// visible ASCII characters.
    Owner, check_owner, "Owner", "^[!-~]{1,128}$", 128, "user-7"
);

/// The longest tenant, in bytes.
pub const MAX_TENANT: usize = 63;

/// The longest event type, in bytes.
pub const MAX_EVENT_TYPE: usize = 128;

/// The longest event id, in bytes.
pub const MAX_EVENT_ID: usize = 255;

/// The longest external id, in bytes.
pub const MAX_EXTERNAL_ID: usize = 128;

/// The longest owner, in bytes.
pub const MAX_OWNER: usize = 128;

fn check_tenant(text: &str) -> Result<(), Malformed> {
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    if bytes.len() > MAX_TENANT
        || !bytes.first().is_some_and(plain)
        || !bytes.iter().all(|b| plain(b) || matches!(b, b'_' | b'-'))
    {
        return Err(Malformed::new(
            "tenant",
            format!(
                "must be 1 to {MAX_TENANT} of `a-z`, `0-9`, `_`, `-`, and start with a letter or digit"
            ),
        ));
    }
    Ok(())
}

fn check_event_type(text: &str) -> Result<(), Malformed> {
    const SEPARATORS: [char; 3] = ['.', '-', '_'];
    let stranger = |c: &char| !(c.is_ascii_alphanumeric() || SEPARATORS.contains(c));
    let reason = if text.is_empty() || text.len() > MAX_EVENT_TYPE {
        format!("must have 1 to {MAX_EVENT_TYPE} bytes, not {}", text.len())
    } else if let Some(stranger) = text.chars().find(stranger) {
        format!("is made of A-Z a-z 0-9 `_` `.` `-`, not of {stranger:?}")
    } else if text.starts_with(SEPARATORS) {
        "must start with a letter or a digit".to_owned()
    } else if text.ends_with('.') || text.contains("..") {
        "must have no dot at its end and no two dots together".to_owned()
    } else {
        return Ok(());
    };
    Err(Malformed::new("event type", reason))
}

fn check_event_id(text: &str) -> Result<(), Malformed> {
    if text.is_empty() || text.len() > MAX_EVENT_ID || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Malformed::new(
            "event id",
            format!("must be 1 to {MAX_EVENT_ID} visible ASCII characters"),
        ));
    }
    Ok(())
}

fn check_external_id(text: &str) -> Result<(), Malformed> {
    check_visible("external id", text, MAX_EXTERNAL_ID)
}

fn check_owner(text: &str) -> Result<(), Malformed> {
    check_visible("owner", text, MAX_OWNER)
}

fn check_visible(what: &'static str, text: &str, most: usize) -> Result<(), Malformed> {
    if text.is_empty() || text.len() > most || !text.bytes().all(|b| b.is_ascii_graphic()) {
        let bound = format!("must be 1 to {most} visible ASCII characters");
        return Err(Malformed::new(what, bound));
    }
    Ok(())
}

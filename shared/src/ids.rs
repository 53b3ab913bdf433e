//! The ids and [names] of the glossary, each with its own type.
//!
//! Generated ids are TypeIDs (<https://github.com/jetify-com/typeid>): a prefix
//! and a UUIDv7 in base32. People and JSON see this text; PostgreSQL and jobs have
//! the bare UUID.
//!
//! The surprising fact: a delivery's UUID starts with the same millisecond as the
//! UUID of its event. So tables that are partitioned by day on the id need no date
//! column, and the deliveries of one event are a range of ids.

mod names;

use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, private::BytesMut};
use type_safe_id::{StaticType, TypeSafeId};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type as JsonType};
use utoipa::{PartialSchema, ToSchema};
use uuid::{ContextV7, Timestamp, Uuid};

use crate::clock;
pub use names::{
    EventId, EventType, ExternalId, MAX_EVENT_ID, MAX_EVENT_TYPE, MAX_EXTERNAL_ID, MAX_OWNER,
    MAX_TENANT, Malformed, Owner, Tenant,
};

macro_rules! typed_id {
    ($(#[$doc:meta])* $name:ident, $tag:ident, $prefix:literal) => {
        #[derive(Clone, Copy, Default)]
        struct $tag;

        impl StaticType for $tag {
            const TYPE: &'static str = $prefix;
        }

        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id whose time is now.
            #[must_use]
            pub fn generate() -> Self {
                Self(next_uuid())
            }

            /// The UUID behind the text.
            #[must_use]
            pub fn uuid(self) -> Uuid {
                self.0
            }

            /// Gives a UUID its meaning.
            #[must_use]
            pub fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                TypeSafeId::<$tag>::from_uuid(self.0).fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = Malformed;

            fn from_str(text: &str) -> Result<Self, Malformed> {
                text.parse::<TypeSafeId<$tag>>()
                    .map(|id| Self(id.uuid()))
                    .map_err(|_| Malformed::new(
                        "the id",
                        concat!("must be `", $prefix, "_` and 26 letters and digits, as the API shows it"),
                    ))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.as_u128().serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
                } else {
                    u128::deserialize(deserializer).map(|bits| Self(Uuid::from_u128(bits)))
                }
            }
        }

        impl ToSql for $name {
            fn to_sql(
                &self,
                ty: &Type,
                out: &mut BytesMut,
            ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
                self.0.to_sql(ty, out)
            }

            fn accepts(ty: &Type) -> bool {
                <Uuid as ToSql>::accepts(ty)
            }

            tokio_postgres::types::to_sql_checked!();
        }

        impl<'a> FromSql<'a> for $name {
            fn from_sql(
                ty: &Type,
                raw: &'a [u8],
            ) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
                Uuid::from_sql(ty, raw).map(Self)
            }

            fn accepts(ty: &Type) -> bool {
                <Uuid as FromSql>::accepts(ty)
            }
        }

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new()
                    .schema_type(JsonType::String)
                    .pattern(Some(concat!("^", $prefix, "_[0-7][0-9a-hjkmnp-tv-z]{25}$")))
                    .examples([concat!($prefix, "_01k9zw6q9veq5r2m4d8x3h7c1b")])
                    .into()
            }
        }

        impl ToSchema for $name {}
    };
}

typed_id!(
    /// A webhook: `wh_…`.
    WebhookId, WebhookTag, "wh"
);
typed_id!(
    /// One event on its way to one webhook: `whd_…`.
    DeliveryId, DeliveryTag, "whd"
);
typed_id!(
    /// Posthorn's own key of an event; the text form, `evt_…`, also serves as
    /// the event id where the producer gave none.
    EventUid, EventTag, "evt"
);
typed_id!(
    /// An API token's public name: `tok_…` (not the token itself).
    TokenId, TokenTag, "tok"
);
typed_id!(
    /// A message that was refused or unroutable: `dl_…`.
    DeadLetterId, DeadLetterTag, "dl"
);

typed_id!(
    /// Deliveries of a webhook that begin again: `rpl_…`.
    ReplayId, ReplayTag, "rpl"
);
typed_id!(
    /// A running process, from its start to its end: `prc_…`.
    ProcessId, ProcessTag, "prc"
);

impl EventUid {
    /// A new key for an event that is accepted at `at`.
    #[must_use]
    pub fn at(at: OffsetDateTime) -> Self {
        Self(uuid_at(at))
    }

    /// When the event was accepted, to the millisecond.
    #[must_use]
    pub fn accepted_at(self) -> OffsetDateTime {
        time_of(self.0)
    }
}

impl DeadLetterId {
    /// The time when the message was taken from its queue, to the millisecond.
    #[must_use]
    pub fn made_at(self) -> OffsetDateTime {
        time_of(self.0)
    }
}

impl DeliveryId {
    /// A new id with the same millisecond as its event. See the module's text.
    #[must_use]
    pub fn for_event(event: EventUid) -> Self {
        Self(with_millisecond(event.0, Uuid::new_v4()))
    }

    /// When the event behind this delivery was accepted, to the millisecond.
    #[must_use]
    pub fn accepted_at(self) -> OffsetDateTime {
        time_of(self.0)
    }
}

/// A UUIDv7 with the time now, greater than all that this process has made in the
/// same millisecond.
fn next_uuid() -> Uuid {
    static COUNT: Mutex<ContextV7> = Mutex::new(ContextV7::new());
    let now = clock::now();
    let seconds = now.unix_timestamp().unsigned_abs();
    Uuid::new_v7(Timestamp::from_unix(&COUNT, seconds, now.nanosecond()))
}

/// A UUIDv7 with this time.
fn uuid_at(at: OffsetDateTime) -> Uuid {
    let millis = (at.unix_timestamp_nanos() / 1_000_000).max(0);
    // 48 bits are enough until the year 10889.
    let high = Uuid::from_u128((millis as u128) << 80);
    with_millisecond(high, Uuid::new_v4())
}

/// A UUIDv7 with the time of one UUID and the randomness of another.
fn with_millisecond(time: Uuid, random: Uuid) -> Uuid {
    const TIME: u128 = u128::MAX << 80;
    const VERSION: u128 = 0xF << 76;
    let bits = (time.as_u128() & TIME) | (random.as_u128() & !TIME);
    Uuid::from_u128((bits & !VERSION) | (0x7 << 76))
}

/// The time in a UUIDv7.
#[must_use]
pub fn time_of(uuid: Uuid) -> OffsetDateTime {
    let millis = (uuid.as_u128() >> 80) as i128;
    // 48 bits of milliseconds can be later than the year 9999, the last one that
    // OffsetDateTime can hold. Such an id was made up, and gets the epoch.
    OffsetDateTime::from_unix_timestamp_nanos(millis * 1_000_000)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// The lowest UUIDv7 of a moment: the start of a partition or of a range.
#[must_use]
pub fn first_uuid_at(at: OffsetDateTime) -> Uuid {
    let millis = (at.unix_timestamp_nanos() / 1_000_000).max(0);
    Uuid::from_u128((millis as u128) << 80)
}

/// The first and the last id with the same millisecond as this one.
#[must_use]
pub fn same_millisecond(uuid: Uuid) -> (Uuid, Uuid) {
    let first = uuid.as_u128() >> 80 << 80;
    (
        Uuid::from_u128(first),
        Uuid::from_u128(first | (u128::MAX >> 48)),
    )
}

impl From<EventUid> for EventId {
    fn from(uid: EventUid) -> Self {
        Self(uid.to_string().into())
    }
}

#[cfg(test)]
mod tests;

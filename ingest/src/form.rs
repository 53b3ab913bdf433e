//! What the forms of webhooks, tenants and event types have in common.
//!
//! A form is what a client or a file sends, as it was sent. Its `check` makes of
//! it what may be stored, or says which member is [`Invalid`].

use serde::de::{DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer, forward_to_deserialize_any};
use shared::dialect::Dialects;
use utoipa::ToSchema;

use crate::invalid::Invalid;

#[derive(Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be an event type or a list of them")]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// A string stands for a list of one.
pub fn one_or_many<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<String>>, D::Error> {
    Ok(Some(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    }))
}

/// Tells `null` (`Some(None)`) from what is missing (`None`).
pub fn present<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Some)
}

/// Reads an object within a form. Serde alone would take a list for a struct, member by member.
///
/// # Errors
/// If it's anything else, or not such an object.
pub fn object<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
) -> Result<T, D::Error> {
    T::deserialize(OnlyMaps(deserializer))
}

/// A deserializer that takes nothing but maps.
struct OnlyMaps<D>(D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for OnlyMaps<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier
        ignored_any
    }
}

/// Refuses a dialect that doesn't exist.
///
/// # Errors
/// Names those that do.
pub fn check_dialect(name: &str, dialects: &Dialects) -> Result<(), Invalid> {
    match dialects.get(name) {
        Some(_) => Ok(()),
        None => Err(Invalid::new("dialect", unknown_dialect(name, dialects))),
    }
}

/// Says that a dialect doesn't exist, and which do.
pub fn unknown_dialect(name: &str, dialects: &Dialects) -> String {
    let names: Vec<_> = dialects.names().map(|name| format!("`{name}`")).collect();
    format!("`{name}` does not exist; there is {}", names.join(", "))
}

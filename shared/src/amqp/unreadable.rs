//! A message that the AMQP client couldn't have read: what is known about it.
//!
//! The [`guard`](super::guard) replaces such a message's properties by a header that
//! it writes itself. A consumer looks for that header before anything else
//! ([`Unreadable::from_message`]). When the message is parked, the header stays with it, under
//! [`UNREADABLE_HEADER`].

use std::sync::OnceLock;

use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable};

use super::content::Bytes;

/// The header in which a parked message carries what was unreadable.
///
/// Trust it only where nobody but Posthorn publishes: in the parking queue, and only
/// on a message that the broker didn't dead-letter there itself.
pub const UNREADABLE_HEADER: &str = "x-posthorn-unreadable";

/// How many bytes of the raw properties are kept.
pub(super) const KEPT: usize = 4096;

const WHY: &str = "why";
const KEY: &str = "routing_key";
const PROPERTIES: &str = "properties";
const SIZE: &str = "size";

/// The name of the header that the guard writes. No producer can guess it, and it
/// never leaves this process.
///
/// There is one name per process, because a delivery doesn't say which connection it
/// came from.
pub(super) fn marker() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let mut random = [0; 16];
        // Without random numbers nothing else works either: no TLS, no secrets.
        if let Err(error) = getrandom::fill(&mut random) {
            panic!("no randomness from the system: {error}");
        }
        format!("{UNREADABLE_HEADER}-{}", hex::encode(random))
    })
}

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The reason, in words for people.
    pub why: String,
    /// The raw routing key, as it was published.
    pub routing_key: Vec<u8>,
    /// The first bytes of the properties: their flags and values as they were sent.
    pub properties: Vec<u8>,
    /// The size of all properties, in bytes.
    pub size: u64,
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the message is unreadable: {}", self.why)
    }
}

impl Unreadable {
    /// The header that this process's guard wrote in place of the message's
    /// properties.
    #[must_use]
    pub fn from_message(message: &Delivery) -> Option<Self> {
        let headers = message.properties.headers().as_ref()?;
        let mut found = Self::read(headers.inner().get(marker())?)?;
        if found.routing_key.is_empty() {
            found.routing_key = message.routing_key.as_str().into();
        }
        Some(found)
    }

    /// Reads the value of [`UNREADABLE_HEADER`]. A header with that name proves
    /// nothing.
    #[must_use]
    pub fn carried_by(headers: &FieldTable) -> Option<Self> {
        Self::read(headers.inner().get(UNREADABLE_HEADER)?)
    }

    /// The value of [`UNREADABLE_HEADER`].
    #[must_use]
    pub fn to_value(&self) -> AMQPValue {
        let mut table = FieldTable::default();
        for (name, bytes) in [
            (WHY, self.why.as_bytes()),
            (KEY, &self.routing_key),
            (PROPERTIES, &self.properties),
        ] {
            table.insert(name.into(), AMQPValue::LongString(bytes.to_vec().into()));
        }
        table.insert(SIZE.into(), AMQPValue::LongLongInt(self.size as i64));
        AMQPValue::FieldTable(table)
    }

    fn read(value: &AMQPValue) -> Option<Self> {
        let AMQPValue::FieldTable(table) = value else {
            return None;
        };
        let bytes = |name| match table.inner().get(name) {
            Some(AMQPValue::LongString(text)) => text.as_bytes().to_vec(),
            _ => Vec::new(),
        };
        let size = match table.inner().get(SIZE) {
            Some(AMQPValue::LongLongInt(size)) => u64::try_from(*size).unwrap_or_default(),
            _ => 0,
        };
        Some(Self {
            why: String::from_utf8_lossy(&bytes(WHY)).into_owned(),
            routing_key: bytes(KEY),
            properties: bytes(PROPERTIES),
            size,
        })
    }
}

/// The content header that replaces an unreadable one and says why.
///
/// `payload` is the beginning of the replaced header. The first `kept` bytes of its
/// properties are copied. The class and the size of the body stay the same.
pub(super) fn header(
    name: &str,
    why: &str,
    key: &[u8],
    payload: &[u8],
    size: u64,
    kept: usize,
) -> Vec<u8> {
    /// The property flags: only `headers` is present.
    const HEADERS: u16 = 0x2000;
    let mut rest = Bytes(payload);
    let class: [u8; 2] = rest.array().unwrap_or([0, 60]);
    let _weight = rest.take(2);
    let body: [u8; 8] = rest.array().unwrap_or_default();
    let properties = &rest.0[..rest.0.len().min(kept)];

    let mut fields = Vec::new();
    for (field, bytes) in [(WHY, why.as_bytes()), (KEY, key), (PROPERTIES, properties)] {
        short(&mut fields, field);
        fields.push(b'S');
        long(&mut fields, bytes);
    }
    short(&mut fields, SIZE);
    fields.push(b'l');
    fields.extend(size.saturating_sub(12).to_be_bytes());
    let mut table = Vec::new();
    short(&mut table, name);
    table.push(b'F');
    long(&mut table, &fields);

    let mut header = Vec::new();
    header.extend(class);
    header.extend([0, 0]);
    header.extend(body);
    header.extend(HEADERS.to_be_bytes());
    long(&mut header, &table);
    header
}

/// Only for names of our own, so the text always fits.
fn short(to: &mut Vec<u8>, text: &str) {
    to.push(text.len() as u8);
    to.extend(text.as_bytes());
}

fn long(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend((bytes.len() as u32).to_be_bytes());
    to.extend(bytes);
}

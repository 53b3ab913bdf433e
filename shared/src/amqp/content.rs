//! Checks whether the AMQP client can read a message's properties.
//!
//! Pure: no I/O. RabbitMQ passes a producer's properties on without looking at them.
//! lapin ends the connection at the first byte that it can't read, and its parser of
//! field tables recurses without a bound. So this file parses each property first, by the
//! same grammar, with bounds.

/// The deepest nesting of tables and arrays; the header table itself is level 1.
/// RabbitMQ's own `x-death` needs three levels.
pub const MAX_DEPTH: usize = 32;
/// The most values in a header table, including nested ones. In the client, a value
/// of one byte takes about a hundred bytes of memory.
pub const MAX_VALUES: usize = 1_000;

/// The type of a property.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Text,
    Table,
    Octet,
    Time,
}

/// Name and type of each property, from the highest bit of the flags down.
const PROPERTIES: [(&str, Kind); 14] = [
    ("`content_type` is not UTF-8", Kind::Text),
    ("`content_encoding` is not UTF-8", Kind::Text),
    ("`headers` is malformed", Kind::Table),
    ("`delivery_mode` is malformed", Kind::Octet),
    ("`priority` is malformed", Kind::Octet),
    ("`correlation_id` is not UTF-8", Kind::Text),
    ("`reply_to` is not UTF-8", Kind::Text),
    ("`expiration` is not UTF-8", Kind::Text),
    ("`message_id` is not UTF-8", Kind::Text),
    ("`timestamp` is malformed", Kind::Time),
    ("`type` is not UTF-8", Kind::Text),
    ("`user_id` is not UTF-8", Kind::Text),
    ("`app_id` is not UTF-8", Kind::Text),
    ("`cluster_id` is not UTF-8", Kind::Text),
];

const CUT_OFF: &str = "the properties are cut off";

/// The reason why properties can't be read, in words for people.
pub(super) type Why = &'static str;

/// Checks the properties of a content header: their flags and values.
pub(super) fn check(properties: &[u8]) -> Result<(), Why> {
    walk(properties, |_| {})
}

/// The bytes of all properties except the header table, which RabbitMQ changes
/// between deliveries. Empty if the properties can't be read.
pub(super) fn without_headers(properties: &[u8]) -> Vec<u8> {
    let mut kept = Vec::new();
    if walk(properties, |part| kept.extend_from_slice(part)).is_err() {
        kept.clear();
    }
    kept
}

/// Calls `keep` with the bytes of each property except the header table.
fn walk(properties: &[u8], mut keep: impl FnMut(&[u8])) -> Result<(), Why> {
    let mut rest = Bytes(properties);
    let flags = u16::from_be_bytes(rest.array().ok_or(CUT_OFF)?);
    for (bit, (problem, kind)) in PROPERTIES.into_iter().enumerate() {
        if flags & (0x8000 >> bit) == 0 {
            continue;
        }
        match kind {
            Kind::Text => {
                let text = rest.short().ok_or(CUT_OFF)?;
                std::str::from_utf8(text).map_err(|_| problem)?;
                keep(text);
            }
            Kind::Octet => keep(rest.take(1).ok_or(CUT_OFF)?),
            Kind::Time => keep(rest.take(8).ok_or(CUT_OFF)?),
            Kind::Table => {
                let table = rest.long().ok_or(CUT_OFF)?;
                let mut values = 0;
                fields(table, true, 1, &mut values)?;
            }
        }
    }
    if rest.0.is_empty() {
        Ok(())
    } else {
        Err("bytes follow the properties")
    }
}

/// The content of a table, or of an array, which is a table without names.
///
/// Recurses at most [`MAX_DEPTH`] times.
fn fields(bytes: &[u8], named: bool, depth: usize, values: &mut usize) -> Result<(), Why> {
    const MALFORMED: &str = "`headers` is malformed";
    if depth > MAX_DEPTH {
        return Err("`headers` is nested more than 32 levels deep");
    }
    let mut rest = Bytes(bytes);
    while !rest.0.is_empty() {
        if named {
            let name = rest.short().ok_or(MALFORMED)?;
            std::str::from_utf8(name).map_err(|_| "a name in `headers` is not UTF-8")?;
        }
        *values += 1;
        if *values > MAX_VALUES {
            return Err("`headers` has more than 1,000 values");
        }
        let [kind] = rest.array().ok_or(MALFORMED)?;
        let fixed = match kind {
            b'V' => 0,
            b't' | b'b' | b'B' => 1,
            b's' | b'U' | b'u' => 2,
            b'I' | b'i' | b'f' => 4,
            b'D' => 5,
            b'L' | b'l' | b'd' | b'T' => 8,
            b'S' | b'x' => {
                rest.long().ok_or(MALFORMED)?;
                continue;
            }
            b'F' | b'A' => {
                let inner = rest.long().ok_or(MALFORMED)?;
                fields(inner, kind == b'F', depth + 1, values)?;
                continue;
            }
            _ => return Err("`headers` has a value of an unknown type"),
        };
        rest.take(fixed).ok_or(MALFORMED)?;
    }
    Ok(())
}

/// The bytes that are still to be read.
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// A short string: its length in one byte.
    pub(super) fn short(&mut self) -> Option<&'a [u8]> {
        let [length] = self.array()?;
        self.take(usize::from(length))
    }

    /// A long string, a table or an array: its length in four bytes.
    pub(super) fn long(&mut self) -> Option<&'a [u8]> {
        let length = u32::from_be_bytes(self.array()?);
        self.take(usize::try_from(length).ok()?)
    }
}

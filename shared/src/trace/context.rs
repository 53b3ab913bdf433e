//! The W3C trace context of an event: which trace it belongs to, and which span is above it.
//!
//! It comes in as the header `traceparent` of an AMQP message or an HTTP request, travels
//! in the headers of jobs, and goes out with the delivered request. It does so whether or
//! not this process exports spans: <https://www.w3.org/TR/trace-context/>.

use std::fmt;

use lapin::types::{AMQPValue, FieldTable};
use opentelemetry::trace::{SpanId, TraceFlags, TraceId};
use time::OffsetDateTime;

/// The name of the header, in AMQP and in HTTP.
pub const TRACEPARENT: &str = "traceparent";
/// The header of a job that says when it was published first, in microseconds since 1970.
const SINCE_HEADER: &str = "x-posthorn-since";

/// The value of a `traceparent` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
    pub(super) flags: TraceFlags,
}

impl TraceContext {
    /// Reads a header's value. `None` if it isn't valid: then the event has no trace.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let version = hex::<2>(value.get(..2)?)? as u8;
        // A later version may be longer, and begins in the same way.
        let is_whole = value.len() == 55 && version != 255
            || value.len() > 55 && (1..255).contains(&version) && value[55] == b'-';
        if !is_whole || [value[2], value[35], value[52]] != [b'-'; 3] {
            return None;
        }
        let trace = TraceId::from(hex::<32>(&value[3..35])?);
        let span = SpanId::from(hex::<16>(&value[36..52])? as u64);
        let flags = TraceFlags::new(hex::<2>(&value[53..55])? as u8);
        let is_valid = trace != TraceId::INVALID && span != SpanId::INVALID;
        is_valid.then_some(Self { trace, span, flags })
    }

    /// Reads the header of an AMQP message.
    #[must_use]
    pub fn of_headers(headers: Option<&FieldTable>) -> Option<Self> {
        match headers?.inner().get(TRACEPARENT)? {
            AMQPValue::LongString(value) => Self::parse(value.as_bytes()),
            _ => None,
        }
    }

    #[must_use]
    pub fn trace_id(&self) -> TraceId {
        self.trace
    }

    /// Whether whoever began the trace records it.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.flags.is_sampled()
    }
}

/// The header's value.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Of the flags this version knows only the one that says `sampled`.
        let sampled = u8::from(self.is_sampled());
        write!(f, "00-{}-{}-{sampled:02x}", self.trace, self.span)
    }
}

/// Lower-case hexadecimal digits, as the specification wants them.
fn hex<const DIGITS: usize>(digits: &[u8]) -> Option<u128> {
    if digits.len() != DIGITS {
        return None;
    }
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

/// The trace of a job, in the headers of its message. A dispatcher that doesn't know these
/// headers delivers the job without them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobTrace {
    /// The span that the job's spans are children of.
    pub parent: TraceContext,
    /// When the job was published first; delay queues don't change it.
    pub since: OffsetDateTime,
}

impl JobTrace {
    /// Reads the headers of a job's message. `due_at` is used if they don't say since when
    /// the job waits.
    #[must_use]
    pub fn of_headers(headers: Option<&FieldTable>, due_at: OffsetDateTime) -> Option<Self> {
        let parent = TraceContext::of_headers(headers)?;
        let since = match headers?.inner().get(SINCE_HEADER) {
            Some(AMQPValue::LongLongInt(micros)) => {
                OffsetDateTime::from_unix_timestamp_nanos(i128::from(*micros) * 1_000).ok()
            }
            _ => None,
        };
        let since = since.unwrap_or(due_at);
        Some(Self { parent, since })
    }

    /// The headers of the job's message.
    #[must_use]
    pub fn headers(&self) -> FieldTable {
        let mut headers = FieldTable::default();
        let parent = AMQPValue::LongString(self.parent.to_string().into());
        headers.insert(TRACEPARENT.into(), parent);
        if self.parent.is_sampled() {
            let micros = (self.since.unix_timestamp_nanos() / 1_000) as i64;
            headers.insert(SINCE_HEADER.into(), AMQPValue::LongLongInt(micros));
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const VALUE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_valid_header_is_read_and_written_as_it_was() {
        let context = TraceContext::parse(VALUE.as_bytes()).unwrap();
        assert!(context.is_sampled());
        assert_eq!(context.to_string(), VALUE);
        let unsampled = VALUE.replace("-01", "-00");
        let context = TraceContext::parse(unsampled.as_bytes()).unwrap();
        assert!(!context.is_sampled());
        assert_eq!(context.to_string(), unsampled);
        // A later version, with a part that this one doesn't know.
        let later = VALUE.replace("00-4bf", "01-4bf") + "-more";
        let context = TraceContext::parse(later.as_bytes()).unwrap();
        assert_eq!(context.to_string(), VALUE);
    }

    #[test]
    fn a_header_that_is_not_valid_is_no_header() {
        for value in [
            "",
            "00",
            "nonsense",
            &VALUE[..54],
            &format!("{VALUE}-more"),
            &VALUE.replace("00-4bf", "ff-4bf"),
            &VALUE.replace("4bf9", "4BF9"),
            &VALUE.replace('-', "_"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0é",
        ] {
            assert_eq!(TraceContext::parse(value.as_bytes()), None, "{value}");
        }
    }

    #[test]
    fn a_jobs_trace_survives_its_headers() {
        let parent = TraceContext::parse(VALUE.as_bytes()).unwrap();
        let since = datetime!(2026-11-29 10:00:00.123456 UTC);
        let trace = JobTrace { parent, since };
        let due_at = datetime!(2026-11-29 11:00 UTC);
        let read = JobTrace::of_headers(Some(&trace.headers()), due_at);
        assert_eq!(read, Some(trace));
        assert_eq!(JobTrace::of_headers(None, due_at), None);
        // A producer's own value has none of our headers.
        let mut headers = trace.headers();
        headers.insert(SINCE_HEADER.into(), AMQPValue::Boolean(true));
        let read = JobTrace::of_headers(Some(&headers), due_at).unwrap();
        assert_eq!(read.since, due_at);
    }
}

//! The spans of an event's way through a lane.
//!
//! `accept` is below the producer's span and has three children: `match`, `write` and
//! `publish`. The event's jobs take `publish` along, so dispatchers' spans are below it.

use shared::clock;
use shared::trace::{JobTrace, Span, SpanKind, TraceContext};
use time::OffsetDateTime;

use crate::accept::Matched;
use crate::look_ahead::Came;

/// Of an event whose trace is recorded.
pub struct EventSpans {
    accept: Span,
    write: Option<Span>,
    /// Begins when the event is written.
    publish: Span,
}

impl EventSpans {
    /// After an event was matched, which began at `matching`. Its lane began with its batch
    /// at `lane`.
    pub fn begin(
        event: &Matched,
        came: &Came,
        lane: OffsetDateTime,
        matching: OffsetDateTime,
    ) -> Option<Box<Self>> {
        let kind = match came {
            Came::Amqp(_) => SpanKind::Consumer,
            Came::Http(_) => SpanKind::Server,
        };
        let mut accept = Span::first("accept", kind, event.event.trace, lane)?;
        accept.set("posthorn.tenant", event.event.tenant.to_string());
        accept.set("posthorn.event", event.id.to_string());
        accept.set("posthorn.event_type", event.event.event_type.to_string());
        accept.set("posthorn.matched", event.deliveries.len() as i64);
        let matched = clock::now();
        let internal = |name, start| accept.child(name, SpanKind::Internal, start);
        internal("match", matching).end(matched);
        Some(Box::new(Self {
            write: Some(internal("write", matched)),
            publish: accept.child("publish", SpanKind::Producer, matched),
            accept,
        }))
    }

    /// The event is in PostgreSQL.
    pub fn written(&mut self, is_new: bool) {
        let now = clock::now();
        self.publish.set_start(now);
        if let Some(write) = self.write.take() {
            write.end(now);
        }
        if !is_new {
            self.accept.set("posthorn.duplicate", true);
        }
    }

    /// The event's jobs are confirmed.
    pub fn end(self, is_new: bool) {
        let now = clock::now();
        if is_new {
            self.publish.end(now);
        }
        self.accept.end(now);
    }

    pub fn context(&self) -> TraceContext {
        self.accept.context()
    }

    fn of_jobs(&self) -> JobTrace {
        JobTrace {
            parent: self.publish.context(),
            since: clock::now(),
        }
    }
}

/// The trace that an event's jobs take along: that of its spans, or else its producer's.
pub fn of_jobs(spans: Option<&EventSpans>, producers: Option<TraceContext>) -> Option<JobTrace> {
    match spans {
        Some(spans) => Some(spans.of_jobs()),
        None => producers.map(|parent| JobTrace {
            parent,
            since: clock::now(),
        }),
    }
}

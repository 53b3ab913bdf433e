//! An event of a batch, and what is to be made of it.

use std::time::Duration;

use shared::publish::{Outgoing, RETURNED_HEADER};
use tracing::{info, warn};

use super::parked_lines::may_be_written;
use crate::accept::Matched;
use crate::decode::Rejected;
use crate::look_ahead::{Came, Finished, Taken};
use crate::metrics::metrics;
use crate::spans::EventSpans;

/// An event of a batch, and what is to be made of it.
pub struct Begun {
    pub(super) taken: Taken,
    pub(super) is: Result<Matched, Rejected>,
    /// It was written, and nobody else makes its jobs.
    pub(super) is_new: bool,
    pub(super) effort: Duration,
    /// `None`: its trace isn't recorded.
    pub(super) spans: Option<Box<EventSpans>>,
}

impl Begun {
    /// It is written with so many deliveries, or was known.
    pub(super) fn committed(&self, matched: Option<usize>) {
        if let Came::Http(http) = &self.taken.came {
            http.committed(matched);
        }
    }

    pub(super) fn jobs(&self) -> usize {
        self.is.as_ref().map_or(0, |event| event.deliveries.len())
    }

    /// It would perhaps be accepted with a fresher cache.
    pub(super) fn is_refused_by_the_cache(&self) -> bool {
        matches!(
            self.is,
            Err(Rejected::UnknownTenant(_) | Rejected::TooLarge { .. } | Rejected::Unfit(_))
        )
    }

    /// What is refused isn't sent: it is checked again if it is given up.
    pub(super) fn set_sent(&mut self, is_sent: bool) {
        if let Came::Http(http) = &mut self.taken.came {
            http.set_sent(is_sent && self.is.is_ok());
        }
    }

    /// Whether its event may have been accepted without its jobs being published. One
    /// that RabbitMQ had given up on comes as a new message. A producer can say so, too. Then
    /// late copies are published, a bounded number in each batch, and find their deliveries
    /// settled. A client that asks again over HTTP may do so because its first request had no
    /// answer.
    pub(super) fn may_be_interrupted(&self) -> bool {
        let Came::Amqp(from) = &self.taken.came else {
            return true;
        };
        let headers = from.delivery.properties.headers();
        let returned = headers
            .as_ref()
            .is_some_and(|headers| headers.contains_key(RETURNED_HEADER));
        from.delivery.redelivered || returned
    }

    /// What goes to the parking queue, if it isn't an event.
    pub(super) fn park(&self) -> Option<Outgoing> {
        let (Err(reason), Came::Amqp(from)) = (&self.is, &self.taken.came) else {
            return None;
        };
        metrics()
            .rejected
            .with_label_values(&[reason.label()])
            .inc();
        let message = &from.delivery;
        let routing_key = message.routing_key.as_str();
        let id = message.properties.message_id();
        let event = id.as_ref().map(ToString::to_string);
        if let Some(left_out) = may_be_written(self.taken.tenant.as_ref()) {
            let left_out = Some(left_out).filter(|lines| *lines > 0);
            warn!(routing_key, event, %reason, left_out, "event parked");
        }
        Some(Outgoing::dead(message, &reason.to_string()))
    }

    /// All that follows from it is safe: whoever published it over HTTP is told.
    pub fn finish(self) -> Finished {
        let finished = self.taken.finished(self.jobs(), self.effort);
        if let Some(spans) = self.spans {
            spans.end(self.is_new);
        }
        if let Came::Http(http) = self.taken.came {
            match self.is {
                Ok(_) => http.is_safe(),
                Err(reason) => http.refuse(reason),
            }
        }
        finished
    }
}

/// The one line of an event.
pub(super) fn log(event: &Matched, is_new: bool, spans: Option<&EventSpans>) {
    let trace = spans.map_or(event.event.trace, |spans| Some(spans.context()));
    info!(
        tenant = %event.event.tenant,
        event = %event.id,
        event_type = %event.event.event_type,
        bytes = event.event.data.len(),
        matched = event.deliveries.len(),
        too_costly = Some(event.too_costly.len()).filter(|filters| *filters > 0),
        duplicate = (!is_new).then_some(true),
        trace_id = trace.map(|trace| tracing::field::display(trace.trace_id())),
        "accepted"
    );
}

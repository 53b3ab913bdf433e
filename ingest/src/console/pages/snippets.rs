//! How to publish an event from one's own code: for pages that have no event to show yet.
//!
//! Snippets have the address that the browser asked, and never a token.

use maud::{Markup, html};
use shared::ids::{EventType, Tenant};

use crate::console::parts::code;
use crate::console::text::block;

/// The event of the examples.
pub const EXAMPLE: &str = "{\"invoice\": \"2026-0042\", \"total\": 99.50}";

/// What was typed, if it is a type; else one to begin with.
pub fn type_or_example(typed: &str) -> String {
    let typed: Option<EventType> = typed.trim().parse().ok();
    typed.map_or_else(|| "invoice.paid".to_owned(), |name| name.to_string())
}

/// A request, as a command.
pub fn over_http(origin: &str, event_type: &str, data: &str) -> Markup {
    let curl = format!(
        "curl {origin}/api/v1/events \\\n  -H \"Authorization: Bearer $TOKEN\" \\\n  -H 'Content-Type: application/json' \\\n  -d '{{\"type\": \"{event_type}\", \"data\": {data}}}'"
    );
    code(&block(&curl))
}

/// A message, as its properties.
pub fn over_amqp(tenant: &Tenant, event_type: &str, data: &str) -> Markup {
    let message = format!(
        "exchange       posthorn.events        (topic; persistent, with confirms)\nrouting key    {tenant}.{event_type}\ncontent_type   application/json\nmessage_id     inv-2026-0042          (your event's id)\nbody           {data}"
    );
    code(&block(&message))
}

/// Both, the second one folded up.
pub fn both(origin: &str, tenant: &Tenant, event_type: &str) -> Markup {
    html! {
        (over_http(origin, event_type, EXAMPLE))
        details class="section-gap" { summary { "Over AMQP" } (over_amqp(tenant, event_type, EXAMPLE)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_no_text_that_could_end_its_quotes() {
        for typed in ["", "'; rm -rf /", "a b", "\""] {
            assert_eq!(type_or_example(typed), "invoice.paid", "{typed}");
        }
        assert_eq!(type_or_example(" order.paid "), "order.paid");
    }
}

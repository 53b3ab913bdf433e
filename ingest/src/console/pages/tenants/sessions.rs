//! Who has a tenant's portal open: the sessions that its links began.

use maud::{Markup, html};

use crate::api::portal_sessions::PortalSession;
use crate::console::moments::{ago, at, count};
use crate::console::parts::{Head, num, table, td, tr};
use crate::console::text::line;

/// How many are shown.
const MOST: usize = 10;

/// The latest of them. `open`: how many there are.
pub(super) fn sessions(open: i64, sessions: &[PortalSession]) -> Markup {
    let heads = [
        Head::Text("Begun by"),
        Head::Text("May"),
        Head::Text("Webhooks"),
        Head::Number("Last used"),
        Head::Number("Ends"),
    ];
    let rows = html! {
        @for session in sessions.iter().take(MOST) {
            (tr(&html! {
                (td("grow first", &html! { span class="cut small" { (line(&session.by)) } }))
                (td("", &line(&session.role)))
                (td("", &html! {
                    @match &session.webhooks {
                        Some(webhooks) => (count(webhooks.len() as i64, "webhook")),
                        None => "all",
                    }
                }))
                (num("", Some("last used"), &html! { (ago(session.seen_at.0)) " ago" }))
                (num("last", Some("ends"), &at(session.ends_at.0)))
            }))
        }
    };
    let more = open - MOST as i64;
    html! {
        @if !sessions.is_empty() {
            div class="pad" {
                (table("tight", &heads, &rows))
                @if more > 0 { p class="small soft" { "And " (count(more, "session")) " more, begun earlier." } }
            }
        }
    }
}

//! One event in the portal: its data, and its deliveries to webhooks that the link covers.
//!
//! An event is shown only if it was delivered to one of them. Ids are the producer's and may be
//! used again. So an event is found by its deliveries, and never by its id alone: the newest event
//! of an id may have gone to somebody else.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Html;
use maud::{Markup, html};
use shared::ids::{DeliveryId, EventId, EventUid};
use tokio_postgres::Row;

use crate::api::access::auth::Reading;
use crate::api::events::by_id::uids_of_event;
use crate::api::http::request::Name;
use crate::console::fields::of_segment;
use crate::console::moments::{bytes, count, exactly};
use crate::console::pages::webhooks::name_of;
use crate::console::parts::{Head, code, payload, table, td, tr};
use crate::console::portal::ended::{Ended, Result};
use crate::console::portal::scope::Customer;
use crate::console::portal::shell::page;
use crate::console::portal::webhook::above;
use crate::console::state::Console;
use crate::console::text::line;
use crate::console::words;

/// The most events of one id that are looked at, the newest ones.
const EVENTS: usize = 10;
/// The most deliveries that are shown.
const DELIVERIES: i64 = 100;

/// An event, as its rows say.
struct Event {
    uid: EventUid,
    /// Its type, data, and when its data was taken away.
    row: Row,
    /// Its deliveries to webhooks of the link, with their webhooks.
    deliveries: Vec<Row>,
    /// There are more deliveries.
    more: bool,
}

/// `GET /portal/events/{id}`
pub async fn show(
    State(console): State<Arc<Console>>,
    customer: Customer,
    Name(id): Name,
) -> Result<Html<String>> {
    let id: EventId = of_segment(&id).parse().map_err(|_| Ended::Nothing)?;
    let event = find(&console, &customer, &id).await?;
    let event = event.ok_or(Ended::Nothing)?;
    let content = html! {
        (head(&event, &id))
        section { h2 { (count(event.deliveries.len() as i64, "delivery")) } (deliveries(&event)) }
        (data(&event))
    };
    Ok(page(&customer, &id.to_string(), &[above()], &content))
}

async fn find(console: &Console, customer: &Customer, id: &EventId) -> Result<Option<Event>> {
    let _permit: Reading = customer.acting().await?;
    let client = console.reads.pool.get().await?;
    let mut uids = uids_of_event(&client, &customer.tenant, id).await?;
    uids.sort_unstable();
    let deliveries_of = client
        .prepare_cached(
            "-- customers_deliveries_of_event\n\
             SELECT d.id, d.state, d.attempts, d.status_code, w.description, w.url \
             FROM (SELECT id, webhook_id, state, attempts, status_code FROM deliveries \
                 WHERE event_uid = $1 \
                   AND id BETWEEN millisecond_floor($1) AND millisecond_ceiling($1)) d \
             JOIN webhooks w ON w.id = d.webhook_id \
             WHERE w.tenant = $2 AND w.status <> 'deleted' AND NOT w.operational \
               AND ($3::uuid[] IS NULL OR w.id = ANY($3)) \
             ORDER BY d.id LIMIT $4",
        )
        .await?;
    for uid in uids.into_iter().rev().take(EVENTS) {
        let webhooks = &customer.by.session.webhooks;
        let mut found = client
            .query(
                &deliveries_of,
                &[&uid, &customer.tenant, webhooks, &(DELIVERIES + 1)],
            )
            .await?;
        if found.is_empty() {
            continue;
        }
        let more = found.len() as i64 > DELIVERIES;
        found.truncate(DELIVERIES as usize);
        let statement = client
            .prepare_cached(
                "-- customers_event\n\
                 SELECT type, occurred_at, data, expunged_at FROM events \
                 WHERE uid = $1 AND tenant = $2",
            )
            .await?;
        let row = client
            .query_opt(&statement, &[&uid, &customer.tenant])
            .await?;
        return Ok(row.map(|row| Event {
            uid,
            row,
            deliveries: found,
            more,
        }));
    }
    Ok(None)
}

fn head(event: &Event, id: &EventId) -> Markup {
    html! {
        div class="head" {
            div {
                h1 { (line(id.to_string())) }
                p class="sub" {
                    code { (line(event.row.get::<_, &str>("type"))) }
                    span { "accepted " (exactly(event.uid.accepted_at())) }
                    span { "happened " (exactly(event.row.get("occurred_at"))) }
                }
            }
        }
    }
}

fn deliveries(event: &Event) -> Markup {
    let heads = [
        Head::Text("State"),
        Head::Text("Webhook"),
        Head::Text("Answer"),
    ];
    let rows = html! {
        @for row in &event.deliveries {
            @let id: DeliveryId = row.get("id");
            @let name = name_of(row.get("description"), row.get("url"));
            (tr(&html! {
                (td("", &words::delivery(row.get("state"), None).show()))
                (td("grow", &html! { a class="cut" href={ "/portal/deliveries/" (id) } { (line(&name)) } }))
                (td("ans", &words::answer(row.get("status_code"), row.get("attempts"))))
            }))
        }
    };
    html! {
        (table("tight", &heads, &rows))
        @if event.more { p class="small soft" { "There are more deliveries of this event." } }
    }
}

/// Without its attributes: those are between the producer and the operator.
fn data(event: &Event) -> Markup {
    let text: &str = event.row.get("data");
    let is_gone = event
        .row
        .get::<_, Option<time::OffsetDateTime>>("expunged_at")
        .is_some();
    html! {
        section class="panel" {
            header {
                h2 { "Data" }
                @if !is_gone { span class="soft small" { (bytes(text.len() as i64)) ", as it was published" } }
            }
            div class="pad" {
                @if is_gone { p class="soft" { "The data of this event was deleted." } }
                @else { (code(&payload(text))) }
            }
        }
    }
}

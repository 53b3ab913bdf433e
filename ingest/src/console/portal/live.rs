//! Live parts of the portal's pages: `GET /portal/live?part=…`.
//!
//! The streams, their bounds and what they share are the console's ([`live`](crate::console::live)).
//! Here it is decided what a link may watch: a webhook that it covers, or a delivery to one.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Response;
use shared::ids::{DeliveryId, WebhookId};

use crate::console::live::{Params, begin};
use crate::console::portal::ended::{Ended, Result, ended};
use crate::console::portal::list::normal;
use crate::console::portal::scope::Customer;
use crate::console::state::Console;
use crate::console::watch::LivePart;

/// `GET /portal/live?part=`
pub async fn show(
    State(console): State<Arc<Console>>,
    customer: Customer,
    Query(params): Query<Params>,
) -> Result<Response> {
    let part = match params.part.as_str() {
        "webhook" => {
            let id: WebhookId = params.id.parse().map_err(|_| Ended::Nothing)?;
            // Whether it is an operational one is asked when it is read.
            if !customer.covers(id) {
                return Err(Ended::Nothing);
            }
            LivePart::PortalWebhook(id, normal(&params.q))
        }
        "delivery" => {
            let id: DeliveryId = params.id.parse().map_err(|_| Ended::Nothing)?;
            if customer.covered(&[id]).await?.is_empty() {
                return Err(Ended::Nothing);
            }
            LivePart::PortalDelivery(id)
        }
        _ => return Err(Ended::Nothing),
    };
    let stream = begin(console, Some(customer.tenant), customer.by, part, &params);
    stream.await.map_err(ended)
}

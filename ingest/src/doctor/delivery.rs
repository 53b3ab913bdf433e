//! A delivery to an endpoint of this process's own: signed, sent, received, compared.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use shared::attempt::{Attempt, Keep, Purpose, Sender};
use shared::destination::Destinations;
use shared::dialect::{Dialect, Message};
use shared::egress::Egress;
use shared::ids::{DeliveryId, EventUid};
use shared::webhook::Webhook;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::report::Finding;
use crate::settings::Settings;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Whether there are CA certificates: without them no delivery over TLS succeeds.
pub(super) fn authorities() -> Finding {
    let what = "CA certificates";
    match rustls_native_certs::load_native_certs().certs.len() {
        0 => Finding::wrong(
            what,
            "this machine has none: no delivery over TLS can succeed",
            "apt-get install ca-certificates",
        ),
        count => Finding::fine(what, count.to_string()),
    }
}

pub(super) async fn to_itself(settings: &Settings) -> Finding {
    let what = "a delivery to itself";
    match deliver(settings.common.dialects.default()).await {
        Ok(took) => Finding::fine(what, format!("signed, sent and received in {took:?}")),
        Err(error) => Finding::wrong(
            what,
            format!("{error:#}"),
            "look at this machine's loopback interface and its firewall: `ip address show lo`",
        ),
    }
}

/// A request that arrived.
type Arrival = (HeaderMap, Bytes);

async fn deliver(dialect: &Arc<Dialect>) -> anyhow::Result<Duration> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (arrived, mut arrivals) = mpsc::channel(1);
    let router = Router::new().fallback(keep).with_state(arrived);
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });

    // This one destination alone; the settings' own policy has a line of its own.
    let destinations = Destinations {
        allow_http: true,
        allowed: vec![address.ip().into()],
    };
    let sender = Sender::new(destinations, Egress::default())?;
    let webhook = Webhook {
        trace_header: false,
        ..Webhook::plain("doctor".parse()?, format!("http://{address}/"))
    };
    let uid = EventUid::generate();
    let (event_id, event_type) = (uid.into(), "doctor.examined".parse()?);
    let message = Message {
        event_id: &event_id,
        event_type: &event_type,
        occurred_at: shared::clock::now(),
        data: r#"{"healthy": true}"#,
        attributes: None,
        tenant: &webhook.tenant,
        webhook_id: webhook.id,
        external_id: None,
        delivery_id: DeliveryId::for_event(uid),
    };
    let report = sender
        .attempt(Attempt {
            message: &message,
            webhook: &webhook,
            dialect,
            timeout: TIMEOUT,
            purpose: Purpose::Test,
            keep: Keep::Excerpt,
            trace: None,
            egress: None,
        })
        .await;
    serving.abort();
    report.result.as_ref().map_err(Clone::clone)?;
    let (headers, body) = arrivals.try_recv().context("nothing arrived")?;
    let wire = dialect.compose(&message, &webhook.secrets, report.started_at);
    ensure!(body == wire.body, "another body arrived than was sent");
    for (name, value) in &wire.headers {
        let is_same = headers.get(name) == Some(value);
        ensure!(is_same, "the header `{name}` arrived changed");
    }
    Ok(report.took)
}

async fn keep(State(arrived): State<mpsc::Sender<Arrival>>, headers: HeaderMap, body: Bytes) {
    // Nobody sends a second one.
    let _ = arrived.try_send((headers, body));
}

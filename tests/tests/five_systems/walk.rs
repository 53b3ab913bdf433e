//! A tenant of one system, with what its clients have: an endpoint and a token.

use harness::receiver::{Arrival, Receiver, Script};
use harness::service::{Service, http};
use harness::world::{ADMIN_TOKEN, World, eventually};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

/// A system's clients at work.
pub(crate) struct Walk {
    pub(crate) world: World,
    pub(crate) ingest: Service,
    _dispatcher: Service,
    pub(crate) endpoint: Receiver,
    /// The tenant and its dialect have the system's name.
    pub(crate) system: &'static str,
    /// The path at which the system's API is.
    pub(crate) path: &'static str,
}

impl Walk {
    /// A new tenant with the system's dialect. Its endpoint answers as the script says.
    pub(crate) async fn start(system: &'static str, path: &'static str, script: Script) -> Self {
        let world = World::start().await;
        let (ingest, dispatcher) = (world.ingest().await, world.dispatcher().await);
        let tenant = json!({"id": system, "dialect": system});
        let made = world
            .ask_as_operator(&ingest, "POST", "/api/v1/admin/tenants", Some(tenant))
            .await;
        assert_eq!(made.status, 201, "{}", made.body);
        let endpoint = world.receiver(script).await;
        Self {
            world,
            ingest,
            _dispatcher: dispatcher,
            endpoint,
            system,
            path,
        }
    }

    /// A request of a client, below the system's path.
    pub(crate) async fn ask(&self, method: &str, below: &str, body: Value) -> (u16, Value) {
        let path = format!("{}{below}", self.path);
        ask(&self.ingest, method, &path, self.system, &body).await
    }

    /// A request that is answered with 2xx.
    pub(crate) async fn get(&self, below: &str) -> Value {
        let (status, body) = self.ask("GET", below, Value::Null).await;
        assert_eq!(status, 200, "{below}: {body}");
        body
    }

    /// Creates a webhook for the endpoint; the form has the system's members.
    pub(crate) async fn webhook(&self, form: Value) -> Value {
        let (status, made) = self.ask("POST", "", form).await;
        assert_eq!(status, 201, "{made}");
        made
    }

    /// Publishes an event over HTTP, as it is.
    pub(crate) async fn publish(&self, event: Value) -> Value {
        let (status, taken) =
            ask(&self.ingest, "POST", "/api/v1/events", self.system, &event).await;
        assert_eq!(status, 202, "{taken}");
        taken
    }

    /// Publishes an event over HTTP, whose JSON is sent as it is written here.
    pub(crate) async fn publish_text(&self, event: &str) {
        let path = "/api/v1/events";
        let (status, taken) = ask_text(
            &self.ingest,
            "POST",
            path,
            self.system,
            Some(event.to_owned()),
        )
        .await;
        assert_eq!(status, 202, "{taken}");
    }

    /// The first delivery of a webhook, once its status is one of these.
    pub(crate) async fn delivery_in(&self, webhook: &Value, statuses: &[&str]) -> Value {
        let id = webhook["id"].as_str().unwrap();
        let mut found = Value::Null;
        eventually(&format!("a delivery is {statuses:?}"), async || {
            found = self.get(&format!("/{id}/deliveries")).await["deliveries"][0].clone();
            statuses.iter().any(|status| found["status"] == *status)
        })
        .await;
        found
    }

    pub(crate) async fn finish(self) {
        self.world.finish().await;
    }
}

/// A request by the operator, for the tenant that `X-Tenant-ID` names.
pub(crate) async fn ask(
    ingest: &Service,
    method: &str,
    path: &str,
    tenant: &str,
    body: &Value,
) -> (u16, Value) {
    let body = (!body.is_null()).then(|| body.to_string());
    ask_text(ingest, method, path, tenant, body).await
}

async fn ask_text(
    ingest: &Service,
    method: &str,
    path: &str,
    tenant: &str,
    body: Option<String>,
) -> (u16, Value) {
    let mut request = http()
        .request(method.parse().unwrap(), ingest.url(path))
        .bearer_auth(ADMIN_TOKEN)
        .header("X-Tenant-ID", tenant)
        .header("content-type", "application/json");
    if let Some(body) = body {
        request = request.body(body);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}

/// HMAC-SHA256 in hex, as all five systems' receivers compute it.
pub(crate) fn hex_hmac(secret: &str, signed: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(signed);
    hex::encode(mac.finalize().into_bytes())
}

/// Whether a time is RFC 3339 in UTC with three digits after the second.
pub(crate) fn has_milliseconds(time: &Value) -> bool {
    let text = time.as_str().unwrap_or_default();
    text.len() == "2026-01-31T10:00:00.000Z".len() && text.ends_with('Z')
}

/// The member names of a body, in order.
pub(crate) fn members(arrival: &Arrival) -> Vec<String> {
    let text = std::str::from_utf8(&arrival.body).unwrap();
    let table: serde_json::Map<String, Value> = serde_json::from_str(text).unwrap();
    let mut names: Vec<_> = table.keys().cloned().collect();
    names.sort_by_key(|name| text.find(&format!("\"{name}\":")));
    names
}

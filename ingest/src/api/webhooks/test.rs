//! Test deliveries: what does this endpoint answer?
//!
//! A test is a real, signed request, composed like any delivery to this webhook and
//! held to the same rules for destinations. Its header `X-Posthorn-Test: true` and
//! its event id, which begins with `evt_test_`, tell it from a delivery.
//!
//! Ingest sends it while the client waits, and answers with the outcome. There is no
//! event and no delivery; nothing is retried, logged or counted. A webhook that
//! is switched off can be tested, too.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use shared::attempt::{Answer, Attempt, Keep, Purpose, Report};
use shared::clock;
use shared::dialect::{Dialect, Message};
use shared::ids::{DeliveryId, EventId, EventType, EventUid, Malformed, Tenant, WebhookId};
use shared::tenant::MAX_PAYLOAD;
use shared::webhook::Webhook;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::access::auth::OwnManaging;
use crate::api::http::problem::{Problem, Result};
use crate::api::http::request::{Body, Id, OptionalBody};
use crate::api::openapi::words::AttemptOutcome;
use crate::api::state::{Api, Shared};
use crate::api::webhooks::tester::judge;
use crate::event_types::store::example_of;
use crate::invalid::{Gathered, Invalid, Invalids, NotFound};
use crate::json_text::{MAX_DEPTH, depth};

/// What is sent to a webhook that names no event type.
const ANY_TYPE: &str = "posthorn.test";
/// What is sent unless the request says something.
const EXAMPLE: &str = r#"{"test":true,"message":"A test delivery from Posthorn."}"#;

/// `/api/v1/webhooks/{id}/test` and `/api/v1/webhooks/test`
pub fn of_webhook() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(test))
        .routes(routes!(test_by_id))
}

/// What to send.
#[derive(Default, Deserialize, ToSchema)]
#[schema(example = json!({"event_type": "order.created", "data": {"total": 25.5}}))]
#[serde(deny_unknown_fields)]
pub struct NewTest {
    /// The event type; by default the first that the webhook names without a wildcard.
    #[serde(alias = "event")]
    #[schema(
        value_type = Option<EventType>, nullable = false,
        extensions(("x-also" = json!(["event"])))
    )]
    pub event_type: Option<String>,
    /// Any JSON; by default the catalogue's example of the type.
    #[schema(value_type = serde_json::Value, required = false, example = json!({"n": 1}))]
    pub data: Option<Box<RawValue>>,
}

impl NewTest {
    /// Checks every member. Answers the event type, if it names one.
    ///
    /// # Errors
    /// Names each that is out of its bounds.
    pub fn check(&self) -> std::result::Result<Option<EventType>, Invalids> {
        let mut wrong = Gathered::default();
        let named = self.event_type.as_deref().map(str::parse).transpose();
        let named = wrong.take(named.map_err(|error: Malformed| Invalid::new("event_type", error)));
        if self
            .data
            .as_ref()
            .is_some_and(|it| depth(it.get()) > MAX_DEPTH)
        {
            let bound = format!("is nested more than {MAX_DEPTH} levels deep");
            wrong.add(Invalid::new("data", bound));
        }
        wrong.finish(named)
    }
}

/// A test's event, and the webhook to send it to.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({
    "webhook_id": "wh_01kb4v2p8zf5sttdw3m8e7h2xk", "event_type": "order.created", "data": {"total": 25.5}
}))]
#[serde(deny_unknown_fields)]
pub struct NewTestById {
    #[schema(value_type = WebhookId)]
    pub webhook_id: String,
    /// The event type; by default the first that the webhook names without a wildcard.
    #[serde(alias = "event")]
    #[schema(
        value_type = Option<EventType>, nullable = false,
        extensions(("x-also" = json!(["event"])))
    )]
    pub event_type: Option<String>,
    /// Any JSON; by default the catalogue's example of the type.
    #[schema(value_type = serde_json::Value, required = false, example = json!({"n": 1}))]
    pub data: Option<Box<RawValue>>,
}

/// The endpoint's answer to a test.
#[derive(Serialize, ToSchema)]
pub struct Tested {
    pub webhook_id: WebhookId,
    /// Begins with `evt_test_`.
    pub event_id: EventId,
    pub event_type: EventType,
    /// Whether a real delivery would count as delivered.
    pub success: bool,
    /// The outcome in words, with advice.
    #[schema(example = "The endpoint took it.")]
    pub verdict: String,
    /// How it ended.
    #[schema(value_type = AttemptOutcome)]
    pub outcome: &'static str,
    #[schema(required, example = 200)]
    pub response_code: Option<u16>,
    pub response_time_ms: u64,
    /// Names and values.
    #[schema(required)]
    pub response_headers: Option<Vec<(String, String)>>,
    /// The first 16 KiB of it, as text.
    #[schema(required)]
    pub response_body: Option<String>,
    /// Names and values. The values of the webhook's own headers are left out.
    #[schema(required)]
    pub request_headers: Option<Vec<(String, String)>>,
    /// What was sent, as it was signed.
    #[schema(required)]
    pub request_body: Option<String>,
    /// The IP address and port that were connected to.
    #[schema(required)]
    pub remote_address: Option<String>,
    /// Why no answer was received.
    #[schema(required)]
    pub error: Option<String>,
}

/// Test a webhook
///
/// Sends a real, signed request, marked with `X-Posthorn-Test: true`, and answers
/// with what the endpoint said. Nothing of it is stored or counted. The body may
/// be left out.
#[utoipa::path(
    post, path = "/{id}/test", operation_id = "test_webhook", tag = "webhooks",
    security(("token" = ["manager"])),
    params(("id" = WebhookId, Path)),
    request_body = Option<NewTest>,
    responses((status = 200, description = "The endpoint's answer.", body = Tested)),
)]
pub async fn test(
    acting: OwnManaging,
    State(api): State<Shared>,
    Id(webhook): Id<WebhookId>,
    OptionalBody(new): OptionalBody<NewTest>,
) -> Result<Json<Tested>> {
    send(&api, acting, webhook, new).await.map(Json)
}

/// Test a webhook
///
/// The same as `/{id}/test`, with the webhook's id in the body.
#[utoipa::path(
    post, path = "/test", operation_id = "test_webhook_by_id", tag = "webhooks",
    security(("token" = ["manager"])),
    request_body = NewTestById,
    responses(
        (status = 200, description = "The endpoint's answer.", body = Tested),
        (status = 404, description = "The webhook does not exist, or belongs to another tenant."),
    ),
)]
pub async fn test_by_id(
    acting: OwnManaging,
    State(api): State<Shared>,
    Body(new): Body<NewTestById>,
) -> Result<Json<Tested>> {
    let webhook = new
        .webhook_id
        .parse()
        .map_err(|error: Malformed| Problem::not_found(error.to_string()))?;
    acting.must_own(&api, webhook).await?;
    let new = NewTest {
        event_type: new.event_type,
        data: new.data,
    };
    send(&api, acting, webhook, new).await.map(Json)
}

async fn send(api: &Api, acting: OwnManaging, id: WebhookId, new: NewTest) -> Result<Tested> {
    let OwnManaging {
        tenant,
        permit: postgres,
        ..
    } = acting;
    let tenant = &tenant;
    let (webhook, patterns, dialect) = find_with_dialect(api, tenant, id).await?;
    let event_type = new.check()?.unwrap_or_else(|| first_type(&patterns));
    let data = match new.data {
        Some(data) => data.get().to_owned(),
        None => {
            let client = api.pool.get().await?;
            let example = example_of(&client, tenant, &event_type).await?;
            example.unwrap_or_else(|| EXAMPLE.to_owned())
        }
    };
    let limit = api.subscriptions.max_payload(tenant).unwrap_or(MAX_PAYLOAD);
    if data.len() > limit {
        return Err(Problem::too_large(format!(
            "data is {} bytes; at most {limit} are allowed",
            data.len()
        )));
    }
    // The endpoint may take its time.
    drop(postgres);
    let event_id = test_event_id();
    let now = clock::now();
    let message = Message {
        event_id: &event_id,
        event_type: &event_type,
        occurred_at: now,
        data: &data,
        attributes: None,
        tenant,
        webhook_id: id,
        external_id: webhook.external_id.as_ref(),
        delivery_id: DeliveryId::generate(),
    };
    let egress = api.subscriptions.egress(tenant);
    let attempt = Attempt {
        message: &message,
        webhook: &webhook,
        dialect: &dialect,
        timeout: webhook.timeout_in(&dialect, api.tester.default_timeout),
        purpose: Purpose::Test,
        egress: egress.as_deref(),
        keep: Keep::Everything,
        trace: None,
    };
    let report = api.tester.send(tenant, attempt).await?;
    Ok(Tested::new(&report, &dialect, &message))
}

/// The webhook, its patterns, and its dialect or its tenant's.
///
/// # Errors
/// If there is no such webhook, its secrets can't be opened, or its dialect isn't known.
pub async fn find_with_dialect(
    api: &Api,
    tenant: &Tenant,
    id: WebhookId,
) -> Result<(Webhook, Vec<String>, std::sync::Arc<Dialect>)> {
    let (webhook, patterns, tenants_dialect) = find_webhook(api, tenant, id).await?;
    let name = webhook.dialect.as_ref().unwrap_or(&tenants_dialect);
    let dialect = api.dialects.get(name).cloned().ok_or_else(|| {
        Problem::conflict(format!("the dialect `{name}` isn't known to this server"))
    })?;
    Ok((webhook, patterns, dialect))
}

/// With its patterns and its tenant's dialect.
async fn find_webhook(
    api: &Api,
    tenant: &Tenant,
    id: WebhookId,
) -> Result<(Webhook, Vec<String>, String)> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(&format!(
            "-- webhook_to_test\n\
             SELECT {}, patterns, (SELECT t.dialect FROM tenants t WHERE t.id = tenant) AS tenants_dialect \
             FROM webhooks WHERE id = $1 AND tenant = $2 AND status <> 'deleted'",
            Webhook::COLUMNS
        ))
        .await?;
    let row = client
        .query_opt(&statement, &[&id, tenant])
        .await?
        .ok_or_else(|| NotFound::webhook(id))?;
    let webhook =
        Webhook::read(&row, &api.keys).map_err(|unreadable| Problem::unreadable(id, unreadable))?;
    Ok((webhook, row.get("patterns"), row.get("tenants_dialect")))
}

/// The first type that the webhook names in full.
fn first_type(patterns: &[String]) -> EventType {
    let named = patterns.iter().find_map(|name| name.parse().ok());
    named.unwrap_or_else(|| match ANY_TYPE.parse() {
        Ok(any) => any,
        Err(error) => unreachable!("`{ANY_TYPE}` is an event type: {error}"),
    })
}

fn test_event_id() -> EventId {
    let id = EventUid::generate()
        .to_string()
        .replacen("evt_", "evt_test_", 1);
    match id.parse() {
        Ok(id) => id,
        Err(error) => unreachable!("a TypeID with another prefix is an event id: {error}"),
    }
}

impl Tested {
    fn new(report: &Report, dialect: &Dialect, message: &Message<'_>) -> Self {
        let answer = report.result.as_ref().ok();
        let request = report.request.as_ref();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let shown = |answer: &Answer| {
            let end = answer.body.len().min(Keep::Excerpt.of_answer());
            text(&answer.body[..end])
        };
        let (success, verdict) = judge(report, dialect);
        Self {
            webhook_id: message.webhook_id,
            event_id: message.event_id.clone(),
            event_type: message.event_type.clone(),
            success,
            verdict,
            outcome: report.outcome(),
            response_code: answer.map(|answer| answer.status),
            response_time_ms: report.took.as_millis() as u64,
            response_headers: answer.map(|answer| answer.headers.clone()),
            response_body: answer.map(shown),
            request_headers: request.map(|request| request.headers.clone()),
            request_body: request.and_then(|request| request.body.as_deref().map(text)),
            remote_address: report.remote.map(|address| address.to_string()),
            error: report.result.as_ref().err().map(ToString::to_string),
        }
    }
}

//! Test deliveries: what would this endpoint say?
//!
//! A test is a real request, signed and composed as any delivery to this webhook,
//! under the same rules for destinations; it carries `X-Posthorn-Test: true` and
//! an event id that begins with `evt_test_`. It is sent from here, at once, and
//! its outcome is the answer: there is no event, no delivery, nothing is retried,
//! logged or counted. A webhook that is switched off can be tested, too.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use shared::attempt::{Answer, Attempt, Failure, Keep, Purpose, Report, Sender};
use shared::clock;
use shared::dialect::{Dialect, Meaning, Message};
use shared::excerpt::{MAX_ERROR, excerpt};
use shared::ids::{DeliveryId, EventId, EventType, EventUid, Tenant, WebhookId};
use shared::tenant::MAX_PAYLOAD;
use shared::webhook::Webhook;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::access::auth::Managing;
use crate::api::http::problem::{Problem, Result};
use crate::api::http::request::{Body, Id, OptionalBody};
use crate::api::{Api, Shared};
use crate::decode::{MAX_DEPTH, depth};
use crate::event_types::store::example_of;

/// How many tests may be under way at a time.
const PLACES: usize = 32;
/// How many of them may be one tenant's.
const PLACES_OF_TENANT: usize = 4;
/// What is sent to a webhook that names no event type.
const ANY_TYPE: &str = "posthorn.test";
/// What is sent unless the request says something.
const EXAMPLE: &str = r#"{"test":true,"message":"A test delivery from Posthorn."}"#;

/// Sends tests.
pub struct Tester {
    sender: Sender,
    /// `WEBHOOK_TIMEOUT`.
    default_timeout: Option<Duration>,
    places: Places,
}

/// Who has how many tests under way.
#[derive(Default)]
struct Places(Mutex<HashMap<Tenant, usize>>);

/// One of them; given back when it is dropped.
struct Place<'a> {
    of: &'a Places,
    tenant: &'a Tenant,
}

impl Places {
    fn taken(&self) -> MutexGuard<'_, HashMap<Tenant, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take<'a>(&'a self, tenant: &'a Tenant) -> Result<Place<'a>> {
        let mut taken = self.taken();
        let of_tenant = taken.get(tenant).copied().unwrap_or_default();
        if of_tenant >= PLACES_OF_TENANT {
            return Err(Problem::unavailable(format!(
                "{PLACES_OF_TENANT} tests of this tenant's are under way, as many as may be; try again"
            )));
        }
        if taken.values().sum::<usize>() >= PLACES {
            return Err(Problem::unavailable(format!(
                "{PLACES} tests are under way, as many as may be; try again"
            )));
        }
        taken.insert(tenant.clone(), of_tenant + 1);
        Ok(Place { of: self, tenant })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut taken = self.of.taken();
        match taken.get_mut(self.tenant) {
            Some(places) if *places > 1 => *places -= 1,
            _ => drop(taken.remove(self.tenant)),
        }
    }
}

impl Tester {
    /// One that sends like a dispatcher.
    pub fn new(sender: Sender, default_timeout: Option<Duration>) -> Self {
        Self {
            sender,
            default_timeout,
            places: Places::default(),
        }
    }
}

/// `/api/v1/webhooks/{id}/test` and `/api/v1/webhooks/test`
pub fn of_webhook() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(test))
        .routes(routes!(test_by_id))
}

/// What to send.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewTest {
    /// The first that the webhook names in full, unless set.
    #[serde(alias = "event")]
    #[schema(
        value_type = Option<EventType>, nullable = false,
        extensions(("x-also" = json!(["event"])))
    )]
    event_type: Option<String>,
    /// Any JSON; the catalogue's example of the type, unless set.
    #[schema(value_type = serde_json::Value, required = false, example = json!({"n": 1}))]
    data: Option<Box<RawValue>>,
}

/// What to send where.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewTestById {
    #[schema(value_type = WebhookId)]
    webhook_id: String,
    /// The first that the webhook names in full, unless set.
    #[serde(alias = "event")]
    #[schema(
        value_type = Option<EventType>, nullable = false,
        extensions(("x-also" = json!(["event"])))
    )]
    event_type: Option<String>,
    /// Any JSON; the catalogue's example of the type, unless set.
    #[schema(value_type = serde_json::Value, required = false, example = json!({"n": 1}))]
    data: Option<Box<RawValue>>,
}

/// What the endpoint said to a test.
#[derive(Serialize, ToSchema)]
struct Tested {
    webhook_id: WebhookId,
    /// Begins with `evt_test_`.
    event_id: EventId,
    event_type: EventType,
    /// Whether a delivery would count as delivered.
    success: bool,
    /// What it means, in words.
    #[schema(example = "The endpoint took it.")]
    verdict: String,
    /// `success`, `redirect`, `client_error`, `server_error`, `timeout`, `dns`,
    /// `connect`, `tls`, `broken` or `forbidden`.
    #[schema(example = "success")]
    outcome: &'static str,
    #[schema(required, example = 200)]
    response_code: Option<u16>,
    response_time_ms: u64,
    /// Names and values.
    #[schema(required)]
    response_headers: Option<Vec<(String, String)>>,
    /// The first 16 KiB of it, as text.
    #[schema(required)]
    response_body: Option<String>,
    /// Names and values. The values of the webhook's own headers are left out.
    #[schema(required)]
    request_headers: Option<Vec<(String, String)>>,
    /// What was sent, as it was signed.
    #[schema(required)]
    request_body: Option<String>,
    /// The address that was connected to.
    #[schema(required)]
    remote_address: Option<String>,
    /// Why there is no answer.
    #[schema(required)]
    error: Option<String>,
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
    responses((status = 200, description = "What the endpoint said.", body = Tested)),
)]
async fn test(
    acting: Managing,
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
        (status = 200, description = "What the endpoint said.", body = Tested),
        (status = 404, description = "There is no such webhook."),
    ),
)]
async fn test_by_id(
    acting: Managing,
    State(api): State<Shared>,
    Body(new): Body<NewTestById>,
) -> Result<Json<Tested>> {
    let webhook = new
        .webhook_id
        .parse()
        .map_err(|error: shared::ids::Malformed| Problem::not_found(error.to_string()))?;
    let new = NewTest {
        event_type: new.event_type,
        data: new.data,
    };
    send(&api, acting, webhook, new).await.map(Json)
}

async fn send(api: &Api, acting: Managing, id: WebhookId, new: NewTest) -> Result<Tested> {
    let Managing {
        tenant,
        place: postgres,
    } = acting;
    let tenant = &tenant;
    let (webhook, patterns, dialect) = find(api, tenant, id).await?;
    let event_type = match new.event_type {
        Some(text) => text.parse().map_err(|error: shared::ids::Malformed| {
            Problem::field("event_type", error.to_string())
        })?,
        None => first_type(&patterns),
    };
    let data = match new.data {
        Some(data) => data.get().to_owned(),
        None => {
            let client = api.pool.get().await?;
            let example = example_of(&client, tenant, &event_type).await?;
            example.unwrap_or_else(|| EXAMPLE.to_owned())
        }
    };
    check(api, tenant, &data)?;
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
        delivery_id: DeliveryId::generate(),
    };
    let _place = api.tester.places.take(tenant)?;
    let report = api
        .tester
        .sender
        .attempt(Attempt {
            message: &message,
            webhook: &webhook,
            dialect: &dialect,
            timeout: webhook.timeout_in(&dialect, api.tester.default_timeout),
            purpose: Purpose::Test,
            keep: Keep::Everything,
        })
        .await;
    Ok(Tested::of(&report, &dialect, &message))
}

/// The webhook, its patterns, and its dialect or its tenant's.
async fn find(
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
        .ok_or_else(|| Problem::not_found(format!("there is no webhook {id}")))?;
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

fn check(api: &Api, tenant: &Tenant, data: &str) -> Result<()> {
    let limit = api.subscriptions.max_payload(tenant).unwrap_or(MAX_PAYLOAD);
    if data.len() > limit {
        return Err(Problem::too_large(format!(
            "data is {} bytes; at most {limit} are allowed",
            data.len()
        )));
    }
    if depth(data) > MAX_DEPTH {
        let bound = format!("is nested more than {MAX_DEPTH} levels deep");
        return Err(Problem::field("data", bound));
    }
    Ok(())
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
    fn of(report: &Report, dialect: &Dialect, message: &Message<'_>) -> Self {
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

/// Whether the delivery would be delivered, and what to make of it otherwise.
fn judge(report: &Report, dialect: &Dialect) -> (bool, String) {
    let answer = match &report.result {
        Err(failure) => return (false, explain(failure, report.took)),
        Ok(answer) => answer,
    };
    let status = answer.status;
    let said = match (dialect.policy().answers.meaning(status), status) {
        (Meaning::Delivered, _) => return (true, "The endpoint took it.".to_owned()),
        (Meaning::Disable, _) => {
            "it says that it is gone: a delivery would disable this webhook".to_owned()
        }
        (_, 300..=399) => match header(answer, "location") {
            Some(location) => format!(
                "it redirects to {}, and redirects are not followed: make that the webhook's URL",
                excerpt(location, MAX_ERROR)
            ),
            None => "it redirects, and redirects are not followed".to_owned(),
        },
        (_, 400 | 422) => {
            "it could not make sense of the body: is this the dialect that it expects?".to_owned()
        }
        (_, 401 | 403) => {
            "it refused: does it verify the signature with this webhook's secret, over the \
                           body's exact bytes, and does it want a header of its own?"
                .to_owned()
        }
        (_, 404) => "nothing is served at this path".to_owned(),
        (_, 405) => "it does not take POST at this path".to_owned(),
        (_, 413) => "the body is too large for it".to_owned(),
        (_, 415) => "it does not take this content type".to_owned(),
        (_, 429) => "it wants to be asked less often: give the webhook a rate limit".to_owned(),
        (_, 500..) => "it failed: its own log should say why".to_owned(),
        _ => "that does not count as delivered".to_owned(),
    };
    (false, format!("The endpoint answered {status}: {said}."))
}

/// What to make of there being no answer.
fn explain(failure: &Failure, took: Duration) -> String {
    match failure {
        Failure::Dns(cause) => format!("The name of the URL's host does not resolve: {cause}."),
        Failure::Connect(cause) => format!("Nothing accepts connections there: {cause}."),
        Failure::Tls(cause) => format!(
            "There is no trusted TLS connection: {cause}. Is the certificate valid, for this name, and sent \
             with its intermediates?"
        ),
        Failure::Timeout => format!(
            "There was no answer within {:.1} s. Answer first and work afterwards, or raise the webhook's timeout.",
            took.as_secs_f64()
        ),
        Failure::Broken(cause) => {
            format!("The connection was made, but what came back is no HTTP answer: {cause}.")
        }
        Failure::Forbidden(cause) => format!("Posthorn does not send there: the URL {cause}."),
    }
}

fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    let mut headers = answer.headers.iter();
    headers
        .find(|(known, _)| known == name)
        .map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use shared::dialect::Dialects;

    use super::*;

    fn verdict(dialect: &str, result: std::result::Result<Answer, Failure>) -> (bool, String) {
        let report = Report {
            request: None,
            started_at: time::OffsetDateTime::UNIX_EPOCH,
            took: Duration::from_secs(3),
            remote: None,
            result,
        };
        judge(&report, Dialects::embedded().get(dialect).unwrap())
    }

    fn answered(status: u16) -> std::result::Result<Answer, Failure> {
        Ok(Answer {
            status,
            headers: vec![("location".to_owned(), "https://example.org/".to_owned())],
            ..Answer::default()
        })
    }

    #[test]
    fn no_tenant_takes_every_place() {
        let places = Places::default();
        let tenants: Vec<Tenant> = (0..9).map(|n| format!("t{n}").parse().unwrap()).collect();
        let mut held = Vec::new();
        for tenant in &tenants[..8] {
            held.extend((0..PLACES_OF_TENANT).map(|_| places.take(tenant).unwrap()));
            assert!(places.take(tenant).is_err());
        }
        assert!(places.take(&tenants[8]).is_err(), "all are taken");
        held.pop();
        drop(places.take(&tenants[8]).unwrap());
        drop(places.take(&tenants[7]).unwrap());
        held.clear();
        assert!(places.taken().is_empty());
    }

    #[test]
    fn what_came_back_is_put_into_words() {
        for (result, success, words) in [
            (answered(204), true, "took it"),
            (answered(302), false, "https://example.org/"),
            (answered(401), false, "secret"),
            (answered(404), false, "path"),
            (answered(410), false, "disable"),
            (answered(503), false, "503"),
            (Err(Failure::Timeout), false, "within 3.0 s"),
            (Err(Failure::Dns("no such host".into())), false, "resolve"),
            (
                Err(Failure::Tls("UnknownIssuer".into())),
                false,
                "certificate",
            ),
            (Err(Failure::Connect("refused".into())), false, "refused"),
        ] {
            let (delivered, said) = verdict("standard", result);
            assert_eq!(delivered, success, "{said}");
            assert!(said.contains(words), "{said} lacks {words}");
        }
        let (_, said) = verdict("rishi", answered(410));
        assert!(!said.contains("disable"), "{said}");
    }
}

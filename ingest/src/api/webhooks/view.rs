//! A webhook as the API shows it: secrets and header values masked.

use std::collections::BTreeMap;

use axum::http::HeaderValue;
use deadpool_postgres::Client;
use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use shared::endpoints::{self, Down};
use shared::ids::{Tenant, WebhookId};
use shared::retry::Retry;
use shared::webhook::{Rate, Sealed, Status, read_retry};
use tokio_postgres::Row;
use utoipa::ToSchema;

use crate::api::beside::{Beside, beside};
use crate::api::http::problem::Result;
use crate::api::openapi::words::WebhookStatus;
use crate::api::state::Api;
use crate::api::webhooks::backlog::{Backlog, backlogs};
use crate::api::webhooks::health::{Health, Summary, summaries};
use crate::invalid::NotFound;
use crate::timestamp::Timestamp;
use crate::webhooks::form::Signing;
use crate::webhooks::rate_limit::RateLimit;

/// A tenant's subscription.
#[derive(Serialize, ToSchema)]
#[schema(as = Webhook)]
pub struct WebhookView {
    /// The id.
    pub id: WebhookId,
    /// The URL that deliveries are sent to.
    #[schema(example = "https://example.com/hooks")]
    pub url: String,
    /// Patterns of event types.
    #[schema(example = json!(["order.*"]))]
    pub events: Vec<String>,
    pub description: String,
    /// Whether the webhook gets deliveries.
    pub active: bool,
    /// `active`; `paused`: deliveries are held; `inactive` (switched off by its owner)
    /// or `disabled` (by Posthorn): there are none.
    #[schema(value_type = WebhookStatus)]
    pub status: &'static str,
    /// Why Posthorn disabled the webhook; `null`: it didn't.
    #[schema(required)]
    pub disabled_reason: Option<String>,
    /// `false`: what is sealed of it can't be opened with this server's keys. Its deliveries wait,
    /// and its `secret`, `public_key` and `headers` are not shown.
    pub readable: bool,
    /// The secret: whole in the answer that creates it, masked in every other.
    #[schema(example = "whsec_…ab12")]
    pub secret: String,
    /// Since when it has this secret; `null`: from before Posthorn noted it.
    #[schema(required)]
    pub secret_made_at: Option<Timestamp>,
    /// Until when the previous secret signs too; `null` in a dialect with space for one signature.
    #[schema(required)]
    pub previous_secret_until: Option<Timestamp>,
    /// `hmac`: the secret signs. `ed25519`: a key signs too.
    pub signing: Signing,
    /// The public key, if a key signs; also at `/.well-known/webhook-keys/{id}`.
    #[schema(required, example = "whpk_…")]
    pub public_key: Option<String>,
    /// Headers that are sent with every delivery; their values are not shown.
    #[schema(example = json!({"X-Api-Key": "…"}))]
    pub headers: BTreeMap<String, &'static str>,
    /// The client certificate for the TLS handshake; `null`: none.
    #[schema(required)]
    pub client_certificate: Option<CertificateView>,
    /// What bearer tokens are asked for with; `null`: none.
    #[schema(required)]
    pub oauth2: Option<OAuthView>,
    /// A filter on events' data; `null`: none.
    #[schema(required, value_type = Option<Object>, example = json!({"total": {"$gte": 10}}))]
    pub filters: Option<Value>,
    /// The timeout of a request, in milliseconds; `null`: the dialect's.
    #[schema(required, example = 30_000)]
    pub timeout: Option<u64>,
    /// Changes to the dialect's retry schedule; `null`: none.
    #[schema(required)]
    pub retry_policy: Option<Retry>,
    /// The most attempts in a period; `null`: no limit.
    #[schema(required)]
    pub rate_limit: Option<RateLimit>,
    /// Whether each attempt's request and answer are stored whole.
    pub debug_mode: bool,
    /// Whether its deliveries carry the trace of their event, in the header `traceparent`.
    pub trace_header: bool,
    /// Whether it gets operational events, such as `webhook.disabled`, and no others.
    pub operational: bool,
    /// The dialect of its deliveries; `null`: the tenant's.
    #[schema(required, example = "standard")]
    pub dialect: Option<String>,
    /// Any JSON object. Posthorn stores it and doesn't use it.
    #[schema(value_type = Object)]
    pub metadata: Value,
    /// What the webhook was called in the system that it comes from; `null`: it comes from none.
    #[schema(required, example = "webhook_123")]
    pub external_id: Option<String>,
    /// The user of the tenant that it belongs to; `null`: it belongs to the tenant.
    #[schema(required, example = "user-7")]
    pub owner: Option<String>,
    /// The `key` in the file of `posthorn-ingest apply` that declares it; `null`: no file does.
    #[schema(required, example = "billing")]
    pub key: Option<String>,
    pub created_at: Timestamp,
    /// The same as `created_at`.
    #[serde(rename = "createdAt")]
    pub created_at_too: Timestamp,
    pub updated_at: Timestamp,
    /// The endpoint's state, judged by its latest answers.
    pub health: Health,
    /// Since when its deliveries wait because the endpoint is down; `null`: it isn't.
    #[schema(required)]
    pub down_since: Option<Timestamp>,
    /// When an endpoint that is down gets the next request; `null`: it isn't down, or one is
    /// in flight.
    #[schema(required)]
    pub next_probe_at: Option<Timestamp>,
    /// How many deliveries wait for it: for their first attempt, for another one, or for it to be
    /// active again. Counting stops at 10,000, and at 1,000 where webhooks are listed.
    #[schema(example = 0)]
    pub waiting: i64,
    /// Whether all were counted; `false`: there are more.
    #[schema(example = true)]
    pub waiting_counted: bool,
    /// When the event of the oldest of them was accepted.
    #[schema(required)]
    pub oldest_waiting_at: Option<Timestamp>,
    /// The number of events that it didn't get because its filter was too costly to evaluate.
    #[schema(example = 0)]
    pub too_costly_events: i64,
    /// When an event was last left out for that reason.
    #[schema(required)]
    pub last_too_costly_at: Option<Timestamp>,
    /// When a delivery was last attempted.
    #[serde(rename = "lastTriggered")]
    #[schema(required)]
    pub last_triggered: Option<Timestamp>,
    /// The members that the dialect's system has in addition.
    #[serde(flatten)]
    #[schema(ignore)]
    pub beside: Beside,
    /// Whether a secret that begins with `whsec_` must go on with base64.
    #[serde(skip)]
    pub decodes_secrets: bool,
    /// Since when it is paused, as the history of changes has it. `None`: it isn't paused, or the
    /// history doesn't go back so far.
    #[serde(skip)]
    pub paused_since: Option<Timestamp>,
    /// Which state of it this is: its ETag.
    #[serde(skip)]
    pub revision: i64,
}

/// A client certificate, without its key.
#[derive(Serialize, ToSchema)]
#[schema(as = ClientCertificate)]
pub struct CertificateView {
    /// The SHA-256 of the certificate, in hex.
    #[schema(example = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")]
    pub sha256: String,
}

impl CertificateView {
    fn new(sealed: &Sealed) -> Option<Self> {
        let certificate = sealed.client_certificate.as_ref()?;
        Some(Self {
            sha256: certificate.fingerprint(),
        })
    }
}

/// OAuth 2 client credentials, the secret masked.
#[derive(Serialize, ToSchema)]
#[schema(as = OAuth2)]
pub struct OAuthView {
    #[schema(example = "https://login.example.com/oauth2/token")]
    pub token_url: String,
    #[schema(example = "posthorn")]
    pub client_id: String,
    #[schema(example = "…")]
    pub client_secret: &'static str,
    #[schema(required, example = "events.write")]
    pub scope: Option<String>,
    #[schema(required)]
    pub audience: Option<String>,
}

impl OAuthView {
    fn new(sealed: &Sealed) -> Option<Self> {
        let credentials = sealed.oauth2.as_ref()?;
        Some(Self {
            token_url: credentials.token_url.clone(),
            client_id: credentials.client_id.clone(),
            client_secret: "…",
            scope: credentials.scope.clone(),
            audience: credentials.audience.clone(),
        })
    }
}

/// What is read to show a webhook; with `w` for its table.
pub const COLUMNS: &str = "w.id, w.tenant, w.url, w.patterns, w.filter, w.dialect, w.secret, \
    w.previous_secret, w.previous_secret_until, w.signing_key, w.previous_signing_key, w.headers, \
    w.client_certificate, w.oauth2, \
    w.timeout_ms, w.retry, w.rate_limit, w.rate_period_s, w.debug_mode, w.trace_header, w.operational, w.status, \
    w.secret_made_at, w.description, w.metadata, w.external_id, w.owner, w.key, w.disabled_reason, w.created_at, w.updated_at, w.revision, \
    coalesce((SELECT c.events FROM costly_filters c WHERE c.webhook_id = w.id), 0) AS too_costly_events, \
    (SELECT c.last_at FROM costly_filters c WHERE c.webhook_id = w.id) AS last_too_costly_at, \
    CASE WHEN w.status = 'paused' THEN (SELECT c.at FROM changes c \
        WHERE c.tenant = w.tenant AND c.kind = 'webhook' AND c.object = w.id::text AND c.after ? 'status' \
        ORDER BY c.id DESC LIMIT 1) END AS paused_since, \
    (SELECT t.dialect FROM tenants t WHERE t.id = w.tenant) AS tenants_dialect";

impl WebhookView {
    /// From its row, and what was counted of it. A row that can't be read whole
    /// is shown as far as it can be.
    fn new(api: &Api, row: &Row, summary: Summary, backlog: Backlog, down: Option<&Down>) -> Self {
        let sealed = Sealed::open(row, &api.keys).ok();
        let retry = read_retry(row);
        let readable = sealed.is_some() && retry.is_ok();
        let masked = |sealed: &Sealed| sealed.secrets.current().masked();
        let key = sealed
            .as_ref()
            .and_then(|sealed| sealed.secrets.signing_key());
        let headers = sealed.as_ref().map_or(&[][..], |sealed| &sealed.headers);
        let headers = headers
            .iter()
            .map(|(name, value)| (name.clone(), mask_header(value.expose_secret())))
            .collect();
        let status = Status::read(row.get("status"));
        let signs_with_key = row.get::<_, Option<&[u8]>>("signing_key").is_some();
        let created_at = row.get("created_at");
        let own_dialect: Option<String> = row.get("dialect");
        let tenants_dialect: &str = row.get("tenants_dialect");
        let dialect = api
            .dialects
            .get(own_dialect.as_deref().unwrap_or(tenants_dialect));
        let signs_with_previous = dialect.is_none_or(|d| d.signs_with_previous_secret());
        let mut view = Self {
            id: row.get("id"),
            url: row.get("url"),
            events: row.get("patterns"),
            description: row.get("description"),
            active: status == Status::Active,
            status: status.as_str(),
            disabled_reason: row.get("disabled_reason"),
            readable,
            secret: sealed.as_ref().map_or_else(|| "…".to_owned(), masked),
            secret_made_at: row.get("secret_made_at"),
            previous_secret_until: row
                .get::<_, Option<Timestamp>>("previous_secret_until")
                .filter(|_| signs_with_previous),
            signing: if signs_with_key {
                Signing::Ed25519
            } else {
                Signing::Hmac
            },
            public_key: key.map(|key| key.public_key()),
            headers,
            client_certificate: sealed.as_ref().and_then(CertificateView::new),
            oauth2: sealed.as_ref().and_then(OAuthView::new),
            filters: row.get("filter"),
            timeout: row.get::<_, Option<i32>>("timeout_ms").map(|ms| ms as u64),
            retry_policy: retry.unwrap_or_default(),
            rate_limit: Rate::read(row).map(RateLimit::from),
            debug_mode: row.get("debug_mode"),
            trace_header: row.get("trace_header"),
            operational: row.get("operational"),
            dialect: own_dialect,
            metadata: row.get("metadata"),
            external_id: row.get("external_id"),
            owner: row.get("owner"),
            key: row.get("key"),
            created_at,
            created_at_too: created_at,
            updated_at: row.get("updated_at"),
            health: summary.health,
            down_since: down.map(|down| Timestamp(down.since)),
            next_probe_at: down.and_then(|down| down.next_probe_at).map(Timestamp),
            waiting: backlog.waiting,
            waiting_counted: backlog.counted,
            oldest_waiting_at: backlog.oldest.map(|id| Timestamp(id.accepted_at())),
            too_costly_events: row.get("too_costly_events"),
            last_too_costly_at: row.get("last_too_costly_at"),
            last_triggered: summary.last_triggered,
            beside: Beside::new(),
            decodes_secrets: dialect.is_some_and(|dialect| dialect.decodes_secrets()),
            paused_since: row.get("paused_since"),
            revision: row.get("revision"),
        };
        if let Some(dialect) = dialect {
            view.beside = beside(&dialect.additions().webhook, &view, None);
        }
        view
    }

    /// Its ETag (RFC 9110, section 8.8.3): the revision, which changes with every change to it,
    /// and a hash of all that is shown, because health and times change without one.
    pub fn etag(&self) -> HeaderValue {
        let shown = serde_json::to_vec(self).unwrap_or_default();
        let hash = hex::encode(&Sha256::digest(shown)[..8]);
        // Digits and a hyphen between quotes.
        HeaderValue::from_str(&format!("\"{}-{hash}\"", self.revision))
            .unwrap_or(HeaderValue::from_static(""))
    }
}

/// One webhook of a tenant's.
///
/// # Errors
/// If there is none of that id.
pub async fn find(api: &Api, tenant: &Tenant, id: WebhookId) -> Result<WebhookView> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(&format!(
            "-- show_webhook\n\
             SELECT {COLUMNS} FROM webhooks w \
             WHERE w.id = $1 AND w.tenant = $2 AND w.status <> 'deleted'"
        ))
        .await?;
    let row = client
        .query_opt(&statement, &[&id, tenant])
        .await?
        .ok_or_else(|| NotFound::webhook(id))?;
    let mut shown = all(api, &client, &[row]).await?;
    shown.pop().ok_or_else(|| NotFound::webhook(id).into())
}

/// Those whose rows were found, in their order.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn all(api: &Api, client: &Client, rows: &[Row]) -> Result<Vec<WebhookView>> {
    let ids: Vec<WebhookId> = rows.iter().map(|row| row.get("id")).collect();
    let summaries = summaries(client, &ids).await?;
    let down = endpoints::down(client, &ids).await?;
    let backlogs = backlogs(client, &ids).await?;
    let shown = rows.iter().zip(ids).map(|(row, id)| {
        let summary = summaries.get(&id).copied().unwrap_or(Summary::UNUSED);
        let backlog = backlogs.get(&id).copied().unwrap_or_default();
        WebhookView::new(api, row, summary, backlog, down.get(&id))
    });
    Ok(shown.collect())
}

/// Header values may be credentials: only that there is one is shown.
fn mask_header(value: &str) -> &'static str {
    if value.is_empty() { "" } else { "…" }
}

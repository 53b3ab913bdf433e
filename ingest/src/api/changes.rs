//! The history of changes: who changed what, with the values before and after.
//!
//! Triggers write it (V15) in the transaction of the change. An expunge writes its own entry. The
//! history has no secrets: of a sealed member it says only that the member changed. It keeps an
//! object's latest 200 changes for as long as the log is kept. Of a deleted object only the
//! deletion is kept.

use std::str::FromStr;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use shared::ids::{Tenant, TokenId, WebhookId};
use tokio_postgres::Row;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::access::auth::{Administering, Reading};
use crate::api::http::problem::{Problem, Result};
use crate::api::http::request::{Page, Parameters};
use crate::api::state::{Api, Shared};
use crate::timestamp::Timestamp;

/// Columns whose members have another name, and those names.
const MEMBERS: [(&str, &str); 8] = [
    ("patterns", "events"),
    ("filter", "filters"),
    ("timeout_ms", "timeout"),
    ("retry", "retry_policy"),
    ("max_webhooks", "limits.webhooks"),
    ("deliveries_per_hour", "limits.deliveries_per_hour"),
    ("max_payload", "limits.payload_bytes"),
    ("max_age_s", "limits.max_age_seconds"),
];

/// `/api/v1/changes`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(list))
}

/// `/api/v1/admin/changes`
pub fn of_all() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(list_all))
}

/// Which changes to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ChangeQuery {
    /// Only of this webhook, event type, tenant, token or event.
    #[param(example = "wh_01kb4v2p8zf5sttdw3m8e7h2xk")]
    pub object: Option<String>,
    /// The most entries of the page.
    #[param(minimum = 1, maximum = 250, default = 50)]
    pub limit: Option<i64>,
    /// `next_cursor` of the previous page.
    pub cursor: Option<String>,
}

/// A page of changes.
#[derive(Serialize, ToSchema)]
pub struct ChangePage {
    pub changes: Vec<Change>,
    /// The cursor of the next page; `null` on the last page.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

/// What sort of object was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangedKind {
    Tenant,
    Webhook,
    EventType,
    Token,
    /// Its data was expunged.
    Event,
}

/// What was done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangeAction {
    Created,
    Changed,
    Deleted,
}

/// A change.
#[derive(Serialize, ToSchema)]
#[schema(as = HistoryEntry, example = json!({
    "at": "2026-11-26T07:28:40.118Z", "actor": "token pht_9Qm1…", "action": "changed",
    "kind": "webhook", "object": "wh_01kb4v2p8zf5sttdw3m8e7h2xk",
    "before": {"url": "https://old.example.com/hooks", "secret": "…"},
    "after": {"url": "https://example.com/hooks", "secret": "…"},
}))]
pub struct Change {
    pub at: Timestamp,
    /// `token pht_9Qm1…`, `jwt <subject>`, `operator`, `command apply`, `posthorn` itself.
    pub actor: String,
    pub action: ChangeAction,
    pub kind: ChangedKind,
    /// A webhook's, a token's or an event's id, an event type's name, a tenant's id.
    pub object: String,
    /// The members that changed, as they were; `null`: it was created or deleted, or has been
    /// deleted since. A secret's value is `…`. A value of more than 2,000 characters is cut.
    #[schema(required, value_type = Option<Object>, additional_properties = true)]
    pub before: Option<Map<String, Value>>,
    /// The same members as they are since.
    #[schema(required, value_type = Option<Object>, additional_properties = true)]
    pub after: Option<Map<String, Value>>,
}

/// List changes
///
/// Newest first: of webhooks, event types and the tenant's limits, and which events were expunged.
#[utoipa::path(
    get, path = "/", operation_id = "list_changes", tag = "changes",
    security(("token" = ["viewer"])),
    params(ChangeQuery),
    responses((status = 200, description = "A page.", body = ChangePage)),
)]
pub async fn list(
    acting: Reading,
    State(api): State<Shared>,
    Parameters(query): Parameters<ChangeQuery>,
) -> Result<Json<ChangePage>> {
    find(&api, &acting.tenant, query, false).await.map(Json)
}

/// List all changes
///
/// Newest first: those of tokens too.
#[utoipa::path(
    get, path = "/", operation_id = "list_all_changes", tag = "changes",
    security(("token" = ["admin"])),
    params(ChangeQuery),
    responses((status = 200, description = "A page.", body = ChangePage)),
)]
pub async fn list_all(
    admin: Administering,
    State(api): State<Shared>,
    Parameters(query): Parameters<ChangeQuery>,
) -> Result<Json<ChangePage>> {
    let tenant = admin.tenant.ok_or_else(|| {
        Problem::field(
            "X-Tenant-ID",
            "is missing: a global token must name its tenant",
        )
    })?;
    find(&api, &tenant, query, true).await.map(Json)
}

/// A page of the tenant's changes.
///
/// # Errors
/// If a parameter is out of its bounds, or PostgreSQL fails.
pub async fn find(
    api: &Api,
    tenant: &Tenant,
    query: ChangeQuery,
    with_tokens: bool,
) -> Result<ChangePage> {
    let page = Page {
        limit: query.limit,
        cursor: query.cursor,
    };
    let (limit, before) = page.read::<i64>()?;
    let object = query.object.map(|object| stored(&object));
    let client = api.pool.get().await?;
    let rows = match object {
        None => {
            let statement = client
                .prepare_cached(
                    "-- list_changes\n\
                     SELECT * FROM changes \
                     WHERE tenant = $1 AND ($2::int8 IS NULL OR id < $2) AND ($3 OR kind <> 'token') \
                     ORDER BY id DESC LIMIT $4",
                )
                .await?;
            client
                .query(&statement, &[tenant, &before, &with_tokens, &(limit + 1)])
                .await?
        }
        Some(object) => {
            let statement = client
                .prepare_cached(
                    "-- list_changes_of_object\n\
                     SELECT * FROM changes \
                     WHERE tenant = $1 AND kind IN ('webhook', 'event_type', 'tenant', 'token', 'event') AND object = $5 \
                       AND ($2::int8 IS NULL OR id < $2) AND ($3 OR kind <> 'token') \
                     ORDER BY id DESC LIMIT $4",
                )
                .await?;
            client
                .query(
                    &statement,
                    &[tenant, &before, &with_tokens, &(limit + 1), &object],
                )
                .await?
        }
    };
    let more = rows.len() > limit as usize;
    let shown = &rows[..rows.len().min(limit as usize)];
    let last = shown.last().filter(|_| more);
    Ok(ChangePage {
        changes: shown.iter().map(Change::from_row).collect(),
        next_cursor: last.map(|row| row.get::<_, i64>("id").to_string()),
    })
}

/// An object's name as the table has it.
fn stored(object: &str) -> String {
    let webhook = WebhookId::from_str(object).map(|id| id.uuid());
    let token = TokenId::from_str(object).map(|id| id.uuid());
    webhook
        .or(token)
        .map_or_else(|_| object.to_owned(), |id| id.to_string())
}

impl Change {
    fn from_row(row: &Row) -> Self {
        let kind = match row.get("kind") {
            "tenant" => ChangedKind::Tenant,
            "webhook" => ChangedKind::Webhook,
            "event_type" => ChangedKind::EventType,
            "event" => ChangedKind::Event,
            // The table's CHECK allows no sixth.
            _ => ChangedKind::Token,
        };
        let object: String = row.get("object");
        let id = object.parse::<Uuid>().ok();
        let object = match (kind, id) {
            (ChangedKind::Webhook, Some(id)) => WebhookId::from_uuid(id).to_string(),
            (ChangedKind::Token, Some(id)) => TokenId::from_uuid(id).to_string(),
            _ => object,
        };
        Self {
            at: row.get("at"),
            actor: row.get("actor"),
            action: match row.get("action") {
                "created" => ChangeAction::Created,
                "changed" => ChangeAction::Changed,
                _ => ChangeAction::Deleted,
            },
            kind,
            object,
            before: members(row.get("before")),
            after: members(row.get("after")),
        }
    }
}

/// Under the names that the API has for them.
fn members(columns: Option<Value>) -> Option<Map<String, Value>> {
    let Some(Value::Object(columns)) = columns else {
        return None;
    };
    let named = columns.into_iter().map(|(column, value)| {
        let known = MEMBERS.iter().find(|(known, _)| *known == column);
        let name = known.map_or(column.as_str(), |(_, name)| name).to_owned();
        let is_time = column.ends_with("_at") || column.ends_with("_until");
        (name, if is_time { time(value) } else { value })
    });
    Some(named.collect())
}

/// PostgreSQL's JSON has microseconds and an offset; the API's times haven't.
fn time(value: Value) -> Value {
    let time = serde_json::from_value::<Timestamp>(value.clone());
    time.ok().map_or(value, |time| json!(time))
}

//! A tenant's configuration as a file for `posthorn-ingest apply`.
//!
//! The file is complete but for secrets and header values: each is a reference to an
//! environment variable, because no answer of the API has a secret in it. A webhook that was
//! made over the API has its id as its key; `apply` recognises it by that.

use std::collections::{BTreeMap, HashSet};

use axum::Json;
use axum::extract::State;
use deadpool_postgres::Client;
use secrecy::SecretString;
use serde::Serialize;
use serde_json::{Map, Value, json};
use shared::ids::{Tenant, WebhookId};
use shared::webhook::{Rate, Sealed, Status, read_retry};
use tokio_postgres::Row;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::access::auth::Reading;
use crate::api::http::problem::{Problem, Result};
use crate::api::state::{Api, Shared};
use crate::event_types::store::{self, MAX_EVENT_TYPES};
use crate::invalid::NotFound;
use crate::tenants::view::{COLUMNS, TenantView};
use crate::webhooks::rate_limit::RateLimit;

/// The largest export, in bytes: the most that `apply` takes.
const MAX_EXPORT: usize = 8 * 1024 * 1024;
/// Webhooks that are read at a time.
const PAGE: i64 = 200;

/// `GET /api/v1/export`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(export))
}

/// A file for `posthorn-ingest apply`.
#[derive(Serialize, ToSchema)]
struct Export {
    /// The tenant, with its event types and its webhooks.
    #[schema(value_type = Vec<Object>)]
    tenants: [Value; 1],
}

/// Export a tenant
///
/// The tenant's settings, event types and webhooks as a file for `posthorn-ingest apply`. Secrets
/// and values of headers are not in it: the file names environment variables for them.
#[utoipa::path(
    get, path = "/", operation_id = "export_tenant", tag = "tenants",
    security(("token" = ["viewer"])),
    responses(
        (status = 200, description = "The file.", body = Export),
        (status = 409, description = "The file would be larger than 8 MiB, the most that `apply` takes."),
    ),
)]
async fn export(acting: Reading, State(api): State<Shared>) -> Result<Json<Export>> {
    let tenant = &acting.tenant;
    let client = api.pool.get().await?;
    let mut file = settings(&client, tenant).await?;
    let mut size = 0;
    let mut add = |value: &Value| {
        size += value.to_string().len();
        if size > MAX_EXPORT {
            return Err(Problem::conflict(format!(
                "the export of this tenant would have more than {MAX_EXPORT} bytes, the most that `apply` takes"
            )));
        }
        Ok(())
    };
    let mut event_types = Vec::new();
    for event_type in store::list(&client, tenant, None, None, MAX_EVENT_TYPES).await? {
        let mut shown = json!({"name": event_type.name});
        let members = [
            ("description", json!(event_type.description)),
            ("example", json!(event_type.example)),
            ("schema", json!(event_type.schema)),
            ("archived", json!(event_type.archived)),
        ];
        put_members(&mut shown, members);
        add(&shown)?;
        event_types.push(shown);
    }
    let mut variables = Variables::default();
    let mut webhooks = Vec::new();
    let mut after: Option<WebhookId> = None;
    loop {
        let rows = webhooks_after(&client, tenant, after).await?;
        for row in &rows {
            let shown = webhook(&api, row, &mut variables);
            add(&shown)?;
            webhooks.push(shown);
        }
        match rows.last() {
            Some(last) if rows.len() as i64 == PAGE => after = Some(last.get("id")),
            _ => break,
        }
    }
    file["event_types"] = json!(event_types);
    file["webhooks"] = json!(webhooks);
    Ok(Json(Export { tenants: [file] }))
}

async fn settings(client: &Client, tenant: &Tenant) -> Result<Value> {
    let columns = COLUMNS;
    let statement = client
        .prepare_cached(&format!(
            "-- tenant_to_export\nSELECT {columns} FROM tenants WHERE id = $1 AND deleted_at IS NULL"
        ))
        .await?;
    let row = client.query_opt(&statement, &[tenant]).await?;
    let row = row.ok_or_else(|| NotFound::tenant(tenant))?;
    let TenantView {
        id,
        name,
        dialect,
        limits,
        alerts,
        strict_event_types,
        frame_ancestors,
        egress_proxy,
        ..
    } = TenantView::from_row(&row);
    let mut file = json!({
        "id": id, "name": name, "dialect": dialect, "limits": limits, "alerts": alerts,
        "strict_event_types": strict_event_types,
    });
    let origins = Some(frame_ancestors).filter(|origins| !origins.is_empty());
    let members = [
        ("frame_ancestors", json!(origins)),
        ("egress_proxy", json!(egress_proxy)),
    ];
    put_members(&mut file, members);
    Ok(file)
}

async fn webhooks_after(
    client: &Client,
    tenant: &Tenant,
    after: Option<WebhookId>,
) -> Result<Vec<Row>> {
    let statement = client
        .prepare_cached(&format!(
            "-- webhooks_to_export\n\
             SELECT id, key, url, patterns, description, status, operational, filter, timeout_ms, \
                 retry, rate_limit, rate_period_s, debug_mode, trace_header, dialect, metadata, external_id, owner, \
                 {} \
             FROM webhooks \
             WHERE tenant = $1 AND status <> 'deleted' AND temporary_until IS NULL \
               AND ($2::uuid IS NULL OR id > $2) \
             ORDER BY id LIMIT $3",
            Sealed::COLUMNS
        ))
        .await?;
    Ok(client.query(&statement, &[tenant, &after, &PAGE]).await?)
}

/// A webhook as a file declares it.
fn webhook(api: &Api, row: &Row, variables: &mut Variables) -> Value {
    let id: WebhookId = row.get("id");
    let key: Option<String> = row.get("key");
    let key = key.unwrap_or_else(|| id.to_string());
    let sealed = Sealed::open(row, &api.keys).ok();
    let signs_with_key = row.get::<_, Option<&[u8]>>("signing_key").is_some();
    let headers = sealed.as_ref().map_or(&[][..], |sealed| &sealed.headers);
    let from_environment = |(name, _): &(String, SecretString)| {
        let variable = variables.name(&format!("{key}_{name}"));
        (name.clone(), json!({"env": variable}))
    };
    let headers: BTreeMap<String, Value> = headers.iter().map(from_environment).collect();
    let secret = json!({"env": variables.name(&format!("{key}_SECRET"))});
    let certificate = sealed
        .as_ref()
        .and_then(|sealed| sealed.client_certificate.as_ref());
    let certificate = certificate.map_or(Value::Null, |certificate| {
        let variable = variables.name(&format!("{key}_CLIENT_KEY"));
        json!({"certificate": certificate.certificate(), "private_key": {"env": variable}})
    });
    let oauth2 = sealed.as_ref().and_then(|sealed| sealed.oauth2.as_ref());
    let oauth2 = oauth2.map_or(Value::Null, |credentials| {
        let variable = variables.name(&format!("{key}_CLIENT_SECRET"));
        let mut shown = json!(credentials);
        shown["client_secret"] = json!({"env": variable});
        shown
    });
    let status = match Status::read(row.get("status")) {
        Status::Active => None,
        Status::Paused => Some("paused"),
        // Posthorn's own reasons end here: the owner decides anew.
        Status::Inactive | Status::Disabled | Status::Deleted => Some("inactive"),
    };
    let metadata: Value = row.get("metadata");
    let mut shown = json!({
        "key": key, "url": row.get::<_, String>("url"), "events": row.get::<_, Vec<String>>("patterns"),
    });
    let members = [
        ("description", json!(row.get::<_, String>("description"))),
        ("status", json!(status)),
        ("operational", json!(row.get::<_, bool>("operational"))),
        ("filters", json!(row.get::<_, Option<Value>>("filter"))),
        ("secret", secret),
        ("headers", json!(headers)),
        ("client_certificate", certificate),
        ("oauth2", oauth2),
        ("timeout", json!(row.get::<_, Option<i32>>("timeout_ms"))),
        ("retry_policy", json!(read_retry(row).unwrap_or_default())),
        ("rate_limit", json!(Rate::read(row).map(RateLimit::from))),
        ("debug_mode", json!(row.get::<_, bool>("debug_mode"))),
        ("signing", json!(signs_with_key.then_some("ed25519"))),
        ("dialect", json!(row.get::<_, Option<String>>("dialect"))),
        ("metadata", metadata),
        (
            "external_id",
            json!(row.get::<_, Option<String>>("external_id")),
        ),
        ("owner", json!(row.get::<_, Option<String>>("owner"))),
    ];
    put_members(&mut shown, members);
    if !row.get::<_, bool>("trace_header") {
        shown["trace_header"] = json!(false);
    }
    shown
}

/// Puts in what isn't the default: `null`, `false`, `""` and `{}` are.
fn put_members<const N: usize>(shown: &mut Value, members: [(&str, Value); N]) {
    let is_default = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    };
    let Some(shown) = shown.as_object_mut() else {
        return;
    };
    let said = members.into_iter().filter(|(_, value)| !is_default(value));
    let said = said.map(|(name, value)| (name.to_owned(), value));
    shown.extend(said.collect::<Map<_, _>>());
}

/// Names of environment variables, no two of which are the same.
#[derive(Default)]
struct Variables(HashSet<String>);

impl Variables {
    /// `POSTHORN_APPLY_` and the text in capital letters, with a number if another text has led
    /// to the same name.
    fn name(&mut self, text: &str) -> String {
        let name: String = text
            .chars()
            .map(|c| match c.is_ascii_alphanumeric() {
                true => c.to_ascii_uppercase(),
                false => '_',
            })
            .collect();
        let name = format!("POSTHORN_APPLY_{name}");
        let numbered = |n: usize| match n {
            1 => name.clone(),
            n => format!("{name}_{n}"),
        };
        let mut numbers = 1..;
        loop {
            let candidate = numbers.next().map(numbered).unwrap_or_default();
            if self.0.insert(candidate.clone()) {
                return candidate;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_keys_never_share_a_variable() {
        let mut variables = Variables::default();
        assert_eq!(variables.name("a.b_SECRET"), "POSTHORN_APPLY_A_B_SECRET");
        assert_eq!(variables.name("a-b_SECRET"), "POSTHORN_APPLY_A_B_SECRET_2");
    }
}

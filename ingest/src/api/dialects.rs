//! The dialects that webhooks and tenants may have.

use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use shared::dialect::{DEFAULT, Dialect, Dialects};

use super::Shared;
use super::auth::Reading;
use super::problem::{Problem, Result};

/// `/api/v1/dialects…`
pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/", get(list))
        .route("/{name}", get(show))
}

async fn list(_: Reading, State(api): State<Shared>) -> Json<Value> {
    let dialects: Vec<_> = api.dialects.iter().map(|d| dialect_json(d)).collect();
    Json(json!({ "dialects": dialects }))
}

async fn show(
    _: Reading,
    State(api): State<Shared>,
    Path(name): Path<String>,
) -> Result<Json<Value>> {
    let dialect = api.dialects.get(&name);
    let dialect = dialect.ok_or_else(|| Problem::not_found(unknown(&name, &api.dialects)))?;
    Ok(Json(dialect_json(dialect)))
}

fn dialect_json(dialect: &Dialect) -> Value {
    let policy = dialect.policy();
    json!({
        "name": dialect.name(),
        "description": dialect.description(),
        "default": dialect.name() == DEFAULT,
        "timeout": policy.timeout.as_millis() as u64,
        "max_age": policy.max_age.whole_seconds(),
        "retry": policy.schedule,
        "definition": dialect.definition(),
    })
}

/// Refuses a dialect that there isn't.
pub fn check_dialect(name: &str, dialects: &Dialects) -> Result<()> {
    match dialects.get(name) {
        Some(_) => Ok(()),
        None => Err(Problem::field("dialect", unknown(name, dialects))),
    }
}

fn unknown(name: &str, dialects: &Dialects) -> String {
    let names: Vec<_> = dialects.names().map(|name| format!("`{name}`")).collect();
    format!("`{name}` does not exist; there is {}", names.join(", "))
}

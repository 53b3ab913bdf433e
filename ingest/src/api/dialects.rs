//! The dialects that webhooks and tenants may have.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use shared::dialect::{DEFAULT, Dialect};
use shared::retry::Schedule;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::access::auth::OwnReading;
use crate::api::http::problem::{Problem, Result};
use crate::api::http::request::Name;
use crate::api::state::Shared;
use crate::form::unknown_dialect;

/// `/api/v1/dialects…`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
}

/// How a delivery looks on the wire.
#[derive(Serialize, ToSchema)]
#[schema(as = Dialect)]
pub struct DialectView {
    #[schema(example = "standard")]
    pub name: String,
    pub description: String,
    /// Whether it is the dialect of tenants that choose none.
    pub default: bool,
    /// The timeout of a request, in milliseconds.
    #[schema(example = 30_000)]
    pub timeout: u64,
    /// How long after its event a delivery may still be attempted, in seconds.
    #[schema(example = 604_800)]
    pub max_age: i64,
    /// The most attempts in any hour of a tenant with this dialect that sets no limit itself.
    #[schema(required, example = 1000)]
    pub deliveries_per_hour: Option<u32>,
    /// When a delivery is tried again: `delays`, or `exponential`, in
    /// milliseconds; and `jitter`, the share that is added at random.
    #[schema(value_type = Object, example = json!({"delays": [5000, 300_000], "jitter": 0.1}))]
    pub retry: Schedule,
    /// The text of its definition file.
    pub definition: String,
}

/// The dialects.
#[derive(Serialize, ToSchema)]
pub struct DialectList {
    pub dialects: Vec<DialectView>,
}

/// List dialects
#[utoipa::path(
    get, path = "/", operation_id = "list_dialects", tag = "dialects",
    security(("token" = ["viewer"])),
    responses((status = 200, description = "The whole list.", body = DialectList)),
)]
pub async fn list(_: OwnReading, State(api): State<Shared>) -> Json<DialectList> {
    Json(DialectList {
        dialects: api
            .dialects
            .iter()
            .map(|dialect| DialectView::new(dialect))
            .collect(),
    })
}

/// Show a dialect
#[utoipa::path(
    get, path = "/{name}", operation_id = "show_dialect", tag = "dialects",
    security(("token" = ["viewer"])),
    params(("name" = String, Path, example = "standard")),
    responses((status = 200, description = "The dialect.", body = DialectView)),
)]
pub async fn show(
    _: OwnReading,
    State(api): State<Shared>,
    Name(name): Name,
) -> Result<Json<DialectView>> {
    let dialect = api.dialects.get(&name);
    let dialect =
        dialect.ok_or_else(|| Problem::not_found(unknown_dialect(&name, &api.dialects)))?;
    Ok(Json(DialectView::new(dialect)))
}

impl DialectView {
    fn new(dialect: &Dialect) -> Self {
        let policy = dialect.policy();
        Self {
            name: dialect.name().to_owned(),
            description: dialect.description().to_owned(),
            default: dialect.name() == DEFAULT,
            timeout: policy.timeout.as_millis() as u64,
            max_age: policy.max_age.whole_seconds(),
            deliveries_per_hour: policy.deliveries_per_hour,
            retry: policy.schedule.clone(),
            definition: dialect.definition().to_owned(),
        }
    }
}

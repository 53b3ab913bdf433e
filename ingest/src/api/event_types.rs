//! Event types of a tenant's catalogue: describe, import, archive.
//!
//! A change applies to events that are published after its answer. A PUT replaces
//! the whole type: a member that it leaves out is empty afterwards.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use shared::ids::{EventType, Tenant};
use tokio::task::block_in_place;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::actor::begin;
use crate::api::access::auth::{Managing, OwnReading};
use crate::api::access::change_limit::ChangePermit;
use crate::api::http::headers::Created;
use crate::api::http::problem::{Problem, Result};
use crate::api::http::request::{Body, Id, Name, Page, Parameters};
use crate::api::state::{Api, Shared};
use crate::cpu;
use crate::event_types::collections::{self, COLLECTIONS};
use crate::event_types::form::{CatalogueForm, EventTypeForm};
use crate::event_types::store::{self, Entry, EventTypeView, Saved};
use crate::invalid::NotFound;

/// `/api/v1/event-types…`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list, replace))
        .routes(routes!(import))
        .routes(routes!(show, put, delete))
}

/// `/api/v1/catalogues…`
pub fn catalogues() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list_catalogues))
        .routes(routes!(show_catalogue))
}

/// Which event types to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EventTypeQuery {
    /// Only those that are archived, or that aren't.
    pub archived: Option<bool>,
    /// The most entries of the page.
    #[param(minimum = 1, maximum = 250, default = 50)]
    pub limit: Option<i64>,
    /// `next_cursor` of the previous page.
    pub cursor: Option<String>,
}

/// A page of a catalogue.
#[derive(Serialize, ToSchema)]
pub struct EventTypePage {
    pub event_types: Vec<EventTypeView>,
    /// The cursor of the next page; `null` on the last page.
    #[schema(required)]
    pub next_cursor: Option<EventType>,
}

/// List event types
///
/// By name.
#[utoipa::path(
    get, path = "/", operation_id = "list_event_types", tag = "event types",
    security(("token" = ["viewer"])),
    params(EventTypeQuery),
    responses((status = 200, description = "A page.", body = EventTypePage)),
)]
pub async fn list(
    acting: OwnReading,
    State(api): State<Shared>,
    Parameters(filter): Parameters<EventTypeQuery>,
) -> Result<Json<EventTypePage>> {
    let page = Page {
        limit: filter.limit,
        cursor: filter.cursor,
    };
    let (limit, after) = page.read::<EventType>()?;
    let client = api.pool.get().await?;
    let mut event_types = store::list(
        &client,
        &acting.tenant,
        filter.archived,
        after.as_ref(),
        limit + 1,
    )
    .await?;
    let more = event_types.len() > limit as usize;
    event_types.truncate(limit as usize);
    let last = event_types.last().filter(|_| more);
    let next_cursor = last.map(|last| last.name.clone());
    Ok(Json(EventTypePage {
        event_types,
        next_cursor,
    }))
}

/// Show an event type
#[utoipa::path(
    get, path = "/{name}", operation_id = "show_event_type", tag = "event types",
    security(("token" = ["viewer"])),
    params(("name" = EventType, Path)),
    responses((status = 200, description = "The event type.", body = EventTypeView)),
)]
pub async fn show(
    acting: OwnReading,
    State(api): State<Shared>,
    Id(name): Id<EventType>,
) -> Result<Json<EventTypeView>> {
    find(&api, &acting.tenant, &name).await.map(Json)
}

async fn find(api: &Api, tenant: &Tenant, name: &EventType) -> Result<EventTypeView> {
    let client = api.pool.get().await?;
    let found = store::find(&client, tenant, name).await?;
    found.ok_or_else(|| NotFound::event_type(name).into())
}

/// Describe an event type
///
/// What isn't sent is empty afterwards. What is changed holds for the events that are
/// published after the answer.
#[utoipa::path(
    put, path = "/{name}", operation_id = "put_event_type", tag = "event types",
    security(("token" = ["manager"])),
    params(("name" = EventType, Path)),
    request_body = EventTypeForm,
    responses(
        (status = 200, description = "The event type, which existed before.", body = EventTypeView),
        (status = 201, description = "The event type, which is new.", body = EventTypeView),
        (status = 409, description = "The tenant already has as many event types as it may.")
    ),
)]
pub async fn put(
    acting: Managing,
    State(api): State<Shared>,
    Id(name): Id<EventType>,
    Body(form): Body<EventTypeForm>,
) -> Result<Response> {
    // Before the check, which is costly too.
    let change = api.changes.acquire(&acting.tenant).await?;
    let entry = {
        let _permit = cpu::permit(&acting.tenant).await?;
        block_in_place(|| form.check(name.clone()))?
    };
    let saved = save(&api, change, &acting, &[entry], false).await?;
    let shown = find(&api, &acting.tenant, &name).await?;
    Ok(if saved.created > 0 {
        Created::new("/api/v1/event-types", name, shown).into_response()
    } else {
        Json(shown).into_response()
    })
}

/// Delete an event type
///
/// It leaves the catalogue; events of it are what they were.
#[utoipa::path(
    delete, path = "/{name}", operation_id = "delete_event_type", tag = "event types",
    security(("token" = ["manager"])),
    params(("name" = EventType, Path)),
    responses((status = 204, description = "It is deleted.")),
)]
pub async fn delete(
    acting: Managing,
    State(api): State<Shared>,
    Id(name): Id<EventType>,
) -> Result<StatusCode> {
    let _turn = api.changes.acquire(&acting.tenant).await?;
    let mut client = api.pool.get().await?;
    let transaction = begin(&mut client, &acting.actor).await?;
    if !store::delete(&transaction, &acting.tenant, &name).await? {
        return Err(NotFound::event_type(&name).into());
    }
    transaction.commit().await?;
    drop(client);
    api.feed.refresh().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Replace the catalogue
///
/// Types that aren't sent leave it.
#[utoipa::path(
    put, path = "/", operation_id = "replace_event_types", tag = "event types",
    security(("token" = ["manager"])),
    request_body = CatalogueForm,
    responses(
        (status = 200, description = "How many types were created, changed and deleted.", body = Saved),
        (status = 409, description = "These are more event types than a tenant may have.")
    ),
)]
pub async fn replace(
    acting: Managing,
    State(api): State<Shared>,
    Body(form): Body<CatalogueForm>,
) -> Result<Json<Saved>> {
    // Before the check, which is costly too.
    let change = api.changes.acquire(&acting.tenant).await?;
    let entries = {
        let _permit = cpu::permit(&acting.tenant).await?;
        block_in_place(|| form.check())?
    };
    save(&api, change, &acting, &entries, true).await.map(Json)
}

/// One of those that Posthorn comes with, by name, or a whole one. Types of
/// other names stay.
#[derive(Deserialize, ToSchema)]
#[schema(as = CatalogueImport, example = json!({"catalogue": "rishi"}))]
#[serde(deny_unknown_fields)]
pub struct ImportForm {
    /// One of `GET /api/v1/catalogues`. Instead of `event_types`.
    #[schema(example = "rishi")]
    pub catalogue: Option<String>,
    /// The catalogue's name, for people.
    #[serde(default)]
    pub name: String,
    /// The catalogue's description, for people.
    #[serde(default)]
    pub description: String,
    #[serde(alias = "eventTypes")]
    #[schema(max_items = 1000, extensions(("x-also" = json!(["eventTypes"]))))]
    pub event_types: Option<Vec<EventTypeForm>>,
}

/// Import a catalogue
///
/// One that Posthorn comes with, by name, or one of your own. Types of other names stay.
#[utoipa::path(
    post, path = "/import", operation_id = "import_event_types", tag = "event types",
    security(("token" = ["manager"])),
    request_body = ImportForm,
    responses(
        (status = 200, description = "How many types were created, changed and deleted.", body = Saved),
        (status = 409, description = "With these, the tenant would have more event types than it may.")
    ),
)]
pub async fn import(
    acting: Managing,
    State(api): State<Shared>,
    Body(form): Body<ImportForm>,
) -> Result<Json<Saved>> {
    let form = match (form.catalogue, form.event_types) {
        (Some(name), None) => embedded(&name)?,
        (None, Some(event_types)) => CatalogueForm {
            name: form.name,
            description: form.description,
            event_types,
        },
        _ => {
            return Err(Problem::field(
                "catalogue",
                "exactly one of `catalogue` and `event_types` must be there",
            ));
        }
    };
    // Before the check, which is costly too.
    let change = api.changes.acquire(&acting.tenant).await?;
    let entries = {
        let _permit = cpu::permit(&acting.tenant).await?;
        block_in_place(|| form.check())?
    };
    save(&api, change, &acting, &entries, false).await.map(Json)
}

/// A catalogue that Posthorn comes with.
///
/// # Errors
/// If there is none by this name.
pub fn embedded(name: &str) -> Result<CatalogueForm> {
    let collection = collections::collection(name).ok_or_else(|| {
        let names = collections::names();
        Problem::field(
            "catalogue",
            format!("`{name}` does not exist; there is {names}"),
        )
    })?;
    serde_json::from_str(collection.text).map_err(|error| anyhow::Error::new(error).into())
}

/// The change's turn ends with it.
async fn save(
    api: &Api,
    _change: ChangePermit,
    acting: &Managing,
    entries: &[Entry],
    alone: bool,
) -> Result<Saved> {
    let mut client = api.pool.get().await?;
    let transaction = begin(&mut client, &acting.actor).await?;
    let saved = store::save(&transaction, &acting.tenant, entries, alone).await?;
    transaction.commit().await?;
    drop(client);
    api.feed.refresh().await?;
    Ok(saved)
}

/// A catalogue that Posthorn comes with, without its types.
#[derive(Serialize, ToSchema)]
pub struct Catalogue {
    pub name: String,
    pub description: String,
    /// How many it has.
    pub event_types: usize,
}

/// The catalogues that Posthorn comes with.
#[derive(Serialize, ToSchema)]
#[schema(as = CatalogueList)]
pub struct Catalogues {
    pub catalogues: Vec<Catalogue>,
}

/// List the catalogues that can be imported
#[utoipa::path(
    get, path = "/", operation_id = "list_catalogues", tag = "event types",
    security(("token" = ["viewer"])),
    responses((status = 200, description = "The whole list.", body = Catalogues)),
)]
pub async fn list_catalogues(_: OwnReading) -> Result<Json<Catalogues>> {
    let catalogue = |form: CatalogueForm| Catalogue {
        event_types: form.types(),
        name: form.name,
        description: form.description,
    };
    let catalogues = COLLECTIONS
        .iter()
        .map(|collection| embedded(collection.name).map(catalogue))
        .collect::<Result<_>>()?;
    Ok(Json(Catalogues { catalogues }))
}

/// Show a catalogue that can be imported
///
/// As a whole, in the form that importing takes.
#[utoipa::path(
    get, path = "/{name}", operation_id = "show_catalogue", tag = "event types",
    security(("token" = ["viewer"])),
    params(("name" = String, Path, example = "rishi")),
    responses((status = 200, description = "The catalogue.", body = CatalogueForm)),
)]
pub async fn show_catalogue(_: OwnReading, Name(name): Name) -> Result<Json<&'static RawValue>> {
    let collection = collections::collection(&name).ok_or_else(|| {
        let names = collections::names();
        Problem::not_found(format!("there is no catalogue {name}; there is {names}"))
    })?;
    let raw = serde_json::from_str(collection.text).map_err(anyhow::Error::new)?;
    Ok(Json(raw))
}

//! The catalogue of a tenant's event types: describe, import, archive.
//!
//! What is changed holds for the events that are published after the answer.
//! Types are put whole: what a PUT doesn't send is empty afterwards.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use shared::ids::{EventType, Tenant};

use super::auth::{Managing, Reading};
use super::event_type_form::{CatalogueForm, EventTypeForm};
use super::problem::{Problem, Result};
use super::request::{Body, Id, Page, Parameters};
use super::{Api, Shared};
use crate::event_types::collections::{self, COLLECTIONS};
use crate::event_types::store::{self, Entry, Saved, Shown, Unsaved};

/// `/api/v1/event-types…`
pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/", get(list).put(replace))
        .route("/import", post(import))
        .route("/{name}", get(show).put(put).delete(delete))
}

/// `/api/v1/catalogues…`
pub fn catalogues() -> Router<Shared> {
    Router::new()
        .route("/", get(list_catalogues))
        .route("/{name}", get(show_catalogue))
}

/// `?archived=&limit=&cursor=`
#[derive(Deserialize)]
struct Filter {
    archived: Option<bool>,
    limit: Option<i64>,
    cursor: Option<String>,
}

/// A page of a catalogue, by name.
#[derive(Serialize)]
struct Listed {
    event_types: Vec<Shown>,
    next_cursor: Option<EventType>,
}

async fn list(
    acting: Reading,
    State(api): State<Shared>,
    Parameters(filter): Parameters<Filter>,
) -> Result<Json<Listed>> {
    let page = Page {
        limit: filter.limit,
        cursor: filter.cursor,
    };
    let (limit, after) = (page.limit()?, page.after::<EventType>()?);
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
    Ok(Json(Listed {
        event_types,
        next_cursor,
    }))
}

async fn show(
    acting: Reading,
    State(api): State<Shared>,
    Id(name): Id<EventType>,
) -> Result<Json<Shown>> {
    find(&api, &acting.tenant, &name).await.map(Json)
}

async fn find(api: &Api, tenant: &Tenant, name: &EventType) -> Result<Shown> {
    let client = api.pool.get().await?;
    let found = store::find(&client, tenant, name).await?;
    found.ok_or_else(|| unknown(name))
}

fn unknown(name: &EventType) -> Problem {
    Problem::not_found(format!("there is no event type {name} in the catalogue"))
}

async fn put(
    acting: Managing,
    State(api): State<Shared>,
    Id(name): Id<EventType>,
    Body(form): Body<EventTypeForm>,
) -> Result<(StatusCode, Json<Shown>)> {
    let entry = form.check(name.clone())?;
    let saved = save(&api, &acting.tenant, &[entry], false).await?;
    let status = if saved.created > 0 {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let shown = find(&api, &acting.tenant, &name).await?;
    Ok((status, Json(shown)))
}

/// The type leaves the catalogue; events of it are what they were.
async fn delete(
    acting: Managing,
    State(api): State<Shared>,
    Id(name): Id<EventType>,
) -> Result<StatusCode> {
    let mut client = api.pool.get().await?;
    let transaction = client.transaction().await?;
    if !store::delete(&transaction, &acting.tenant, &name).await? {
        return Err(unknown(&name));
    }
    transaction.commit().await?;
    drop(client);
    api.feed.refresh().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The whole catalogue: types that aren't sent leave it.
async fn replace(
    acting: Managing,
    State(api): State<Shared>,
    Body(form): Body<CatalogueForm>,
) -> Result<Json<Saved>> {
    let entries = form.check()?;
    save(&api, &acting.tenant, &entries, true).await.map(Json)
}

/// One of those that Posthorn comes with, by name, or a whole one. Types of
/// other names stay.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImportForm {
    catalogue: Option<String>,
    #[serde(default)]
    name: String,
    #[serde(default)]
    description: String,
    #[serde(alias = "eventTypes")]
    event_types: Option<Vec<EventTypeForm>>,
}

async fn import(
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
                "either `catalogue` or `event_types` must be there",
            ));
        }
    };
    let entries = form.check()?;
    save(&api, &acting.tenant, &entries, false).await.map(Json)
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

async fn save(api: &Api, tenant: &Tenant, entries: &[Entry], alone: bool) -> Result<Saved> {
    let mut client = api.pool.get().await?;
    let transaction = client.transaction().await?;
    let saved = store::save(&transaction, tenant, entries, alone).await?;
    transaction.commit().await?;
    drop(client);
    api.feed.refresh().await?;
    Ok(saved)
}

impl From<Unsaved> for Problem {
    fn from(unsaved: Unsaved) -> Self {
        match unsaved {
            Unsaved::NoTenant(_) => Self::not_found(unsaved.to_string()),
            Unsaved::TooMany(_) => Self::conflict(unsaved.to_string()),
            Unsaved::Postgres(error) => error.into(),
        }
    }
}

/// Refuses patterns that no type of a strict tenant's catalogue can match.
///
/// # Errors
/// Names the pattern.
pub async fn check_known(api: &Api, tenant: &Tenant, patterns: &[String]) -> Result<()> {
    api.feed.refresh().await?;
    match api.event_types.useless(tenant, patterns) {
        None => Ok(()),
        Some(pattern) => Err(Problem::field(
            "events",
            format!(
                "`{pattern}` matches no event type of the catalogue, and `{tenant}` takes no other"
            ),
        )),
    }
}

/// A catalogue that Posthorn comes with, without its types.
#[derive(Serialize)]
struct Catalogue {
    name: String,
    description: String,
    event_types: usize,
}

#[derive(Serialize)]
struct Catalogues {
    catalogues: Vec<Catalogue>,
}

async fn list_catalogues(_: Reading) -> Result<Json<Catalogues>> {
    let catalogue = |form: CatalogueForm| Catalogue {
        event_types: form.len(),
        name: form.name,
        description: form.description,
    };
    let catalogues = COLLECTIONS
        .iter()
        .map(|collection| embedded(collection.name).map(catalogue))
        .collect::<Result<_>>()?;
    Ok(Json(Catalogues { catalogues }))
}

async fn show_catalogue(
    _: Reading,
    axum::extract::Path(name): axum::extract::Path<String>,
) -> Result<Json<&'static RawValue>> {
    let collection = collections::collection(&name).ok_or_else(|| {
        let names = collections::names();
        Problem::not_found(format!("there is no catalogue {name}; there is {names}"))
    })?;
    let raw = serde_json::from_str(collection.text).map_err(anyhow::Error::new)?;
    Ok(Json(raw))
}

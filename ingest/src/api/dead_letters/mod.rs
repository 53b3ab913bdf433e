//! Dead letters, for the operator: list, discard, and [replay] after a fix.

pub mod replay;
pub mod selection;
pub mod view;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use shared::clock;
use shared::ids::DeadLetterId;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::access::auth::{Operating, Reading};
use crate::api::dead_letters::selection::{AT_MOST, Selection};
use crate::api::dead_letters::view::{DeadLetter, DeadLetterPage, unknown};
use crate::api::http::problem::Result;
use crate::api::http::request::{Id, Page, Parameters};
use crate::api::openapi::words::DeadLetterQueue;
use crate::api::state::{Api, Shared};
use crate::dead_letters::query::{self, LetterFilter};
use crate::dead_letters::store;
use crate::decode::is_final;
use crate::invalid::{Gathered, Invalid};
use crate::timestamp::Timestamp;

/// The most reasons that are listed.
pub const REASONS: i64 = 250;
/// The longest text to look for, in bytes.
const MAX_Q: usize = 256;

/// `/api/v1/admin/dead-letters…`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list, discard_many))
        .routes(routes!(replay::replay_many))
        .routes(routes!(list_reasons))
        .routes(routes!(show, discard))
        .routes(routes!(replay::replay))
}

/// `/api/v1/dead-letters`
pub fn of_tenant() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list_of_tenant))
        .routes(routes!(show_of_tenant))
}

/// Which dead letters are meant.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DeadLetterQuery {
    /// Only messages that were refused for exactly this reason.
    pub reason: Option<String>,
    /// Only messages that were meant for this tenant.
    pub tenant: Option<String>,
    /// `parking` or `unrouted`.
    #[param(value_type = Option<DeadLetterQueue>)]
    pub queue: Option<String>,
    /// Only messages whose reason, routing key or message id has this text in it, whatever its
    /// case.
    #[param(max_length = 256, example = "order.created")]
    pub q: Option<String>,
    /// The most entries of the page.
    #[param(minimum = 1, maximum = 250, default = 50)]
    pub limit: Option<i64>,
    /// `next_cursor` of the previous page.
    pub cursor: Option<String>,
}

/// List dead letters
///
/// Newest first.
#[utoipa::path(
    get, path = "/", operation_id = "list_dead_letters", tag = "dead letters",
    security(("token" = ["operator"])),
    params(DeadLetterQuery),
    responses((status = 200, description = "A page.", body = DeadLetterPage)),
)]
pub async fn list(
    _: Operating,
    State(api): State<Shared>,
    Parameters(which): Parameters<DeadLetterQuery>,
) -> Result<Json<DeadLetterPage>> {
    page(&api, which).await.map(Json)
}

async fn page(api: &Api, which: DeadLetterQuery) -> Result<DeadLetterPage> {
    let page = Page {
        limit: which.limit,
        cursor: which.cursor,
    };
    let selection = Selection {
        reason: which.reason,
        tenant: which.tenant,
        queue: which.queue,
        ids: None,
    };
    let mut wrong = Gathered::default();
    let (limit, before) = wrong.take(page.read::<DeadLetterId>());
    let filter = wrong.take(selection.filter());
    let q = which.q.filter(|q| !q.is_empty());
    if q.as_ref()
        .is_some_and(|q| q.len() > MAX_Q || q.contains('\0'))
    {
        let bound = format!("must be at most {MAX_Q} bytes, without NUL");
        wrong.add(Invalid::new("q", bound));
    }
    let filter = LetterFilter {
        q,
        ..wrong.finish(filter)?
    };
    let client = api.pool.get().await?;
    let shown = query::list(&client, &filter, before, limit + 1).await?;
    Ok(DeadLetterPage::new(shown, limit))
}

/// Show a dead letter
#[utoipa::path(
    get, path = "/{id}", operation_id = "show_dead_letter", tag = "dead letters",
    security(("token" = ["operator"])),
    params(("id" = DeadLetterId, Path)),
    responses((status = 200, description = "The dead letter.", body = DeadLetter)),
)]
pub async fn show(
    _: Operating,
    State(api): State<Shared>,
    Id(id): Id<DeadLetterId>,
) -> Result<Json<DeadLetter>> {
    let filter = LetterFilter {
        ids: Some(vec![id]),
        ..LetterFilter::default()
    };
    let client = api.pool.get().await?;
    let found = query::list(&client, &filter, None, 1).await?;
    let found = found.into_iter().next().ok_or_else(|| unknown(id))?;
    Ok(Json(DeadLetter::new(found)))
}

/// Of which tenant the reasons are listed.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct WhoseReasons {
    /// Only messages that were meant for this tenant.
    pub tenant: Option<String>,
}

/// Why dead letters are there, the most frequent reason first.
#[derive(Serialize, ToSchema)]
pub struct DeadLetterReasons {
    /// At most 250.
    pub reasons: Vec<DeadLetterReason>,
}

/// A reason, and how many dead letters are there for it.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "reason": "tenant `acme` does not exist", "tenant": "acme", "queue": "parking", "count": 12,
    "first_at": "2026-11-26T08:01:00.204Z", "last_at": "2026-11-26T10:12:07.001Z", "replayable": true
}))]
pub struct DeadLetterReason {
    pub reason: String,
    /// The tenant that they were meant for, which may not exist.
    #[schema(required)]
    pub tenant: Option<String>,
    /// `parking` or `unrouted`.
    pub queue: String,
    pub count: i64,
    pub first_at: Timestamp,
    pub last_at: Timestamp,
    /// Whether the latest of them can be published again and may be accepted then. If what was
    /// wrong with it still is, it comes back.
    pub replayable: bool,
}

/// List the reasons of dead letters
///
/// For that is how they are mended.
#[utoipa::path(
    get, path = "/reasons", operation_id = "list_dead_letter_reasons", tag = "dead letters",
    security(("token" = ["operator"])),
    params(WhoseReasons),
    responses((status = 200, description = "The most frequent first.", body = DeadLetterReasons)),
)]
pub async fn list_reasons(
    _: Operating,
    State(api): State<Shared>,
    Parameters(whose): Parameters<WhoseReasons>,
) -> Result<Json<DeadLetterReasons>> {
    let tenant = whose.tenant.filter(|tenant| !tenant.contains('\0'));
    let client = api.pool.get().await?;
    let found = query::reasons(&client, tenant.as_deref(), REASONS).await?;
    let latest: Vec<_> = found.iter().map(|of| of.last).collect();
    let latest = query::heads(&client, &latest).await?;
    let (now, shards) = (clock::now(), api.publisher.shards());
    let reasons = found.into_iter().map(|of| DeadLetterReason {
        replayable: latest
            .iter()
            .any(|letter| letter.id == of.last && letter.again(now, shards).is_ok())
            && !is_final(&of.reason),
        reason: of.reason,
        tenant: of.tenant,
        queue: of.queue,
        count: of.count,
        first_at: Timestamp(of.first.made_at()),
        last_at: Timestamp(of.last.made_at()),
    });
    let reasons = reasons.collect();
    Ok(Json(DeadLetterReasons { reasons }))
}

/// List a tenant's rejected events
///
/// The dead letters among the tenant's own events, newest first: published over AMQP,
/// confirmed by RabbitMQ, and refused then, because a confirm says nothing of the message.
/// Only the operator can replay or discard them.
#[utoipa::path(
    get, path = "/", operation_id = "list_rejected_events", tag = "dead letters",
    security(("token" = ["viewer"])),
    params(Page),
    responses((status = 200, description = "A page.", body = DeadLetterPage)),
)]
pub async fn list_of_tenant(
    acting: Reading,
    State(api): State<Shared>,
    Parameters(page): Parameters<Page>,
) -> Result<Json<DeadLetterPage>> {
    let (limit, before) = page.read::<DeadLetterId>()?;
    let client = api.pool.get().await?;
    let shown = query::list_of_tenant(&client, &acting.tenant, before, limit + 1).await?;
    Ok(Json(DeadLetterPage::new(shown, limit)))
}

/// Show a tenant's rejected event
#[utoipa::path(
    get, path = "/{id}", operation_id = "show_rejected_event", tag = "dead letters",
    security(("token" = ["viewer"])),
    params(("id" = DeadLetterId, Path)),
    responses((status = 200, description = "The dead letter.", body = DeadLetter)),
)]
pub async fn show_of_tenant(
    acting: Reading,
    State(api): State<Shared>,
    Id(id): Id<DeadLetterId>,
) -> Result<Json<DeadLetter>> {
    let client = api.pool.get().await?;
    let found = query::find_of_tenant(&client, &acting.tenant, id).await?;
    let found = found.ok_or_else(|| unknown(id))?;
    Ok(Json(DeadLetter::new(found)))
}

/// Discard a dead letter
#[utoipa::path(
    delete, path = "/{id}", operation_id = "discard_dead_letter", tag = "dead letters",
    security(("token" = ["operator"])),
    params(("id" = DeadLetterId, Path)),
    responses((status = 204, description = "It is deleted.")),
)]
pub async fn discard(
    _: Operating,
    State(api): State<Shared>,
    Id(id): Id<DeadLetterId>,
) -> Result<StatusCode> {
    let mut client = api.pool.get().await?;
    match store::delete(&mut client, &[id]).await? {
        0 => Err(unknown(id)),
        _ => Ok(StatusCode::NO_CONTENT),
    }
}

/// What discarding came to.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetterDiscard)]
pub struct Discarded {
    pub discarded: i64,
    /// There may be more: 1,000 are discarded at most.
    pub more: bool,
}

/// Which dead letters are discarded: at least one must be there.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Discardable {
    /// Only messages that were refused for exactly this reason.
    pub reason: Option<String>,
    /// Only messages that were meant for this tenant.
    pub tenant: Option<String>,
    /// `parking` or `unrouted`.
    #[param(value_type = Option<DeadLetterQueue>)]
    pub queue: Option<String>,
    /// Only these, with commas between them; at most 1,000.
    pub ids: Option<String>,
}

/// Discard dead letters
///
/// Oldest first, at most 1,000.
#[utoipa::path(
    delete, path = "/", operation_id = "discard_dead_letters", tag = "dead letters",
    security(("token" = ["operator"])),
    params(Discardable),
    responses((status = 200, description = "They are deleted.", body = Discarded)),
)]
pub async fn discard_many(
    _: Operating,
    State(api): State<Shared>,
    Parameters(which): Parameters<Discardable>,
) -> Result<Json<Discarded>> {
    let filter = which.narrow()?;
    let mut client = api.pool.get().await?;
    let discarded = store::discard(&mut client, &filter, AT_MOST).await?;
    Ok(Json(Discarded {
        discarded,
        more: discarded == AT_MOST,
    }))
}

/// How many messages [`discard_many`] would discard.
///
/// # Errors
/// If the selection is wrong, or PostgreSQL fails.
pub async fn discardable(api: &Api, which: Discardable) -> Result<i64> {
    let filter = which.narrow()?;
    let client = api.pool.get().await?;
    Ok(query::count(&client, &filter, AT_MOST).await?)
}

impl Discardable {
    fn narrow(self) -> Result<LetterFilter> {
        let ids = self.ids;
        let selection = Selection {
            reason: self.reason,
            tenant: self.tenant,
            queue: self.queue,
            ids: ids.map(|ids| ids.split(',').map(str::to_owned).collect()),
        };
        selection.narrow()
    }
}

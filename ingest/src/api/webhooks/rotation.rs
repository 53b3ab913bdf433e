//! New secrets for old: both sign until the receiver has the new one.
//!
//! A dialect whose signature is one value uses the new secret at once;
//! `standard` sends a list, in which receivers find the one that they know.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use shared::clock;
use shared::ids::WebhookId;
use shared::secret::{Secret, SigningKey};
use time::Duration;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::access::auth::Managing;
use crate::api::http::problem::{Problem, Result};
use crate::api::http::request::{Id, OptionalBody};
use crate::api::state::Shared;
use crate::api::webhooks::view::{WebhookView, find};
use crate::invalid::NotFound;
use crate::webhooks::store::{seal_key, seal_secret};

/// How long both secrets sign unless the request says, in seconds.
const OVERLAP: u32 = 86_400;
/// How long both may sign, in seconds.
const MAX_OVERLAP: u32 = 30 * 86_400;

/// `…/{id}/rotate-secret` and `…/{id}/previous-secret`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(rotate))
        .routes(routes!(revoke))
}

/// How a secret is replaced.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Rotation {
    /// The new secret; generated unless given.
    #[schema(
        min_length = 8,
        max_length = 256,
        example = "whsec_c2l4dGVlbiBieXRlcyBvciBtb3Jl"
    )]
    secret: Option<String>,
    /// How long the old one signs too, in seconds; 0 revokes it at once.
    #[schema(maximum = 2_592_000, default = 86_400)]
    overlap: Option<u32>,
}

/// Rotate a webhook's secret
///
/// In the dialects `standard` and `cloudevents` the old secret goes on signing
/// beside the new one for a day, or for as long as `overlap` says. A dialect whose
/// signature is one value uses the new secret at once: its receiver must accept
/// both before. A webhook with an ed25519 key gets a new one too.
#[utoipa::path(
    post, path = "/{id}/rotate-secret", operation_id = "rotate_secret", tag = "webhooks",
    security(("token" = ["manager"])),
    params(("id" = WebhookId, Path)),
    request_body = Option<Rotation>,
    responses((
        status = 200, body = WebhookView,
        description = "The webhook, with its new secret: the one time that it is shown.",
    )),
)]
async fn rotate(
    acting: Managing,
    State(api): State<Shared>,
    Id(id): Id<WebhookId>,
    OptionalBody(rotation): OptionalBody<Rotation>,
) -> Result<Json<WebhookView>> {
    // First, so that what is wrong with a request tells nothing of another's webhook.
    find(&api, &acting.tenant, id).await?;
    let overlap = rotation.overlap.unwrap_or(OVERLAP);
    if overlap > MAX_OVERLAP {
        return Err(Problem::field(
            "overlap",
            format!("must be at most {MAX_OVERLAP} (seconds)"),
        ));
    }
    let secret = match rotation.secret {
        Some(text) => {
            Secret::parse(&text).map_err(|error| Problem::field("secret", error.to_string()))?
        }
        None => Secret::generate(),
    };
    let until = clock::now() + Duration::seconds(i64::from(overlap));
    let until = (overlap > 0).then_some(until);
    let _turn = api.changes.acquire(&acting.tenant).await?;
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- rotate_secret\n\
             UPDATE webhooks SET \
                 previous_secret = CASE WHEN $4::timestamptz IS NOT NULL THEN secret END, \
                 previous_signing_key = CASE WHEN $4::timestamptz IS NOT NULL THEN signing_key END, \
                 previous_secret_until = $4, \
                 secret = $3, \
                 signing_key = CASE WHEN signing_key IS NOT NULL THEN $5::bytea END, \
                 updated_at = now() \
             WHERE id = $1 AND tenant = $2 AND status <> 'deleted'",
        )
        .await?;
    let rotated = client
        .execute(
            &statement,
            &[
                &id,
                &acting.tenant,
                &seal_secret(&api.keys, id, &secret),
                &until,
                &seal_key(&api.keys, id, &SigningKey::generate()),
            ],
        )
        .await?;
    drop(client);
    if rotated == 0 {
        return Err(NotFound::webhook(id).into());
    }
    api.feed.refresh().await?;
    let mut webhook = find(&api, &acting.tenant, id).await?;
    // The one time that it is shown.
    secret.expose().clone_into(&mut webhook.secret);
    Ok(Json(webhook))
}

/// Revoke the secret before this one
///
/// From now on only the current one signs.
#[utoipa::path(
    delete, path = "/{id}/previous-secret", operation_id = "revoke_previous_secret", tag = "webhooks",
    security(("token" = ["manager"])),
    params(("id" = WebhookId, Path)),
    responses((status = 200, description = "The webhook as it is now.", body = WebhookView)),
)]
async fn revoke(
    acting: Managing,
    State(api): State<Shared>,
    Id(id): Id<WebhookId>,
) -> Result<Json<WebhookView>> {
    let _turn = api.changes.acquire(&acting.tenant).await?;
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- revoke_previous_secret\n\
             UPDATE webhooks SET previous_secret = NULL, previous_secret_until = NULL, \
                 previous_signing_key = NULL, updated_at = now() \
             WHERE id = $1 AND tenant = $2 AND status <> 'deleted'",
        )
        .await?;
    let revoked = client.execute(&statement, &[&id, &acting.tenant]).await?;
    drop(client);
    if revoked == 0 {
        return Err(NotFound::webhook(id).into());
    }
    api.feed.refresh().await?;
    find(&api, &acting.tenant, id).await.map(Json)
}

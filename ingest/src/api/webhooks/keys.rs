//! Public keys of webhooks, as JWK sets, for receivers that verify ed25519 signatures.
//!
//! No token is needed, because public keys are public. A webhook without a key
//! and a webhook that doesn't exist get the same answer.

use axum::Json;
use axum::extract::State;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::Serialize;
use shared::clock;
use shared::ids::WebhookId;
use shared::secret::SigningKey;
use shared::webhook::Webhook;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::http::problem::{Problem, Result};
use crate::api::http::request::Id;
use crate::api::state::Shared;

/// `/.well-known/webhook-keys/{id}`
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(show))
}

/// A JSON Web Key Set (RFC 7517, section 5).
#[derive(Serialize, ToSchema)]
pub struct KeySet {
    /// Those that sign now, the newest first.
    pub keys: Vec<PublicKey>,
}

/// An ed25519 public key as a JSON Web Key (RFC 8037, section 2).
#[derive(Serialize, ToSchema)]
#[schema(as = Key)]
pub struct PublicKey {
    /// `OKP`
    pub kty: &'static str,
    /// `Ed25519`
    pub crv: &'static str,
    /// `sig`
    pub r#use: &'static str,
    /// `EdDSA`
    pub alg: &'static str,
    /// The key's 32 bytes, in base64url.
    pub x: String,
    /// The same as Standard Webhooks has it.
    #[schema(example = "whpk_…")]
    pub public_key: String,
}

/// Show the public keys of a webhook
///
/// For receivers that verify `v1a` signatures. Needs no token.
#[utoipa::path(
    get, path = "/{id}", operation_id = "show_webhook_keys", tag = "webhooks",
    security(()),
    params(("id" = WebhookId, Path)),
    responses((status = 200, description = "The keys that sign now, the newest first.", body = KeySet)),
)]
pub async fn show(State(api): State<Shared>, Id(id): Id<WebhookId>) -> Result<Json<KeySet>> {
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(&format!(
            "-- webhook_keys\n\
             SELECT {} FROM webhooks \
             WHERE id = $1 AND status <> 'deleted' AND signing_key IS NOT NULL",
            Webhook::COLUMNS
        ))
        .await?;
    let row = client
        .query_opt(&statement, &[&id])
        .await?
        .ok_or_else(|| Problem::not_found(format!("there are no keys of {id}")))?;
    let webhook =
        Webhook::read(&row, &api.keys).map_err(|unreadable| Problem::unreadable(id, unreadable))?;
    let keys = webhook.secrets.signing_keys(clock::now());
    Ok(Json(KeySet {
        keys: keys.map(PublicKey::new).collect(),
    }))
}

impl PublicKey {
    fn new(key: &SigningKey) -> Self {
        Self {
            kty: "OKP",
            crv: "Ed25519",
            r#use: "sig",
            alg: "EdDSA",
            x: BASE64.encode(key.public_bytes()),
            public_key: key.public_key(),
        }
    }
}

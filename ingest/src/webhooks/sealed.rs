//! Seals what a webhook's row must not show: secrets, keys, credentials and custom headers.
//!
//! Each text is sealed with the webhook's id and the member's name, so that it can't be moved
//! to another row or column.

use secrecy::ExposeSecret;
use serde_json::json;
use shared::client_certificate::ClientCertificate;
use shared::ids::WebhookId;
use shared::oauth::ClientCredentials;
use shared::seal::Keyring;
use shared::secret::{Secret, SigningKey};
use shared::webhook::seal_context;

/// A sealed secret, for its column.
pub fn seal_secret(keys: &Keyring, id: WebhookId, secret: &Secret) -> Vec<u8> {
    let context = seal_context(id, "secret");
    keys.seal(&context, secret.expose().as_bytes())
}

/// A sealed signing key, for its column.
pub fn seal_key(keys: &Keyring, id: WebhookId, key: &SigningKey) -> Vec<u8> {
    let context = seal_context(id, "signing key");
    keys.seal(&context, key.expose().expose_secret().as_bytes())
}

pub(super) fn seal_certificate(
    keys: &Keyring,
    id: WebhookId,
    certificate: &ClientCertificate,
) -> Vec<u8> {
    let context = seal_context(id, "client certificate");
    let stored = certificate.to_stored();
    keys.seal(&context, stored.expose_secret().as_bytes())
}

pub(super) fn seal_oauth2(
    keys: &Keyring,
    id: WebhookId,
    credentials: &ClientCredentials,
) -> Vec<u8> {
    let context = seal_context(id, "oauth2");
    keys.seal(&context, json!(credentials).to_string().as_bytes())
}

pub(super) fn seal_headers(keys: &Keyring, id: WebhookId, headers: &[(String, String)]) -> Vec<u8> {
    let context = seal_context(id, "headers");
    keys.seal(&context, json!(headers).to_string().as_bytes())
}

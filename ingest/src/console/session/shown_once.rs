//! A secret that was just made: sealed in the session's row, and shown once, on the next page.

use secrecy::SecretString;
use shared::clock;
use time::Duration;

use super::Session;
use crate::api::http::problem::Result;
use crate::api::state::Api;

/// How long a secret that was just made can be shown.
const SEALED: Duration = Duration::minutes(10);
/// Keeps a secret that was just made, for the page that shows it once.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn keep_secret(api: &Api, session: &Session, about: &str, secret: &str) -> Result<()> {
    let hash = session.id.hash();
    let sealed = api.keys.seal(&context(&hash, about), secret.as_bytes());
    let until = clock::now() + SEALED;
    let client = api.pool.get().await?;
    client
        .execute(
            "-- keep_secret\nUPDATE sessions SET sealed = $2, sealed_until = $3 WHERE hash = $1",
            &[&hash.as_slice(), &sealed, &until],
        )
        .await?;
    Ok(())
}

/// The secret that was kept about this, which is forgotten.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn take_secret(
    api: &Api,
    session: &Session,
    about: &str,
) -> Result<Option<SecretString>> {
    let hash = session.id.hash();
    let client = api.pool.get().await?;
    let statement = client
        .prepare_cached(
            "-- take_secret\n\
             UPDATE sessions s SET sealed = NULL, sealed_until = NULL \
             FROM (SELECT hash, sealed, sealed_until FROM sessions WHERE hash = $1 FOR UPDATE) before \
             WHERE s.hash = before.hash AND before.sealed IS NOT NULL \
             RETURNING before.sealed, before.sealed_until > now() AS fresh",
        )
        .await?;
    let Some(row) = client.query_opt(&statement, &[&hash.as_slice()]).await? else {
        return Ok(None);
    };
    let opened = api.keys.open(&context(&hash, about), row.get("sealed"));
    // Of another page, or too old: forgotten all the same.
    let fresh: bool = row.get("fresh");
    Ok(opened
        .ok()
        .filter(|_| fresh)
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .map(Into::into))
}

fn context(hash: &[u8], about: &str) -> String {
    format!("session/{}/{about}", hex::encode(hash))
}

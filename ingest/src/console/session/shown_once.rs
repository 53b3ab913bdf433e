//! Secrets that were just made: sealed in the session's row, and each shown once, on a later page.
//!
//! A secret is kept under its subject, such as a webhook's id. A page takes only the secret of its
//! own subject, so no page uses up the secret of another page. All secrets of a session are one
//! sealed list.

use axum::http::{HeaderMap, Method};
use deadpool_postgres::Transaction;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use shared::clock;
use time::{Duration, OffsetDateTime};

use super::Session;
use crate::api::http::problem::Result;
use crate::api::state::Api;

/// How long a secret that was just made can be shown.
const SEALED: Duration = Duration::minutes(10);
/// The most secrets of a session that wait to be shown. The oldest one makes way.
const MOST: usize = 4;

/// A secret that waits to be shown. It has no `Debug`.
#[derive(Serialize, Deserialize)]
struct Kept {
    about: String,
    secret: String,
    /// Seconds since 1970.
    until: i64,
}

/// Keeps a secret that was just made, for the page that shows it once. `about`: its subject.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn keep_secret(api: &Api, session: &Session, about: &str, secret: &str) -> Result<()> {
    let mut client = api.pool.get().await?;
    let transaction = client.transaction().await?;
    let kept = read(api, session, &transaction).await?;
    let new = Kept {
        about: about.to_owned(),
        secret: secret.to_owned(),
        until: (clock::now() + SEALED).unix_timestamp(),
    };
    write(api, session, &transaction, &with(kept, new)).await?;
    transaction.commit().await?;
    Ok(())
}

/// Takes the secret of this subject, which can't be taken again. Secrets of other subjects stay.
///
/// # Errors
/// If PostgreSQL fails.
async fn take_secret(api: &Api, session: &Session, about: &str) -> Result<Option<SecretString>> {
    let mut client = api.pool.get().await?;
    let transaction = client.transaction().await?;
    let mut kept = read(api, session, &transaction).await?;
    let Some(at) = kept.iter().position(|one| one.about == about) else {
        return Ok(None);
    };
    let taken = kept.remove(at);
    write(api, session, &transaction, &kept).await?;
    transaction.commit().await?;
    Ok(Some(taken.secret.into()))
}

/// The same for the page that this request asks for, if somebody looks at the page.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn take_for_page(
    api: &Api,
    session: &Session,
    about: &str,
    (method, headers): (&Method, &HeaderMap),
) -> Result<Option<SecretString>> {
    match is_looked_at(method, headers) {
        true => take_secret(api, session, about).await,
        false => Ok(None),
    }
}

/// Whether the visitor comes from one of our pages and sees the answer. A link on another site, or
/// a program that asks for headers alone, doesn't use up what is shown once.
fn is_looked_at(method: &Method, headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site");
    *method == Method::GET && site.is_none_or(|site| site == "same-origin")
}

/// One secret of each subject, and not too many of them.
fn with(mut kept: Vec<Kept>, new: Kept) -> Vec<Kept> {
    kept.retain(|one| one.about != new.about);
    kept.push(new);
    let too_many = kept.len().saturating_sub(MOST);
    kept.drain(..too_many);
    kept
}

/// The secrets that can still be shown, the oldest first. Locks the session's row until the
/// transaction ends.
async fn read(api: &Api, session: &Session, transaction: &Transaction<'_>) -> Result<Vec<Kept>> {
    let hash = session.id.hash();
    let statement = transaction
        .prepare_cached(
            "-- kept_secrets\n\
             SELECT sealed FROM sessions WHERE hash = $1 FOR UPDATE",
        )
        .await?;
    let row = transaction
        .query_opt(&statement, &[&hash.as_slice()])
        .await?;
    let sealed: Option<&[u8]> = row.as_ref().and_then(|row| row.get(0));
    let opened = sealed.and_then(|sealed| api.keys.open(&context(&hash), sealed).ok());
    // What can't be opened, such as one of another version, is as good as forgotten.
    let kept: Vec<Kept> = opened
        .and_then(|json| serde_json::from_slice(&json).ok())
        .unwrap_or_default();
    let now = clock::now().unix_timestamp();
    Ok(kept.into_iter().filter(|one| one.until > now).collect())
}

async fn write(
    api: &Api,
    session: &Session,
    transaction: &Transaction<'_>,
    kept: &[Kept],
) -> Result<()> {
    let hash = session.id.hash();
    let json = serde_json::to_vec(kept).map_err(anyhow::Error::new)?;
    let last = kept.iter().map(|one| one.until).max();
    let sealed = last.map(|_| api.keys.seal(&context(&hash), &json));
    let until = last
        .map(OffsetDateTime::from_unix_timestamp)
        .transpose()
        .map_err(anyhow::Error::new)?;
    let statement = transaction
        .prepare_cached(
            "-- keep_secrets\nUPDATE sessions SET sealed = $2, sealed_until = $3 WHERE hash = $1",
        )
        .await?;
    transaction
        .execute(&statement, &[&hash.as_slice(), &sealed, &until])
        .await?;
    Ok(())
}

fn context(hash: &[u8]) -> String {
    format!("session/{}/secrets", hex::encode(hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(about: &str, secret: &str) -> Kept {
        Kept {
            about: about.to_owned(),
            secret: secret.to_owned(),
            until: 0,
        }
    }

    #[test]
    fn a_subject_has_one_secret_and_the_oldest_subject_makes_way() {
        let all = ["a", "b", "a", "c", "d", "e"].into_iter().enumerate();
        let all = all.fold(Vec::new(), |all, (n, about)| {
            with(all, kept(about, &n.to_string()))
        });
        let shown: Vec<_> = all
            .iter()
            .map(|one| (one.about.as_str(), one.secret.as_str()))
            .collect();
        assert_eq!(shown, [("a", "2"), ("c", "3"), ("d", "4"), ("e", "5")]);
    }

    #[test]
    fn a_link_elsewhere_and_a_request_for_headers_alone_use_nothing_up() {
        let headers = |site: &str| {
            let value = axum::http::HeaderValue::from_str(site).unwrap();
            let mut headers = HeaderMap::new();
            headers.insert("sec-fetch-site", value);
            headers
        };
        for (method, headers, looked_at) in [
            (Method::GET, headers("same-origin"), true),
            (Method::GET, HeaderMap::new(), true),
            (Method::HEAD, headers("same-origin"), false),
            (Method::GET, headers("cross-site"), false),
            (Method::GET, headers("none"), false),
        ] {
            assert_eq!(is_looked_at(&method, &headers), looked_at, "{headers:?}");
        }
    }
}

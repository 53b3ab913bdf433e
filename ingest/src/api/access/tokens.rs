//! API tokens: `pht_` and 32 random bytes, of which the database has the SHA-256.
//!
//! A token belongs to a tenant, or is global. `posthorn-ingest token create` and
//! the API's `tokens` make them; [`find`] tells to whom one belongs.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use deadpool_postgres::{Pool, Transaction};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use shared::ids::{Owner, Tenant, TokenId};
use shared::seal::fill_random;
use time::OffsetDateTime;
use tokio_postgres::error::SqlState;

use crate::actor::{Actor, begin};
use crate::api::access::role::{Caller, Role};
use crate::api::access::token_lookup::{TokenLookup, ValidToken};
use crate::api::http::problem::{Problem, Result};

const PREFIX: &str = "pht_";
/// How much of a token is kept to tell it by.
const SHOWN: usize = 10;
/// The most tokens of a tenant that are neither revoked nor expired.
pub const MAX_OF_A_TENANT: i64 = 100;

/// The tenant has [`MAX_OF_A_TENANT`] tokens already.
#[derive(Debug, thiserror::Error)]
#[error(
    "the tenant has {MAX_OF_A_TENANT} valid tokens already, which is the most: revoke one first"
)]
pub struct TooManyTokens;

/// There is no such tenant, or it is being deleted.
#[derive(Debug, thiserror::Error)]
#[error("there is no such tenant")]
struct UnknownTenant;

/// The caller to whom a valid token belongs.
///
/// # Errors
/// 401 if there is no such token, or it is revoked or expired.
pub async fn find(hash: &[u8; 32], tokens: &TokenLookup) -> Result<Caller> {
    let found = tokens.find(hash).await?;
    let found = found.ok_or_else(Problem::unauthorized)?;
    if found.is_unnoticed {
        notice_use(&tokens.pool().get().await?, found.id).await?;
    }
    Ok(found.into())
}

impl From<ValidToken> for Caller {
    fn from(token: ValidToken) -> Self {
        Self {
            tenant: token.tenant,
            role: token.role,
            owner: token.owner,
            actor: Actor::token(&token.prefix),
        }
    }
}

/// At most once a minute and token, however many requests and replicas.
async fn notice_use(client: &deadpool_postgres::Client, id: TokenId) -> Result<()> {
    let statement = client
        .prepare_cached(
            "-- notice_use\n\
             UPDATE tokens SET last_used_at = now() \
             WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')",
        )
        .await?;
    client.execute(&statement, &[&id]).await?;
    Ok(())
}

/// What is known of a token: the database has no more of it, either.
pub fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// Whether a text has a token's form, so that trying out many of them finds none: 256 bits.
pub fn is_unguessable(token: &str) -> bool {
    let secret = token.strip_prefix(PREFIX);
    let bytes = secret.and_then(|secret| BASE64.decode(secret).ok());
    bytes.is_some_and(|bytes| bytes.len() == 32)
}

/// A token that was just made.
pub struct NewToken {
    /// Its public name.
    pub id: TokenId,
    /// The token itself: shown once.
    pub secret: SecretString,
    /// The first characters of the token, by which lists show it.
    pub prefix: String,
}

/// Makes a token; `tenant` `None` makes a global one. A token with an owner has a tenant, and isn't
/// an admin's.
///
/// # Errors
/// If PostgreSQL fails or there is no such tenant, or with [`TooManyTokens`].
pub async fn create_token(
    pool: &Pool,
    actor: &Actor,
    tenant: Option<&Tenant>,
    role: Role,
    owner: Option<&Owner>,
    expires_at: Option<OffsetDateTime>,
) -> anyhow::Result<NewToken> {
    let mut bytes = [0; 32];
    fill_random(&mut bytes);
    let token = format!("{PREFIX}{}", BASE64.encode(bytes));
    let made = NewToken {
        id: TokenId::generate(),
        prefix: token[..SHOWN].to_owned(),
        secret: token.into(),
    };
    let mut client = pool.get().await?;
    let transaction = begin(&mut client, actor).await?;
    if let Some(tenant) = tenant
        && count_valid(&transaction, tenant).await? >= MAX_OF_A_TENANT
    {
        return Err(TooManyTokens.into());
    }
    transaction
        .execute(
            "-- create_token\n\
             INSERT INTO tokens (id, hash, prefix, tenant, role, owner, expires_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
            &[
                &made.id,
                &hash(made.secret.expose_secret()).as_slice(),
                &made.prefix,
                &tenant,
                &role.as_str(),
                &owner,
                &expires_at,
            ],
        )
        .await?;
    transaction.commit().await?;
    Ok(made)
}

/// How many valid tokens a tenant has. Its row is locked, so that nobody else makes one at
/// the same time, and so that the tenant isn't deleted meanwhile: its deletion takes its tokens away.
async fn count_valid(transaction: &Transaction<'_>, tenant: &Tenant) -> anyhow::Result<i64> {
    let lock = "-- lock_tokens\n\
         SELECT 1 FROM tenants WHERE id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE";
    if transaction.execute(lock, &[&tenant]).await? == 0 {
        return Err(UnknownTenant.into());
    }
    let count = "-- count_valid_tokens\n\
         SELECT count(*) FROM tokens \
         WHERE tenant = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())";
    Ok(transaction.query_one(count, &[&tenant]).await?.get(0))
}

/// Deletes the rows of tokens that were revoked, or have expired, 30 days ago. A token whose
/// session at the console hasn't been deleted yet stays until it is.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn delete_outdated(pool: &Pool) -> anyhow::Result<()> {
    let client = pool.get().await?;
    client
        .execute(
            "-- delete_outdated_tokens\n\
             DELETE FROM tokens t \
             WHERE least(t.revoked_at, t.expires_at) < now() - interval '30 days' \
               AND NOT EXISTS (SELECT FROM sessions s WHERE s.token_id = t.id)",
            &[],
        )
        .await?;
    Ok(())
}

/// Whether there is no such tenant: one that is being deleted, or one for whom PostgreSQL refused a
/// row.
#[must_use]
pub fn is_unknown_tenant(error: &anyhow::Error) -> bool {
    if error.is::<UnknownTenant>() {
        return true;
    }
    let refused = error.downcast_ref::<tokio_postgres::Error>();
    refused.and_then(tokio_postgres::Error::code) == Some(&SqlState::FOREIGN_KEY_VIOLATION)
}

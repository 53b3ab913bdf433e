//! Who makes a change, for the history of changes.
//!
//! Triggers write the history (V15), so that no code path can forget it. They read the actor from
//! a setting of the transaction. A transaction without that setting is Posthorn's own, for
//! example when it disables a webhook.

use deadpool_postgres::{Client, Transaction};
use shared::excerpt::excerpt;

/// The longest actor, in bytes: a client's identity provider may choose it.
const LONGEST: usize = 200;

/// Who changes something. Never a secret: of a token its first characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor(String);

impl Actor {
    /// An API token.
    #[must_use]
    pub fn token(prefix: &str) -> Self {
        Self(format!("token {prefix}…"))
    }

    /// A JWT of this subject.
    #[must_use]
    pub fn jwt(subject: Option<&str>) -> Self {
        match subject {
            Some(subject) => Self(excerpt(&format!("jwt {subject}"), LONGEST)),
            None => Self("jwt".to_owned()),
        }
    }

    /// `ADMIN_TOKEN`.
    #[must_use]
    pub fn operator() -> Self {
        Self("operator".to_owned())
    }

    /// `posthorn-ingest`, on the command line.
    #[must_use]
    pub fn command(name: &str) -> Self {
        Self(format!("command {name}"))
    }

    /// Somebody with a portal link, or another session of the console's.
    #[must_use]
    pub fn other(words: &str) -> Self {
        Self(excerpt(words, LONGEST))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Begins a transaction whose changes are this actor's.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn begin<'c>(
    client: &'c mut Client,
    actor: &Actor,
) -> Result<Transaction<'c>, tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    sign(&transaction, actor).await?;
    Ok(transaction)
}

/// Makes the transaction's changes this actor's.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn sign(
    transaction: &Transaction<'_>,
    actor: &Actor,
) -> Result<(), tokio_postgres::Error> {
    let statement = transaction
        .prepare_cached("-- sign_changes\nSELECT set_config('posthorn.actor', $1, true)")
        .await?;
    transaction.execute(&statement, &[&actor.as_str()]).await?;
    Ok(())
}

//! Who changes something: what the history of changes has of each.
//!
//! Triggers write the history (V15), so that nothing that changes a row can forget it. They
//! take the actor from a setting of the transaction. A transaction without one is
//! Posthorn's own, such as that which disables a webhook.

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

//! Many webhooks at once, inserted as rows: making them by the API would take minutes.
//!
//! No event of the benchmarks matches them ([`EVENT_TYPE`](super::generator::EVENT_TYPE)).

use anyhow::ensure;
use shared::ids::WebhookId;
use shared::seal::Keyring;
use shared::secret::Secret;
use shared::webhook::seal_context;

use super::stage::{MASTER_KEY, Stage, TENANT};

/// Rows that are inserted at a time.
const AT_ONCE: usize = 10_000;

/// Inserts so many webhooks, and allows the tenant as many as there are and more. No service
/// may run meanwhile.
///
/// # Errors
/// If PostgreSQL fails.
pub(super) async fn insert(stage: &Stage<'_>, webhooks: usize) -> anyhow::Result<()> {
    let keys = Keyring::from_base64([MASTER_KEY]).map_err(anyhow::Error::msg)?;
    let sql = stage.sql().await?;
    let allow = "UPDATE tenants SET max_webhooks = 1000000 WHERE id = $1";
    sql.execute(allow, &[&TENANT]).await?;
    // Each gets its revision here: a counter at every commit would take minutes.
    sql.batch_execute("ALTER TABLE webhooks DISABLE TRIGGER USER")
        .await?;
    let first: i64 = sql
        .query_one("SELECT revision FROM catalogue", &[])
        .await?
        .get(0);
    let insert = "INSERT INTO webhooks (id, tenant, url, patterns, filter, secret, revision) \
                  SELECT id, $1, 'https://example.com/hook', ARRAY['order.' || n, 'invoice.*'], \
                      '{\"total\": {\"$gte\": 100}}', secret, $4 + n \
                  FROM unnest($2::uuid[], $3::bytea[]) WITH ORDINALITY AS w (id, secret, n)";
    let mut made = 0;
    while made < webhooks {
        let count = AT_ONCE.min(webhooks - made);
        let ids: Vec<_> = (0..count).map(|_| WebhookId::generate()).collect();
        let seal = |id: &WebhookId| {
            let secret = Secret::generate();
            keys.seal(&seal_context(*id, "secret"), secret.expose().as_bytes())
        };
        let secrets: Vec<_> = ids.iter().map(seal).collect();
        let above = first + made as i64;
        let inserted = sql
            .execute(insert, &[&TENANT, &ids, &secrets, &above])
            .await?;
        ensure!(inserted as usize == count, "{inserted} webhooks");
        made += count;
    }
    sql.execute(
        "UPDATE catalogue SET revision = $1",
        &[&(first + made as i64 + 1)],
    )
    .await?;
    sql.batch_execute("ALTER TABLE webhooks ENABLE TRIGGER USER")
        .await?;
    // It can't be in one message with others: they would be a transaction.
    sql.batch_execute("VACUUM ANALYZE webhooks").await?;
    Ok(())
}

//! How soon services that find many webhooks are ready, and what each takes of memory.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use shared::ids::WebhookId;
use shared::seal::Keyring;
use shared::secret::Secret;
use shared::webhook::seal_context;

use super::stage::{MASTER_KEY, Stage, TENANT};
use crate::pair::Pair;

/// Rows that are inserted at a time.
const AT_ONCE: usize = 10_000;

/// What is started.
#[derive(Debug, Clone, clap::Args)]
pub struct Start {
    /// How many webhooks there are.
    #[arg(long, default_value_t = 100_000)]
    pub webhooks: usize,
}

impl Start {
    /// Measures, and answers a table.
    ///
    /// # Errors
    /// If something can't be started.
    pub async fn measure(&self, pair: &Pair, folder: &Path) -> anyhow::Result<String> {
        let stage = Stage::set(pair, folder, "warn", Duration::ZERO).await?;
        // The topology exists, as it does at any start but the first.
        stage.ingest(0).await?.stop().await?;
        let mut table = format!("{:<22} {:>14} {:>14}\n", "", "ready after", "resident, MiB");
        for webhooks in [0, self.webhooks] {
            self.insert(&stage, webhooks).await?;
            for binary in ["posthorn-ingest", "posthorn-dispatcher"] {
                let begun = Instant::now();
                let service = stage.service(binary).await?;
                let after = begun.elapsed();
                let resident = resident(service.pid())? as f64 / f64::from(1 << 20);
                let name = binary.trim_start_matches("posthorn-");
                let row = format!("{name}, {webhooks} webhooks");
                table += &format!("{row:<22} {after:>14.2?} {resident:>14.1}\n");
                service.stop().await?;
            }
        }
        stage.strike().await?;
        Ok(table)
    }

    async fn insert(&self, stage: &Stage<'_>, webhooks: usize) -> anyhow::Result<()> {
        let keys = Keyring::from_base64([MASTER_KEY]).map_err(anyhow::Error::msg)?;
        let sql = stage.sql().await?;
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
        sql.batch_execute("ALTER TABLE webhooks ENABLE TRIGGER USER; VACUUM ANALYZE webhooks")
            .await?;
        Ok(())
    }
}

/// What a process has in memory, in bytes.
fn resident(pid: u32) -> anyhow::Result<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages = statm.split(' ').nth(1).context("no resident pages")?;
    Ok(pages.parse::<u64>()? * 4096)
}

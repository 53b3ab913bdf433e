//! How soon services that find many webhooks are ready, and what each takes of memory.

use std::path::Path;
use std::time::{Duration, Instant};

use super::stage::Stage;
use super::usage::resident;
use super::webhooks;
use crate::pair::Pair;

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
        for count in [0, self.webhooks] {
            webhooks::insert(&stage, count).await?;
            for binary in ["posthorn-ingest", "posthorn-dispatcher"] {
                let begun = Instant::now();
                let service = stage.service(binary).await?;
                let after = begun.elapsed();
                let resident = resident(service.pid());
                let name = binary.trim_start_matches("posthorn-");
                let row = format!("{name}, {count} webhooks");
                table += &format!("{row:<22} {after:>14.2?} {resident:>14.1}\n");
                service.stop().await?;
            }
        }
        stage.strike().await?;
        Ok(table)
    }
}

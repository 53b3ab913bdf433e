//! Starts a pair of servers in the given folder, prints that it did, and waits to be
//! killed. A test uses it to show that no server outlives its owner.

use harness::pair::{Pair, PairConfig};
use std::io::Write;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = std::env::args_os().nth(1).unwrap_or_default();
    let pair = Pair::start(PairConfig::new(folder)).await?;
    let mut pids = pair.postgres().pids()?;
    pids.extend(pair.rabbitmq().pids()?);
    if std::env::args_os().nth(2).is_some() {
        pair.postgres().pause()?;
        pair.rabbitmq().pause()?;
    }
    writeln!(std::io::stdout(), "{pids:?}")?;
    std::future::pending::<()>().await;
    drop(pair);
    Ok(())
}

//! `posthorn-dispatcher`: as many of these as are needed, all the same.

use dispatcher::run::run;
use dispatcher::settings::Settings;
use shared::telemetry;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let settings = Settings::read(&shared::settings::environment())?;
    telemetry::log_to_stderr(settings.common.log_format);
    shared::supervise::die_on_panic();
    let stop = CancellationToken::new();
    shared::supervise::stop_on_signals(stop.clone())?;
    run(settings, stop).await
}

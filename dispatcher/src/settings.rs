//! The dispatcher's settings.

use std::net::SocketAddr;
use std::time::Duration;

use shared::settings::{Common, Defaults, Reader, Unusable};

/// Read once, at start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What both binaries have.
    pub common: Common,
    /// What holds where a webhook says nothing.
    pub defaults: Defaults,
    /// `HTTP_ADDR`: where `/metrics`, `/healthz` and `/readyz` are served.
    pub http_addr: SocketAddr,
    /// `CONCURRENCY`: the most jobs held at a time.
    pub concurrency: u16,
    /// `SHUTDOWN_GRACE` (s): how long attempts under way may still take when the
    /// process is told to stop.
    pub shutdown_grace: Duration,
    /// `WEBHOOK_DISABLE_AFTER` (s): how long every attempt of a webhook has failed
    /// when it is disabled; 0: never.
    pub disable_after: Option<Duration>,
    /// `SWEEP_GRACE` (s): how overdue a delivery is, beyond its webhook's
    /// timeout, when its job counts as lost.
    pub sweep_grace: Duration,
    /// `SWEEP_INTERVAL` (s): how often that is looked for.
    pub sweep_interval: Duration,
}

impl Settings {
    /// Reads and checks all of them.
    ///
    /// # Errors
    /// Everything that is wrong, by variable.
    pub fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, Unusable> {
        let mut reader = Reader::new(variable);
        let settings = Self {
            common: Common::read(&mut reader),
            defaults: Defaults::read(&mut reader),
            http_addr: reader.or("HTTP_ADDR", SocketAddr::from(([127, 0, 0, 1], 8081))),
            concurrency: reader.within("CONCURRENCY", 512, 1, 10_000),
            shutdown_grace: Duration::from_secs(reader.within("SHUTDOWN_GRACE", 30, 0, 3600)),
            disable_after: match reader.within("WEBHOOK_DISABLE_AFTER", 432_000, 0, 31_536_000) {
                0 => None,
                seconds => Some(Duration::from_secs(seconds)),
            },
            sweep_grace: Duration::from_secs(reader.within("SWEEP_GRACE", 60, 1, 86_400)),
            sweep_interval: Duration::from_secs(reader.within("SWEEP_INTERVAL", 5, 1, 3600)),
        };
        if settings.common.shards > settings.concurrency {
            reader.problem("CONCURRENCY must be at least JOB_SHARDS".to_owned());
        }
        reader.finish()?;
        Ok(settings)
    }
}

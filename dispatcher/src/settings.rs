//! The dispatcher's settings.

use std::net::SocketAddr;
use std::time::Duration;

use shared::settings::{Common, Defaults, Reader, Unusable};

/// The settings as `--help` lists them. README.md has the same.
pub const HELP: &str = "\
Settings (environment variables, or a file .env in the working directory). What is secret can be in
a file instead: MASTER_KEY_FILE is the path of a file with the MASTER_KEY, and so on.
  DATABASE_URL                  PostgreSQL 15 or later:
                                postgres://user:password@host/database?sslmode=verify-full
                                [required]
  AMQP_URL                      RabbitMQ 3.10 or later: amqp://user:password@host/vhost, or
                                amqps://… [required]
  MASTER_KEY                    encrypts secrets in PostgreSQL; 32 random bytes in base64: openssl
                                rand -base64 32 [required]
  MASTER_KEY_PREVIOUS           earlier master keys, comma-separated; used only to decrypt
  JOB_SHARDS                    number of job queues, 1 to 256. Every process must have the same
                                number. Raise it when the leader of one queue is saturated [default:
                                1]
  ALLOW_HTTP                    accept webhooks with http: URLs; for development [default: false]
  ALLOWED_NETWORKS              private networks that deliveries may go to, such as
                                10.0.0.0/8,127.0.0.0/8
  EGRESS_PROXY                  proxy that deliveries leave through: http://user:password@proxy:3128
                                (HTTP CONNECT) or socks5://proxy:1080
  EGRESS_PROXIES                proxies that tenants can name:
                                eu=http://proxy-eu:3128,us=socks5://proxy-us:1080
  DIALECTS_DIR                  folder with your own dialects
  LOG_FORMAT                    pretty or json [default: pretty]
  HTTP_IDLE_TIMEOUT             how long an HTTP connection may wait for its next request, in
                                seconds; 1 to 3600 [default: 75]
  HTTP_CONNECTIONS              maximum number of HTTP connections, 16 to 65535; each needs a file
                                descriptor [default: 512]
  HTTP_CONNECTIONS_PER_ADDRESS  maximum number of HTTP connections from one client address, 1 to
                                65535 [default: 256]
  OTEL_EXPORTER_OTLP_ENDPOINT   OpenTelemetry collector that spans are sent to, such as
                                http://collector:4318 [default: none, no spans]
  OTEL_TRACES_SAMPLER           which traces are recorded, by OpenTelemetry's name [default:
                                parentbased_traceidratio]
  OTEL_TRACES_SAMPLER_ARG       share of the traces that begin here, 0 to 1 [default: 0.01]
  HTTP_ADDR                     address of /metrics, /healthz and /readyz [default: 127.0.0.1:8081]
  CONCURRENCY                   maximum number of jobs that one dispatcher holds at a time, 1 to
                                10000; at least JOB_SHARDS [default: 512]
  WEBHOOK_MAX_RETRIES           number of retries after the first attempt, 0 to 49 [default: the
                                dialect's]
  WEBHOOK_RETRY_DELAY           delay before the first retry, in milliseconds; it doubles with each
                                retry; at most a day [default: the dialect's]
  WEBHOOK_TIMEOUT               timeout of an attempt, in milliseconds; 1000 to 60000 [default: the
                                dialect's]
  WEBHOOK_DISABLE_AFTER         a webhook is disabled when all its attempts have failed for this
                                long, in seconds; at most a year; 0 means never [default: 432000]
  SHUTDOWN_GRACE                time that requests in flight get to finish after SIGTERM, in
                                seconds; at most 3600 [default: 30]
  SWEEP_GRACE                   a job counts as lost when its delivery is overdue by this much, plus
                                the webhook's timeout, plus up to 15 s; in seconds; 1 to 86400
                                [default: 60]
  SWEEP_INTERVAL                interval between searches for lost jobs, in seconds; 1 to 3600
                                [default: 5]
  RUST_LOG                      log level, such as debug [default: info]";

/// Read once, at start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The settings that ingest has, too.
    pub common: Common,
    /// Retries and timeout of webhooks that set none.
    pub defaults: Defaults,
    /// `HTTP_ADDR`: where `/metrics`, `/healthz` and `/readyz` are served.
    pub http_addr: SocketAddr,
    /// `CONCURRENCY`: the most jobs that this process holds at a time.
    pub concurrency: u16,
    /// `SHUTDOWN_GRACE` (s): how long requests in flight may still take after SIGTERM.
    pub shutdown_grace: Duration,
    /// `WEBHOOK_DISABLE_AFTER` (s): a webhook is disabled when all its attempts have failed
    /// for this long. `None`, which is written 0: never.
    pub disable_after: Option<Duration>,
    /// `SWEEP_GRACE` (s): see [`crate::upkeep::watermark`].
    pub sweep_grace: Duration,
    /// `SWEEP_INTERVAL` (s): the time between two passes of the sweeper.
    pub sweep_interval: Duration,
}

impl Settings {
    /// # Errors
    /// All problems at once. Each names its variable.
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    use super::*;

    const README: &str = include_str!("../../README.md");

    /// The names of all variables that are read, without those that name a secret's file.
    fn read() -> BTreeSet<String> {
        let names = RefCell::new(BTreeSet::new());
        let variable = |name: &str| {
            names.borrow_mut().insert(name.to_owned());
            None
        };
        assert!(Settings::read(&variable).is_err(), "some are required");
        let all = names.into_inner();
        let is_file = |name: &String| {
            name.strip_suffix("_FILE")
                .is_some_and(|secret| all.contains(secret))
        };
        all.iter().filter(|name| !is_file(name)).cloned().collect()
    }

    #[test]
    fn help_and_readme_list_every_setting() {
        for name in read() {
            let lists = |line: &str| line.starts_with(&format!("  {name} "));
            assert!(HELP.lines().any(lists), "--help lacks {name}");
            assert!(
                README.contains(&format!("| `{name}` |")),
                "README lacks {name}"
            );
        }
    }

    #[test]
    fn help_lists_no_setting_that_isnt_read() {
        let read = read();
        for line in HELP.lines().skip(2).filter(|line| !line.starts_with("   ")) {
            let name = line.split_whitespace().next().unwrap();
            assert!(read.contains(name) || name == "RUST_LOG", "{name}");
        }
    }
}

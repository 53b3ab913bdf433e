//! Reads settings from the environment, checks all of them, and reports all problems.
//!
//! A [`Reader`] takes each variable through one call and collects every problem.
//! [`Reader::finish`] reports them together, each with the name of its variable. The
//! reader gets values from a closure, so tests never touch the environment of their
//! process.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use lapin::uri::AMQPUri;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::destination::Destinations;
use crate::dialect::Dialects;
use crate::egress::Egress;
use crate::postgres;
use crate::retry::{MAX_ATTEMPTS, Retry};
use crate::seal::Keyring;
use crate::serve;
use crate::telemetry::LogFormat;
use crate::trace::{self, Sampler};

/// The largest file of a secret, in bytes. Several proxies with passwords have room in it.
const LONGEST_SECRET: u64 = 64 * 1024;

/// Reads settings and collects the problems.
pub struct Reader<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
    problems: Vec<String>,
}

/// All problems of the settings, one line each.
#[derive(Debug, thiserror::Error)]
#[error("the settings are not usable:\n  {}", .0.join("\n  "))]
pub struct Unusable(Vec<String>);

/// The environment of the process, after loading a `.env` file if there is one.
pub fn environment() -> impl Fn(&str) -> Option<String> {
    // Without a .env file there is nothing to load.
    let _ = dotenvy::dotenv();
    process_environment()
}

/// The environment of the process, without a `.env` file.
pub fn process_environment() -> impl Fn(&str) -> Option<String> {
    |name| std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl<'a> Reader<'a> {
    /// Reads from `variable`, which returns `None` for a variable that isn't set.
    pub fn new(variable: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self {
            variable,
            problems: Vec::new(),
        }
    }

    /// The value, if it is set.
    pub fn optional<T: FromStr<Err: Display>>(&mut self, name: &str) -> Option<T> {
        match (self.variable)(name)?.trim().parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.problem(format!("{name}: {error}"));
                None
            }
        }
    }

    /// The value, or its default.
    pub fn or<T: FromStr<Err: Display>>(&mut self, name: &str, default: T) -> T {
        self.optional(name).unwrap_or(default)
    }

    /// A value between two bounds, or its default.
    pub fn within<T>(&mut self, name: &str, default: T, least: T, most: T) -> T
    where
        T: FromStr<Err: Display> + PartialOrd + Display + Copy,
    {
        let value = self.or(name, default);
        if value < least || value > most {
            self.problem(format!("{name}: {value} is not between {least} and {most}"));
        }
        value
    }

    /// A required value that must not be shown: see [`Reader::optional_secret`].
    pub fn secret(&mut self, name: &str, what: &str) -> SecretString {
        match self.find_secret(name) {
            Ok(Some(secret)) => return secret,
            Ok(None) => self.problem(format!("{name} is not set: {what}")),
            Err(problem) => self.problem(problem),
        }
        SecretString::default()
    }

    /// An optional value that must not be shown. It is in the variable, or in the file that
    /// `<name>_FILE` names: an environment is inherited by child processes and shown by
    /// container engines, and a file isn't.
    pub fn optional_secret(&mut self, name: &str) -> Option<SecretString> {
        self.find_secret(name).unwrap_or_else(|problem| {
            self.problem(problem);
            None
        })
    }

    fn find_secret(&self, name: &str) -> Result<Option<SecretString>, String> {
        let value = (self.variable)(name).map(SecretString::from);
        let Some(path) = (self.variable)(&format!("{name}_FILE")) else {
            return Ok(value);
        };
        if value.is_some() {
            return Err(format!("{name} and {name}_FILE exclude each other"));
        }
        match secret_in(&path) {
            Ok(secret) => Ok(Some(secret)),
            Err(error) => Err(format!("{name}_FILE: {path}: {error}")),
        }
    }

    /// Adds a problem.
    pub fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// Ends reading.
    ///
    /// # Errors
    /// All problems, if there are any.
    pub fn finish(self) -> Result<(), Unusable> {
        if self.problems.is_empty() {
            Ok(())
        } else {
            Err(Unusable(self.problems))
        }
    }
}

/// A file's text without its last end of line, which editors and `echo` add.
fn secret_in(path: &str) -> io::Result<SecretString> {
    let mut text = String::new();
    File::open(path)?
        .take(LONGEST_SECRET + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > LONGEST_SECRET {
        let problem = format!("the file has more than {LONGEST_SECRET} bytes");
        return Err(io::Error::other(problem));
    }
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() {
        return Err(io::Error::other("the file is empty"));
    }
    Ok(SecretString::from(line.to_owned()))
}

/// The settings that both binaries read.
#[derive(Debug, Clone)]
pub struct Common {
    /// `DATABASE_URL`: PostgreSQL.
    pub database_url: SecretString,
    /// `AMQP_URL`: RabbitMQ, with its virtual host.
    pub amqp_url: SecretString,
    /// `MASTER_KEY` and, comma-separated, `MASTER_KEY_PREVIOUS`: 32 bytes each,
    /// in base64.
    pub keys: Keyring,
    /// `JOB_SHARDS`: the number of jobs queues. 1 is enough until the leader of the
    /// queue is saturated.
    pub shards: u16,
    /// `ALLOW_HTTP`, `ALLOWED_NETWORKS`: for development.
    pub destinations: Destinations,
    /// `EGRESS_PROXY`, `EGRESS_PROXIES`: the proxies that deliveries leave through.
    pub egress: Egress,
    /// `DIALECTS_DIR`: a folder with dialects in addition to the built-in ones.
    pub dialects: Dialects,
    /// `LOG_FORMAT`: `pretty` or `json`.
    pub log_format: LogFormat,
    /// `HTTP_IDLE_TIMEOUT`, `HTTP_CONNECTIONS`, `HTTP_CONNECTIONS_PER_ADDRESS`.
    pub http: serve::Bounds,
    /// `OTEL_…`: where spans are exported to.
    pub tracing: trace::Settings,
}

impl Common {
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let database_url = reader.secret("DATABASE_URL", "postgres://user:password@host/database");
        let amqp_url = reader.secret("AMQP_URL", "amqp://user:password@host/vhost");
        check_urls(reader, &database_url, &amqp_url);
        Self {
            database_url,
            amqp_url,
            keys: keys(reader),
            shards: reader.within("JOB_SHARDS", 1, 1, 256),
            destinations: Destinations {
                allow_http: reader.or("ALLOW_HTTP", false),
                allowed: networks(reader),
            },
            egress: egress(reader),
            dialects: read_dialects(reader),
            log_format: reader.or("LOG_FORMAT", LogFormat::Pretty),
            http: http_bounds(reader),
            tracing: read_tracing(reader),
        }
    }
}

fn egress(reader: &mut Reader<'_>) -> Egress {
    let default = reader.optional_secret("EGRESS_PROXY");
    let named = reader.optional_secret("EGRESS_PROXIES").unwrap_or_default();
    let default = default.as_ref().map(|text| text.expose_secret());
    Egress::parse(default, named.expose_secret()).unwrap_or_else(|problems| {
        for problem in problems {
            reader.problem(problem);
        }
        Egress::default()
    })
}

fn http_bounds(reader: &mut Reader<'_>) -> serve::Bounds {
    serve::Bounds::new(
        // Longer than load balancers keep an idle connection (60 s): it is theirs to close.
        Duration::from_secs(reader.within("HTTP_IDLE_TIMEOUT", 75, 1, 3600)),
        reader.within("HTTP_CONNECTIONS", 512, 16, 65_535),
        reader.within("HTTP_CONNECTIONS_PER_ADDRESS", 256, 1, 65_535),
    )
}

fn read_tracing(reader: &mut Reader<'_>) -> trace::Settings {
    let endpoint: Option<Url> = reader.optional("OTEL_EXPORTER_OTLP_ENDPOINT");
    let is_http = |url: &Url| matches!(url.scheme(), "http" | "https") && url.has_host();
    if endpoint.as_ref().is_some_and(|url| !is_http(url)) {
        reader.problem("OTEL_EXPORTER_OTLP_ENDPOINT must be like http://collector:4318".to_owned());
    }
    let ratio = reader.within("OTEL_TRACES_SAMPLER_ARG", 0.01, 0.0, 1.0);
    let default = "parentbased_traceidratio".to_owned();
    let name = reader.or("OTEL_TRACES_SAMPLER", default);
    let sampler = Sampler::new(&name, ratio);
    if sampler.is_none() {
        reader.problem(
            "OTEL_TRACES_SAMPLER must be always_on, always_off, traceidratio, \
             parentbased_always_on, parentbased_always_off or parentbased_traceidratio"
                .to_owned(),
        );
    }
    trace::Settings {
        endpoint,
        sampler: sampler.unwrap_or_default(),
    }
}

/// What can't be connected to would be tried for ever. The parsers' own errors may
/// repeat a URL, which holds a password.
fn check_urls(reader: &mut Reader<'_>, database: &SecretString, amqp: &SecretString) {
    let is_set = |url: &SecretString| !url.expose_secret().is_empty();
    if is_set(database)
        && let Err(error) = postgres::config(database, "")
    {
        reader.problem(format!("{error:#}"));
    }
    if is_set(amqp) && amqp.expose_secret().parse::<AMQPUri>().is_err() {
        reader.problem(
            "AMQP_URL: must be like amqp://user:password@host/vhost, or amqps://… with TLS; write \
             characters with a special meaning in URLs as in %2F"
                .to_owned(),
        );
    }
}

fn keys(reader: &mut Reader<'_>) -> Keyring {
    let current = reader.secret(
        "MASTER_KEY",
        "32 random bytes in base64: `openssl rand -base64 32`",
    );
    let previous = reader
        .optional_secret("MASTER_KEY_PREVIOUS")
        .unwrap_or_default();
    let previous = previous
        .expose_secret()
        .split(',')
        .map(str::trim)
        .filter(|key| !key.is_empty());
    let keys = std::iter::once(current.expose_secret()).chain(previous);
    Keyring::from_base64(keys).unwrap_or_else(|problem| {
        if !current.expose_secret().is_empty() {
            reader.problem(format!("MASTER_KEY, MASTER_KEY_PREVIOUS: {problem}"));
        }
        placeholder_keys()
    })
}

/// Used in place of keys that were refused. The process won't start with them,
/// because the reader has a problem.
fn placeholder_keys() -> Keyring {
    const ZEROES: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    match Keyring::from_base64([ZEROES]) {
        Ok(keys) => keys,
        Err(error) => unreachable!("32 zero bytes are a key: {error}"),
    }
}

/// Reads only the dialects, for commands that need no server.
///
/// # Errors
/// The problems with `DIALECTS_DIR`.
pub fn dialects(variable: &dyn Fn(&str) -> Option<String>) -> Result<Dialects, Unusable> {
    let mut reader = Reader::new(variable);
    let dialects = read_dialects(&mut reader);
    reader.finish()?;
    Ok(dialects)
}

fn read_dialects(reader: &mut Reader<'_>) -> Dialects {
    let Some(folder) = reader.optional::<String>("DIALECTS_DIR") else {
        return Dialects::embedded();
    };
    Dialects::with_folder(folder.as_ref()).unwrap_or_else(|problem| {
        reader.problem(format!("DIALECTS_DIR: {problem}"));
        Dialects::embedded()
    })
}

fn networks(reader: &mut Reader<'_>) -> Vec<IpNet> {
    let Some(list) = reader.optional::<String>("ALLOWED_NETWORKS") else {
        return Vec::new();
    };
    let mut networks = Vec::new();
    for entry in list
        .split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
    {
        match entry.parse() {
            Ok(network) => networks.push(network),
            Err(_) => reader.problem(format!(
                "ALLOWED_NETWORKS: `{entry}` must be a network like `10.0.0.0/8`"
            )),
        }
    }
    networks
}

/// The server's defaults for webhooks without a policy of their own. They take
/// precedence over the dialect's defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct Defaults {
    /// `WEBHOOK_MAX_RETRIES` and `WEBHOOK_RETRY_DELAY` (ms, doubling). A member that
    /// isn't set is the dialect's.
    pub retry: Retry,
    /// `WEBHOOK_TIMEOUT` (ms), 1,000 to 60,000.
    pub timeout: Option<Duration>,
}

impl Defaults {
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let retry = Retry {
            max_retries: reader.optional("WEBHOOK_MAX_RETRIES"),
            retry_delay: reader.optional("WEBHOOK_RETRY_DELAY"),
            ..Retry::default()
        };
        if retry.check().is_err() {
            reader.problem(format!(
                "WEBHOOK_MAX_RETRIES must be at most {}, WEBHOOK_RETRY_DELAY at most 86400000 (ms)",
                MAX_ATTEMPTS - 1
            ));
        }
        let timeout: Option<u64> = reader.optional("WEBHOOK_TIMEOUT");
        if timeout.is_some_and(|ms| !(1_000..=60_000).contains(&ms)) {
            reader.problem("WEBHOOK_TIMEOUT must be between 1000 and 60000 (ms)".to_owned());
        }
        Self {
            retry,
            timeout: timeout.map(Duration::from_millis),
        }
    }
}

#[cfg(test)]
mod tests;

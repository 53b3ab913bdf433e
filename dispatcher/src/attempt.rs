//! One attempt: sign a job's body, POST it, say what came back.
//!
//! An admitted job comes in from `admit`; a [`Report`] goes out to `judge` and
//! `settle`. No database here.
//!
//! Everything is bounded: the whole attempt by the webhook's timeout, the
//! answer's body by [`KEPT`] bytes and [`BODY_PATIENCE`]. An endpoint that has
//! sent its status has answered, whatever becomes of the body.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{HeaderName, HeaderValue, header};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, Response, redirect};
use secrecy::ExposeSecret;
use serde_json::Value;
use shared::destination::{Destinations, Forbidden};
use shared::dialect::{Dialect, Message, Wire};
use shared::job::{Content, Job};
use shared::webhook::Webhook;
use time::OffsetDateTime;

use crate::judge::parse_retry_after;

/// How much of an answer's body is read and kept, in bytes.
pub const KEPT: usize = 16 * 1024;
/// How long an endpoint may take over its answer's body.
const BODY_PATIENCE: Duration = Duration::from_secs(5);
/// How long a TCP and TLS handshake may take, within the attempt's timeout.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle connections kept per endpoint.
const IDLE_CONNECTIONS: usize = 64;

/// What an attempt was and what came back.
#[derive(Debug)]
pub struct Report {
    /// When it began.
    pub started_at: OffsetDateTime,
    /// How long it took.
    pub took: Duration,
    /// The address that answered.
    pub remote: Option<SocketAddr>,
    /// What came back.
    pub result: Result<Answer, Failure>,
}

/// The endpoint's answer.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// How long it asks to be left alone.
    pub retry_after: Option<Duration>,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// The beginning of its body.
    pub body: Vec<u8>,
}

/// Why there was no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Not a place we send to.
    #[error("forbidden destination: {0}")]
    Forbidden(String),
    /// The name didn't resolve.
    #[error("DNS: {0}")]
    Dns(String),
    /// No TCP connection.
    #[error("connect: {0}")]
    Connect(String),
    /// No trusted TLS connection.
    #[error("TLS: {0}")]
    Tls(String),
    /// The timeout passed.
    #[error("timed out")]
    Timeout,
    /// Connected, but the exchange broke off or wasn't HTTP.
    #[error("broken exchange: {0}")]
    Broken(String),
}

impl Report {
    /// As metrics and the attempts table have it.
    pub fn outcome(&self) -> &'static str {
        match &self.result {
            Ok(answer) => match answer.status {
                200..=299 => "success",
                300..=399 => "redirect",
                400..=499 => "client_error",
                _ => "server_error",
            },
            Err(failure) => match failure {
                Failure::Forbidden(_) => "forbidden",
                Failure::Dns(_) => "dns",
                Failure::Connect(_) => "connect",
                Failure::Tls(_) => "tls",
                Failure::Timeout => "timeout",
                Failure::Broken(_) => "broken",
            },
        }
    }
}

/// The one HTTP client: its connections are shared by all attempts.
pub struct Sender {
    client: Client,
    destinations: Arc<Destinations>,
}

impl Sender {
    /// A client that goes to allowed destinations only, follows no redirect and
    /// uses no proxy.
    ///
    /// # Errors
    /// If the system's certificates can't be read.
    pub fn new(destinations: Destinations) -> reqwest::Result<Self> {
        let destinations = Arc::new(destinations);
        let client = Client::builder()
            .user_agent(concat!("Posthorn/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .no_proxy()
            .http1_only()
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .dns_resolver(CheckedResolver(destinations.clone()))
            .build()?;
        Ok(Self {
            client,
            destinations,
        })
    }

    /// Makes one attempt.
    pub async fn attempt(
        &self,
        job: &Job,
        content: &Content,
        webhook: &Webhook,
        dialect: &Dialect,
        timeout: Duration,
    ) -> Report {
        let started_at = OffsetDateTime::now_utc();
        let clock = Instant::now();
        let wire = dialect.compose(
            &Message {
                event_id: &job.event_id,
                event_type: &job.event_type,
                occurred_at: job.occurred_at,
                data: &content.data,
                attributes: content.attributes.as_ref().and_then(Value::as_object),
                tenant: &job.tenant,
                webhook_id: webhook.id,
                delivery_id: job.delivery,
            },
            &webhook.secrets,
            started_at,
        );
        let (remote, result) = self.exchange(wire, webhook, timeout, started_at).await;
        Report {
            started_at,
            took: clock.elapsed(),
            remote,
            result,
        }
    }

    async fn exchange(
        &self,
        wire: Wire,
        webhook: &Webhook,
        timeout: Duration,
        now: OffsetDateTime,
    ) -> (Option<SocketAddr>, Result<Answer, Failure>) {
        let url = match self.destinations.check(&webhook.url) {
            Ok(url) => url,
            Err(forbidden) => return (None, Err(Failure::Forbidden(forbidden.to_string()))),
        };
        let mut request = self.client.post(url).timeout(timeout).body(wire.body);
        for (name, value) in &webhook.headers {
            // Checked when the webhook was saved. Its dialect may have changed
            // since: what a receiver verifies must not be there twice.
            if let (Ok(name), Ok(value)) = (
                HeaderName::try_from(name.as_str()),
                HeaderValue::from_str(value.expose_secret()),
            ) && !wire.headers.iter().any(|(own, _)| *own == name)
            {
                request = request.header(name, value);
            }
        }
        for (name, value) in wire.headers {
            request = request.header(name, value);
        }
        match request.send().await {
            Ok(response) => {
                let remote = response.remote_addr();
                (remote, Ok(read_answer(response, now).await))
            }
            Err(error) => (None, Err(classify(&error))),
        }
    }
}

/// Takes the status and headers, and as much of the body as is kept.
async fn read_answer(mut response: Response, now: OffsetDateTime) -> Answer {
    let retry_after = response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|value| parse_retry_after(value.to_str().ok()?, now));
    let headers = response
        .headers()
        .iter()
        .map(|(name, value)| {
            (
                name.to_string(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect();
    let mut answer = Answer {
        status: response.status().as_u16(),
        retry_after,
        headers,
        body: Vec::new(),
    };
    let body = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            let room = KEPT - answer.body.len();
            answer
                .body
                .extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() > room {
                break;
            }
        }
    };
    // What came until then is kept; the connection is dropped with the rest.
    let _ = tokio::time::timeout(BODY_PATIENCE, body).await;
    answer
}

/// Finds out what went wrong from the chain of causes.
fn classify(error: &reqwest::Error) -> Failure {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    let mut last = String::new();
    while let Some(error) = cause {
        if let Some(forbidden) = error.downcast_ref::<Forbidden>() {
            return Failure::Forbidden(forbidden.to_string());
        }
        if let Some(unresolved) = error.downcast_ref::<Unresolved>() {
            return Failure::Dns(unresolved.0.to_string());
        }
        if let Some(tls) = find_tls(error) {
            return Failure::Tls(tls.to_string());
        }
        last = error.to_string();
        cause = error.source();
    }
    if error.is_timeout() {
        Failure::Timeout
    } else if error.is_connect() {
        Failure::Connect(last)
    } else {
        Failure::Broken(last)
    }
}

/// A TLS error comes wrapped in one or more I/O errors, whose `source` skips
/// what they wrap.
fn find_tls<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(tls);
    }
    find_tls(error.downcast_ref::<std::io::Error>()?.get_ref()?)
}

/// Resolves names to allowed addresses only. The connection is opened to the
/// very addresses that were checked.
struct CheckedResolver(Arc<Destinations>);

/// A name without an address.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unresolved(std::io::Error);

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let destinations = self.0.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0))
                .await
                .map_err(Unresolved)?
                .collect();
            let mut refused = None;
            let mut allowed = Vec::new();
            for address in found {
                match destinations.check_address(address.ip()) {
                    Ok(()) => allowed.push(address),
                    Err(forbidden) => refused = Some(forbidden),
                }
            }
            match refused {
                Some(forbidden) if allowed.is_empty() => Err(forbidden.into()),
                _ => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}

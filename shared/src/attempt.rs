//! One attempt: signs a message, POSTs it, and reports what happened.
//!
//! The dispatcher makes the attempts of deliveries. Ingest makes those of test
//! deliveries. Both get a [`Report`]. This file uses no database and no broker.
//!
//! Everything is bounded. The webhook's timeout bounds the whole attempt. hyper
//! (100 headers, 408 KiB) and [`KEPT_HEADERS`] bound the head of the answer. [`Keep`]
//! and [`BODY_PATIENCE`] bound its body. Nothing is decompressed. An endpoint that has
//! sent its status has answered, even if reading the body fails afterwards.
//!
//! A report may be stored and shown. So it leaves out the values of the webhook's
//! custom headers: many of them are credentials.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::{HeaderName, HeaderValue, header};
use futures_util::FutureExt;
use reqwest::{Client, RequestBuilder, Response, redirect};
use secrecy::ExposeSecret;
use time::OffsetDateTime;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use crate::client_certificate::ClientCertificate;
use crate::clock;
use crate::connection::{Connector, USER_AGENT};
use crate::destination::{Destinations, Forbidden};
use crate::dialect::{Dialect, Message, Wire};
use crate::egress::Egress;
pub use crate::failure::Failure;
use crate::failure::bounded;
use crate::oauth::{self, ClientCredentials, Token, Tokens};
use crate::resolver::{CheckedResolver, Unresolved};
use crate::trace::{TRACEPARENT, TraceContext};
use crate::webhook::Webhook;

/// Marks test deliveries, for receivers that want to recognise them.
pub const TEST_HEADER: HeaderName = HeaderName::from_static("x-posthorn-test");
/// Replaces the value of a webhook's custom header.
const MASKED: &str = "…";
/// The time limit for reading the body of an answer.
const BODY_PATIENCE: Duration = Duration::from_secs(5);
/// How much longer an answer that has already arrived may be read after a timeout:
/// at least the first duration, and as much as the timer was late, up to the second.
const CATCHING_UP: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];
/// The time limit of the TCP and TLS handshakes, within the attempt's timeout.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How many bytes of an answer's headers are kept.
const KEPT_HEADERS: usize = 16 * 1024;
/// Idle connections that are kept open per endpoint.
const IDLE_CONNECTIONS: usize = 64;

/// One request to make.
#[derive(Clone, Copy)]
pub struct Attempt<'a> {
    pub message: &'a Message<'a>,
    pub webhook: &'a Webhook,
    pub dialect: &'a Dialect,
    pub timeout: Duration,
    pub purpose: Purpose,
    pub keep: Keep,
    /// The proxy that the tenant names; `None`: the one of all tenants, if there is one.
    pub egress: Option<&'a str>,
    /// What is above the endpoint's own spans. Sent unless the webhook switches that off, or
    /// has a header `traceparent` of its own.
    pub trace: Option<TraceContext>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Delivery,
    /// A test of the endpoint, marked with [`TEST_HEADER`].
    Test,
}

/// How much of the request's and the answer's body a report keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// 16 KiB of the answer.
    Excerpt,
    /// The whole request body (the size of an event's data is bounded, see ingest's
    /// `decode`), and 64 KiB of the answer.
    Everything,
}

impl Keep {
    /// How many bytes of an answer's body are read and kept.
    #[must_use]
    pub const fn of_answer(self) -> usize {
        match self {
            Self::Excerpt => 16 * 1024,
            Self::Everything => 64 * 1024,
        }
    }
}

/// An attempt and its result.
#[derive(Debug)]
pub struct Report {
    /// The request. `None` if the URL wasn't an allowed destination.
    pub request: Option<Sent>,
    pub started_at: OffsetDateTime,
    pub took: Duration,
    /// The address of the endpoint that answered.
    pub remote: Option<SocketAddr>,
    pub result: Result<Answer, Failure>,
}

/// A request as it may be shown: without credentials.
#[derive(Debug, Clone)]
pub struct Sent {
    /// The URL's host and port. Its path may hold a credential.
    pub host: String,
    /// The headers; the values of the webhook's custom headers are masked.
    pub headers: Vec<(String, String)>,
    /// The size of the body.
    pub bytes: usize,
    /// The body, with [`Keep::Everything`].
    pub body: Option<Bytes>,
}

#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub status: u16,
    /// The `Retry-After` of the answer.
    pub retry_after: Option<Duration>,
    /// The first headers, up to [`KEPT_HEADERS`].
    pub headers: Vec<(String, String)>,
    /// The beginning of the body.
    pub body: Vec<u8>,
}

impl Report {
    /// The class of the outcome, as in metrics and in the table of attempts.
    #[must_use]
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

/// Sends attempts. Those that need neither a proxy nor a client certificate share connections.
pub struct Sender {
    route: Arc<Route>,
    tokens: Tokens,
}

/// How requests reach their endpoints.
struct Route {
    client: Client,
    connector: Connector,
    destinations: Arc<Destinations>,
    egress: Egress,
}

/// An answer whose body is still to be read.
struct Opened {
    response: Response,
    remote: Option<SocketAddr>,
    /// A connection of its own. The body can be read only while it is held.
    _connection: Option<AbortOnDropHandle<()>>,
}

impl Sender {
    /// A client that connects only to allowed destinations, follows no redirect, and
    /// uses no proxy but the operator's for deliveries.
    ///
    /// # Errors
    /// If the system's certificates can't be read.
    pub fn new(destinations: Destinations, egress: Egress) -> reqwest::Result<Self> {
        let destinations = Arc::new(destinations);
        let resolver = CheckedResolver::new(destinations.clone());
        Self::resolving(destinations, resolver, egress)
    }

    pub(crate) fn resolving(
        destinations: Arc<Destinations>,
        resolver: CheckedResolver,
        egress: Egress,
    ) -> reqwest::Result<Self> {
        // This fails only if a provider is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let resolver = Arc::new(resolver);
        let client = Client::builder()
            .user_agent(USER_AGENT)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .http1_only()
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .dns_resolver(resolver.clone())
            .build()?;
        let route = Route {
            client,
            connector: Connector::new(destinations.clone(), resolver, CONNECT_TIMEOUT),
            destinations,
            egress,
        };
        Ok(Self {
            route: Arc::new(route),
            tokens: Tokens::default(),
        })
    }

    pub async fn attempt(&self, attempt: Attempt<'_>) -> Report {
        let started_at = clock::now();
        let clock = Instant::now();
        let (request, remote, result) = match self.route.destinations.check(&attempt.webhook.url) {
            Err(forbidden) => {
                let forbidden = Failure::Forbidden(forbidden.to_string());
                (None, None, Err(forbidden))
            }
            Ok(url) => self.attempt_at(url, attempt, started_at).await,
        };
        Report {
            request,
            started_at,
            took: clock.elapsed(),
            remote,
            result,
        }
    }

    /// Sends the request to its URL, which was checked.
    async fn attempt_at(
        &self,
        url: Url,
        attempt: Attempt<'_>,
        started_at: OffsetDateTime,
    ) -> (Option<Sent>, Option<SocketAddr>, Result<Answer, Failure>) {
        let clock = Instant::now();
        let token = match self.token(attempt).await {
            Ok(token) => token,
            Err(failure) => return (None, None, Err(failure)),
        };
        let Attempt {
            message,
            webhook,
            dialect,
            ..
        } = attempt;
        let wire = dialect.compose(message, &webhook.secrets, started_at);
        let (request, sent) = self.request(url.clone(), wire, attempt, token.as_ref());
        let left = Attempt {
            timeout: attempt.timeout.saturating_sub(clock.elapsed()),
            ..attempt
        };
        let (remote, result) = self.route.exchange(&url, request, left, started_at).await;
        if let (Some(token), Ok(answer)) = (&token, &result)
            && answer.status == 401
        {
            self.tokens.forget(webhook.id, token);
        }
        (Some(sent), remote, result)
    }

    /// The bearer token for the endpoint, if it wants one.
    async fn token(&self, attempt: Attempt<'_>) -> Result<Option<Token>, Failure> {
        let Some(credentials) = &attempt.webhook.oauth2 else {
            return Ok(None);
        };
        let fetch = || {
            let (route, credentials) = (self.route.clone(), credentials.clone());
            let egress = attempt.egress.map(str::to_owned);
            async move { route.fetch_token(&credentials, egress.as_deref()).await }.boxed()
        };
        let token = self.tokens.get(attempt.webhook.id, credentials, fetch);
        match tokio::time::timeout(attempt.timeout, token).await {
            Ok(token) => token.map(Some),
            Err(_) => Err(Failure::Timeout),
        }
    }

    fn request(
        &self,
        url: Url,
        wire: Wire,
        attempt: Attempt<'_>,
        token: Option<&Token>,
    ) -> (RequestBuilder, Sent) {
        let webhook = attempt.webhook;
        let body = Bytes::from(wire.body);
        let mut sent = Sent {
            host: host(&url),
            headers: Vec::new(),
            bytes: body.len(),
            body: (attempt.keep == Keep::Everything).then(|| body.clone()),
        };
        let mut request = self.route.client.post(url).body(body);
        if let Some(token) = token {
            let shown = (header::AUTHORIZATION.to_string(), MASKED.to_owned());
            sent.headers.push(shown);
            request = request.bearer_auth(token.text.expose_secret());
        }
        for (name, value) in &webhook.headers {
            // These headers were checked when the webhook was saved. But its dialect
            // may have changed since, and a header that receivers verify must not be
            // sent twice.
            if let (Ok(name), Ok(value)) = (
                HeaderName::try_from(name.as_str()),
                HeaderValue::from_str(value.expose_secret()),
            ) && !wire.headers.iter().any(|(own, _)| *own == name)
                && !(token.is_some() && name == header::AUTHORIZATION)
            {
                sent.headers.push((name.to_string(), MASKED.to_owned()));
                request = request.header(name, value);
            }
        }
        let mark = (attempt.purpose == Purpose::Test)
            .then(|| (TEST_HEADER, HeaderValue::from_static("true")));
        let trace = attempt.trace.filter(|_| webhook.trace_header);
        let trace = trace.filter(|_| {
            let is_it = |name: &str| name.eq_ignore_ascii_case(TRACEPARENT);
            !webhook.headers.iter().any(|(name, _)| is_it(name))
                && !wire.headers.iter().any(|(name, _)| is_it(name.as_str()))
        });
        let trace = trace.and_then(|trace| {
            let value = HeaderValue::try_from(trace.to_string()).ok()?;
            Some((HeaderName::from_static(TRACEPARENT), value))
        });
        for (name, value) in wire.headers.into_iter().chain(mark).chain(trace) {
            let shown = String::from_utf8_lossy(value.as_bytes()).into_owned();
            sent.headers.push((name.to_string(), shown));
            request = request.header(name, value);
        }
        (request, sent)
    }
}

/// For example `example.com:443`.
fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port_or_known_default()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

impl Route {
    async fn exchange(
        &self,
        url: &Url,
        request: RequestBuilder,
        attempt: Attempt<'_>,
        now: OffsetDateTime,
    ) -> (Option<SocketAddr>, Result<Answer, Failure>) {
        let clock = Instant::now();
        let identity = attempt.webhook.client_certificate.as_ref();
        let sending = self.send(url, request, attempt.egress, identity);
        match in_time(sending, attempt.timeout).await {
            Some(Ok(Opened {
                response,
                remote,
                _connection,
            })) => {
                let patience = attempt.timeout.saturating_sub(clock.elapsed());
                let patience = patience.min(BODY_PATIENCE);
                let answer = read_answer(response, attempt.keep.of_answer(), patience, now);
                (remote, Ok(answer.await))
            }
            Some(Err(failure)) => (None, Err(failure)),
            None => (None, Err(Failure::Timeout)),
        }
    }

    /// Sends a request by the way that the tenant's requests take.
    async fn send(
        &self,
        url: &Url,
        request: RequestBuilder,
        egress: Option<&str>,
        identity: Option<&ClientCertificate>,
    ) -> Result<Opened, Failure> {
        let proxy = self.egress.route(egress).map_err(Failure::Connect)?;
        if proxy.is_none() && identity.is_none() {
            let response = request.send().await.map_err(|error| classify(&error))?;
            return Ok(Opened {
                remote: response.remote_addr(),
                response,
                _connection: None,
            });
        }
        let request = request.build().map_err(|error| classify(&error))?;
        let sending = Box::pin(self.connector.send(url, request, proxy, identity));
        let answered = sending.await?;
        Ok(Opened {
            response: answered.response,
            remote: Some(answered.remote),
            _connection: Some(answered.connection),
        })
    }

    /// Asks a token endpoint, which is held to the rules for destinations.
    async fn fetch_token(
        &self,
        credentials: &ClientCredentials,
        egress: Option<&str>,
    ) -> Result<Token, Failure> {
        let url = self.destinations.check(&credentials.token_url);
        let url = url.map_err(|forbidden| {
            Failure::Forbidden(bounded(&format!("the token endpoint {forbidden}")))
        })?;
        let (user, password) = credentials.login();
        let request = self
            .client
            .post(url.clone())
            .basic_auth(user, Some(password))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json")
            .body(credentials.form());
        let mut opened = self.send(&url, request, egress, None).await?;
        let status = opened.response.status().as_u16();
        let mut body = Vec::new();
        while let Some(chunk) = opened
            .response
            .chunk()
            .await
            .map_err(|error| classify(&error))?
        {
            if body.len() + chunk.len() > oauth::MAX_ANSWER {
                let why = "OAuth 2 token: the token endpoint's answer is too large";
                return Err(Failure::Broken(why.to_owned()));
            }
            body.extend_from_slice(&chunk);
        }
        oauth::read(status, &body, Instant::now())
    }
}

/// The result of `sending` if it is ready within the timeout. If the process was
/// frozen meanwhile (it was stopped, or its machine was), the timer fires before an
/// answer is read that arrived in time. The endpoint would then be charged for our
/// own fault.
async fn in_time<T>(sending: impl Future<Output = T>, timeout: Duration) -> Option<T> {
    let clock = Instant::now();
    let mut sending = std::pin::pin!(sending);
    if let Ok(sent) = tokio::time::timeout(timeout, &mut sending).await {
        return Some(sent);
    }
    let [least, most] = CATCHING_UP;
    let late = clock.elapsed().saturating_sub(timeout);
    let sent = tokio::time::timeout(late.clamp(least, most), sending).await;
    sent.ok()
}

/// Reads the status, the headers, and as much of the body as is kept.
async fn read_answer(
    mut response: Response,
    keep: usize,
    patience: Duration,
    now: OffsetDateTime,
) -> Answer {
    let retry_after = response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|value| parse_retry_after(value.to_str().ok()?, now));
    let mut room = KEPT_HEADERS;
    let headers = response.headers().iter().map_while(|(name, value)| {
        room = room.checked_sub(name.as_str().len() + value.len())?;
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        Some((name.to_string(), value))
    });
    let headers = headers.collect();
    let mut answer = Answer {
        status: response.status().as_u16(),
        retry_after,
        headers,
        body: Vec::new(),
    };
    let body = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            let room = keep - answer.body.len();
            answer
                .body
                .extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() > room {
                break;
            }
        }
    };
    // The part of the body that arrived until then is kept. The rest is dropped with
    // the connection.
    let _ = tokio::time::timeout(patience, body).await;
    answer
}

/// Reads a `Retry-After` header (RFC 9110, section 10.2.3): seconds, or a date.
pub fn parse_retry_after(value: &str, now: OffsetDateTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // A number with more digits than fit into a u64 is longer than any cap.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    let wait = OffsetDateTime::from(date) - now;
    Some(wait.try_into().unwrap_or(Duration::ZERO))
}

/// Finds out what went wrong from the chain of causes.
fn classify(error: &reqwest::Error) -> Failure {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    let mut last = String::new();
    while let Some(error) = cause {
        if let Some(forbidden) = error.downcast_ref::<Forbidden>() {
            return Failure::Forbidden(bounded(&forbidden.to_string()));
        }
        if let Some(unresolved) = error.downcast_ref::<Unresolved>() {
            return Failure::Dns(bounded(&unresolved.0));
        }
        if let Some(tls) = find_tls(error) {
            return Failure::Tls(bounded(&tls.to_string()));
        }
        last = error.to_string();
        cause = error.source();
    }
    if error.is_timeout() {
        Failure::Timeout
    } else if error.is_connect() {
        Failure::Connect(bounded(&last))
    } else {
        Failure::Broken(bounded(&last))
    }
}

/// A TLS error is wrapped in one or more I/O errors, and their `source` skips what
/// they wrap.
fn find_tls<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(tls);
    }
    find_tls(error.downcast_ref::<std::io::Error>()?.get_ref()?)
}

#[cfg(test)]
mod tests;

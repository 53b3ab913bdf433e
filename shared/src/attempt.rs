//! One attempt: signs a message, POSTs it, and reports what happened.
//!
//! The dispatcher makes the attempts of deliveries. Ingest makes those of test
//! deliveries. Both get a [`Report`]. This file uses no database and no broker.
//!
//! Everything is bounded. The webhook's timeout bounds the whole attempt. hyper
//! (100 headers, 408 KiB) and [`report::KEPT_HEADERS`] bound the head of the answer. [`Keep`]
//! and `route::BODY_PATIENCE` bound its body. [`idle`] bounds the connections that stay open. Nothing is decompressed. An endpoint that has
//! sent its status has answered, even if reading the body fails afterwards.

mod answer;
mod idle;
mod report;
mod route;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::{HeaderName, HeaderValue, header};
use futures_util::FutureExt;
use reqwest::{Client, RequestBuilder, redirect};
use secrecy::ExposeSecret;
use time::OffsetDateTime;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::block_in_place;
use url::Url;

use crate::clock;
use crate::connection::{Connector, USER_AGENT};
use crate::destination::Destinations;
use crate::dialect::Wire;
use crate::egress::Egress;
pub use crate::failure::Failure;
use crate::oauth::{Token, Tokens};
use crate::resolver::{Awaited, CheckedResolver, for_tenant};
use crate::trace::TRACEPARENT;
pub use answer::parse_retry_after;
use idle::Idle;
pub use idle::MOST_KEPT;
pub use report::{Answer, Attempt, Keep, Purpose, Report, Sent, TEST_HEADER};
use route::Route;

/// Replaces the value of a webhook's custom header.
const MASKED: &str = "…";
/// The time limit of the TCP and TLS handshakes, within the attempt's timeout.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The data of an event that is large. Writing and signing its body takes longer than handing
/// the thread's other tasks to another thread.
const LARGE: usize = 64 * 1024;

/// Sends attempts. Those that need neither a proxy nor a client certificate share connections.
pub struct Sender {
    route: Arc<Route>,
    tokens: Tokens,
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
        let client = |idle_per_host| {
            Client::builder()
                .user_agent(USER_AGENT)
                .redirect(redirect::Policy::none())
                .no_proxy()
                .http1_only()
                .tcp_nodelay(true)
                .connect_timeout(CONNECT_TIMEOUT)
                .pool_max_idle_per_host(idle_per_host)
                .pool_idle_timeout(idle::IDLE_TIMEOUT)
                .dns_resolver(resolver.clone())
                .build()
        };
        let route = Route {
            keeping_client: client(idle::MOST_OF_A_HOST)?,
            closing_client: client(0)?,
            idle: Idle::new(MOST_KEPT),
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
            Ok(url) => {
                let awaited = Awaited::default();
                let attempted = self.attempt_at(url, attempt, started_at, awaited.clone());
                for_tenant(&attempt.webhook.tenant, awaited, Box::pin(attempted)).await
            }
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
        awaited: Awaited,
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
        let compose = || dialect.compose(message, &webhook.secrets, started_at);
        let wire = match is_work_for_a_thread(message.data.len()) {
            true => block_in_place(compose),
            false => compose(),
        };
        // Held until the answer was read.
        let kept = self.route.begin_kept(&url, attempt);
        let client = match kept {
            Some(_) => &self.route.keeping_client,
            None => &self.route.closing_client,
        };
        let request = client.post(url.clone());
        let (request, sent) = self.request(request, &url, wire, attempt, token.as_ref());
        let left = Attempt {
            timeout: attempt.timeout.saturating_sub(clock.elapsed()),
            ..attempt
        };
        let exchange = self.route.exchange(&url, request, left, started_at);
        let (remote, result) = exchange.await;
        // An endpoint whose name wasn't looked up yet was never asked.
        let result = match result {
            Err(Failure::Timeout) => Err(Failure::timed_out(&awaited)),
            result => result,
        };
        drop(kept);
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
        let fetch = |awaited| {
            let (route, credentials) = (self.route.clone(), credentials.clone());
            let egress = attempt.egress.map(str::to_owned);
            let tenant = attempt.webhook.tenant.clone();
            // The fetch runs in a task of its own, which doesn't know the tenant.
            async move {
                let fetched = route.fetch_token(&credentials, egress.as_deref());
                for_tenant(&tenant, awaited, fetched).await
            }
            .boxed()
        };
        let of = attempt.webhook.id;
        let token = self.tokens.get(of, credentials, attempt.timeout, fetch);
        token.await.map(Some)
    }

    fn request(
        &self,
        request: RequestBuilder,
        url: &Url,
        wire: Wire,
        attempt: Attempt<'_>,
        token: Option<&Token>,
    ) -> (RequestBuilder, Sent) {
        let webhook = attempt.webhook;
        let body = Bytes::from(wire.body);
        let mut sent = Sent {
            host: host(url),
            headers: Vec::new(),
            bytes: body.len(),
            body: (attempt.keep == Keep::Everything).then(|| body.clone()),
        };
        let mut request = request.body(body);
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

/// Whether a body with so much data is written on a thread of its own. A runtime with one thread
/// has no other.
fn is_work_for_a_thread(data: usize) -> bool {
    let has_threads =
        |runtime: Handle| matches!(runtime.runtime_flavor(), RuntimeFlavor::MultiThread);
    data > LARGE && Handle::try_current().is_ok_and(has_threads)
}

/// For example `example.com:443`.
fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port_or_known_default()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

#[cfg(test)]
pub(crate) mod tests;

//! How a request reaches its endpoint: directly, through the operator's proxy, or on a
//! connection of its own with a client certificate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::header;
use reqwest::{Client, RequestBuilder, Response};
use time::OffsetDateTime;
use tokio_util::task::AbortOnDropHandle;
use url::{Position, Url};

use super::answer::read_answer;
use super::idle::{Idle, Kept};
use super::report::{Answer, Attempt};
use crate::client_certificate::ClientCertificate;
use crate::connection::Connector;
use crate::destination::Destinations;
use crate::egress::Egress;
use crate::failure::{Failure, bounded, classify};
use crate::oauth::{self, ClientCredentials, Token};

/// The time limit for reading the body of an answer.
const BODY_PATIENCE: Duration = Duration::from_secs(5);

/// How much longer an answer that has already arrived may be read after a timeout:
/// at least the first duration, and as much as the timer was late, up to the second.
const CATCHING_UP: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];

/// How requests reach their endpoints.
pub(super) struct Route {
    /// Keeps connections open for the next requests.
    pub(super) keeping_client: Client,
    /// Closes each connection after its request.
    pub(super) closing_client: Client,
    /// Decides which requests the `keeping_client` sends.
    pub(super) idle: Arc<Idle>,
    pub(super) connector: Connector,
    pub(super) destinations: Arc<Destinations>,
    pub(super) egress: Egress,
}

/// An answer whose body is still to be read.
struct Opened {
    response: Response,
    remote: Option<SocketAddr>,
    /// A connection of its own. The body can be read only while it is held.
    _connection: Option<AbortOnDropHandle<()>>,
}

impl Route {
    pub(super) async fn exchange(
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

    /// Begins a request whose connection may be kept. `None` if there is no room for one, or if
    /// its connection is its own anyway.
    pub(super) fn begin_kept(&self, url: &Url, attempt: Attempt<'_>) -> Option<Kept> {
        let is_direct = matches!(self.egress.route(attempt.egress), Ok(None));
        if !is_direct || attempt.webhook.client_certificate.is_some() {
            return None;
        }
        let host = &url[..Position::BeforePath];
        let tenant = &attempt.webhook.tenant;
        self.idle.begin(tenant, host, Instant::now())
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
    pub(super) async fn fetch_token(
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
            .closing_client
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

//! Asks the API. Follows no redirect and uses no proxy, so the token goes to one place.

use std::time::Duration;

use anyhow::{Context, ensure};
use reqwest::{Method, RequestBuilder, Response, redirect};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use shared::ids::Tenant;
use url::Url;

/// The time limit of a request.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The time limit for connecting.
const CONNECT: Duration = Duration::from_secs(10);
/// The largest answer, in bytes.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

pub struct Client {
    http: reqwest::Client,
    url: Url,
    tenant: Option<Tenant>,
    token: SecretString,
}

impl Client {
    pub(super) fn new(
        url: Url,
        tenant: Option<Tenant>,
        token: SecretString,
    ) -> anyhow::Result<Self> {
        ensure!(
            matches!(url.scheme(), "http" | "https") && url.host().is_some(),
            "the address of the API must be like https://posthorn.example.com"
        );
        // This fails only if a provider is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .user_agent(concat!("posthorn-ingest/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT)
            .build()?;
        Ok(Self {
            http,
            url,
            tenant,
            token,
        })
    }

    fn request(&self, method: Method, path: &str) -> anyhow::Result<RequestBuilder> {
        // An address may have a path of its own, of a proxy in front of the API.
        let base = self.url.as_str().trim_end_matches('/');
        let request = self
            .http
            .request(method, format!("{base}{path}"))
            .bearer_auth(self.token.expose_secret());
        Ok(match &self.tenant {
            Some(tenant) => request.header("x-tenant-id", tenant.as_str()),
            None => request,
        })
    }

    pub(super) async fn get(&self, path: &str, query: &[(&str, String)]) -> anyhow::Result<Value> {
        let mut request = self.request(Method::GET, path)?;
        if !query.is_empty() {
            request = self.request(Method::GET, &format!("{path}?{}", encode(query)))?;
        }
        json(request.timeout(TIMEOUT).send().await).await
    }

    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> anyhow::Result<Value> {
        let mut request = self.request(method, path)?.timeout(TIMEOUT);
        if let Some(body) = body {
            request = request
                .header("content-type", "application/json")
                .body(body);
        }
        json(request.send().await).await
    }

    /// An answer that is read line by line.
    pub(super) async fn stream(&self, path: &str) -> anyhow::Result<Response> {
        let response = self
            .request(Method::GET, path)?
            .timeout(TIMEOUT)
            .send()
            .await;
        let response = response.context("asking the API")?;
        if response.status().is_success() {
            return Ok(response);
        }
        json(Ok(response)).await?;
        anyhow::bail!("the API refused the stream")
    }
}

fn encode(query: &[(&str, String)]) -> String {
    url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(query)
        .finish()
}

/// The JSON of an answer; its problem, if it is one.
async fn json(sent: reqwest::Result<Response>) -> anyhow::Result<Value> {
    let mut response = sent.context("asking the API")?;
    let status = response.status();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.context("reading the answer")? {
        ensure!(
            body.len() + chunk.len() <= MAX_ANSWER,
            "the answer has more than {MAX_ANSWER} bytes"
        );
        body.extend_from_slice(&chunk);
    }
    if status.is_success() && body.is_empty() {
        return Ok(Value::Null);
    }
    let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
    if status.is_success() {
        return Ok(answer);
    }
    let detail = answer["detail"].as_str().unwrap_or("without a reason");
    let field = answer["field"].as_str();
    let field = field.map_or(String::new(), |field| format!("{field}: "));
    anyhow::bail!(
        "the API answered {}: {}",
        status.as_u16(),
        visible(&format!("{field}{detail}"))
    )
}

/// The text without control characters, which a terminal would obey.
pub(super) fn visible(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// A member as text, for a column.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => visible(text),
        Value::Null => "-".to_owned(),
        other => visible(&other.to_string()),
    }
}

//! A request that may be wrong, and what is told about it in a library's words.

use harness::service::{Service, http};
use harness::world::{ADMIN_TOKEN, TENANT};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use crate::library::{sentences, words_of_a_library};

/// A request that may be wrong.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    method: String,
    pub(crate) path: String,
    headers: HeaderMap,
    pub(crate) body: Option<Vec<u8>>,
}

impl Sent {
    pub(crate) fn new(method: &str, path: &str) -> Self {
        let sent = Self {
            method: method.to_owned(),
            path: path.to_owned(),
            headers: HeaderMap::new(),
            body: None,
        };
        let bearer = format!("Bearer {ADMIN_TOKEN}");
        sent.with("authorization", bearer.as_bytes())
            .with("x-tenant-id", TENANT.as_bytes())
    }

    pub(crate) fn with(mut self, name: &str, value: &[u8]) -> Self {
        let name: HeaderName = name.parse().unwrap();
        let value = HeaderValue::from_bytes(value).unwrap();
        self.headers.insert(name, value);
        self
    }

    pub(crate) fn json(self, body: impl Into<Vec<u8>>) -> Self {
        self.saying("application/json", body)
    }

    pub(crate) fn saying(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self.with("content-type", content_type.as_bytes())
    }

    /// The status, and sentences with a library's words, each with the request.
    pub(crate) async fn ask(self, ingest: &Service) -> (u16, Vec<(String, String)>) {
        let shown = format!(
            "{} {} {:?}",
            self.method,
            self.path,
            self.body.as_deref().map(String::from_utf8_lossy)
        );
        let mut request = http()
            .request(self.method.parse().unwrap(), ingest.url(&self.path))
            .headers(self.headers);
        if let Some(body) = self.body {
            request = request.body(body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let kind = answer.headers().get("content-type");
        let is_json = kind.is_some_and(|kind| kind.to_str().unwrap().ends_with("json"));
        // A stream has no end.
        if !is_json || kind.is_some_and(|kind| kind == "application/x-ndjson") {
            return (status, Vec::new());
        }
        let text = answer.text().await.unwrap();
        let body: Value = serde_json::from_str(&text).unwrap();
        let mut said = Vec::new();
        sentences(&body, &mut said);
        let found = said.iter().filter_map(|sentence| {
            let words = words_of_a_library(sentence)?;
            let told = format!("`{words}` in \"{sentence}\"");
            Some((told, format!("{status} to {shown}")))
        });
        (status, found.collect())
    }
}

//! Reads RabbitMQ's management API for the doctor.

use std::time::Duration;

use anyhow::{Context, ensure};
use lapin::uri::{AMQPScheme, AMQPUri};
use reqwest::Client;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::Url;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Where it is, and what AMQP_URL says about our part of the broker.
pub(super) struct Management {
    base: anyhow::Result<(Client, Url)>,
    pub(super) vhost: String,
    pub(super) user: String,
}

impl Management {
    pub(super) fn new(amqp: &SecretString, management: Option<Url>) -> Self {
        // The settings were checked, so it is a URL.
        let uri: AMQPUri = amqp.expose_secret().parse().unwrap_or_default();
        Self {
            base: client().and_then(|client| Ok((client, base(&uri, management)?))),
            vhost: uri.vhost,
            user: uri.authority.userinfo.username,
        }
    }

    /// The answer to a request, with these segments of its path.
    pub(super) async fn get(&self, path: &[&str]) -> anyhow::Result<Value> {
        let (client, base) = self
            .base
            .as_ref()
            .map_err(|error| anyhow::anyhow!("{error:#}"))?;
        let mut url = base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("api").extend(path);
        }
        let (user, password) = (url.username().to_owned(), url.password().map(str::to_owned));
        // Neither can fail: the URL has a host. An error must not show them.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        let request = client
            .get(url)
            .basic_auth(decode(&user), password.as_deref().map(decode));
        let answer = request.send().await.map_err(|error| error.without_url())?;
        let status = answer.status();
        ensure!(status.is_success(), "it answered {status}");
        let body = answer.bytes().await.context("reading its answer")?;
        serde_json::from_slice(&body).context("its answer is not JSON")
    }
}

fn client() -> anyhow::Result<Client> {
    // This fails only if a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(Client::builder().timeout(TIMEOUT).no_proxy().build()?)
}

fn base(uri: &AMQPUri, management: Option<Url>) -> anyhow::Result<Url> {
    let authority = &uri.authority;
    let mut url = match management {
        Some(url) => url,
        None => {
            let (scheme, port) = match uri.scheme {
                AMQPScheme::AMQP => ("http", 15672),
                AMQPScheme::AMQPS => ("https", 15671),
            };
            Url::parse(&format!("{scheme}://{}:{port}", authority.host))
                .context("AMQP_URL's host is not one of a URL")?
        }
    };
    ensure!(url.has_host(), "the management API's URL has no host");
    if url.username().is_empty() {
        // Can't fail: it has a host.
        let _ = url.set_username(&authority.userinfo.username);
        let _ = url.set_password(Some(&authority.userinfo.password));
    }
    Ok(url)
}

/// What a URL has encoded.
fn decode(text: &str) -> String {
    let pair = format!("x={}", text.replace('+', "%2B"));
    let mut pairs = url::form_urlencoded::parse(pair.as_bytes());
    pairs
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}

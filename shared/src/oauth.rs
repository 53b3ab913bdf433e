//! Bearer tokens for endpoints that want OAuth 2: the client credentials grant (RFC 6749,
//! section 4.4).
//!
//! A token is fetched before a webhook's first attempt, kept in memory until shortly before it
//! expires, and fetched anew when the endpoint answers 401. It is never stored, shown or
//! logged. The token endpoint is held to the rules for destinations, and reached the way that
//! deliveries take. Attempts that need the same token at the same time wait for one request.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::failure::{Failure, bounded};
use crate::ids::WebhookId;
use crate::resolver::Awaited;

/// The time limit for fetching a token.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer of a token endpoint, in bytes.
pub(crate) const MAX_ANSWER: usize = 64 * 1024;
/// The longest token, in bytes.
const MAX_TOKEN: usize = 16 * 1024;
/// How long a token is used if the answer doesn't say.
const DEFAULT_LIFE: u64 = 300;
/// The longest time that a token is used.
const LONGEST_LIFE: u64 = 24 * 3600;
/// How long before its end a token isn't used any more: a tenth of its life, at most this.
const MARGIN: Duration = Duration::from_secs(60);
/// The most tokens in memory.
const REMEMBERED: usize = 10_000;

/// What a webhook's tokens are asked for with. Stored sealed.
#[derive(Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct ClientCredentials {
    pub token_url: String,
    pub client_id: String,
    pub client_secret: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
}

impl fmt::Debug for ClientCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientCredentials({})", self.client_id)
    }
}

impl ClientCredentials {
    /// The body of a token request. The credentials are in its `Authorization`.
    pub(crate) fn form(&self) -> String {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        for (name, value) in [("scope", &self.scope), ("audience", &self.audience)] {
            if let Some(value) = value {
                form.append_pair(name, value);
            }
        }
        form.finish()
    }

    /// User and password of a token request (RFC 6749, section 2.3.1).
    pub(crate) fn login(&self) -> (String, String) {
        let encoded = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
        (encoded(&self.client_id), encoded(&self.client_secret))
    }

    /// Tells these credentials from others.
    fn hash(&self) -> [u8; 32] {
        Sha256::digest(serde_json::to_string(self).unwrap_or_default()).into()
    }
}

/// A token endpoint's answer (RFC 6749, section 5.1).
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    token_type: String,
    #[serde(default)]
    expires_in: Option<serde_json::Value>,
}

/// A token, and until when it is used.
#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) text: SecretString,
    until: Instant,
}

/// Reads a token endpoint's answer. No failure repeats it.
pub(crate) fn read(status: u16, body: &[u8], now: Instant) -> Result<Token, Failure> {
    let unusable = |why: String| Failure::Broken(bounded(&format!("OAuth 2 token: {why}")));
    if status != 200 {
        return Err(unusable(format!("the token endpoint answered {status}")));
    }
    let granted: Granted = serde_json::from_slice(body)
        .map_err(|_| unusable("the token endpoint's answer is not as RFC 6749 says".to_owned()))?;
    if !granted.token_type.eq_ignore_ascii_case("bearer") {
        return Err(unusable(
            "the token endpoint's token is not a bearer token".to_owned(),
        ));
    }
    let visible = granted
        .access_token
        .bytes()
        .all(|byte| byte.is_ascii_graphic());
    if granted.access_token.is_empty() || granted.access_token.len() > MAX_TOKEN || !visible {
        let why = format!("the token must be 1 to {MAX_TOKEN} visible ASCII characters");
        return Err(unusable(why));
    }
    // Some send the number as a text.
    let life = granted.expires_in.and_then(|life| match life {
        serde_json::Value::Number(life) => life.as_u64(),
        serde_json::Value::String(life) => life.parse().ok(),
        _ => None,
    });
    let life = Duration::from_secs(life.unwrap_or(DEFAULT_LIFE).min(LONGEST_LIFE));
    Ok(Token {
        text: granted.access_token.into(),
        until: now + life - (life / 10).min(MARGIN),
    })
}

type Fetch = Shared<BoxFuture<'static, Result<Token, Failure>>>;

/// The tokens of all webhooks, in memory.
#[derive(Default)]
pub(crate) struct Tokens(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// With what they were asked for.
    known: HashMap<WebhookId, ([u8; 32], Token)>,
    /// Each with the lookup that it waits for.
    under_way: HashMap<(WebhookId, [u8; 32]), (Fetch, Awaited)>,
}

impl Tokens {
    /// The webhook's token; fetched if there is none that is still good. A fetch goes on even if
    /// nobody waits for it any more. This waits for it no longer than `patience`.
    pub(crate) async fn get(
        &self,
        webhook: WebhookId,
        credentials: &ClientCredentials,
        patience: Duration,
        fetch: impl FnOnce(Awaited) -> BoxFuture<'static, Result<Token, Failure>>,
    ) -> Result<Token, Failure> {
        let hash = credentials.hash();
        let (fetching, awaited) = {
            let mut state = lock(&self.0);
            match state.known.get(&webhook) {
                Some((of, token)) if *of == hash && token.until > Instant::now() => {
                    return Ok(token.clone());
                }
                _ => {}
            }
            match state.under_way.get(&(webhook, hash)) {
                Some(fetching) => fetching.clone(),
                None => {
                    let awaited = Awaited::default();
                    let fetching = self.start(webhook, hash, fetch(awaited.clone()));
                    let fetching = (fetching, awaited);
                    state.under_way.insert((webhook, hash), fetching.clone());
                    fetching
                }
            }
        };
        let fetched = tokio::time::timeout(patience, fetching).await;
        fetched.unwrap_or_else(|_| Err(Failure::timed_out(&awaited)))
    }

    fn start(
        &self,
        webhook: WebhookId,
        hash: [u8; 32],
        fetch: BoxFuture<'static, Result<Token, Failure>>,
    ) -> Fetch {
        let state = self.0.clone();
        let task = tokio::spawn(async move {
            let fetched = tokio::time::timeout(TIMEOUT, fetch).await;
            let fetched = fetched.unwrap_or_else(|_| {
                Err(Failure::Broken(
                    "OAuth 2 token: the token endpoint timed out".to_owned(),
                ))
            });
            let mut state = lock(&state);
            state.under_way.remove(&(webhook, hash));
            if let Ok(token) = &fetched {
                state.remember(webhook, hash, token.clone());
            }
            fetched
        });
        let joined = async {
            task.await
                .unwrap_or_else(|error| Err(Failure::Broken(error.to_string())))
        };
        joined.boxed().shared()
    }

    /// Forgets a token that its endpoint didn't accept.
    pub(crate) fn forget(&self, webhook: WebhookId, refused: &Token) {
        let mut state = lock(&self.0);
        let is_it = state
            .known
            .get(&webhook)
            .is_some_and(|(_, token)| token.text.expose_secret() == refused.text.expose_secret());
        if is_it {
            state.known.remove(&webhook);
        }
    }
}

impl State {
    fn remember(&mut self, webhook: WebhookId, hash: [u8; 32], token: Token) {
        if self.known.len() >= REMEMBERED {
            let now = Instant::now();
            self.known.retain(|_, (_, token)| token.until > now);
        }
        if self.known.len() >= REMEMBERED
            && let Some(any) = self.known.keys().next().copied()
        {
            self.known.remove(&any);
        }
        self.known.insert(webhook, (hash, token));
    }
}

// Nothing awaits while it holds the lock.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_a_token_endpoint_is_read_and_never_repeated() {
        let now = Instant::now();
        let good = br#"{"access_token":"abc","token_type":"Bearer","expires_in":3600}"#;
        let token = read(200, good, now).unwrap();
        assert_eq!(token.text.expose_secret(), "abc");
        assert_eq!(token.until, now + Duration::from_secs(3540));
        let brief = br#"{"access_token":"abc","token_type":"bearer","expires_in":"10"}"#;
        assert_eq!(
            read(200, brief, now).unwrap().until,
            now + Duration::from_secs(9)
        );
        for (status, body) in [
            (401, &good[..]),
            (200, br#"{"access_token":"hunter2","token_type":"mac"}"#),
            (
                200,
                br#"{"access_token":"hunter2 hunter2","token_type":"bearer"}"#,
            ),
            (200, br#"{"access_token":"","token_type":"bearer"}"#),
            (200, b"hunter2"),
        ] {
            let error = read(status, body, now).err().unwrap().to_string();
            assert!(
                error.contains("OAuth 2 token") && !error.contains("hunter2"),
                "{error}"
            );
        }
    }
}

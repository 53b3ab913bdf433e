//! Compares a declared webhook with the stored one.
//!
//! A file declares a webhook whole: a member that it leaves out gets its default.
//! Two things stay as they are instead, because the API or Posthorn changes them:
//! the secret, and whether the webhook is switched on or in debug mode.

use std::collections::BTreeMap;

use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};
use shared::client_certificate::ClientCertificate;
use shared::ids::{ExternalId, Owner, WebhookId};
use shared::oauth::ClientCredentials;
use shared::retry::Retry;
use shared::secret::Secret;
use shared::webhook::{Rate, Status, Subscription, Webhook};

use super::difference::Difference;
use crate::webhooks::form::{CheckedWebhook, Signing};
use crate::webhooks::rate_limit::RateLimit;

pub struct Now {
    pub id: WebhookId,
    /// A webhook that was made over the API has none, until a file declares it.
    pub has_key: bool,
    members: Members,
    secret: Secret,
}

/// The members that a file can declare.
struct Members {
    url: String,
    events: Vec<String>,
    description: String,
    status: Status,
    operational: bool,
    filters: Option<Value>,
    headers: Vec<(String, String)>,
    timeout: Option<i32>,
    retry: Option<Retry>,
    rate: Option<Rate>,
    debug_mode: bool,
    trace_header: bool,
    signing: Signing,
    dialect: Option<String>,
    metadata: Map<String, Value>,
    client_certificate: Option<ClientCertificate>,
    oauth2: Option<ClientCredentials>,
    external_id: Option<ExternalId>,
    owner: Option<Owner>,
}

impl Default for Members {
    fn default() -> Self {
        Self {
            url: String::new(),
            events: Vec::new(),
            description: String::new(),
            status: Status::Active,
            operational: false,
            filters: None,
            headers: Vec::new(),
            timeout: None,
            retry: None,
            rate: None,
            debug_mode: false,
            trace_header: true,
            signing: Signing::Hmac,
            dialect: None,
            metadata: Map::new(),
            client_certificate: None,
            oauth2: None,
            external_id: None,
            owner: None,
        }
    }
}

impl Now {
    #[must_use]
    pub fn new(
        webhook: Webhook,
        subscription: Subscription,
        description: String,
        metadata: Value,
        has_key: bool,
        owner: Option<Owner>,
    ) -> Self {
        let exposed = |(name, value): (String, secrecy::SecretString)| {
            (name, value.expose_secret().to_owned())
        };
        Self {
            id: webhook.id,
            has_key,
            secret: webhook.secrets.current().clone(),
            members: Members {
                signing: match webhook.secrets.signing_key() {
                    Some(_) => Signing::Ed25519,
                    None => Signing::Hmac,
                },
                url: webhook.url,
                events: subscription.patterns,
                description,
                status: webhook.status,
                operational: subscription.operational,
                filters: subscription.filter,
                headers: webhook.headers.into_iter().map(exposed).collect(),
                timeout: webhook.timeout.map(|timeout| timeout.as_millis() as i32),
                retry: webhook.retry,
                rate: webhook.rate,
                debug_mode: webhook.debug_mode,
                trace_header: webhook.trace_header,
                dialect: webhook.dialect,
                client_certificate: webhook.client_certificate,
                oauth2: webhook.oauth2,
                external_id: webhook.external_id,
                owner,
                metadata: match metadata {
                    Value::Object(metadata) => metadata,
                    // Only a row made by hand has another.
                    _ => Map::new(),
                },
            },
        }
    }
}

/// The members that are to be written, and the lines of the report.
pub(crate) fn compare(now: Option<&Now>, wanted: CheckedWebhook) -> (CheckedWebhook, Difference) {
    let mut wanted = whole(wanted);
    let mut difference = Difference::new(now.is_none());
    let nothing = Members::default();
    let members = now.map_or(&nothing, |now| &now.members);
    if let Some(now) = now.filter(|now| !now.has_key) {
        difference.line("key", "none", &now.id.to_string());
    }
    difference.member("url", &members.url, &mut wanted.url);
    difference.member("events", &members.events, &mut wanted.events);
    difference.member("description", &members.description, &mut wanted.description);
    let named = Status::as_str;
    let mut status = wanted.status.map(named);
    difference.member("status", &named(members.status), &mut status);
    wanted.status = wanted.status.filter(|_| status.is_some());
    difference.member("operational", &members.operational, &mut wanted.operational);
    difference.member("filters", &members.filters, &mut wanted.filters);
    secret(&mut difference, now.map(|now| &now.secret), &mut wanted);
    headers(&mut difference, &members.headers, &mut wanted);
    let shown = |certificate: &Option<ClientCertificate>| {
        let certificate = certificate.as_ref();
        certificate.map_or("none".to_owned(), ClientCertificate::fingerprint)
    };
    sealed(
        &mut difference,
        "client_certificate",
        &members.client_certificate,
        &mut wanted.client_certificate,
        shown,
    );
    let shown = |credentials: &Option<ClientCredentials>| match credentials {
        Some(credentials) => format!("{} at {}", credentials.client_id, credentials.token_url),
        None => "none".to_owned(),
    };
    sealed(
        &mut difference,
        "oauth2",
        &members.oauth2,
        &mut wanted.oauth2,
        shown,
    );
    difference.member("timeout", &members.timeout, &mut wanted.timeout);
    difference.member("retry_policy", &members.retry, &mut wanted.retry);
    let limit = |rate: Option<Rate>| json!(rate.map(RateLimit::from));
    let mut rate = wanted.rate.map(limit);
    difference.member("rate_limit", &limit(members.rate), &mut rate);
    wanted.rate = wanted.rate.filter(|_| rate.is_some());
    difference.member("debug_mode", &members.debug_mode, &mut wanted.debug_mode);
    difference.member(
        "trace_header",
        &members.trace_header,
        &mut wanted.trace_header,
    );
    difference.member("signing", &members.signing, &mut wanted.signing);
    difference.member("dialect", &members.dialect, &mut wanted.dialect);
    difference.member("metadata", &members.metadata, &mut wanted.metadata);
    difference.member("external_id", &members.external_id, &mut wanted.external_id);
    difference.member("owner", &members.owner, &mut wanted.owner);
    (wanted, difference)
}

/// Fills in defaults for members that the file leaves out, except for those that the API or
/// Posthorn changes.
fn whole(wanted: CheckedWebhook) -> CheckedWebhook {
    let mut metadata = wanted.metadata.unwrap_or_default();
    metadata.extend(wanted.client_id.map(|id| ("client_id".to_owned(), id)));
    CheckedWebhook {
        description: wanted.description.or_else(|| Some(String::new())),
        filters: wanted.filters.or(Some(None)),
        headers: wanted.headers.or_else(|| Some(Vec::new())),
        timeout: wanted.timeout.or(Some(None)),
        retry: wanted.retry.or(Some(None)),
        rate: wanted.rate.or(Some(None)),
        signing: wanted.signing.or(Some(Signing::Hmac)),
        operational: wanted.operational.or(Some(false)),
        trace_header: wanted.trace_header.or(Some(true)),
        dialect: wanted.dialect.or(Some(None)),
        client_certificate: wanted.client_certificate.or(Some(None)),
        oauth2: wanted.oauth2.or(Some(None)),
        external_id: wanted.external_id.or(Some(None)),
        owner: wanted.owner.or(Some(None)),
        metadata: Some(metadata),
        client_id: None,
        ..wanted
    }
}

fn secret(difference: &mut Difference, now: Option<&Secret>, wanted: &mut CheckedWebhook) {
    let masked = now.map(Secret::masked).unwrap_or_default();
    match (now, &wanted.secret) {
        (Some(now), Some(to)) if now.expose() == to.expose() => wanted.secret = None,
        (_, Some(to)) => difference.line("secret", &masked, &to.masked()),
        (None, None) => difference.line("secret", "", "generated"),
        (Some(_), None) => {}
    }
}

/// Compares a member that has a secret in it. `shown` leaves the secret out.
fn sealed<T: PartialEq>(
    difference: &mut Difference,
    name: &str,
    now: &T,
    wanted: &mut Option<T>,
    shown: impl Fn(&T) -> String,
) {
    match wanted {
        Some(to) if to != now => difference.line(name, &shown(now), &shown(to)),
        _ => *wanted = None,
    }
}

/// Header values may be credentials, so they are masked.
fn headers(difference: &mut Difference, now: &[(String, String)], wanted: &mut CheckedWebhook) {
    let Some(to) = &wanted.headers else { return };
    let by_name = |headers: &[(String, String)]| -> BTreeMap<String, String> {
        headers.iter().cloned().collect()
    };
    let (now, to) = (by_name(now), by_name(to));
    let mut names: Vec<_> = now.keys().chain(to.keys()).collect();
    names.sort();
    names.dedup();
    let masked = |value: Option<&String>| if value.is_some() { "…" } else { "none" };
    for name in names {
        let (now, to) = (now.get(name), to.get(name));
        if now != to {
            difference.line(&format!("headers.{name}"), masked(now), masked(to));
        }
    }
    if now == to {
        wanted.headers = None;
    }
}

//! Renames a row's members to those of a webhook, as the system that it comes from means them.
//!
//! [`NAMES`] has what several systems call the same thing. What one system keeps in nested
//! objects is lifted out first. A name that nobody knows is refused, so that nothing of the
//! old system is lost unseen; so is a condition that Posthorn would have to drop, because
//! the webhook would get more events than before.

use clap::ValueEnum;
use serde_json::{Map, Value, json};

use crate::invalid::Invalid;

/// The system that a list comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum System {
    /// Posthorn's own names, and those that several systems use.
    Posthorn,
    Rishi,
    Brainsait,
    Auraconnect,
    Jossiedb,
    CorpAstro,
    Svix,
    Convoy,
    Hook0,
}

impl System {
    /// The built-in dialect of deliveries that the system's receivers understand.
    pub(super) fn dialect(self) -> Option<&'static str> {
        match self {
            Self::Rishi => Some("rishi"),
            Self::Brainsait => Some("brainsait"),
            Self::Auraconnect => Some("auraconnect"),
            Self::Jossiedb => Some("jossiedb"),
            Self::CorpAstro => Some("corp-astro"),
            // docs/moving.md has their files.
            Self::Posthorn | Self::Svix | Self::Convoy | Self::Hook0 => None,
        }
    }
}

/// What a webhook's member is called elsewhere, beside the names that the API takes.
const NAMES: [(&str, &[&str]); 9] = [
    (
        "external_id",
        &[
            "id",
            "webhook_id",
            "uid",
            "subscription_id",
            "subscriptionId",
        ],
    ),
    ("url", &["endpoint", "endpoint_url", "callback_url"]),
    (
        "events",
        &["event_types", "eventTypes", "filter_types", "filterTypes"],
    ),
    (
        "secret",
        &["signing_secret", "signingSecret", "secret_key", "key"],
    ),
    (
        "active",
        &[
            "enabled",
            "is_enabled",
            "isEnabled",
            "is_active",
            "isActive",
        ],
    ),
    ("description", &["name", "title"]),
    ("timeout", &["timeout_ms", "timeoutMs"]),
    ("debug_mode", &["debug"]),
    ("owner", &["owner_id", "ownerId", "userId"]),
];

/// Names of what a system counts or remembers itself: it begins anew here.
const NOT_NEEDED: [&str; 23] = [
    "created_at",
    "createdAt",
    "created",
    "updated_at",
    "updatedAt",
    "updated",
    "deleted_at",
    "last_triggered",
    "lastTriggered",
    "last_delivery_at",
    "failure_count",
    "failure_rate",
    "success_rate",
    "stats",
    "version",
    "project_id",
    "application_id",
    "tenant",
    "tenant_id",
    "advanced_signatures",
    "content_type",
    "support_email",
    "dedicated_workers",
];

/// `--map` and `--ignore`.
pub(super) struct Names {
    map: Vec<(String, String)>,
    ignore: Vec<String>,
}

impl Names {
    pub(super) fn new(map: &[String], ignore: &[String]) -> anyhow::Result<Self> {
        let pair = |text: &String| {
            let pair = text.split_once('=');
            let pair = pair.filter(|(name, member)| !name.is_empty() && !member.is_empty());
            let (name, member) = pair.ok_or_else(|| {
                anyhow::anyhow!("--map: must be NAME=MEMBER, such as `hook_url=url`")
            })?;
            Ok((name.to_owned(), member.to_owned()))
        };
        Ok(Self {
            map: map.iter().map(pair).collect::<anyhow::Result<_>>()?,
            ignore: ignore.to_vec(),
        })
    }
}

/// A row under a webhook's names.
#[derive(Debug)]
pub(super) struct Translated {
    pub(super) members: Map<String, Value>,
    /// Names that were left out.
    pub(super) left_out: Vec<String>,
}

pub(super) fn translate(
    system: System,
    names: &Names,
    mut row: Map<String, Value>,
) -> Result<Translated, Vec<Invalid>> {
    let mut left_out = Vec::new();
    for name in &names.ignore {
        if row.remove(name).is_some() {
            left_out.push(name.clone());
        }
    }
    let mut members = Map::new();
    let mut problems = Vec::new();
    for (name, member) in &names.map {
        if let Some(value) = row.remove(name) {
            members.insert(member.clone(), value);
        }
    }
    match system {
        System::Svix => svix(&mut row, &mut problems),
        System::Convoy => convoy(&mut row, &mut problems),
        System::Hook0 => hook0(&mut row, &mut problems),
        _ => {}
    }
    for (name, value) in row {
        if NOT_NEEDED.contains(&name.as_str()) {
            left_out.push(name);
            continue;
        }
        if name == "disabled" {
            let active = truth(&value).map(|disabled| json!(!disabled));
            members.entry("active").or_insert(active.unwrap_or(value));
            continue;
        }
        // What the API takes, under any of its names, stays as it is.
        let member = NAMES
            .iter()
            .find(|(_, others)| others.contains(&name.as_str()));
        let member = member.map_or(name.as_str(), |(member, _)| member);
        if !value.is_null() {
            members.entry(member).or_insert(value);
        }
    }
    for (member, value) in &mut members {
        if let ("external_id" | "owner", Value::Number(number)) = (member.as_str(), &*value) {
            *value = number.to_string().into();
        }
        coerce(member, value);
    }
    if members.contains_key("active") && members.contains_key("status") {
        members.remove("active");
    }
    if let Some(Value::String(secret)) = members.get("secret")
        && secret.contains("***")
    {
        problems.push(Invalid::new(
            "secret",
            "is masked: the old system's API doesn't show it; take it from where it is stored",
        ));
    }
    match problems.is_empty() {
        true => Ok(Translated { members, left_out }),
        false => Err(problems),
    }
}

/// Makes of a text what its member needs: a cell of CSV is always a text.
fn coerce(member: &str, value: &mut Value) {
    let Value::String(text) = value else { return };
    let json = |text: &str| serde_json::from_str::<Value>(text).ok();
    let better = match member {
        "events" | "event_type" | "eventType" if text.trim_start().starts_with('[') => json(text),
        "events" => {
            let types = text
                .split([',', ';', '|', ' '])
                .filter(|part| !part.is_empty());
            Some(types.collect::<Vec<_>>().into())
        }
        "active" | "debug_mode" | "debugMode" | "operational" => truth(value).map(Value::Bool),
        "timeout" | "retries" | "filters" | "headers" | "metadata" | "retry_policy"
        | "retryPolicy" | "rate_limit" | "rateLimit" => json(text),
        _ => None,
    };
    if let Some(better) = better {
        *value = better;
    }
}

/// The truth in a cell of CSV.
fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(truth) => Some(*truth),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "t" | "yes" | "1" | "on" | "active" | "enabled" => Some(true),
            "false" | "f" | "no" | "0" | "off" | "inactive" | "disabled" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// Whether a value says nothing.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(members) => members.values().all(is_empty),
        _ => false,
    }
}

/// Refuses a condition that would be lost.
fn refuse_condition(row: &mut Map<String, Value>, name: &str, problems: &mut Vec<Invalid>) {
    if row.remove(name).is_some_and(|value| !is_empty(&value)) {
        let reason = format!(
            "limits which events the webhook gets, and has no counterpart: write a filter, or \
             accept that it gets more events, with `--ignore {name}`"
        );
        problems.push(Invalid::new(name, reason));
    }
}

/// `GET /api/v1/app/{app}/endpoint`, with `key` of `…/secret` beside it. Without types, an
/// endpoint gets all.
fn svix(row: &mut Map<String, Value>, problems: &mut Vec<Invalid>) {
    refuse_condition(row, "channels", problems);
    // The server's id is what receivers and logs know; a `uid` is the application's own.
    if let Some(uid) = row.remove("uid").filter(|uid| !uid.is_null()) {
        let metadata = row.entry("metadata").or_insert_with(|| json!({}));
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.insert("uid".to_owned(), uid);
        }
    }
    for name in ["filterTypes", "filter_types"] {
        if row.get(name).is_some_and(is_empty) {
            row.remove(name);
        }
    }
    if !["filterTypes", "filter_types", "events"]
        .iter()
        .any(|name| row.contains_key(*name))
    {
        row.insert("events".to_owned(), json!(["*"]));
    }
}

/// An endpoint, a subscription, or a subscription with its `endpoint_metadata`.
fn convoy(row: &mut Map<String, Value>, problems: &mut Vec<Invalid>) {
    if let Some(Value::Object(endpoint)) = row.remove("endpoint_metadata") {
        for (name, value) in endpoint {
            // The subscription has an id and a name of its own.
            if !["uid", "name", "title"].contains(&name.as_str()) {
                row.entry(name).or_insert(value);
            }
        }
    }
    if let Some(url) = row.remove("target_url") {
        row.entry("url").or_insert(url);
    }
    if let Some(Value::Object(mut filter)) = row.remove("filter_config") {
        if let Some(types) = filter.remove("event_types") {
            row.insert("events".to_owned(), types);
        }
        row.insert(
            "filter".to_owned(),
            filter.remove("filter").unwrap_or_default(),
        );
    }
    refuse_condition(row, "filter", problems);
    if let Some(Value::Array(secrets)) = row.remove("secrets") {
        let current = secrets
            .iter()
            .rev()
            .find(|secret| secret["expires_at"].is_null());
        if let Some(value) = current
            .or(secrets.last())
            .map(|secret| secret["value"].clone())
        {
            row.insert("secret".to_owned(), value);
        }
    }
    // Seconds there.
    if let Some(seconds) = row.remove("http_timeout").and_then(|value| value.as_u64()) {
        row.insert("timeout".to_owned(), json!(seconds.saturating_mul(1000)));
    }
    let period = row
        .remove("rate_limit_duration")
        .and_then(|value| value.as_u64());
    match (row.get("rate_limit").and_then(Value::as_u64), period) {
        (Some(0), _) => {
            row.remove("rate_limit");
        }
        (Some(limit), Some(60)) => {
            row.insert(
                "rate_limit".to_owned(),
                json!({"limit": limit, "per": "minute"}),
            );
        }
        (Some(limit), Some(3600)) => {
            row.insert(
                "rate_limit".to_owned(),
                json!({"limit": limit, "per": "hour"}),
            );
        }
        (Some(limit), Some(period)) if period > 1 => {
            let reason = format!(
                "{limit} in {period} s: a period is a second, a minute or an hour; `--ignore rate_limit` \
                 takes the limit away"
            );
            problems.push(Invalid::new("rate_limit", reason));
        }
        _ => {}
    }
    let is_pending = |status: &Value| status == "pending";
    if row.get("status").is_some_and(is_pending) {
        row.insert("status".to_owned(), json!("inactive"));
    }
    let authentication = row.remove("authentication");
    if let Some(Value::Object(authentication)) = authentication {
        let key = &authentication.get("api_key").cloned().unwrap_or_default();
        match (key["header_name"].as_str(), key["header_value"].as_str()) {
            (Some(name), Some(value)) => {
                let headers = row.entry("headers").or_insert_with(|| json!({}));
                if let Some(headers) = headers.as_object_mut() {
                    headers.insert(name.to_owned(), json!(value));
                }
            }
            _ if authentication.values().all(is_empty) => {}
            _ => problems.push(Invalid::new(
                "authentication",
                "only `api_key` is taken over, as a header: `--ignore authentication` leaves it out",
            )),
        }
    }
}

/// `GET /api/v1/subscriptions?application_id=…`
fn hook0(row: &mut Map<String, Value>, problems: &mut Vec<Invalid>) {
    if let Some(Value::Object(mut target)) = row.remove("target") {
        let method = target.remove("method");
        if method.is_some_and(|method| {
            !method
                .as_str()
                .is_some_and(|m| m.eq_ignore_ascii_case("post"))
        }) {
            problems.push(Invalid::new(
                "target.method",
                "must be POST: no other method is sent",
            ));
        }
        for (name, value) in target {
            if name != "type" {
                row.insert(name, value);
            }
        }
    }
    // Labels are an event's, beside its payload.
    for name in [
        "labels",
        "label_key",
        "label_value",
        "labelKey",
        "labelValue",
    ] {
        refuse_condition(row, name, problems);
    }
}

#[cfg(test)]
mod tests;

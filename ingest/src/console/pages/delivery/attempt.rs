//! One attempt of a delivery: its request, its answer, and the request as a command.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;
use shared::ids::{DeliveryId, Tenant};

use crate::api::deliveries;
use crate::api::deliveries::view::Attempt;
use crate::api::http::request::Id;
use crate::api::state::Api;
use crate::api::webhooks::view::WebhookView;
use crate::console::failure::{Failure, Result};
use crate::console::icons::icon;
use crate::console::moments::{at, bytes, count, exactly, took};
use crate::console::parts::{code, headers, note, panel, payload, raw as raw_file, whole};
use crate::console::state::Console;
use crate::console::text::{block, line, within};
use crate::console::visit::{At, Visit};
use crate::console::words;

/// The longest command that can be copied, and how much of one is shown, in bytes of HTML.
const MAX_COMMAND: usize = 8 * 1024;

/// Where a delivery goes.
#[derive(Clone, Copy)]
pub(super) struct Endpoint<'a> {
    /// `None`: it is deleted.
    pub(super) webhook: Option<&'a WebhookView>,
    /// How long an attempt may take, in milliseconds.
    allowed_ms: Option<i64>,
}

impl<'a> Endpoint<'a> {
    pub(super) fn new(api: &Api, tenant: &Tenant, webhook: Option<&'a WebhookView>) -> Self {
        let allowed = |webhook: &WebhookView| {
            let own = webhook.timeout.map(Duration::from_millis);
            // As `Webhook::timeout_in` has it.
            own.or(api.tester.default_timeout).or_else(|| {
                let tenants = || api.subscriptions.dialect(tenant);
                let name = webhook.dialect.clone().or_else(tenants)?;
                Some(api.dialects.get(&name)?.policy().timeout)
            })
        };
        let allowed = webhook.and_then(allowed);
        Self {
            webhook,
            allowed_ms: allowed.map(|allowed| allowed.as_millis() as i64),
        }
    }
}

/// All that is known of it. The request and the answer are those of the chosen one alone.
/// `signature`: the path of the signature check, for visitors who may use it.
pub(super) fn attempt_shown(
    attempt: &Attempt,
    all: &[Attempt],
    endpoint: Endpoint<'_>,
    (chosen, shown_id): (bool, DeliveryId),
    signature: Option<&str>,
) -> Markup {
    let Endpoint {
        webhook,
        allowed_ms,
    } = endpoint;
    let verdict = words::outcome(
        &attempt.outcome,
        attempt.response_code,
        attempt.remote_address.as_deref(),
        attempt.error.as_deref(),
        // The webhook's timeout may be another one since then.
        Some(attempt.duration_ms.into()),
    );
    let symbol = match verdict.tone {
        "good" => "ok",
        "slow" => "warn",
        "none" => "unknown",
        _ => "fail",
    };
    html! {
        article class="stack near" data-attempt=(attempt.n) data-chosen[chosen] aria-labelledby={ "a" (attempt.n) } {
            div class="row apart" {
                h2 id={ "a" (attempt.n) } tabindex="-1" { "Attempt " (attempt.n) }
                @if all.len() > 1 {
                    nav class="seg" aria-label="Attempt" {
                        @for other in all.iter().skip(all.len().saturating_sub(10)) {
                            a href={ "?attempt=" (other.n) "#a" (other.n) } aria-current=[(other.n == attempt.n).then_some("true")] { (other.n) }
                        }
                    }
                }
            }
            (note(verdict.tone, symbol, &line(&verdict.headline), &verdict.advice, &html! {}))
            dl class="kv" {
                dt { "Asked" }
                dd { (asked(attempt)) }
                @if let Some(address) = &attempt.remote_address { dt { "Address" } dd class="num" { (line(address)) } }
                dt { "Took" }
                dd {
                    (took(attempt.duration_ms.into()))
                    @if let Some(allowed) = allowed_ms { span class="soft" { ", of " (took(allowed)) " that it has" } }
                }
                dt { "When" } dd { (exactly(attempt.started_at.0)) }
                @if let Some(next) = attempt.next_attempt_at {
                    dt { "Then" }
                    dd { "the next at " (at(next.0)) " " @if let Some(reason) = &attempt.next_attempt_reason { code class="soft" { (line(reason)) } } }
                }
            }
            // Of one attempt only: bodies are large, and there may be a hundred attempts.
            @if chosen {
                @let base = format!("{}/raw?attempt={}", shown_id, attempt.n);
                (request(attempt, &base))
                @if let Some(signature) = signature {
                    p class="small" { a href={ (signature) "?delivery=" (shown_id) "&attempt=" (attempt.n) } { "Check its signature" } }
                }
                (answer(attempt, &base))
                (curl(attempt, webhook))
            } @else {
                p { a href={ "?attempt=" (attempt.n) "#a" (attempt.n) } { "Its request and its answer" } }
            }
        }
    }
}

/// The host that was asked. The log has no more of the URL, and the webhook's URL of today may be
/// another one.
fn asked(attempt: &Attempt) -> Markup {
    html! {
        @match &attempt.request_host {
            Some(host) => { code { "POST " (line(host)) } " " span class="soft small" { "the path isn't kept in the log" } },
            None => span class="soft" { "The log doesn't have it." },
        }
    }
}

/// Whether the webhook's URL of today has the host that the attempt asked.
fn has_same_host(webhook: &WebhookView, attempt: &Attempt) -> bool {
    let url = url::Url::parse(&webhook.url).ok();
    let now = url.and_then(|url| {
        let (host, port) = (url.host_str()?.to_owned(), url.port_or_known_default()?);
        Some(format!("{host}:{port}"))
    });
    now == attempt.request_host
}

fn request(attempt: &Attempt, raw: &str) -> Markup {
    let names = attempt
        .request_headers
        .as_ref()
        .and_then(|headers| headers.as_array());
    let hint = html! {
        @if let Some(names) = names { (count(names.len() as i64, "header")) }
        @if let Some(size) = attempt.request_bytes { ", " (bytes(size.into())) }
    };
    let content = html! {
        @if let Some(sent) = &attempt.request_headers { (code(&headers(sent))) }
        @match &attempt.request_body {
            Some(body) => { (code(&payload(body))) (whole(body, &format!("{raw}&of=request"))) },
            None => p class="small soft" { "Bodies are only kept in debug mode." },
        }
        @if attempt.composed {
            p class="small soft" { "Composed again from the event: bodies are only kept in debug mode." }
        }
    };
    panel("Request", &hint, true, &content)
}

#[derive(Deserialize)]
pub struct Raw {
    attempt: i16,
    of: String,
}

/// `GET /console/{tenant}/deliveries/{id}/raw?attempt=&of=request`: a body, whole, as a file.
pub async fn raw(
    State(console): State<Arc<Console>>,
    visit: Visit,
    At(id): At<DeliveryId>,
    Query(params): Query<Raw>,
) -> Result<Response> {
    let held = visit.hold().await?;
    let api = State(console.reads.clone());
    let shown = deliveries::show(held.acting()?, api, Id(id)).await?.0;
    let mut attempts = shown.attempt_log.into_iter();
    let attempt = attempts.find(|attempt| attempt.n == params.attempt);
    let body = attempt.and_then(|attempt| match params.of.as_str() {
        "request" => attempt.request_body,
        "answer" => attempt.response_body,
        _ => None,
    });
    let body = body.ok_or_else(|| Failure::not_found("there is no such body"))?;
    Ok(raw_file(&format!("{id}-{}", params.attempt), body))
}

/// The same request as a command. The values of the webhook's own headers aren't known to
/// pages: a variable of the shell stands for each.
fn as_curl(attempt: &Attempt, url: &str) -> Option<String> {
    let body = attempt.request_body.as_deref()?;
    let sent = attempt.request_headers.as_ref()?.as_array()?;
    let mut command = format!("curl -i {}", quoted(url));
    for pair in sent {
        let (name, value) = (pair[0].as_str()?, pair[1].as_str()?);
        if matches!(
            name.to_ascii_lowercase().as_str(),
            "host" | "content-length"
        ) {
            continue;
        }
        let header = match value {
            "…" => {
                let variable: String = name
                    .chars()
                    .map(|c| {
                        if c.is_ascii_alphanumeric() {
                            c.to_ascii_uppercase()
                        } else {
                            '_'
                        }
                    })
                    .collect();
                format!("{}\"${variable}\"", quoted(&format!("{name}: ")))
            }
            value => quoted(&format!("{name}: {value}")),
        };
        command.push_str(&format!(" \\\n  -H {header}"));
    }
    // With `--data-binary` a body that begins with `@` would name a file.
    command.push_str(&format!(" \\\n  --data-raw {}", quoted(body)));
    Some(command).filter(|command| within(command, MAX_COMMAND) == command.len())
}

/// For a shell: nothing within single quotes means anything but the quote itself.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn curl(attempt: &Attempt, webhook: Option<&WebhookView>) -> Markup {
    let command = webhook.and_then(|webhook| Some((webhook, as_curl(attempt, &webhook.url)?)));
    html! {
        @if let Some((webhook, command)) = command {
            (panel("As curl", &html! { "to the URL of today, without your own headers' values" }, false, &html! {
                @if !has_same_host(webhook, attempt) {
                    p class="small wait" { "The webhook has another URL since this attempt. This command asks the new one." }
                }
                div class="code" {
                    button class="btn quiet tiny js-only" type="button" data-copy=(command) data-key="u" aria-label="Copy as curl" { (icon("copy")) }
                    pre tabindex="0" { (block(&command)) }
                }
            }))
        }
    }
}

fn answer(attempt: &Attempt, raw: &str) -> Markup {
    let hint = html! {
        @match attempt.response_code {
            Some(code) => { (code) @if let Some(body) = &attempt.response_body { ", " (bytes(body.len() as i64)) } },
            None => "none",
        }
    };
    let content = html! {
        @if let Some(received) = &attempt.response_headers { (code(&headers(received))) }
        @match &attempt.response_body {
            Some(body) if !body.is_empty() => { (code(&payload(body))) (whole(body, &format!("{raw}&of=answer"))) },
            Some(_) => p class="soft" { "The answer has no body." },
            None => p class="soft" { "There is no answer." },
        }
        @if let Some(error) = &attempt.error { p class="small soft" { (line(error)) } }
    };
    panel("Answer", &hint, attempt.response_code.is_some(), &content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_gets_out_of_a_quoted_value() {
        assert_eq!(
            quoted("a'; rm -rf $HOME `x` \\"),
            r"'a'\''; rm -rf $HOME `x` \'"
        );
        assert_eq!(quoted(""), "''");
    }
}

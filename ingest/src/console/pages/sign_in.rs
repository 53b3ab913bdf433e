//! Signing in and out, and the pages that belong to no tenant: choosing one, keys, the theme.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::{ConnectInfo, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use maud::{Markup, html};
use secrecy::ExposeSecret;
use serde::Deserialize;
use shared::ids::Tenant;
use shared::serve::network;

use crate::api::access::tokens::is_unguessable;
use crate::console::failure::Result;
use crate::console::fields::query;
use crate::console::frame::{Page, csrf, keys};
use crate::console::guard::{KEYS_COOKIE, THEME_COOKIE, appearance};
use crate::console::session::begin::{self, NewSession};
use crate::console::session::{self, COOKIE, LASTS, Session, links};
use crate::console::shell::{Theme, alone};
use crate::console::state::Console;
use crate::console::text::line;
use crate::console::visit::{Posted, Visitor};

type Shared = Arc<Console>;

/// One text for a token that is wrong, expired or revoked: it tells nobody which.
const NOT_VALID: &str = "This token isn't valid here.";

#[derive(Deserialize)]
pub struct Next {
    #[serde(default)]
    next: String,
}

/// `GET /console/_/sign-in?next=`
pub async fn show(headers: HeaderMap, Query(next): Query<Next>) -> Html<String> {
    form(&headers, &next.next, None)
}

fn form(headers: &HeaderMap, next: &str, error: Option<&str>) -> Html<String> {
    let described = if error.is_some() {
        "token-error token-hint"
    } else {
        "token-hint"
    };
    let content = html! {
        section class="panel" {
            form class="pad stack" method="post" action="/console/_/sign-in" {
                div {
                    h1 { "Sign in" }
                    p class="soft" { "With an API token, or a JWT of your identity provider. It is exchanged for a session in this browser and not kept on the page." }
                }
                input type="hidden" name="next" value=(next);
                div class="field" data-error[error.is_some()] {
                    label for="token" { "Token" }
                    input id="token" name="token" type="password" autocomplete="current-password" spellcheck="false"
                        required autofocus maxlength="8192" aria-describedby=(described) aria-invalid=[error.map(|_| "true")];
                    @if let Some(error) = error { p class="error" id="token-error" role="alert" { (error) } }
                    p class="hint" id="token-hint" { "Sessions end after 12 hours, after 2 hours without use, or when the token is revoked." }
                }
                p class="small bad" hidden data-insecure {
                    "This browser won't keep the session: the console needs HTTPS, or an address like http://localhost."
                }
                button class="btn main-btn" { "Sign in" }
            }
        }
        p class="small soft" {
            "No token? Whoever runs this Posthorn makes one: " code { "posthorn-ingest token create" }
            ". Customers come by a link from the product they use."
        }
    };
    alone(appearance(headers), "Sign in", &content)
}

/// `POST /console/_/sign-in`
pub async fn sign_in(
    State(console): State<Shared>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    before: Option<Extension<Visitor>>,
    headers: HeaderMap,
    Posted(fields): Posted,
) -> Result<Response> {
    let (next, token) = (fields.text("next"), fields.text("token").trim());
    let address = network(from.ip());
    let blocked = console.sign_ins.begin(address, Instant::now()).err();
    // Nobody guesses a token, and a whole office may have one address.
    if let Some(wait) = blocked.filter(|_| !is_unguessable(token)) {
        return Ok(too_often(&headers, next, wait));
    }
    let begun = begin::begin(&console.api, token).await;
    if blocked.is_none() && !matches!(begun, Ok(None)) {
        console.sign_ins.succeeded(address);
    }
    match (begun?, blocked) {
        (Some(begun), _) => {
            end_before(&console, before).await?;
            Ok(begin(&begun, next))
        }
        (None, Some(wait)) => Ok(too_often(&headers, next, wait)),
        (None, None) => {
            let page = form(&headers, next, Some(NOT_VALID));
            Ok((StatusCode::UNAUTHORIZED, page).into_response())
        }
    }
}

/// The session that this browser had: nobody could end it any more.
async fn end_before(console: &Console, before: Option<Extension<Visitor>>) -> Result<()> {
    if let Some(Extension(before)) = before {
        session::end(&console.api, &before.session).await?;
    }
    Ok(())
}

fn too_often(headers: &HeaderMap, next: &str, wait: Duration) -> Response {
    let seconds = wait.as_secs() + 1;
    let words = format!("Too many failed sign-ins from your address. Try again in {seconds} s.");
    let page = form(headers, next, Some(&words));
    let retry = [(header::RETRY_AFTER, seconds.to_string())];
    (StatusCode::TOO_MANY_REQUESTS, retry, page).into_response()
}

/// A new session always has a new cookie, whatever the browser had before.
fn begin(begun: &NewSession, next: &str) -> Response {
    let to = destination(next, &begun.session);
    let cookie = format!(
        "{COOKIE}={}; Path=/; Max-Age={}; HttpOnly; Secure; SameSite=Lax",
        begun.cookie.expose_secret(),
        LASTS.whole_seconds()
    );
    with_cookie(&to, &cookie)
}

fn with_cookie(to: &str, cookie: &str) -> Response {
    let mut response = Redirect::to(to).into_response();
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// Where somebody goes who has signed in: to the page they wanted, if it is one of ours
/// that they may see, else home. It is never anywhere else.
fn destination(next: &str, session: &Session) -> String {
    if is_ours(next, session) {
        return next.to_owned();
    }
    home_of(session)
}

fn is_ours(next: &str, session: &Session) -> bool {
    let plain = |c: char| c.is_ascii_graphic() && !"\\<>\"`{}|^".contains(c);
    let path = next.split(['?', '#']).next().unwrap_or_default();
    let mut segments = path.split('/');
    let begins = (segments.next(), segments.next()) == (Some(""), Some("console"));
    let of = segments.next().unwrap_or_default();
    let rest: Vec<_> = segments.collect();
    let is_path = next.chars().all(plain) && next.len() <= 2048;
    // Browsers take these out of a path, percent-encoded ones too.
    let leaves = |segment: &str| {
        let segment = segment.to_ascii_lowercase().replace("%2e", ".");
        matches!(segment.as_str(), "" | "." | "..")
    };
    let stays = !rest.iter().any(|segment| leaves(segment));
    let may = match of.parse::<Tenant>() {
        Ok(tenant) => session.tenant.as_ref().is_none_or(|own| *own == tenant),
        Err(_) => {
            of == "_"
                && matches!(rest.as_slice(), [page] if session.is_operator() && !page.starts_with("sign") || *page == "keys")
        }
    };
    begins && is_path && stays && may
}

fn home_of(session: &Session) -> String {
    match &session.tenant {
        Some(tenant) => format!("/console/{tenant}"),
        None if session.is_operator() => "/console/_/tenants".to_owned(),
        None => "/console/_/choose".to_owned(),
    }
}

/// `GET /console`
pub async fn home(visitor: Visitor) -> Redirect {
    Redirect::to(&home_of(&visitor.session))
}

#[derive(Deserialize)]
pub struct Link {
    #[serde(default)]
    link: String,
    #[serde(default)]
    next: String,
}

/// `GET /console/_/open?link=`: asks before the link is used up, because programs that look
/// at links in mail and chat open them, too.
pub async fn link(headers: HeaderMap, Query(link): Query<Link>) -> Html<String> {
    link_form(&headers, &link.link, &link.next, None)
}

fn link_form(headers: &HeaderMap, link: &str, next: &str, error: Option<&str>) -> Html<String> {
    let content = html! {
        section class="panel" {
            form class="pad stack" method="post" action="/console/_/open" {
                div {
                    h1 { "Sign in by link" }
                    p class="soft" { "This link signs this browser in to Posthorn's console, once." }
                }
                @match error {
                    Some(error) => p class="bad" role="alert" { (error) },
                    None => {
                        input type="hidden" name="link" value=(link);
                        input type="hidden" name="next" value=(next);
                        button class="btn main-btn" autofocus { "Sign in" }
                    }
                }
            }
        }
        @if error.is_some() { p class="row" { a class="btn" href="/console/_/sign-in" { "Sign in with a token" } } }
    };
    alone(appearance(headers), "Sign in by link", &content)
}

/// `POST /console/_/open`
pub async fn open(
    State(console): State<Shared>,
    before: Option<Extension<Visitor>>,
    headers: HeaderMap,
    Posted(fields): Posted,
) -> Result<Response> {
    match links::open_link(&console.api, fields.text("link")).await? {
        Some(begun) => {
            end_before(&console, before).await?;
            Ok(begin(&begun, fields.text("next")))
        }
        None => {
            let words = "This link was used already, or it is too old. Ask for a new one.";
            let page = link_form(&headers, "", "", Some(words));
            Ok((StatusCode::UNAUTHORIZED, page).into_response())
        }
    }
}

/// `POST /console/_/sign-out`
pub async fn sign_out(State(console): State<Shared>, visitor: Visitor) -> Result<Response> {
    session::end(&console.api, &visitor.session).await?;
    let gone = format!("{COOKIE}=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax");
    Ok(with_cookie("/console/_/sign-in", &gone))
}

/// `POST /console/_/theme`
pub async fn theme(visitor: Visitor, Posted(fields): Posted) -> Response {
    let theme = Theme::parse(fields.text("theme"));
    let back = destination(fields.text("back"), &visitor.session);
    with_cookie(&back, &kept(THEME_COOKIE, theme.name()))
}

/// A year, for what isn't secret. On plain HTTP, too: `Secure` isn't needed.
fn kept(name: &str, value: &str) -> String {
    format!("{name}={value}; Path=/console; Max-Age=31536000; HttpOnly; SameSite=Lax")
}

/// `GET /console/_/keys`
pub async fn show_keys(visitor: Visitor) -> Html<String> {
    let off = visitor.appearance.without_keys;
    let content = html! {
        div class="head" { div { h1 { "Keys" } p class="sub" { "They work unless something is being typed." } } }
        (keys())
        section {
            form method="post" action="/console/_/keys" class="stack" {
                (csrf(&visitor))
                p class="soft" {
                    @if off { "Single-letter keys are off in this browser." }
                    @else { "Single letters can get in the way of speech input and other tools." }
                }
                button class="btn" name="keys" value=(if off { "on" } else { "off" }) {
                    @if off { "Single-letter keys on" } @else { "No single-letter keys" }
                }
            }
        }
    };
    Page::of_visitor(&visitor, "Keys").show(&content)
}

/// `POST /console/_/keys`
pub async fn set_keys(_: Visitor, Posted(fields): Posted) -> Response {
    let value = if fields.text("keys") == "off" {
        "off"
    } else {
        ""
    };
    with_cookie("/console/_/keys", &kept(KEYS_COOKIE, value))
}

#[derive(Deserialize)]
pub struct Choice {
    #[serde(default)]
    tenant: String,
}

/// `GET /console/_/choose?tenant=`: for a global token that isn't the operator's.
pub async fn choose(
    State(console): State<Shared>,
    visitor: Visitor,
    Query(Choice { tenant }): Query<Choice>,
) -> Result<Response> {
    let mut error: Option<Markup> = None;
    if let Some(own) = &visitor.session.tenant {
        return Ok(Redirect::to(&format!("/console/{own}")).into_response());
    }
    if !tenant.is_empty() {
        match tenant.trim().parse::<Tenant>() {
            Ok(known) if crate::api::access::auth::is_tenant(&console.api, &known).await? => {
                return Ok(Redirect::to(&format!("/console/{known}")).into_response());
            }
            _ => error = Some(html! { "There is no tenant " (line(&tenant)) "." }),
        }
    }
    let content = html! {
        div class="head" { div { h1 { "Choose a tenant" } p class="sub" { "Your token is good for every tenant." } } }
        form class="form" action="/console/_/choose" {
            div class="field" data-error[error.is_some()] {
                label for="tenant" { "Tenant" }
                input id="tenant" name="tenant" value=(tenant) maxlength="63" required autofocus spellcheck="false"
                    aria-describedby=[error.as_ref().map(|_| "tenant-error")];
                @if let Some(error) = &error { p class="error" id="tenant-error" { (error) } }
            }
            div class="row" { button class="btn main-btn" { "Go" } }
        }
    };
    Ok(Page::of_visitor(&visitor, "Choose a tenant")
        .show(&content)
        .into_response())
}

/// The sign-in page's address, for a page that is wanted afterwards.
pub fn path(next: &str) -> String {
    format!("/console/_/sign-in{}", query(&[("next", next)]))
}

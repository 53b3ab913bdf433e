//! Middleware around every page: session, rate limit, protection against forged forms, and
//! security headers.
//!
//! Before a handler runs, four things have happened. The request has an id, its session was
//! looked up, its client's rate limit was charged, and a form was found to come from one of the
//! console's own pages. So no handler can forget one of them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, HOST, ORIGIN, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use shared::excerpt::{MAX_ERROR, excerpt};
use shared::ids::Tenant;
use shared::serve::network;
use tracing::{Instrument, info, info_span};

use crate::api::access::rate_limit::{Client, Rates};
use crate::api::http::held_bodies::HeldBody;
use crate::api::http::problem::Problem;
use crate::api::http::request::read_body;
use crate::api::http::request_id::{self, REQUEST_ID};
use crate::console::assets;
use crate::console::failure::{Failure, Result};
use crate::console::fields::{Fields, MOST};
use crate::console::session::{self, Session};
use crate::console::shell::{Appearance, Theme};
use crate::console::state::Console;
use crate::console::visit::{Visitor, WantedPage};

/// What a page may load, and from where: itself. No exceptions.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
/// The largest form, in bytes: an event's data, percent-encoded.
const MAX_FORM: usize = 4 * 1024 * 1024;
/// The largest form of somebody who isn't signed in: a token or a link, and an address.
const MAX_ANONYMOUS: usize = 16 * 1024;
/// The cookies of how pages look. They are no secrets, and scripts don't need them.
pub const THEME_COOKIE: &str = "posthorn-theme";
pub const KEYS_COOKIE: &str = "posthorn-keys";
/// How the addresses of live parts end.
pub const LIVE: &str = "/live";
/// Forms that may be sent without a session: they begin one.
pub const WITHOUT_SESSION: [&str; 2] = ["/console/_/sign-in", "/console/_/open"];

pub async fn guard(State(console): State<Arc<Console>>, request: Request, next: Next) -> Response {
    let id = request_id::from_headers(request.headers());
    let span = info_span!(
        "request",
        id = id.to_str().unwrap_or_default(),
        method = %request.method(),
        path = excerpt(request.uri().path(), MAX_ERROR),
    );
    let appearance = appearance(request.headers());
    // What its form holds is given back when the page is there.
    let held = Arc::<HeldBody>::default();
    let answer = async {
        match admit(&console, request, &held).await {
            Ok(request) => Box::pin(with_counts(&console, request, next)).await,
            Err(failure) => failure.into_response(),
        }
    };
    let mut answer = request_id::scope(id.clone(), appearance.scope(answer.instrument(span))).await;
    let headers = answer.headers_mut();
    headers.insert(REQUEST_ID, id);
    let fixed = [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // A download has a narrower one of its own, assets are kept for good.
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (CACHE_CONTROL, "no-store"),
    ] {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    answer
}

/// Whether it is the address of live parts: `/console/acme/live`. Deeper down, an event or an event
/// type may have that name.
fn is_live(path: &str) -> bool {
    let above = path.strip_suffix(LIVE);
    above.is_some_and(|above| above.bytes().filter(|byte| *byte == b'/').count() == 2)
}

/// The answer, whose page knows the counts of its rail. Whose counts they are is decided by the
/// session alone, if it is of one tenant.
async fn with_counts(console: &Console, request: Request, next: Next) -> Response {
    let visitor = request.extensions().get::<Visitor>();
    // A stream reads them by itself.
    let has_rail = !is_live(request.uri().path());
    let Some(session) = visitor.filter(|_| has_rail).map(|by| by.session.clone()) else {
        return as_page(next.run(request).await);
    };
    let tenant = match &session.tenant {
        Some(own) => Some(own.clone()),
        None => tenant_of(request.uri().path()),
    };
    let is_form = request.method() == Method::POST;
    let (tenant, operator) = (tenant.as_ref(), session.is_operator());
    let counts = console.rail.counts(&console.reads, tenant, operator).await;
    let answer = counts.scope(next.run(request)).await;
    if is_form {
        console.rail.forget(tenant, operator);
    }
    as_page(answer)
}

/// The tenant in the address of a page: pages of no tenant are below `/console/_`.
fn tenant_of(path: &str) -> Option<Tenant> {
    path.strip_prefix("/console/")?
        .split('/')
        .next()?
        .parse()
        .ok()
}

/// A page in place of what axum's own extractors answer: plain text, or a problem as JSON. A
/// parameter that comes twice is such a case.
fn as_page(answer: Response) -> Response {
    let is_page = is_page(&answer);
    match answer.status() {
        StatusCode::BAD_REQUEST if !is_page => {
            let detail = "the address or the form has a part that can't be read, or has it twice";
            Failure::from(Problem::bad_request(detail)).into_response()
        }
        StatusCode::NOT_FOUND if !is_page => {
            Failure::not_found("there is no such page").into_response()
        }
        _ => answer,
    }
}

pub(super) fn is_page(answer: &Response) -> bool {
    let kind = answer.headers().get(CONTENT_TYPE);
    kind.is_none_or(|kind| kind.as_bytes().starts_with(b"text/html"))
}

async fn admit(console: &Console, request: Request, held: &Arc<HeldBody>) -> Result<Request> {
    if request.uri().path().starts_with(assets::PATH) {
        return Ok(request);
    }
    let (mut parts, body) = request.into_parts();
    let from = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    let from = from.map(|ConnectInfo(from)| from.ip());
    let cookie = cookie(&parts.headers, session::COOKIE);
    charge_browser(console, cookie, from)?;
    let session = match cookie {
        Some(cookie) => {
            // A page that somebody left open asks for its live parts again and again.
            let found = match is_live(parts.uri.path()) {
                true => session::find_unused(&console.api, cookie).await?,
                false => session::find(&console.api, cookie).await?,
            };
            found.filter(|session| !session.is_portal)
        }
        None => None,
    };
    if let Some(session) = &session {
        charge_session(console, session)?;
    }
    if parts.method == Method::POST {
        let path = parts.uri.path();
        // Before anything is read: whoever isn't signed in sends little, and to few pages.
        let most = match &session {
            Some(_) => MAX_FORM,
            None if WITHOUT_SESSION.contains(&path) => MAX_ANONYMOUS,
            None => {
                return Err(Failure::SignIn {
                    next: String::new(),
                });
            }
        };
        if let Some(tenant) = session.as_ref().and_then(|session| session.tenant.as_ref()) {
            held.is_of(tenant);
        }
        let fields = read_form(&parts.headers, body, most, held).await?;
        if let Some(session) = &session {
            check_form(session, &fields, path)?;
        }
        // Never what the form says: there may be secrets in it.
        let who = session.as_ref().map_or("nobody", |session| &session.shown);
        info!(
            who,
            address = from.map(|ip| ip.to_string()),
            "a form was sent to the console"
        );
        parts.extensions.insert(fields);
    } else if parts.method != Method::GET && parts.method != Method::HEAD {
        return Err(Problem::method_not_allowed(format!(
            "the console does not take {}",
            parts.method
        ))
        .into());
    }
    let here = parts.uri.path_and_query().map(ToString::to_string);
    let here = here.unwrap_or_default();
    match session {
        Some(session) => {
            parts.extensions.insert(Visitor {
                session: Arc::new(session),
                appearance: appearance(&parts.headers),
                here,
            });
        }
        None => {
            parts.extensions.insert(WantedPage(here));
        }
    }
    Ok(Request::from_parts(parts, axum::body::Body::empty()))
}

/// Before PostgreSQL is asked: the browser of a session that was found not long ago, else the
/// address. So made-up cookies gain nothing.
pub(super) fn charge_browser(
    console: &Console,
    cookie: Option<&str>,
    from: Option<IpAddr>,
) -> Result<()> {
    let Some(rates) = &console.api.rates else {
        return Ok(());
    };
    let known = cookie
        .and_then(session::cookie_hash)
        .filter(|hash| rates.knows(*hash));
    let client = match (known, from) {
        (Some(hash), _) => Client::Token(hash),
        (None, Some(ip)) => Client::Address(network(ip)),
        (None, None) => return Ok(()),
    };
    take(rates, client)
}

/// All sessions of a token have one bucket: signing in again gains nothing, either.
pub(super) fn charge_session(console: &Console, session: &Session) -> Result<()> {
    let Some(rates) = &console.api.rates else {
        return Ok(());
    };
    rates.know(session.cookie_hash(), Instant::now());
    match session.shared_bucket() {
        Some(shared) => take(rates, Client::Token(shared)),
        None => Ok(()),
    }
}

fn take(rates: &Rates, client: Client) -> Result<()> {
    match rates.take(client, Instant::now()) {
        Ok(_) => Ok(()),
        Err(refused) => Err(Problem::too_many(refused.wait).into()),
    }
}

/// Its bytes are counted among those of the API's bodies.
pub(super) async fn read_form(
    headers: &HeaderMap,
    body: axum::body::Body,
    most: usize,
    held: &Arc<HeldBody>,
) -> Result<Fields> {
    if !is_from_here(headers) {
        return Err(Failure::forbidden(
            "this form was not sent by one of the console's own pages",
        ));
    }
    let mut request = Request::new(body);
    request.extensions_mut().insert(held.clone());
    let body = read_body(request, most).await?;
    Fields::parse(&body)
        .ok_or_else(|| Problem::too_large(format!("a form may have at most {MOST} fields")).into())
}

pub(super) fn check_form(session: &Session, fields: &Fields, path: &str) -> Result<()> {
    // Whoever is signed in and signs in anew has a page from before.
    if session.is_csrf(fields.text("csrf")) || WITHOUT_SESSION.contains(&path) {
        return Ok(());
    }
    Err(Failure::forbidden(
        "this form is not from this session: open the page again, and send it from there",
    ))
}

/// Browsers say where a request comes from, and no page can make them say otherwise.
fn is_from_here(headers: &HeaderMap) -> bool {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    match text(HeaderName::from_static("sec-fetch-site")) {
        Some(site) => site == "same-origin",
        None => match (text(ORIGIN), text(HOST)) {
            (Some(origin), Some(host)) => {
                let origin = origin.split_once("://").map(|(_, host)| host);
                origin.is_some_and(|origin| origin.eq_ignore_ascii_case(host))
            }
            _ => false,
        },
    }
}

/// How this visitor sees pages.
pub fn appearance(headers: &HeaderMap) -> Appearance {
    Appearance {
        theme: Theme::parse(cookie(headers, THEME_COOKIE).unwrap_or_default()),
        without_keys: cookie(headers, KEYS_COOKIE) == Some("off"),
        accent: "",
    }
}

/// The value of a cookie.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let all = headers.get_all(COOKIE).iter();
    let pairs = all
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    pairs
        .filter(|(key, _)| *key == name)
        .map(|(_, value)| value)
        .next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_may_be_named_as_live_parts_are() {
        for (path, expected) in [
            ("/console/acme/live", true),
            ("/console/_/live", true),
            ("/console/acme/events/live", false),
            ("/console/acme/webhooks", false),
        ] {
            assert_eq!(is_live(path), expected, "{path}");
        }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            let value = HeaderValue::from_str(value).unwrap();
            (HeaderName::from_static(name), value)
        });
        pairs.collect()
    }

    #[test]
    fn a_form_of_another_site_is_refused() {
        for (pairs, ours) in [
            (&[("sec-fetch-site", "same-origin")][..], true),
            (&[("sec-fetch-site", "same-site")], false),
            (&[("sec-fetch-site", "cross-site")], false),
            (&[("sec-fetch-site", "none")], false),
            (
                &[("host", "a.example"), ("origin", "https://a.example")],
                true,
            ),
            (
                &[("host", "a.example"), ("origin", "https://b.example")],
                false,
            ),
            (&[("host", "a.example"), ("origin", "null")], false),
            (&[("host", "a.example")], false),
            (
                &[
                    ("host", "a.example"),
                    ("origin", "https://a.example"),
                    ("sec-fetch-site", "cross-site"),
                ],
                false,
            ),
        ] {
            assert_eq!(is_from_here(&headers(pairs)), ours, "{pairs:?}");
        }
    }

    #[test]
    fn a_cookie_is_found_among_others() {
        let sent = headers(&[("cookie", "a=1; __Host-posthorn=x; posthorn-theme=dark")]);
        assert_eq!(cookie(&sent, session::COOKIE), Some("x"));
        assert_eq!(appearance(&sent).theme, Theme::Dark);
        assert_eq!(cookie(&sent, "b"), None);
    }
}

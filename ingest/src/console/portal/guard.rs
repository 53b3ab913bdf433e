//! Middleware around every page of the portal: its session, protection against forged forms, and
//! which sites may show it in a frame.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use shared::excerpt::{MAX_ERROR, excerpt};
use shared::ids::Tenant;
use tracing::{Instrument, info, info_span};

use crate::api::http::held_bodies::HeldBody;
use crate::api::http::problem::Problem;
use crate::api::http::request_id::{self, REQUEST_ID};
use crate::console::guard::{
    LIVE, charge_browser, charge_session, check_form, cookie, is_page, read_form,
};
use crate::console::portal::ended::{Ended, Result, ended};
use crate::console::session::{self, Session};
use crate::console::shell::Appearance;
use crate::console::state::Console;
use crate::console::visit::Visitor;

/// Another one than the console's, so that neither opens the other's pages.
pub const COOKIE: &str = "__Host-posthorn-portal";
/// The largest form, in bytes: a test's data, percent-encoded.
const MAX_FORM: usize = 256 * 1024;

pub async fn guard(State(console): State<Arc<Console>>, request: Request, next: Next) -> Response {
    let id = request_id::from_headers(request.headers());
    let span = info_span!(
        "request",
        id = id.to_str().unwrap_or_default(),
        method = %request.method(),
        path = excerpt(request.uri().path(), MAX_ERROR),
    );
    let mut ancestors = "'none'".to_owned();
    // What its form holds is given back when the page is there.
    let held = Arc::<HeldBody>::default();
    let answer = async {
        match admit(&console, request, &mut ancestors, &held).await {
            Ok(request) => as_page(next.run(request).await),
            Err(ended) => ended.into_response(),
        }
    };
    let mut answer = request_id::scope(id.clone(), answer.instrument(span)).await;
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
         connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors {ancestors}"
    );
    let headers = answer.headers_mut();
    headers.insert(REQUEST_ID, id);
    for (name, value) in [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // Origins were checked when they were saved: visible ASCII without `;` and `,`.
    let policy = HeaderValue::from_str(&policy);
    let none = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    headers.insert(CONTENT_SECURITY_POLICY, policy.unwrap_or(none));
    answer
}

/// A page of the portal in place of what the extractors answer: plain text, or a problem as JSON.
fn as_page(answer: Response) -> Response {
    if is_page(&answer) {
        return answer;
    }
    match answer.status() {
        StatusCode::BAD_REQUEST => {
            let detail = "the address or the form has a part that can't be read, or has it twice";
            Ended::from(Problem::bad_request(detail)).into_response()
        }
        StatusCode::NOT_FOUND => Ended::Nothing.into_response(),
        _ => answer,
    }
}

async fn admit(
    console: &Console,
    request: Request,
    ancestors: &mut String,
    held: &Arc<HeldBody>,
) -> Result<Request> {
    let (mut parts, body) = request.into_parts();
    let from = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    let from = from.map(|ConnectInfo(from)| from.ip());
    let cookie = cookie(&parts.headers, COOKIE);
    charge_browser(console, cookie, from).map_err(ended)?;
    let session = match cookie {
        Some(cookie) => {
            // A page that somebody left open asks for its live parts again and again.
            let found = match parts.uri.path().strip_suffix(LIVE) == Some("/portal") {
                true => session::find_unused(&console.api, cookie).await?,
                false => session::find(&console.api, cookie).await?,
            };
            found.filter(|session| session.is_portal)
        }
        None => None,
    };
    if let Some(session) = &session {
        charge_session(console, session).map_err(ended)?;
    }
    if let Some(tenant) = session.as_ref().and_then(|session| session.tenant.as_ref()) {
        *ancestors = ancestors_of(console, tenant).await?;
    }
    let mut body = Some(body);
    match parts.method {
        Method::GET | Method::HEAD => {}
        Method::POST => {
            let session = session.as_ref().ok_or(Ended::Over)?;
            let body = body.take().unwrap_or_default();
            let path = parts.uri.path().to_owned();
            if let Some(tenant) = &session.tenant {
                held.is_of(tenant);
            }
            let fields = read_form(&parts.headers, body, MAX_FORM, held)
                .await
                .map_err(ended)?;
            check_form(session, &fields, &path).map_err(ended)?;
            // Never what the form says: there may be secrets in it.
            info!(
                who = session.shown,
                address = from.map(|ip| ip.to_string()),
                "a form was sent to the portal"
            );
            parts.extensions.insert(fields);
        }
        _ => {
            let detail = format!("the portal does not take {}", parts.method);
            return Err(Problem::method_not_allowed(detail).into());
        }
    }
    if let Some(session) = session {
        let here = parts.uri.path_and_query().map(ToString::to_string);
        parts.extensions.insert(Visitor {
            appearance: appearance(&session),
            session: Arc::new(session),
            here: here.unwrap_or_default(),
        });
    }
    Ok(Request::from_parts(parts, body.unwrap_or_default()))
}

/// As the link says.
fn appearance(session: &Session) -> Appearance {
    Appearance {
        theme: session.theme,
        accent: session.accent,
        ..Appearance::default()
    }
}

/// The origins that may have the tenant's portal in a frame: exactly these.
async fn ancestors_of(console: &Console, tenant: &Tenant) -> Result<String> {
    let client = console.api.pool.get().await?;
    let statement = client
        .prepare_cached("-- frame_ancestors\nSELECT frame_ancestors FROM tenants WHERE id = $1")
        .await?;
    let row = client.query_opt(&statement, &[tenant]).await?;
    let origins: Vec<String> = row.map(|row| row.get(0)).unwrap_or_default();
    Ok(match origins.is_empty() {
        true => "'none'".to_owned(),
        false => origins.join(" "),
    })
}

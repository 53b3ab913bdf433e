//! `GET /portal/open?link=`: uses up a link and begins its session.
//!
//! A link is used up by a GET request, without a button to press, because the portal usually
//! stands in a frame. The answer redirects to an address without the link. Logs have only the
//! path, so no log has a link in it.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Redirect, Response};
use secrecy::ExposeSecret;
use serde::Deserialize;

use crate::console::guard::cookie;
use crate::console::portal::ended::{Ended, Result};
use crate::console::portal::guard::COOKIE;
use crate::console::session::{self, links};
use crate::console::state::Console;
use shared::clock;

#[derive(Deserialize, Default)]
pub struct Params {
    #[serde(default)]
    link: String,
}

pub async fn open(
    State(console): State<Arc<Console>>,
    headers: HeaderMap,
    Query(params): Query<Params>,
) -> Result<Response> {
    let mut response = Redirect::to("/portal").into_response();
    let Some(begun) = links::open_portal_link(&console.api, &params.link).await? else {
        // A page around us that is loaded again asks with the same link.
        let known = match cookie(&headers, COOKIE) {
            Some(cookie) => session::find(&console.api, cookie).await?,
            None => None,
        };
        return match known.is_some_and(|session| session.is_portal) {
            true => Ok(response),
            false => Err(Ended::Over),
        };
    };
    let lasts = (begun.session.ends_at - clock::now())
        .whole_seconds()
        .max(0);
    // In a frame on another site, which may see it in that frame alone (CHIPS).
    let cookie = format!(
        "{COOKIE}={}; Path=/; Max-Age={lasts}; HttpOnly; Secure; SameSite=None; Partitioned",
        begun.cookie.expose_secret(),
    );
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

//! API tokens of a tenant: issue one, see it once, revoke one.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, Method};
use axum::response::{Html, Redirect};
use maud::{Markup, html};
use secrecy::ExposeSecret;
use shared::ids::{Tenant, TokenId};
use time::macros::format_description;
use time::{Date, Time};

use crate::api::access::auth::Administering;
use crate::api::access::role::Role;
use crate::api::http::request::{Body, Id, MAX_PAGE, Page as ApiPage, Parameters};
use crate::api::state::Shared;
use crate::api::tokens::{self, NewToken, Token};
use crate::console::confirm::{Question, SURE};
use crate::console::failure::Result;
use crate::console::fields::Fields;
use crate::console::frame::{Page, Section, csrf};
use crate::console::moments::{at, count};
use crate::console::parts::{Head, code, empty, note, num, table, td, tr};
use crate::console::session::sessions_of_token;
use crate::console::session::shown_once::{keep_secret, take_for_page};
use crate::console::state::Console;
use crate::console::text::line;
use crate::console::visit::{AdminVisit, At, Posted, Visitor};
use crate::invalid::{Gathered, Invalid};
use crate::timestamp::Timestamp;

/// `GET /console/{tenant}/tokens`
pub async fn show(
    State(console): State<Arc<Console>>,
    visit: AdminVisit,
    method: Method,
    headers: HeaderMap,
) -> Result<Html<String>> {
    let all = all(&console.api, visit.administering().await?).await?;
    let new = take_for_page(
        &console.api,
        &visit.by.session,
        &new_token_of(&visit.tenant),
        (&method, &headers),
    )
    .await?;
    let path = visit.path("/tokens");
    let content = html! {
        div class="head" { div {
            h1 { "Tokens" }
            p class="sub" { "They speak for " (visit.tenant) " and nobody else" }
        } }
        @if let Some(new) = &new { (shown_once(new.expose_secret())) }
        (list(&visit.by, &path, &all))
        (issue_form(&visit.by, &path))
    };
    Ok(Page::of_tenant(&visit, Section::Tokens, "Tokens").show(&content))
}

/// Under which subject a new token is kept until it is shown.
pub fn new_token_of(tenant: &Tenant) -> String {
    format!("token of {tenant}")
}

/// A token that was just made.
pub fn shown_once(token: &str) -> Markup {
    html! {
        (note("good", "ok", &html! { "This is the new token. It is shown once." },
            &html! { "Copy it now: a reload doesn't show it." }, &html! {}))
        div class="section-gap" { (code(&html! { (line(token)) })) }
    }
}

/// The latest tokens of whoever administers.
///
/// # Errors
/// If the API refuses.
pub async fn all(api: &Shared, administering: Administering) -> Result<Vec<Token>> {
    let page = ApiPage {
        limit: Some(MAX_PAGE),
        cursor: None,
    };
    let page = tokens::list(administering, State(api.clone()), Parameters(page)).await?;
    Ok(page.0.tokens)
}

/// The tokens, each with what can be done with it.
pub fn list(by: &Visitor, path: &str, all: &[Token]) -> Markup {
    if all.is_empty() {
        return empty(
            "No token yet",
            &html! { "Programs need one to use the API." },
            &html! {},
        );
    }
    let now = shared::clock::now();
    let heads = [
        Head::Text("Token"),
        Head::Text("Role"),
        Head::Number("Last used"),
        Head::Number("Ends"),
        Head::Action("Revoke"),
    ];
    let when = |time: Option<Timestamp>| match time {
        Some(time) => at(time.0),
        None => html! { "never" },
    };
    let rows = html! {
        @for token in all {
            (tr(&html! {
                (td("grow first", &html! { code { (line(&token.prefix)) "…" } }))
                (td("", &token.role.as_str()))
                (num("soft", Some("last used"), &when(token.last_used_at)))
                (num("soft", Some("ends"), &when(token.expires_at)))
                (td("right last", &html! {
                    @if token.revoked_at.is_some() { span class="tag" { "revoked" } }
                    @else if token.expires_at.is_some_and(|ends| ends.0 <= now) { span class="tag" { "expired" } }
                    @else {
                        form method="post" action={ (path) "/" (token.id) "/revoke" } {
                            (csrf(by))
                            button class="btn tiny risk" { "Revoke" }
                        }
                    }
                }))
            }))
        }
    };
    html! {
        section class="panel" {
            header { h2 { "Issued tokens" } }
            (table("tight", &heads, &rows))
        }
    }
}

/// The form that issues a token.
pub fn issue_form(by: &Visitor, path: &str) -> Markup {
    html! {
        section class="panel" {
            header { h2 { "Issue another" } }
            form class="pad row" method="post" action=(path) {
                (csrf(by))
                label class="row" { "Role " select name="role" {
                    option value="viewer" { "viewer: reads" }
                    option value="manager" selected { "manager: also changes webhooks and publishes" }
                    option value="admin" { "admin: also manages tokens" }
                } }
                label class="row" { "until " input type="date" name="until"; }
                button class="btn main-btn" { "Issue" }
            }
        }
    }
}

/// Issues what the form asks for. Answers the token, which is not shown again.
///
/// # Errors
/// If the API refuses.
pub async fn issued(api: &Shared, administering: Administering, fields: &Fields) -> Result<String> {
    let mut wrong = Gathered::default();
    let role = fields.text("role").parse::<Role>();
    let role = wrong.keep(role.map_err(|error: String| Invalid::new("role", error)));
    let day = format_description!("[year]-[month]-[day]");
    let until = fields.filled("until").map(|text| Date::parse(text, day));
    let until = until.transpose();
    let until = until.map_err(|_| Invalid::new("until", "must be a day, like 2027-01-31"));
    let until = wrong.take(until);
    wrong.finish(())?;
    let new = NewToken {
        tenant: None,
        role,
        owner: None,
        // Until the end of that day.
        expires_at: until
            .and_then(Date::next_day)
            .map(|day| Timestamp(day.with_time(Time::MIDNIGHT).assume_utc())),
    };
    let issued = tokens::issue(administering, State(api.clone()), Body(new)).await?;
    Ok(issued.into_body().token)
}

/// `POST /console/{tenant}/tokens`
pub async fn issue(
    State(console): State<Arc<Console>>,
    visit: AdminVisit,
    Posted(fields): Posted,
) -> Result<Redirect> {
    let token = issued(&console.api, visit.administering().await?, &fields).await?;
    let about = new_token_of(&visit.tenant);
    keep_secret(&console.api, &visit.by.session, &about, &token).await?;
    Ok(Redirect::to(&visit.path("/tokens")))
}

/// `POST /console/{tenant}/tokens/{id}/revoke`
pub async fn revoke(
    State(console): State<Arc<Console>>,
    visit: AdminVisit,
    At(id): At<TokenId>,
    Posted(fields): Posted,
) -> Result<std::result::Result<Redirect, Html<String>>> {
    let (path, administering) = (visit.path("/tokens"), visit.administering().await?);
    if !fields.has(SURE) {
        let action = format!("{path}/{id}/revoke");
        let about = (id, action.as_str(), path.as_str());
        let content = ask_revoke(&console.api, &visit.by, administering, about).await?;
        let page = Page::of_tenant(&visit, Section::Tokens, "Revoke a token");
        return Ok(Err(page.show(&content)));
    }
    tokens::revoke(administering, State(console.api.clone()), Id(id)).await?;
    Ok(Ok(Redirect::to(&path)))
}

/// Asks before a token is revoked. `action`: what revokes it. `back`: where the tokens are listed.
///
/// # Errors
/// If the API refuses.
pub async fn ask_revoke(
    api: &Shared,
    by: &Visitor,
    administering: Administering,
    (id, action, back): (TokenId, &str, &str),
) -> Result<Markup> {
    // Only of a token that this visitor may see.
    let token = all(api, administering).await?;
    let token = token.into_iter().find(|token| token.id == id);
    let sessions = match token {
        Some(_) => sessions_of_token(api, id).await?,
        None => 0,
    };
    let question = Question {
        asks: html! {
            "Revoke " @match &token {
                Some(token) => { "the token " code { (line(&token.prefix)) "…" } },
                None => "this token",
            } "?"
        },
        says: html! {
            p { "Programs that use it are refused from now on. It can't be undone." }
            p class="soft" {
                @if let Some(used) = token.as_ref().and_then(|token| token.last_used_at) { "It was last used at " (at(used.0)) ". " }
                @if sessions > 0 { "Revoking it ends " (count(sessions, "session")) " of the console." }
                @else { "No session of the console began with it." }
            }
        },
        action,
        fields: &[],
        does: "Revoke it",
        back: (back, "Keep it"),
    };
    Ok(question.page(by))
}

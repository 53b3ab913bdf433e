//! Reads requests: JSON bodies, ids in paths, query strings, pages.

use axum::extract::{FromRequest, FromRequestParts, Path, Query, RawPathParams, Request};
use axum::http::Uri;
use axum::http::header;
use axum::http::request::Parts;
use futures_util::StreamExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use shared::ids::Malformed;
use shared::tenant::LARGEST_MAX_PAYLOAD;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;
use utoipa::IntoParams;

use crate::api::http::code::Code;
use crate::api::http::held_bodies::HeldBody;
use crate::api::http::json;
use crate::api::http::problem::{Blame, Problem};
use crate::invalid::{Gathered, Invalid, Invalids};
use crate::plain_words;

/// The largest request body, in bytes: an event's data and what is around it.
pub const MAX_BODY: usize = LARGEST_MAX_PAYLOAD + 256 * 1024;

/// The most rows in a page.
pub const MAX_PAGE: i64 = 250;
/// The rows in a page unless the request says otherwise.
const PAGE: i64 = 50;
/// How much of a body that is too large is read, in bytes.
const MAX_IGNORED: usize = 8 * 1024 * 1024;

/// A JSON body.
pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        read_json(request, MAX_BODY).await.map(Self)
    }
}

/// Reads a JSON body of at most `limit` bytes.
///
/// # Errors
/// If it is larger, isn't said to be JSON, or isn't what is wanted.
pub async fn read_json<T: DeserializeOwned>(request: Request, limit: usize) -> Result<T, Problem> {
    let content_type = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok());
    let media_type = content_type
        .and_then(|value| value.split(';').next())
        .map(str::trim);
    if !media_type.is_some_and(|value| value.eq_ignore_ascii_case("application/json")) {
        return Err(Problem::media_type());
    }
    let bytes = read_body(request, limit).await?;
    json::read(&bytes)
}

/// Reads a body of at most `limit` bytes. Reads on for a while if the body is too large: a
/// client that is still sending when the connection is closed doesn't see the answer.
///
/// # Errors
/// If the body is larger, or not whole, or too many bytes of bodies are held already.
pub async fn read_body(request: Request, limit: usize) -> Result<Vec<u8>, Problem> {
    let held = request.extensions().get::<Arc<HeldBody>>();
    let held = held.cloned().unwrap_or_default();
    let mut no_room = None;
    let mut chunks = request.into_body().into_data_stream();
    let (mut body, mut size) = (Vec::new(), 0);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| {
            let why = "it ended early, or its length isn't as the headers say";
            Problem::bad_request(format!("the body is not whole: {why}"))
        })?;
        size += chunk.len();
        if size <= limit && no_room.is_none() {
            match held.take(chunk.len()) {
                Ok(()) => body.extend_from_slice(&chunk),
                Err(full) => {
                    body = Vec::new();
                    held.give_back();
                    no_room = Some(full);
                }
            }
        } else if size > limit + MAX_IGNORED {
            break;
        }
    }
    if size > limit {
        return Err(Problem::too_large(format!(
            "the body may have at most {limit} bytes"
        )));
    }
    if let Some(full) = no_room {
        return Err(full.into());
    }
    Ok(body)
}

/// A JSON body that may as well not be there.
pub struct OptionalBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        // Many clients send a content type with every POST. An empty body is none.
        if axum::body::HttpBody::size_hint(request.body()).exact() == Some(0) {
            return Ok(Self(T::default()));
        }
        Body::<Option<T>>::from_request(request, state)
            .await
            .map(|Body(value)| Self(value.unwrap_or_default()))
    }
}

/// The id in the path. One that isn't an id at all is as unknown as any other.
pub struct Id<T>(pub T);

impl<S: Send + Sync, T: FromStr<Err = Malformed> + Send> FromRequestParts<S> for Id<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Name(text) = Name::from_request_parts(parts, state).await?;
        text.parse()
            .map(Self)
            .map_err(|error: Malformed| Problem::not_found(error.to_string()))
    }
}

/// The name in the path. One that isn't even text is as unknown as any other.
pub struct Name(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let parameters = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|_| no_text())?;
        // The last one: pages of the console have the tenant before it.
        let last = parameters.iter().last();
        let (_, text) = last.ok_or_else(|| Problem::not_found("there is no name in the path"))?;
        Ok(Self(text.to_owned()))
    }
}

/// A part of the path isn't text, so nothing has that name.
pub fn no_text() -> Problem {
    Problem::not_found("the path is not UTF-8")
}

/// The two ids in the path, of a thing and of another that belongs to it.
pub struct Ids<A, B>(pub A, pub B);

impl<S, A, B> FromRequestParts<S> for Ids<A, B>
where
    S: Send + Sync,
    A: FromStr<Err = Malformed> + Send,
    B: FromStr<Err = Malformed> + Send,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path((first, second)) = Path::<(String, String)>::from_request_parts(parts, state)
            .await
            .map_err(|_| no_text())?;
        let unknown = |error: Malformed| Problem::not_found(error.to_string());
        Ok(Self(
            first.parse().map_err(unknown)?,
            second.parse().map_err(unknown)?,
        ))
    }
}

/// The query string.
pub struct Parameters<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // PostgreSQL's texts can't hold it.
        let query = parts.uri.query().unwrap_or_default();
        let pairs = url::form_urlencoded::parse(query.as_bytes());
        let mut wrong = Gathered::default();
        for (name, _) in pairs.filter(|(_, value)| value.contains('\0')) {
            wrong.add(Invalid::new(name, "must not contain the character U+0000"));
        }
        wrong.finish(())?;
        read_query(&parts.uri).map(Self)
    }
}

/// Reads the query string. The library stops at the first error. So a query that can't be read
/// is read again without the parameter to blame, until it can be.
fn read_query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    let mut errors: Vec<Blame> = Vec::new();
    let mut left = uri.clone();
    loop {
        let rejection = match Query::<T>::try_from_uri(&left) {
            Ok(Query(value)) if errors.is_empty() => return Ok(value),
            Ok(_) => return Err(Problem::wrong(errors)),
            Err(rejection) => rejection,
        };
        let is_new = |blame: &Blame| {
            // What is missing now may have been taken away.
            errors.iter().all(|error| error.field != blame.field)
                && (errors.is_empty() || blame.code != Code::MissingMember)
        };
        match blame(&rejection.body_text()).filter(is_new) {
            Some(blame) => {
                left = without(&left, &blame.field);
                errors.push(blame);
            }
            None if !errors.is_empty() => return Err(Problem::wrong(errors)),
            None => return Err(Problem::bad_request("the query string can't be read")),
        }
    }
}

/// The parameter to blame, from the library's words: `limit: invalid digit found in string` or
/// ``missing field `since` ``, after words about its work.
fn blame(words: &str) -> Option<Blame> {
    let words = words.strip_prefix("Failed to deserialize query string: ")?;
    let named = || words.split('`').nth(1);
    if words.starts_with("missing field") {
        return Some(Blame::new(Code::MissingMember, named()?, "is missing"));
    }
    if words.starts_with("duplicate field") {
        let twice = "is there twice";
        return Some(Blame::new(Code::DuplicateMember, named()?, twice));
    }
    let (name, words) = words.split_once(": ")?;
    Some(Blame::new(
        Code::WrongType,
        name,
        plain_words::of_value(words),
    ))
}

/// The same address without this parameter.
fn without(uri: &Uri, parameter: &str) -> Uri {
    let pairs = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let kept = pairs.filter(|(name, _)| name != parameter);
    let query = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(kept)
        .finish();
    let text = format!("{}?{query}", uri.path());
    text.parse().unwrap_or_default()
}

/// `?limit=&cursor=`, newest first. A cursor is the last id of the page before.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Page {
    /// The most entries of the page.
    #[param(minimum = 1, maximum = 250, default = 50)]
    pub limit: Option<i64>,
    /// `next_cursor` of the previous page.
    pub cursor: Option<String>,
}

impl Page {
    /// How many rows.
    ///
    /// # Errors
    /// If it's out of bounds.
    pub fn limit(&self) -> Result<i64, Invalid> {
        match self.limit.unwrap_or(PAGE) {
            limit @ 1..=MAX_PAGE => Ok(limit),
            _ => Err(Invalid::new(
                "limit",
                format!("must be between 1 and {MAX_PAGE}"),
            )),
        }
    }

    /// How many rows, and the id after which the page starts.
    ///
    /// # Errors
    /// Names both, if both are wrong.
    pub fn read<T: FromStr>(&self) -> Result<(i64, Option<T>), Invalids> {
        let mut wrong = Gathered::default();
        let limit = wrong.take(self.limit());
        let after = wrong.take(self.after());
        wrong.finish((limit, after))
    }

    /// The rows to show of those that were found, one more than the limit, and
    /// the next page's cursor if there is one.
    ///
    /// # Errors
    /// If the limit is out of bounds.
    pub fn cut<'r, T: for<'a> FromSql<'a> + Display>(
        &self,
        found: &'r [Row],
    ) -> Result<(&'r [Row], Option<String>), Problem> {
        let limit = self.limit()? as usize;
        let shown = &found[..found.len().min(limit)];
        let last = shown.last().filter(|_| found.len() > limit);
        Ok((shown, last.map(|row| row.get::<_, T>("id").to_string())))
    }

    /// The id after which the page starts.
    ///
    /// # Errors
    /// If it isn't a cursor.
    pub fn after<T: FromStr>(&self) -> Result<Option<T>, Invalid> {
        let parse = |text: &String| {
            text.parse()
                .map_err(|_| Invalid::new("cursor", "is not a cursor"))
        };
        self.cursor.as_ref().map(parse).transpose()
    }
}

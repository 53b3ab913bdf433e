//! `/openapi.json`, and the same for people: `/docs`.
//!
//! The page is written once, at start, from the document. It is one file
//! without scripts, and its policy keeps it from loading anything.

use std::fmt::{self, Write};

use axum::Router;
use axum::body::Bytes;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::openapi::role;
use schema::{Schema, example, members};

pub(super) mod schema;

const STYLE: &str = include_str!("docs/style.css");

/// The document's and the page's routes.
pub fn routes<S: Clone + Send + Sync + 'static>(document: &Value) -> Router<S> {
    let json = Bytes::from(document.to_string());
    let page = Bytes::from(Page(document).to_string());
    let style = BASE64.encode(Sha256::digest(STYLE));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    Router::new()
        .route(
            "/openapi.json",
            get(async move || {
                (
                    [
                        (CONTENT_TYPE, "application/json"),
                        (CACHE_CONTROL, "no-cache"),
                    ],
                    json,
                )
            }),
        )
        .route(
            "/docs",
            get(async move || {
                let headers = [
                    (CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
                    (CACHE_CONTROL, "no-cache".to_owned()),
                    (CONTENT_SECURITY_POLICY, policy),
                    (REFERRER_POLICY, "no-referrer".to_owned()),
                    (X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
                ];
                (headers, page)
            }),
        )
}

/// The page, which writes itself.
struct Page<'a>(&'a Value);

/// One operation of the document.
struct Operation<'a> {
    document: &'a Value,
    method: String,
    path: &'a str,
    it: &'a Value,
}

impl fmt::Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let document = self.0;
        let info = &document["info"];
        let (title, version) = (text(&info["title"]), text(&info["version"]));
        write!(
            f,
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\"><title>{title} API</title>\
             <style>{STYLE}</style></head><body>"
        )?;
        self.contents(f)?;
        write!(
            f,
            "<main><h1>{title} API <small>{version}</small></h1><p>{}</p><p>{}</p>\
             <p>The same for programs: <a href=\"/openapi.json\">/openapi.json</a>, OpenAPI 3.1.</p>",
            prose(&info["description"]),
            prose(&document["components"]["securitySchemes"]["token"]["description"]),
        )?;
        for tag in self.tags() {
            let name = text(&tag["name"]);
            write!(
                f,
                "<h2 id=\"{name}\">{name}</h2><p>{}</p>",
                prose(&tag["description"])
            )?;
            for operation in self.operations(&tag["name"]) {
                operation.write(f)?;
            }
        }
        f.write_str("</main></body></html>")
    }
}

impl<'a> Page<'a> {
    fn contents(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<nav>")?;
        for tag in self.tags() {
            let name = text(&tag["name"]);
            write!(f, "<a class=\"tag\" href=\"#{name}\">{name}</a>")?;
            for operation in self.operations(&tag["name"]) {
                write!(
                    f,
                    "<a href=\"#{}\">{}</a>",
                    text(&operation.it["operationId"]),
                    text(&operation.it["summary"])
                )?;
            }
        }
        f.write_str("</nav>")
    }

    fn tags(&self) -> impl Iterator<Item = &'a Value> {
        self.0["tags"].as_array().into_iter().flatten()
    }

    fn operations(&self, tag: &'a Value) -> impl Iterator<Item = Operation<'a>> {
        let document = self.0;
        let paths = document["paths"].as_object().into_iter().flatten();
        let all = paths.flat_map(move |(path, item)| {
            let operations = item.as_object().into_iter().flatten();
            operations.map(move |(method, it)| Operation {
                document,
                method: method.to_uppercase(),
                path,
                it,
            })
        });
        all.filter(move |operation| operation.it["tags"][0] == *tag)
    }
}

impl Operation<'_> {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (it, method) = (self.it, &self.method);
        write!(
            f,
            "<section id=\"{}\"><h3>{}</h3><p class=\"path\"><b class=\"{method}\">{method}</b> <code>{}</code></p>",
            text(&it["operationId"]),
            text(&it["summary"]),
            escape(self.path),
        )?;
        if it["description"].is_string() {
            write!(f, "<p>{}</p>", prose(&it["description"]))?;
        }
        let who = match role(it) {
            Some("viewer") => "any token",
            Some("manager") => "a manager's or an admin's token",
            Some("admin") => "an admin's token",
            Some("operator") => "a global admin's token",
            _ => "no token",
        };
        write!(f, "<p>Needs {who}.</p>")?;
        self.parameters(f)?;
        let body = &it["requestBody"]["content"]["application/json"]["schema"];
        if !body.is_null() {
            self.table(f, "Body", body)?;
        }
        write!(f, "<pre>{}</pre>", escape(&self.command(body)))?;
        self.answers(f)?;
        f.write_str("</section>")
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parameters = self.it["parameters"].as_array().into_iter().flatten();
        let mut rows = String::new();
        for parameter in parameters {
            let schema = Schema::of(self.document, &parameter["schema"]);
            write!(
                rows,
                "<tr><td><code>{}</code><td>{}<td>{}<td>{} {}",
                text(&parameter["name"]),
                text(&parameter["in"]),
                escape(&schema.kind()),
                prose(&parameter["description"]),
                escape(&schema.bounds()),
            )?;
        }
        if rows.is_empty() {
            return Ok(());
        }
        write!(f, "<table><caption>Parameters</caption>{rows}</table>")
    }

    fn table(&self, f: &mut fmt::Formatter<'_>, caption: &str, schema: &Value) -> fmt::Result {
        write!(f, "<table><caption>{caption}</caption>")?;
        for member in members(self.document, schema) {
            let need = if member.required { "needed" } else { "" };
            write!(
                f,
                "<tr><td><code>{}</code><td>{need}<td>{}<td>{} {}",
                escape(&member.name),
                escape(&member.schema.kind()),
                prose(member.schema.description()),
                escape(&member.schema.bounds()),
            )?;
        }
        f.write_str("</table>")
    }

    fn answers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answers = self.it["responses"].as_object().into_iter().flatten();
        for (status, answer) in answers {
            let answer = Schema::of(self.document, answer).resolved();
            write!(
                f,
                "<p class=\"answer\"><b>{status}</b> {}</p>",
                prose(&answer["description"])
            )?;
            let body = &answer["content"]["application/json"]["schema"];
            if !body.is_null() {
                let shown = format!("{:#}", example(self.document, body));
                write!(f, "<pre>{}</pre>", escape(&shown))?;
            }
        }
        Ok(())
    }

    /// As one would ask with curl.
    fn command(&self, body: &Value) -> String {
        let mut command = "curl".to_owned();
        if self.method != "GET" {
            command += &format!(" -X {}", self.method);
        }
        command += &format!(" http://127.0.0.1:8080{}", self.path);
        if role(self.it).is_some() {
            command += " \\\n  -H \"Authorization: Bearer $TOKEN\"";
        }
        if !body.is_null() {
            // In shells, a quote within quotes is written like this.
            let body = format!("{:#}", example(self.document, body)).replace('\'', r"'\''");
            command += &format!(" \\\n  -H 'Content-Type: application/json' -d '{body}'");
        }
        command
    }
}

fn text(value: &Value) -> String {
    escape(value.as_str().unwrap_or_default())
}

/// Text with `code` in it.
fn prose(value: &Value) -> String {
    let mut html = String::new();
    for (n, part) in value.as_str().unwrap_or_default().split('`').enumerate() {
        if n % 2 == 0 {
            html += &escape(part);
        } else {
            html += &format!("<code>{}</code>", escape(part));
        }
    }
    html
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

//! A walk through the operations of the API's description. Each answer is checked against what the
//! description declares, and kept.

use std::collections::{BTreeMap, BTreeSet};

use harness::service::{Service, http};
use harness::world::{ADMIN_TOKEN, TENANT};
use reqwest::Response;
use reqwest::header::HeaderMap;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A walk through all operations.
pub(crate) struct Walk<'a> {
    pub(crate) ingest: &'a Service,
    pub(crate) document: Value,
    /// The answers, by operation and status.
    pub(crate) answers: BTreeMap<String, BTreeMap<String, Value>>,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: HeaderMap,
    pub(crate) body: Value,
}

pub(crate) async fn read(response: Response) -> Answer {
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let text = response.text().await.unwrap();
    let body = serde_json::from_str(&text).unwrap_or_default();
    Answer {
        status,
        headers,
        body,
    }
}

impl<'a> Walk<'a> {
    pub(crate) async fn new(ingest: &'a Service) -> Self {
        let document = http()
            .get(ingest.url("/openapi.json"))
            .send()
            .await
            .unwrap();
        Self {
            ingest,
            document: read(document).await.body,
            answers: BTreeMap::new(),
        }
    }

    /// The method, the path and the description of an operation.
    fn operation(&self, id: &str) -> (String, String, Value) {
        for (path, item) in self.document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                if operation["operationId"] == id {
                    return (method.to_uppercase(), path.clone(), operation.clone());
                }
            }
        }
        panic!("there is no operation {id}");
    }

    /// Asks for an operation with the parameters of its path, in their order. The answer is
    /// checked against what is declared, and kept.
    pub(crate) async fn visit(
        &mut self,
        id: &str,
        path: &[&str],
        query: &str,
        body: Value,
    ) -> Value {
        let (method, template, operation) = self.operation(id);
        let mut url = template;
        for value in path {
            let (start, end) = (url.find('{').unwrap(), url.find('}').unwrap());
            url.replace_range(start..=end, value);
        }
        let mut request = http()
            .request(
                method.parse().unwrap(),
                self.ingest.url(&format!("{url}{query}")),
            )
            .bearer_auth(ADMIN_TOKEN)
            .header("x-tenant-id", TENANT);
        if !body.is_null() {
            request = request
                .header("content-type", "application/json")
                .body(body.to_string());
        }
        let answer = read(request.send().await.unwrap()).await;
        assert!(
            answer.status < 300,
            "{id}: {} {}",
            answer.status,
            answer.body
        );
        let status = answer.status.to_string();
        let declared = operation["responses"][&status].clone();
        assert!(declared.is_object(), "{id}: {status} is not declared");
        self.has_declared_headers(id, &declared, &answer);
        if !declared["content"]["application/json"].is_null() {
            has_times_with_three_digits(id, &answer.body);
            let answers = self.answers.entry(id.to_owned()).or_default();
            answers.insert(status, answer.body.clone());
        }
        answer.body
    }

    fn has_declared_headers(&self, id: &str, declared: &Value, answer: &Answer) {
        for (name, header) in declared["headers"].as_object().unwrap() {
            let reference = header["$ref"].as_str().unwrap();
            let header = self.document.pointer(&reference[1..]).unwrap();
            let value = answer.headers.get(name);
            let value = value.unwrap_or_else(|| panic!("{id}: no {name}"));
            if header["schema"]["type"] == "integer" {
                let number = value.to_str().unwrap().parse::<u64>();
                assert!(number.is_ok(), "{id}: {name}: {value:?}");
            }
        }
    }

    /// Operations and statuses of the description that answer with JSON.
    pub(crate) fn described(&self) -> BTreeSet<(String, String)> {
        let mut all = BTreeSet::new();
        for item in self.document["paths"].as_object().unwrap().values() {
            for operation in item.as_object().unwrap().values() {
                for (status, response) in operation["responses"].as_object().unwrap() {
                    if status.starts_with('2') && !response["content"]["application/json"].is_null()
                    {
                        let id = operation["operationId"].as_str().unwrap();
                        all.insert((id.to_owned(), status.clone()));
                    }
                }
            }
        }
        all
    }

    pub(crate) fn example(&self, id: &str, status: &str) -> Value {
        let (_, _, operation) = self.operation(id);
        operation["responses"][status]["content"]["application/json"]["example"].clone()
    }
}

/// Times are in UTC, with three digits after the second. What clients have written stays.
fn has_times_with_three_digits(at: &str, value: &Value) {
    match value {
        Value::String(text) if OffsetDateTime::parse(text, &Rfc3339).is_ok() => {
            let length = "2026-01-31T10:00:00.000Z".len();
            assert!(text.len() == length && text.ends_with('Z'), "{at}: {text}");
        }
        Value::Array(items) => {
            for item in items {
                has_times_with_three_digits(at, item);
            }
        }
        Value::Object(members) => {
            let theirs = ["attributes", "data", "example", "metadata", "schema"];
            let ours = members.iter();
            for (name, member) in ours.filter(|(name, _)| !theirs.contains(&name.as_str())) {
                has_times_with_three_digits(&format!("{at}/{name}"), member);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

pub(crate) fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value}"))
        .to_owned()
}

//! What docs/api.md and docs/errors.md say of all operations: problems with codes and all
//! errors at once, ETags, `Location`, limits in headers, what is deprecated, who is asking, and
//! a tenant's own rejected events.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use harness::producer::Publication;
use harness::receiver::answering;
use harness::service::{Service, http};
use harness::world::{ADMIN_TOKEN, TENANT, World, eventually};
use ingest::api::access::rate_limit::Rates;
use ingest::api::http::query::Queries;
use ingest::api::middleware::around;
use reqwest::Response;
use serde_json::{Value, json};
use tokio::net::TcpListener;

async fn get(ingest: &Service, path: &str, header: (&str, &str)) -> Response {
    http()
        .get(ingest.url(path))
        .bearer_auth(ADMIN_TOKEN)
        .header("x-tenant-id", TENANT)
        .header(header.0, header.1)
        .send()
        .await
        .unwrap()
}

fn header(answer: &Response, name: &str) -> String {
    let value = answer.headers().get(name);
    let value = value.unwrap_or_else(|| panic!("no {name}: {:?}", answer.headers()));
    value.to_str().unwrap().to_owned()
}

fn errors(body: &Value) -> Vec<String> {
    let errors = body["errors"].as_array().into_iter().flatten();
    errors
        .map(|error| format!("{} {}", error["field"], error["code"]).replace('"', ""))
        .collect()
}

#[tokio::test]
async fn everything_that_is_wrong_is_named_at_once_with_a_code_that_the_docs_explain() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let (webhooks, tenants) = ("/api/v1/webhooks", "/api/v1/admin/tenants");
    for (path, body, status, expected) in [
        (
            webhooks,
            json!({"url": 7, "evnts": ["*"], "timeout": "long"}),
            400,
            vec![
                "evnts unknown_member",
                "timeout wrong_type",
                "url wrong_type",
            ],
        ),
        (
            webhooks,
            json!({"timeout": 1, "rate_limit": 0}),
            422,
            vec![
                "url missing_member",
                "events missing_member",
                "timeout invalid_value",
                "rate_limit invalid_value",
            ],
        ),
        (
            webhooks,
            json!({
                "url": "nonsense", "events": ["ord*", "*", "a..b"],
                "headers": {"Host": "x", "X-A": "y", "a b": "z"},
                "oauth2": {"token_url": "ftp://x", "client_id": "", "client_secret": ""}
            }),
            422,
            vec![
                "url invalid_value",
                "events[0] invalid_value",
                "events[2] invalid_value",
                "headers.Host invalid_value",
                "headers.a b invalid_value",
                "oauth2.token_url invalid_value",
                "oauth2.client_id invalid_value",
                "oauth2.client_secret invalid_value",
            ],
        ),
        (
            "/api/v1/webhooks/preview",
            json!({"events": ["ord*", "*", "a..b"], "filters": {"a": {"$no": 1}}}),
            422,
            vec![
                "events[0] invalid_value",
                "events[2] invalid_value",
                "filters invalid_value",
            ],
        ),
        (
            "/api/v1/signatures/check",
            json!({
                "webhook_id": "x", "delivery_id": "wh_1", "dialect": "none", "attempt": 0,
                "secret": "x".repeat(513), "computed": "x".repeat(513)
            }),
            422,
            vec![
                "webhook_id invalid_value",
                "delivery_id invalid_value",
                "dialect invalid_value",
                "attempt invalid_value",
                "secret invalid_value",
                "computed invalid_value",
            ],
        ),
        (
            tenants,
            json!({"id": "No!", "dialect": "none", "limits": {"webhooks": -1, "payload_bytes": 0}}),
            422,
            vec![
                "id invalid_value",
                "dialect invalid_value",
                "limits.webhooks invalid_value",
                "limits.payload_bytes invalid_value",
            ],
        ),
        (
            "/api/v1/events",
            json!({}),
            400,
            vec!["type missing_member", "data missing_member"],
        ),
        (
            "/api/v1/events",
            json!({"type": "a..b", "id": "", "occurred_at": "soon", "data": 1}),
            422,
            vec![
                "type invalid_value",
                "id invalid_value",
                "occurred_at invalid_value",
            ],
        ),
        (
            "/api/v1/replays",
            json!({
                "since": "2026-02-01T00:00:00Z", "until": "2026-01-01T00:00:00Z", "status": ["lost"],
                "event_types": ["ord*", "order.*", "a..b"], "response_code": ["5xx", "6xx"],
                "outcome": "bad luck", "rate": 0
            }),
            422,
            vec![
                "since invalid_value",
                "status invalid_value",
                "event_types[0] invalid_value",
                "event_types[2] invalid_value",
                "response_code[1] invalid_value",
                "outcome[0] invalid_value",
                "rate invalid_value",
            ],
        ),
        (
            "/api/v1/event-types/import",
            json!({"event_types": [
                {}, {"name": "a.b", "description": "x".repeat(1025), "schema": {"type": "no"}},
                {"name": "a.b", "schema": {"type": "object"}, "example": 1}
            ]}),
            422,
            vec![
                "event_types[0].name missing_member",
                "event_types[1].description invalid_value",
                "event_types[1].schema invalid_value",
                "event_types[2].name invalid_value",
                "event_types[2].example invalid_value",
            ],
        ),
        (
            "/api/v1/admin/tokens",
            json!({"owner": "a b", "expires_at": "2020-01-01T00:00:00Z"}),
            422,
            vec!["expires_at invalid_value", "owner invalid_value"],
        ),
        (
            "/api/v1/admin/portal-links",
            json!({"tenant": "No!", "role": "admin", "expires_in": 1, "theme": "pink"}),
            422,
            vec![
                "tenant invalid_value",
                "role invalid_value",
                "expires_in invalid_value",
                "theme invalid_value",
            ],
        ),
    ] {
        let refused = http()
            .post(ingest.url(path))
            .bearer_auth(ADMIN_TOKEN)
            .header("x-tenant-id", TENANT)
            .header("content-type", "application/json")
            .body(body.to_string());
        let refused = refused.send().await.unwrap();
        assert_eq!(refused.status(), status, "{path}");
        let problem: Value = serde_json::from_str(&refused.text().await.unwrap()).unwrap();
        let mut found = errors(&problem);
        if status == 400 {
            // The first error is the first of the body, the others come by name.
            found.sort();
            let mut expected = expected.clone();
            expected.sort_unstable();
            assert_eq!(found, expected, "{problem}");
        } else {
            assert_eq!(found, expected, "{problem}");
        }
        for member in ["field", "code", "detail"] {
            assert_eq!(problem[member], problem["errors"][0][member], "{member}");
        }
        let uri = problem["type"].as_str().unwrap().to_owned();
        let (page, code) = uri.split_once('#').unwrap();
        assert_eq!(problem["code"], code);
        let page = http().get(ingest.url(page)).send().await.unwrap();
        let text = page.text().await.unwrap();
        assert!(text.contains(&format!("\n### {code}\n")), "{code}");
    }
    for (path, expected) in [
        ("/api/v1/webhooks?limit=many", &["limit wrong_type"][..]),
        (
            "/api/v1/webhooks?limit=1000&cursor=x",
            &["limit invalid_value", "cursor invalid_value"],
        ),
        (
            "/api/v1/webhooks?limt=5&limit=5&curser=x",
            &["limt unknown_member", "curser unknown_member"],
        ),
        (
            "/api/v1/deliveries?since=now&event_id=a&limit=many",
            &["since wrong_type", "limit wrong_type"],
        ),
        (
            "/api/v1/deliveries?status=lost&event_type=ord*,a..b&response_code=6xx&outcome=x\
             &webhook_id=wh_1,wh_2&limit=0&cursor=x",
            &[
                "status invalid_value",
                "event_type invalid_value",
                "event_type invalid_value",
                "response_code invalid_value",
                "outcome invalid_value",
                "webhook_id invalid_value",
                "webhook_id invalid_value",
                "limit invalid_value",
                "cursor invalid_value",
            ],
        ),
        (
            "/api/v1/events?type=ord*&matched=1&since=now&limit=0",
            &[
                "type invalid_value",
                "matched invalid_value",
                "limit invalid_value",
                "since invalid_value",
            ],
        ),
    ] {
        let refused = get(&ingest, path, ("accept", "*/*"))
            .await
            .text()
            .await
            .unwrap();
        let problem: Value = serde_json::from_str(&refused).unwrap();
        assert_eq!(errors(&problem), expected, "{path}: {problem}");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_client_that_has_a_webhooks_state_gets_304_until_anything_that_is_shown_changes() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &shop, json!({})).await;
    let path = format!("/api/v1/webhooks/{}", webhook.id);
    let show = async |known: &str| get(&ingest, &path, ("if-none-match", known)).await;

    let first = header(&show("\"none\"").await, "etag");
    let again = show(&first).await;
    assert_eq!(
        (again.status().as_u16(), header(&again, "etag")),
        (304, first.clone())
    );
    assert_eq!(again.text().await.unwrap(), "");

    // A delivery changes what is shown, but not the webhook: a change is still made.
    world.publish("order.created", "evt-1", &json!({})).await;
    shop.receives(1).await;
    world.settles().await;
    let shown = show(&first).await;
    assert_eq!(shown.status(), 200, "last_triggered is another");
    assert_ne!(header(&shown, "etag"), first);
    let changed = http()
        .patch(ingest.url(&path))
        .bearer_auth(ADMIN_TOKEN)
        .header("x-tenant-id", TENANT)
        .header("content-type", "application/json")
        .header("if-match", &first)
        .body(r#"{"description": "new"}"#);
    assert_eq!(changed.send().await.unwrap().status(), 200);

    let document = get(&ingest, "/openapi.json", ("accept", "*/*")).await;
    let known = header(&document, "etag");
    let again = get(&ingest, "/openapi.json", ("if-none-match", &known)).await;
    assert_eq!(again.status(), 304);
    world.finish().await;
}

#[tokio::test]
async fn what_was_created_is_where_location_says() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    for (method, path, body) in [
        (
            "POST",
            "/api/v1/webhooks",
            json!({"url": "https://example.com/", "events": ["*"]}),
        ),
        ("POST", "/api/v1/admin/tenants", json!({"id": "globex"})),
        ("POST", "/api/v1/admin/tokens", json!({"role": "viewer"})),
        ("PUT", "/api/v1/event-types/order.created", json!({})),
    ] {
        let made = http()
            .request(method.parse().unwrap(), ingest.url(path))
            .bearer_auth(ADMIN_TOKEN)
            .header("x-tenant-id", TENANT)
            .header("content-type", "application/json")
            .body(body.to_string());
        let made = made.send().await.unwrap();
        assert_eq!(made.status(), 201, "{path}");
        let location = header(&made, "location");
        let found = get(&ingest, &location, ("accept", "*/*")).await;
        assert_eq!(found.status(), 200, "{location}");
    }
    world.finish().await;
}

#[tokio::test]
async fn every_answer_says_how_many_requests_are_left() {
    let world = World::with(&[("API_RATE_LIMIT", "1")]).await;
    let ingest = world.ingest().await;
    let ask = async || get(&ingest, "/api/v1/me", ("accept", "*/*")).await;
    let first = ask().await;
    assert_eq!(first.status(), 200);
    assert_eq!(
        header(&first, "ratelimit-limit"),
        "2",
        "a burst of twice the rate"
    );
    let refused = async {
        loop {
            let answer = ask().await;
            if answer.status() == 429 {
                return answer;
            }
        }
    };
    let refused = refused.await;
    assert_eq!(header(&refused, "ratelimit-remaining"), "0");
    let reset: u64 = header(&refused, "ratelimit-reset").parse().unwrap();
    assert!(
        (1..=2).contains(&reset),
        "two requests come back in two seconds: {reset}"
    );
    header(&refused, "retry-after");
    let nobody = http().get(ingest.url("/api/v1/me")).send().await.unwrap();
    header(&nobody, "x-request-id");
    // This client's address may be over its limit as well: both answers are right.
    if nobody.status() == 401 {
        assert_eq!(header(&nobody, "www-authenticate"), "Bearer");
    }
    world.finish().await;
}

#[tokio::test]
async fn answers_have_deprecation_and_sunset_only_if_their_operation_is_deprecated() {
    let world = World::with(&[("API_RATE_LIMIT", "0")]).await;
    let ingest = world.ingest().await;
    let document = get(&ingest, "/openapi.json", ("accept", "*/*")).await;
    let document: Value = serde_json::from_str(&document.text().await.unwrap()).unwrap();
    let mut asked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let path = path.replace(['{', '}'], "");
            // Without a token, so that nothing is changed. The other path of webhooks isn't
            // deprecated either.
            let mut answers = Vec::new();
            for path in [&path, &path.replace("/api/v1/webhooks", "/api/webhooks")] {
                let method = method.to_uppercase().parse().unwrap();
                let answer = http().request(method, ingest.url(path)).send().await;
                answers.push(answer.unwrap());
            }
            if method == "get" {
                answers.push(get(&ingest, &path, ("accept", "*/*")).await);
            }
            let is_deprecated = operation["deprecated"] == true;
            for answer in answers {
                for name in ["deprecation", "sunset"] {
                    let is_there = answer.headers().contains_key(name);
                    assert_eq!(is_there, is_deprecated, "{method} {path}: {name}");
                }
                asked += 1;
            }
        }
    }
    assert!(asked > 100, "{asked}");
    world.finish().await;
}

/// No operation is deprecated today, so these are not the API's own.
#[tokio::test]
async fn a_deprecated_operation_says_since_when_and_until_when_in_its_own_answers() {
    let document = json!({"paths": {
        "/api/v1/webhooks/{id}/old": {"get": {
            "deprecated": true, "x-deprecated-since": "2026-08-01", "x-sunset": "2027-02-01",
        }},
        "/api/v1/webhooks/{id}/new": {"get": {}},
    }});
    let described = Arc::new(Queries::from_document(&document));
    let routes: Router = Router::new()
        .route("/api/v1/webhooks/{id}/old", axum::routing::get(done))
        .route("/api/webhooks/{id}/old", axum::routing::get(done))
        .route("/api/v1/webhooks/{id}/new", axum::routing::get(done));
    // Six requests at once.
    let routes = around(routes, described, Some(Arc::new(Rates::new(3))));
    let service = routes.into_make_service_with_connect_info::<SocketAddr>();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        // Ends when the test does.
        let _ = axum::serve(listener, service).await;
    });
    let deprecated = "@1785542400 Mon, 01 Feb 2027 00:00:00 GMT";
    let asked = async |path: &str, headers: &[(&str, &str)]| {
        let mut request = http().get(format!("http://{address}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        let header = |name: &str| match answer.headers().get(name) {
            Some(value) => value.to_str().unwrap().to_owned(),
            None => "none".to_owned(),
        };
        let (since, until) = (header("deprecation"), header("sunset"));
        format!("{} {since} {until}", answer.status().as_u16())
    };
    let old = "/api/v1/webhooks/wh_1/old";
    let misspelt = format!("{old}?verbose=1");
    let none: &[(&str, &str)] = &[];
    let html = [("accept", "text/html")];
    let tenants = [("x-tenant-id", "acme"), ("x-tenant-id", "globex")];
    for (path, headers, expected) in [
        (old, none, 200),
        ("/api/webhooks/wh_1/old", none, 200),
        // So does a refusal, whoever refuses.
        (misspelt.as_str(), none, 422),
        (old, &html[..], 406),
        (old, &tenants[..], 400),
    ] {
        let said = asked(path, headers).await;
        assert_eq!(
            said,
            format!("{expected} {deprecated}"),
            "{path} {headers:?}"
        );
    }
    let new = asked("/api/v1/webhooks/wh_1/new", none).await;
    assert_eq!(new, "200 none none");
    let mut last = String::new();
    eventually("the client is over its limit", async || {
        last = asked(old, none).await;
        last.starts_with("429")
    })
    .await;
    assert_eq!(last, format!("429 {deprecated}"));
    serving.abort();
}

async fn done() -> &'static str {
    "done"
}

#[tokio::test]
async fn a_token_can_ask_whose_it_is() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let me = world.ask(&ingest, "GET", "/api/v1/me", None).await.body;
    assert_eq!(
        (&me["tenant"], &me["role"]),
        (&json!(TENANT), &json!("manager"))
    );
    assert_eq!(me["global"], false);
    assert!(
        me["token"]["id"].as_str().unwrap().starts_with("tok_"),
        "{me}"
    );
    assert_eq!(me["limits"]["payload_bytes"], 262_144, "{me}");
    assert_eq!(me["requests_per_second"], 200);
    let operator = world
        .ask_as_operator(&ingest, "GET", "/api/v1/me", None)
        .await;
    let me = operator.body;
    assert_eq!(
        (&me["tenant"], &me["role"]),
        (&Value::Null, &json!("admin"))
    );
    assert_eq!(
        (&me["global"], &me["token"], &me["limits"]),
        (&json!(true), &Value::Null, &Value::Null)
    );
    world.finish().await;
}

#[tokio::test]
async fn a_tenant_sees_its_own_rejected_events_and_nobody_elses() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    world.tenant(&ingest, "globex").await;
    let producer = world.producer().await;
    for tenant in [TENANT, TENANT, "globex", "nobody"] {
        let no_json =
            Publication::json(tenant, "order.created", &format!("of-{tenant}"), "no JSON");
        // Confirmed: RabbitMQ has it.
        producer.publish(&no_json).await.unwrap();
    }
    let parked = async || world.count("dead_letters").await == 4;
    eventually("all four are parked", parked).await;

    let list = async |path: &str| world.ask(&ingest, "GET", path, None).await;
    let all = list("/api/v1/dead-letters").await.body;
    let letters = all["dead_letters"].as_array().unwrap();
    assert_eq!(letters.len(), 2, "{all}");
    for letter in letters {
        assert_eq!(letter["message_id"], format!("of-{TENANT}"));
        assert!(
            letter["reason"].as_str().unwrap().contains("JSON"),
            "{letter}"
        );
    }
    let page = list("/api/v1/dead-letters?limit=1").await.body;
    let cursor = page["next_cursor"].as_str().unwrap();
    let next = list(&format!("/api/v1/dead-letters?limit=1&cursor={cursor}"))
        .await
        .body;
    assert_eq!(next["dead_letters"][0]["id"], letters[1]["id"]);
    assert_eq!(next["next_cursor"], Value::Null);

    // Read only.
    let id = letters[0]["id"].as_str().unwrap();
    for (method, path, status) in [
        ("DELETE", format!("/api/v1/dead-letters/{id}"), 405),
        (
            "POST",
            format!("/api/v1/admin/dead-letters/{id}/replay"),
            403,
        ),
    ] {
        let refused = world.ask(&ingest, method, &path, None).await;
        assert_eq!(refused.status, status, "{method} {path}");
    }
    world.finish().await;
}

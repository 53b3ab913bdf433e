//! Pages of the console beside webhooks, deliveries and events, and the portal: asked over HTTP,
//! as a browser without JavaScript asks.

#![allow(clippy::unwrap_used)]

use harness::receiver::{Reply, answering, answering_in_turn};
use harness::service::Service;
use harness::world::{ADMIN_TOKEN, World, eventually};
use serde_json::json;

/// What a page is answered with.
struct Answer {
    status: u16,
    to: String,
    cookie: String,
    policy: String,
    text: String,
}

/// Somebody with a browser: follows no redirect by itself, and keeps one cookie.
struct Browser<'a> {
    ingest: &'a Service,
    client: reqwest::Client,
    cookie: String,
}

impl<'a> Browser<'a> {
    fn new(ingest: &'a Service) -> Self {
        Self {
            ingest,
            // It follows no redirect.
            client: harness::service::http(),
            cookie: String::new(),
        }
    }

    async fn signed_in(ingest: &'a Service, token: &str) -> Self {
        let mut browser = Self::new(ingest);
        let answer = browser
            .send("/console/_/sign-in", &[("token", token)])
            .await;
        assert_eq!(answer.status, 303, "{}", answer.text);
        browser.cookie = answer.cookie;
        browser
    }

    async fn get(&self, path: &str) -> Answer {
        let request = self.client.get(self.ingest.url(path));
        Self::answer(request.header("cookie", &self.cookie)).await
    }

    /// A page that is there.
    async fn page(&self, path: &str) -> String {
        let answer = self.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        assert!(!answer.text.contains("style="), "{path}");
        answer.text
    }

    /// Sends a form from one of the pages: with that page's secret.
    async fn post(&self, from: &str, path: &str, fields: &[(&str, &str)]) -> Answer {
        let page = self.page(from).await;
        let csrf = between(&page, "name=\"csrf\" value=\"", "\"");
        let mut fields = fields.to_vec();
        fields.push(("csrf", &csrf));
        self.send(path, &fields).await
    }

    async fn send(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(fields);
        let request = self
            .client
            .post(self.ingest.url(path))
            .header("cookie", &self.cookie)
            .header("sec-fetch-site", "same-origin")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form.finish());
        Self::answer(request).await
    }

    async fn answer(request: reqwest::RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        let header = |name: &str| {
            let value = response.headers().get(name);
            value.map_or_else(String::new, |v| v.to_str().unwrap().to_owned())
        };
        let (to, cookie) = (header("location"), header("set-cookie"));
        Answer {
            status: response.status().as_u16(),
            to,
            cookie: cookie.split(';').next().unwrap().to_owned(),
            policy: header("content-security-policy"),
            text: response.text().await.unwrap(),
        }
    }
}

fn between(text: &str, begin: &str, end: &str) -> String {
    let from = text
        .find(begin)
        .unwrap_or_else(|| panic!("{begin} in {text}"))
        + begin.len();
    let rest = &text[from..];
    rest[..rest.find(end).unwrap()].to_owned()
}

async fn token(world: &World, ingest: &Service, role: &str) -> String {
    let asked = json!({"tenant": "acme", "role": role});
    let path = "/api/v1/admin/tokens";
    let made = world
        .ask_as_operator(ingest, "POST", path, Some(asked))
        .await;
    made.body["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn every_page_opens_for_whom_it_is_and_for_nobody_else() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering_in_turn(&[404, 200])).await;
    world.webhook(&ingest, &shop, json!({"retries": 0})).await;
    let schema = json!({
        "description": "<script>alert(1)</script>",
        "schema": {"type": "object", "required": ["total"], "properties": {
            "total": {"type": "number", "minimum": 0, "description": "What was paid."}}},
        "example": {"total": 1.10}
    });
    let path = "/api/v1/event-types/order.paid";
    world.ask(&ingest, "PUT", path, Some(schema)).await;
    world
        .publish("order.paid", "evt-1", &json!({"total": 5}))
        .await;
    shop.receives(1).await;
    world.settles().await;
    let viewer = Browser::signed_in(&ingest, &token(&world, &ingest, "viewer").await).await;
    let manager = Browser::signed_in(&ingest, &token(&world, &ingest, "manager").await).await;
    let admin = Browser::signed_in(&ingest, &token(&world, &ingest, "admin").await).await;
    let operator = Browser::signed_in(&ingest, ADMIN_TOKEN).await;
    for (path, words) in [
        ("/console/acme/event-types", "order.paid"),
        ("/console/acme/event-types/order.paid", "What was paid."),
        (
            "/console/acme/event-types/order.paid?view=json",
            "JSON Schema",
        ),
        ("/console/acme/replays", "No replay yet"),
        ("/console/acme/events?q=matched:0", "Nothing matches"),
    ] {
        let page = viewer.page(path).await;
        assert!(page.contains(words), "{path} lacks {words}: {page}");
        assert!(!page.contains("<script>alert"), "{path}");
        assert!(
            !page.contains("New replay") && !page.contains("Describe one"),
            "{path}"
        );
    }
    for (path, words) in [
        ("/console/acme/replays/new", "Replay 1 delivery"),
        ("/console/acme/events/new?type=order.paid", "1.1"),
        ("/console/acme/events/new?like=evt-1", "Would get it"),
        ("/console/acme/signature", "Signature check"),
        ("/console/acme/event-types/new", "JSON Schema"),
        ("/console/acme/event-types/order.paid/edit", "Save"),
        ("/console/acme/event-types/import", "rishi"),
    ] {
        let page = manager.page(path).await;
        assert!(page.contains(words), "{path} lacks {words}: {page}");
        assert_eq!(viewer.get(path).await.status, 403, "{path}");
    }
    let page = admin.page("/console/acme/tokens").await;
    assert!(page.contains("pht_"), "{page}");
    assert_eq!(manager.get("/console/acme/tokens").await.status, 403);
    for (path, words) in [
        ("/console/_/tenants", "acme"),
        ("/console/_/tenants?q=nobody", "Nothing matches"),
        ("/console/_/tenants/new", "New tenant"),
        ("/console/_/tenants/acme", "Portal"),
        ("/console/_/tenants/acme/edit", "may be framed by"),
        ("/console/_/dead-letters", "None"),
        ("/console/_/health", "Processes"),
    ] {
        let page = operator.page(path).await;
        assert!(page.contains(words), "{path} lacks {words}: {page}");
        assert_eq!(admin.get(path).await.status, 403, "{path}");
    }
    world.finish().await;
}

#[tokio::test]
async fn forms_replay_publish_describe_and_issue() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering_in_turn(&[404, 404, 200])).await;
    world.webhook(&ingest, &shop, json!({"retries": 0})).await;
    for id in ["evt-1", "evt-2"] {
        world.publish("order.paid", id, &json!({})).await;
    }
    shop.receives(2).await;
    world.settles().await;
    let manager = Browser::signed_in(&ingest, &token(&world, &ingest, "manager").await).await;
    let admin = Browser::signed_in(&ingest, &token(&world, &ingest, "admin").await).await;

    // It says how many before, shows how far it is, and what came of it.
    let new = "/console/acme/replays/new?since=2h";
    assert!(manager.page(new).await.contains("Replay 2 deliveries"));
    let fields = [
        ("since", "2h"),
        ("status", "failed"),
        ("rate", "100"),
        ("go", "1"),
    ];
    let started = manager.post(new, "/console/acme/replays", &fields).await;
    assert_eq!(started.status, 303, "{}", started.text);
    shop.receives(4).await;
    world.settles().await;
    eventually("the replay is over", async || {
        manager.page(&started.to).await.contains("Finished")
    })
    .await;
    let page = manager.page(&started.to).await;
    assert!(page.contains("100 % of those that were tried"), "{page}");
    // Without the form's secret nothing happens.
    let forged = manager.send("/console/acme/replays", &fields).await;
    assert_eq!(forged.status, 403);

    let form = "/console/acme/events/new";
    let wrong = [("type", "order.paid"), ("data", "{oops"), ("go", "1")];
    let refused = manager.post(form, form, &wrong).await;
    assert!(refused.text.contains("isn&#39;t JSON") || refused.text.contains("isn't JSON"));
    let fields = [
        ("type", "order.paid"),
        ("id", "evt-3"),
        ("data", "{\"a\": 1.10}"),
        ("go", "1"),
    ];
    let sent = manager.post(form, form, &fields).await;
    assert_eq!(
        (sent.status, sent.to.as_str()),
        (303, "/console/acme/events/evt-3")
    );
    shop.receives(5).await;

    let form = "/console/acme/event-types/new";
    let fields = [
        ("new", "1"),
        ("name", "order.lost"),
        ("description", "It is gone."),
        ("example", "{\"total\": 1.10}"),
    ];
    let saved = manager
        .post(form, "/console/acme/event-types", &fields)
        .await;
    assert_eq!(
        saved.to, "/console/acme/event-types/order.lost",
        "{}",
        saved.text
    );
    assert!(manager.page(&saved.to).await.contains("1.10"));

    // A token is shown once.
    let tokens = "/console/acme/tokens";
    let issued = admin.post(tokens, tokens, &[("role", "viewer")]).await;
    assert_eq!(issued.to, tokens, "{}", issued.text);
    let page = admin.page(tokens).await;
    assert!(page.contains("It is shown once"), "{page}");
    let new = between(&page, "<pre tabindex=\"0\"><bdi>", "</bdi>");
    assert!(new.starts_with("pht_"), "{new}");
    let reloaded = admin.page(tokens).await;
    assert!(!reloaded.contains(&new) && !reloaded.contains("It is shown once"));
    Browser::signed_in(&ingest, &new).await;
    assert!(!world.logs().contains(&new));
    world.finish().await;
}

#[tokio::test]
async fn the_signature_check_finds_the_mistake_and_repeats_no_secret() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &shop, json!({})).await;
    world
        .publish("order.paid", "evt-1", &json!({"total": 5}))
        .await;
    let arrival = shop.receives(1).await.remove(0);
    world.settles().await;
    let manager = Browser::signed_in(&ingest, &token(&world, &ingest, "manager").await).await;
    let id = world.deliveries(&ingest, &webhook).await[0]["id"].clone();
    let id = id.as_str().unwrap();
    let prefilled = format!("/console/acme/signature?delivery={id}");
    let page = manager.page(&prefilled).await;
    assert!(page.contains("webhook-signature: v1,"), "{page}");
    let headers: Vec<_> = ["webhook-id", "webhook-timestamp", "webhook-signature"]
        .map(|name| format!("{name}: {}", arrival.header(name)))
        .into();
    let (headers, path) = (headers.join("\r\n"), "/console/acme/signature");
    let body = String::from_utf8(arrival.body.to_vec()).unwrap();
    let changed = body.replace("\"total\":5", "\"total\": 5");
    for (body, secret, words) in [
        (&body, webhook.secret.as_str(), "It verifies"),
        (&changed, "", "isn't the one that was signed"),
        (
            &body,
            "whsec_YW5vdGhlciBzZWNyZXQgYWx0b2dldGhlcg==",
            "isn't the webhook's",
        ),
    ] {
        let fields = [
            ("headers", headers.as_str()),
            ("body", body),
            ("secret", secret),
            ("delivery", id),
        ];
        let told = manager.post(path, path, &fields).await;
        assert_eq!(told.status, 200, "{}", told.text);
        assert!(told.text.contains(words), "{words}: {}", told.text);
        assert!(!told.text.contains("whsec_YW5v") && !told.text.contains(&webhook.secret));
    }
    assert!(!world.logs().contains("whsec_YW5v"));
    world.finish().await;
}

#[tokio::test]
async fn a_portal_link_opens_the_pages_of_its_webhooks_alone_and_once() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering_in_turn(&[404, 200])).await;
    let theirs = json!({"retries": 0, "description": "Warehouse"});
    let theirs = world.webhook(&ingest, &shop, theirs).await;
    let other = world.receiver(answering(404)).await;
    let others = json!({"retries": 0, "description": "Payroll"});
    let others = world.webhook(&ingest, &other, others).await;
    world
        .publish(
            "order.paid",
            "evt-1",
            &json!({"note": "<script>x</script>"}),
        )
        .await;
    shop.receives(1).await;
    other.receives(1).await;
    world.settles().await;
    let origin = json!({"frame_ancestors": ["https://app.example.com"]});
    let path = "/api/v1/admin/tenants/acme";
    let changed = world
        .ask_as_operator(&ingest, "PATCH", path, Some(origin))
        .await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    let wrong = json!({"frame_ancestors": ["https://app.example.com/; script-src *"]});
    let refused = world
        .ask_as_operator(&ingest, "PATCH", path, Some(wrong))
        .await;
    assert_eq!(refused.status, 422, "{}", refused.body);

    let links = "/api/v1/admin/portal-links";
    let make = |role: &str| {
        let asked =
            json!({"tenant": "acme", "role": role, "webhooks": [theirs.id], "accent": "blue"});
        world.ask_as_operator(&ingest, "POST", links, Some(asked))
    };
    let made = make("manager").await;
    assert_eq!(made.status, 201, "{}", made.body);
    let link = made.body["path"].as_str().unwrap().to_owned();
    let mut customer = Browser::new(&ingest);
    let opened = customer.get(&link).await;
    assert_eq!((opened.status, opened.to.as_str()), (303, "/portal"));
    customer.cookie = opened.cookie;
    // Twice it opens nothing, but for whoever has opened it.
    assert_eq!(Browser::new(&ingest).get(&link).await.status, 401);
    assert_eq!(customer.get(&link).await.status, 303);

    let home = customer.get("/portal").await;
    let own = format!("/portal/webhooks/{}", theirs.id);
    assert_eq!(home.to, own);
    let answer = customer.get(&own).await;
    assert!(
        answer
            .policy
            .contains("frame-ancestors https://app.example.com"),
        "{}",
        answer.policy
    );
    assert!(answer.text.contains("Warehouse") && answer.text.contains("data-accent=\"blue\""));
    for hidden in ["acme", "Payroll", &others.id] {
        assert!(!answer.text.contains(hidden), "{hidden}: {}", answer.text);
    }
    let of_theirs = world.deliveries(&ingest, &theirs).await[0]["id"].clone();
    let of_others = world.deliveries(&ingest, &others).await[0]["id"].clone();
    let (of_theirs, of_others) = (of_theirs.as_str().unwrap(), of_others.as_str().unwrap());
    let page = customer
        .page(&format!("/portal/deliveries/{of_theirs}"))
        .await;
    assert!(
        page.contains("Attempt 1") && !page.contains("<script>x"),
        "{page}"
    );
    for path in [
        format!("/portal/webhooks/{}", others.id),
        format!("/portal/deliveries/{of_others}"),
        "/portal/nothing".to_owned(),
    ] {
        assert_eq!(customer.get(&path).await.status, 404, "{path}");
    }
    // A portal's cookie opens nothing of the console's.
    let cookie = customer
        .cookie
        .replace("__Host-posthorn-portal", "__Host-posthorn");
    let console = Browser {
        cookie,
        ..Browser::new(&ingest)
    };
    assert_ne!(console.get("/console/acme/webhooks").await.status, 200);

    // Many at once: the other's is left alone.
    let fields = [
        ("webhook", theirs.id.as_str()),
        ("id", of_theirs),
        ("id", of_others),
    ];
    let retried = customer
        .post(&own, "/portal/deliveries/retry", &fields)
        .await;
    let done = format!("{own}?done=retried-1-0");
    assert_eq!(retried.to, done, "{}", retried.text);
    shop.receives(2).await;
    world.settles().await;
    other
        .receives_no_more_than(1, std::time::Duration::from_millis(300))
        .await;
    let history = world.ask(&ingest, "GET", "/api/v1/changes", None).await;
    assert!(!history.body.to_string().contains(&link));

    // Whoever only reads sees no button, and can't press one.
    let made = make("viewer").await;
    let mut reader = Browser::new(&ingest);
    reader.cookie = reader.get(made.body["path"].as_str().unwrap()).await.cookie;
    let page = reader.page(&own).await;
    assert!(
        !page.contains("Send a test") && !page.contains("Retry these"),
        "{page}"
    );
    let status = format!("{own}/status");
    let bare = reader.send(&status, &[("status", "paused")]).await;
    assert_eq!(bare.status, 403, "{}", bare.text);

    // The operator ends them all.
    let operator = Browser::signed_in(&ingest, ADMIN_TOKEN).await;
    let tenant = "/console/_/tenants/acme";
    let ended = operator
        .post(tenant, &format!("{tenant}/portal/end"), &[("sure", "1")])
        .await;
    assert_eq!(ended.to, tenant, "{}", ended.text);
    let over = customer.get(&own).await;
    assert_eq!(over.status, 401);
    assert!(over.text.contains("This page has ended"), "{}", over.text);

    // A program sees who has it open, and ends them, too.
    let made = make("viewer").await;
    let mut again = Browser::new(&ingest);
    again.cookie = again.get(made.body["path"].as_str().unwrap()).await.cookie;
    again.page(&own).await;
    let sessions = "/api/v1/admin/tenants/acme/portal-sessions";
    let open = world.ask_as_operator(&ingest, "GET", sessions, None).await;
    assert_eq!(open.body["open"], 1, "{}", open.body);
    let session = &open.body["sessions"][0];
    assert_eq!(
        (&session["role"], &session["webhooks"]),
        (&json!("viewer"), &json!([theirs.id]))
    );
    let refused = world.ask(&ingest, "DELETE", sessions, None).await;
    assert_eq!(refused.status, 403, "{}", refused.body);
    let ended = world
        .ask_as_operator(&ingest, "DELETE", sessions, None)
        .await;
    assert_eq!((ended.status, &ended.body), (200, &json!({"ended": 1})));
    assert_eq!(again.get(&own).await.status, 401);
    let nobodys = sessions.replace("acme", "nobody");
    let unknown = world.ask_as_operator(&ingest, "GET", &nobodys, None).await;
    assert_eq!(unknown.status, 404, "{}", unknown.body);
    assert!(!world.logs().contains(link.split('=').nth(1).unwrap()));
    world.finish().await;
}

#[tokio::test]
async fn the_operator_makes_tenants_and_clears_dead_letters() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let operator = Browser::signed_in(&ingest, ADMIN_TOKEN).await;
    let new = "/console/_/tenants/new";
    let fields = [("id", "globex"), ("name", "Globex <b>"), ("webhooks", "5")];
    let made = operator.post(new, "/console/_/tenants", &fields).await;
    assert_eq!(made.to, "/console/_/tenants/globex", "{}", made.text);
    let page = operator.page(&made.to).await;
    assert!(
        page.contains("Globex &lt;b&gt;") && page.contains("0 of 5"),
        "{page}"
    );
    let wrong = [("id", "Not An Id")];
    let refused = operator.post(new, "/console/_/tenants", &wrong).await;
    assert!(
        refused.text.contains("That can't be saved"),
        "{}",
        refused.text
    );
    let issued = operator
        .post(
            &made.to,
            "/console/_/tenants/globex/tokens",
            &[("role", "admin")],
        )
        .await;
    assert_eq!(issued.to, made.to);
    let page = operator.page(&made.to).await;
    let token = between(&page, "<pre tabindex=\"0\"><bdi>", "</bdi>");
    Browser::signed_in(&ingest, &token)
        .await
        .page("/console/globex")
        .await;

    let producer = world.producer().await;
    for n in 0..2 {
        let mut letter = harness::producer::Publication::json(
            "acme",
            "x",
            &format!("evt-{n}"),
            "{\"a\": \"<img src=x>\"",
        );
        letter.routing_key = "acme.order.paid".to_owned();
        producer.publish(&letter).await.unwrap();
    }
    eventually("two dead letters", async || {
        world.count("dead_letters").await == 2
    })
    .await;
    let path = "/console/_/dead-letters";
    let page = operator.page(path).await;
    assert!(!page.contains("<img"), "{page}");
    let one = between(&page, "href=\"/console/_/dead-letters/", "\"");
    assert!(
        operator
            .page(&format!("{path}/{one}"))
            .await
            .contains("acme.order.paid")
    );
    let reason: String = world
        .sql()
        .await
        .query_one("SELECT reason FROM dead_letters LIMIT 1", &[])
        .await
        .unwrap()
        .get(0);
    let which = [
        ("reason", reason.as_str()),
        ("tenant", "acme"),
        ("queue", "parking"),
    ];
    let mut ask = which.to_vec();
    ask.push(("do", "ask"));
    let asked = operator.post(path, &format!("{path}/act"), &ask).await;
    assert!(asked.text.contains("Discard 2 messages?"), "{}", asked.text);
    let mut sure = which.to_vec();
    sure.push(("do", "discard"));
    let gone = operator.post(path, &format!("{path}/act"), &sure).await;
    assert_eq!(gone.to, format!("{path}?done=discarded-2"), "{}", gone.text);
    let page = operator.page(&gone.to).await;
    assert!(page.contains("2 messages discarded"), "{page}");
    world.finish().await;
}

#[tokio::test]
async fn a_body_is_downloaded_whole_as_text_that_no_browser_runs() {
    const HTML: &str = "<script>document.title='gone'</script>\u{202e}\u{7}";
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let answers = std::sync::Arc::new(|_: usize, _: &harness::receiver::Arrival| {
        Reply::status(404).saying(HTML)
    });
    let shop = world.receiver(answers).await;
    let more = json!({"retries": 0, "debug_mode": true});
    let webhook = world.webhook(&ingest, &shop, more).await;
    // Longer than what a page shows of a body.
    let data = json!({"text": HTML, "list": vec![1; 60_000]});
    world.publish("order.paid", "evt-1", &data).await;
    let sent = shop.receives(1).await.remove(0).body;
    world.settles().await;
    let viewer = Browser::signed_in(&ingest, &token(&world, &ingest, "viewer").await).await;
    let id = world.deliveries(&ingest, &webhook).await[0]["id"].clone();
    let page = format!("/console/acme/deliveries/{}", id.as_str().unwrap());
    let shown = viewer.page(&page).await;
    assert!(!shown.contains("<script>doc"), "{shown}");
    let link = between(
        &shown,
        "<p class=\"small\"><a href=\"",
        "\">All of it, as text",
    );
    let link = link.replace("&amp;", "&");
    let whole = format!("/console/acme/deliveries/{link}");
    let raw = |of: &str| format!("{page}/raw?attempt=1&of={of}");
    for (path, body) in [
        (whole, sent.as_ref()),
        (raw("request"), sent.as_ref()),
        (raw("answer"), HTML.as_bytes()),
    ] {
        let asked = viewer.client.get(ingest.url(&path));
        let answer = asked.header("cookie", &viewer.cookie).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        let header = |name: &str| answer.headers()[name].to_str().unwrap();
        assert_eq!(header("content-type"), "text/plain; charset=utf-8");
        let file = header("content-disposition");
        assert!(
            file.starts_with("attachment; filename=\"whd_") && file.ends_with("-1.txt\""),
            "{file}"
        );
        assert_eq!(header("content-security-policy"), "sandbox");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("cache-control"), "no-store");
        assert_eq!(answer.bytes().await.unwrap(), body, "{path}");
    }
    for missing in [raw("nothing"), raw("answer").replace("=1", "=2")] {
        assert_eq!(viewer.get(&missing).await.status, 404, "{missing}");
    }
    let others = world.another_tenant(&ingest, "globex").await;
    let other = Browser::signed_in(&ingest, &others).await;
    assert_eq!(other.get(&raw("answer")).await.status, 404);
    let theirs = raw("answer").replace("acme", "globex");
    assert_eq!(other.get(&theirs).await.status, 404);
    assert_eq!(Browser::new(&ingest).get(&raw("answer")).await.status, 303);
    world.finish().await;
}

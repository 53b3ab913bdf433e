//! What a link to the portal reaches, and what its pages leave out. Asked over HTTP, as a browser
//! without JavaScript asks.

use std::time::Duration;

use futures_util::future::join_all;
use harness::receiver::{answering, answering_in_turn};
use harness::service::{Service, http};
use harness::world::{TENANT, Webhook, World};
use serde_json::{Value, json};

/// What a page is answered with.
struct Answer {
    status: u16,
    to: String,
    text: String,
}

/// Somebody who has opened a link.
struct Customer<'a> {
    ingest: &'a Service,
    cookie: String,
}

impl<'a> Customer<'a> {
    /// Opens a link in this role, to these webhooks; without any, to all.
    async fn open(world: &World, ingest: &'a Service, role: &str, to: &[&Webhook]) -> Self {
        let mut asked = json!({"tenant": TENANT, "role": role});
        if !to.is_empty() {
            asked["webhooks"] = to.iter().map(|webhook| json!(webhook.id)).collect();
        }
        let path = "/api/v1/admin/portal-links";
        let made = world
            .ask_as_operator(ingest, "POST", path, Some(asked))
            .await;
        assert_eq!(made.status, 201, "{}", made.body);
        let link = ingest.url(made.body["path"].as_str().unwrap());
        let opened = http().get(link).send().await.unwrap();
        assert_eq!(opened.status(), 303);
        let cookie = opened.headers()["set-cookie"].to_str().unwrap();
        Self {
            ingest,
            cookie: cookie.split(';').next().unwrap().to_owned(),
        }
    }

    fn asks(&self, path: &str) -> reqwest::RequestBuilder {
        let request = http().get(self.ingest.url(path));
        request.header("cookie", &self.cookie)
    }

    async fn get(&self, path: &str) -> Answer {
        answer(self.asks(path)).await
    }

    /// A page that is there.
    async fn page(&self, path: &str) -> String {
        let answer = self.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        answer.text
    }

    /// The secret of the forms of a page.
    async fn csrf(&self, page: &str) -> String {
        between(&self.page(page).await, "name=\"csrf\" value=\"", "\"")
    }

    /// Sends a form as one of the portal's pages does.
    async fn send(&self, path: &str, csrf: &str, fields: &[(&str, &str)]) -> Answer {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(fields).append_pair("csrf", csrf);
        let request = http()
            .post(self.ingest.url(path))
            .header("cookie", &self.cookie)
            .header("sec-fetch-site", "same-origin")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form.finish());
        answer(request).await
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let to = response.headers().get("location");
    Answer {
        status: response.status().as_u16(),
        to: to.map_or_else(String::new, |to| to.to_str().unwrap().to_owned()),
        text: response.text().await.unwrap(),
    }
}

fn between(text: &str, begin: &str, end: &str) -> String {
    let from = text.find(begin);
    let from = from.unwrap_or_else(|| panic!("{begin} in {text}")) + begin.len();
    let rest = &text[from..];
    rest[..rest.find(end).unwrap()].to_owned()
}

async fn latest(world: &World, ingest: &Service, webhook: &Webhook) -> Value {
    world.deliveries(ingest, webhook).await[0].clone()
}

#[tokio::test]
async fn no_page_of_the_portal_names_an_address_of_the_network() {
    let world = World::start().await;
    // As in production, where the receiver's address isn't allowed.
    let production = [("ALLOWED_NETWORKS", "")];
    let ingest = world.service("posthorn-ingest", &production).await;
    let _dispatcher = world.service("posthorn-dispatcher", &production).await;
    let shop = world.receiver(answering(200)).await;
    let url = shop.url("/shop").replace("127.0.0.1", "localhost");
    let more = json!({"url": url, "retries": 0});
    let webhook = world.webhook(&ingest, &shop, more).await;
    world.publish("order.paid", "order-1", &json!({})).await;
    world.accepts(1).await;
    world.settles().await;
    let delivery = latest(&world, &ingest, &webhook).await;
    let id = delivery["id"].as_str().unwrap();
    let error = delivery["error"].as_str().unwrap();
    assert!(error.contains("is not a public address"), "{error}");

    let customer = Customer::open(&world, &ingest, "manager", &[&webhook]).await;
    let own = format!("/portal/webhooks/{}", webhook.id);
    let test = format!("{own}/test");
    let csrf = customer.csrf(&test).await;
    let tested = customer.send(&test, &csrf, &[("data", "{}")]).await;
    let one = customer.page(&format!("/portal/deliveries/{id}")).await;
    for text in [&tested.text, &one] {
        assert!(
            text.contains("Nothing can be sent to this address"),
            "{text}"
        );
    }
    let list = customer.page(&own).await;
    assert!(list.contains("Gave up after 1 attempt"), "{list}");
    let event = customer.page("/portal/events/order-1").await;
    assert!(!list.contains(TENANT) && !event.contains(TENANT));
    for text in [tested.text, one, list, event] {
        for hidden in ["127.0.0.1", "::1", "not a public address"] {
            assert!(!text.contains(hidden), "{hidden}: {text}");
        }
    }
    assert!(shop.arrivals().is_empty());
    world.finish().await;
}

#[tokio::test]
async fn a_link_to_all_webhooks_reaches_no_delivery_to_an_operational_one() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let gone = world.receiver(answering(410)).await;
    let webhook = world.webhook(&ingest, &gone, json!({})).await;
    let desk = world.receiver(answering(200)).await;
    let operational = json!({"operational": true, "events": ["webhook.disabled"]});
    let operational = world.webhook(&ingest, &desk, operational).await;
    world.publish("order.paid", "order-1", &json!({})).await;
    let told = desk.receives(1).await.remove(0);
    world.settles().await;
    let ours = latest(&world, &ingest, &webhook).await;
    let theirs = latest(&world, &ingest, &operational).await;
    let (ours, theirs) = (ours["id"].as_str().unwrap(), theirs["id"].as_str().unwrap());

    let customer = Customer::open(&world, &ingest, "manager", &[]).await;
    let own = format!("/portal/webhooks/{}", webhook.id);
    assert_eq!(customer.get("/portal").await.to, own, "the only one");
    let csrf = customer.csrf(&own).await;
    customer.page(&format!("/portal/deliveries/{ours}")).await;
    for path in [
        format!("/portal/webhooks/{}", operational.id),
        format!("/portal/webhooks/{}/edit", operational.id),
        format!("/portal/deliveries/{theirs}"),
        format!("/portal/events/{}", told.id()),
        format!("/portal/live?part=webhook&id={}", operational.id),
        format!("/portal/live?part=delivery&id={theirs}"),
    ] {
        assert_eq!(customer.get(&path).await.status, 404, "{path}");
    }
    let one = format!("/portal/deliveries/{theirs}/retry");
    assert_eq!(customer.send(&one, &csrf, &[]).await.status, 404);
    let many = "/portal/deliveries/retry";
    for (webhook, status) in [(&webhook.id, 303), (&operational.id, 404)] {
        let fields = [("webhook", webhook.as_str()), ("id", theirs)];
        let sent = customer.send(many, &csrf, &fields).await;
        assert_eq!(sent.status, status, "{}", sent.text);
    }
    desk.receives_no_more_than(1, Duration::from_millis(300))
        .await;
    world.finish().await;
}

#[tokio::test]
async fn bulk_retries_at_the_same_time_do_not_wait_for_each_other() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(404)).await;
    let webhook = world.webhook(&ingest, &shop, json!({"retries": 0})).await;
    for n in 0..5 {
        let id = format!("order-{n}");
        world.publish("order.paid", &id, &json!({})).await;
    }
    world.accepts(5).await;
    world.settles().await;
    let customer = Customer::open(&world, &ingest, "manager", &[&webhook]).await;
    let own = format!("/portal/webhooks/{}", webhook.id);
    let csrf = customer.csrf(&own).await;
    let fields = [
        ("webhook", webhook.id.as_str()),
        ("q", "status:failed"),
        ("all", "1"),
    ];
    let many = "/portal/deliveries/retry";
    // More than a tenant may have at a time.
    let asked = (0..6).map(|_| customer.send(many, &csrf, &fields));
    for asked in join_all(asked).await {
        assert_eq!(asked.status, 200, "{}", asked.text);
        assert!(asked.text.contains("Retry 5 deliveries?"), "{}", asked.text);
    }
    let sure = [fields.as_slice(), &[("sure", "1")]].concat();
    let sent = (0..6).map(|_| customer.send(many, &csrf, &sure));
    let sent = join_all(sent).await;
    for answer in &sent {
        assert_eq!(answer.status, 303, "{}", answer.text);
    }
    assert!(
        sent.iter()
            .any(|answer| answer.to.contains("done=retried-5-0")),
        "one of them had them all, or none was there any more"
    );
    world.settles().await;
    world.finish().await;
}

#[tokio::test]
async fn a_new_secret_in_the_portal_is_not_used_up_by_others() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &shop, json!({})).await;
    let customer = Customer::open(&world, &ingest, "manager", &[&webhook]).await;
    let own = format!("/portal/webhooks/{}", webhook.id);
    let secret = format!("{own}/secret");
    let csrf = customer.csrf(&secret).await;
    // It asks first, and changes nothing by that.
    let rotate = format!("{own}/rotate");
    let asked = customer.send(&rotate, &csrf, &[]).await;
    assert_eq!(asked.status, 200, "{}", asked.text);
    for words in [
        "Rotate the secret?",
        "Both secrets sign for a day.",
        "No delivery waits for this webhook.",
        "Keep this one",
    ] {
        assert!(asked.text.contains(words), "{words}: {}", asked.text);
    }
    let rotations = "webhooks WHERE previous_secret IS NOT NULL";
    assert_eq!(world.count(rotations).await, 0);
    let rotated = customer.send(&rotate, &csrf, &[("sure", "1")]).await;
    assert_eq!(rotated.to, secret, "{}", rotated.text);
    assert_eq!(world.count(rotations).await, 1);
    let head = http().head(ingest.url(&secret));
    let head = head.header("cookie", &customer.cookie).send().await;
    assert_eq!(head.unwrap().status(), 200);
    let shown = async |site: &str| {
        let asked = customer.asks(&secret).header("sec-fetch-site", site);
        answer(asked).await.text
    };
    let once = "It is shown once";
    assert!(!shown("cross-site").await.contains(once));
    assert!(shown("same-origin").await.contains(once));
    assert!(!shown("same-origin").await.contains(once), "and not again");
    world.finish().await;
}

#[tokio::test]
async fn an_event_is_shown_if_it_was_delivered_to_a_webhook_of_the_link() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    let orders = json!({"description": "Warehouse", "events": ["order.*"]});
    let ours = world.webhook(&ingest, &shop, orders).await;
    let all = json!({"description": "Payroll"});
    let all = world.webhook(&ingest, &shop, all).await;
    let data = json!({"note": "<script>x</script>", "total": 5});
    let id = "order/1?#<b>";
    world.publish("order.paid", id, &data).await;
    world
        .publish("wage.paid", "wage-1", &json!({"total": 4_711}))
        .await;
    world.accepts(2).await;
    world.settles().await;
    let customer = Customer::open(&world, &ingest, "viewer", &[&ours]).await;
    let delivery = latest(&world, &ingest, &ours).await;
    let page = customer
        .page(&format!(
            "/portal/deliveries/{}",
            delivery["id"].as_str().unwrap()
        ))
        .await;
    let event = format!(
        "/portal/events/{}",
        between(&page, "href=\"/portal/events/", "\"")
    );
    let page = customer.page(&event).await;
    assert!(
        page.contains("Warehouse") && page.contains("order.paid"),
        "{page}"
    );
    for hidden in ["<script>x", "<b>", "Payroll", all.id.as_str(), TENANT] {
        assert!(!page.contains(hidden), "{hidden}: {page}");
    }
    let uncovered = latest(&world, &ingest, &all).await;
    let uncovered = uncovered["id"].as_str().unwrap();
    for path in [
        "/portal/events/wage-1".to_owned(),
        "/portal/events/nothing".to_owned(),
        format!("/portal/deliveries/{uncovered}"),
        format!("/portal/webhooks/{}", all.id),
        format!("/portal/live?part=webhook&id={}", all.id),
        format!("/portal/live?part=delivery&id={uncovered}"),
        "/portal/live?part=overview".to_owned(),
    ] {
        assert_eq!(customer.get(&path).await.status, 404, "{path}");
    }
    // A pasted id leads to its page, if the link covers it.
    let own = format!("/portal/webhooks/{}", ours.id);
    let id = delivery["id"].as_str().unwrap();
    let found = customer.get(&format!("{own}?q={id}")).await;
    assert_eq!(
        (found.status, found.to),
        (303, format!("/portal/deliveries/{id}"))
    );
    let nothing = customer.page(&format!("{own}?q={uncovered}")).await;
    assert!(nothing.contains("Nothing matches"), "{nothing}");
    // The same of a link to all.
    let everybody = Customer::open(&world, &ingest, "viewer", &[]).await;
    let page = everybody.page("/portal/events/wage-1").await;
    assert!(page.contains("Payroll") && page.contains("4711"), "{page}");
    world.finish().await;
}

#[tokio::test]
async fn a_manager_link_moves_no_credentials_to_another_host() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world.receiver(answering(200)).await;
    let other = world.receiver(answering(200)).await;
    let more = json!({"headers": {"X-Api-Key": "hidden-from-customers"}});
    let webhook = world.webhook(&ingest, &shop, more).await;
    let customer = Customer::open(&world, &ingest, "manager", &[&webhook]).await;
    let edit = format!("/portal/webhooks/{}/edit", webhook.id);
    for (url, status) in [(other.url("/"), 422), (shop.url("/moved"), 303)] {
        let page = customer.page(&edit).await;
        let csrf = between(&page, "name=\"csrf\" value=\"", "\"");
        let revision = between(&page, "name=\"revision\" value=\"", "\"");
        let fields = [
            ("revision", revision.as_str()),
            ("url", &url),
            ("events", "order.*"),
        ];
        let sent = customer.send(&edit, &csrf, &fields).await;
        assert_eq!(sent.status, status, "{url}: {}", sent.text);
        let refused = sent.text.contains("must stay at this host");
        assert_eq!(refused, status == 422, "{url}: {}", sent.text);
    }
    world.finish().await;
}

#[tokio::test]
async fn no_page_of_the_portal_names_the_tenant_or_its_limits() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &shop, json!({})).await;
    let tenant = format!("/api/v1/admin/tenants/{TENANT}");
    let limited = json!({"strict_event_types": true, "limits": {"payload_bytes": 2048}});
    let changed = world
        .ask_as_operator(&ingest, "PATCH", &tenant, Some(limited))
        .await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    let own = format!("/portal/webhooks/{}", webhook.id);
    let customer = Customer::open(&world, &ingest, "manager", &[&webhook]).await;
    let edit = format!("{own}/edit");
    let page = customer.page(&edit).await;
    let csrf = between(&page, "name=\"csrf\" value=\"", "\"");
    let revision = between(&page, "name=\"revision\" value=\"", "\"");
    let url = shop.url("/");
    let fields = [
        ("revision", revision.as_str()),
        ("url", &url),
        ("events", "order.*"),
    ];
    let refused = customer.send(&edit, &csrf, &fields).await;
    assert_eq!(refused.status, 422, "{}", refused.text);
    assert!(
        refused.text.contains("matches no event type"),
        "{}",
        refused.text
    );
    assert!(!refused.text.contains(TENANT), "{}", refused.text);

    let data = json!({"a": "x".repeat(4_000)}).to_string();
    let fields = [("type", "order.paid"), ("data", data.as_str())];
    let refused = customer.send(&format!("{own}/test"), &csrf, &fields).await;
    assert!(
        refused.text.contains("The data is too large"),
        "{}",
        refused.text
    );
    assert!(!refused.text.contains("2048"), "{}", refused.text);
    assert!(shop.arrivals().is_empty());

    let off = json!({"status": "inactive"});
    let path = format!("/api/v1/webhooks/{}", webhook.id);
    let changed = world.ask(&ingest, "PATCH", &path, Some(off)).await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    let status = format!("{own}/status");
    let refused = customer.send(&status, &csrf, &[("status", "active")]).await;
    assert_eq!(refused.status, 409, "{}", refused.text);
    let reader = Customer::open(&world, &ingest, "viewer", &[&webhook]).await;
    let refused = reader.get(&edit).await;
    assert_eq!(refused.status, 403, "{}", refused.text);
    assert!(
        refused.text.contains("This link doesn&#39;t allow that")
            || refused.text.contains("This link doesn't allow that"),
        "{}",
        refused.text
    );
    world.finish().await;
}

#[tokio::test]
async fn a_manager_link_changes_its_webhooks_and_leaves_their_filters_alone() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world.receiver(answering(200)).await;
    let more =
        json!({"description": "Warehouse", "events": ["order.*"], "filters": {"customer": 7}});
    let ours = world.webhook(&ingest, &shop, more).await;
    let other = world.webhook(&ingest, &shop, json!({})).await;
    let customer = Customer::open(&world, &ingest, "manager", &[&ours]).await;
    let own = format!("/portal/webhooks/{}", ours.id);
    let edit = format!("{own}/edit");
    let page = customer.page(&edit).await;
    let csrf = between(&page, "name=\"csrf\" value=\"", "\"");
    let revision = between(&page, "name=\"revision\" value=\"", "\"");
    let url = shop.url("/moved");
    let fields = [
        ("revision", revision.as_str()),
        ("url", &url),
        ("description", "The warehouse <b>"),
        ("events", "order.*, invoice.paid"),
        // As somebody would who knows the API.
        ("filters", ""),
        ("operational", "true"),
        ("status", "inactive"),
    ];
    let saved = customer.send(&edit, &csrf, &fields).await;
    assert_eq!(
        saved.to,
        format!("{own}/settings?done=saved"),
        "{}",
        saved.text
    );
    let path = format!("/api/v1/webhooks/{}", ours.id);
    let now = world.ask(&ingest, "GET", &path, None).await.body;
    assert_eq!(
        (&now["url"], &now["description"], &now["events"]),
        (
            &json!(url),
            &json!("The warehouse <b>"),
            &json!(["order.*", "invoice.paid"])
        )
    );
    assert_eq!(
        (&now["filters"], &now["operational"], &now["status"]),
        (&json!({"customer": 7}), &json!(false), &json!("active"))
    );
    let page = customer.page(&saved.to).await;
    assert!(
        page.contains("Saved.") && page.contains("The warehouse &lt;b&gt;"),
        "{page}"
    );

    // With the revision from before, nothing is overwritten.
    let again = [
        ("revision", revision.as_str()),
        ("url", &url),
        ("description", "Mine"),
        ("events", "*"),
    ];
    let refused = customer.send(&edit, &csrf, &again).await;
    assert_eq!(refused.status, 409, "{}", refused.text);
    assert!(
        refused.text.contains("Somebody else changed this webhook"),
        "{}",
        refused.text
    );
    let after = world.ask(&ingest, "GET", &path, None).await.body;
    assert_eq!(after["description"], now["description"]);

    // What is wrong is said beside its field.
    let page = customer.page(&edit).await;
    let revision = between(&page, "name=\"revision\" value=\"", "\"");
    let wrong = [
        ("revision", revision.as_str()),
        ("url", "ftp://example.com/"),
        ("events", "a..b"),
    ];
    let refused = customer.send(&edit, &csrf, &wrong).await;
    assert_eq!(refused.status, 422, "{}", refused.text);
    for id in ["id=\"url-error\"", "id=\"events-error\""] {
        assert!(refused.text.contains(id), "{id}: {}", refused.text);
    }

    // Nobody changes another's, and whoever only reads changes none.
    let others = format!("/portal/webhooks/{}/edit", other.id);
    assert_eq!(customer.send(&others, &csrf, &fields).await.status, 404);
    let reader = Customer::open(&world, &ingest, "viewer", &[&ours]).await;
    assert_eq!(reader.get(&edit).await.status, 403);
    assert_eq!(reader.send(&edit, "", &fields).await.status, 403);
    let page = reader.page(&format!("{own}/settings")).await;
    assert!(!page.contains(&edit), "{page}");
    let history = world.ask(&ingest, "GET", "/api/v1/changes", None).await;
    assert!(history.body.to_string().contains("portal link "));
    world.finish().await;
}

#[tokio::test]
async fn a_test_in_the_portal_has_the_type_and_the_data_that_were_entered() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world.receiver(answering_in_turn(&[200, 500])).await;
    let webhook = world
        .webhook(&ingest, &shop, json!({"events": ["order.*"]}))
        .await;
    let customer = Customer::open(&world, &ingest, "manager", &[&webhook]).await;
    let test = format!("/portal/webhooks/{}/test", webhook.id);
    let csrf = customer.csrf(&test).await;
    let fields = [("type", "order.paid"), ("data", "{\"total\": 129.90}")];
    let sent = customer.send(&test, &csrf, &fields).await;
    assert!(sent.text.contains("The endpoint took it."), "{}", sent.text);
    let arrived = shop.receives(1).await.remove(0);
    assert_eq!(arrived.header("x-posthorn-test"), "true");
    let body = arrived.json();
    assert_eq!(
        (&body["type"], &body["data"]),
        (&json!("order.paid"), &json!({"total": 129.90}))
    );
    let sent = customer.send(&test, &csrf, &fields).await;
    assert!(sent.text.contains("Answered 500"), "{}", sent.text);
    let wrong = [("type", "a..b"), ("data", "{")];
    let refused = customer.send(&test, &csrf, &wrong).await;
    for words in ["event_type: ", "data: isn", "Not sent."] {
        assert!(refused.text.contains(words), "{words}: {}", refused.text);
    }
    assert_eq!(shop.arrivals().len(), 2);
    let reader = Customer::open(&world, &ingest, "viewer", &[&webhook]).await;
    assert_eq!(reader.get(&test).await.status, 403);
    world.finish().await;
}

#[tokio::test]
async fn a_portals_session_ends_at_its_time_and_its_live_parts_with_it() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &shop, json!({})).await;
    let customer = Customer::open(&world, &ingest, "viewer", &[&webhook]).await;
    let own = format!("/portal/webhooks/{}", webhook.id);
    let live = format!("/portal/live?part=webhook&id={}", webhook.id);
    let page = customer.page(&own).await;
    // An hour unless the link says otherwise.
    assert!(page.contains("This page is yours for 59 min"), "{page}");
    let mut stream = customer.asks(&live).send().await.unwrap();
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let first = stream.chunk().await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&first).contains("event: part"));

    let end = "UPDATE sessions SET ends_at = now() WHERE kind = 'portal'";
    assert_eq!(world.sql().await.execute(end, &[]).await.unwrap(), 1);
    for path in ["/portal", own.as_str(), &live] {
        let over = customer.get(path).await;
        assert_eq!(over.status, 401, "{path}");
        assert!(over.text.contains("This page has ended"), "{}", over.text);
    }
    // It is looked up every five seconds.
    let ends = async { while let Ok(Some(_)) = stream.chunk().await {} };
    tokio::time::timeout(Duration::from_secs(20), ends)
        .await
        .unwrap();
    world.finish().await;
}

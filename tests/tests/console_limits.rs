//! What the console takes from whom: how large a form is, how often, how long a session lasts.
//! Asked over HTTP, as a program would that doesn't behave like a browser.

#![allow(clippy::unwrap_used)]

use futures_util::future::{Either, join_all, select};
use harness::receiver::answering;
use harness::service::{Service, http};
use harness::world::{ADMIN_TOKEN, TENANT, World, eventually};
use reqwest::{Client, RequestBuilder, Response, redirect};
use serde_json::json;
use tokio::task::JoinSet;

const SIGN_IN: &str = "/console/_/sign-in";

/// A browser's form: it says where it comes from, and follows no redirect.
fn form(ingest: &Service, path: &str, cookie: &str, body: String) -> RequestBuilder {
    let client = Client::builder().redirect(redirect::Policy::none());
    client
        .build()
        .unwrap()
        .post(ingest.url(path))
        .header("sec-fetch-site", "same-origin")
        .header("content-type", "application/x-www-form-urlencoded")
        .header("cookie", cookie)
        .body(body)
}

async fn sign_in(ingest: &Service, cookie: &str, token: &str) -> Response {
    let body = format!("token={token}");
    form(ingest, SIGN_IN, cookie, body).send().await.unwrap()
}

/// The cookie of a session that begins with this token.
async fn session(ingest: &Service, before: &str, token: &str) -> String {
    let begun = sign_in(ingest, before, token).await;
    assert_eq!(begun.status(), 303);
    let cookie = begun.headers()["set-cookie"].to_str().unwrap();
    cookie.split(';').next().unwrap().to_owned()
}

async fn page(ingest: &Service, cookie: &str) -> u16 {
    let path = ingest.url(&format!("/console/{TENANT}/webhooks"));
    let client = Client::builder().redirect(redirect::Policy::none());
    let asked = client.build().unwrap().get(path).header("cookie", cookie);
    asked.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn whoever_is_not_signed_in_sends_little_and_nobody_sends_very_many_fields() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let large = format!("token={}", "a".repeat(20 * 1024));
    let fields = "a=1&".repeat(3_000);
    let nobody = async |path: &str, body: &str| {
        let sent = form(&ingest, path, "", body.to_owned()).send().await;
        sent.unwrap().status().as_u16()
    };
    assert_eq!(nobody(SIGN_IN, &large).await, 413);
    assert_eq!(nobody(SIGN_IN, &fields).await, 413);
    // Elsewhere nothing is read: the way leads to the sign-in page.
    let elsewhere = format!("/console/{TENANT}/webhooks/new");
    assert_eq!(nobody(&elsewhere, &large).await, 303);
    let cookie = session(&ingest, "", ADMIN_TOKEN).await;
    let sent = form(&ingest, &elsewhere, &cookie, fields);
    assert_eq!(sent.send().await.unwrap().status(), 413);
    world.finish().await;
}

#[tokio::test]
async fn a_form_of_a_webhook_or_a_signature_is_bounded_before_it_is_parsed() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let receiver = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &receiver, json!({})).await;
    let cookie = session(&ingest, "", world.token()).await;
    let console = format!("/console/{TENANT}");
    let new = format!("{console}/webhooks/new");
    let (_, page) = shown(&ingest, &cookie, &new).await;
    let csrf = csrf_of(&page);
    // Within what a form may have, but more than a webhook needs, or than endpoints take.
    let zeros = vec!["0"; 150_000].join("%2C");
    let large = format!("%5B{zeros}%5D");
    let edit = format!("{console}/webhooks/{}/edit", webhook.id);
    for (path, field, status) in [
        (&new, "filters", 413),
        (&edit, "filters", 413),
        (&new, "preview=1&events", 413),
        // The page is shown again, and says it.
        (&format!("{console}/signature"), "body", 200),
        (&format!("{console}/signature"), "headers", 200),
    ] {
        let body = format!("csrf={csrf}&{field}={large}");
        let sent = form(&ingest, path, &cookie, body).send().await.unwrap();
        assert_eq!(sent.status(), status, "{path} {field}");
        let said = sent.text().await.unwrap();
        let bound = match status {
            413 => "at most 262144 are allowed",
            _ => "headers and body may have at most 262144 bytes together",
        };
        assert!(said.contains(bound), "{path} {field}");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_change_that_comes_between_keeps_what_was_entered() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let receiver = world.receiver(answering(200)).await;
    let more = json!({"description": "Warehouse"});
    let webhook = world.webhook(&ingest, &receiver, more).await;
    let cookie = session(&ingest, "", world.token()).await;
    let edit = format!("/console/{TENANT}/webhooks/{}/edit", webhook.id);
    let (_, page) = shown(&ingest, &cookie, &edit).await;
    let etag = page.split("name=\"etag\" value=\"&quot;").nth(1).unwrap();
    let etag = etag.split("&quot;").next().unwrap();
    let body = format!(
        "csrf={}&etag=%22{etag}%22&events=*&description=Mine&url={}",
        csrf_of(&page),
        receiver.url("/")
    );
    // It commits after the page's handler has looked at the webhook.
    let sql = world.sql().await;
    let begun = "BEGIN; UPDATE webhooks SET description = 'Theirs'";
    sql.batch_execute(begun).await.unwrap();
    let (sent, ()) = tokio::join!(form(&ingest, &edit, &cookie, body).send(), async {
        eventually("the change waits", async || world.held_up().await == 1).await;
        sql.batch_execute("COMMIT").await.unwrap();
    });
    let sent = sent.unwrap();
    assert_eq!(sent.status(), 409);
    let said = sent.text().await.unwrap();
    for text in ["Somebody else changed this webhook", "Theirs", "Mine"] {
        assert!(said.contains(text), "{text}: {said}");
    }
    world.finish().await;
}

#[tokio::test]
async fn events_and_webhooks_with_odd_names_can_be_opened_and_deleted() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let receiver = world.receiver(answering(200)).await;
    let name = "Big  warehouse,\tupstairs";
    let webhook = world
        .webhook(&ingest, &receiver, json!({"description": name}))
        .await;
    // Browsers take such names out of a path.
    for id in [".", "..", "live"] {
        world.publish("order.paid", id, &json!({})).await;
    }
    world.accepts(3).await;
    let cookie = session(&ingest, "", world.token()).await;
    let events = format!("/console/{TENANT}/events");
    let (_, list) = shown(&ingest, &cookie, &events).await;
    for segment in ["~.", "~..", "live"] {
        let path = format!("{events}/{segment}");
        assert!(list.contains(&format!("\"{path}\"")), "{path}: {list}");
        let (status, page) = shown(&ingest, &cookie, &path).await;
        assert_eq!(status, 200, "{path}: {page}");
        assert!(page.contains("order.paid"), "{page}");
    }
    // As a browser shows its name.
    let delete = format!("/console/{TENANT}/webhooks/{}/delete", webhook.id);
    let (_, page) = shown(&ingest, &cookie, &delete).await;
    for (typed, status) in [("Big warehouse", 200), ("Big warehouse, upstairs", 303)] {
        let body = format!("csrf={}&name={typed}", csrf_of(&page));
        let sent = form(&ingest, &delete, &cookie, body).send().await.unwrap();
        assert_eq!(sent.status(), status, "{typed}");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_blocked_address_still_signs_in_with_a_token_but_not_with_a_guess() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let guesses: Vec<_> = (0..20).map(|n| format!("guess-{n}")).collect();
    let guesses = guesses.iter().map(|guess| sign_in(&ingest, "", guess));
    let mut answers = [0, 0];
    for answer in join_all(guesses).await {
        match answer.status().as_u16() {
            401 => answers[0] += 1,
            429 => answers[1] += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!(answers, [5, 15], "at the same time as one after another");
    assert_eq!(sign_in(&ingest, "", ADMIN_TOKEN).await.status(), 429);
    let unknown = format!("pht_{}", "A".repeat(43));
    assert_eq!(sign_in(&ingest, "", &unknown).await.status(), 429);
    let cookie = session(&ingest, "", world.token()).await;
    assert_eq!(page(&ingest, &cookie).await, 200);
    world.finish().await;
}

#[tokio::test]
async fn a_session_ends_when_its_browser_signs_in_anew_or_the_operator_ends_all() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let first = session(&ingest, "", world.token()).await;
    assert_eq!(page(&ingest, &first).await, 200);
    let second = session(&ingest, &first, world.token()).await;
    assert_eq!(page(&ingest, &first).await, 303);
    assert_eq!(page(&ingest, &second).await, 200);
    let ended = world
        .command(&["console", "end-sessions", "--tenant", TENANT])
        .await;
    assert_eq!(ended.trim(), "1 sessions ended");
    assert_eq!(page(&ingest, &second).await, 303);
    world.finish().await;
}

#[tokio::test]
async fn a_token_has_twenty_sessions_and_one_rate_for_all_of_them() {
    // Sixty requests at once, then thirty a second.
    let world = World::with(&[("API_RATE_LIMIT", "30")]).await;
    let ingest = world.ingest().await;
    let mut cookies = Vec::new();
    for _ in 0..21 {
        cookies.push(session(&ingest, "", world.token()).await);
    }
    assert_eq!(world.count("sessions").await, 20);
    assert_eq!(page(&ingest, &cookies[0]).await, 303, "the oldest ended");
    // From its second request on a session isn't charged to the address.
    for cookie in &cookies[1..] {
        assert_eq!(page(&ingest, cookie).await, 200);
    }
    // None of them sends sixty. All of them send two hundred, which would have to take nearly five
    // seconds to be within the token's rate. (An address has at most 256 connections.)
    let keys = async |cookie: &String| {
        let asked = http().get(ingest.url("/console/_/keys"));
        let answer = asked.header("cookie", cookie).send().await.unwrap();
        answer.status().as_u16()
    };
    let asked = cookies[1..].iter().flat_map(|cookie| [cookie; 10]);
    let answers = join_all(asked.map(keys)).await;
    assert!(
        answers.contains(&200) && answers.contains(&429),
        "{answers:?}"
    );
    world.finish().await;
}

#[tokio::test]
async fn a_secret_that_is_shown_once_is_not_used_up_by_others() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let receiver = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &receiver, json!({})).await;
    let cookie = session(&ingest, "", world.token()).await;
    let path = format!("/console/{TENANT}/webhooks/{}/secret", webhook.id);
    let shown = async |site: Option<&str>| {
        let mut asked = http().get(ingest.url(&path)).header("cookie", &cookie);
        if let Some(site) = site {
            asked = asked.header("sec-fetch-site", site);
        }
        asked.send().await.unwrap().text().await.unwrap()
    };
    let csrf = csrf_of(&shown(None).await);
    let rotate = form(
        &ingest,
        &format!("{path}/rotate"),
        &cookie,
        format!("csrf={csrf}&overlap=0&sure=1"),
    );
    assert_eq!(rotate.send().await.unwrap().status(), 303);
    let headed = http().head(ingest.url(&path)).header("cookie", &cookie);
    assert_eq!(headed.send().await.unwrap().status(), 200);
    let once = "It is shown once";
    assert!(!shown(Some("cross-site")).await.contains(once));
    assert!(shown(Some("same-origin")).await.contains(once));
    assert!(!shown(None).await.contains(once), "and not again");
    world.finish().await;
}

/// A tenant with a failed delivery, and another one: the cookie of a session of each.
async fn two_tenants(world: &World, ingest: &Service) -> (String, String) {
    let receiver = world.receiver(answering(503)).await;
    let more = json!({"retries": 0});
    world.webhook(ingest, &receiver, more).await;
    world.publish("order.paid", "evt-1", &json!({})).await;
    receiver.receives(1).await;
    world.settles().await;
    let others = world.another_tenant(ingest, "globex").await;
    let ours = session(ingest, "", world.token()).await;
    let theirs = session(ingest, "", &others).await;
    (ours, theirs)
}

/// The secret of the forms of a page.
fn csrf_of(page: &str) -> String {
    let csrf = page.split("name=\"csrf\" value=\"").nth(1).unwrap();
    csrf.split('"').next().unwrap().to_owned()
}

/// What a page is answered with.
async fn shown(ingest: &Service, cookie: &str, path: &str) -> (u16, String) {
    let asked = http().get(ingest.url(path)).header("cookie", cookie);
    let answer = asked.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// Whoever reads an attempt waits until this connection ends its transaction. Lists of deliveries
/// read them, lists of webhooks and events don't.
async fn lock_attempts(world: &World) -> tokio_postgres::Client {
    let sql = world.sql().await;
    let lock = "BEGIN; LOCK TABLE attempts IN ACCESS EXCLUSIVE MODE";
    sql.batch_execute(lock).await.unwrap();
    sql
}

#[tokio::test]
async fn a_list_that_takes_too_long_says_so_and_other_tenants_pages_go_on() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let (ours, theirs) = two_tenants(&world, &ingest).await;

    let sql = lock_attempts(&world).await;
    let list = format!("/console/{TENANT}/deliveries");
    let slow = Box::pin(join_all((0..3).map(|_| shown(&ingest, &ours, &list))));
    // As many as a tenant may have at a time wait for two seconds.
    let others = Box::pin(async {
        eventually("three lists wait", async || {
            waiting(&world).await.len() == 3
        })
        .await;
        for page in ["/webhooks", "/events", "/event-types"] {
            let (status, _) = shown(&ingest, &theirs, &format!("/console/globex{page}")).await;
            assert_eq!(status, 200, "{page}");
        }
    });
    let slow = match select(others, slow).await {
        Either::Left(((), slow)) => slow,
        Either::Right(_) => panic!("the others' pages waited for the slow ones"),
    };
    for (status, text) in slow.await {
        assert_eq!(status, 200);
        assert!(text.contains("The list can't be read just now"), "{text}");
        assert!(text.contains("Reading it took too long"), "{text}");
    }
    let (status, overview) = shown(&ingest, &ours, &format!("/console/{TENANT}")).await;
    assert_eq!(status, 200);
    let trouble = "The latest deliveries can't be read just now";
    assert!(
        overview.contains(trouble) && overview.contains("attempts"),
        "{overview}"
    );
    // A page that is nothing without it.
    let id: shared::ids::DeliveryId = sql
        .query_one("SELECT id FROM deliveries", &[])
        .await
        .unwrap()
        .get(0);
    let id = id.to_string();
    let (status, page) = shown(&ingest, &ours, &format!("{list}/{id}")).await;
    assert_eq!(status, 503);
    assert!(page.contains("That took too long"), "{page}");

    // The API's statements may take 30 seconds. What ends them is the same.
    let path = "/api/v1/deliveries";
    let (answer, ()) = tokio::join!(world.ask(&ingest, "GET", path, None), async {
        eventually("the list waits", async || !waiting(&world).await.is_empty()).await;
        for process in waiting(&world).await {
            let end = world.sql().await;
            end.execute("SELECT pg_cancel_backend($1)", &[&process])
                .await
                .unwrap();
        }
    });
    assert_eq!(
        (answer.status, &answer.body["code"]),
        (503, &json!("too_slow"))
    );
    sql.batch_execute("ROLLBACK").await.unwrap();
    let (_, page) = shown(&ingest, &ours, &list).await;
    assert!(
        page.contains(&id) && !page.contains("can't be read"),
        "{page}"
    );
    world.finish().await;
}

#[tokio::test]
async fn live_parts_that_wait_keep_only_live_parts_of_their_own_tenant_waiting() {
    let world = World::start().await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let (ours, theirs) = two_tenants(&world, &ingest).await;
    let sql = lock_attempts(&world).await;

    // As many as a session may have, each of another list, and each for two seconds.
    let stream = |cookie: &str, tenant: &str, asked: String| {
        let path = format!("/console/{tenant}/live?part={asked}");
        let asked = http().get(ingest.url(&path)).header("cookie", cookie);
        asked.send()
    };
    let lists = ["1h", "2h", "3h", "4h", "5h"];
    let lists = lists.map(|since| format!("deliveries&q=since:{since}"));
    let mut streams = JoinSet::new();
    for list in lists {
        streams.spawn(stream(&ours, TENANT, list));
    }
    let answered = Box::pin(async {
        eventually("a live part waits", async || {
            !waiting(&world).await.is_empty()
        })
        .await;
        for _ in 0..3 {
            let listed = world.ask(&ingest, "GET", "/api/v1/webhooks", None).await;
            assert_eq!(listed.status, 200, "{}", listed.body);
            assert_eq!(page(&ingest, &ours).await, 200);
            let live = stream(&theirs, "globex", "webhooks".to_owned());
            assert_eq!(live.await.unwrap().status(), 200);
            assert_eq!(waiting(&world).await.len(), 1, "one of a tenant at a time");
        }
    });
    match select(answered, Box::pin(streams.join_next())).await {
        Either::Left(((), _)) => {}
        Either::Right((first, _)) => panic!("the others waited for {first:?}"),
    }
    sql.batch_execute("ROLLBACK").await.unwrap();
    world.finish().await;
}

/// The processes of PostgreSQL that wait for a lock to read attempts.
async fn waiting(world: &World) -> Vec<i32> {
    let sql = world.sql().await;
    let waiting = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() \
        AND wait_event_type = 'Lock' AND state = 'active'";
    let rows = sql.query(waiting, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

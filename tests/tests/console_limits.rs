//! What the console takes from whom: how large a form is, how often, how long a session lasts.
//! Asked over HTTP, as a program would that doesn't behave like a browser.

#![allow(clippy::unwrap_used)]

use futures_util::future::join_all;
use harness::service::{Service, http};
use harness::world::{ADMIN_TOKEN, TENANT, World};
use reqwest::{Client, RequestBuilder, Response, redirect};
use serde_json::json;

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
    let receiver = world.receiver(harness::receiver::answering(200)).await;
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
    let before = shown(None).await;
    let csrf = before.split("name=\"csrf\" value=\"").nth(1).unwrap();
    let csrf = csrf.split('"').next().unwrap();
    let rotate = form(
        &ingest,
        &format!("{path}/rotate"),
        &cookie,
        format!("csrf={csrf}&overlap=0"),
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

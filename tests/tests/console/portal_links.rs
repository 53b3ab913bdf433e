//! A link to the portal that is opened while all sessions of the portal are ended.

use harness::receiver::answering;
use harness::service::http;
use harness::world::{ADMIN_TOKEN, TENANT, World, eventually};
use serde_json::json;

/// Lets a session begin only when nobody has this advisory lock.
const GATE: &str = "
    CREATE FUNCTION wait_at_the_gate() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock_shared(4711);
        RETURN NEW;
    END $$;
    CREATE TRIGGER gate BEFORE INSERT ON sessions
        FOR EACH ROW EXECUTE FUNCTION wait_at_the_gate();";
/// The connection that opens the link, and one that waits for a row.
const AT_THE_GATE: &str =
    "pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'";
const AT_A_ROW: &str = "pg_stat_activity WHERE datname = current_database() \
     AND wait_event IN ('transactionid', 'tuple')";

#[tokio::test]
async fn a_link_that_is_opened_while_all_sessions_are_ended_begins_none_that_stays() {
    let world = World::start().await;
    let ingest = world.ingest().await;
    let shop = world.receiver(answering(200)).await;
    world.webhook(&ingest, &shop, json!({})).await;
    let sessions = format!("/api/v1/admin/tenants/{TENANT}/portal-sessions");
    let sql = world.sql().await;
    sql.batch_execute(GATE).await.unwrap();
    let asked = json!({"tenant": TENANT, "role": "viewer"});
    let path = "/api/v1/admin/portal-links";
    let made = world
        .ask_as_operator(&ingest, "POST", path, Some(asked))
        .await;
    let link = ingest.url(made.body["path"].as_str().unwrap());

    // The link is used up, and its session can't begin yet.
    sql.batch_execute("SELECT pg_advisory_lock(4711)")
        .await
        .unwrap();
    let open = tokio::spawn(http().get(link).send());
    eventually("the link is being opened", async || {
        world.count(AT_THE_GATE).await > 0
    })
    .await;
    let end = http()
        .delete(ingest.url(&sessions))
        .bearer_auth(ADMIN_TOKEN);
    let end = tokio::spawn(end.send());
    eventually("all sessions are ended, or wait to be", async || {
        end.is_finished() || world.count(AT_A_ROW).await > 0
    })
    .await;
    sql.batch_execute("SELECT pg_advisory_unlock(4711)")
        .await
        .unwrap();

    assert_eq!(end.await.unwrap().unwrap().status(), 200);
    let opened = open.await.unwrap().unwrap();
    if let Some(cookie) = opened.headers().get("set-cookie") {
        let cookie = cookie.to_str().unwrap().split(';').next().unwrap();
        let page = http().get(ingest.url("/portal")).header("cookie", cookie);
        assert_eq!(page.send().await.unwrap().status(), 401);
    }
    assert_eq!(world.count("sessions WHERE kind = 'portal'").await, 0);
    assert_eq!(world.count("links WHERE kind = 'portal'").await, 0);
    world.finish().await;
}

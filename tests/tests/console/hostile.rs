//! What producers, endpoints and operators write is text on every page, and never a header.

use std::sync::Arc;

use harness::producer::Publication;
use harness::receiver::Reply;
use harness::service::http;
use harness::world::TENANT;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::json;

use crate::shop::Shop;

/// Ends an attribute and an element, and runs if it is HTML.
const HOSTILE: &str = "\"><script>document.title='gone'</script><img src=x onerror=alert(1)>'";

#[tokio::test]
async fn hostile_headers_names_types_and_dead_letters_are_shown_as_text() {
    let shop = Shop::open().await;
    let world = &shop.world;
    let lines = format!("{HOSTILE}\u{202e}evil\r\nSet-Cookie: stolen=1");
    let named = json!({"name": lines});
    let tenant = format!("/api/v1/admin/tenants/{TENANT}");
    let changed = world
        .ask_as_operator(&shop.ingest, "PATCH", &tenant, Some(named))
        .await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    let receiver = world
        .receiver(Arc::new(|_, _| {
            Reply::status(404).with("x-odd", HOSTILE).saying(HOSTILE)
        }))
        .await;
    let more = json!({
        "description": lines, "events": ["till.*"], "retries": 0, "headers": {"X-Own": HOSTILE},
        "metadata": {HOSTILE: lines},
    });
    let webhook = world.webhook(&shop.ingest, &receiver, more).await;
    world
        .publish("till.closed", "till-1", &json!({HOSTILE: HOSTILE}))
        .await;
    receiver.receives(1).await;
    world.settles().await;
    // As an event type it is refused, so it is a dead letter. Nothing else of it is harmless, either.
    let mut headers = FieldTable::default();
    headers.insert("x-odd".into(), AMQPValue::LongString(lines.clone().into()));
    let mut broken = Publication::json(TENANT, "x", "x", &lines);
    broken.routing_key = format!("{TENANT}.{HOSTILE}");
    broken.properties = broken
        .properties
        .clone()
        .with_headers(headers)
        .with_message_id(HOSTILE.into())
        .with_content_type(HOSTILE.into());
    let letter = shop.becomes_dead_letter(&broken).await;

    let tab = shop.operator().await;
    let cookie = tab.client.get_named_cookie("__Host-posthorn").await;
    let cookie = format!("__Host-posthorn={}", cookie.unwrap().value());
    let encoded: String = lines.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let hook = format!("/console/{TENANT}/webhooks/{}", webhook.id);
    let delivery = shop.delivery(&webhook).await;
    let pages = [
        (format!("/console/{TENANT}"), ""),
        (format!("/console/{TENANT}/webhooks"), "document.title"),
        (hook.clone(), "document.title"),
        (format!("{hook}/settings"), "document.title"),
        (format!("{hook}/log"), "document.title"),
        (format!("{hook}/secret"), "document.title"),
        (format!("{hook}/delete"), "document.title"),
        (format!("{hook}/test"), "document.title"),
        (
            format!("/console/{TENANT}/deliveries/{delivery}"),
            "x-odd: ",
        ),
        (format!("/console/{TENANT}/events/till-1"), "document.title"),
        (format!("/console/{TENANT}/event-types"), ""),
        (format!("/console/{TENANT}/event-types/{encoded}"), ""),
        (
            format!("/console/{TENANT}/event-types/new?name={encoded}"),
            "",
        ),
        (
            format!("/console/{TENANT}/signature?delivery={encoded}"),
            "That isn't the id of a delivery",
        ),
        (
            format!("/console/{TENANT}/replays/new?types={encoded}&code={encoded}"),
            "",
        ),
        ("/console/_/tenants".to_owned(), "document.title"),
        (format!("/console/_/tenants/{TENANT}"), "document.title"),
        (format!("/console/_/tenants?q={encoded}"), "Tenants"),
        ("/console/_/dead-letters".to_owned(), "document.title"),
        (
            format!("/console/_/dead-letters/{letter}"),
            "document.title",
        ),
        (
            format!("/console/_/dead-letters?reason={encoded}"),
            "document.title",
        ),
        (format!("/console/_/go?q={encoded}"), ""),
        (format!("/console/_/choose?tenant={encoded}"), ""),
        (format!("/console/_/sign-in?next={encoded}"), "Sign in"),
    ];
    for (page, words) in &pages {
        tab.goto(page).await;
        let title = tab.client.title().await.unwrap();
        assert!(!title.starts_with("gone"), "{page}: {title}");
        assert!(!title.contains(['\u{202e}', '\r', '\n']), "{page}: {title}");
        assert_eq!(tab.many("script:not([src]), img").await, 0, "{page}");
        let text = tab.text().await;
        assert!(text.contains(words), "{page} lacks {words}: {text}");
        assert!(!text.contains('\u{202e}'), "{page}: {text}");
        assert_eq!(tab.complaints().await, Vec::<String>::new(), "{page}");
        let asked = http().get(shop.ingest.url(page)).header("cookie", &cookie);
        let answer = asked.send().await.unwrap();
        assert!(!answer.headers().contains_key("set-cookie"), "{page}");
    }
    // A file's name has nothing of it.
    let raw = format!("/console/{TENANT}/deliveries/{delivery}/raw?attempt=1&of=answer");
    let asked = http().get(shop.ingest.url(&raw)).header("cookie", &cookie);
    let answer = asked.send().await.unwrap();
    let file = answer.headers()["content-disposition"].to_str().unwrap();
    assert_eq!(file, format!("attachment; filename=\"{delivery}-1.txt\""));
    shop.close().await;
}

//! The demonstration: a tenant, a webhook, a few events, and the delivery log.
//!
//! It uses the public interfaces: events over AMQP, everything else over the API.

use std::collections::BTreeMap;
use std::process::Stdio;

use anyhow::{Context, bail, ensure};
use harness::producer::{Producer, Publication};
use harness::receiver::unix_now;
use harness::service::{Answer, ask, command};
use serde_json::{Value, json};
use tokio::process::Command;
use url::Url;

use crate::more;
use crate::print::{say, title};
use crate::readme;
use crate::shop::{DOWN, Shop};
use crate::stage::Place;

const TENANT: &str = "demo";
/// Marks the demonstration's own webhook among others.
const WEBHOOK: &str = "the demonstration of `make run`";
/// The path of the webhook at the shop.
const PATH: &str = "/demo";
/// The webhook that README.md makes, and the event that it publishes.
const README_PATH: &str = "/invoices";
const README_EVENT: &str = "evt_";

/// Type and data. The first arrival of the last one is answered with an error.
const EVENTS: [(&str, &str); 4] = [
    (
        "order.created",
        r#"{"order":1001,"total":25.00,"currency":"EUR"}"#,
    ),
    ("order.paid", r#"{"order":1001,"method":"card"}"#),
    ("item-checkout", r#"{"item":"SKU-7","quantity":2}"#),
    (
        "order.refunded",
        r#"{"order":1001,"total":25.00,"reason":"damaged"}"#,
    ),
];

/// Webhooks beside it, so that the console has something to show: their names, paths and
/// states. The shop answers everything below `/down` with an error.
const OTHERS: [(&str, &str, &str); 2] = [
    ("Warehouse, which is down on purpose", DOWN, "active"),
    ("CRM, which is paused", "/paused", "paused"),
];

/// Publishes the events and waits until all have arrived with valid signatures.
pub(crate) async fn events(place: &Place, shop: &Shop) -> anyhow::Result<()> {
    let token = tenant_token(place).await?;
    let nothing = json!({});
    let webhook = webhook(place, &token, (WEBHOOK, PATH, "active"), &nothing).await?;
    for other in OTHERS {
        self::webhook(place, &token, other, &nothing).await?;
    }
    let (name, path) = more::PICKY;
    self::webhook(place, &token, (name, path, "active"), &more::big_orders()).await?;
    more::describe(place, &token).await?;

    title(&format!(
        "Publishing {} events for tenant `{TENANT}` over AMQP. Webhook {webhook} wants order.* and item-*.\n\
         The receiver answers the first {} with 500, on purpose: its retry comes 5 to 6 s later.",
        EVENTS.len(),
        EVENTS[EVENTS.len() - 1].0,
    ));
    let producer = Producer::connect(&place.amqp_url).await?;
    // Each run has its own ids, because an id that was published before is a
    // duplicate.
    let run = unix_now();
    let ids: Vec<String> = (1..=EVENTS.len())
        .map(|n| format!("demo-{run}-{n}"))
        .collect();
    let [.., fails] = &ids[..] else {
        bail!("there are no events")
    };
    shop.fail_once(fails);
    for (id, (event_type, data)) in ids.iter().zip(EVENTS) {
        let publication = Publication::json(TENANT, event_type, id, data);
        producer.publish(&publication).await?;
    }
    more::dead_letter(&producer, TENANT, &format!("demo-{run}-broken")).await?;
    for id in &ids {
        let times = if id == fails { 2 } else { 1 };
        shop.takes(PATH, id, times).await?;
    }
    log(place, &token, &webhook, &ids).await?;
    more::replay(place, &token, &webhook, EVENTS[2].0).await
}

/// A token of the tenant. It is created in the first run.
async fn tenant_token(place: &Place) -> anyhow::Result<String> {
    let tenant = json!({"id": TENANT, "name": "The demonstration"});
    let made = admin(place, "/tenants", &tenant).await?;
    ensure!(
        matches!(made.status, 201 | 409),
        "making the tenant: {}",
        made.body
    );
    if let Some(token) = place.home.secret("token") {
        let known = ask(&url(place, "/api/v1/webhooks"), &token, "GET", None).await?;
        if known.status == 200 {
            return Ok(token);
        }
    }
    let wanted = json!({"tenant": TENANT, "role": "manager"});
    let made = admin(place, "/tokens", &wanted).await?;
    let token = text(&made, 201, "token").context("making a token")?;
    place.home.keep("token", token)
}

/// A webhook of the demonstration, created or updated. `more`: further members of it.
async fn webhook(
    place: &Place,
    token: &str,
    (name, path, status): (&str, &str, &str),
    more: &Value,
) -> anyhow::Result<String> {
    let mut wanted = json!({
        "url": format!("http://{}{path}", place.shop),
        "events": ["order.*", "item-*"],
        "secret": place.webhook_secret,
        "description": name,
        "status": status,
    });
    if let (Some(wanted), Some(more)) = (wanted.as_object_mut(), more.as_object()) {
        wanted.extend(more.clone());
    }
    let webhooks = url(place, "/api/v1/webhooks");
    let list = ask(&format!("{webhooks}?limit=250"), token, "GET", None).await?;
    let ours = list.body["webhooks"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|webhook| webhook["description"] == name);
    let saved = match ours.and_then(|webhook| webhook["id"].as_str()) {
        Some(id) => {
            let answer = ask(&format!("{webhooks}/{id}"), token, "PATCH", Some(&wanted)).await?;
            text(&answer, 200, "id")
        }
        None => text(
            &ask(&webhooks, token, "POST", Some(&wanted)).await?,
            201,
            "id",
        ),
    };
    saved.context("making the webhook")
}

/// Shows the delivery log of these events.
async fn log(place: &Place, token: &str, webhook: &str, ids: &[String]) -> anyhow::Result<()> {
    let path = format!("/api/v1/webhooks/{webhook}/deliveries?limit=50");
    let deliveries = settled(place, token, &path, ids).await?;
    title(&format!("The delivery log, from GET {path}"));
    for delivery in &deliveries {
        say(format_args!(
            "  {:<16} {:<30} {}, {} attempt(s)",
            shown(&delivery["event_type"]),
            shown(&delivery["event_id"]),
            shown(&delivery["status"]),
            delivery["attempts"],
        ));
    }
    let Some(retried) = deliveries.iter().find(|delivery| delivery["attempts"] != 1) else {
        bail!("nothing was retried")
    };
    let path = format!("/api/v1/deliveries/{}", shown(&retried["id"]));
    let delivery = ask(&url(place, &path), token, "GET", None).await?;
    title(&format!(
        "The attempts of the one that was retried, from GET {path}"
    ));
    for attempt in delivery.body["attempt_log"]
        .as_array()
        .into_iter()
        .flatten()
    {
        say(format_args!(
            "  {}  {}  answered {} after {} ms: {}",
            attempt["n"],
            shown(&attempt["started_at"]),
            attempt["response_code"],
            attempt["duration_ms"],
            shown(&attempt["response_body"]).trim_end(),
        ));
    }
    Ok(())
}

/// The deliveries of these events, once all are recorded. That is a moment after the
/// receiver has answered.
async fn settled(
    place: &Place,
    token: &str,
    path: &str,
    ids: &[String],
) -> anyhow::Result<Vec<Value>> {
    for _ in 0..100 {
        let answer = ask(&url(place, path), token, "GET", None).await?;
        ensure!(answer.status == 200, "listing deliveries: {}", answer.body);
        let delivered: Vec<Value> = answer.body["deliveries"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|delivery| delivery["status"] == "delivered")
            .filter(|delivery| ids.iter().any(|id| delivery["event_id"] == **id))
            .cloned()
            .collect();
        if delivered.len() == ids.len() {
            return Ok(delivered);
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    bail!("the log does not say that all were delivered")
}

/// Runs README.md's commands and `.posthorn/rabbitmqctl`, and checks that the page's event
/// arrives and that no delivery is unaccounted for.
pub(crate) async fn readme(place: &Place, shop: &Shop) -> anyhow::Result<()> {
    title("The commands of README.md");
    let known = [
        ("127.0.0.1:8080", &place.api),
        ("127.0.0.1:8090", &place.shop),
    ];
    let known = known.map(|(page, here)| (page.to_owned(), here.clone()));
    let stands_for: BTreeMap<String, String> = readme::run(&known).await?;
    let published = stands_for
        .values()
        .find(|id| id.starts_with(README_EVENT))
        .context("README.md published no event")?;
    shop.takes(README_PATH, published, 1).await?;
    rabbitmqctl(place).await?;

    let audit = command("posthorn-ingest", &["audit"], &place.settings).await?;
    title(&format!("posthorn-ingest audit: {audit}"));
    say("Everything arrived, verified.");
    Ok(())
}

/// Runs `.posthorn/rabbitmqctl` as docs/access.md says, and checks that it has reached the
/// RabbitMQ of this run: the one that has the exchange of events.
async fn rabbitmqctl(place: &Place) -> anyhow::Result<()> {
    if place.amqp_is_external {
        return Ok(());
    }
    let program = place.home.path("rabbitmqctl");
    let arguments = ["--quiet", "list_exchanges", "name", "type"];
    let ran = Command::new(&program)
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    let ran = ran.await.with_context(|| program.display().to_string())?;
    let printed = String::from_utf8_lossy(&ran.stdout);
    let said = String::from_utf8_lossy(&ran.stderr);
    let shows_ours = printed
        .lines()
        .any(|line| line.split_whitespace().eq(["posthorn.events", "topic"]));
    ensure!(
        ran.status.success() && shows_ours,
        "{} {arguments:?}: {}: {printed}{said}",
        program.display(),
        ran.status
    );
    say(format_args!(
        "{} shows the exchange posthorn.events",
        program.display()
    ));
    Ok(())
}

/// Prints where everything is, with commands to copy.
pub(crate) async fn overview(place: &Place) -> anyhow::Result<()> {
    let port = place.api.rsplit(':').next().unwrap_or_default();
    // Browsers keep the console's cookie on `localhost` without HTTPS.
    let here = format!("http://localhost:{port}");
    let arguments = ["console-link", "--url", &here, "--minutes", "1440"];
    let link = command("posthorn-ingest", &arguments, &place.settings).await?;
    let Place {
        api, shop, home, ..
    } = place;
    let [first, second] = &place.dispatchers[..] else {
        return Ok(());
    };
    let token = home.path("token");
    let token = token.display();
    title("Where everything is");
    for (what, place) in [
        ("API", format!("http://{api}/api/v1")),
        (
            "token",
            format!(
                "in {token}, of tenant `{TENANT}`; the operator's in {}",
                home.path("admin-token").display()
            ),
        ),
        (
            "metrics",
            format!(
                "http://{api}/metrics (ingest), http://{first}/metrics, http://{second}/metrics (dispatchers)"
            ),
        ),
        (
            "AMQP",
            format!(
                "{}, exchange posthorn.events, routing key {TENANT}.<event type>, message id = event id",
                amqp_url(place)
            ),
        ),
        (
            "receiver",
            format!(
                "http://{shop}/ with any path; verifies with the secret in {}",
                home.path("webhook-secret").display()
            ),
        ),
        ("logs", format!("{}/", home.path("logs").display())),
    ] {
        say(format_args!("  {what:<9} {place}"));
    }
    title("To try, in another terminal, in this folder");
    say(format_args!(
        "  # Make a webhook. Its secret is shown this once; the receiver knows the one we give it.\n\
         \x20 curl -s http://{api}/api/v1/webhooks -H \"Authorization: Bearer $(cat {token})\" \\\n\
         \x20   -H 'Content-Type: application/json' -d '{{\"url\": \"http://{shop}/mine\", \"events\": [\"invoice.*\"], \
         \"secret\": \"'$(cat {secret})'\"}}'\n\n\
         \x20 # Publish an event.\n\
         \x20 curl -s http://{api}/api/v1/events -H \"Authorization: Bearer $(cat {token})\" \\\n\
         \x20   -H 'Content-Type: application/json' -d '{{\"type\": \"invoice.paid\", \"data\": {{\"invoice\": 7}}}}'\n\n\
         \x20 # List the webhooks, and with one's id its deliveries.\n\
         \x20 curl -s http://{api}/api/v1/webhooks -H \"Authorization: Bearer $(cat {token})\"\n\
         \x20 curl -s http://{api}/api/v1/webhooks/ID/deliveries -H \"Authorization: Bearer $(cat {token})\"",
        secret = home.path("webhook-secret").display(),
    ));
    title(&format!(
        "The console: this link signs a browser in as the operator, once.\n  {}&next=/console/{TENANT}",
        link.trim()
    ));
    title("Arrivals are shown here. Ctrl-C stops everything and keeps the data.");
    Ok(())
}

/// RabbitMQ's URL. The password of an external server isn't shown.
fn amqp_url(place: &Place) -> String {
    let Ok(mut url) = Url::parse(&place.amqp_url) else {
        return String::new();
    };
    if place.amqp_is_external && url.password().is_some() {
        // Can't fail: a URL with a password can have another one.
        let _ = url.set_password(Some("…"));
    }
    url.to_string()
}

async fn admin(place: &Place, path: &str, body: &Value) -> anyhow::Result<Answer> {
    let url = url(place, &format!("/api/v1/admin{path}"));
    ask(&url, &place.admin_token, "POST", Some(body)).await
}

fn url(place: &Place, path: &str) -> String {
    format!("http://{}{path}", place.api)
}

/// A member of the answer, if the answer has the expected status.
fn text(answer: &Answer, status: u16, member: &str) -> anyhow::Result<String> {
    ensure!(
        answer.status == status,
        "{}: {}",
        answer.status,
        answer.body
    );
    let text = answer.body[member].as_str();
    Ok(text
        .context("the answer lacks the requested member")?
        .to_owned())
}

fn shown(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

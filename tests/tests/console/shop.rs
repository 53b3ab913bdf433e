//! A tenant whose webhooks have something to show: one takes everything, one fails.

use harness::browser::{Browser, Tab};
use harness::producer::Publication;
use harness::receiver::{Receiver, answering};
use harness::service::Service;
use harness::world::{ADMIN_TOKEN, TENANT, Webhook, World, eventually};
use serde_json::{Value, json};
use shared::ids::DeadLetterId;

pub(crate) struct Shop {
    pub(crate) world: World,
    pub(crate) ingest: Service,
    _dispatcher: Service,
    pub(crate) browser: Browser,
    pub(crate) good: Webhook,
    pub(crate) bad: Webhook,
    _receivers: [Receiver; 2],
}

impl Shop {
    /// With a delivered event and a failed one.
    pub(crate) async fn open() -> Self {
        Self::with(json!({"id": "order-4711", "total": 129.90})).await
    }

    /// The same, with this data in the event.
    pub(crate) async fn with(data: Value) -> Self {
        let (world, browser) = tokio::join!(World::start(), Browser::start());
        let (ingest, dispatcher) = (world.ingest().await, world.dispatcher().await);
        let (takes, fails) = (
            world.receiver(answering(200)).await,
            world.receiver(answering(503)).await,
        );
        let good = world
            .webhook(&ingest, &takes, json!({"description": "Analytics"}))
            .await;
        let more = json!({"description": "Warehouse", "events": ["order.*"], "retries": 0});
        let bad = world.webhook(&ingest, &fails, more).await;
        world.publish("order.paid", "order-4711", &data).await;
        world.accepts(1).await;
        world.settles().await;
        Self {
            world,
            ingest,
            _dispatcher: dispatcher,
            browser,
            good,
            bad,
            _receivers: [takes, fails],
        }
    }

    pub(crate) fn base(&self) -> String {
        self.ingest.url("").replace("127.0.0.1", "localhost")
    }

    /// A tab in which the operator is signed in.
    pub(crate) async fn operator(&self) -> Tab {
        let tab = self.browser.tab(&self.base()).await;
        tab.sign_in(ADMIN_TOKEN).await;
        tab
    }

    /// A token of the tenant's: its id, and itself.
    pub(crate) async fn token(&self, role: &str) -> (String, String) {
        let body = json!({"tenant": TENANT, "role": role});
        let path = "/api/v1/admin/tokens";
        let made = self
            .world
            .ask_as_operator(&self.ingest, "POST", path, Some(body))
            .await;
        assert_eq!(made.status, 201, "{}", made.body);
        let text = |name: &str| made.body[name].as_str().unwrap().to_owned();
        (text("id"), text("token"))
    }

    /// The id of the delivery to this webhook.
    pub(crate) async fn delivery(&self, to: &Webhook) -> String {
        let all = self.world.deliveries(&self.ingest, to).await;
        all[0]["id"].as_str().unwrap().to_owned()
    }

    /// Waits until the delivery to this webhook had so many attempts.
    pub(crate) async fn attempts(&self, to: &Webhook, many: i64) {
        eventually("the attempts", async || {
            self.world.deliveries(&self.ingest, to).await[0]["attempts"] == many
        })
        .await;
    }

    /// Sets the status of the webhook that fails.
    pub(crate) async fn set_bad(&self, status: &str) {
        let webhook = format!("/api/v1/webhooks/{}", self.bad.id);
        let body = Some(json!({"status": status}));
        let answer = self.world.ask(&self.ingest, "PATCH", &webhook, body).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }

    /// Pauses the webhook that fails, and publishes an event whose delivery is held then.
    pub(crate) async fn hold_one(&self) {
        self.set_bad("paused").await;
        self.world.publish("order.held", "held-1", &json!({})).await;
        eventually("it is held", async || {
            self.world
                .count("deliveries WHERE deferred_because = 'paused'")
                .await
                == 1
        })
        .await;
    }

    /// Publishes what is no event, and waits until it is the only dead letter.
    pub(crate) async fn becomes_dead_letter(&self, broken: &Publication) -> DeadLetterId {
        self.world.producer().await.publish(broken).await.unwrap();
        eventually("it is a dead letter", async || {
            self.world.count("dead_letters").await == 1
        })
        .await;
        let sql = self.world.sql().await;
        let letter = sql.query_one("SELECT id FROM dead_letters", &[]).await;
        letter.unwrap().get(0)
    }

    pub(crate) async fn close(self) {
        self.world.finish().await;
    }
}

/// Waits until the page's live parts are.
pub(crate) async fn is_live(tab: &Tab) {
    eventually("the page is live", async || {
        tab.text_of("[data-live-state]").await == "Live"
    })
    .await;
}

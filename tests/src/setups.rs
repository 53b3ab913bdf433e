//! Set-ups that many tests begin with.

use std::time::{Duration, Instant};

use lapin::Channel;
use lapin::options::{BasicGetOptions, BasicNackOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use serde_json::{Value, json};

use crate::producer::Publication;
use crate::proxy::Proxy;
use crate::receiver::{Receiver, Script, answering};
use crate::service::{Answer, Service};
use crate::world::{World, eventually, must};

/// The API's dead letters.
pub const DEAD_LETTERS: &str = "/api/v1/admin/dead-letters";

/// The promise is that another tenant's event arrives within a second. On a machine that
/// runs several tests at once, each of its steps (broker, ingest, PostgreSQL, dispatcher,
/// receiver) may take the better part of a second longer.
const NOTICED: Duration = Duration::from_secs(5);

/// Another tenant. Its events must arrive whatever happens.
pub struct OtherTenant {
    shop: Receiver,
    sent: usize,
}

impl OtherTenant {
    /// The tenant `other`, with one webhook that gets all of its events.
    pub async fn new(world: &World, ingest: &Service) -> Self {
        let token = world.another_tenant(ingest, "other").await;
        let shop = world.receiver(answering(200)).await;
        let webhook = json!({"url": shop.url("/"), "events": ["*"]});
        let made = world
            .ask_as(&token, ingest, "POST", "/api/v1/webhooks", Some(webhook))
            .await;
        assert_eq!(made.status, 201, "{}", made.body);
        Self { shop, sent: 0 }
    }

    /// Publishes one event. Returns how long it took to arrive.
    pub async fn publishes(&mut self, world: &World) -> Duration {
        let id = format!("other-{}", self.sent);
        let event = Publication::json("other", "order.created", &id, "{}");
        let producer = world.producer().await;
        let begun = Instant::now();
        must("publishing", producer.publish(&event).await);
        self.sent += 1;
        self.shop.receives(self.sent).await;
        begun.elapsed()
    }

    /// Publishes one event, which arrives as if nothing had happened. `meanwhile`: what happens.
    pub async fn notices_nothing(&mut self, world: &World, meanwhile: &str) {
        let took = self.publishes(world).await;
        assert!(
            took < NOTICED,
            "{meanwhile}: the other tenant's event took {took:?}"
        );
    }
}

impl World {
    /// A receiver whose webhook gets every event of the tenant.
    pub async fn subscribed(&self, ingest: &Service, answers: Script) -> Receiver {
        let receiver = self.receiver(answers).await;
        self.webhook(ingest, &receiver, json!({})).await;
        receiver
    }

    /// Publishes events and waits for their confirms.
    pub async fn publish_all(&self, events: &[Publication]) {
        let published = self.producer().await.publish_all(events).await;
        must("publishing", published);
    }

    /// How many messages of a queue wait for a consumer.
    pub async fn messages_in(&self, queue: &str) -> u32 {
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let connection = self.connection().await;
        let channel = must("opening a channel", connection.create_channel().await);
        let found = channel.queue_declare(queue.into(), options, FieldTable::default());
        let count = must("looking at a queue", found.await).message_count();
        must("closing", connection.close(200, "done".into()).await);
        count
    }

    /// Takes messages from the events queue without acking them, until RabbitMQ gives up on them
    /// and one is parked. No ingest may run.
    pub async fn gives_up_on_events(&self, channel: &Channel) {
        let requeue = BasicNackOptions {
            requeue: true,
            ..BasicNackOptions::default()
        };
        eventually("RabbitMQ gives up", async || {
            let events = "posthorn.ingest.v1".into();
            let taken = channel.basic_get(events, BasicGetOptions::default());
            match must("taking an event", taken.await) {
                Some(message) => {
                    must("refusing", message.delivery.acker.nack(requeue).await);
                    false
                }
                None => self.messages_in("posthorn.parking.v1").await == 1,
            }
        })
        .await;
    }

    /// Holds up whoever writes events, until what is returned commits or is dropped.
    pub async fn hold_up_events(&self) -> tokio_postgres::Client {
        let sql = self.sql().await;
        let lock = "BEGIN; LOCK TABLE events IN EXCLUSIVE MODE";
        must("locking the events", sql.batch_execute(lock).await);
        sql
    }

    /// How many sessions of the world's database wait for a lock.
    pub async fn held_up(&self) -> i64 {
        let waiting = "pg_stat_activity \
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
        self.count(waiting).await
    }

    /// Makes a tenant beside the world's own.
    pub async fn tenant(&self, ingest: &Service, id: &str) {
        let tenant = Some(json!({"id": id}));
        let made = self
            .ask_as_operator(ingest, "POST", "/api/v1/admin/tenants", tenant)
            .await;
        assert_eq!(made.status, 201, "{}", made.body);
    }

    /// Makes a tenant beside the world's own. Returns a token of its manager.
    pub async fn another_tenant(&self, ingest: &Service, id: &str) -> String {
        self.tenant(ingest, id).await;
        let create = ["token", "create", "--tenant", id];
        self.command(&create).await.trim().to_owned()
    }

    /// Waits until there are exactly so many dead letters.
    pub async fn has_dead_letters(&self, letters: i64) {
        eventually(&format!("{letters} messages are parked"), async || {
            self.count("dead_letters").await == letters
        })
        .await;
    }

    /// The operator's request to the API's dead letters. `path` is what comes after
    /// [`DEAD_LETTERS`]; a body of `null` isn't sent.
    pub async fn ask_dead_letters(
        &self,
        ingest: &Service,
        method: &str,
        path: &str,
        body: Value,
    ) -> Answer {
        let body = (!body.is_null()).then_some(body);
        let path = format!("{DEAD_LETTERS}{path}");
        self.ask_as_operator(ingest, method, &path, body).await
    }

    /// An ingest that reaches one of its servers through a proxy. `variable` is the setting
    /// with the server's URL.
    pub async fn ingest_through_proxy(&self, variable: &str, url: &str) -> (Service, Proxy) {
        let (proxy, url) = must("a proxy", Proxy::before(url).await);
        let settings = [(variable, url.as_str())];
        (self.service("posthorn-ingest", &settings).await, proxy)
    }
}

/// Waits until a metric of a process has this value.
pub async fn counts(service: &Service, metric: &str, value: f64) {
    eventually(&format!("{metric} is {value}"), async || {
        // A metric with labels is there from its first count on.
        service.metric(metric).await.unwrap_or_default() == value
    })
    .await;
}

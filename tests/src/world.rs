//! One test's own Posthorn: a database and a virtual host that no other test uses,
//! the real binaries, and a tenant called `acme`.
//!
//! Most tests share one pair of servers. `make test` starts that pair and names it in
//! the environment. A test that kills a server starts its own pair.
//!
//! [`World::finish`] is the last line of a test. It fails if a process panicked, or if a
//! delivery is unexpectedly still open.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_postgres::NoTls;

use crate::pair::{Management, Pair, PairConfig};
use crate::producer::{Producer, Publication};
use crate::receiver::{Receiver, Script};
pub use crate::service::Answer;
pub use crate::service::Ran;
use crate::service::{Service, ask, command, free_address, shell, tail};
use crate::shared_servers::{Share, SharedServers};

/// The tenant of every test.
pub const TENANT: &str = "acme";
/// The operator's token.
pub const ADMIN_TOKEN: &str = "the-operators-token-of-the-tests";
/// How long to wait for a condition.
const PATIENCE: Duration = Duration::from_secs(60);

/// See the module's text.
pub struct World {
    /// Kept until the end. `None` if the servers are shared.
    pub pair: Option<Pair>,
    /// The test's part of shared servers, if it has no pair.
    share: Option<Share>,
    database_url: String,
    amqp_url: String,
    folder: PathBuf,
    settings: Vec<(String, String)>,
    services: AtomicU32,
    token: String,
    finished: bool,
}

impl World {
    /// On the shared servers if there are any, else on servers of its own.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// As [`World::start`], with additional settings.
    pub async fn with(settings: &[(&str, &str)]) -> Self {
        Self::anywhere().await.and_settings(settings).await
    }

    /// On servers of its own, which the test may kill.
    pub async fn with_own_servers(settings: &[(&str, &str)]) -> Self {
        Self::on_own(|_| ()).await.and_settings(settings).await
    }

    /// On servers of its own; PostgreSQL's disk can be filled.
    pub async fn with_small_disk(settings: &[(&str, &str)]) -> Self {
        let world = Self::on_own(|config| config.small_disk = true).await;
        world.and_settings(settings).await
    }

    /// On servers of its own, RabbitMQ with metrics for Prometheus.
    ///
    /// # Panics
    /// If anything can't be started.
    pub async fn with_metrics(settings: &[(&str, &str)]) -> Self {
        let world = Self::on_own(|config| config.metrics = true).await;
        world.and_settings(settings).await
    }

    /// On servers of its own, RabbitMQ with AMQP 1.0.
    ///
    /// # Panics
    /// If anything can't be started.
    pub async fn with_amqp10(settings: &[(&str, &str)]) -> Self {
        let world = Self::on_own(|config| config.amqp10 = true).await;
        world.and_settings(settings).await
    }

    /// On servers of its own, RabbitMQ with its management API. `fsync`: PostgreSQL's.
    ///
    /// # Panics
    /// If anything can't be started.
    pub async fn with_management(fsync: bool, settings: &[(&str, &str)]) -> Self {
        let world = Self::on_own(|config| {
            config.management = Management::Statistics;
            config.fsync = fsync;
        })
        .await;
        world.and_settings(settings).await
    }

    /// With a PostgreSQL of its own, on a RabbitMQ that the test has started.
    ///
    /// # Panics
    /// If anything can't be started.
    pub async fn on_broker(amqp_url: &str, settings: &[(&str, &str)]) -> Self {
        let world = Self::on_own(|config| config.amqp_url = Some(amqp_url.to_owned())).await;
        world.and_settings(settings).await
    }

    async fn anywhere() -> Self {
        let Some(servers) = SharedServers::of_environment() else {
            return Self::on_own(|_| ()).await;
        };
        let share = must("a share of the servers", servers.share().await);
        let (database_url, amqp_url) = (share.database_url(), share.amqp_url());
        let mut world = Self::new(None, database_url, amqp_url);
        world.share = Some(share);
        world
    }

    async fn on_own(configure: impl FnOnce(&mut PairConfig)) -> Self {
        let folder = std::env::temp_dir().join(format!("posthorn-servers-{}", unique()));
        let mut config = PairConfig::new(folder);
        configure(&mut config);
        let pair = must("a pair of servers", Pair::start(config).await);
        let (database_url, amqp_url) = (
            pair.postgres().url().to_owned(),
            pair.rabbitmq().url().to_owned(),
        );
        Self::new(Some(pair), database_url, amqp_url)
    }

    fn new(pair: Option<Pair>, database_url: String, amqp_url: String) -> Self {
        let folder = std::env::temp_dir().join(format!("posthorn-test-{}", unique()));
        must("a folder", std::fs::create_dir_all(&folder));
        let settings = [
            ("DATABASE_URL", database_url.as_str()),
            ("AMQP_URL", &amqp_url),
            ("MASTER_KEY", "dGVzdHMgaGF2ZSBhIG1hc3RlciBrZXkgdG9vISEhISE="),
            ("ADMIN_TOKEN", ADMIN_TOKEN),
            ("ALLOW_HTTP", "true"),
            ("ALLOWED_NETWORKS", "127.0.0.0/8"),
            ("SHUTDOWN_GRACE", "10"),
        ];
        Self {
            settings: settings
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
            pair,
            share: None,
            database_url,
            amqp_url,
            folder,
            services: AtomicU32::new(0),
            token: String::new(),
            finished: false,
        }
    }

    /// With the schema that this version's ingest makes.
    pub async fn with_schema_of(ingest: &str, settings: &[(&str, &str)]) -> Self {
        Self::anywhere().await.prepared_by(ingest, settings).await
    }

    async fn and_settings(self, settings: &[(&str, &str)]) -> Self {
        self.prepared_by("posthorn-ingest", settings).await
    }

    async fn prepared_by(mut self, ingest: &str, settings: &[(&str, &str)]) -> Self {
        self.settings.extend(
            settings
                .iter()
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned())),
        );
        must(
            "migrating",
            command(ingest, &["migrate"], &self.settings).await,
        );
        let tenant = "INSERT INTO tenants (id, revision) VALUES ($1, 0)";
        must(
            "the tenant",
            self.sql().await.execute(tenant, &[&TENANT]).await,
        );
        let arguments = ["token", "create", "--tenant", TENANT];
        self.token = must("a token", command(ingest, &arguments, &self.settings).await);
        self
    }

    /// A running ingest.
    pub async fn ingest(&self) -> Service {
        self.service("posthorn-ingest", &[]).await
    }

    /// A running ingest that serves at this address: one that begins again where it was.
    pub async fn ingest_at(&self, address: &str) -> Service {
        let mut service = self.start_at("posthorn-ingest", &[], &[], address);
        must("becoming ready", service.ready().await);
        service
    }

    /// A running dispatcher.
    pub async fn dispatcher(&self) -> Service {
        self.service("posthorn-dispatcher", &[]).await
    }

    /// A running service with additional settings.
    pub async fn service(&self, binary: &str, settings: &[(&str, &str)]) -> Service {
        self.run(binary, &[], settings).await
    }

    /// A running ingest with arguments.
    pub async fn ingest_with(&self, arguments: &[&str]) -> Service {
        self.run("posthorn-ingest", arguments, &[]).await
    }

    async fn run(&self, binary: &str, arguments: &[&str], settings: &[(&str, &str)]) -> Service {
        let mut service = self.start_service(binary, arguments, settings);
        must("becoming ready", service.ready().await);
        service
    }

    fn start_service(
        &self,
        binary: &str,
        arguments: &[&str],
        settings: &[(&str, &str)],
    ) -> Service {
        let address = must("a port", free_address());
        self.start_at(binary, arguments, settings, &address)
    }

    fn start_at(
        &self,
        binary: &str,
        arguments: &[&str],
        settings: &[(&str, &str)],
        address: &str,
    ) -> Service {
        let n = self.services.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{n}", binary.replace('/', "-"));
        let log = self.folder.join(format!("{name}.log"));
        let mut all = self.settings.clone();
        all.extend(
            settings
                .iter()
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned())),
        );
        must(
            "starting",
            Service::start_with(&name, (binary, arguments), address, &all, &log),
        )
    }

    /// A service with additional settings that answers, but needn't be ready.
    pub async fn started(&self, binary: &str, settings: &[(&str, &str)]) -> Service {
        let mut service = self.start_service(binary, &[], settings);
        must("starting", service.alive().await);
        service
    }

    pub async fn receiver(&self, script: Script) -> Receiver {
        must("a receiver", Receiver::start(script).await)
    }

    /// The token of the tenant's manager.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// A request to the API with the token of the tenant's manager.
    pub async fn ask(
        &self,
        ingest: &Service,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Answer {
        self.ask_as(&self.token, ingest, method, path, body).await
    }

    /// A request to the API with the operator's token.
    pub async fn ask_as_operator(
        &self,
        ingest: &Service,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Answer {
        self.ask_as(ADMIN_TOKEN, ingest, method, path, body).await
    }

    /// A request to the API with any token.
    pub async fn ask_as(
        &self,
        token: &str,
        ingest: &Service,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Answer {
        let answer = ask(&ingest.url(path), token, method, body.as_ref()).await;
        must("asking the API", answer)
    }

    /// A webhook with this receiver as its endpoint, for all events. `more` replaces
    /// members.
    pub async fn webhook(&self, ingest: &Service, receiver: &Receiver, more: Value) -> Webhook {
        let id = unique();
        let mut body = json!({"url": receiver.url(&format!("/{id}")), "events": ["*"]});
        if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
            body.extend(more);
        }
        let answer = self
            .ask(ingest, "POST", "/api/v1/webhooks", Some(body))
            .await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        let text = |name: &str| answer.body[name].as_str().unwrap_or_default().to_owned();
        Webhook {
            id: text("id"),
            secret: text("secret"),
            path: format!("/{id}"),
        }
    }

    /// A webhook's deliveries, as the API lists them: newest first.
    pub async fn deliveries(&self, ingest: &Service, webhook: &Webhook) -> Vec<Value> {
        let path = format!("/api/v1/webhooks/{}/deliveries?limit=250", webhook.id);
        let answer = self.ask(ingest, "GET", &path, None).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body["deliveries"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    }

    /// One delivery with its attempts.
    pub async fn delivery(&self, ingest: &Service, id: &Value) -> Value {
        let path = format!("/api/v1/deliveries/{}", id.as_str().unwrap_or_default());
        let answer = self.ask(ingest, "GET", &path, None).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    }

    pub async fn producer(&self) -> Producer {
        must("a producer", Producer::connect(&self.amqp_url).await)
    }

    #[must_use]
    pub fn database_url(&self) -> &str {
        &self.database_url
    }

    #[must_use]
    pub fn amqp_url(&self) -> &str {
        &self.amqp_url
    }

    /// A plain AMQP connection, for tests that interfere with the broker's queues.
    pub async fn connection(&self) -> lapin::Connection {
        let properties = lapin::ConnectionProperties::default();
        must(
            "a connection",
            lapin::Connection::connect(&self.amqp_url, properties).await,
        )
    }

    /// Publishes one event of the tenant's over AMQP.
    pub async fn publish(&self, event_type: &str, id: &str, data: &Value) {
        let publication = Publication::json(TENANT, event_type, id, &data.to_string());
        must(
            "publishing",
            self.producer().await.publish(&publication).await,
        );
    }

    /// A connection to the database.
    pub async fn sql(&self) -> tokio_postgres::Client {
        sql(&self.database_url).await
    }

    /// The number of rows that match.
    pub async fn count(&self, what: &str) -> i64 {
        must(
            what,
            self.sql()
                .await
                .query_one(&format!("SELECT count(*) FROM {what}"), &[])
                .await,
        )
        .get(0)
    }

    /// Waits until this many events have been accepted.
    pub async fn accepts(&self, events: i64) {
        eventually(&format!("{events} events are accepted"), async || {
            self.count("events").await >= events
        })
        .await;
    }

    /// Waits until no delivery is open.
    pub async fn settles(&self) {
        eventually("every delivery is finished", async || {
            self.count("deliveries WHERE due_at IS NOT NULL").await == 0
        })
        .await;
    }

    /// The output of `posthorn-ingest audit`.
    pub async fn audit(&self) -> String {
        must(
            "the audit",
            command(
                "posthorn-ingest",
                &["audit", "--grace", "0"],
                &self.settings,
            )
            .await,
        )
    }

    /// The output of `posthorn-ingest` with these arguments.
    pub async fn command(&self, arguments: &[&str]) -> String {
        must("a command", self.try_command(arguments).await)
    }

    /// As [`World::command`], but a failure is returned.
    pub async fn try_command(&self, arguments: &[&str]) -> anyhow::Result<String> {
        command("posthorn-ingest", arguments, &self.settings).await
    }

    /// Writes a file into the folder in which [`World::shell`] runs.
    pub fn file(&self, name: &str, text: &str) {
        let path = self.folder.join(name);
        must(name, std::fs::write(path, text));
    }

    /// Runs a line of shell with the settings of this world, and more.
    pub async fn shell(&self, line: &str, settings: &[(&str, &str)]) -> Ran {
        let mut all = self.settings.clone();
        let more = settings.iter();
        all.extend(more.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        must(line, shell(line, &self.folder, &all).await)
    }

    /// Everything that the services have printed.
    #[must_use]
    pub fn logs(&self) -> String {
        let files = std::fs::read_dir(&self.folder)
            .into_iter()
            .flatten()
            .flatten();
        files
            .map(|file| std::fs::read_to_string(file.path()).unwrap_or_default())
            .collect()
    }

    /// Ends the world, keeps the services' output, and returns its folder.
    #[must_use]
    pub fn keep(mut self) -> PathBuf {
        self.finished = true;
        self.folder.clone()
    }

    /// Ends the world without checking deliveries.
    pub async fn abandon(mut self) {
        self.finished = true;
        if let Some(pair) = self.pair.take() {
            must("stopping the servers", pair.discard().await);
        }
        if let Some(share) = self.share.take() {
            must("giving back the share", share.give_back().await);
        }
        // Leftovers are in the temporary folder.
        let _ = std::fs::remove_dir_all(&self.folder);
    }

    /// Ends the test. Fails if a process panicked or a delivery is stuck.
    pub async fn finish(self) {
        self.settles().await;
        self.audit().await;
        let logs = self.logs();
        for trouble in ["panicked at", "error serializing", "error deserializing"] {
            assert!(!logs.contains(trouble), "{trouble}:\n{logs}");
        }
        self.abandon().await;
    }
}

#[allow(clippy::print_stderr)] // Shown with the failed test.
impl Drop for World {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        if std::thread::panicking() {
            for file in std::fs::read_dir(&self.folder)
                .into_iter()
                .flatten()
                .flatten()
            {
                let path = file.path();
                eprintln!("--- {}\n{}", path.display(), tail(&path, 25));
            }
        } else {
            panic!("a test ends with `world.finish().await`");
        }
    }
}

/// A webhook, as its owner knows it.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// `wh_…`
    pub id: String,
    /// The secret that the API showed when the webhook was created.
    pub secret: String,
    /// The path of the webhook's URL.
    pub path: String,
}

/// Waits for a condition.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "it never came true that {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// Unwraps a result, or fails the test with `what` and the error.
pub fn must<T, E: Into<anyhow::Error>>(what: &str, result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{what}: {:#}", error.into()),
    }
}

/// A connection to PostgreSQL, with its background task.
pub(crate) async fn sql(url: &str) -> tokio_postgres::Client {
    let (client, connection) = must(
        "connecting to PostgreSQL",
        tokio_postgres::connect(url, NoTls).await,
    );
    tokio::spawn(connection);
    client
}

/// A name that no other test has.
#[must_use]
pub fn unique() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    format!(
        "{}_{n}_{:06x}",
        std::process::id(),
        fastrand::u32(..0x0100_0000)
    )
}

//! A test's own Posthorn: a database and a virtual host that nobody else has,
//! the real binaries, and a tenant called `acme`.
//!
//! Most tests share one pair of servers, which `make test` starts and names in
//! the environment; a test that kills a server starts its own.
//! [`World::finish`] is a test's last line: it fails if a process panicked, or
//! if a delivery is still open that should not be.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_postgres::NoTls;

use crate::pair::{Pair, PairConfig};
use crate::producer::{Producer, Publication};
use crate::receiver::{Receiver, Script};
pub use crate::service::Answer;
pub use crate::service::Ran;
use crate::service::{Service, ask, command, free_address, shell, tail};

/// The tenant of every test.
pub const TENANT: &str = "acme";
/// The operator's own token.
pub const ADMIN_TOKEN: &str = "the-operators-token-of-the-tests";
/// How long a condition is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// The servers that `make test` has started, as it names them.
struct Shared {
    database_url: String,
    amqp_url: String,
    /// One file per virtual host that is taken.
    leases: PathBuf,
    vhosts: usize,
}

impl Shared {
    fn of_environment() -> Option<Self> {
        let variable = |name: &str| std::env::var(name).ok();
        Some(Self {
            database_url: variable("POSTHORN_TEST_DATABASE_URL")?,
            amqp_url: variable("POSTHORN_TEST_AMQP_URL")?,
            leases: variable("POSTHORN_TEST_LEASES")?.into(),
            vhosts: variable("POSTHORN_TEST_VHOSTS")?.parse().ok()?,
        })
    }

    /// A virtual host of one's own, for good.
    fn lease(&self) -> anyhow::Result<String> {
        for n in 0..self.vhosts {
            let lease = self.leases.join(n.to_string());
            if std::fs::File::options()
                .write(true)
                .create_new(true)
                .open(lease)
                .is_ok()
            {
                return Ok(format!("{}/t{n}", self.amqp_url.trim_end_matches("/%2f")));
            }
        }
        anyhow::bail!(
            "all {} virtual hosts are taken: raise VHOSTS in tests/src/bin/with_servers.rs",
            self.vhosts
        )
    }
}

/// See the module's text.
pub struct World {
    /// Kept until the end; none if the servers are shared.
    pub pair: Option<Pair>,
    database_url: String,
    amqp_url: String,
    folder: PathBuf,
    settings: Vec<(String, String)>,
    services: AtomicU32,
    token: String,
    finished: bool,
}

impl World {
    /// On the shared servers if there are any.
    ///
    /// # Panics
    /// If anything can't be started.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With settings of the test's own.
    ///
    /// # Panics
    /// If anything can't be started.
    pub async fn with(settings: &[(&str, &str)]) -> Self {
        let world = match Shared::of_environment() {
            Some(shared) => Self::on_shared(&shared).await,
            None => Self::on_own(|_| ()).await,
        };
        world.and_settings(settings).await
    }

    /// On servers of its own, which may be killed.
    ///
    /// # Panics
    /// If anything can't be started.
    pub async fn with_own_servers(settings: &[(&str, &str)]) -> Self {
        Self::on_own(|_| ()).await.and_settings(settings).await
    }

    /// On servers of its own, PostgreSQL with a disk that can be filled.
    ///
    /// # Panics
    /// If anything can't be started.
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

    async fn on_shared(shared: &Shared) -> Self {
        let name = format!("test_{}", unique());
        let admin = sql(&shared.database_url).await;
        must(
            "a database",
            admin
                .batch_execute(&format!("CREATE DATABASE {name}"))
                .await,
        );
        let database_url = replace_database(&shared.database_url, &name);
        Self::new(None, database_url, must("a virtual host", shared.lease()))
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
            database_url,
            amqp_url,
            folder,
            services: AtomicU32::new(0),
            token: String::new(),
            finished: false,
        }
    }

    async fn and_settings(mut self, settings: &[(&str, &str)]) -> Self {
        self.settings.extend(
            settings
                .iter()
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned())),
        );
        must(
            "migrating",
            command("posthorn-ingest", &["migrate"], &self.settings).await,
        );
        let tenant = "INSERT INTO tenants (id, revision) VALUES ($1, 0)";
        must(
            "the tenant",
            self.sql().await.execute(tenant, &[&TENANT]).await,
        );
        let arguments = ["token", "create", "--tenant", TENANT];
        self.token = must(
            "a token",
            command("posthorn-ingest", &arguments, &self.settings).await,
        );
        self
    }

    /// A running ingest.
    ///
    /// # Panics
    /// If it doesn't become ready.
    pub async fn ingest(&self) -> Service {
        self.service("posthorn-ingest", &[]).await
    }

    /// A running dispatcher.
    ///
    /// # Panics
    /// If it doesn't become ready.
    pub async fn dispatcher(&self) -> Service {
        self.service("posthorn-dispatcher", &[]).await
    }

    /// A running service with settings of its own.
    ///
    /// # Panics
    /// If it doesn't become ready.
    pub async fn service(&self, binary: &str, settings: &[(&str, &str)]) -> Service {
        self.run(binary, &[], settings).await
    }

    /// A running ingest with arguments.
    ///
    /// # Panics
    /// If it doesn't become ready.
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
        let n = self.services.fetch_add(1, Ordering::Relaxed);
        let name = format!("{binary}-{n}");
        let log = self.folder.join(format!("{name}.log"));
        let mut all = self.settings.clone();
        all.extend(
            settings
                .iter()
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned())),
        );
        let address = must("a port", free_address());
        must(
            "starting",
            Service::start_with(&name, (binary, arguments), &address, &all, &log),
        )
    }

    /// A service with settings of its own that has been started, and answers, but
    /// need not become ready.
    ///
    /// # Panics
    /// If it ends, or doesn't answer.
    pub async fn started(&self, binary: &str, settings: &[(&str, &str)]) -> Service {
        let mut service = self.start_service(binary, &[], settings);
        must("starting", service.alive().await);
        service
    }

    /// An endpoint.
    ///
    /// # Panics
    /// If there is no port for it.
    pub async fn receiver(&self, script: Script) -> Receiver {
        must("a receiver", Receiver::start(script).await)
    }

    /// A request to the API in the name of the tenant's manager.
    ///
    /// # Panics
    /// If there is no answer.
    pub async fn ask(
        &self,
        ingest: &Service,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Answer {
        self.ask_as(&self.token, ingest, method, path, body).await
    }

    /// A request to the API in the name of the operator.
    ///
    /// # Panics
    /// If there is no answer.
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
    ///
    /// # Panics
    /// If there is no answer.
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

    /// A webhook to this receiver for everything; `more` says otherwise.
    ///
    /// # Panics
    /// If it is refused.
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

    /// A webhook's deliveries as the API lists them, newest first.
    ///
    /// # Panics
    /// If they can't be listed.
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
    ///
    /// # Panics
    /// If it can't be shown.
    pub async fn delivery(&self, ingest: &Service, id: &Value) -> Value {
        let path = format!("/api/v1/deliveries/{}", id.as_str().unwrap_or_default());
        let answer = self.ask(ingest, "GET", &path, None).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    }

    /// An AMQP client.
    ///
    /// # Panics
    /// If it can't connect.
    pub async fn producer(&self) -> Producer {
        must("a producer", Producer::connect(&self.amqp_url).await)
    }

    /// Where the database is.
    #[must_use]
    pub fn database_url(&self) -> &str {
        &self.database_url
    }

    /// Where the broker is.
    #[must_use]
    pub fn amqp_url(&self) -> &str {
        &self.amqp_url
    }

    /// A bare connection to the broker, to meddle with it.
    ///
    /// # Panics
    /// If there is none.
    pub async fn connection(&self) -> lapin::Connection {
        let properties = lapin::ConnectionProperties::default();
        must(
            "a connection",
            lapin::Connection::connect(&self.amqp_url, properties).await,
        )
    }

    /// Publishes one event of the tenant's over AMQP.
    ///
    /// # Panics
    /// If it isn't confirmed.
    pub async fn publish(&self, event_type: &str, id: &str, data: &Value) {
        let publication = Publication::json(TENANT, event_type, id, &data.to_string());
        must(
            "publishing",
            self.producer().await.publish(&publication).await,
        );
    }

    /// A connection to the database.
    ///
    /// # Panics
    /// If there is none.
    pub async fn sql(&self) -> tokio_postgres::Client {
        sql(&self.database_url).await
    }

    /// How many rows a query counts.
    ///
    /// # Panics
    /// If it fails.
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
    ///
    /// # Panics
    /// If they aren't within a minute.
    pub async fn accepts(&self, events: i64) {
        eventually(&format!("{events} events are accepted"), async || {
            self.count("events").await >= events
        })
        .await;
    }

    /// Waits until no delivery is open.
    ///
    /// # Panics
    /// If some still are after a minute.
    pub async fn settles(&self) {
        eventually("every delivery is finished", async || {
            self.count("deliveries WHERE due_at IS NOT NULL").await == 0
        })
        .await;
    }

    /// What `posthorn-ingest audit` says.
    ///
    /// # Panics
    /// If anything is unaccounted for.
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

    /// What `posthorn-ingest` with these arguments prints.
    ///
    /// # Panics
    /// If it fails.
    pub async fn command(&self, arguments: &[&str]) -> String {
        must("a command", self.try_command(arguments).await)
    }

    /// The same where a failure is an answer, too.
    ///
    /// # Errors
    /// If it fails; with what it said.
    pub async fn try_command(&self, arguments: &[&str]) -> anyhow::Result<String> {
        command("posthorn-ingest", arguments, &self.settings).await
    }

    /// A file in the folder in which [`World::shell`] runs.
    ///
    /// # Panics
    /// If it can't be written.
    pub fn file(&self, name: &str, text: &str) {
        let path = self.folder.join(name);
        must(name, std::fs::write(path, text));
    }

    /// A line of shell with the settings of this world, and more.
    ///
    /// # Panics
    /// If there is no shell.
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

    /// Ends, and leaves what the services have printed where it is; answers where.
    #[must_use]
    pub fn keep(mut self) -> PathBuf {
        self.finished = true;
        self.folder.clone()
    }

    /// Ends without looking at what is left: for what isn't a test of deliveries.
    ///
    /// # Panics
    /// If the servers can't be stopped.
    pub async fn abandon(mut self) {
        self.finished = true;
        if let Some(pair) = self.pair.take() {
            must("stopping the servers", pair.discard().await);
        }
        // What is left is in the temporary folder.
        let _ = std::fs::remove_dir_all(&self.folder);
    }

    /// The test is over: nothing panicked, nothing is stuck.
    ///
    /// # Panics
    /// If something did or is.
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

/// A webhook as its owner knows it.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// `wh_…`
    pub id: String,
    /// Shown when it was made.
    pub secret: String,
    /// The path of its URL at its receiver.
    pub path: String,
}

/// Waits for a condition.
///
/// # Panics
/// If it doesn't come true within a minute.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "it never came true that {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// The value, or the reason why the test can't go on.
///
/// # Panics
/// If there is none.
pub fn must<T, E: Into<anyhow::Error>>(what: &str, result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{what}: {:#}", error.into()),
    }
}

/// A connection that serves itself.
async fn sql(url: &str) -> tokio_postgres::Client {
    let (client, connection) = must(
        "connecting to PostgreSQL",
        tokio_postgres::connect(url, NoTls).await,
    );
    tokio::spawn(connection);
    client
}

fn replace_database(url: &str, database: &str) -> String {
    let mut url = must("the database's URL", url::Url::parse(url));
    url.set_path(database);
    url.to_string()
}

/// A name that nobody else has.
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

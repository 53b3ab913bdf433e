//! The servers that `make test` has started, and one test's part of them.
//!
//! A test gets a database and a virtual host of its own, and both are deleted when it has
//! passed. Without that the servers would carry every earlier test's queues and tables, and
//! become slower with each test.

use anyhow::ensure;
use reqwest::Method;
use serde_json::{Value, json};
use url::Url;

use crate::service::http;
use crate::world::{sql, unique};

/// The names of the two variables in which `with_servers` says where the servers are.
pub const DATABASE_URL: &str = "POSTHORN_TEST_DATABASE_URL";
/// The URL of RabbitMQ's virtual host `/`.
pub const AMQP_URL: &str = "POSTHORN_TEST_AMQP_URL";
/// The URL of RabbitMQ's management API, with the user and the password.
pub const MANAGEMENT_URL: &str = "POSTHORN_TEST_MANAGEMENT_URL";

/// The servers that the environment names.
pub struct SharedServers {
    database_url: Url,
    amqp_url: Url,
    management_url: Url,
}

impl SharedServers {
    /// `None` if the environment names none.
    #[must_use]
    pub fn of_environment() -> Option<Self> {
        let url = |name: &str| std::env::var(name).ok()?.parse().ok();
        Some(Self {
            database_url: url(DATABASE_URL)?,
            amqp_url: url(AMQP_URL)?,
            management_url: url(MANAGEMENT_URL)?,
        })
    }

    /// Creates a database and a virtual host that no other test uses.
    ///
    /// # Errors
    /// If a server refuses or can't be reached.
    pub async fn share(self) -> anyhow::Result<Share> {
        let name = format!("test_{}", unique());
        let admin = sql(self.database_url.as_str()).await;
        admin
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await?;
        let vhost = format!("api/vhosts/{name}");
        self.manage(Method::PUT, &vhost, &json!({})).await?;
        let share = Share {
            servers: self,
            name,
        };
        share.permit().await?;
        Ok(share)
    }

    async fn manage(&self, method: Method, path: &str, body: &Value) -> anyhow::Result<()> {
        let answer = http()
            .request(method, self.management_url.join(path)?)
            .header("content-type", "application/json")
            .body(body.to_string())
            .send()
            .await?;
        let status = answer.status();
        ensure!(
            status.is_success(),
            "RabbitMQ answered {status} for {path}: {}",
            answer.text().await?
        );
        Ok(())
    }
}

/// One test's database and virtual host. Both have the same name.
pub struct Share {
    servers: SharedServers,
    name: String,
}

impl Share {
    /// The URL of the database.
    #[must_use]
    pub fn database_url(&self) -> String {
        self.with_name(&self.servers.database_url)
    }

    /// The URL of the virtual host.
    #[must_use]
    pub fn amqp_url(&self) -> String {
        self.with_name(&self.servers.amqp_url)
    }

    fn with_name(&self, server: &Url) -> String {
        let mut url = server.clone();
        url.set_path(&self.name);
        url.into()
    }

    async fn permit(&self) -> anyhow::Result<()> {
        let user = self.servers.amqp_url.username();
        let permission = format!("api/permissions/{}/{user}", self.name);
        let all = json!({"configure": ".*", "write": ".*", "read": ".*"});
        self.servers.manage(Method::PUT, &permission, &all).await
    }

    /// Deletes both, with everything in them.
    ///
    /// # Errors
    /// If a server refuses or can't be reached.
    pub async fn give_back(self) -> anyhow::Result<()> {
        let vhost = format!("api/vhosts/{}", self.name);
        let servers = &self.servers;
        servers.manage(Method::DELETE, &vhost, &json!({})).await?;
        let admin = sql(self.servers.database_url.as_str()).await;
        let delete = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        admin.batch_execute(&delete).await?;
        Ok(())
    }
}

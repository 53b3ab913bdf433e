//! The private RabbitMQ: one node, its own port mapper (`epmd`), and no plugins but those that a
//! test asks for: metrics, management, AMQP 1.0.
//!
//! The node reads users and virtual hosts from a definitions file before it listens. So
//! a client that can connect finds all of them. The main process is Erlang's virtual
//! machine itself, not the script around it. The node starts `epmd` as a daemon, which
//! never ends by itself; it is recognised by its mark like every other process.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::Signal;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::Url;

use super::binaries;
use super::home::Home;
use super::server::{Recipe, Server};
use super::{Management, PairConfig, Progress};

/// No busy waiting, because the system under test uses the same cores. Erlang's
/// distribution listens on loopback only: it runs code for everybody who knows the
/// cookie.
const ERLANG: &str = "+sbwt none +sbwtdcpu none +sbwtdio none \
                      -kernel inet_dist_use_interface {127,0,0,1}";

/// The settings that Posthorn needs of RabbitMQ.
const RECOMMENDED: &str = include_str!("../../../deploy/rabbitmq.conf");

/// How to create and run a private RabbitMQ.
pub struct RabbitMq {
    home: Arc<Home>,
    folder: PathBuf,
    scripts: PathBuf,
    vhosts: usize,
    metrics: bool,
    amqp10: bool,
    management: Management,
    url: Url,
    /// `None`: the node is alone.
    member: Option<Member>,
}

/// What the nodes of a cluster share.
#[derive(Clone)]
pub(super) struct Member {
    pub(super) epmd: u16,
    pub(super) cookie: String,
    pub(super) names: Vec<String>,
}

impl RabbitMq {
    pub(super) fn new(home: &Arc<Home>, config: &PairConfig) -> anyhow::Result<Self> {
        let port = home.ports().amqp;
        Ok(Self {
            folder: home.subfolder("rabbitmq")?,
            home: Arc::clone(home),
            scripts: binaries::rabbitmq()?,
            vhosts: config.vhosts,
            metrics: config.metrics,
            amqp10: config.amqp10,
            management: config.management,
            url: Url::parse(&format!("amqp://posthorn:posthorn@127.0.0.1:{port}/%2f"))?,
            member: None,
        })
    }

    /// The same node as one of a cluster.
    pub(super) fn joining(mut self, member: &Member) -> anyhow::Result<Self> {
        self.home.write("rabbitmq/.erlang.cookie", &member.cookie)?;
        self.member = Some(member.clone());
        Ok(self)
    }

    fn settings(&self) -> String {
        let mut settings = String::new();
        let mut set = |name: &str, value: &str| {
            // Can't fail: this writes to memory.
            let _ = writeln!(settings, "{name} = {value}");
        };
        set(
            "listeners.tcp.1",
            &format!("127.0.0.1:{}", self.home.ports().amqp),
        );
        set("loopback_users", "none");
        set("disk_free_limit.absolute", "50MB");
        set("vm_memory_high_watermark.relative", "0.4");
        set("log.console.level", "info");
        set("definitions.import_backend", "local_filesystem");
        set(
            "definitions.local.path",
            &self.folder.join("definitions.json").to_string_lossy(),
        );
        set("definitions.skip_if_unchanged", "true");
        if self.metrics {
            set("prometheus.tcp.ip", "127.0.0.1");
            set(
                "prometheus.tcp.port",
                &self.home.ports().metrics.to_string(),
            );
            // How often its own counts are taken together, in milliseconds.
            set("collect_statistics_interval", "1000");
        }
        if self.management != Management::Off {
            set("management.tcp.ip", "127.0.0.1");
            set(
                "management.tcp.port",
                &self.home.ports().management.to_string(),
            );
        }
        match self.management {
            Management::Off => {}
            Management::Objects => set("management_agent.disable_metrics_collector", "true"),
            // So that the API shows a change soon, in milliseconds.
            Management::Statistics => set("collect_statistics_interval", "1000"),
        }
        if let Some(member) = &self.member {
            set("cluster_formation.peer_discovery_backend", "classic_config");
            for (number, name) in (1..).zip(&member.names) {
                set(
                    &format!("cluster_formation.classic_config.nodes.{number}"),
                    name,
                );
            }
        }
        settings.push_str(RECOMMENDED);
        settings
    }

    fn definitions(&self) -> String {
        let names: Vec<String> = std::iter::once("/".to_owned())
            .chain((0..self.vhosts).map(|number| format!("t{number}")))
            .collect();
        let vhosts: Vec<_> = names.iter().map(|name| json!({ "name": name })).collect();
        let permissions: Vec<_> = names
            .iter()
            .map(|name| {
                json!({
                    "user": "posthorn", "vhost": name,
                    "configure": ".*", "write": ".*", "read": ".*",
                })
            })
            .collect();
        json!({
            "users": [{ "name": "posthorn", "password": "posthorn", "tags": "administrator" }],
            "vhosts": vhosts,
            "permissions": permissions,
        })
        .to_string()
    }

    /// Runs one of RabbitMQ's scripts, with the location of every file. Files that
    /// don't exist are named too, because the script would read the system's files
    /// instead.
    fn script(&self, name: &str, server: Option<&str>) -> Command {
        let ports = self.home.ports();
        let member = self.member.as_ref();
        let epmd = member.map_or(ports.epmd, |member| member.epmd);
        let mut command = self.home.command(&self.scripts.join(name), server);
        command
            // The cookie is in HOME.
            .env("HOME", &self.folder)
            .current_dir(&self.folder)
            .env("RABBITMQ_NODENAME", &self.home.memory().node)
            .env("RABBITMQ_DIST_PORT", ports.distribution.to_string())
            .env("ERL_EPMD_PORT", epmd.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_CRASH_DUMP_SECONDS", "0")
            .env("RABBITMQ_MNESIA_BASE", self.data())
            .env("RABBITMQ_LOG_BASE", self.folder.join("log"))
            // Standard output, which goes to our log file.
            .env("RABBITMQ_LOGS", "-")
            .env("RABBITMQ_PID_FILE", self.folder.join("pid"))
            .env("RABBITMQ_CONFIG_FILE", self.folder.join("rabbitmq.conf"))
            .env("RABBITMQ_CONFIG_FILES", self.folder.join("none.d"))
            .env(
                "RABBITMQ_ADVANCED_CONFIG_FILE",
                self.folder.join("none.config"),
            )
            .env("RABBITMQ_CONF_ENV_FILE", self.folder.join("none-env.conf"))
            .env(
                "RABBITMQ_ENABLED_PLUGINS_FILE",
                self.folder.join("enabled_plugins"),
            )
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", ERLANG)
            .env("RABBITMQ_CTL_ERL_ARGS", ERLANG)
            // Makes the script `exec` the Erlang VM. Otherwise it would stay as its
            // parent and handle signals with a slow `rabbitmqctl`.
            .env("RUNNING_UNDER_SYSTEMD", "true");
        command
    }
}

impl Recipe for RabbitMq {
    const NAME: &'static str = "rabbitmq";
    const STOP: Signal = Signal::TERM;

    fn url(&self) -> Url {
        self.url.clone()
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    async fn prepare(&self, say: &Progress) -> anyhow::Result<()> {
        self.home
            .write("rabbitmq/rabbitmq.conf", &self.settings())?;
        self.home
            .write("rabbitmq/definitions.json", &self.definitions())?;
        let plugins: Vec<_> = [
            (self.metrics, "rabbitmq_prometheus"),
            (self.management != Management::Off, "rabbitmq_management"),
            (self.amqp10, "rabbitmq_amqp1_0"),
        ]
        .into_iter()
        .filter_map(|(is_wanted, plugin)| is_wanted.then_some(plugin))
        .collect();
        let plugins = format!("[{}].\n", plugins.join(","));
        self.home.write("rabbitmq/enabled_plugins", &plugins)?;
        // An interrupted first start leaves an incomplete database.
        if self.data().exists() && !self.data().join("complete").exists() {
            fs::remove_dir_all(self.data()).context("deleting an unfinished RabbitMQ database")?;
        }
        if !self.data().exists() {
            say("creating a RabbitMQ database");
        }
        Ok(())
    }

    fn command(&self) -> Command {
        self.script("rabbitmq-server", Some(Self::NAME))
    }

    async fn answers(&self) -> bool {
        let greeting = greets(self.home.ports().amqp);
        matches!(
            tokio::time::timeout(Duration::from_secs(2), greeting).await,
            Ok(Ok(true))
        )
    }

    fn started(&self) -> anyhow::Result<()> {
        self.home.write("rabbitmq/data/complete", "")?;
        Ok(())
    }
}

impl Server<RabbitMq> {
    /// Where its metrics are, if [`super::PairConfig::metrics`] asked for them.
    ///
    /// # Errors
    /// If the server isn't ours.
    pub fn metrics_address(&self) -> anyhow::Result<String> {
        let port = self.recipe()?.home.ports().metrics;
        Ok(format!("127.0.0.1:{port}"))
    }

    /// The URL of its management API, if [`super::PairConfig::management`] asked for it.
    ///
    /// # Errors
    /// If the server isn't ours.
    pub fn management_url(&self) -> anyhow::Result<String> {
        let port = self.recipe()?.home.ports().management;
        Ok(format!("http://posthorn:posthorn@127.0.0.1:{port}"))
    }

    /// The URL of one vhost: `/`, or `t0` and so on.
    #[must_use]
    pub fn amqp_url(&self, vhost: &str) -> String {
        self.url_with_path(vhost)
    }

    /// Makes sure that a kill loses no queue declared so far. Takes as long as
    /// `rabbitmqctl`.
    ///
    /// RabbitMQ (3.10.8 at least) confirms a quorum queue's declaration, and
    /// messages in it, up to 3 s before the queue's name is on disk, because of the
    /// write cache of Erlang's `dets`. If it is killed before that, it starts with a
    /// queue that has lost its messages and answers nothing. An older queue keeps
    /// every confirmed message.
    pub async fn flush_declarations(&self) -> anyhow::Result<()> {
        let flush = "[dets:sync(T) || T <- dets:all()], ok.";
        self.rabbitmqctl(&["eval", flush]).await.map(drop)
    }

    /// A shell script that runs one of RabbitMQ's commands (`rabbitmqctl`,
    /// `rabbitmq-diagnostics`) against this node, from anywhere.
    pub fn command_script(&self, name: &str) -> anyhow::Result<String> {
        let quoted = |text: &std::ffi::OsStr| {
            let text = text.to_string_lossy().replace('\'', r"'\''");
            format!("'{text}'")
        };
        let command = self.recipe()?.script(name, None);
        let mut script = "#!/bin/sh\n".to_owned();
        for (variable, value) in command.get_envs() {
            if let Some(value) = value {
                let variable = variable.to_string_lossy();
                script.push_str(&format!("export {variable}={}\n", quoted(value)));
            }
        }
        let words: Vec<_> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(quoted)
            .collect();
        script.push_str(&format!("exec {} \"$@\"\n", words.join(" ")));
        Ok(script)
    }

    /// Runs `rabbitmqctl` against this node and returns what it printed. Takes
    /// a second or two of processor time: not for loops.
    pub async fn rabbitmqctl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = self.recipe()?.script("rabbitmqctl", None);
        command
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let output = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .output()
            .await
            .context("running rabbitmqctl")?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "rabbitmqctl {}: {}\n{printed}{}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(printed)
    }
}

/// Whether the server answers a protocol header with `Connection.Start`: a method
/// frame on channel 0, class 10, method 10.
async fn greets(port: u16) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.write_all(b"AMQP\0\0\x09\x01").await?;
    let mut frame = [0; 11];
    stream.read_exact(&mut frame).await?;
    Ok(frame[..3] == [1, 0, 0] && frame[7..] == [0, 10, 0, 10])
}

//! Three private RabbitMQ nodes in one cluster, and a balancer in front of them.
//!
//! Each node is a server like the pair's, with its own folder, so it can be killed and started
//! again alone. What they share is the cookie and the port mapper (`epmd`), which is a process
//! of its own: a killed node must not take the others' names away. The nodes reach each other by
//! proxies ([`super::network`]), so a test can cut one of them off. Clients connect to the
//! balancer, which leads each connection to a node that speaks AMQP: one that hangs accepts
//! connections all the same, because its kernel does.

use std::path::Path;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::home::Home;
use super::network::{Network, Station};
use super::rabbitmq::{Member, RabbitMq};
use super::server::Server;
use super::watchdog::Watchdog;
use super::{PairConfig, Progress};

const NODES: usize = 3;
/// How long a node may take to answer the balancer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// What a client of AMQP 0-9-1 says first. A node answers with its first frame.
const PROTOCOL_HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";

/// A running cluster. Dropping this kills it.
pub struct Cluster {
    balancing: JoinHandle<()>,
    address: String,
    nodes: Vec<Node>,
    network: Network,
    epmd: Child,
}

/// A node with its folder. The order of the fields is the order of dropping.
struct Node {
    server: Server<RabbitMq>,
    watchdog: Watchdog,
    home: Arc<Home>,
}

impl Cluster {
    /// Starts the nodes, one after the other, in folders below this one.
    ///
    /// # Errors
    /// If one doesn't start within three minutes.
    pub async fn start(folder: &Path) -> anyhow::Result<Self> {
        let say: Progress = Arc::new(|_| ());
        let mut homes = Vec::new();
        for number in 0..NODES {
            let home = Home::open(&folder.join(format!("node{number}")), &say).await?;
            homes.push(Arc::new(home));
        }
        let member = Member {
            epmd: homes[0].ports().epmd,
            cookie: format!("{:032x}", fastrand::u128(..)),
            names: homes
                .iter()
                .map(|home| home.memory().node.clone())
                .collect(),
        };
        let epmd = homes[0]
            .command(Path::new("epmd"), Some("epmd"))
            .args(["-address", "127.0.0.1", "-port", &member.epmd.to_string()])
            .spawn()
            .context("starting epmd")?;
        let stations = homes.iter().map(|home| Station {
            name: short_name(&home.memory().node).to_owned(),
            port: home.ports().distribution,
        });
        let stations: Vec<_> = stations.collect();
        let network = Network::start(member.epmd, &stations).await?;
        let config = PairConfig::new(folder);
        let mut nodes = Vec::new();
        for (number, home) in homes.into_iter().enumerate() {
            let watchdog = Watchdog::start(&home)?;
            let member = Member {
                epmd: network.mapper(number),
                ..member.clone()
            };
            let recipe = RabbitMq::new(&home, &config)?.joining(&member)?;
            let server = Server::private(recipe, &home, &say);
            nodes.push(Node {
                server,
                watchdog,
                home,
            });
        }
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let ports = nodes.iter().map(|node| node.home.ports().amqp).collect();
        let cluster = Self {
            balancing: tokio::spawn(balance(listener, ports)),
            address,
            nodes,
            network,
            epmd,
        };
        for node in &cluster.nodes {
            node.server.start_again().await?;
        }
        Ok(cluster)
    }

    /// Leads to any node.
    #[must_use]
    pub fn url(&self) -> String {
        format!("amqp://posthorn:posthorn@{}/%2f", self.address)
    }

    #[must_use]
    pub fn node(&self, number: usize) -> &Server<RabbitMq> {
        &self.nodes[number].server
    }

    /// The number of the node that leads a queue, and how many of its replicas are online.
    ///
    /// # Errors
    /// If no node that runs knows it.
    pub async fn leader(&self, queue: &str) -> anyhow::Result<(usize, usize)> {
        let mut error = anyhow::anyhow!("no node");
        for node in &self.nodes {
            let arguments = ["list_queues", "--quiet", "--formatter", "json"];
            let columns = ["name", "leader", "online"];
            match node
                .server
                .rabbitmqctl(&[&arguments[..], &columns[..]].concat())
                .await
            {
                Ok(printed) => return self.find(&printed, queue),
                Err(failed) => error = failed,
            }
        }
        Err(error)
    }

    fn find(&self, printed: &str, queue: &str) -> anyhow::Result<(usize, usize)> {
        let queues: Vec<Value> = serde_json::from_str(printed).context("a list of queues")?;
        let found = queues.iter().find(|one| one["name"] == queue);
        let found = found.with_context(|| format!("there is no queue {queue}"))?;
        let online = found["online"].as_array().map_or(0, Vec::len);
        let names = self
            .nodes
            .iter()
            .map(|node| node.home.memory().node.as_str());
        let leader = names.enumerate().find(|(_, name)| found["leader"] == *name);
        let (leader, _) = leader.with_context(|| format!("{queue} has no leader"))?;
        Ok((leader, online))
    }

    /// Cuts a node off from the other nodes until it is restarted, as a network does that parts them.
    /// Clients reach all of them as before. The node has another cookie for the others from now on,
    /// so they and it refuse each other's connections.
    ///
    /// # Errors
    /// If the node can't be told.
    pub async fn cut_off(&self, number: usize) -> anyhow::Result<()> {
        let others = self.nodes.iter().enumerate();
        let others = others.filter(|(other, _)| *other != number);
        let others: Vec<_> = others
            .map(|(_, node)| format!("'{}'", node.home.memory().node))
            .collect();
        // All of its connections end at once. If they ended one by one, the third node could pause
        // as well, because it reaches both.
        let cut_off = format!(
            "[begin erlang:set_cookie(N, cut_off), erlang:disconnect_node(N) end || N <- [{}]].",
            others.join(", ")
        );
        let node = &self.nodes[number].server;
        node.rabbitmqctl(&["eval", &cut_off]).await.map(drop)
    }

    /// Cuts a node off from the other nodes until [`Cluster::heal`], as a pulled cable does:
    /// connections stay open, and nothing passes. Clients reach all nodes as before.
    pub fn partition(&self, number: usize) {
        self.network.cut_off(number);
    }

    /// The nodes reach each other again. A node that was cut off has to be restarted
    /// (docs/reliability.md).
    pub fn heal(&self) {
        self.network.heal();
    }

    /// Whether RabbitMQ runs on a node. A node of a minority pauses: Erlang runs, RabbitMQ doesn't.
    ///
    /// # Errors
    /// If Erlang doesn't run, either.
    pub async fn is_running(&self, number: usize) -> anyhow::Result<bool> {
        let asked = self.nodes[number]
            .server
            .rabbitmqctl(&["eval", "rabbit:is_running()."])
            .await?;
        Ok(asked.trim() == "true")
    }

    /// Kills all nodes and deletes their folders.
    ///
    /// # Errors
    /// If a folder can't be deleted.
    pub async fn discard(mut self) -> anyhow::Result<()> {
        self.balancing.abort();
        for node in &self.nodes {
            node.server.kill().await?;
        }
        // It may have ended.
        let _ = self.epmd.kill();
        self.epmd.wait()?;
        for node in std::mem::take(&mut self.nodes) {
            let Node {
                server,
                watchdog,
                home,
            } = node;
            drop(server);
            watchdog.dismiss().await;
            home.delete()?;
        }
        Ok(())
    }

    /// Waits until all replicas of a queue are online.
    ///
    /// # Errors
    /// If that takes more than a minute.
    pub async fn is_whole(&self, queue: &str) -> anyhow::Result<()> {
        for _ in 0..60 {
            if self
                .leader(queue)
                .await
                .is_ok_and(|(_, online)| online == NODES)
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        ensure!(false, "{queue} doesn't get all of its replicas back");
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.balancing.abort();
        let _ = self.epmd.kill();
        let _ = self.epmd.wait();
    }
}

/// A node's name without the host, as the port mapper knows it.
fn short_name(node: &str) -> &str {
    node.split_once('@').map_or(node, |(name, _)| name)
}

/// Leads connections to the first node that answers; each connection begins its search
/// elsewhere.
async fn balance(listener: TcpListener, ports: Vec<u16>) {
    while let Ok((mut client, _)) = listener.accept().await {
        let mut ports = ports.clone();
        fastrand::shuffle(&mut ports);
        tokio::spawn(async move {
            for port in ports {
                let probing = tokio::time::timeout(PROBE_TIMEOUT, probe(port));
                let Ok(Ok(())) = probing.await else {
                    continue;
                };
                if let Ok(mut node) = TcpStream::connect(("127.0.0.1", port)).await {
                    // Either end may break off.
                    let _ = copy_bidirectional(&mut client, &mut node).await;
                    return;
                }
            }
        });
    }
}

/// Whether a node speaks AMQP.
async fn probe(port: u16) -> std::io::Result<()> {
    let mut node = TcpStream::connect(("127.0.0.1", port)).await?;
    node.write_all(PROTOCOL_HEADER).await?;
    node.read_u8().await.map(|_| ())
}

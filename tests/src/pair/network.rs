//! The network between the nodes of a cluster. A test can cut one node off from the others.
//!
//! Erlang's nodes ask a port mapper (`epmd`) where the other nodes listen. Here each node has a
//! mapper of its own. It passes every request on to the real one, and changes two answers: instead
//! of another node's port it names the port of a proxy, which leads to that node, and the list of
//! all names begins with the mapper's own port, as Erlang expects. So there is a proxy for each pair
//! of nodes and each direction, and neither Erlang nor RabbitMQ notices. This needs no privilege,
//! unlike rules of a firewall or network namespaces.
//!
//! A node is told its own port as it is. So `rabbitmqctl`, which asks its node's mapper, reaches
//! its node also while that is cut off.

use std::collections::HashMap;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::proxy::{End, Proxy, Way};

/// A request of the mapper's protocol: the port of the node with this name.
const PORT_PLEASE2_REQ: u8 = 122;
/// The beginning of its answer, if the node is known. The port follows.
const PORT2_RESP_OK: [u8; 2] = [119, 0];

/// A request for all names. The answer begins with the port that the mapper listens on, in four
/// bytes; Erlang refuses it if that isn't the port that it has asked.
const NAMES_REQ: u8 = 110;

/// A node, as the mapper knows it.
pub(super) struct Station {
    /// The node's name without the host.
    pub(super) name: String,
    /// Where it listens for other nodes.
    pub(super) port: u16,
}

/// Ends, with all connections between nodes, when dropped.
pub(super) struct Network {
    wires: Vec<Wire>,
    mappers: Vec<Mapper>,
}

/// What one node sends to another over connections that it has opened, and the answers.
struct Wire {
    from: usize,
    to: usize,
    proxy: Proxy,
}

struct Mapper {
    port: u16,
    answering: JoinHandle<()>,
}

impl Network {
    /// Starts the proxies and mappers. `epmd`: the port of the real port mapper.
    pub(super) async fn start(epmd: u16, stations: &[Station]) -> anyhow::Result<Self> {
        let mut network = Self {
            wires: Vec::new(),
            mappers: Vec::new(),
        };
        for from in 0..stations.len() {
            let mut ports = HashMap::new();
            for (to, station) in stations.iter().enumerate() {
                if to == from {
                    continue;
                }
                let proxy = Proxy::to(&format!("127.0.0.1:{}", station.port)).await?;
                ports.insert(station.name.clone().into_bytes(), proxy.address().port());
                network.wires.push(Wire { from, to, proxy });
            }
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            network.mappers.push(Mapper {
                port: listener.local_addr()?.port(),
                answering: tokio::spawn(answer_all(listener, epmd, ports)),
            });
        }
        Ok(network)
    }

    /// The port of a node's own port mapper.
    pub(super) fn mapper(&self, number: usize) -> u16 {
        self.mappers[number].port
    }

    /// Nothing passes between this node and the others. No connection ends: as with a pulled
    /// cable, each side has to find out by itself.
    pub(super) fn cut_off(&self, number: usize) {
        for wire in &self.wires {
            if wire.from == number || wire.to == number {
                wire.proxy.set(Way::Stalled, Way::Stalled);
            }
        }
    }

    /// Every node reaches every other again. What was stalled never arrives.
    pub(super) fn heal(&self) {
        for wire in &self.wires {
            wire.proxy.end(End::Reset);
            wire.proxy.clear();
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for mapper in &self.mappers {
            mapper.answering.abort();
        }
    }
}

async fn answer_all(listener: TcpListener, epmd: u16, ports: HashMap<Vec<u8>, u16>) {
    while let Ok((client, _)) = listener.accept().await {
        let ports = ports.clone();
        tokio::spawn(async move {
            // Either end may break off.
            let _ = answer(client, epmd, &ports).await;
        });
    }
}

/// Answers one request. A node that registers itself stays connected for as long as it lives.
async fn answer(
    mut client: TcpStream,
    epmd: u16,
    ports: &HashMap<Vec<u8>, u16>,
) -> std::io::Result<()> {
    let length = client.read_u16().await?;
    let mut request = vec![0; usize::from(length)];
    client.read_exact(&mut request).await?;
    let mut real = TcpStream::connect(("127.0.0.1", epmd)).await?;
    real.write_u16(length).await?;
    real.write_all(&request).await?;
    let own = client.local_addr()?.port();
    // What stands in the answer instead of what the real mapper says: from which byte on, and what.
    let changed = match request.split_first() {
        Some((&PORT_PLEASE2_REQ, name)) => ports
            .get(name)
            .map(|proxy| (PORT2_RESP_OK.len(), proxy.to_be_bytes().to_vec())),
        Some((&NAMES_REQ, _)) => Some((0, u32::from(own).to_be_bytes().to_vec())),
        _ => None,
    };
    let Some((from, bytes)) = changed else {
        return copy_bidirectional(&mut client, &mut real).await.map(drop);
    };
    let mut reply = Vec::new();
    real.read_to_end(&mut reply).await?;
    let is_changed = from == 0 || reply.starts_with(&PORT2_RESP_OK);
    if is_changed && let Some(part) = reply.get_mut(from..from + bytes.len()) {
        part.copy_from_slice(&bytes);
    }
    client.write_all(&reply).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A port mapper that knows one node, at port 5.
    async fn a_mapper() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let length = client.read_u16().await.unwrap();
                let mut request = vec![0; usize::from(length)];
                client.read_exact(&mut request).await.unwrap();
                let reply: &[u8] = match request[0] {
                    PORT_PLEASE2_REQ => &[119, 0, 0, 5, 77],
                    _ => b"\0\0\0\x04name one at port 5\n",
                };
                client.write_all(reply).await.unwrap();
            }
        });
        port
    }

    async fn ask(mapper: u16, request: &[u8]) -> Vec<u8> {
        let mut client = TcpStream::connect(("127.0.0.1", mapper)).await.unwrap();
        client.write_u16(request.len() as u16).await.unwrap();
        client.write_all(request).await.unwrap();
        let mut reply = Vec::new();
        client.read_to_end(&mut reply).await.unwrap();
        reply
    }

    /// Two nodes that greet whoever connects.
    async fn stations() -> [Station; 2] {
        let mut ports = Vec::new();
        for _ in 0..2 {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            ports.push(listener.local_addr().unwrap().port());
            tokio::spawn(async move {
                while let Ok((mut client, _)) = listener.accept().await {
                    client.write_all(b"hello").await.unwrap();
                }
            });
        }
        [("one", 0), ("two", 1)].map(|(name, number)| Station {
            name: name.to_owned(),
            port: ports[number],
        })
    }

    #[tokio::test]
    async fn a_node_gets_its_own_port_and_proxies_to_the_others() {
        let stations = stations().await;
        let network = Network::start(a_mapper().await, &stations).await.unwrap();
        let first = network.mapper(0);
        assert_eq!(ask(first, b"zone").await, [119, 0, 0, 5, 77]);
        let names = ask(first, b"n").await;
        assert_eq!(names[..4], u32::from(first).to_be_bytes());
        assert_eq!(&names[4..], b"name one at port 5\n");
        let reply = ask(first, b"ztwo").await;
        let port = u16::from_be_bytes([reply[2], reply[3]]);
        assert_eq!(
            (port, reply[4]),
            (network.wires[0].proxy.address().port(), 77)
        );
        assert_ne!(port, stations[1].port);
    }

    #[tokio::test]
    async fn nothing_passes_to_or_from_a_node_that_is_cut_off_until_it_is_healed() {
        let stations = stations().await;
        let network = Network::start(a_mapper().await, &stations).await.unwrap();
        let greets = async |wire: &Wire| {
            let mut stream = TcpStream::connect(wire.proxy.address()).await.unwrap();
            let mut greeting = [0; 5];
            let greeting = stream.read_exact(&mut greeting);
            let patience = std::time::Duration::from_millis(300);
            matches!(tokio::time::timeout(patience, greeting).await, Ok(Ok(_)))
        };
        network.cut_off(1);
        for wire in &network.wires {
            assert!(!greets(wire).await, "{} to {}", wire.from, wire.to);
        }
        network.heal();
        for wire in &network.wires {
            assert!(greets(wire).await, "{} to {}", wire.from, wire.to);
        }
    }
}

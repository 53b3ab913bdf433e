//! A TCP proxy that injects network faults: it cuts, resets, stalls or slows
//! connections, in either direction.
//!
//! It stands between two processes of a test. Both see only sockets. It looks at the bytes
//! that it carries only if a test asks it to lose the answer to a certain request
//! ([`Proxy::lose_answer`]).
//!
//! A stall is the fault that nobody is notified of: connections stay open, new ones
//! are accepted, but no bytes move until the stall is over. Then all of them arrive.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, broadcast, watch};
use tokio::task::JoinHandle;
use url::Url;

/// How many bytes are read at a time.
const CHUNK: usize = 64 * 1024;

/// The state of one direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Way {
    /// As if the proxy weren't there.
    #[default]
    Clear,
    /// No byte passes until the direction is clear again.
    Stalled,
    /// Every chunk takes this long, one after the other.
    Slow(Duration),
}

/// How the proxy ends connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With FIN, as when a process exits.
    Cut,
    /// With RST, as when a machine has forgotten the connection.
    Reset,
}

/// Both directions: from the client to the server, and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Ways {
    there: Way,
    back: Way,
}

/// A running proxy. Ends, with its connections, when dropped.
pub struct Proxy {
    address: SocketAddr,
    ways: Arc<watch::Sender<Ways>>,
    ends: broadcast::Sender<End>,
    open: Arc<AtomicUsize>,
    trap: Arc<Trap>,
    accepting: JoinHandle<()>,
}

/// Waits for a connection on which the client sends one text and later another.
#[derive(Default)]
struct Trap {
    set: Mutex<Option<(Vec<u8>, Vec<u8>)>>,
    lost: AtomicUsize,
}

impl Trap {
    fn set(&self) -> std::sync::MutexGuard<'_, Option<(Vec<u8>, Vec<u8>)>> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The part of a connection's data that the trap needs.
#[derive(Default)]
struct Said {
    /// The end of the data so far: a text may arrive in two chunks.
    tail: Vec<u8>,
    /// Whether the first text was sent.
    first: bool,
}

impl Said {
    /// Whether this chunk completes what the trap waits for. If so, the trap is
    /// removed.
    fn springs(&mut self, chunk: &[u8], trap: &Trap) -> bool {
        let mut set = trap.set();
        let Some((first, then)) = set.as_ref() else {
            return false;
        };
        self.tail.extend_from_slice(chunk);
        if !self.first
            && let Some(at) = find(&self.tail, first)
        {
            self.first = true;
            self.tail.drain(..at + first.len());
        }
        if self.first && find(&self.tail, then).is_some() {
            *set = None;
            return true;
        }
        let kept = first.len().max(then.len());
        self.tail.drain(..self.tail.len().saturating_sub(kept));
        false
    }
}

fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).position(|part| part == word)
}

impl Proxy {
    /// Starts a proxy in front of the server that a URL names. Also returns the URL that leads
    /// to the proxy.
    ///
    /// # Errors
    /// If the URL has no port, or the proxy can't listen.
    pub async fn before(url: &str) -> anyhow::Result<(Self, String)> {
        let mut url = Url::parse(url)?;
        let port = url.port().context("the URL has no port")?;
        let proxy = Self::to(&format!("127.0.0.1:{port}")).await?;
        let is_set = url.set_port(Some(proxy.address().port())).is_ok();
        anyhow::ensure!(is_set, "{url} can't have a port");
        Ok((proxy, url.into()))
    }

    /// Starts a proxy in front of this `host:port`.
    pub async fn to(target: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let ways = Arc::new(watch::Sender::new(Ways::default()));
        let (ends, _) = broadcast::channel(4);
        let open = Arc::new(AtomicUsize::new(0));
        let trap = Arc::new(Trap::default());
        let accepting = tokio::spawn({
            let (target, ways, ends) = (target.to_owned(), ways.clone(), ends.clone());
            let (open, trap) = (open.clone(), trap.clone());
            async move {
                while let Ok((near, _)) = listener.accept().await {
                    // Subscribed before the first await, so that an end that follows
                    // isn't missed.
                    let (ways, ends) = (ways.subscribe(), ends.subscribe());
                    let (target, open, trap) = (target.clone(), open.clone(), trap.clone());
                    tokio::spawn(async move {
                        open.fetch_add(1, Ordering::Relaxed);
                        carry(near, &target, ways, ends, &trap).await;
                        open.fetch_sub(1, Ordering::Relaxed);
                    });
                }
            }
        });
        Ok(Self {
            address,
            ways,
            ends,
            open,
            trap,
            accepting,
        })
    }

    /// The proxy's own address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it carries now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Sets both directions, for existing connections and for new ones.
    pub fn set(&self, there: Way, back: Way) {
        self.ways.send_replace(Ways { there, back });
    }

    /// Makes both ways clear again.
    pub fn clear(&self) {
        self.set(Way::Clear, Way::Clear);
    }

    /// Loses one answer. The trap waits for the next connection on which the client
    /// sends `first` and later `then`. `then` reaches the server, the server's
    /// answer reaches only the proxy, and the proxy resets the connection.
    pub fn lose_answer(&self, first: &str, then: &str) {
        *self.trap.set() = Some((first.into(), then.into()));
    }

    /// How many answers were lost so far.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.trap.lost.load(Ordering::Relaxed)
    }

    /// Ends every connection. New ones are accepted as before.
    pub fn end(&self, how: End) {
        // Without connections nobody receives this.
        let _ = self.ends.send(how);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.end(End::Cut);
    }
}

/// Carries one connection to its end.
async fn carry(
    mut near: TcpStream,
    target: &str,
    ways: watch::Receiver<Ways>,
    mut ends: broadcast::Receiver<End>,
    trap: &Trap,
) {
    // If the server is down, the client sees a connection that is accepted and
    // closed.
    let Ok(mut far) = TcpStream::connect(target).await else {
        return;
    };
    // Pass small messages on at once.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let end = {
        let ((near_in, near_out), (far_in, far_out)) = (near.split(), far.split());
        let (mut said, sprung, lost) = (Said::default(), AtomicBool::new(false), Notify::new());
        let there = pump(
            near_in,
            far_out,
            ways.clone(),
            |ways| ways.there,
            |chunk| {
                // Checked before the chunk is passed on, so the answer can't be
                // there yet.
                if said.springs(chunk, trap) {
                    sprung.store(true, Ordering::Relaxed);
                }
                true
            },
        );
        let back = pump(
            far_in,
            near_out,
            ways,
            |ways| ways.back,
            |_| {
                let lose = sprung.load(Ordering::Relaxed);
                if lose {
                    trap.lost.fetch_add(1, Ordering::Relaxed);
                    lost.notify_one();
                }
                !lose
            },
        );
        tokio::select! {
            // One side may have finished sending while the other side still answers.
            _ = async { tokio::join!(there, back) } => End::Cut,
            () = lost.notified() => End::Reset,
            // If too many ends were missed, end the connection too.
            end = ends.recv() => end.unwrap_or(End::Cut),
        }
    };
    if end == End::Reset {
        // With this, closing discards unsent bytes and sends RST.
        let _ = (near.set_zero_linger(), far.set_zero_linger());
    }
}

/// Passes bytes on in one direction, until the sender has finished or the receiver
/// is gone. If `passes` refuses a chunk, it and all later ones are dropped.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut ways: watch::Receiver<Ways>,
    of: fn(Ways) -> Way,
    mut passes: impl FnMut(&[u8]) -> bool,
) {
    let mut chunk = vec![0; CHUNK];
    while let Ok(count) = from.read(&mut chunk).await {
        // During a stall even the end of the connection isn't passed on.
        let Ok(way) = ways
            .wait_for(|ways| of(*ways) != Way::Stalled)
            .await
            .map(|ways| of(*ways))
        else {
            break;
        };
        if let Way::Slow(by) = way {
            tokio::time::sleep(by).await;
        }
        if count > 0 && !passes(&chunk[..count]) {
            return std::future::pending().await;
        }
        if count == 0 || to.write_all(&chunk[..count]).await.is_err() {
            break;
        }
    }
    // The receiver may be gone already.
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// A connection through a proxy to an echo server.
    async fn to_an_echo() -> (Proxy, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut reading, mut writing) = stream.split();
                    let _ = tokio::io::copy(&mut reading, &mut writing).await;
                });
            }
        });
        let proxy = Proxy::to(&target).await.unwrap();
        let stream = TcpStream::connect(proxy.address()).await.unwrap();
        (proxy, stream)
    }

    async fn says_it_back(stream: &mut TcpStream) -> std::io::Result<Duration> {
        let begun = Instant::now();
        stream.write_all(b"hello").await?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await?;
        assert_eq!(&answer, b"hello");
        Ok(begun.elapsed())
    }

    #[tokio::test]
    async fn data_arrives_on_many_connections() {
        let (proxy, mut first) = to_an_echo().await;
        let mut second = TcpStream::connect(proxy.address()).await.unwrap();
        says_it_back(&mut first).await.unwrap();
        says_it_back(&mut second).await.unwrap();
        assert_eq!(proxy.open(), 2);
    }

    #[tokio::test]
    async fn data_still_arrives_after_one_side_has_finished() {
        let (_proxy, mut stream) = to_an_echo().await;
        let long = vec![7; 1_000_000];
        let (mut reading, mut writing) = stream.split();
        let mut answer = Vec::new();
        let (wrote, read) = tokio::join!(
            async {
                writing.write_all(&long).await?;
                writing.shutdown().await
            },
            reading.read_to_end(&mut answer)
        );
        wrote.unwrap();
        read.unwrap();
        assert!(answer == long);
    }

    #[tokio::test]
    async fn a_cut_ends_what_is_open_and_lets_new_ones_in() {
        let (proxy, mut stream) = to_an_echo().await;
        says_it_back(&mut stream).await.unwrap();
        proxy.end(End::Cut);
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        let mut again = TcpStream::connect(proxy.address()).await.unwrap();
        says_it_back(&mut again).await.unwrap();
    }

    #[tokio::test]
    async fn a_reset_is_seen_as_one() {
        let (proxy, mut stream) = to_an_echo().await;
        says_it_back(&mut stream).await.unwrap();
        proxy.end(End::Reset);
        let error = stream.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn one_answer_is_lost_after_it_was_given() {
        let (proxy, mut stream) = to_an_echo().await;
        proxy.lose_answer("first", "then");
        stream.write_all(b"then fir").await.unwrap();
        stream.read_exact(&mut [0; 8]).await.unwrap();
        stream.write_all(b"st").await.unwrap();
        stream.read_exact(&mut [0; 2]).await.unwrap();
        assert_eq!(proxy.lost(), 0);
        stream.write_all(b"then").await.unwrap();
        assert!(stream.read(&mut [0]).await.is_err());
        assert_eq!(proxy.lost(), 1);
        let mut again = TcpStream::connect(proxy.address()).await.unwrap();
        says_it_back(&mut again).await.unwrap();
    }

    #[tokio::test]
    async fn stalled_data_arrives_after_the_stall() {
        let (proxy, mut stream) = to_an_echo().await;
        for (there, back) in [(Way::Stalled, Way::Clear), (Way::Clear, Way::Stalled)] {
            proxy.set(there, back);
            let mut said = std::pin::pin!(says_it_back(&mut stream));
            let stalled = tokio::time::timeout(Duration::from_millis(200), &mut said).await;
            assert!(stalled.is_err());
            proxy.clear();
            assert!(said.await.unwrap() >= Duration::from_millis(200));
        }
    }

    #[tokio::test]
    async fn each_way_has_its_own_latency() {
        let (proxy, mut stream) = to_an_echo().await;
        let late = Way::Slow(Duration::from_millis(50));
        proxy.set(late, Way::Clear);
        let one = says_it_back(&mut stream).await.unwrap();
        proxy.set(late, late);
        let both = says_it_back(&mut stream).await.unwrap();
        assert!(one >= Duration::from_millis(50) && both >= Duration::from_millis(100));
    }

    #[tokio::test]
    async fn a_target_that_is_down_closes_the_connection() {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = gone.local_addr().unwrap().to_string();
        drop(gone);
        let proxy = Proxy::to(&target).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
    }
}

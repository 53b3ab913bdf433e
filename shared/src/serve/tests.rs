//! Raw sockets against a real listener, with short time limits.

use axum::routing::{get, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use std::net::IpAddr;
use std::time::Instant;

use axum::body::Bytes;

use super::connections::SLOW;
use super::*;

const SHORT: Duration = Duration::from_millis(300);
/// A time limit that no test reaches.
const LONG: Duration = Duration::from_secs(600);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

fn bounds() -> Bounds {
    Bounds {
        idle: LONG,
        head: LONG,
        body: LONG,
        answer: LONG,
        connections: 64,
        per_address: 64,
    }
}

/// A server: its address, the token that stops it, and its task.
async fn server(bounds: Bounds) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
    let app = Router::new()
        .route("/", get(async || "ok"))
        .route("/echo", post(async |body: Bytes| body))
        .route("/large", get(async || vec![0; 64 * 1024 * 1024]))
        .route(
            "/slow",
            get(async || {
                tokio::time::sleep(SHORT * 4).await;
                "slow"
            }),
        );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(serve(listener, app, bounds, stop.clone()));
    (address, stop, serving)
}

async fn connected(to: SocketAddr) -> TcpStream {
    TcpStream::connect(to).await.unwrap()
}

async fn sent(to: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = connected(to).await;
    stream.write_all(bytes).await.unwrap();
    stream
}

/// Everything that comes until the server closes the connection.
async fn rest(mut stream: TcpStream) -> String {
    let mut all = Vec::new();
    let reading = stream.read_to_end(&mut all);
    let read = tokio::time::timeout(Duration::from_secs(30), reading).await;
    // A reset is as good as a close: the connection has ended.
    let _ = read.expect("the server closes the connection");
    String::from_utf8_lossy(&all).into_owned()
}

/// Sends a request, and keeps the connection open.
async fn asked(stream: &mut TcpStream) -> io::Result<String> {
    stream.write_all(REQUEST).await?;
    let mut answer = [0; 1024];
    let read = stream.read(&mut answer).await?;
    if read == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(String::from_utf8_lossy(&answer[..read]).into_owned())
}

#[tokio::test]
async fn idle_half_sent_and_dripping_connections_are_closed() {
    let short = Bounds {
        idle: SHORT,
        head: SHORT,
        body: SHORT,
        ..bounds()
    };
    let (at, ..) = server(short).await;
    let silent = connected(at).await;
    let half = sent(at, b"GET / HTTP/1.1\r\nhost: ").await;
    let body = sent(
        at,
        b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf",
    )
    .await;
    let mut kept = connected(at).await;
    assert!(asked(&mut kept).await.unwrap().starts_with("HTTP/1.1 200"));
    // Each byte comes in time, but all of them together take too long.
    let dripping = tokio::spawn(async move {
        let mut stream = sent(at, b"GET / HTTP/1.1\r\nx-a: ").await;
        while stream.write_all(b"b").await.is_ok() {
            tokio::time::sleep(SHORT / 10).await;
        }
    });
    for stream in [silent, half, body, kept] {
        assert_eq!(rest(stream).await, "");
    }
    tokio::time::timeout(Duration::from_secs(30), dripping)
        .await
        .expect("a dripping head is cut")
        .unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_cut_and_a_slow_handler_is_not() {
    let short = Bounds {
        idle: SHORT,
        head: SHORT,
        body: SHORT,
        answer: SHORT,
        ..bounds()
    };
    let (at, ..) = server(short).await;
    let large = sent(at, b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let slow = rest(sent(at, b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await).await;
    assert!(slow.ends_with("slow"), "{slow}");
    // The client has read nothing until now. So the rest is what the kernels
    // buffered.
    let got = rest(large).await.len();
    assert!(got < 64 * 1024 * 1024, "{got} bytes");
}

#[tokio::test]
async fn a_new_connection_takes_the_place_of_the_one_that_waits_longest() {
    let few = Bounds {
        per_address: 4,
        ..bounds()
    };
    let (at, ..) = server(few).await;
    let mut oldest = sent(at, b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut stream = connected(at).await;
        asked(&mut stream).await.unwrap();
        waiting.push(stream);
    }
    for n in 0..3 {
        let mut another = connected(at).await;
        assert!(asked(&mut another).await.unwrap().contains("200 OK"), "{n}");
        assert_eq!(rest(waiting.remove(0)).await, "", "the longest goes first");
        waiting.push(another);
    }
    let mut answer = [0; 1024];
    let read = oldest.read(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..read]);
    assert!(answer.ends_with("slow"), "who is answered stays: {answer}");
}

#[tokio::test]
async fn one_address_that_takes_all_places_makes_room_for_others() {
    let mut open = Connections::new(Bounds {
        connections: 8,
        ..bounds()
    });
    let greedy: IpAddr = "203.0.113.1".parse().unwrap();
    let others: Vec<IpAddr> = (0..4).map(|n| IpAddr::from([198, 51, 100, n])).collect();
    let held: Vec<_> = (0..8).map(|_| open.admit(greedy).unwrap().1).collect();
    let admitted: Vec<_> = others
        .iter()
        .map(|other| open.admit(*other).unwrap().1)
        .collect();
    assert_eq!(held.iter().filter(|one| one.cut.is_cancelled()).count(), 4);
    assert!(admitted.iter().all(|one| !one.cut.is_cancelled()));
    assert_eq!(open.open.len(), 8);
    for connection in held.iter().chain(&admitted) {
        connection.begins(Doing::Working);
    }
    assert!(open.admit(greedy).is_none(), "all are being answered");
    // Providers assign /64 networks: all addresses of one customer count together.
    let six = |text: &str| network(text.parse().unwrap());
    assert_eq!(six("2001:db8:0:1::1"), six("2001:db8:0:1:ffff::2"));
    assert_ne!(six("2001:db8:0:1::1"), six("2001:db8:0:2::1"));
    assert_eq!(six("::ffff:192.0.2.1"), six("192.0.2.1"));
}

#[tokio::test]
async fn addresses_with_slow_clients_shut_no_other_client_out() {
    let mut open = Connections::new(Bounds {
        connections: 8,
        per_address: 4,
        ..bounds()
    });
    let slow = Instant::now() - SLOW - Duration::from_secs(1);
    let greedy = [1, 2].map(|n| IpAddr::from([203, 0, 113, n]));
    let doings = [
        Doing::Working,
        Doing::Body,
        Doing::Answering,
        Doing::Flushing,
    ];
    let mut held = Vec::new();
    for address in greedy {
        for doing in doings {
            let connection = open.admit(address).unwrap().1;
            *connection.state() = (doing, Instant::now());
            held.push((doing, connection));
        }
    }
    let other: IpAddr = "198.51.100.1".parse().unwrap();
    assert!(open.admit(other).is_none(), "nobody is slow yet");
    for (doing, connection) in &held {
        *connection.state() = (*doing, slow);
    }
    for _ in 0..3 {
        let (_, admitted) = open.admit(other).unwrap();
        admitted.begins(Doing::Working);
    }
    // The address itself may get a connection in place of a slow one of its own.
    let own = open.admit(greedy[0]);
    assert!(own.is_some_and(|(_, own)| !own.cut.is_cancelled()));
    let cut = |(_, one): &&(Doing, Arc<Connection>)| one.cut.is_cancelled();
    assert_eq!(held.iter().filter(cut).count(), 4);
    let worked_for = |(doing, _): &(Doing, _)| *doing == Doing::Working;
    assert!(!held.iter().filter(cut).any(worked_for));
    assert_eq!(open.open.len(), 8);
}

#[tokio::test]
async fn stopping_finishes_requests_in_flight_and_waits_for_no_other_client() {
    let (at, stop, serving) = server(bounds()).await;
    let mut kept = connected(at).await;
    asked(&mut kept).await.unwrap();
    let half = sent(at, b"GET / HTT").await;
    let slow = sent(at, b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut settled = connected(at).await;
    // It was accepted last, so the server knows the other connections by now.
    asked(&mut settled).await.unwrap();
    stop.cancel();
    assert!(rest(slow).await.ends_with("slow"));
    tokio::time::timeout(Duration::from_secs(30), serving)
        .await
        .expect("it ends although clients are connected")
        .unwrap();
    assert_eq!(rest(half).await + &rest(kept).await, "");
}

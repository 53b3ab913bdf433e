//! The edges of the HTTP servers and of what clients send: slow clients, headers
//! that are there twice, text that PostgreSQL can't hold.

#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use harness::service::Service;
use harness::world::World;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn connect(service: &Service, bytes: &str) -> TcpStream {
    let address = service.url("").replace("http://", "");
    let mut stream = TcpStream::connect(address).await.unwrap();
    // One that has been closed already is closed, too.
    let _ = stream.write_all(bytes.as_bytes()).await;
    stream
}

/// Reads until the server closes.
async fn rest(mut stream: TcpStream) -> String {
    let mut all = Vec::new();
    let reading = stream.read_to_end(&mut all);
    let closed = tokio::time::timeout(Duration::from_secs(60), reading).await;
    // Reset instead of closed is fine: what counts is that it ended.
    let _ = closed.expect("the server closes the connection");
    String::from_utf8_lossy(&all).into_owned()
}

#[tokio::test]
async fn five_hundred_silent_and_half_sent_connections_are_closed_and_keep_nobody_out() {
    let world = World::with(&[("HTTP_IDLE_TIMEOUT", "2")]).await;
    let (ingest, dispatcher) = (world.ingest().await, world.dispatcher().await);
    for service in [&ingest, &dispatcher] {
        let mut slow = Vec::new();
        for n in 0..500 {
            let half = [
                "",
                "GET /metrics HTT",
                "GET /metrics HTTP/1.1\r\nhost: a\r\nx-a: ",
            ];
            slow.push(connect(service, half[n % half.len()]).await);
        }
        // A client of the same address has its answer meanwhile, at once and again and again.
        for _ in 0..20 {
            let open = service.metric("posthorn_http_connections").await.unwrap();
            assert!(open <= 256.0, "{open} are open");
        }
        for stream in slow {
            assert_eq!(rest(stream).await, "");
        }
        let cut = "posthorn_http_connections_cut_total";
        assert!(service.metric(cut).await.unwrap() >= 500.0);
    }
    world.finish().await;
}

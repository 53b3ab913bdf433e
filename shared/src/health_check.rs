//! `posthorn-ingest healthy` and `posthorn-dispatcher healthy`: ask the process that
//! listens on `HTTP_ADDR` whether it is ready.
//!
//! For container health checks: an image without a shell has no `curl`. It needs no
//! other setting and no async runtime.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, ensure};

/// For connecting, and for each read and write.
const PATIENCE: Duration = Duration::from_secs(3);

/// Answers what `/readyz` says.
///
/// # Errors
/// If it doesn't answer, or not with 200.
pub fn ask(
    variable: &dyn Fn(&str) -> Option<String>,
    default: SocketAddr,
) -> anyhow::Result<String> {
    let mut address = match variable("HTTP_ADDR") {
        Some(text) => text
            .parse()
            .context("HTTP_ADDR is not an address and a port")?,
        None => default,
    };
    // Who listens everywhere is asked on this machine.
    match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)
        .with_context(|| format!("connecting to {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream
        .take(64 * 1024)
        .read_to_string(&mut answer)
        .with_context(|| format!("reading the answer of {address}"))?;
    let said = answer
        .split_once("\r\n\r\n")
        .map_or("", |(_, body)| body.trim());
    ensure!(
        answer.starts_with("HTTP/1.1 200 "),
        "{address} says: {said}"
    );
    Ok(said.to_owned())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn a_process_is_healthy_if_it_is_ready() {
        for (status, healthy) in [("200 OK", true), ("503 Service Unavailable", false)] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let server = thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 1024];
                let read = stream.read(&mut request).unwrap();
                assert!(request[..read].starts_with(b"GET /readyz "));
                write!(
                    stream,
                    "HTTP/1.1 {status}\r\nConnection: close\r\n\r\nso it is\n"
                )
                .unwrap();
            });
            let port = address.port();
            let variable = |_: &str| Some(format!("0.0.0.0:{port}"));
            let asked = ask(&variable, address);
            server.join().unwrap();
            assert_eq!(asked.is_ok(), healthy, "{asked:?}");
            let text = asked.unwrap_or_else(|error| error.to_string());
            assert!(text.ends_with("so it is"), "{text}");
        }
        let nobody = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        assert!(ask(&|_| None, nobody).is_err());
    }
}

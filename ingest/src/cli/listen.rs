//! `posthorn-ingest listen --forward http://localhost:3000`
//!
//! Creates a listener, reads the stream of its deliveries, and POSTs each to the given address
//! with the headers and the exact body that a dispatcher would send. Ctrl-C deletes the
//! listener; if that fails, the server does it after two minutes.

use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use reqwest::{Method, redirect};
use serde_json::{Value, json};
use url::Url;

use super::client::{Client, text, visible};

/// The time limit of a request to the receiver, and the pause after a stream that broke.
const TIMEOUT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_secs(2);
/// The longest line of the stream, in bytes: a delivery with its body.
const MAX_LINE: usize = 16 * 1024 * 1024;

#[derive(Args)]
pub(super) struct Options {
    /// Where deliveries are POSTed to, such as http://localhost:3000/hooks.
    #[arg(long)]
    forward: Url,
    /// A pattern of event types; may be repeated. All by default.
    #[arg(long, default_value = "*")]
    events: Vec<String>,
    /// The dialect of the deliveries; the tenant's by default.
    #[arg(long)]
    dialect: Option<String>,
    /// Sign with the secret in `POSTHORN_LISTEN_SECRET`, instead of a new one.
    #[arg(skip = std::env::var("POSTHORN_LISTEN_SECRET").ok())]
    secret: Option<String>,
}

#[allow(clippy::print_stdout)] // Printing is what this command is for.
pub(super) async fn run(api: &Client, options: Options) -> anyhow::Result<()> {
    let receiver = reqwest::Client::builder()
        .redirect(redirect::Policy::none())
        .no_proxy()
        .timeout(TIMEOUT)
        .build()?;
    let mut wanted = json!({"events": options.events});
    for (name, value) in [("dialect", options.dialect), ("secret", options.secret)] {
        if let Some(value) = value {
            wanted[name] = json!(value);
        }
    }
    let made = api
        .send(Method::POST, "/api/v1/listeners", Some(wanted.to_string()))
        .await?;
    let id = text(&made["id"]);
    println!("Listening as {id}. Deliveries go to {}.", options.forward);
    println!("They are signed with {}", text(&made["secret"]));
    let listening = Listening {
        api,
        receiver,
        forward: options.forward,
        path: format!("/api/v1/listeners/{id}/deliveries"),
    };
    let ended = tokio::select! {
        ended = listening.follow() => ended,
        stopped = tokio::signal::ctrl_c() => stopped.context("waiting for Ctrl-C"),
    };
    let path = format!("/api/v1/webhooks/{id}");
    let deleted = api.send(Method::DELETE, &path, None).await;
    ended?;
    deleted.context("the listener could not be deleted; it ends by itself within two minutes")?;
    println!("Stopped listening.");
    Ok(())
}

struct Listening<'a> {
    api: &'a Client,
    receiver: reqwest::Client,
    forward: Url,
    path: String,
}

impl Listening<'_> {
    /// Reads one stream after the other. Ends if the listener is gone.
    async fn follow(&self) -> anyhow::Result<()> {
        loop {
            let mut stream = self.api.stream(&self.path).await?;
            let mut buffer = Vec::new();
            loop {
                match stream.chunk().await {
                    Ok(Some(chunk)) => buffer.extend_from_slice(&chunk),
                    // The server ends a stream after a while.
                    Ok(None) => break,
                    Err(_) => {
                        tokio::time::sleep(PAUSE).await;
                        break;
                    }
                }
                while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = buffer.drain(..=end).collect();
                    self.line(&line).await?;
                }
                anyhow::ensure!(
                    buffer.len() <= MAX_LINE,
                    "a line of the stream has more than {MAX_LINE} bytes"
                );
            }
        }
    }

    #[allow(clippy::print_stdout)] // As above.
    async fn line(&self, line: &[u8]) -> anyhow::Result<()> {
        let line: Value = serde_json::from_slice(line).context("reading the stream")?;
        let delivery = &line["delivery"];
        let Some(body) = delivery["body"].as_str() else {
            return Ok(());
        };
        let mut request = self
            .receiver
            .post(self.forward.clone())
            .body(body.to_owned());
        for header in delivery["headers"].as_array().into_iter().flatten() {
            if let (Some(name), Some(value)) = (header[0].as_str(), header[1].as_str()) {
                request = request.header(name, value);
            }
        }
        let begun = Instant::now();
        let said = match request.send().await {
            Ok(answer) => answer.status().as_u16().to_string(),
            Err(error) if error.is_timeout() => "timed out".to_owned(),
            Err(error) if error.is_connect() => "refused the connection".to_owned(),
            Err(error) => visible(&error.to_string()),
        };
        println!(
            "{:<32} {:<36} {said} in {} ms",
            text(&delivery["event_type"]),
            text(&delivery["event_id"]),
            begun.elapsed().as_millis(),
        );
        Ok(())
    }
}

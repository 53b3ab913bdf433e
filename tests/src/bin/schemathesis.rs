//! `make schemathesis`: sends thousands of generated requests to the API, valid and
//! invalid ones, and checks every answer against the API's description.
//!
//! Schemathesis (<https://schemathesis.io>) generates the requests from `/openapi.json`.
//! `tests/schemathesis.toml` says which answers it may expect. Arguments are passed on to
//! it: `--include-path /api/v1/webhooks`, `--seed 7`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use harness::world::{TENANT, World};
use tokio::process::Command;

/// The operator's token, so that every operation can be tried.
const AUTHORIZATION: &str = "Authorization: Bearer the-operators-token-of-the-tests";

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let program = root.join(".posthorn/venv/bin/schemathesis");
    anyhow::ensure!(
        program.exists(),
        "{} is missing: run `make deps`",
        program.display()
    );

    let world = World::with(&[("API_RATE_LIMIT", "0")]).await;
    let ingest = world.ingest().await;
    let status = Command::new(program)
        .arg("--config-file")
        .arg(root.join("tests/schemathesis.toml"))
        .arg("run")
        .arg(ingest.url("/openapi.json"))
        .args(["--header", AUTHORIZATION])
        .args(["--header", &format!("X-Tenant-ID: {TENANT}")])
        .args(std::env::args().skip(1))
        // Its example database would otherwise be written into the work tree.
        .current_dir(std::env::temp_dir())
        .kill_on_drop(true)
        .status()
        .await
        .context("running schemathesis")?;
    let logs = world.logs();
    drop(ingest);
    // The generated webhooks have deliveries that are never sent.
    world.abandon().await;
    anyhow::ensure!(!logs.contains("panicked at"), "ingest panicked:\n{logs}");
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

//! The commands of docs/*.md and docs/systems/*.md do what they are printed for.
//!
//! Each fenced `sh` block is run in a shell, in the order of its page, against real
//! processes and servers of its own. `$API`, `$T`, `$W` and the other variables have the
//! values that the pages give them. A request that isn't answered with 2xx fails the test.
//!
//! A block that can't be run here says why: ` ```sh not-run="needs a cluster" `. The test
//! counts and lists these blocks. README.md's commands are run by `make run ARGS=--once`.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use harness::producer::Publication;
use harness::receiver::answering;
use harness::service::binary_path;
use harness::world::{ADMIN_TOKEN, World};
use serde_json::{Value, json};
use tokio::process::Command;

/// How many blocks aren't run. A new one needs a reason that a reviewer accepts.
const NOT_RUN: usize = 10;

/// A block of a page.
#[derive(Debug)]
struct Block {
    /// `docs/events.md:8`
    place: String,
    command: String,
    /// Why it isn't run.
    not_run: Option<String>,
}

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.canonicalize().unwrap()
}

/// The pages of a folder, and of the folders in it.
fn pages(folder: &Path) -> Vec<PathBuf> {
    let mut pages = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            pages.extend(self::pages(&path));
        } else if path.extension().is_some_and(|ending| ending == "md") {
            pages.push(path);
        }
    }
    pages.sort();
    pages
}

fn blocks() -> Vec<Block> {
    let root = root();
    let mut blocks = Vec::new();
    for page in pages(&root.join("docs")) {
        let name = page.strip_prefix(&root).unwrap().display().to_string();
        let text = std::fs::read_to_string(&page).unwrap();
        let mut open: Option<Block> = None;
        for (n, line) in text.lines().enumerate() {
            match (&mut open, line.strip_prefix("```")) {
                (None, Some(info)) if info == "sh" || info.starts_with("sh ") => {
                    let marker = info.strip_prefix("sh not-run=\"");
                    let reason = marker.and_then(|marker| marker.strip_suffix('"'));
                    assert_eq!(reason.is_some(), info != "sh", "{name}:{}: {line}", n + 1);
                    open = Some(Block {
                        place: format!("{name}:{}", n + 1),
                        command: String::new(),
                        not_run: reason.map(str::to_owned),
                    });
                }
                (Some(block), None) => block.command += &format!("{line}\n"),
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (None, _) => {}
            }
        }
    }
    blocks
}

/// A folder with programs that stand before those of the machine: `curl` that fails unless
/// it is answered with 2xx, and RabbitMQ's commands for the test's own node.
fn programs(world: &World, folder: &Path) {
    let rabbitmq = world.pair.as_ref().unwrap().rabbitmq();
    let curl = "#!/bin/sh\nexec /usr/bin/curl --fail-with-body \"$@\"\n".to_owned();
    let of_rabbitmq = |name| rabbitmq.command_script(name).unwrap();
    for (name, script) in [
        ("curl", curl),
        ("rabbitmqctl", of_rabbitmq("rabbitmqctl")),
        ("rabbitmq-diagnostics", of_rabbitmq("rabbitmq-diagnostics")),
    ] {
        let path = folder.join(name);
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }
}

#[tokio::test]
async fn every_command_of_the_docs_is_run_as_printed_or_says_why_not() {
    let world = World::with_own_servers(&[]).await;
    let (ingest, _dispatcher) = (world.ingest().await, world.dispatcher().await);
    let shop = world.receiver(answering(200)).await;
    let webhook = world.webhook(&ingest, &shop, json!({})).await;
    for id in ["first", "second"] {
        world
            .publish("order.created", id, &json!({"total": 25}))
            .await;
    }
    let later = Publication::json("later", "order.created", "evt-1", r#"{"price":25.00}"#);
    world.producer().await.publish(&later).await.unwrap();
    world.accepts(2).await;
    world.settles().await;
    let delivery = world.deliveries(&ingest, &webhook).await;
    let first = delivery
        .iter()
        .find(|one| one["event_id"] == "first")
        .unwrap();
    let token = world
        .command(&["token", "create", "--tenant", "acme", "--role", "manager"])
        .await;

    let folder = std::env::temp_dir().join(format!("posthorn-docs-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    programs(&world, &folder);
    // Where commands may write files.
    let work = folder.join("work");
    std::fs::create_dir_all(&work).unwrap();
    for entry in std::fs::read_dir(root()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap();
        if name != ".posthorn" {
            std::os::unix::fs::symlink(&path, work.join(name)).unwrap();
        }
    }
    // `make run` keeps the tenant's token here.
    std::fs::create_dir(work.join(".posthorn")).unwrap();
    std::fs::write(work.join(".posthorn/token"), token.trim()).unwrap();
    let ours = binary_path("posthorn-ingest").unwrap();
    let path = format!(
        "{}:{}:{}",
        folder.display(),
        ours.parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    let api = ingest.url("");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let variables = [
        ("PATH", path),
        ("API", api.clone()),
        ("T", token.trim().to_owned()),
        ("TOKEN", token.trim().to_owned()),
        ("ADMIN_TOKEN", ADMIN_TOKEN.to_owned()),
        ("W", webhook.id.clone()),
        ("D", text(&first["id"])),
        ("E", "second".to_owned()),
        ("DATABASE_URL", world.database_url().to_owned()),
        ("AMQP_URL", world.amqp_url().to_owned()),
        (
            "MASTER_KEY",
            "dGVzdHMgaGF2ZSBhIG1hc3RlciBrZXkgdG9vISEhISE=".to_owned(),
        ),
    ];
    let (mut run, mut not_run) = (0, Vec::new());
    for block in blocks() {
        if let Some(reason) = block.not_run {
            not_run.push(format!("{}: {reason}", block.place));
            continue;
        }
        let command = block
            .command
            .replace("http://127.0.0.1:8080", &api)
            .replace("http://localhost:8080", &api)
            .replace("wh_…", &webhook.id);
        let ran = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &command])
            .env_clear()
            .envs(variables.clone())
            .current_dir(&work)
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        assert!(
            ran.status.success(),
            "{}: {}\n{command}\n{}{}",
            block.place,
            ran.status,
            String::from_utf8_lossy(&ran.stdout),
            String::from_utf8_lossy(&ran.stderr)
        );
        run += 1;
    }
    eprintln!("{run} blocks were run, {} weren't:", not_run.len());
    eprintln!("{}", not_run.join("\n"));
    assert_eq!(not_run.len(), NOT_RUN, "{not_run:#?}");
    let _ = std::fs::remove_dir_all(&folder);
    world.abandon().await;
}

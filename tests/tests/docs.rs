//! The commands of docs/*.md and docs/systems/*.md do what they are printed for.
//!
//! Each fenced `sh` block is run in a shell, in the order of its page, against real
//! processes and servers of its own. `$API`, `$T`, `$W` and the other variables have the
//! values that the pages give them. A request that isn't answered with 2xx fails the test.
//!
//! A block that can't be run here says why: ` ```sh not-run="needs a cluster" `. The test
//! counts and lists these blocks. README.md's commands are run by `make run ARGS=--once`.
//!
//! What docs/scaling.md says of the schema and calculates from costs is held to both, too.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::collections::BTreeSet;
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
const NOT_RUN: usize = 13;

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
        blocks.extend(blocks_of(&name, &std::fs::read_to_string(&page).unwrap()));
    }
    blocks
}

/// The `sh` blocks of a page. A block in a list is indented, and its lines are without the
/// indentation of its fence.
fn blocks_of(name: &str, text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    // A block that is open, and its indentation. Blocks that aren't `sh` have no `Block`.
    let mut open: Option<(Option<Block>, usize)> = None;
    for (n, line) in text.lines().enumerate() {
        let unindented = line.trim_start();
        match (&mut open, unindented.strip_prefix("```")) {
            (None, Some(info)) => {
                let is_shell = info.split_whitespace().next() == Some("sh");
                let block = is_shell.then(|| {
                    let marker = info.strip_prefix("sh not-run=\"");
                    let reason = marker.and_then(|marker| marker.strip_suffix('"'));
                    assert_eq!(reason.is_some(), info != "sh", "{name}:{}: {line}", n + 1);
                    Block {
                        place: format!("{name}:{}", n + 1),
                        command: String::new(),
                        not_run: reason.map(str::to_owned),
                    }
                });
                open = Some((block, line.len() - unindented.len()));
            }
            (Some((block, indentation)), None) => {
                let indentation = (*indentation).min(line.len() - unindented.len());
                if let Some(block) = block {
                    block.command += &format!("{}\n", &line[indentation..]);
                }
            }
            (Some(_), Some(_)) => blocks.extend(open.take().and_then(|(block, _)| block)),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{name}: a block isn't closed");
    blocks
}

#[test]
fn indented_blocks_are_found_and_blocks_in_other_languages_are_not() {
    let page = "1. Text.\n\n   ```sh\n   ls \\\n     -l\n   ```\n```json\n{}\n```\n\
                ```sh not-run=\"needs a cluster\"\nrm\n```\n```shell\nno\n```\n";
    let found = blocks_of("docs/page.md", page);
    let found: Vec<_> = found
        .iter()
        .map(|block| {
            let not_run = block.not_run.as_deref();
            (block.place.as_str(), block.command.as_str(), not_run)
        })
        .collect();
    let expected = [
        ("docs/page.md:3", "ls \\\n  -l\n", None),
        ("docs/page.md:10", "rm\n", Some("needs a cluster")),
    ];
    assert_eq!(found, expected);
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

/// Tables that no tenant's rows are in, and tables whose key is the tenant under another name.
const WITHOUT_TENANTS: [&str; 7] = [
    "catalogue",
    "dead_letter_use",
    "posthorn_migrations",
    "processes",
    "queues",
    "sweep",
    "tenants",
];

#[tokio::test]
async fn the_keys_without_a_tenant_are_those_of_the_schema() {
    let world = World::start().await;
    let keys = "SELECT c.relname::text, string_agg(a.attname::text, ', ' ORDER BY k.n) FROM pg_index i \
        JOIN pg_class c ON c.oid = i.indrelid \
        CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, n) \
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum \
        WHERE i.indisunique AND NOT c.relispartition AND c.relnamespace = 'public'::regnamespace \
        GROUP BY c.relname, i.indexrelid HAVING NOT bool_or(a.attname = 'tenant')";
    let rows = world.sql().await.query(keys, &[]).await.unwrap();
    let of_schema: BTreeSet<(String, String)> = rows
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .filter(|(table, _): &(String, _)| !WITHOUT_TENANTS.contains(&table.as_str()))
        .collect();
    assert!(of_schema.len() > 10, "{of_schema:?}");

    let page = std::fs::read_to_string(root().join("docs/scaling.md")).unwrap();
    let (_, table) = page.split_once("<!-- keys -->").unwrap();
    let (table, _) = table.split_once("<!-- end -->").unwrap();
    let cell = |cell: &str| cell.trim().trim_matches('`').to_owned();
    let of_page: BTreeSet<_> = table
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.split('|').map(cell).collect::<Vec<_>>())
        .map(|cells| (cells[1].clone(), cells[2].clone()))
        .collect();
    assert_eq!(of_page, of_schema);
    world.finish().await;
}

#[test]
fn the_tables_of_scaling_follow_from_its_costs() {
    let model = root().join("deploy/capacity.py");
    let checked = std::process::Command::new("python3")
        .arg(model)
        .arg("--check")
        .output()
        .unwrap();
    assert!(checked.status.success(), "{checked:?}");
}

//! The programs in `examples/` work against the real servers.
//!
//! Each is run as its reader would run it: with the environment variables that
//! examples/README.md names, and with nothing else.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::path::{Path, PathBuf};
use std::process::Stdio;

use harness::receiver::answering;
use harness::service::{Service, binary_path, free_address, http};
use harness::world::{TENANT, Webhook, World, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What the AMQP producer in Java imports. Debian puts it here.
const JARS: [&str; 2] = [
    "/usr/share/java/amqp-client.jar",
    "/usr/share/java/slf4j-api.jar",
];

/// Where Debian puts Go packages. Go looks for imports in `src` below this folder.
const GOPATH: &str = "/usr/share/gocode";

/// The command that runs an example; `None` if this machine lacks something.
fn example(path: &str) -> Option<Command> {
    let file = root().join("examples").join(path);
    let installed = root().join(".posthorn");
    let mut needs = vec![file.clone()];
    let mut command = match file.extension().and_then(|ending| ending.to_str()) {
        Some("py") => {
            let python = installed.join("venv/bin/python");
            needs.push(python.clone());
            Command::new(python)
        }
        Some("mjs") => {
            needs.push(installed.join("node_modules/amqplib"));
            Command::new("node")
        }
        Some("java") => {
            needs.extend(JARS.map(PathBuf::from));
            let mut command = Command::new("java");
            command.args(["-classpath", &JARS.join(":")]);
            command
        }
        Some("go") => {
            needs.push(Path::new(GOPATH).join("src/github.com/rabbitmq/amqp091-go"));
            Command::new("go")
        }
        _ => panic!("{path} is in no language that this test knows"),
    };
    let program = command.as_std().get_program().to_owned();
    let runs = std::process::Command::new(&program)
        .arg("--version")
        .output()
        .is_ok();
    if !runs || !needs.iter().all(|path| path.exists()) {
        // `make deps` installs what the examples need.
        assert!(
            std::env::var_os("CI").is_none(),
            "`make deps` has not installed what examples/{path} needs"
        );
        eprintln!("SKIPPED: this machine lacks what examples/{path} needs");
        return None;
    }
    if path.ends_with("go") {
        command = compiled(&file, &installed.join("examples"));
    // An ES module looks for packages in its own folder and in the folders above.
    } else if path.ends_with("mjs") {
        let copy = installed.join("examples");
        std::fs::create_dir_all(&copy).unwrap();
        let copied = copy.join(format!("{}-{}", std::process::id(), path.replace('/', "-")));
        std::fs::copy(&file, &copied).unwrap();
        command.arg(copied);
    } else {
        command.arg(file);
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    Some(command)
}

/// A Go program. It imports the standard library, and what Debian's packages have.
fn compiled(file: &Path, folder: &Path) -> Command {
    let name = file.parent().unwrap().file_name().unwrap();
    let name = format!("{}-{}", std::process::id(), name.display());
    std::fs::create_dir_all(folder).unwrap();
    let program = folder.join(name);
    let built = std::process::Command::new("go")
        .arg("build")
        .arg("-o")
        .arg(&program)
        .arg(file)
        // Packages are looked for in that folder alone; nothing is fetched.
        .env("GO111MODULE", "off")
        .env("GOPATH", GOPATH)
        .env("GOFLAGS", "")
        .env("GOCACHE", folder.join("go-cache"))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{}: {errors}", file.display());
    Command::new(program)
}

struct Stage {
    world: World,
    ingest: Service,
    dispatcher: Service,
    token: String,
}

impl Stage {
    async fn set() -> Self {
        let world = World::start().await;
        let ingest = world.ingest().await;
        let dispatcher = world.dispatcher().await;
        let body = json!({"tenant": TENANT, "role": "manager"});
        let made = world
            .ask_as_operator(&ingest, "POST", "/api/v1/admin/tokens", Some(body))
            .await;
        assert_eq!(made.status, 201, "{}", made.body);
        let token = made.body["token"].as_str().unwrap().to_owned();
        Self {
            world,
            ingest,
            dispatcher,
            token,
        }
    }

    /// Runs a producer to its end and returns the event's id, which it printed.
    async fn publish(&self, mut producer: Command) -> String {
        let ran = producer
            .env("AMQP_URL", self.world.amqp_url())
            .env("TENANT", TENANT)
            .env("POSTHORN_URL", self.ingest.url(""))
            .env("POSTHORN_TOKEN", &self.token)
            .output()
            .await
            .unwrap();
        let errors = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{producer:?}: {errors}");
        String::from_utf8(ran.stdout).unwrap().trim().to_owned()
    }

    async fn finish(self) {
        self.world.settles().await;
        self.dispatcher.stop().await.unwrap();
        self.ingest.stop().await.unwrap();
        self.world.finish().await;
    }
}

#[tokio::test]
async fn every_producers_event_arrives_once_under_the_id_that_it_printed() {
    let stage = Stage::set().await;
    let receiver = stage.world.receiver(answering(204)).await;
    let webhook = stage
        .world
        .webhook(&stage.ingest, &receiver, json!({}))
        .await;
    let rust = Command::new(binary_path("examples/publish_amqp").unwrap());
    let others = [
        "python/publish_amqp.py",
        "python/publish_http.py",
        "javascript/publish_amqp.mjs",
        "javascript/publish_http.mjs",
        "java/PublishAmqp.java",
        "java/PublishHttp.java",
        "go/publish_amqp/main.go",
        "go/publish_http/main.go",
    ];
    let producers = others.into_iter().filter_map(example).chain([rust]);
    let mut ids = Vec::new();
    for producer in producers {
        ids.push(stage.publish(producer).await);
    }
    let arrivals = receiver.receives(ids.len()).await;
    let mut arrived: Vec<_> = arrivals
        .iter()
        .map(|arrival| {
            arrival.verify(&webhook.secret).unwrap();
            assert_eq!(arrival.json()["data"]["invoice"], "2026-0042");
            arrival.id().to_owned()
        })
        .collect();
    ids.sort();
    arrived.sort();
    assert_eq!(arrived, ids);
    stage.finish().await;
}

/// A receiver's process, listening on its own port.
struct Receiving {
    child: Child,
    url: String,
}

impl Receiving {
    async fn start(mut receiver: Command, dialect: &str, secret: &str) -> Self {
        let address = free_address().unwrap();
        let port = address.rsplit(':').next().unwrap().to_owned();
        let child = receiver
            .env("WEBHOOK_SECRET", secret)
            .env("DIALECT", dialect)
            .env("PORT", port)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let url = format!("http://{address}/");
        eventually("the example listens", async || {
            tokio::net::TcpStream::connect(&address).await.is_ok()
        })
        .await;
        Self { child, url }
    }

    /// The first body that it accepted as genuine.
    async fn accepts(&mut self) -> Value {
        let output = self.child.stdout.take().unwrap();
        let line = BufReader::new(output).lines().next_line().await.unwrap();
        serde_json::from_str(&line.unwrap()).unwrap()
    }

    async fn refuses_what_nobody_signed(&self) {
        let forged = http()
            .post(&self.url)
            .header("webhook-id", "evt_1")
            .header(
                "webhook-timestamp",
                harness::receiver::unix_now().to_string(),
            )
            .header("webhook-signature", "v1,AAAA")
            .header("x-rishi-signature", "sha256=00")
            .header("x-brainsait-signature", "00")
            .header("x-auraconnect-signature", "sha256=00")
            .header("x-webhook-signature", "00")
            .header("x-corp-astro-signature", "00")
            .body(r#"{"data": {}}"#);
        assert_eq!(forged.send().await.unwrap().status(), 401);
    }
}

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

#[tokio::test]
async fn every_receiver_accepts_what_its_dialect_signs_and_refuses_a_forgery() {
    let stage = Stage::set().await;
    let dialects = [
        "standard",
        "cloudevents",
        "rishi",
        "brainsait",
        "auraconnect",
        "jossiedb",
        "corp-astro",
    ];
    let in_all = ["python/receive.py", "javascript/receive.mjs"];
    let pairs = in_all
        .into_iter()
        .flat_map(|path| dialects.map(|dialect| (path, dialect)))
        .chain([
            ("java/Receive.java", "standard"),
            ("go/receive/main.go", "standard"),
        ]);
    for (path, dialect) in pairs {
        let Some(receiver) = example(path) else {
            continue;
        };
        let mut receiving = Receiving::start(receiver, dialect, SECRET).await;
        let body = json!({
            "url": receiving.url, "events": ["*"], "dialect": dialect, "secret": SECRET,
        });
        let made = stage
            .world
            .ask(&stage.ingest, "POST", "/api/v1/webhooks", Some(body))
            .await;
        assert_eq!(made.status, 201, "{dialect}: {}", made.body);
        let webhook = Webhook {
            id: made.body["id"].as_str().unwrap().to_owned(),
            secret: SECRET.to_owned(),
            path: "/".to_owned(),
        };
        receiving.refuses_what_nobody_signed().await;
        let id = format!("{path}-{dialect}").replace('/', "-");
        // Numbers and letters that the receiver's JSON library would write
        // differently.
        let data = json!({"price": 25.50, "tiny": 1e-7, "name": "Zoë \u{2028} \"quoted\"", "nested": {"b": [1, {}]}});
        stage.world.publish("item.created", &id, &data).await;
        let accepted = receiving.accepts().await;
        assert!(accepted["data"].is_object(), "{path} {dialect}: {accepted}");
        stage.world.settles().await;
        let deliveries = stage.world.deliveries(&stage.ingest, &webhook).await;
        assert_eq!(deliveries[0]["status"], "delivered", "{path} {dialect}");
        let path = format!("/api/v1/webhooks/{}", webhook.id);
        let gone = stage.world.ask(&stage.ingest, "DELETE", &path, None).await;
        assert_eq!(gone.status, 204);
    }
    stage.finish().await;
}

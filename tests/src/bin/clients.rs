//! `make clients-test`: generates clients from the served description and lets them walk
//! through the API against the real programs.
//!
//! First Redocly's recommended rules and Spectral's check the description: a warning is a failure.
//! Then `openapi-typescript`, `@hey-api/openapi-ts`, `openapi-python-client` and
//! `openapi-generator` (Go, Java) generate clients into `.posthorn/clients`, and the programs of `tests/clients/` use them: create, publish, deliver,
//! look, rotate, replay, delete.
//!
//! Nothing is fetched. What the clients in Go and Java import comes from Debian packages. Only
//! Jackson doesn't: the Java client takes it from `openapi-generator`'s own jar, because Debian
//! doesn't have its module for times.

#![allow(clippy::print_stdout)] // What it did is its purpose.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context;
use harness::receiver::answering;
use harness::service::http;
use harness::world::{TENANT, World};
use serde_json::{Value, json};
use tokio::process::Command;

/// What the Java client imports, except Jackson. Debian puts it here.
const JARS: &str = "/usr/share/java/httpclient5.jar:/usr/share/java/httpcore5.jar:\
                    /usr/share/java/httpcore5-h2.jar:/usr/share/java/jakarta-annotation-api.jar";

/// What a program needs to walk through the API.
struct Walk {
    address: String,
    token: String,
    /// An endpoint that takes every delivery.
    url: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let posthorn = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.posthorn");
    let posthorn = posthorn.canonicalize().context("run `make deps` first")?;
    let folder = posthorn.join("clients");
    tokio::fs::create_dir_all(&folder).await?;
    let document = folder.join("openapi.json");

    let world = World::start().await;
    let ingest = world.ingest().await;
    let _dispatcher = world.dispatcher().await;
    let shop = world.receiver(answering(200)).await;
    let served = http().get(ingest.url("/openapi.json")).send().await?;
    tokio::fs::write(&document, served.bytes().await?).await?;
    let made = json!({"tenant": TENANT, "role": "manager"});
    let made = world
        .ask_as_operator(&ingest, "POST", "/api/v1/admin/tokens", Some(made))
        .await;
    let walk = Walk {
        address: ingest.url(""),
        token: made.body["token"].as_str().context("a token")?.to_owned(),
        url: shop.url("/"),
    };

    let walked = async {
        lint(&posthorn, &document).await?;
        walk.in_typescript(&posthorn, &folder, &document).await?;
        walk.in_typescript_by_hey_api(&posthorn, &folder, &document)
            .await?;
        walk.in_python(&posthorn, &folder, &document).await?;
        let generator = Generator::find(&posthorn).await?;
        walk.in_go(&generator, &folder, &document).await?;
        walk.in_java(&generator, &folder, &document).await
    };
    let walked = walked.await;
    let arrived = shop.arrivals();
    drop(ingest);
    world.abandon().await;
    walked?;
    // Each walk has one event delivered, and replays it.
    anyhow::ensure!(arrived.len() == 10, "{} arrivals", arrived.len());
    Ok(())
}

async fn lint(posthorn: &Path, document: &Path) -> anyhow::Result<()> {
    let mut redocly = Command::new(posthorn.join("node_modules/.bin/redocly"));
    redocly
        // It has no option for failing on warnings, so its report is read.
        .args(["lint", "--extends=recommended", "--max-problems=20"])
        .arg("--format=json")
        .arg(document)
        // It would ask its maker for a newer version, and count its uses.
        .env("REDOCLY_TELEMETRY", "off")
        .env("REDOCLY_SUPPRESS_UPDATE_NOTICE", "true");
    let what = "Redocly's recommended rules";
    let report = output(what, &mut redocly).await?;
    let report: Value =
        serde_json::from_str(&report).with_context(|| format!("{what}: {report}"))?;
    let problems = &report["problems"];
    let is_clean = problems.as_array().is_some_and(Vec::is_empty);
    anyhow::ensure!(is_clean, "{what}: {problems:#}");
    println!("{what}: no warning");

    let mut spectral = Command::new(posthorn.join("node_modules/.bin/spectral"));
    spectral
        .args(["lint", "--fail-severity=warn", "--ruleset"])
        .arg(ours("spectral.yaml"))
        .arg(document);
    run("Spectral's rules", &mut spectral).await
}

/// Compiles a TypeScript file of a folder, as strictly as a careful project does.
async fn compile(what: &str, programs: &Path, folder: &Path, file: &str) -> anyhow::Result<()> {
    let mut compiler = Command::new(programs.join("tsc"));
    compiler
        .args(["--strict", "--noUncheckedIndexedAccess", "--skipLibCheck"])
        .args([
            "--target", "es2022", "--module", "nodenext", "--types", "node",
        ])
        .arg(file)
        .current_dir(folder);
    run(what, &mut compiler).await
}

impl Walk {
    async fn in_typescript(
        &self,
        posthorn: &Path,
        folder: &Path,
        document: &Path,
    ) -> anyhow::Result<()> {
        let programs = posthorn.join("node_modules/.bin");
        let types = folder.join("api.d.ts");
        let mut generate = Command::new(programs.join("openapi-typescript"));
        generate.arg(document).arg("-o").arg(&types);
        run("openapi-typescript", &mut generate).await?;

        tokio::fs::write(folder.join("package.json"), r#"{"type": "module"}"#).await?;
        let walk = folder.join("walk.ts");
        tokio::fs::copy(ours("walk.ts"), &walk).await?;
        compile("tsc", &programs, folder, "walk.ts").await?;
        let mut node = Command::new("node");
        node.arg(folder.join("walk.js"));
        run("the walk in TypeScript", self.given_to(&mut node)).await
    }

    async fn in_typescript_by_hey_api(
        &self,
        posthorn: &Path,
        folder: &Path,
        document: &Path,
    ) -> anyhow::Result<()> {
        let programs = posthorn.join("node_modules/.bin");
        let folder = folder.join("hey");
        tokio::fs::create_dir_all(&folder).await?;
        let mut generate = Command::new(programs.join("openapi-ts"));
        generate
            .args(["--no-log-file", "--input"])
            .arg(document)
            .arg("--output")
            .arg(folder.join("client"));
        run("@hey-api/openapi-ts", &mut generate).await?;

        // Its files import each other without an extension, which modules of Node.js may not.
        tokio::fs::write(folder.join("package.json"), r#"{"type": "commonjs"}"#).await?;
        tokio::fs::copy(ours("hey.ts"), folder.join("hey.ts")).await?;
        compile("tsc, @hey-api's client", &programs, &folder, "hey.ts").await?;
        let mut node = Command::new("node");
        node.arg(folder.join("hey.js"));
        run("the walk with @hey-api's client", self.given_to(&mut node)).await
    }

    async fn in_python(
        &self,
        posthorn: &Path,
        folder: &Path,
        document: &Path,
    ) -> anyhow::Result<()> {
        let programs = posthorn.join("venv/bin");
        let mut generate = Command::new(programs.join("openapi-python-client"));
        generate
            .args([
                "generate",
                "--overwrite",
                "--fail-on-warning",
                "--meta",
                "none",
                "--path",
            ])
            .arg(document)
            .arg("--output-path")
            .arg(folder.join("posthorn_client"))
            .arg("--config")
            .arg(ours("python.yaml"));
        run("openapi-python-client", &mut generate).await?;
        let mut python = Command::new(programs.join("python"));
        python.arg(ours("walk.py")).env("PYTHONPATH", folder);
        run("the walk in Python", self.given_to(&mut python)).await
    }

    async fn in_go(
        &self,
        generator: &Generator,
        folder: &Path,
        document: &Path,
    ) -> anyhow::Result<()> {
        let folder = folder.join("go");
        // Answers may have members that the description doesn't have, or doesn't have yet.
        let properties = "packageName=posthorn,withGoMod=false,enumClassPrefix=true,\
                          disallowAdditionalPropertiesIfNotPresent=false,\
                          useOneOfDiscriminatorLookup=true";
        let package = folder.join("src/posthorn");
        generator
            .run(document, "go", &package, (properties, &[]))
            .await?;
        let program = folder.join("src/walk");
        tokio::fs::create_dir_all(&program).await?;
        tokio::fs::copy(ours("walk.go"), program.join("walk.go")).await?;
        let mut build = Command::new("go");
        build
            .args(["build", "-o", "walk", "walk"])
            // Packages are looked for in folders: here, and where Debian puts them.
            .env("GO111MODULE", "off")
            .env("GOPATH", format!("{}:/usr/share/gocode", folder.display()))
            .current_dir(&folder);
        run("go build", &mut build).await?;
        let mut walk = Command::new(folder.join("walk"));
        run("the walk in Go", self.given_to(&mut walk)).await
    }

    async fn in_java(
        &self,
        generator: &Generator,
        folder: &Path,
        document: &Path,
    ) -> anyhow::Result<()> {
        let folder = folder.join("java");
        // `oneOf` becomes an interface. An answer without a tag is recognised by its members. The
        // library `native` can't do that: it finds two classes that match, and fails.
        let properties = "library=apache-httpclient,useOneOfInterfaces=true,\
                          useDeductionForOneOfInterfaces=true,openApiNullable=false,\
                          supportUrlQuery=false,useJakartaEe=true,sourceFolder=src,\
                          invokerPackage=posthorn,apiPackage=posthorn.api,\
                          modelPackage=posthorn.model";
        // A string, a number or a list can't implement an interface.
        let mappings = "OneOrMany=Object,FinishedStates=Object,RateLimitForm=Object";
        let more = ["--schema-mappings", mappings];
        generator
            .run(document, "java", &folder, (properties, &more))
            .await?;
        tokio::fs::copy(ours("Walk.java"), folder.join("Walk.java")).await?;
        let generated = folder.join(".openapi-generator/FILES");
        let generated = tokio::fs::read_to_string(generated).await?;
        let sources = generated.lines().filter(|name| name.ends_with(".java"));
        let jars = format!("{}:{JARS}", generator.jar.display());
        let mut compile = Command::new("javac");
        compile
            // The generator's jar has annotation processors, which are for its own sources.
            .args(["-proc:none", "-encoding", "UTF-8", "-d", "classes"])
            .args(["-classpath", &jars, "Walk.java"])
            .args(sources)
            .current_dir(&folder);
        run("javac", &mut compile).await?;
        let mut java = Command::new("java");
        java.args(["-classpath", &format!("classes:{jars}"), "Walk"])
            .current_dir(&folder);
        run("the walk in Java", self.given_to(&mut java)).await
    }

    fn given_to<'a>(&self, program: &'a mut Command) -> &'a mut Command {
        program.args([&self.address, &self.token, &self.url])
    }
}

/// `openapi-generator`, a program in Java that comes as a Python package.
struct Generator {
    jar: PathBuf,
}

impl Generator {
    async fn find(posthorn: &Path) -> anyhow::Result<Self> {
        let mut packages = tokio::fs::read_dir(posthorn.join("venv/lib")).await?;
        while let Some(python) = packages.next_entry().await? {
            let package = python.path().join("site-packages/openapi_generator_cli");
            let jar = package.join("openapi-generator.jar");
            if jar.exists() {
                return Ok(Self { jar });
            }
        }
        anyhow::bail!("openapi-generator: `make deps` installs it")
    }

    /// Generates a client into an empty folder.
    async fn run(
        &self,
        document: &Path,
        language: &str,
        folder: &Path,
        (properties, more): (&str, &[&str]),
    ) -> anyhow::Result<()> {
        if folder.exists() {
            tokio::fs::remove_dir_all(folder).await?;
        }
        let mut generate = Command::new("java");
        generate
            .arg("-jar")
            .arg(&self.jar)
            .args(["generate", "--generator-name", language, "--input-spec"])
            .arg(document)
            .arg("--output")
            .arg(folder)
            .args(["--additional-properties", properties])
            .args(more)
            // Nothing but the client: no pages, no tests.
            .args([
                "--global-property",
                "models,apis,supportingFiles,modelDocs=false,apiDocs=false,modelTests=false,apiTests=false",
            ]);
        run(&format!("openapi-generator, {language}"), &mut generate).await
    }
}

/// A file of `tests/clients/`.
fn ours(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("clients")
        .join(name)
}

/// Runs a program to its end. Its output is shown only if it fails, but for its last line.
async fn run(what: &str, program: &mut Command) -> anyhow::Result<()> {
    let said = output(what, program).await?;
    println!("{what}: {}", said.trim().lines().last().unwrap_or("done"));
    Ok(())
}

/// Runs a program to its end. Answers what it wrote.
async fn output(what: &str, program: &mut Command) -> anyhow::Result<String> {
    let output = program
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("{what}: `make deps` installs it"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    anyhow::ensure!(
        output.status.success(),
        "{what} failed:\n{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(said.into_owned())
}

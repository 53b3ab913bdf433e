//! One Posthorn process: started from its binary, watched, stopped.
//!
//! Its output goes to a file. The process never outlives its owner. On drop it gets
//! SIGKILL. If the owner itself is killed, a small shell that waits on a pipe kills it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::{Child, ChildStdin, Command};

/// How long a service may take to become ready, or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running process.
pub struct Service {
    name: String,
    address: String,
    log: PathBuf,
    child: Child,
    process: Pid,
    /// Closed by the kernel when this process ends; see [`Service::start`].
    _lifeline: Option<ChildStdin>,
}

impl Service {
    /// Starts a binary of this workspace with exactly these settings. `address` is
    /// the value of its `HTTP_ADDR`.
    pub fn start(
        name: &str,
        binary: &str,
        address: &str,
        settings: &[(String, String)],
        log: &Path,
    ) -> anyhow::Result<Self> {
        Self::start_with(name, (binary, &[]), address, settings, log)
    }

    /// As [`Service::start`], with arguments.
    pub fn start_with(
        name: &str,
        (binary, arguments): (&str, &[&str]),
        address: &str,
        settings: &[(String, String)],
        log: &Path,
    ) -> anyhow::Result<Self> {
        let path = binary_path(binary)?;
        let output = File::options().create(true).append(true).open(log)?;
        // The shell starts a watcher in the background. The watcher kills the
        // service when its standard input closes, which happens when this process
        // ends. Then the shell becomes the service, with `exec`, and keeps its
        // process id.
        let script = r#"exec 3<&0 </dev/null; me=$$
            ( cat <&3  >/dev/null 2>/dev/null; [ "$(readlink /proc/$me/exe)" = "$0" ] && kill -9 $me ) 2>/dev/null &
            exec 3<&-; exec "$0" "$@""#;
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(script)
            .arg(&path)
            .args(arguments)
            .env_clear()
            .env("HTTP_ADDR", address)
            .envs(
                settings
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.as_str())),
            )
            .envs(
                std::env::var("RUST_LOG")
                    .ok()
                    .map(|level| ("RUST_LOG", level)),
            )
            .envs(std::env::var("PATH").ok().map(|path| ("PATH", path)))
            // A folder without the developer's .env file.
            .current_dir(log.parent().unwrap_or(Path::new("/")))
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            // Ctrl-C in the terminal must reach only the owner, which stops the
            // service in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", path.display()))?;
        let process = child
            .id()
            .and_then(|id| Pid::from_raw(id as i32))
            .context("it ended at once")?;
        Ok(Self {
            _lifeline: child.stdin.take(),
            name: name.to_owned(),
            address: address.to_owned(),
            log: log.to_owned(),
            child,
            process,
        })
    }

    /// Waits until `/readyz` answers 200.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        self.answers_yes("/readyz").await
    }

    /// Waits until `/healthz` answers 200.
    pub async fn alive(&mut self) -> anyhow::Result<()> {
        self.answers_yes("/healthz").await
    }

    async fn answers_yes(&mut self, path: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let url = self.url(path);
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}:\n{}", self.name, self.log_tail());
            }
            if http()
                .get(&url)
                .send()
                .await
                .is_ok_and(|answer| answer.status().is_success())
            {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "{} does not say yes at {path}:\n{}",
                    self.name,
                    self.log_tail()
                );
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// Waits until the process ends by itself, and returns how it ended.
    pub async fn ended(&mut self) -> anyhow::Error {
        let how = match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        anyhow!(
            "{} ended unasked, {how}. The end of {}:\n{}",
            self.name,
            self.log.display(),
            self.log_tail()
        )
    }

    /// A URL of the service's HTTP server.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The value of a metric, summed over its labels.
    pub async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let text = http()
            .get(self.url("/metrics"))
            .send()
            .await?
            .text()
            .await?;
        let values: Vec<f64> = text
            .lines()
            .filter_map(|line| line.strip_prefix(name))
            .filter(|rest| rest.starts_with([' ', '{']))
            .filter_map(|rest| rest.rsplit(' ').next()?.parse().ok())
            .collect();
        anyhow::ensure!(!values.is_empty(), "{} has no metric {name}", self.name);
        Ok(values.iter().sum())
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.as_raw_nonzero().get() as u32
    }

    /// kill -9.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        kill_process(self.process, Signal::KILL)
            .with_context(|| format!("{} had ended", self.name))?;
        self.child.wait().await?;
        Ok(())
    }

    /// Sends SIGTERM and waits for a successful exit.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        kill_process(self.process, Signal::TERM)
            .with_context(|| format!("{} had ended", self.name))?;
        let status = tokio::time::timeout(PATIENCE, self.child.wait())
            .await
            .with_context(|| format!("{} does not stop:\n{}", self.name, self.log_tail()))??;
        anyhow::ensure!(
            status.success(),
            "{} stopped with {status}:\n{}",
            self.name,
            self.log_tail()
        );
        Ok(())
    }

    /// SIGSTOP.
    pub fn pause(&self) -> anyhow::Result<()> {
        Ok(kill_process(self.process, Signal::STOP)?)
    }

    /// SIGCONT.
    pub fn resume(&self) -> anyhow::Result<()> {
        Ok(kill_process(self.process, Signal::CONT)?)
    }

    /// The last lines of the process's output.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&self.log, 40)
    }
}

/// The last lines of a file.
#[must_use]
pub fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// The tests' HTTP client: no proxy, no redirects.
#[must_use]
pub fn http() -> reqwest::Client {
    static CLIENT: std::sync::OnceLock<reqwest::Client> = std::sync::OnceLock::new();
    CLIENT
        .get_or_init(|| {
            // A provider may be installed already.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let builder = reqwest::Client::builder()
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none());
            match builder.timeout(Duration::from_secs(30)).build() {
                Ok(client) => client,
                Err(error) => panic!("an HTTP client: {error}"),
            }
        })
        .clone()
}

/// An answer of the API.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// The JSON body; a string if it isn't JSON.
    pub body: Value,
}

/// Sends a request to the API.
pub async fn ask(
    url: &str,
    token: &str,
    method: &str,
    body: Option<&Value>,
) -> anyhow::Result<Answer> {
    let mut request = http().request(method.parse()?, url).bearer_auth(token);
    if let Some(body) = body {
        request = request
            .header("content-type", "application/json")
            .body(body.to_string());
    }
    let answer = request.send().await?;
    let status = answer.status().as_u16();
    let text = answer.text().await?;
    Ok(Answer {
        status,
        body: serde_json::from_str(&text).unwrap_or(Value::String(text)),
    })
}

/// Runs one of Posthorn's commands to its end and returns its standard output.
pub async fn command(
    binary: &str,
    arguments: &[&str],
    settings: &[(String, String)],
) -> anyhow::Result<String> {
    let mut command = Command::new(binary_path(binary)?);
    let ran = run(command.args(arguments).current_dir("/"), settings).await?;
    let Ran {
        status,
        printed,
        said,
    } = ran;
    anyhow::ensure!(status == 0, "{binary} {arguments:?}: {printed} {said}");
    Ok(printed)
}

/// The result of a command.
#[derive(Debug)]
pub struct Ran {
    /// The exit status; -1 if a signal ended it.
    pub status: i32,
    /// Standard output, trimmed.
    pub printed: String,
    /// Standard error.
    pub said: String,
}

/// Runs a line of shell in a folder, with Posthorn's commands on the PATH and with
/// no other settings than these.
pub async fn shell(
    line: &str,
    folder: &Path,
    settings: &[(String, String)],
) -> anyhow::Result<Ran> {
    let binaries = binary_path("posthorn-ingest")?;
    let binaries = binaries.parent().unwrap_or(Path::new("/")).display();
    let mut settings = settings.to_vec();
    settings.push(("PATH".to_owned(), format!("{binaries}:/usr/bin:/bin")));
    let mut command = Command::new("sh");
    command.args(["-c", line]).current_dir(folder);
    run(&mut command, &settings).await
}

async fn run(command: &mut Command, settings: &[(String, String)]) -> anyhow::Result<Ran> {
    let output = command
        .env_clear()
        .envs(settings.iter().map(|(name, value)| (name, value)))
        .output()
        .await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Ran {
        status: output.status.code().unwrap_or(-1),
        printed: text(&output.stdout).trim().to_owned(),
        said: text(&output.stderr),
    })
}

/// The path of a binary of this workspace: beside this one, or beside its folder. A name with
/// a slash is a path already.
pub fn binary_path(binary: &str) -> anyhow::Result<PathBuf> {
    // A path of a program, such as one of the last release.
    if binary.contains('/') && Path::new(binary).is_file() {
        return Ok(binary.into());
    }
    let own = std::env::current_exe()?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(binary))
        .find(|path| path.is_file())
        .with_context(|| format!("{binary} is not built: run `cargo build --workspace`"))
}

/// A port that was free a moment ago.
pub fn free_address() -> anyhow::Result<String> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    Ok(listener.local_addr()?.to_string())
}

//! A private Prometheus with the exporters that `deploy/` names, all from Debian's
//! packages, all on loopback.
//!
//! It loads the rules of `deploy/prometheus` as they are, but for three things:
//! everything is scraped and computed every second, no alert waits, and the one alert that asks
//! for a whole bad window gets a shorter window. Its one certificate expires in three days.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::service::{free_address, http};
use crate::world::unique;

/// How long a program may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where the rules are.
const RULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/prometheus");
const RULE_FILES: [&str; 3] = ["recording.yml", "alerts.yml", "webhooks.yml"];
/// A window in which every sample has to be bad, and what it is here.
const WINDOW: (&str, &str) = (
    "min_over_time(posthorn:dead_lettering:messages[10m])",
    "min_over_time(posthorn:dead_lettering:messages[5s])",
);

/// What a Prometheus watches.
pub struct Watched<'a> {
    /// Where ingests' metrics are.
    pub ingests: Vec<String>,
    /// Where dispatchers' metrics are.
    pub dispatchers: Vec<String>,
    /// Where RabbitMQ's metrics are.
    pub rabbitmq: String,
    /// The database, as the role of `deploy/postgres-reader.sql` reaches it.
    pub database_url: &'a str,
    /// The operator's token: with it the first ingest shows metrics of single webhooks.
    pub operator_token: &'a str,
}

/// A running Prometheus. All of it ends when dropped.
pub struct Monitoring {
    prometheus: String,
    /// How many there are to be scraped.
    targets: usize,
    folder: PathBuf,
    // Killed when dropped.
    _programs: Vec<Child>,
}

impl Monitoring {
    /// Starts Prometheus and its exporters.
    ///
    /// # Errors
    /// If a program isn't installed, or doesn't answer.
    pub async fn start(watched: &Watched<'_>) -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("posthorn-prometheus-{}", unique()));
        fs::create_dir_all(&folder)?;
        let [postgres, disk, blackbox, prometheus] = addresses()?;
        let mut programs = Vec::new();
        let mut start = |program: &str, arguments: &[String], variables: &[(&str, &str)]| {
            programs.push(start(program, arguments, variables, &folder)?);
            anyhow::Ok(())
        };
        let mut database = url::Url::parse(watched.database_url)?;
        database.query_pairs_mut().append_pair("sslmode", "disable");
        start(
            "prometheus-postgres-exporter",
            &[format!("--web.listen-address={postgres}")],
            &[("DATA_SOURCE_NAME", database.as_str())],
        )?;
        start(
            "prometheus-node-exporter",
            &[
                format!("--web.listen-address={disk}"),
                "--collector.disable-defaults".to_owned(),
                "--collector.filesystem".to_owned(),
            ],
            &[],
        )?;
        // It is asked for its own certificate.
        fs::write(
            folder.join("blackbox.yml"),
            "modules: {tcp_tls: {prober: tcp, tcp: {tls: true, tls_config: {insecure_skip_verify: true}}}}",
        )?;
        make_certificate(&folder)?;
        fs::write(
            folder.join("web.yml"),
            "tls_server_config: {cert_file: certificate.pem, key_file: key.pem}",
        )?;
        start(
            "prometheus-blackbox-exporter",
            &[
                format!("--web.listen-address={blackbox}"),
                "--config.file=blackbox.yml".to_owned(),
                "--web.config.file=web.yml".to_owned(),
            ],
            &[],
        )?;

        let webhooks = json!({
            "metrics_path": "/metrics/webhooks",
            "authorization": {"credentials": watched.operator_token},
        });
        let jobs = [
            job("posthorn-ingest", &watched.ingests, json!({})),
            job("posthorn-dispatcher", &watched.dispatchers, json!({})),
            // All ingests give the same answer.
            job("posthorn-webhooks", &watched.ingests[..1], webhooks),
            job(
                "posthorn-rabbitmq",
                std::slice::from_ref(&watched.rabbitmq),
                json!({}),
            ),
            job(
                "posthorn-queues",
                std::slice::from_ref(&watched.rabbitmq),
                json!({"metrics_path": "/metrics/detailed",
                       "params": {"family": ["queue_coarse_metrics", "queue_consumer_count"]}}),
            ),
            job("posthorn-postgresql", &[postgres], json!({})),
            job("posthorn-disk", &[disk], json!({})),
            job(
                "posthorn-certificates",
                std::slice::from_ref(&blackbox),
                json!({"metrics_path": "/probe", "scheme": "https",
                       "params": {"module": ["tcp_tls"], "target": [blackbox]},
                       "tls_config": {"insecure_skip_verify": true}}),
            ),
        ];
        // The webhooks, RabbitMQ twice, and three exporters.
        let targets = watched.ingests.len() + watched.dispatchers.len() + 6;
        // JSON is YAML.
        let config = json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": RULE_FILES,
            "scrape_configs": jobs,
        });
        fs::write(folder.join("prometheus.yml"), config.to_string())?;
        for file in RULE_FILES {
            let rules = fs::read_to_string(Path::new(RULES).join(file))?;
            let rules = rules
                .lines()
                .filter(|line| !line.starts_with("        for:"));
            let rules: Vec<_> = rules.collect();
            let rules = rules.join("\n").replace(WINDOW.0, WINDOW.1);
            fs::write(folder.join(file), rules)?;
        }
        start(
            "prometheus",
            &[
                format!("--web.listen-address={prometheus}"),
                "--config.file=prometheus.yml".to_owned(),
                "--storage.tsdb.path=data".to_owned(),
            ],
            &[],
        )?;
        let monitoring = Self {
            prometheus: format!("http://{prometheus}"),
            targets,
            folder,
            _programs: programs,
        };
        monitoring.ready().await?;
        Ok(monitoring)
    }

    async fn ready(&self) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let answer = http().get(format!("{}/-/ready", self.prometheus)).send();
            if answer
                .await
                .is_ok_and(|answer| answer.status().is_success())
            {
                return Ok(());
            }
            let waited = tokio::time::Instant::now() > deadline;
            ensure!(!waited, "Prometheus isn't ready:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until every target is up.
    ///
    /// # Errors
    /// If one isn't within a minute: which, and why.
    pub async fn sees_all(&self) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + 2 * PATIENCE;
        loop {
            let targets = self.ask("targets", &[("state", "active")]).await?;
            // Empty until Prometheus has taken them up, some seconds after it is ready.
            let targets = targets["activeTargets"].as_array().cloned();
            let targets = targets.unwrap_or_default();
            let known = targets.len();
            let down = targets
                .into_iter()
                .filter(|target| target["health"] != "up")
                .map(|target| format!("{}: {}", target["scrapeUrl"], target["lastError"]));
            let down: Vec<_> = down.collect();
            if known == self.targets && down.is_empty() {
                return Ok(());
            }
            let waited = tokio::time::Instant::now() > deadline;
            ensure!(
                !waited,
                "{known} of {} targets are known. {}\n{}",
                self.targets,
                down.join("\n"),
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Where Prometheus answers.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.prometheus
    }

    /// What Prometheus and the exporters said.
    #[must_use]
    pub fn log(&self) -> String {
        let files = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let logs = files.filter(|file| file.path().extension().is_some_and(|end| end == "log"));
        logs.map(|log| crate::service::tail(&log.path(), 10))
            .collect()
    }

    /// An answer's `data`.
    ///
    /// # Errors
    /// Prometheus's own.
    pub async fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> anyhow::Result<Value> {
        let mut url = url::Url::parse(&format!("{}/api/v1/{path}", self.prometheus))?;
        url.query_pairs_mut().extend_pairs(parameters);
        let text = http().get(url.as_str()).send().await?.text().await?;
        let mut answer: Value = serde_json::from_str(&text).context(text.clone())?;
        ensure!(answer["status"] == "success", "{text}");
        Ok(answer["data"].take())
    }

    /// The values of a query now: those that are numbers.
    ///
    /// # Errors
    /// If Prometheus refuses it.
    pub async fn values(&self, query: &str) -> anyhow::Result<Vec<f64>> {
        let data = self.ask("query", &[("query", query)]).await?;
        let series = data["result"].as_array().cloned().unwrap_or_default();
        let values = series.iter().filter_map(|series| {
            let value: f64 = series["value"][1].as_str()?.parse().ok()?;
            (!value.is_nan()).then_some(value)
        });
        Ok(values.collect())
    }

    /// The names of all alerts that have been firing at any time since the start.
    ///
    /// # Errors
    /// If Prometheus doesn't answer.
    pub async fn fired(&self) -> anyhow::Result<BTreeSet<String>> {
        let query = "count by (alertname) (count_over_time(ALERTS{alertstate=\"firing\"}[1h]))";
        let data = self.ask("query", &[("query", query)]).await?;
        let series = data["result"].as_array().cloned().unwrap_or_default();
        let names = series
            .iter()
            .filter_map(|series| series["metric"]["alertname"].as_str());
        Ok(names.map(str::to_owned).collect())
    }

    /// The names of all alerting rules that Prometheus has loaded.
    ///
    /// # Errors
    /// If Prometheus doesn't answer.
    pub async fn alerts(&self) -> anyhow::Result<BTreeSet<String>> {
        let data = self.ask("rules", &[("type", "alert")]).await?;
        let groups = data["groups"].as_array().cloned().unwrap_or_default();
        let rules = groups
            .iter()
            .filter_map(|group| group["rules"].as_array())
            .flatten();
        let names = rules.filter_map(|rule| rule["name"].as_str());
        Ok(names.map(str::to_owned).collect())
    }
}

impl Drop for Monitoring {
    fn drop(&mut self) {
        // Of a test alone; what is left of it is only in the way.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn job(name: &str, targets: &[String], more: Value) -> Value {
    let mut job = json!({"job_name": name, "static_configs": [{"targets": targets}]});
    if let (Value::Object(job), Value::Object(more)) = (&mut job, more) {
        job.extend(more);
    }
    job
}

fn addresses<const N: usize>() -> anyhow::Result<[String; N]> {
    let mut addresses: [String; N] = std::array::from_fn(|_| String::new());
    for address in &mut addresses {
        *address = free_address()?;
    }
    Ok(addresses)
}

/// Makes a certificate that expires in three days. No alert about certificates waits that long.
fn make_certificate(folder: &Path) -> anyhow::Result<()> {
    let made = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-nodes",
            "-days",
            "3",
            "-subj",
            "/CN=localhost",
        ])
        .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-keyout", "key.pem", "-out", "certificate.pem"])
        .current_dir(folder)
        .output()
        .context("starting openssl: `make deps` installs it")?;
    let said = String::from_utf8_lossy(&made.stderr);
    ensure!(made.status.success(), "openssl: {said}");
    Ok(())
}

/// Starts a program that ends when we do, however we end.
fn start(
    program: &str,
    arguments: &[String],
    variables: &[(&str, &str)],
    folder: &Path,
) -> anyhow::Result<Child> {
    let log = fs::File::create(folder.join(format!("{program}.log")))?;
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", program])
        .args(arguments)
        .envs(variables.iter().copied())
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {program}: `make deps` installs it"))
}

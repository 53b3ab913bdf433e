//! A real browser for tests: headless Chromium, driven over WebDriver.
//!
//! A [`Browser`] is one chromedriver. Each [`Tab`] is a session of it with a profile of its
//! own: its own cookies, with or without JavaScript. A tab remembers what its pages asked for
//! and complained about ([`Tab::complaints`]).

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use axum::http::Method;
use fantoccini::actions::{InputSource, KeyAction, KeyActions};
use fantoccini::error::CmdError;
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use url::Url;

/// How long to wait for something on a page.
const PATIENCE: Duration = Duration::from_secs(30);
/// Chromium without the parts that draw windows: it starts with a third of the processor time.
/// It has no settings, so it always runs JavaScript.
const HEADLESS_SHELL: &str = "/usr/lib/chromium/chromium-headless-shell";
/// What Chromium needs to run as root on a small machine, and to leave the network alone.
const FLAGS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
];

/// Starts a program that ends with this test, and with it all processes that it started: the
/// kernel ends all processes of a PID namespace with its first. Chromium goes on when
/// chromedriver is killed, so tests that failed would leave browsers behind.
const CONTAINED: [&str; 9] = [
    "--pdeathsig",
    "KILL",
    "unshare",
    "--map-root-user",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "--",
];

/// How often chromedriver is started until it has a port. It takes a free port of IPv4, and
/// ends if the same port of IPv6 is in use, as it may be beside other tests.
const STARTS: usize = 5;

/// A running chromedriver.
pub struct Browser {
    port: u16,
    folder: PathBuf,
    tabs: AtomicU32,
    _driver: Child,
}

/// One window with cookies of its own.
pub struct Tab {
    pub client: Client,
    base: Url,
}

impl Browser {
    /// # Panics
    /// If chromedriver can't be started: `deploy/deps.sh tests` installs it.
    pub async fn start() -> Self {
        let folder = std::env::temp_dir().join(format!("posthorn-browser-{}", fastrand::u64(..)));
        must("a folder", std::fs::create_dir_all(&folder));
        let mut trouble = String::new();
        let (driver, port) = 'started: {
            for _ in 0..STARTS {
                match start_driver().await {
                    Ok(started) => break 'started started,
                    Err(error) => trouble = error,
                }
            }
            panic!("chromedriver does not start: {trouble}");
        };
        Self {
            port,
            folder,
            tabs: AtomicU32::new(0),
            _driver: driver,
        }
    }

    /// A window on the pages of this address.
    pub async fn tab(&self, base: &str) -> Tab {
        self.open(base, true).await
    }

    /// The same, without JavaScript.
    pub async fn tab_without_javascript(&self, base: &str) -> Tab {
        self.open(base, false).await
    }

    async fn open(&self, base: &str, javascript: bool) -> Tab {
        let n = self.tabs.fetch_add(1, Ordering::Relaxed);
        let profile = self.folder.join(format!("profile-{n}"));
        let mut flags: Vec<String> = FLAGS.iter().map(|flag| (*flag).to_owned()).collect();
        flags.push(format!("--user-data-dir={}", profile.display()));
        flags.push("--window-size=1280,900".to_owned());
        let mut options = json!({
            "args": flags,
            "perfLoggingPrefs": {"enableNetwork": true, "enablePage": false},
        });
        let name = if javascript {
            options["binary"] = json!(HEADLESS_SHELL);
            "chrome-headless-shell"
        } else {
            options["prefs"] = json!({"profile.default_content_setting_values.javascript": 2});
            "chrome"
        };
        let wanted = json!({
            "browserName": name,
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        });
        let wanted: Map<String, Value> = wanted.as_object().cloned().unwrap_or_default();
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(wanted)
            .connect(&format!("http://127.0.0.1:{}", self.port))
            .await;
        Tab {
            client: must("a browser", client),
            base: must("an address", base.parse()),
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Tab {
    /// Opens a page: a path, or a whole address.
    pub async fn goto(&self, path: &str) {
        let url = must("an address", self.base.join(path));
        must(path, self.client.goto(url.as_str()).await);
    }

    /// The path, query and fragment of the page.
    pub async fn path(&self) -> String {
        let url = must("the address", self.client.current_url().await);
        let from = url.as_str().find(url.path()).unwrap_or_default();
        match url.scheme() {
            "http" | "https" => {
                let host = url.origin().ascii_serialization().len();
                url.as_str()[host..].to_owned()
            }
            _ => url.as_str()[from..].to_owned(),
        }
    }

    /// The page's HTML.
    pub async fn html(&self) -> String {
        must("the page", self.client.source().await)
    }

    /// What one reads on the page.
    pub async fn text(&self) -> String {
        // Another page may come between finding its body and reading it.
        let mut read = self.body().await;
        for _ in 0..20 {
            if read.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            read = self.body().await;
        }
        must("the text", read)
    }

    async fn body(&self) -> Result<String, CmdError> {
        self.client.find(Locator::Css("body")).await?.text().await
    }

    /// How many elements there are.
    pub async fn many(&self, css: &str) -> usize {
        must(css, self.client.find_all(Locator::Css(css)).await).len()
    }

    /// Waits until there are this many of these elements.
    pub async fn has(&self, css: &str, wanted: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.many(css).await != wanted {
            assert!(
                Instant::now() < deadline,
                "{} has not {wanted} of {css}:\n{}",
                self.path().await,
                self.text().await
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The text of the first of these elements.
    pub async fn text_of(&self, css: &str) -> String {
        self.with(css, async |element| element.text().await).await
    }

    pub async fn attribute(&self, css: &str, name: &str) -> Option<String> {
        self.with(css, async |element| element.attr(name).await)
            .await
    }

    /// Does something with the first of these elements. If another page or part comes between
    /// finding it and that, the element is found again.
    async fn with<T>(
        &self,
        css: &str,
        does: impl AsyncFn(&fantoccini::elements::Element) -> Result<T, CmdError>,
    ) -> T {
        for _ in 0..20 {
            match does(&self.find(css).await).await {
                Err(error) if error.is_stale_element_reference() => {}
                done => return must(css, done),
            }
        }
        panic!("{css} is replaced all the time");
    }

    async fn find(&self, css: &str) -> fantoccini::elements::Element {
        let wait = self.client.wait().at_most(PATIENCE);
        match wait.for_element(Locator::Css(css)).await {
            Ok(element) => element,
            Err(error) => panic!(
                "{css} on {}: {error}\n{}",
                self.path().await,
                self.text().await
            ),
        }
    }

    /// Types into a field.
    pub async fn fill(&self, css: &str, text: &str) {
        self.with(css, async |field| {
            field.clear().await?;
            field.send_keys(text).await
        })
        .await;
    }

    /// Presses the first of these elements.
    pub async fn press(&self, css: &str) {
        self.with(css, async |element| element.click().await).await;
    }

    /// Presses the link or button with this text. Live parts are replaced all the time: if one is
    /// between finding it and the press, it is found again.
    pub async fn press_text(&self, text: &str) {
        let path =
            format!("//main//*[self::a or self::button][contains(normalize-space(.), '{text}')]");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let wait = self.client.wait().at_most(PATIENCE);
            let pressed = match wait.for_element(Locator::XPath(&path)).await {
                Ok(element) => element.click().await,
                Err(error) => Err(error),
            };
            match pressed {
                Ok(()) => return,
                Err(error) if error.is_stale_element_reference() && Instant::now() < deadline => {}
                Err(error) => panic!(
                    "{text} on {}: {error}\n{}",
                    self.path().await,
                    self.text().await
                ),
            }
        }
    }

    /// Presses keys, one after the other. They go to whatever has the focus then.
    pub async fn keys(&self, keys: &str) {
        let mut pressed = KeyActions::new("keyboard".to_owned());
        for value in keys.chars() {
            pressed = pressed
                .then(KeyAction::Down { value })
                .then(KeyAction::Up { value });
        }
        must(keys, self.client.perform_actions(pressed).await);
    }

    /// What a script answers.
    pub async fn script(&self, script: &str) -> Value {
        must(script, self.client.execute(script, Vec::new()).await)
    }

    /// Waits until the page says this.
    pub async fn says(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let shown = self.text().await;
            if shown.contains(text) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{} doesn't say {text}:\n{shown}",
                self.path().await
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Signs in with a token. Answers where that leads to.
    pub async fn sign_in(&self, token: &str) -> String {
        self.goto("/console/_/sign-in").await;
        self.fill("#token", token).await;
        self.press("form button").await;
        self.path().await
    }

    /// The size of the screen, and which theme the system has.
    pub async fn screen(&self, width: u32, height: u32, dark: bool) {
        let size =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.chrome("Emulation.setDeviceMetricsOverride", size)
            .await;
        let theme = if dark { "dark" } else { "light" };
        let media = json!({"features": [
            {"name": "prefers-color-scheme", "value": theme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]});
        self.chrome("Emulation.setEmulatedMedia", media).await;
    }

    /// A picture of the whole page, as PNG.
    pub async fn picture(&self) -> Vec<u8> {
        self.captured(true).await
    }

    /// A picture of what fits the screen, as PNG.
    pub async fn picture_of_screen(&self) -> Vec<u8> {
        self.captured(false).await
    }

    async fn captured(&self, whole: bool) -> Vec<u8> {
        let wanted = json!({"format": "png", "captureBeyondViewport": whole});
        let answer = self.chrome("Page.captureScreenshot", wanted).await;
        let encoded = answer["data"].as_str().unwrap_or_default();
        must(
            "a picture",
            base64::Engine::decode(&base64::engine::general_purpose::STANDARD, encoded),
        )
    }

    /// A command of Chromium's own protocol.
    pub async fn chrome(&self, command: &str, parameters: Value) -> Value {
        let body = json!({"cmd": command, "params": parameters});
        // The driver may close a connection that waits just when it is used again.
        let mut issued = self.issue("goog/cdp/execute", &body).await;
        for _ in 0..3 {
            if issued.is_ok() {
                break;
            }
            issued = self.issue("goog/cdp/execute", &body).await;
        }
        must(command, issued)
    }

    async fn issue(&self, endpoint: &'static str, body: &Value) -> Result<Value, CmdError> {
        self.client
            .issue_cmd(Extension(endpoint, body.clone()))
            .await
    }

    /// What the browser complained about, and every request to another host, since the last
    /// call.
    pub async fn complaints(&self) -> Vec<String> {
        let mut found = Vec::new();
        for entry in self.log("browser").await {
            let text = entry["message"].as_str().unwrap_or_default();
            let is_advice =
                !["SEVERE", "WARNING"].contains(&entry["level"].as_str().unwrap_or_default());
            // A page that is refused on purpose is no complaint of the browser's.
            if !is_advice && !text.contains("Failed to load resource") {
                found.push(text.to_owned());
            }
        }
        let ours = self.base.origin().ascii_serialization();
        for entry in self.log("performance").await {
            let text = entry["message"].as_str().unwrap_or_default();
            let message: Value = serde_json::from_str(text).unwrap_or_default();
            let message = &message["message"];
            if message["method"] == "Network.requestWillBeSent" {
                let url = message["params"]["request"]["url"]
                    .as_str()
                    .unwrap_or_default();
                if url.starts_with("http") && !url.starts_with(&ours) {
                    found.push(format!("asked for {url}"));
                }
            }
        }
        found
    }

    async fn log(&self, kind: &str) -> Vec<Value> {
        let issued = self
            .client
            .issue_cmd(Extension("se/log", json!({"type": kind})))
            .await;
        must(kind, issued).as_array().cloned().unwrap_or_default()
    }

    pub async fn close(self) {
        must("closing", self.client.close().await);
    }
}

/// A command that WebDriver's standard doesn't have.
#[derive(Debug)]
struct Extension(&'static str, Value);

impl WebDriverCompatibleCommand for Extension {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, url::ParseError> {
        base.join(&format!(
            "session/{}/{}",
            session.unwrap_or_default(),
            self.0
        ))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.1.to_string()))
    }
}

/// Starts chromedriver and reads its port. The error is what it printed.
async fn start_driver() -> Result<(Child, u16), String> {
    let mut driver = Command::new("setpriv")
        .args(CONTAINED)
        .args(["chromedriver", "--port=0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| error.to_string())?;
    let output = driver.stdout.take().ok_or("it has no output")?;
    let mut lines = BufReader::new(output).lines();
    let mut printed = String::new();
    while let Ok(Some(line)) = lines.next_line().await {
        let port = line
            .split("successfully on port ")
            .nth(1)
            .and_then(|rest| rest.trim_end_matches('.').parse().ok());
        if let Some(port) = port {
            // It stops when nobody reads what it says.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Ok((driver, port));
        }
        printed += &line;
        printed.push('\n');
    }
    Err(printed)
}

fn must<T, E: std::fmt::Display>(what: &str, result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("{what}: {error}"))
}

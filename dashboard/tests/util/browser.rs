//! A real browser: chromedriver and headless Chromium, both ended and their folder removed when dropped.

use std::fmt::Display;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fantoccini::{Client, ClientBuilder, Locator};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long something may take that comes by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// The browser.
pub struct Browser {
    /// What drives it.
    pub client: Client,
    driver: Child,
    data: TempDir,
}

impl Browser {
    /// Starts it with a window of this size, in this colour scheme.
    pub async fn start(width: u32, height: u32, dark: Option<()>) -> Browser {
        let data = tempfile::tempdir().unwrap();
        let mut command = Command::new("chromedriver");
        // The browser leaves files where temporary ones go.
        command.env("TMPDIR", data.path());
        command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        // A group of its own, so that nothing of it is left when the test ends badly.
        let mut driver = command.process_group(0).spawn().unwrap();
        let stdout = BufReader::new(driver.stdout.take().unwrap());
        let port = stdout.lines().map_while(Result::ok).find_map(|line| {
            let rest = line.split_once("started successfully on port ")?.1;
            rest.trim_end_matches('.').parse::<u16>().ok()
        });
        let mut args = vec![
            "--headless=new".to_owned(),
            "--no-sandbox".into(),
            "--disable-gpu".into(),
            "--disable-quic".into(),
            "--no-first-run".into(),
            "--disable-background-networking".into(),
            "--disable-component-update".into(),
            "--disable-sync".into(),
            "--disable-dev-shm-usage".into(),
            format!("--user-data-dir={}", data.path().display()),
            format!("--window-size={width},{height}"),
        ];
        args.extend(dark.map(|()| "--force-dark-mode".to_owned()));
        let downloads = json!({ "download.default_directory": data.path() });
        let mut options = json!({ "args": args, "prefs": downloads });
        if width < 500 {
            // A window has at least 500 pixels.
            options["mobileEmulation"] =
                json!({ "deviceMetrics": { "width": width, "height": height, "pixelRatio": 1 } });
        }
        let capabilities = json!({ "browserName": "chrome", "goog:chromeOptions": options });
        let client = ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new())
            .capabilities(capabilities.as_object().unwrap().clone())
            .connect(&format!("http://127.0.0.1:{}", port.expect("chromedriver says its port")))
            .await
            .unwrap();
        Browser { client, driver, data }
    }

    /// Goes to a page of the dashboard at `address`.
    pub async fn go(&self, address: impl Display, path: &str) {
        self.client.goto(&format!("http://{address}{path}")).await.unwrap();
    }

    /// Logs in through the form.
    pub async fn log_in(&self, address: impl Display, password: &str) {
        self.go(address, "/login").await;
        self.client.find(Locator::Id("password")).await.unwrap().send_keys(password).await.unwrap();
        self.client.find(Locator::Css("button.main")).await.unwrap().click().await.unwrap();
    }

    /// What a script answers.
    pub async fn script(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.unwrap()
    }

    /// Waits until a script answers `true`.
    pub async fn wait(&self, script: &str) {
        let begun = Instant::now();
        // A page that is just being left has no script engine.
        while self.client.execute(script, Vec::new()).await.ok() != Some(Value::Bool(true)) {
            if begun.elapsed() > PATIENCE {
                let text = self.client.execute("return document.body.innerText", Vec::new()).await;
                assert_eq!(script, "true in time", "{text:?}");
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// Where downloads go.
    #[allow(dead_code, reason = "who shares this file may download nothing")]
    pub fn downloads(&self) -> &Path {
        self.data.path()
    }

    /// The page as a picture.
    pub async fn picture(&self, path: &Path) {
        std::fs::write(path, self.client.screenshot().await.unwrap()).unwrap();
    }

    /// Ends it in order.
    pub async fn end(self) {
        self.client.clone().close().await.unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_child(&self.driver);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.driver.wait();
        // Its files can only be removed when nobody writes them any more.
        let begun = Instant::now();
        let name = self.data.path().to_string_lossy().into_owned();
        while is_used(&name) && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Whether a process names this folder.
fn is_used(folder: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.into_iter().any(|line| String::from_utf8_lossy(&line).contains(folder))
}

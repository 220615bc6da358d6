//! A real browser by the WebDriver protocol (W3C): Chromium, or Firefox where PAGE_BROWSER=firefox.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

const WAIT: Duration = Duration::from_secs(20);
const CHROMIUM: [&str; 8] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];
/// The key of W3C's element references.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

pub struct Browser {
    driver: Child,
    agent: ureq::Agent,
    session: String,
    pub is_firefox: bool,
}

/// Starts the driver on a port that is free, and gives the port. ChromeDriver takes one of IPv6 and
/// then ends if IPv4 does not have it free, too.
fn start_driver(program: &str, announced: &str, time_zone: &str) -> (Child, String) {
    let mut said = Vec::new();
    for _ in 0..10 {
        let mut driver = Command::new(program)
            .arg("--port=0")
            .env("TZ", time_zone)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}; see make test-page"));
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = lines.find_map(|line| {
            let port =
                line.split_once(announced).map(|(_, port)| port.trim_end_matches('.').to_owned());
            said.push(line);
            port
        });
        if let Some(port) = port {
            // A driver whose output is not read stops.
            std::thread::spawn(move || lines.for_each(drop));
            return (driver, port);
        }
        let _ = driver.wait();
    }
    panic!("{program} did not start: {said:?}");
}

impl Browser {
    /// With room for three columns.
    pub fn start() -> Browser {
        Browser::start_in("UTC")
    }

    pub fn start_in(time_zone: &str) -> Browser {
        let is_firefox = std::env::var("PAGE_BROWSER").is_ok_and(|name| name == "firefox");
        let (program, announced) = if is_firefox {
            ("geckodriver", "Listening on 127.0.0.1:")
        } else {
            ("chromedriver", "started successfully on port ")
        };
        let (driver, port) = start_driver(program, announced, time_zone);
        let config = ureq::Agent::config_builder().http_status_as_error(false);
        let agent = ureq::Agent::new_with_config(config.timeout_global(Some(WAIT * 3)).build());
        let session = format!("http://127.0.0.1:{port}/session");
        let mut browser = Browser { driver, agent, session, is_firefox };
        let capabilities = if is_firefox {
            json!({ "moz:firefoxOptions": { "args": ["-headless"] } })
        } else {
            json!({
                "goog:chromeOptions": { "args": CHROMIUM },
                "goog:loggingPrefs": { "browser": "ALL" }
            })
        };
        let created = browser.post("", &json!({ "capabilities": { "alwaysMatch": capabilities } }));
        browser.session = format!("{}/{}", browser.session, created["sessionId"].as_str().unwrap());
        browser.resize(1440, 900);
        browser
    }

    fn post(&self, command: &str, body: &Value) -> Value {
        let mut answer =
            self.agent.post(format!("{}{command}", self.session)).send_json(body).unwrap();
        let mut answer: Value = answer.body_mut().read_json().unwrap();
        assert!(answer["value"]["error"].is_null(), "{command}: {answer}");
        answer["value"].take()
    }

    pub fn resize(&self, width: u32, height: u32) {
        self.post("/window/rect", &json!({ "width": width, "height": height }));
    }

    pub fn open(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    pub fn back(&self) {
        self.post("/back", &json!({}));
    }

    pub fn forward(&self) {
        self.post("/forward", &json!({}));
    }

    pub fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    pub fn run_async(&self, script: &str) -> Value {
        self.post("/execute/async", &json!({ "script": script, "args": [] }))
    }

    /// The text of the first element that a selector finds.
    pub fn text(&self, selector: &str) -> String {
        let text =
            self.run(&format!("return document.querySelector({}).textContent", json!(selector)));
        text.as_str().unwrap().to_owned()
    }

    /// Until this expression is true.
    pub fn wait_for(&self, expression: &str) {
        let end = Instant::now() + WAIT;
        while self.run(&format!("return Boolean({expression})")) != true {
            assert!(
                Instant::now() < end,
                "never: {expression}; {}",
                self.run("return location + ' ' + document.body.innerText")
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Until an element's text has these words.
    pub fn wait_for_text(&self, selector: &str, words: &str) {
        let (selector, words) = (json!(selector), json!(words));
        self.wait_for(&format!(
            "[...document.querySelectorAll({selector})].some(e => e.checkVisibility() \
             && e.textContent.includes({words}))"
        ));
    }

    fn element(&self, selector: &str) -> String {
        let element = self.post("/element", &json!({ "using": "css selector", "value": selector }));
        element[ELEMENT].as_str().unwrap().to_owned()
    }

    pub fn type_into(&self, selector: &str, text: &str) {
        let id = self.element(selector);
        self.post(&format!("/element/{id}/value"), &json!({ "text": text }));
    }

    /// Types over what is in a field.
    pub fn replace(&self, selector: &str, text: &str) {
        self.run(&format!("document.querySelector({}).select()", json!(selector)));
        self.type_into(selector, text);
    }

    pub fn click(&self, selector: &str) {
        let id = self.element(selector);
        self.post(&format!("/element/{id}/click"), &json!({}));
    }

    /// Keys where the focus is.
    pub fn press(&self, keys: &str) {
        let keys = keys.chars().flat_map(|key| {
            [json!({ "type": "keyDown", "value": key }), json!({ "type": "keyUp", "value": key })]
        });
        let keys: Vec<Value> = keys.collect();
        self.post(
            "/actions",
            &json!({ "actions": [{ "type": "key", "id": "k", "actions": keys }] }),
        );
    }

    /// The mouse pointer to the middle of an element.
    pub fn point_at(&self, selector: &str) {
        let origin = json!({ ELEMENT: self.element(selector) });
        let moves =
            json!([{ "type": "pointerMove", "duration": 0, "origin": origin, "x": 0, "y": 0 }]);
        let pointer = json!({ "type": "pointer", "id": "m", "actions": moves });
        self.post("/actions", &json!({ "actions": [pointer] }));
    }

    /// What the page has complained of since it was asked last; Firefox does not say.
    pub fn complaints(&self) -> Vec<String> {
        if self.is_firefox {
            return Vec::new();
        }
        let entries = self.post("/se/log", &json!({ "type": "browser" }));
        let entries = entries.as_array().unwrap().iter();
        entries.map(|entry| entry["message"].as_str().unwrap().to_owned()).collect()
    }

    /// Chromium only.
    pub fn devtools(&self, cmd: &str, params: &Value) {
        self.post("/goog/cdp/execute", &json!({ "cmd": cmd, "params": params }));
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.agent.delete(&self.session).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

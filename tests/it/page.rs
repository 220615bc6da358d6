//! The page in a real browser: Debian's Chromium, by the WebDriver protocol (W3C). A test binary of
//! its own, run by `make test-page`, which installs the browser.

#![allow(clippy::unwrap_used, unreachable_pub, missing_debug_implementations, dead_code)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod harness;

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use harness::{Inbox, message_with};

const WAIT: Duration = Duration::from_secs(20);
const CHROMIUM: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,900",
];

struct Browser {
    driver: Child,
    agent: ureq::Agent,
    session: String,
}

impl Browser {
    fn start() -> Browser {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("chromedriver: {error}; see make test-page"));
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines
            .find_map(|line| {
                let line = line.unwrap();
                let (_, port) = line.split_once("started successfully on port ")?;
                Some(port.trim_end_matches('.').to_owned())
            })
            .unwrap();
        let config = ureq::Agent::config_builder().http_status_as_error(false);
        let agent = ureq::Agent::new_with_config(config.timeout_global(Some(WAIT * 3)).build());
        let mut browser =
            Browser { driver, agent, session: format!("http://127.0.0.1:{port}/session") };
        let options = json!({ "args": CHROMIUM });
        let capabilities = json!({
            "browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": { "browser": "ALL" }
        });
        let created = browser.post("", &json!({ "capabilities": { "alwaysMatch": capabilities } }));
        browser.session = format!("{}/{}", browser.session, created["sessionId"].as_str().unwrap());
        browser
    }

    fn post(&self, command: &str, body: &Value) -> Value {
        let mut answer =
            self.agent.post(format!("{}{command}", self.session)).send_json(body).unwrap();
        let mut answer: Value = answer.body_mut().read_json().unwrap();
        assert!(answer["value"]["error"].is_null(), "{command}: {answer}");
        answer["value"].take()
    }

    fn open(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Until this expression is true.
    fn wait_for(&self, expression: &str) {
        let end = Instant::now() + WAIT;
        while self.run(&format!("return Boolean({expression})")) != true {
            assert!(
                Instant::now() < end,
                "never: {expression}; {}",
                self.run("return document.body.innerText")
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn type_into(&self, selector: &str, text: &str) {
        let element = self.post("/element", &json!({ "using": "css selector", "value": selector }));
        let id = element.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned();
        self.post(&format!("/element/{id}/value"), &json!({ "text": text }));
    }

    /// What the page has complained of since it was asked last.
    fn complaints(&self) -> Vec<String> {
        let entries = self.post("/se/log", &json!({ "type": "browser" }));
        let entries = entries.as_array().unwrap().iter();
        entries.map(|entry| entry["message"].as_str().unwrap().to_owned()).collect()
    }

    /// A header that goes along with every request of the browser's; `null` for none.
    fn set_authorization(&self, value: &Value) {
        let headers = if value.is_null() { json!({}) } else { json!({ "Authorization": value }) };
        for (cmd, params) in [
            ("Network.enable", json!({})),
            ("Network.setExtraHTTPHeaders", json!({ "headers": headers })),
        ] {
            self.post("/goog/cdp/execute", &json!({ "cmd": cmd, "params": params }));
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.agent.delete(&self.session).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

const SHOWN: &str = "[...document.querySelectorAll('#messages [data-id]')].map(m => m.dataset.id)";

fn deliver(inbox: &Inbox, id: &str, second: usize, text: &str) {
    let ts = format!("2025-01-15T10:00:{second:02}Z");
    let message = message_with(id, &json!({ "text": text, "ts": ts }));
    assert_eq!(inbox.deliver(&message).status, 200);
}

#[test]
#[ignore = "needs Chromium: make test-page"]
fn the_page_shows_what_arrives_searches_and_is_not_taken_in_by_markup() {
    let inbox = Inbox::start();
    deliver(&inbox, "first", 1, "hello École");
    let evil =
        "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">";
    deliver(&inbox, "evil", 2, evil);
    let browser = Browser::start();
    browser.open(&inbox.url("/"));
    browser.wait_for(&format!("{SHOWN}.join() === 'evil,first'"));
    browser.wait_for("document.querySelector('#live').textContent.toLowerCase().includes('live')");

    // It arrives while the page is open, and stands at its place.
    deliver(&inbox, "newest", 4, "arrives live");
    browser.wait_for(&format!("{SHOWN}.join() === 'newest,evil,first'"));
    deliver(&inbox, "late", 3, "for an earlier second");
    browser.wait_for(&format!("{SHOWN}.join() === 'newest,late,evil,first'"));

    // What looks like markup is text.
    let text = browser.run("return document.querySelector('#messages').textContent");
    assert!(text.as_str().unwrap().contains("<script>document.title='taken'</script>"), "{text}");
    assert_ne!(browser.run("return document.title"), "taken");
    assert_eq!(
        browser.run("return document.querySelectorAll('#messages img, #messages script').length"),
        0
    );

    // A search is in the address, and an address is a search.
    browser.type_into("#q", "école");
    browser.wait_for(&format!("{SHOWN}.join() === 'first'"));
    browser.wait_for("decodeURIComponent(location.search).includes('q=école')");
    let address = browser.run("return location.href");
    browser.open(address.as_str().unwrap());
    browser.wait_for(&format!("{SHOWN}.join() === 'first'"));
    deliver(&inbox, "match", 5, "une autre école");
    deliver(&inbox, "no match", 6, "something else");
    browser.wait_for(&format!("{SHOWN}.join() === 'match,first'"));

    // A message in full, by keyboard and by script.
    browser.run("document.querySelector('#messages [data-id=first]').querySelector('button, a, [tabindex]')?.click() ?? document.querySelector('#messages [data-id=first]').click()");
    browser.wait_for("document.querySelector('#detail').open && document.querySelector('#detail').textContent.includes('hello École')");

    browser.open(&inbox.url("/docs"));
    browser.wait_for("document.querySelectorAll('#operations [data-operation]').length >= 12");
    browser.run("document.querySelector('[data-operation=\"GET /stats\"] button.send').click()");
    browser.wait_for("document.querySelector('[data-operation=\"GET /stats\"] .answer').textContent.includes('200')");
    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
#[ignore = "needs Chromium: make test-page"]
fn the_page_asks_for_a_token_that_it_needs() {
    let inbox = Inbox::start_with(tempfile::tempdir().unwrap(), |command| {
        command.env("READ_TOKEN", "right-token");
    });
    deliver(&inbox, "secret", 1, "only for who may read");
    let browser = Browser::start();
    // A browser without a head asks nobody: it shows what it was told.
    browser.open(&inbox.url("/"));
    assert_eq!(browser.run("return document.querySelector('#messages')"), Value::Null);
    // The token was right for the page and is not for what it asks: it was replaced meanwhile.
    browser.set_authorization(&json!("Bearer right-token"));
    browser.open(&inbox.url("/"));
    browser.wait_for(&format!("{SHOWN}.join() === 'secret'"));
    browser.set_authorization(&json!("Bearer old-token"));
    browser.run("document.querySelector('#q').value = 'only'; document.querySelector('#q').dispatchEvent(new Event('input', { bubbles: true }))");
    browser.wait_for("document.querySelector('#token-form')?.checkVisibility()");
    browser.set_authorization(&Value::Null);
    browser.type_into("#token", "right-token\n");
    browser.wait_for(&format!("{SHOWN}.join() === 'secret'"));
    browser.wait_for("!document.querySelector('#token-form')?.checkVisibility()");
}

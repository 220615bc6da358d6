//! Who may read.

use std::fs;

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::harness::{Inbox, Reply, agent, message, refused, reply};

const PROTECTED: [&str; 9] = [
    "/messages",
    "/feed",
    "/export",
    "/stats",
    "/stats/series",
    "/metrics",
    "/",
    "/docs",
    "/openapi.json",
];

fn get(inbox: &Inbox, path: &str, authorization: &str) -> Reply {
    reply(agent().get(inbox.url(path)).header("Authorization", authorization).call())
}

#[test]
fn reading_needs_a_token_once_there_is_one_and_delivering_does_not() {
    let inbox = Inbox::start_with(tempfile::tempdir().unwrap(), |command| {
        command.env("READ_TOKEN", "old-token new-token");
    });
    assert_eq!(inbox.deliver(&message("m1")).status, 200);
    for path in ["/health/live", "/health/ready"] {
        assert_eq!(inbox.get(path).status, 200, "{path}");
    }
    let basic = |credentials: &str| format!("Basic {}", STANDARD.encode(credentials));
    for path in PROTECTED {
        let refused = inbox.get(path);
        assert_eq!(refused.status, 401, "{path}");
        assert!(refused.json["detail"].as_str().is_some_and(|detail| detail.contains("token")));
        let asked: Vec<_> = (refused.headers.iter())
            .filter(|(name, _)| name.eq_ignore_ascii_case("WWW-Authenticate"))
            .map(|(_, value)| value.as_str())
            .collect();
        assert_eq!(
            asked,
            ["Basic realm=\"mailslot\", charset=\"UTF-8\"", "Bearer realm=\"mailslot\""]
        );
        assert_eq!(inbox.request("HEAD", path).status, 401, "{path}");
        // The page has a form for it: the browser is not to ask, too.
        let script = agent().get(inbox.url(path)).header("X-Requested-With", "mailslot");
        let asked = reply(script.call());
        assert_eq!(asked.header("WWW-Authenticate"), Some("Bearer realm=\"mailslot\""));
        for wrong in ["Bearer old", "Bearer old-token new-token", "old-token", &basic("old-token:")]
        {
            assert_eq!(get(&inbox, path, wrong).status, 401, "{path} {wrong}");
        }
        for right in ["Bearer old-token", "bearer new-token", &basic(":new-token")] {
            assert_eq!(get(&inbox, path, right).status, 200, "{path} {right}");
        }
    }
    assert_eq!(get(&inbox, "/messages", "Bearer old-token").json["total"], 1);
    assert_eq!(inbox.get("/nowhere").status, 404);
    let twice = "GET /stats HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer old-token\r\n\
                 Authorization: Bearer old-token\r\nConnection: close\r\n\r\n";
    assert!(inbox.raw(twice.as_bytes()).starts_with("HTTP/1.1 401 "));
    // What a browser does at first is no error.
    assert_eq!(inbox.request_log(&inbox.get("/"))["level"], "INFO");
}

#[test]
fn tokens_come_from_a_file_or_a_credential_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("read_token");
    fs::write(&file, "first\nsecond\n").unwrap();
    let inbox = Inbox::start_with(folder, |command| {
        command.env("READ_TOKEN_FILE", &file);
    });
    for (token, status) in [("first", 200), ("second", 200), ("third", 401)] {
        assert_eq!(get(&inbox, "/stats", &format!("Bearer {token}")).status, status, "{token}");
    }
    let inbox = Inbox::start_with(inbox.stop(), |command| {
        let folder = command.get_current_dir().unwrap().to_owned();
        command.env("CREDENTIALS_DIRECTORY", folder);
    });
    assert_eq!(inbox.get("/stats").status, 401);
    assert_eq!(get(&inbox, "/stats", "Bearer second").status, 200);
}

#[test]
fn a_token_that_is_no_token_is_told_before_anybody_could_read() {
    for (name, value) in
        [("READ_TOKEN", "  "), ("READ_TOKEN", "pässword"), ("READ_TOKEN_FILE", "/nowhere/token")]
    {
        let output = refused(|command| {
            command.env(name, value);
        });
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains(name), "{told}");
    }
}

#[test]
fn an_address_that_others_reach_is_warned_of_unless_there_is_a_token() {
    for (token, warned) in [("", true), ("token", false)] {
        let inbox = Inbox::start_with(tempfile::tempdir().unwrap(), |command| {
            command.env("LISTEN", "0.0.0.0:0").env("READ_TOKEN", token);
        });
        let health = inbox.get("/health/live");
        let is_warning = |line: &serde_json::Value| {
            line["level"] == "WARN" && line["msg"].as_str().unwrap().contains("READ_TOKEN")
        };
        let id = health.header("X-Request-ID").unwrap().to_owned();
        let line = inbox.wait_for_log(|line| is_warning(line) || line["request_id"] == id.as_str());
        assert_eq!(is_warning(&line), warned, "{line}");
    }
}

//! Who may read.

use std::fs;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use crate::harness::{Inbox, Reply, agent, message, refused, reply, sign};

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

/// What answers `GET path` with this target and these headers, of one connection.
fn ask(inbox: &Inbox, target: &str, version: &str, headers: &str) -> (u16, String) {
    let request = format!("GET {target} HTTP/{version}\r\n{headers}Connection: close\r\n\r\n");
    let answer = inbox.raw(request.as_bytes());
    let status = answer.split(' ').nth(1).unwrap_or_else(|| panic!("{answer}"));
    (status.parse().unwrap(), answer)
}

fn ask_as(inbox: &Inbox, host: &str, path: &str) -> u16 {
    ask(inbox, path, "1.1", &format!("Host: {host}\r\n")).0
}

#[test]
fn without_a_token_nobody_reads_under_a_name_that_an_outsider_can_give_to_this_machine() {
    let inbox = Inbox::start();
    assert_eq!(inbox.deliver(&message("m1")).status, 200);
    for path in PROTECTED.into_iter().filter(|path| *path != "/metrics") {
        let (status, answer) = ask(&inbox, path, "1.1", "Host: rebound.example.com:8000\r\n");
        assert!(answer.starts_with("HTTP/1.1 421 Misdirected Request\r\n"), "{path}: {answer}");
        assert_eq!(status, 421);
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        let detail = body["detail"].as_str().unwrap();
        assert!(detail.contains("HOSTS") && detail.contains("READ_TOKEN"), "{detail}");
    }
    let port = inbox.address.port();
    for host in [
        "127.0.0.1",
        &format!("127.0.0.1:{port}"),
        "203.0.113.7:80",
        "[::1]",
        &format!("[::1]:{port}"),
        "[fe80::1%25eth0]:8000",
        "localhost",
        "LocalHost:8000",
        "localhost.",
        "api:8000",
        "my-mail_slot",
    ] {
        assert_eq!(ask_as(&inbox, host, "/messages"), 200, "{host}");
    }
    for host in [
        "rebound.example.com",
        "127.0.0.1.example.com",
        "localhost.example.com",
        "127.0.0.1:80.example.com",
        "[::1].example.com",
        "[example.com]",
        "ai.",
        "rebound@localhost",
        "",
        ":8000",
        ".",
    ] {
        assert_eq!(ask_as(&inbox, host, "/messages"), 421, "{host}");
        for path in ["/health/live", "/health/ready", "/metrics"] {
            assert_eq!(ask_as(&inbox, host, path), 200, "{host} {path}");
        }
    }
    let body = message("m2").to_string();
    let signature = sign(body.as_bytes());
    let headers = [("Host", "hooks.example.com"), ("X-Signature", signature.as_str())];
    assert_eq!(inbox.post(body.as_bytes(), &headers).status, 200);
    let counted = "http_requests_total{path=\"/messages\",status=\"421\"}";
    assert_eq!(inbox.metric(counted), 12);
}

#[test]
fn a_request_without_a_host_is_no_browsers_and_a_whole_url_counts_instead_of_its_host() {
    let inbox = Inbox::start();
    let status =
        |target: &str, version: &str, headers: &str| ask(&inbox, target, version, headers).0;
    assert_eq!(status("/stats", "1.0", ""), 200);
    assert_eq!(status("/stats", "1.0", "Host: rebound.example.com\r\n"), 421);
    let local = "Host: localhost\r\n";
    let rebound = "Host: rebound.example.com\r\n";
    assert_eq!(status("http://rebound.example.com/stats", "1.1", local), 421);
    assert_eq!(status("HTTP://rebound.example.com:8000?/stats", "1.1", local), 421);
    assert_eq!(status("http://localhost:8000/stats", "1.1", rebound), 200);
}

#[test]
fn the_names_of_hosts_may_be_asked_under_and_are_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings");
    fs::write(&file, "HOSTS=hooks.example.com Inbox.Example.ORG.\n").unwrap();
    let inbox = Inbox::start_with(folder, |command| {
        command.env("SETTINGS_FILE", &file);
    });
    for host in ["hooks.example.com", "HOOKS.example.com:8443", "inbox.example.org", "localhost"] {
        assert_eq!(ask_as(&inbox, host, "/stats"), 200, "{host}");
    }
    for host in ["example.com", "a.hooks.example.com", "hooks.example.com.evil.org"] {
        assert_eq!(ask_as(&inbox, host, "/stats"), 421, "{host}");
    }
    let file = inbox.folder.path().join("settings");
    fs::write(&file, "HOSTS=other.example.com\n").unwrap();
    inbox.signal("-HUP");
    let line = inbox.wait_for_log(|line| line["msg"] == "settings read again");
    assert_eq!((&line["changed"], &line["after_restart"]), (&json!("HOSTS"), &json!("")));
    assert_eq!(ask_as(&inbox, "hooks.example.com", "/stats"), 421);
    assert_eq!(ask_as(&inbox, "other.example.com", "/stats"), 200);
}

#[test]
fn with_a_token_a_reader_may_ask_under_any_name() {
    let inbox = Inbox::start_with(tempfile::tempdir().unwrap(), |command| {
        command.env("READ_TOKEN", "token");
    });
    let status = |headers: &str| ask(&inbox, "/stats", "1.1", headers).0;
    let host = "Host: rebound.example.com\r\n";
    assert_eq!(status(host), 401);
    assert_eq!(status(&format!("{host}Authorization: Bearer token\r\n")), 200);
}

#[test]
fn a_host_that_is_no_name_is_refused_at_the_start() {
    for hosts in
        ["https://hooks.example.com", "hooks.example.com:443", "*.example.com", "é.org", "."]
    {
        let output = refused(|command| {
            command.env("HOSTS", hosts);
        });
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("HOSTS=") && stderr.contains("expected"), "{stderr}");
    }
}

#[test]
fn compose_publishes_on_this_machine_only_and_passes_on_what_protects_reading() {
    let compose = fs::read_to_string("docker-compose.yml").unwrap();
    let values = |indent: &str| {
        let lines = compose.lines().filter_map(|line| line.strip_prefix(indent));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(values("      - \"127.0.0.1:"), ["8000:8000\""]);
    assert_eq!(compose.matches("8000:8000\"").count(), 1, "there is one port");
    for (name, rest) in [
        ("WEBHOOK_SECRET", "?set it to the secret that the provider signs with"),
        ("READ_TOKEN", "-"),
        ("HOSTS", "-"),
        ("DATABASE_URL", "-sqlite:////data/app.db"),
        ("LOG_LEVEL", "-INFO"),
        ("RETENTION_DAYS", "-"),
        ("TRUSTED_PROXIES", "-"),
    ] {
        let passed = format!("{name}: \"${{{name}:{rest}}}\"");
        assert!(values("      ").contains(&passed), "{passed}");
    }
    // Every command of Compose needs the secret, also one that deletes what it has made.
    let makefile = fs::read_to_string("Makefile").unwrap();
    assert!(makefile.contains("\ndown logs: export WEBHOOK_SECRET := "));
    let (_, down) = makefile.split_once("\ndown: ").unwrap();
    let lines: Vec<&str> = down.lines().skip(1).take(2).collect();
    assert!(lines[0].contains("deletes the volume with every message"), "{lines:?}");
    assert_eq!(lines[1], "\tdocker compose down -v");
}

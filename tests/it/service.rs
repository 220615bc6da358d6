//! Health, metrics, logs, and what every answer has in common.

use std::{
    io::Write,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};

use crate::harness::{Inbox, message, message_with, sign};

#[test]
fn it_is_live_and_ready() {
    let inbox = Inbox::start();
    assert_eq!(inbox.get("/health/live").text, r#"{"status":"ok"}"#);
    assert_eq!(inbox.get("/health/ready").text, r#"{"status":"ready"}"#);
}

#[test]
fn it_is_not_ready_while_another_process_holds_the_database() {
    let inbox = Inbox::start();
    let other = rusqlite::Connection::open(crate::harness::database(inbox.folder.path())).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let reply = inbox.get("/health/ready");
    assert_eq!((reply.status, &reply.json["status"]), (503, &json!("not ready")));
    assert!(reply.json["detail"].is_string() && reply.header("Retry-After").is_some());
    assert_eq!(inbox.get("/health/live").status, 200);
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(inbox.get("/health/ready").status, 200);
}

#[test]
fn a_database_that_was_removed_or_replaced_takes_nothing_more() {
    for suffix in ["", "-wal", "-shm"] {
        let inbox = Inbox::start();
        assert_eq!(inbox.deliver(&message("m1")).status, 200);
        std::fs::remove_file(inbox.folder.path().join(format!("mailslot.db{suffix}"))).unwrap();
        assert_eq!(inbox.deliver(&message("m2")).status, 503);
        let reply = inbox.get("/health/ready");
        let detail = json!("the database file was removed or replaced");
        assert_eq!((reply.status, &reply.json["detail"]), (503, &detail), "{suffix}");
    }
}

#[test]
fn it_is_not_ready_with_another_schema() {
    let inbox = Inbox::start();
    let other = rusqlite::Connection::open(crate::harness::database(inbox.folder.path())).unwrap();
    other.execute_batch("PRAGMA user_version = 99").unwrap();
    let reply = inbox.get("/health/ready");
    assert_eq!(
        reply.json,
        json!({ "status": "not ready", "detail": "the database has another schema" })
    );
    let reply = inbox.deliver(&message("m1"));
    assert_eq!(reply.json, json!({ "detail": "the database has another schema" }));
    assert_eq!((reply.status, inbox.rows()), (503, 0), "a newer mailslot counts in another way");
}

#[test]
fn a_row_that_is_not_utf_8_hides_no_page() {
    let inbox = Inbox::start();
    let other = rusqlite::Connection::open(crate::harness::database(inbox.folder.path())).unwrap();
    other
        .execute_batch(
            "INSERT INTO messages (message_id, from_msisdn, to_msisdn, ts, ts_s, ts_ns, text, created_at)
             VALUES ('m', '+1', '+2', '2025-01-15T10:00:00Z', 1736935200, 0, CAST(x'ff41' AS TEXT), '')",
        )
        .unwrap();
    // A commit counts what another program has inserted; until then no answer has it.
    assert_eq!(inbox.get("/health/ready").status, 200);
    assert_eq!(inbox.get("/messages?q=a").json["data"][0]["text"], "\u{fffd}A");
}

#[test]
fn unknown_paths_are_404_and_wrong_methods_405() {
    let inbox = Inbox::start();
    for path in [
        "/index.html",
        "/nope",
        "/webhook/",
        "/Messages",
        "/messages/1",
        "//stats",
        "/%2e%2e/etc/passwd",
        "/%00",
    ] {
        let reply = inbox.get(path);
        assert_eq!((reply.status, &*reply.text), (404, r#"{"detail":"Not Found"}"#), "{path}");
    }
    for (method, path, allow) in [
        ("GET", "/webhook", "POST"),
        ("DELETE", "/webhook", "POST"),
        ("HEAD", "/webhook", "POST"),
        ("PUT", "/messages", "GET, HEAD"),
        ("DELETE", "/stats", "GET, HEAD"),
        ("OPTIONS", "/metrics", "GET, HEAD"),
        ("PATCH", "/health/live", "GET, HEAD"),
    ] {
        let reply = inbox.request(method, path);
        assert_eq!((reply.status, reply.header("Allow")), (405, Some(allow)), "{method} {path}");
        if method != "HEAD" {
            assert_eq!(reply.text, r#"{"detail":"Method Not Allowed"}"#);
        }
    }
}

#[test]
fn head_is_get_without_the_body() {
    let inbox = Inbox::start();
    for path in ["/messages", "/stats", "/health/live", "/health/ready", "/nope"] {
        let (get, head) = (inbox.get(path), inbox.request("HEAD", path));
        assert_eq!((head.status, head.text.len()), (get.status, 0), "{path}");
        for header in ["Content-Type", "Content-Length"] {
            assert_eq!(head.header(header), get.header(header), "{path}");
        }
    }
}

#[test]
fn a_sane_request_id_is_kept_and_any_other_replaced() {
    let inbox = Inbox::start();
    let body = message("m1").to_string().into_bytes();
    let signature = sign(&body);
    let id_for = |id: &str| {
        let reply = inbox.post(&body, &[("X-Signature", &signature), ("X-Request-ID", id)]);
        assert_eq!(inbox.request_log(&reply)["request_id"], reply.header("X-Request-ID").unwrap());
        reply.header("X-Request-ID").unwrap().to_owned()
    };
    let longest = "x".repeat(128);
    for sane in ["abc-123", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "a/b:c_d.e+f=@", &longest] {
        assert_eq!(id_for(sane), sane);
    }
    let too_long = "x".repeat(129);
    let replaced: Vec<_> =
        ["", "two words", "<script>", "a\"b", &too_long].iter().map(|id| id_for(id)).collect();
    assert!(replaced.iter().all(|id| !id.is_empty() && id.len() < 40));
    assert_eq!(replaced.iter().collect::<std::collections::HashSet<_>>().len(), replaced.len());
}

#[test]
fn every_metric_is_there_from_the_start_and_counts() {
    let inbox = Inbox::start();
    let reply = inbox.get("/metrics");
    assert_eq!(reply.header("Content-Type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let results = reply.text.lines().filter_map(|line| line.strip_prefix("webhook_requests_total"));
    let expected = [
        "created",
        "duplicate",
        "ignored",
        "invalid_signature",
        "validation_error",
        "too_large",
        "bad_request",
        "rate_limited",
        "unavailable",
        "internal_error",
    ];
    let expected = expected.map(|result| format!("{{result=\"{result}\"}} 0"));
    assert_eq!(results.collect::<Vec<_>>(), expected, "no result more, none less, each 0");
    inbox.deliver(&message("m1"));
    inbox.deliver(&message("m1"));
    inbox.deliver(&json!({}));
    inbox.post(b"{}", &[]);
    inbox.get("/messages?q=%2B919876543210");
    inbox.get("/secret-path-1");
    inbox.get("/secret-path-2");
    inbox.request("DELETE", "/stats");
    let text = inbox.get("/metrics").text;
    for line in [
        "http_requests_total{path=\"/webhook\",status=\"200\"} 2",
        "http_requests_total{path=\"/webhook\",status=\"422\"} 1",
        "http_requests_total{path=\"/webhook\",status=\"401\"} 1",
        "http_requests_total{path=\"/messages\",status=\"200\"} 1",
        "http_requests_total{path=\"/stats\",status=\"405\"} 1",
        "http_requests_total{path=\"other\",status=\"404\"} 2",
        "webhook_requests_total{result=\"created\"} 1",
        "webhook_requests_total{result=\"duplicate\"} 1",
        "webhook_requests_total{result=\"validation_error\"} 1",
        "webhook_requests_total{result=\"invalid_signature\"} 1",
        "mailslot_commit_batch_size_count 2",
        "mailslot_panics_total 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    for leak in ["secret-path", "919876543210", "m1"] {
        assert!(!text.contains(leak), "{leak}");
    }
    let count = inbox.metric("request_latency_ms_count");
    assert_eq!(inbox.metric("request_latency_ms_bucket{le=\"+Inf\"}"), count + 1);
    check_exposition(&text);
}

#[test]
fn panics_of_tiny_http_that_clients_cause_are_not_counted_as_panics_of_mailslot() {
    let inbox = Inbox::start();
    // Reset before they are accepted: tiny_http asks for the address of a client that has none left.
    inbox.signal("-STOP");
    for _ in 0..20 {
        let mut stream = inbox.connect();
        stream.write_all(b"GET /health/live HTTP/1.1\r\n\r\n").unwrap();
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    }
    inbox.signal("-CONT");
    let line = inbox.wait_for_log(|line| line["msg"] == "panic");
    assert!(line["location"].as_str().unwrap().contains("tiny_http"), "{line}");
    assert!(inbox.metric("mailslot_tiny_http_panics_total") > 0);
    assert_eq!(inbox.metric("mailslot_panics_total"), 0);
    assert_eq!(inbox.deliver(&message("m1")).status, 200);
}

#[test]
fn promtool_objects_to_nothing_but_the_contract_s_own_names() {
    let inbox = Inbox::start();
    inbox.deliver(&message("m1"));
    let text = inbox.get("/metrics").text;
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = promtool.spawn() else {
        eprintln!("skipped: promtool (of Prometheus) is not installed here");
        return;
    };
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let objections = String::from_utf8(output.stderr).unwrap();
    let contract = ["http_requests_total ", "webhook_requests_total ", "request_latency_ms "];
    for line in objections.lines() {
        assert!(contract.iter().any(|name| line.starts_with(name)), "{objections}");
    }
}

/// The rules of the text format that a scraper trips over.
fn check_exposition(text: &str) {
    let mut last_bucket = 0;
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            assert!(comment.starts_with("HELP ") || comment.starts_with("TYPE "), "{line}");
            last_bucket = 0;
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
        assert!(
            name.split('{').next().unwrap().chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        );
        if name.contains("_bucket{") {
            assert!(value as u64 >= last_bucket, "buckets are cumulative: {line}");
            last_bucket = value as u64;
        }
    }
}

#[test]
fn a_request_is_one_line_with_what_an_operator_needs_and_nothing_secret() {
    let inbox = Inbox::start();
    let created = inbox
        .request_log(&inbox.deliver(&message_with("id-1", &json!({ "text": "private words" }))));
    assert_eq!(created["level"], "INFO");
    assert_eq!(
        (&created["method"], &created["path"], &created["status"]),
        (&json!("POST"), &json!("/webhook"), &json!(200))
    );
    assert_eq!(
        (&created["message_id"], &created["dup"], &created["result"]),
        (&json!("id-1"), &json!(false), &json!("created"))
    );
    let duplicate = inbox.request_log(&inbox.deliver(&message("id-1")));
    assert_eq!((&duplicate["dup"], &duplicate["result"]), (&json!(true), &json!("duplicate")));
    let invalid = inbox
        .request_log(&inbox.deliver(&json!({ "message_id": "id-2", "text": "private words" })));
    assert_eq!(
        (&invalid["message_id"], &invalid["result"]),
        (&json!("id-2"), &json!("validation_error"))
    );
    let signature = sign(b"other");
    let unsigned = inbox.request_log(
        &inbox.post(message("id-3").to_string().as_bytes(), &[("X-Signature", &signature)]),
    );
    assert_eq!((&unsigned["level"], unsigned.get("message_id")), (&json!("ERROR"), None));
    let search = inbox.request_log(&inbox.get("/messages?q=private+words&from=+919876543210"));
    assert_eq!(search["path"], "/messages");
    assert!(search.get("dup").is_none());
    for line in [created, duplicate, invalid, unsigned, search] {
        assert!(line["latency_ms"].as_f64().unwrap() >= 0.0);
        assert!(line["ts"].as_str().unwrap().ends_with('Z'));
        let text = line.to_string();
        for secret in ["private", "testsecret", &signature, "919876543210"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[test]
fn hostile_bytes_stay_within_their_line() {
    let inbox = Inbox::start();
    let id = "a\"}\n{\"level\":\"ERROR\",\"msg\":\"forged\u{1b}[31m\u{0}";
    let line = inbox.request_log(&inbox.deliver(&message_with(id, &json!({}))));
    assert_eq!(line["message_id"], id);
    let line = inbox.request_log(&inbox.get("/%0a%22%7D\"}{"));
    assert_eq!(line["path"], "/%0a%22%7D\"}{");
    let long = inbox.request_log(&inbox.get(&format!("/{}", "x".repeat(5000))));
    assert_eq!(long["path"].as_str().unwrap().len(), 512);
}

#[test]
fn the_start_line_comes_at_any_level() {
    let inbox = Inbox::start_with(tempfile::tempdir().unwrap(), |command| {
        command.env("LOG_LEVEL", "ERROR");
    });
    assert_eq!(inbox.get("/health/live").status, 200);
}

#[test]
fn the_level_decides_which_lines_there_are() {
    for (level, expected) in
        [("error", vec!["ERROR"]), ("Warn", vec!["ERROR"]), ("DEBUG", vec!["INFO", "ERROR"])]
    {
        // The line that tells the port is INFO, so this one is chosen here.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut command = crate::harness::command(folder.path());
        command
            .env("LOG_LEVEL", level)
            .env("LISTEN", free.to_string())
            .stdout(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        let agent = crate::harness::agent();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while agent.get(format!("http://{free}/stats")).call().is_err() {
            assert!(std::time::Instant::now() < end);
        }
        agent.post(format!("http://{free}/webhook")).send("x").unwrap();
        crate::harness::signal(child.id(), "-TERM");
        let mut log = String::new();
        std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut log).unwrap();
        child.wait().unwrap();
        let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut levels: Vec<_> = lines
            .filter(|line| line["msg"] == "request")
            .map(|line| line["level"].as_str().unwrap().to_owned())
            .collect();
        levels.dedup();
        assert_eq!(levels, expected, "{level}");
    }
}

//! `GET /export`: all that matches, whole or visibly not.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};

use crate::harness::{Inbox, agent, command, message, message_with, on_postgres, reply};

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// An inbox with so many messages of a kilobyte, by its own import.
fn filled(count: usize) -> Inbox {
    filled_with(count, |_| {})
}

fn filled_with(count: usize, adjust: impl FnOnce(&mut Command)) -> Inbox {
    let folder = tempfile::tempdir().unwrap();
    let mut import = command(folder.path())
        .args(["import", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = import.stdin.take().unwrap();
    for number in 0..count {
        let text = format!("{number} {}", "x".repeat(1_000));
        let ts = format!("2025-01-{:02}T10:00:00Z", 1 + number % 28);
        let fields = json!({ "text": text, "ts": ts });
        writeln!(input, "{}", message_with(&format!("m{number}"), &fields)).unwrap();
    }
    drop(input);
    assert!(import.wait().unwrap().success());
    Inbox::start_with(folder, adjust)
}

/// Asks for an export and reads its head: the rest is still to be read.
fn begin(inbox: &Inbox, path: &str) -> BufReader<TcpStream> {
    begin_as(inbox, path, "198.51.100.1")
}

/// The same as a proxy asks for this client.
fn begin_as(inbox: &Inbox, path: &str, client: &str) -> BufReader<TcpStream> {
    let mut stream = inbox.connect();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {client}\r\n\r\n").unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert!(line.starts_with("HTTP/1.1 200 "), "{line}");
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).unwrap();
    }
    reader
}

/// The chunks' contents; `None` if the last chunk is missing.
fn read_chunks(reader: &mut BufReader<TcpStream>) -> Option<String> {
    let mut text = Vec::new();
    loop {
        let mut size = String::new();
        reader.read_line(&mut size).ok()?;
        let size = usize::from_str_radix(size.trim_end(), 16).ok()?;
        let mut chunk = vec![0; size + 2];
        reader.read_exact(&mut chunk).ok()?;
        assert!(chunk.ends_with(b"\r\n"));
        if size == 0 {
            return Some(String::from_utf8(text).unwrap());
        }
        text.extend_from_slice(&chunk[..size]);
    }
}

#[test]
fn both_formats_hold_every_field_of_what_matches() {
    let inbox = Inbox::start();
    let nasty = "say \"hi\", <b>\r\n\u{202e}é 🙂";
    for (id, fields) in [
        ("late", json!({ "ts": "2025-01-15T10:00:01Z", "text": nasty })),
        ("a,b", json!({ "text": null })),
        ("empty", json!({ "from": "+2", "text": "" })),
        ("other", json!({ "to": "+3", "ts": "2025-02-01T00:00:00Z" })),
    ] {
        assert_eq!(inbox.deliver(&message_with(id, &fields)).status, 200);
    }
    let export = inbox.get("/export");
    assert_eq!(export.header("Content-Type"), Some("application/x-ndjson"));
    assert_eq!(export.header("Transfer-Encoding"), Some("chunked"));
    assert_eq!(
        export.header("Content-Disposition"),
        Some("attachment; filename=\"mailslot.ndjson\"")
    );
    let created_at = |id: &str| {
        let feed = inbox.get("/feed").json;
        let found = feed["data"].as_array().unwrap().iter().find(|m| m["message_id"] == id);
        found.unwrap()["created_at"].as_str().unwrap().to_owned()
    };
    let exported = lines(&export.text);
    let ids: Vec<_> = exported.iter().map(|m| m["message_id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["a,b", "empty", "late", "other"]);
    assert_eq!(
        exported[2],
        json!({
            "message_id": "late", "from": "+919876543210", "to": "+14155550100",
            "ts": "2025-01-15T10:00:01Z", "text": nasty, "created_at": created_at("late"),
        })
    );
    let csv = inbox.get("/export?format=csv&until=2025-02-01T00:00:00Z");
    assert_eq!(csv.header("Content-Type"), Some("text/csv; charset=utf-8; header=present"));
    let expected = format!(
        "message_id,from,to,ts,text,created_at\r\n\
         \"a,b\",+919876543210,+14155550100,2025-01-15T10:00:00Z,,{}\r\n\
         empty,+2,+14155550100,2025-01-15T10:00:00Z,\"\",{}\r\n\
         late,+919876543210,+14155550100,2025-01-15T10:00:01Z,\"say \"\"hi\"\", <b>\r\n\u{202e}é 🙂\",{}\r\n",
        created_at("a,b"),
        created_at("empty"),
        created_at("late")
    );
    assert_eq!(csv.text, expected);
    for (query, expected) in [
        ("from=+2", vec!["empty"]),
        ("to=+3", vec!["other"]),
        ("since=2025-01-15T10:00:00.5Z", vec!["late", "other"]),
        ("q=HI", vec!["late"]),
        ("q=absent", vec![]),
        ("from=+404", vec![]),
    ] {
        let exported = lines(&inbox.get(&format!("/export?{query}")).text);
        let ids: Vec<_> = exported.iter().map(|m| m["message_id"].as_str().unwrap()).collect();
        assert_eq!(ids, expected, "{query}");
    }
    assert_eq!(inbox.request("HEAD", "/export").text, "");
    assert_eq!(inbox.get("/export?format=xml&since=x").problems().len(), 2);
}

#[test]
fn what_is_exported_can_be_imported_elsewhere() {
    let inbox = filled(600);
    let text = inbox.get("/export").text;
    assert_eq!(lines(&text).len(), 600);
    let other = tempfile::tempdir().unwrap();
    let file = other.path().join("export.ndjson");
    std::fs::write(&file, &text).unwrap();
    let imported = command(other.path()).arg("import").arg(&file).output().unwrap();
    assert!(imported.status.success(), "{imported:?}");
    let other = Inbox::start_in(other);
    assert_eq!(
        other.get("/messages?limit=100&offset=550").json,
        inbox.get("/messages?limit=100&offset=550").json
    );
}

#[test]
fn an_export_has_the_messages_of_its_start_and_delays_no_other_request() {
    let inbox = filled(20_000);
    let mut export = begin(&inbox, "/export");
    // Its client reads nothing yet. Meanwhile deliveries go on, before and behind where it is.
    for number in 0..50 {
        let ts = json!({ "ts": if number % 2 == 0 { "2024-01-01T00:00:00Z" } else { "2026-01-01T00:00:00Z" } });
        assert_eq!(inbox.deliver(&message_with(&format!("new{number}"), &ts)).status, 200);
    }
    inbox.execute("DELETE FROM messages WHERE message_id = 'm27'");
    // No reader is in the way of the write-ahead log, or of a vacuum.
    if on_postgres() {
        inbox.execute("VACUUM messages");
        assert_eq!(
            inbox.count("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'messages'"),
            0
        );
    } else {
        assert_eq!(inbox.count("PRAGMA wal_checkpoint(TRUNCATE)"), 0);
    }
    let text = read_chunks(&mut export).unwrap();
    let exported = lines(&text);
    assert_eq!(exported.len(), 20_000 - 1, "without what was deleted before the export reached it");
    assert!(exported.is_sorted_by_key(|m| {
        (m["ts"].as_str().unwrap().to_owned(), m["message_id"].as_str().unwrap().to_owned())
    }));
    // The connection goes on.
    write!(export.get_mut(), "GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut line = String::new();
    export.read_line(&mut line).unwrap();
    assert!(line.starts_with("HTTP/1.1 200 "), "{line}");
}

#[test]
fn exports_are_bounded_in_number_and_a_stop_waits_for_none() {
    let inbox = filled(20_000);
    let mut exports: Vec<_> = (0..4).map(|_| begin(&inbox, "/export")).collect();
    let refused = inbox.get("/export");
    assert_eq!((refused.status, refused.header("Retry-After")), (503, Some("1")));
    assert!(read_chunks(&mut exports.pop().unwrap()).is_some(), "one ends");
    // Its place is free a moment later.
    while inbox.request("HEAD", "/export").status == 503 {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(100));
    let mut again = begin(&inbox, "/export");
    assert!(inbox.raw(b"GET /export HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 400 "));
    std::thread::sleep(Duration::from_millis(100));
    inbox.signal("-TERM");
    let stopped = inbox.wait_for_log(|line| line["msg"] == "stopped");
    assert!(stopped["drain_ms"].as_f64().unwrap() < 8_000.0, "{stopped}");
    assert_eq!(read_chunks(&mut again), None, "not whole, and its client sees it");
}

#[test]
fn one_client_has_at_most_half_of_the_exports() {
    let inbox = filled_with(20_000, |command| {
        command.env("TRUSTED_PROXIES", "127.0.0.1");
    });
    let ask = |client: &str| {
        let request = agent().get(inbox.url("/export")).header("X-Forwarded-For", client);
        reply(request.call())
    };
    let exports = [(); 2].map(|()| begin_as(&inbox, "/export", "198.51.100.7"));
    let refused = ask("198.51.100.7");
    assert_eq!((refused.status, refused.header("Retry-After")), (503, Some("1")));
    let other = begin_as(&inbox, "/export", "198.51.100.8");
    // The proxy's own requests, which name no client, are limited only by the places in all.
    assert_eq!(inbox.request("HEAD", "/export").status, 200);
    drop((exports, other));
}

#[test]
fn a_client_that_does_not_read_its_export_is_disconnected() {
    let inbox = filled(20_000);
    let export = begin(&inbox, "/export");
    let closed = "mailslot_connections_closed_total{reason=\"answer\"}";
    let started = std::time::Instant::now();
    while inbox.metric(closed) == 0 {
        assert!(started.elapsed() < Duration::from_secs(30), "it was never closed");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(started.elapsed() > Duration::from_secs(8));
    assert_eq!(inbox.deliver(&message("after")).status, 200);
    drop(export);
}

//! What clients and operators read, compared letter by letter with the files in `snapshots/`. Where a
//! change is meant, `make snapshots` writes the files again, and the diff shows it to the reviewer.

use std::{fmt::Write as _, fs, path::Path};

use serde_json::json;

use crate::harness::{Inbox, Reply, command, message_with};

/// Set, each test writes its file instead of reading it.
const RENEW: &str = "RENEW_SNAPSHOTS";

fn compare(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/snapshots").join(name);
    if std::env::var_os(RENEW).is_some() {
        fs::write(path, found).unwrap();
        return;
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    let lines = found.lines().zip(kept.lines().chain(std::iter::repeat("")));
    let changed = lines.enumerate().find(|(_, (found, kept))| found != kept);
    if let Some((number, (found, kept))) = changed {
        let line = number + 1;
        panic!(
            "{name}, line {line}:\n  kept  {kept}\n  found {found}\nmeant? {RENEW}=1, or make snapshots"
        );
    }
    assert_eq!(
        found.len(),
        kept.len(),
        "{name} has lines more; meant? {RENEW}=1, or make snapshots"
    );
}

#[test]
fn the_metrics_of_a_new_inbox_equal_their_snapshot() {
    let text = Inbox::start().get("/metrics").text;
    let mut masked = String::new();
    for line in text.lines() {
        match line.rsplit_once(' ') {
            Some((series, _)) if !line.starts_with('#') => {
                let series = series.replace(env!("CARGO_PKG_VERSION"), "…");
                writeln!(masked, "{series} …").unwrap();
            }
            _ => writeln!(masked, "{line}").unwrap(),
        }
    }
    compare("metrics.txt", &masked);
}

#[test]
fn the_help_of_the_program_and_of_every_command_equals_its_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let help = |arguments: &[&str]| {
        let output = command(folder.path()).args(arguments).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().replace(env!("CARGO_PKG_VERSION"), "…")
    };
    let general = help(&["--help"]);
    let mut all = format!("$ mailslot --help\n{general}");
    // `  mailslot send          post signed messages, …`
    let names = general.lines().filter_map(|line| line.strip_prefix("  mailslot "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    let is_name = |name: &&str| name.chars().all(|c| c.is_ascii_lowercase());
    let mut names: Vec<&str> = names.filter(is_name).filter(|name| *name != "serve").collect();
    names.push("serve");
    // `mailslot` alone is described in its place as "serve until …".
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        write!(all, "\n$ mailslot {name} --help\n{}", help(&[name, "--help"])).unwrap();
    }
    compare("help.txt", &all);
}

/// Deliveries that are refused, whole or as fields of a message that is right otherwise.
fn bad_deliveries() -> Vec<Vec<u8>> {
    let whole: [&[u8]; 14] = [
        b"",
        b"{",
        b"nope",
        b"[1,2",
        b"{} {}",
        b"null",
        b"3",
        b"[]",
        b"\"text\"",
        b"{}",
        b"{\"a\":1e999,\"b\":[true,null]}",
        b"{\"a\":NaN}",
        b"\xff",
        b"{\"message_id\":\"\\ud800\"}",
    ];
    let fields = [
        json!({ "message_id": "" }),
        json!({ "message_id": 7 }),
        json!({ "message_id": null, "from": "919876543210", "to": "+", "ts": "now", "text": 5 }),
        json!({ "from": "+91 98" }),
        json!({ "from": format!("+{}", "1".repeat(64)) }),
        json!({ "to": ["+1"] }),
        json!({ "to": "+١" }),
        json!({ "ts": "2025-01-15T10:00:00" }),
        json!({ "ts": "2025-01-15T10:00:00+00:00" }),
        json!({ "ts": "2025-02-30T10:00:00Z" }),
        json!({ "ts": "0000-01-01T00:00:00Z" }),
        json!({ "ts": "2025-01-15T10:00:00.1234567890Z" }),
        json!({ "text": { "body": "Hello" } }),
        json!({ "text": true, "extra": "ignored" }),
    ];
    let fields = fields.iter().map(|fields| message_with("m1", fields).to_string().into_bytes());
    whole.iter().map(|body| body.to_vec()).chain(fields).collect()
}

#[rustfmt::skip]
const BAD_QUERIES: &[&str] = &[
    "/messages?limit=abc&offset=-1", "/messages?limit=0", "/messages?limit=101", "/messages?limit=", "/messages?limit=1.5",
    "/messages?offset=99999999999999999999", "/messages?since=yesterday&until=2025-02-30T10:00:00Z",
    "/messages?order=up&cursor=zz", "/messages?cursor=61", "/messages?limit=%00&since=%FF",
    "/feed?after=x&limit=1001&wait=31", "/feed?limit=0&wait=-1", "/feed?after=-1",
    "/export?format=xml&since=now", "/stats/series?bucket=week&since=a&until=b",
];

#[test]
fn the_bodies_of_422_responses_equal_their_snapshot() {
    let inbox = Inbox::start();
    let mut all = String::new();
    let mut add = |request: &str, reply: &Reply| {
        assert_eq!(reply.status, 422, "{request}: {}", reply.text);
        writeln!(all, "{request}\n{}\n", reply.text).unwrap();
    };
    for body in bad_deliveries() {
        let reply = inbox.deliver_raw(&body);
        let text = String::from_utf8_lossy(&body).into_owned();
        add(&format!("POST /webhook {text}"), &reply);
    }
    for path in BAD_QUERIES {
        let reply = inbox.get(path);
        add(&format!("GET {path}"), &reply);
    }
    compare("422.txt", &all);
}

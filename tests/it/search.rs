//! Counts and searches over more messages than a segment holds, on the real binary.

use std::{
    fmt::Write,
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::harness::{Inbox, command, count, database, message, message_with, on_postgres};

const MESSAGES: usize = 5_000;

/// `number` as a message: sender by its last digit, second by its hundreds, a word by its tens.
fn numbered(number: usize) -> Value {
    message_with(
        &format!("m{number:04}"),
        &json!({
            "from": format!("+9198{:08}", number % 10),
            "ts": format!("2025-01-{:02}T10:{:02}:00Z", 1 + number / 200, number % 60),
            "text": format!("Grüße {} Nr. {number}", ["Äpfel", "birnen", "CÄSAR"][number % 3]),
        }),
    )
}

fn import(inbox: &Inbox, lines: &str) -> Output {
    let file = inbox.folder.path().join("lines.ndjson");
    std::fs::write(&file, lines).unwrap();
    command(inbox.folder.path()).arg("import").arg(file).stderr(Stdio::piped()).output().unwrap()
}

fn lines(numbers: impl Iterator<Item = usize>) -> String {
    numbers.fold(String::new(), |mut lines, number| {
        let _ = writeln!(lines, "{}", numbered(number));
        lines
    })
}

fn total(inbox: &Inbox, query: &str) -> Value {
    inbox.get(&format!("/messages?{query}")).json["total"].clone()
}

/// Until every full block of 2,048 ids has a segment. PostgreSQL has an index instead.
fn wait_until_indexed(inbox: &Inbox) {
    if on_postgres() {
        return;
    }
    let end = Instant::now() + Duration::from_secs(30);
    let missing = "SELECT count(*) FROM segments
                   WHERE trigrams IS NULL AND block < (SELECT last_id / 2048 FROM totals)";
    while inbox.count(missing) > 0 {
        assert!(Instant::now() < end, "not indexed");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_search_finds_the_same_before_and_after_indexing_and_deleting() {
    let inbox = Inbox::start();
    let imported = import(&inbox, &lines(0..MESSAGES));
    assert!(imported.status.success(), "{imported:?}");
    let ask = |expected: [i64; 6]| {
        let queries = [
            "q=GR%C3%9CSSE",
            "q=%C3%A4pfel",
            "q=birnen&from=%2B919800000003",
            "q=nr.+4999",
            "q=c%C3%A4sar&since=2025-01-20T10:00:00Z",
            "q=nobody",
        ];
        assert_eq!(queries.map(|query| total(&inbox, query)), expected.map(|n| json!(n)));
    };
    let before = [5_000, 1_667, 167, 1, 400, 0];
    ask(before);
    wait_until_indexed(&inbox);
    if !on_postgres() {
        assert_eq!(inbox.count("SELECT count(*) FROM segments WHERE trigrams IS NOT NULL"), 2);
    }
    ask(before);

    // An operator deletes and rewords with sqlite3 or psql, while mailslot runs.
    inbox.execute("DELETE FROM messages WHERE from_msisdn = '+919800000003'");
    let folded = if on_postgres() { ", folded = NULL" } else { "" };
    inbox.execute(&format!("UPDATE messages SET text = NULL{folded} WHERE message_id = 'm4999'"));
    let after = [4_499, 1_500, 0, 0, 360, 0];
    ask(after);
    wait_until_indexed(&inbox);
    ask(after);
    let stats = inbox.get("/stats").json;
    assert_eq!(
        (&stats["total_messages"], &stats["senders_count"]),
        (&json!(4_500), &json!(9)),
        "{stats}"
    );
}

#[test]
fn every_page_of_a_search_has_its_messages_in_order() {
    let inbox = Inbox::start();
    assert!(import(&inbox, &lines((0..MESSAGES).rev())).status.success());
    wait_until_indexed(&inbox);
    let mut expected: Vec<(String, String)> = (0..MESSAGES)
        .filter(|number| number % 3 == 1)
        .map(numbered)
        .map(|m| (m["ts"].as_str().unwrap().into(), m["message_id"].as_str().unwrap().into()))
        .collect();
    expected.sort();
    let mut found = Vec::new();
    for offset in (0..expected.len()).step_by(97) {
        let page = inbox.get_served(&format!("/messages?q=BIRNEN&limit=97&offset={offset}")).json;
        assert_eq!(page["total"], expected.len());
        for message in page["data"].as_array().unwrap() {
            let text = |name: &str| message[name].as_str().unwrap().to_owned();
            found.push((text("ts"), text("message_id")));
        }
    }
    assert_eq!(found, expected);
}

#[test]
fn an_import_names_bad_lines_stores_the_others_once_and_can_be_resumed() {
    let inbox = Inbox::start();
    assert_eq!(inbox.deliver(&message("m1")).status, 200);
    let good = [message("m1"), message("m2"), message("m3")].map(|line| line.to_string());
    let bad = [r#"{"message_id":""}"#, "nonsense", "[]"];
    let text =
        format!("{}\n{}\n\n{}\n{}\n{}\n{}", good[0], bad[0], good[1], bad[1], bad[2], good[2]);
    let first = import(&inbox, &text);
    assert_eq!(first.status.code(), Some(1));
    let text = String::from_utf8(first.stderr).unwrap();
    for line in [
        "line 2: message_id ",
        "line 5: ",
        "line 6: ",
        "2 messages stored, 1 known already, 3 bad lines",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let again = import(&inbox, &good.join("\n"));
    assert_eq!(again.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&again.stderr).contains("0 messages stored, 3 known already"));
    assert_eq!(inbox.rows(), 3);
    assert_eq!(inbox.get("/stats").json["total_messages"], 3);
    let missing = command(inbox.folder.path()).args(["import", "nowhere"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("nowhere: No such file"));
}

#[test]
fn an_import_does_not_change_the_schema_under_an_older_service() {
    let inbox = Inbox::start();
    let other = rusqlite::Connection::open(crate::harness::database(inbox.folder.path())).unwrap();
    other.execute_batch("PRAGMA user_version = 6").unwrap();
    let refused = import(&inbox, &message("m1").to_string());
    assert_eq!(refused.status.code(), Some(1));
    let problem = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        problem.contains("version 6") && problem.contains("start the service with this"),
        "{problem}"
    );
    assert_eq!(count(inbox.folder.path(), "PRAGMA user_version"), 6);
    assert_eq!(inbox.rows(), 0);
}

#[test]
fn a_row_of_another_program_with_an_id_far_out_of_range_ends_no_search_and_is_in_none() {
    let inbox = Inbox::start();
    assert!(import(&inbox, &lines(0..MESSAGES)).status.success());
    let birnen = total(&inbox, "q=birnen");
    let other = rusqlite::Connection::open(database(inbox.folder.path())).unwrap();
    other.busy_timeout(Duration::from_secs(20)).unwrap();
    for id in [-10_000_000_000_000_i64, i64::MIN, 0, 1_000_000_000_000_000, i64::MAX] {
        other
            .execute(
                "INSERT INTO messages
                     (id, message_id, from_msisdn, to_msisdn, ts, ts_s, ts_ns, text, created_at)
                 SELECT ?1, 'outside ' || ?1, from_msisdn, to_msisdn, ts, ts_s, ts_ns, text, created_at
                 FROM messages WHERE id = 2",
                [id],
            )
            .unwrap();
    }
    for query in ["q=birnen", "q=BIRNEN&limit=1", "q=birnen&order=desc", "q=birnen&offset=1000"] {
        assert_eq!(total(&inbox, query), birnen, "{query}");
    }
    assert_eq!(inbox.deliver(&message("m1")).status, 200);
    assert_eq!(total(&inbox, ""), MESSAGES + 1);
    assert_eq!(inbox.get("/feed?limit=1").json["data"][0]["message_id"], "m0000");
    assert!(!inbox.get("/export").text.contains("outside"));
}

//! The group commit and the disk under it.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    time::Duration,
};

use serde_json::json;

use crate::harness::{Inbox, at_once, count, database, message, message_with};

#[test]
fn messages_that_arrive_together_share_a_commit() {
    let inbox = Inbox::start_with_faults();
    inbox.fault("slow_fsync", true);
    let replies = at_once(48, |number| inbox.deliver(&message(&format!("m{number}"))).status);
    assert_eq!(replies, [200; 48]);
    inbox.fault("slow_fsync", false);
    assert_eq!(inbox.rows(), 48);
    let (commits, rows) = (
        inbox.metric("mailslot_commit_batch_size_count"),
        inbox.metric("mailslot_commit_batch_size_sum"),
    );
    assert_eq!(rows, 48);
    // Four workers; had each waited for its own commit, there would be 48 of 30 ms.
    assert!(commits <= 16, "{commits} commits");
}

#[test]
fn identical_and_distinct_ids_in_one_batch_have_each_their_own_outcome() {
    let inbox = Inbox::start_with_faults();
    inbox.fault("slow_fsync", true);
    let replies = at_once(40, |number| {
        let id = if number % 2 == 0 { "same".to_owned() } else { format!("m{number}") };
        inbox.deliver(&message(&id)).status
    });
    assert_eq!(replies, [200; 40]);
    assert!(inbox.metric("mailslot_commit_batch_size_count") <= 16, "they shared batches");
    assert_eq!(inbox.metric("webhook_requests_total{result=\"created\"}"), 21);
    assert_eq!(inbox.metric("webhook_requests_total{result=\"duplicate\"}"), 19);
    assert_eq!(inbox.rows(), 21);
}

#[test]
fn one_bad_row_fails_no_other_message_of_its_batch() {
    let inbox = Inbox::start_with_faults();
    let other = rusqlite::Connection::open(database(inbox.folder.path())).unwrap();
    other
        .execute_batch(
            "CREATE TRIGGER refuse BEFORE INSERT ON messages WHEN NEW.message_id LIKE 'bad%'
         BEGIN SELECT RAISE(ABORT, 'refused by a test'); END",
        )
        .unwrap();
    inbox.fault("slow_fsync", true);
    let replies = at_once(32, |number| {
        let is_bad = number % 4 == 0;
        let id = format!("{}{number}", if is_bad { "bad" } else { "good" });
        (is_bad, inbox.deliver(&message(&id)).status)
    });
    for (is_bad, status) in replies {
        assert_eq!(status, if is_bad { 500 } else { 200 });
    }
    assert_eq!(inbox.rows(), 24);
    assert!(inbox.metric("mailslot_commit_batch_size_count") < 32, "they shared batches");
}

#[test]
fn a_full_disk_is_503_with_retry_after_until_there_is_space_again() {
    refuse_and_recover("disk_full");
}

#[test]
fn a_failed_fsync_is_503_with_retry_after_until_one_succeeds() {
    refuse_and_recover("fail_fsync");
}

fn refuse_and_recover(fault: &str) {
    let inbox = Inbox::start_with_faults();
    assert_eq!(inbox.deliver(&message("before")).status, 200);
    inbox.fault(fault, true);
    let replies = at_once(16, |number| inbox.deliver(&message(&format!("during{number}"))));
    for reply in &replies {
        assert_eq!(reply.status, 503, "{:?}", inbox.request_log(reply));
        assert_eq!(reply.header("Retry-After"), Some("1"));
        assert!(reply.json["detail"].is_string());
        assert!(
            !reply.text.to_lowercase().contains("sqlite"),
            "the cause is the operator's: {}",
            reply.text
        );
    }
    let ready = inbox.get("/health/ready");
    assert_eq!((ready.status, &ready.json["status"]), (503, &json!("not ready")));
    assert_eq!(inbox.get("/health/live").status, 200);
    assert_eq!(
        inbox.get("/messages").json["total"],
        1,
        "reading goes on, and nothing is half-stored"
    );
    assert!(inbox.metric("mailslot_commit_failures_total") > 0);
    assert_eq!(inbox.metric("webhook_requests_total{result=\"unavailable\"}"), 16);
    inbox.fault(fault, false);
    assert_eq!(inbox.get("/health/ready").status, 200);
    for number in 0..16 {
        assert_eq!(
            inbox.deliver(&message(&format!("during{number}"))).status,
            200,
            "the retry succeeds"
        );
    }
    let folder = inbox.kill();
    assert_eq!(count(folder.path(), "SELECT count(*) FROM messages"), 17);
    assert_eq!(
        count(
            folder.path(),
            "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check = 'ok'"
        ),
        1
    );
}

#[test]
fn a_start_on_a_failing_disk_takes_no_delivery_and_needs_no_restart_once_it_works() {
    for (fault, reason) in [("disk_full", "the disk is full"), ("fail_fsync", "the disk failed")] {
        let inbox = Inbox::start_with_faults();
        assert_eq!(inbox.deliver(&message("before")).status, 200);
        inbox.fault(fault, true);
        let folder = inbox.kill();
        let inbox = Inbox::start_with_faults_in(folder);
        let refused = inbox.deliver(&message("during"));
        assert_eq!((refused.status, refused.header("Retry-After")), (503, Some("1")), "{fault}");
        let ready = inbox.get("/health/ready");
        assert_eq!(ready.status, 503);
        assert_eq!(ready.json, json!({ "status": "not ready", "detail": reason }));
        assert_eq!(inbox.get("/messages").json["total"], 1, "reading works");
        inbox.fault(fault, false);
        inbox.wait_for_log(|line| line["msg"].as_str().unwrap().contains("accepts commits"));
        assert_eq!(inbox.get("/health/ready").status, 200);
        assert_eq!(inbox.deliver(&message("during")).status, 200);
        assert_eq!(inbox.rows(), 2);
    }
}

#[test]
fn the_end_of_the_process_names_the_failure_that_keeps_the_log() {
    let inbox = Inbox::start_with_faults();
    assert_eq!(inbox.deliver(&message("m1")).status, 200);
    inbox.fault("fail_fsync", true);
    inbox.signal("-TERM");
    let line = inbox.wait_for_log(|line| {
        line["msg"].as_str().unwrap().starts_with("the write-ahead log stays")
    });
    assert_eq!(line["level"], "ERROR");
    assert!(line["msg"].as_str().unwrap().ends_with("it cannot be moved into the database"));
    assert!(line["error"].as_str().unwrap().contains("I/O"), "{line}");
}

/// One `File::open` and close of the database in the serving process, and
/// the next `sqlite3` to come and go takes the live WAL with it.
#[test]
fn a_sqlite3_session_beside_the_service_removes_nothing_when_it_ends() {
    let inbox = Inbox::start();
    for number in 0..50 {
        assert_eq!(inbox.deliver(&message(&format!("a{number}"))).status, 200);
    }
    // Everything that a request can make the process do, since any of it could drop the locks.
    for path in ["/messages?q=x", "/stats", "/health/ready", "/health/live", "/metrics", "/nope"] {
        inbox.get(path);
    }
    inbox.post(b"x", &[]);
    inbox.deliver(&json!({}));
    let refused =
        inbox.raw(b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n");
    assert!(refused.starts_with("HTTP/1.1 413"));
    assert_eq!(inbox.rows(), 50);
    let wal = inbox.folder.path().join("mailslot.db-wal");
    assert!(std::fs::metadata(&wal).is_ok_and(|wal| wal.len() > 0), "the WAL is live and stays");
    for number in 0..50 {
        assert_eq!(inbox.deliver(&message(&format!("b{number}"))).status, 200);
    }
    let folder = inbox.kill();
    assert_eq!(count(folder.path(), "SELECT count(*) FROM messages"), 100);
}

/// What mailslot keeps count of is what there is. Looks at a copy: the live log stays as it is.
fn recount(folder: &Path) {
    let copy = tempfile::tempdir().unwrap();
    for name in ["mailslot.db", "mailslot.db-wal"] {
        let _ = std::fs::copy(folder.join(name), copy.path().join(name));
    }
    for sql in [
        "SELECT count(*) FROM totals
         WHERE messages <> (SELECT count(*) FROM messages WHERE id <= indexed_id)
             OR senders <> (SELECT count(DISTINCT from_msisdn) FROM messages WHERE id <= indexed_id)
             OR last_id < (SELECT max(id) FROM messages)",
        "SELECT count(*) FROM (SELECT msisdn, n FROM senders
             EXCEPT SELECT from_msisdn, count(*) FROM totals JOIN messages ON messages.id <= indexed_id
             GROUP BY 1)",
        "WITH place AS (
             SELECT *, lead(ts_s) OVER line AS next_s, lead(ts_ns) OVER line AS next_ns,
                 lead(message_id) OVER line AS next_id
             FROM rank_index
             WINDOW line AS (PARTITION BY sender_id, level ORDER BY ts_s, ts_ns, message_id)
         )
         SELECT count(*) FROM place
         WHERE n <> (
             SELECT count(*) FROM messages AS m
             WHERE id <= (SELECT indexed_id FROM totals)
                 AND (sender_id = 0 OR class_id = -sender_id
                     OR from_msisdn = (SELECT msisdn FROM senders WHERE id = sender_id))
                 AND (m.ts_s, m.ts_ns, m.message_id) >= (place.ts_s, place.ts_ns, place.message_id)
                 AND (next_s IS NULL OR (m.ts_s, m.ts_ns, m.message_id) < (next_s, next_ns, next_id)))",
    ] {
        assert_eq!(count(copy.path(), sql), 0, "{sql}");
    }
}

#[test]
fn what_was_acknowledged_survives_sigkill() {
    const ROUNDS: usize = 20;
    let mut folder = tempfile::tempdir().unwrap();
    let mut acknowledged: Vec<String> = Vec::new();
    let mut with_live_wal = 0;
    for round in 0..ROUNDS {
        let inbox = Inbox::start_in(folder);
        let stop = AtomicBool::new(false);
        let progress = AtomicUsize::new(0);
        let ids = std::thread::scope(|scope| {
            let senders: Vec<_> = (0..8)
                .map(|sender| {
                    let (inbox, stop, progress) = (&inbox, &stop, &progress);
                    scope.spawn(move || {
                        let mut acknowledged = Vec::new();
                        let agent = crate::harness::agent();
                        for number in 0.. {
                            if stop.load(SeqCst) {
                                break;
                            }
                            // One in eight is sent by all senders: a race for the same id.
                            let id = if number % 8 == 0 {
                                format!("{round}-{number}")
                            } else {
                                format!("{round}-{sender}-{number}")
                            };
                            let body = message(&id).to_string();
                            let sent = agent
                                .post(inbox.url("/webhook"))
                                .header("X-Signature", crate::harness::sign(body.as_bytes()))
                                .send(&body);
                            match sent {
                                Ok(response) => {
                                    assert_eq!(response.status(), 200);
                                    acknowledged.push(id);
                                    progress.fetch_add(1, SeqCst);
                                }
                                Err(_) => break,
                            }
                        }
                        acknowledged
                    })
                })
                .collect();
            // A sender ends before the kill only where it failed, which its join then shows.
            while progress.load(SeqCst) < 40 + 13 * round
                && !senders.iter().any(std::thread::ScopedJoinHandle::is_finished)
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            inbox.signal("-KILL");
            stop.store(true, SeqCst);
            senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect::<Vec<String>>()
        });
        folder = inbox.kill();
        recount(folder.path());
        acknowledged.extend(ids);
        let wal = folder.path().join("mailslot.db-wal");
        with_live_wal += usize::from(std::fs::metadata(wal).is_ok_and(|wal| wal.len() > 0));
    }
    assert!(
        with_live_wal > ROUNDS / 2,
        "most kills came while the WAL held what the database did not"
    );
    let connection = rusqlite::Connection::open(database(folder.path())).unwrap();
    let mut find =
        connection.prepare("SELECT count(*) FROM messages WHERE message_id = ?1").unwrap();
    for id in &acknowledged {
        let found: i64 = find.query_row([id], |row| row.get(0)).unwrap();
        assert_eq!(found, 1, "{id} was acknowledged");
    }
    assert_eq!(
        count(
            folder.path(),
            "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check = 'ok'"
        ),
        1
    );
    let inbox = Inbox::start_in(folder);
    assert_eq!(
        inbox.deliver(&message_with(&acknowledged[0], &json!({ "text": "again" }))).status,
        200
    );
    assert_eq!(inbox.metric("webhook_requests_total{result=\"duplicate\"}"), 1);
}

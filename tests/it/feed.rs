//! `GET /feed`: every message once, in the order of the commits, now or as soon as there is one.

use std::{
    collections::HashSet,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    client::Client,
    harness::{Inbox, agent, at_once, command, database, message, message_with},
};

fn ids(page: &Value) -> Vec<String> {
    let data = page["data"].as_array().unwrap_or_else(|| panic!("{page}"));
    data.iter().map(|message| message["message_id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn messages_come_in_the_order_of_their_commits_whatever_their_ts() {
    let inbox = Inbox::start();
    assert_eq!(inbox.get("/feed").text, r#"{"data":[],"next":"0"}"#);
    for (id, ts) in [
        ("c", "2025-01-03T00:00:00Z"),
        ("a", "2025-01-01T00:00:00Z"),
        ("b", "2025-01-02T00:00:00Z"),
    ] {
        assert_eq!(
            inbox.deliver(&message_with(id, &json!({ "ts": ts, "text": null }))).status,
            200
        );
        assert_eq!(inbox.deliver(&message(id)).status, 200, "again");
    }
    let first = inbox.get("/feed?limit=2").json;
    assert_eq!(ids(&first), ["c", "a"]);
    let mut message = first["data"][0].clone();
    let created_at = message["created_at"].take();
    assert!(created_at.as_str().unwrap().ends_with('Z'));
    assert_eq!(
        message,
        json!({
            "message_id": "c", "from": "+919876543210", "to": "+14155550100", "text": null,
            "ts": "2025-01-03T00:00:00Z", "created_at": null, "source": "webhook",
            "kind": "text", "cursor": first["data"][0]["cursor"],
        })
    );
    assert_eq!(first["next"], first["data"][1]["cursor"]);
    let after = |cursor: &Value| format!("/feed?after={}", cursor.as_str().unwrap());
    assert_eq!(ids(&inbox.get(&after(&first["data"][0]["cursor"])).json), ["a", "b"]);
    let rest = inbox.get(&after(&first["next"])).json;
    assert_eq!(ids(&rest), ["b"]);
    let end = inbox.get(&after(&rest["next"])).json;
    assert_eq!((ids(&end), &end["next"]), (vec![], &rest["next"]));
    assert_eq!(inbox.get("/feed?after=latest").json, end);
}

#[test]
fn a_cursor_is_good_for_ever() {
    let inbox = Inbox::start();
    for id in ["a", "b", "c"] {
        inbox.deliver(&message(id));
    }
    let cursor = inbox.get("/feed?limit=2").json["next"].as_str().unwrap().to_owned();
    // The newest is deleted, the file is rebuilt, the process killed: its id is not given again.
    inbox.execute("DELETE FROM messages WHERE message_id <> 'a'");
    inbox.execute("VACUUM");
    let inbox = Inbox::start_in(inbox.kill());
    inbox.deliver(&message("d"));
    let page = inbox.get(&format!("/feed?after={cursor}")).json;
    assert_eq!(ids(&page), ["d"]);
    assert_eq!(ids(&inbox.get("/feed").json), ["a", "d"]);
    let last: i64 = page["next"].as_str().unwrap().parse().unwrap();
    assert!(last > 3, "{last}");
    let ahead = inbox.get(&format!("/feed?after={}", last + 1));
    assert_eq!(ahead.status, 409);
    assert!(ahead.json["detail"].as_str().unwrap().contains("restored or replaced"));
    assert_eq!(inbox.get("/feed?after=99999999999999999999999").status, 409);
    assert_eq!(inbox.get(&format!("/feed?after={}&wait=5", last + 1)).status, 409, "at once");
}

#[test]
fn a_wrong_cursor_limit_or_wait_is_422() {
    let inbox = Inbox::start();
    for (query, kind, name) in [
        ("after=-1", "value_error", "after"),
        ("after=x", "value_error", "after"),
        ("after=%2B1", "value_error", "after"),
        ("limit=0", "greater_than_equal", "limit"),
        ("limit=1001", "less_than_equal", "limit"),
        ("wait=31", "less_than_equal", "wait"),
        ("wait=0.5", "int_parsing", "wait"),
    ] {
        let refused = inbox.get(&format!("/feed?{query}"));
        assert_eq!(refused.status, 422, "{query}");
        assert_eq!(refused.problems(), [(kind.to_owned(), json!(["query", name]))], "{query}");
    }
    assert_eq!(inbox.get("/feed?after=x&limit=0&wait=x").problems().len(), 3);
}

#[test]
fn a_waiting_reader_is_answered_soon_and_holds_no_worker() {
    let inbox = Inbox::start_with(tempfile::tempdir().unwrap(), |command| {
        command.env("WORKERS", "1");
    });
    let mut answers = at_once(41, |number| {
        if number < 40 {
            let page = inbox.get("/feed?wait=20").json;
            return (ids(&page), Instant::now());
        }
        while inbox.metric("mailslot_feed_waiters") < 40 {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(inbox.get("/health/live").status, 200);
        assert_eq!(inbox.deliver(&message("m1")).status, 200);
        (Vec::new(), Instant::now())
    });
    let (_, delivered) = answers.pop().unwrap();
    for (ids, answered) in answers {
        assert_eq!(ids, ["m1"]);
        assert!(answered.saturating_duration_since(delivered) < Duration::from_secs(5));
    }
    assert_eq!(inbox.metric("mailslot_feed_waiters"), 0);
    let started = Instant::now();
    // As a proxy asks that keeps no connections.
    let last = inbox.get("/feed").json["next"].as_str().unwrap().to_owned();
    let target = format!("/feed?after={last}&wait=1");
    let closing = format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let empty = format!(r#"{{"data":[],"next":"{last}"}}"#);
    assert!(inbox.raw(closing.as_bytes()).ends_with(&empty));
    assert!(started.elapsed() >= Duration::from_secs(1));
    let started = Instant::now();
    let nothing = inbox.get(&target);
    assert_eq!(nothing.text, empty);
    assert!(started.elapsed() >= Duration::from_secs(1));
    let head = inbox.request("HEAD", &target);
    assert_eq!((head.status, head.text.as_str()), (200, ""));
}

#[test]
fn a_waiting_reader_gets_what_another_process_stores() {
    let inbox = Inbox::start();
    let lines = inbox.folder.path().join("lines.ndjson");
    std::fs::write(&lines, format!("{}\n", message("m1"))).unwrap();
    let answers = at_once(2, |number| {
        if number == 0 {
            return ids(&inbox.get("/feed?wait=20").json);
        }
        while inbox.metric("mailslot_feed_waiters") < 1 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let imported = command(inbox.folder.path()).arg("import").arg(&lines).output().unwrap();
        assert!(imported.status.success(), "{imported:?}");
        Vec::new()
    });
    assert_eq!(answers[0], ["m1"]);
}

#[test]
fn readers_beyond_the_limit_of_waiting_ones_are_503() {
    let inbox = Inbox::start_with(tempfile::tempdir().unwrap(), |command| {
        command.env("MAX_CONNECTIONS", "16");
    });
    let statuses = at_once(10, |number| {
        if number == 9 {
            while inbox.metric("mailslot_feed_waiters") < 8 {
                std::thread::sleep(Duration::from_millis(5));
            }
            let refused = inbox.get("/feed?wait=30");
            assert_eq!(refused.header("Retry-After"), Some("1"));
            inbox.deliver(&message("m1"));
            return refused.status;
        }
        if number == 8 { 200 } else { inbox.get("/feed?wait=30").status }
    });
    assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 200, 200, 200, 503]);
}

#[test]
fn one_client_has_at_most_half_of_the_slots_for_waiting_readers() {
    let inbox = Inbox::start_with(tempfile::tempdir().unwrap(), |command| {
        command.env("MAX_CONNECTIONS", "16").env("TRUSTED_PROXIES", "127.0.0.1");
    });
    let ask = |client: &str, wait: u64| {
        let path = format!("GET /feed?wait={wait} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        let forwarded = format!("X-Forwarded-For: {client}\r\n\r\n");
        let mut stream = inbox.connect();
        std::io::Write::write_all(&mut stream, (path + &forwarded).as_bytes()).unwrap();
        stream
    };
    let answer = |mut stream: std::net::TcpStream| {
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
        answer
    };
    let wait_for = |waiting: u64| {
        let end = Instant::now() + Duration::from_secs(10);
        while inbox.metric("mailslot_feed_waiters") != waiting {
            assert!(Instant::now() < end, "{waiting} should wait");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    // Of eight places in all; the addresses of one IPv6 network are one client.
    let first: Vec<_> = (0..4).map(|n| ask(&format!("2001:db8::{n}"), 30)).collect();
    wait_for(4);
    let refused = answer(ask("2001:db8::4", 30));
    assert!(
        refused.starts_with("HTTP/1.1 503 ") && refused.contains("Retry-After: 1"),
        "{refused}"
    );
    let others: Vec<_> = (0..3).map(|_| ask("198.51.100.7", 30)).collect();
    wait_for(7);
    // Its places are free as soon as it has its answers.
    assert_eq!(inbox.deliver(&message("m1")).status, 200);
    for stream in first.into_iter().chain(others) {
        assert!(answer(stream).starts_with("HTTP/1.1 200 "));
    }
    assert!(answer(ask("2001:db8::4", 1)).starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_stop_and_a_restart_in_place_answer_waiting_readers_at_once() {
    let inbox = Inbox::start();
    for signal in ["-USR2", "-TERM"] {
        let answers = at_once(9, |number| {
            if number < 8 {
                return inbox.get("/feed?wait=30").text;
            }
            while inbox.metric("mailslot_feed_waiters") < 8 {
                std::thread::sleep(Duration::from_millis(5));
            }
            inbox.signal(signal);
            let stopped = inbox.wait_for_log(|line| line["msg"] == "stopped");
            assert!(stopped["drain_ms"].as_f64().unwrap() < 8_000.0, "{stopped}");
            String::new()
        });
        assert!(answers[..8].iter().all(|text| text == r#"{"data":[],"next":"0"}"#), "{answers:?}");
        if signal == "-USR2" {
            inbox.wait_for_log(|line| line["msg"] == "listening");
        }
    }
}

/// Delivers these messages and gives the cursor of the last one.
fn deliver_all(inbox: &Inbox, names: std::ops::Range<usize>, history: &str) -> String {
    for number in names {
        assert_eq!(inbox.deliver(&message(&format!("{history}{number}"))).status, 200);
    }
    inbox.get("/feed?after=latest").json["next"].as_str().unwrap().to_owned()
}

/// A backup of ten messages takes the place of a database with fifteen, by `restore`, and eight others
/// are delivered: a reader that had seen the fifteen must learn that it is ahead, and one that had seen
/// ten must get the eight.
fn restore_and_read_on(back_up: impl Fn(&Path, &Path, &Inbox), restore: impl Fn(&Path, &Path)) {
    let inbox = Inbox::start();
    let (database, copy) = (database(inbox.folder.path()), inbox.folder.path().join("copy"));
    let ten = deliver_all(&inbox, 0..10, "first");
    back_up(&database, &copy, &inbox);
    let fifteen = deliver_all(&inbox, 10..15, "lost");
    let folder = inbox.stop();
    restore(&database, &copy);
    let inbox = Inbox::start_in(folder);
    assert_eq!(inbox.rows(), 10);
    assert_eq!(inbox.get(&format!("/feed?after={fifteen}")).status, 409);
    let last = deliver_all(&inbox, 0..8, "new");
    for ahead in [&fifteen, &(fifteen.parse::<u64>().unwrap() - 4).to_string()] {
        let answer = inbox.get(&format!("/feed?after={ahead}"));
        assert_eq!(answer.status, 409, "{ahead}: {answer:?}");
    }
    let read_on = inbox.get(&format!("/feed?after={ten}")).json;
    assert_eq!(ids(&read_on), (0..8).map(|number| format!("new{number}")).collect::<Vec<_>>());
    assert_eq!(read_on["next"], last.as_str());
    assert_eq!(ids(&inbox.get("/feed").json).len(), 18);
    // A restart in between changes nothing for readers that are not ahead.
    let inbox = Inbox::start_in(inbox.stop());
    let after_all = deliver_all(&inbox, 8..9, "new");
    assert_eq!(ids(&inbox.get(&format!("/feed?after={last}")).json), ["new8"]);
    assert_eq!(ids(&inbox.get(&format!("/feed?after={after_all}")).json), [""; 0]);
    assert_eq!(inbox.get(&format!("/feed?after={fifteen}")).status, 409);
}

fn back_up_by_mailslot(_: &Path, copy: &Path, inbox: &Inbox) {
    let backup = command(inbox.folder.path()).arg("backup").arg(copy).status();
    assert!(backup.unwrap().success());
}

fn back_up_by_cp(database: &Path, copy: &Path, _: &Inbox) {
    // What `cp` copies of a running inbox is whole only together with its log.
    let all = rusqlite::Connection::open(database).unwrap();
    all.query_row("PRAGMA wal_checkpoint(PASSIVE)", (), |_| Ok(())).unwrap();
    std::fs::copy(database, copy).unwrap();
}

#[test]
fn a_reader_that_is_ahead_of_a_restored_backup_learns_it_as_readme_restores() {
    restore_and_read_on(back_up_by_mailslot, |database, copy| {
        std::fs::rename(copy, database).unwrap();
    });
}

#[test]
fn a_reader_that_is_ahead_of_a_restored_backup_learns_it_where_cp_wrote_over_the_file() {
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&path.metadata().unwrap());
    restore_and_read_on(back_up_by_cp, |database, copy| {
        let before = inode(database);
        std::fs::write(database, std::fs::read(copy).unwrap()).unwrap();
        assert_eq!(inode(database), before, "the file is the same to all that stat tells");
    });
}

#[test]
fn a_reader_of_a_database_that_was_deleted_is_ahead_of_the_new_one() {
    let inbox = Inbox::start();
    let last = deliver_all(&inbox, 0..5, "old");
    let folder = inbox.stop();
    std::fs::remove_file(database(folder.path())).unwrap();
    let inbox = Inbox::start_in(folder);
    let new = deliver_all(&inbox, 0..20, "new");
    assert_eq!(inbox.get(&format!("/feed?after={last}")).status, 409);
    assert_eq!(ids(&inbox.get(&format!("/feed?after={new}")).json), [""; 0]);
}

/// Reads on from `cursor` until the inbox is gone or `is_done`, now and then dying with what it has
/// just read, as a program does that is killed before it has kept its cursor.
fn consume(url: &str, cursor: &mut u64, seen: &mut Vec<String>, is_done: impl Fn() -> bool) {
    let agent = agent();
    for round in 0_u64.. {
        let wait = u64::from(!is_done());
        let limit = 1 + round * 7 % 60;
        let asked =
            agent.get(format!("{url}/feed?after={cursor}&wait={wait}&limit={limit}")).call();
        let Ok(mut answer) = asked else { return };
        let Ok(text) = answer.body_mut().read_to_string() else { return };
        let page: Value = serde_json::from_str(&text).unwrap();
        if page["data"] == json!([]) && wait == 0 {
            return;
        }
        if round % 5 == 3 {
            continue;
        }
        for message in page["data"].as_array().unwrap() {
            let next: u64 = message["cursor"].as_str().unwrap().parse().unwrap();
            assert!(next > *cursor, "cursors only grow");
            *cursor = next;
        }
        assert_eq!(page["next"], cursor.to_string());
        seen.extend(ids(&page));
    }
}

#[test]
fn a_reader_that_keeps_its_cursor_gets_every_message_once_whatever_is_killed() {
    let mut folder = tempfile::tempdir().unwrap();
    let (mut cursor, mut seen, mut acknowledged) = (0, Vec::new(), Vec::new());
    for round in 0..8 {
        let inbox = Inbox::start_in(folder);
        let stop = AtomicBool::new(false);
        let delivered = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..6)
                .map(|writer| {
                    let (inbox, stop) = (&inbox, &stop);
                    scope.spawn(move || {
                        let (mut client, mut ids) = (Client::new(inbox.address), Vec::new());
                        for number in 0.. {
                            let id = format!("{round}-{writer}-{number}");
                            if stop.load(SeqCst) || client.deliver(&id) != Ok(200) {
                                break;
                            }
                            ids.push(id);
                        }
                        ids
                    })
                })
                .collect();
            let consumer =
                scope.spawn(|| consume(&inbox.url(""), &mut cursor, &mut seen, || false));
            std::thread::sleep(Duration::from_millis(300));
            inbox.signal("-KILL");
            stop.store(true, SeqCst);
            consumer.join().unwrap();
            writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
        });
        acknowledged.extend(delivered);
        folder = inbox.kill();
    }
    let inbox = Inbox::start_in(folder);
    consume(&inbox.url(""), &mut cursor, &mut seen, || true);
    let once: HashSet<&String> = seen.iter().collect();
    assert_eq!(once.len(), seen.len(), "nothing came twice");
    assert!(acknowledged.len() > 100, "{}", acknowledged.len());
    assert!(acknowledged.iter().all(|id| once.contains(id)), "nothing was skipped");
    assert_eq!(inbox.rows(), i64::try_from(seen.len()).unwrap());
}

/// The program that docs/API.md shows, word for word.
#[test]
fn the_consumer_in_the_api_document_handles_each_message_once() {
    let document = std::fs::read_to_string("docs/API.md").unwrap();
    let script = document.split("```sh\n").find(|block| block.starts_with("touch cursor")).unwrap();
    let script = script.split("```").next().unwrap();
    let is_there = Command::new("sh").args(["-c", "command -v jq && command -v curl"]).output();
    if !is_there.unwrap().status.success() {
        eprintln!("curl or jq is not installed: the consumer of docs/API.md was not tried");
        return;
    }
    let inbox = Inbox::start();
    for id in ["a", "b"] {
        inbox.deliver(&message(id));
    }
    let script = script
        .replace("http://127.0.0.1:8000", &inbox.url(""))
        .replace("while page=", "for n in 1 2 3; do page=")
        .replace("wait=25\"); do", "wait=1\")");
    let output = Command::new("sh")
        .args(["-ec", &script])
        .current_dir(inbox.folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(text.matches("handling").count(), 2, "{output:?}");
    let last = inbox.get("/feed?after=latest").json["next"].as_str().unwrap().to_owned();
    let kept = std::fs::read_to_string(inbox.folder.path().join("cursor")).unwrap();
    assert_eq!(kept, format!("{last}\n"));
}

#[test]
fn a_reader_that_disconnects_frees_its_slot_and_its_address() {
    let inbox = Inbox::start_with(tempfile::tempdir().unwrap(), |command| {
        command.env("MAX_CONNECTIONS", "16");
    });
    for _ in 0..3 {
        for _ in 0..8 {
            let mut stream = inbox.connect();
            std::io::Write::write_all(
                &mut stream,
                b"GET /feed?wait=30 HTTP/1.1\r\nHost: x\r\n\r\n",
            )
            .unwrap();
        }
        std::thread::sleep(Duration::from_millis(200));
        let end = Instant::now() + Duration::from_secs(10);
        while inbox.metric("mailslot_feed_waiters") > 0 {
            assert!(Instant::now() < end, "they keep their places");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    assert_eq!(inbox.get("/feed?wait=1").status, 200);
}

#[test]
fn an_answer_of_the_feed_is_short_whatever_the_texts_are() {
    let inbox = Inbox::start();
    for number in 0..40 {
        let text = "\u{1}".repeat(4_096);
        assert_eq!(
            inbox.deliver(&message_with(&format!("m{number}"), &json!({ "text": text }))).status,
            200
        );
    }
    let (mut after, mut seen) = ("0".to_owned(), 0);
    while seen < 40 {
        let page = inbox.get(&format!("/feed?limit=1000&after={after}"));
        assert!(page.text.len() < 100_000, "{}", page.text.len());
        seen += ids(&page.json).len();
        after = page.json["next"].as_str().unwrap().to_owned();
    }
}

/// Follows the feed on a connection of its own until it is asked to stop; how many answers it had.
fn count_answers(inbox: &Inbox, all: &AtomicUsize, stop: &AtomicBool) -> usize {
    let (mut client, mut after, mut answers) = (Client::new(inbox.address), "0".to_owned(), 0);
    while !stop.load(SeqCst) {
        let page = client.read(&format!("/feed?after={after}&limit=1000&wait=5")).unwrap();
        // Without a parser, so that the readers leave the processor to the service.
        if !page.starts_with("{\"data\":[]") {
            answers += 1;
            all.fetch_add(1, SeqCst);
        }
        let (_, next) = page.rsplit_once("\"next\":\"").unwrap();
        next.trim_end_matches("\"}").clone_into(&mut after);
    }
    answers
}

#[test]
fn readers_are_answered_equally_often_when_there_are_more_answers_than_time() {
    const READERS: usize = 400;
    const ANSWERS_EACH: usize = 30;
    let inbox = Inbox::start();
    let (all, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let counts = std::thread::scope(|scope| {
        let readers: Vec<_> =
            (0..READERS).map(|_| scope.spawn(|| count_answers(&inbox, &all, &stop))).collect();
        // One that fails ends the test, instead of being waited for.
        let all_read = || readers.iter().all(|reader| !reader.is_finished());
        while inbox.metric("mailslot_feed_waiters") < READERS as u64 && all_read() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut sender = Client::new(inbox.address);
        for number in 0.. {
            if all.load(SeqCst) >= READERS * ANSWERS_EACH || !all_read() {
                break;
            }
            assert_eq!(sender.deliver(&format!("m{number}")), Ok(200));
            std::thread::sleep(Duration::from_millis(3));
        }
        stop.store(true, SeqCst);
        sender.deliver("last").unwrap();
        readers.into_iter().map(|reader| reader.join().unwrap()).collect::<Vec<_>>()
    });
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!(least * 3 >= *most, "the readers had from {least} to {most} answers");
}

#[test]
fn the_feed_can_be_read_backwards_from_the_newest_message() {
    let inbox = Inbox::start();
    assert_eq!(inbox.get("/feed?before=latest").json["data"], json!([]));
    for id in ["a", "b", "c", "d", "e"] {
        assert_eq!(inbox.deliver(&message(id)).status, 200);
    }
    let last = inbox.get("/feed?before=latest&limit=2").json;
    assert_eq!(ids(&last), ["d", "e"]);
    assert_eq!(last["next"], inbox.get("/feed?after=latest").json["next"]);
    let first = last["data"][0]["cursor"].as_str().unwrap().to_owned();
    let before = inbox.get(&format!("/feed?before={first}&limit=2&wait=5&after=latest")).json;
    assert_eq!(ids(&before), ["b", "c"]);
    let first = before["data"][0]["cursor"].as_str().unwrap().to_owned();
    assert_eq!(ids(&inbox.get(&format!("/feed?before={first}")).json), ["a"]);
    assert_eq!(inbox.get("/feed?before=99").status, 409);
    assert_eq!(inbox.get("/feed?before=x").status, 422);
}

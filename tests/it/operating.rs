//! What an operator changes while mailslot runs, and what it keeps to by itself.

use std::{
    fs,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    client::Client,
    harness::{Inbox, Reply, agent, execute, message, message_with, reply, sign_with},
};

fn deliver_with(inbox: &Inbox, secret: &str, id: &str) -> Reply {
    let body = message(id).to_string();
    inbox.post(body.as_bytes(), &[("X-Signature", &sign_with(secret, body.as_bytes()))])
}

fn with_secrets(secrets: &str) -> Inbox {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secrets");
    fs::write(&file, secrets).unwrap();
    Inbox::start_with(folder, |command| {
        command.env("WEBHOOK_SECRET", "").env("WEBHOOK_SECRET_FILE", file);
    })
}

fn reload(inbox: &Inbox) -> Value {
    inbox.signal("-HUP");
    inbox.wait_for_log(|line| line["msg"].as_str().unwrap().starts_with("settings"))
}

#[test]
fn a_secret_is_rotated_under_load_and_not_one_request_fails() {
    let inbox = with_secrets("old\n");
    let file = inbox.folder.path().join("secrets");
    let (stop, is_rotated) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|client| {
                let (inbox, stop, is_rotated) = (&inbox, &stop, &is_rotated);
                scope.spawn(move || {
                    for number in 0.. {
                        if stop.load(SeqCst) {
                            break;
                        }
                        // The provider changes at its own time, some of its machines before others.
                        let is_new = is_rotated.load(SeqCst) && (client + number) % 3 > 0;
                        let secret = if is_new { "new" } else { "old" };
                        let id = format!("{client}-{number}");
                        assert_eq!(deliver_with(inbox, secret, &id).status, 200, "{id} {secret}");
                    }
                })
            })
            .collect();
        for round in 0..5 {
            std::thread::sleep(Duration::from_millis(50));
            fs::write(&file, if round % 2 == 0 { "new\nold\n" } else { "old\nnew\n" }).unwrap();
            let report = reload(&inbox);
            assert_eq!(
                (&report["changed"], &report["secrets"]),
                (&json!("WEBHOOK_SECRET"), &json!(2))
            );
            is_rotated.store(true, SeqCst);
        }
        std::thread::sleep(Duration::from_millis(100));
        stop.store(true, SeqCst);
        for client in clients {
            client.join().unwrap();
        }
    });
    let slot =
        |number: u8| inbox.metric(&format!("mailslot_webhook_key_used_total{{key=\"{number}\"}}"));
    assert!(slot(1) > 0 && slot(2) > 0 && slot(3) == 0);
    assert_eq!(i64::try_from(slot(1) + slot(2)).unwrap(), inbox.rows());
    // No sender uses the old secret any more, so it is removed.
    fs::write(&file, "new\n").unwrap();
    reload(&inbox);
    assert_eq!(deliver_with(&inbox, "old", "late").status, 401);
    assert_eq!(deliver_with(&inbox, "new", "late").status, 200);
}

#[test]
fn what_cannot_be_read_again_changes_nothing() {
    let inbox = with_secrets("old\n");
    fs::write(inbox.folder.path().join("secrets"), "\n").unwrap();
    let report = reload(&inbox);
    assert_eq!(report["level"], "ERROR");
    assert!(report["problems"].as_str().unwrap().contains("WEBHOOK_SECRET"), "{report}");
    assert_eq!(deliver_with(&inbox, "old", "m1").status, 200);
}

#[test]
fn tokens_and_the_log_level_are_read_again_from_the_settings_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings");
    fs::write(&file, "# comment\nREAD_TOKEN=first\nLOG_LEVEL=ERROR\nWORKERS=4\n").unwrap();
    let inbox = Inbox::start_with(folder, |command| {
        command.env("SETTINGS_FILE", &file);
    });
    let file = inbox.folder.path().join("settings");
    let status = |token: &str| {
        let asked = agent().get(inbox.url("/stats"));
        reply(asked.header("Authorization", format!("Bearer {token}")).call()).status
    };
    assert_eq!((status("first"), status("second")), (200, 401));
    fs::write(&file, "READ_TOKEN=second\nLOG_LEVEL=INFO\nWORKERS=5\n").unwrap();
    let report = reload(&inbox);
    assert_eq!(report["changed"], "READ_TOKEN LOG_LEVEL");
    assert_eq!(report["after_restart"], "WORKERS");
    assert_eq!((status("first"), status("second")), (401, 200));
    inbox.request_log(&inbox.get("/health/live"));
    fs::write(&file, "REED_TOKEN=second\n").unwrap();
    assert!(reload(&inbox)["problems"].as_str().unwrap().contains("REED_TOKEN"));
    assert_eq!(status("second"), 200);
}

#[test]
fn messages_beyond_the_retention_are_deleted_and_no_others_while_deliveries_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let lines = folder.path().join("lines");
    let old: Vec<String> = (0..3_000)
        .map(|n| message_with(&format!("old{n}"), &json!({ "from": "+7", "text": "old news" })))
        .map(|message| format!("{message}\n"))
        .collect();
    fs::write(&lines, old.concat()).unwrap();
    let import = crate::harness::command(folder.path()).arg("import").arg(&lines).output().unwrap();
    assert!(import.status.success());
    let inbox = Inbox::start_with(folder, |command| {
        command.env("RETENTION_DAYS", "30");
    });
    let now = || {
        let out = std::process::Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]).output();
        String::from_utf8(out.unwrap().stdout).unwrap().trim().to_owned()
    };
    let (mut delivered, mut are_there) = (0, true);
    while are_there {
        let fields = json!({ "ts": now(), "text": "fresh news" });
        assert_eq!(inbox.deliver(&message_with(&format!("new{delivered}"), &fields)).status, 200);
        delivered += 1;
        assert!(delivered < 20_000, "they do not go");
        let total =
            inbox.get_served("/messages?q=old+news&limit=1").json["total"].as_i64().unwrap();
        assert!(total <= 3_000);
        are_there = inbox.count("SELECT count(*) FROM messages WHERE from_msisdn = '+7'") > 0;
    }
    let stats = inbox.get("/stats").json;
    assert_eq!((&stats["total_messages"], &stats["senders_count"]), (&json!(delivered), &json!(1)));
    assert_eq!(inbox.get_served("/messages?q=old+news").json["total"], 0);
    assert_eq!(inbox.get_served("/messages?q=fresh").json["total"], json!(delivered));
}

#[test]
fn clients_are_limited_by_the_address_that_a_trusted_proxy_gives() {
    let inbox = Inbox::start_with(tempfile::tempdir().unwrap(), |command| {
        command.env("REQUESTS_PER_SECOND_PER_ADDRESS", "3").env("TRUSTED_PROXIES", "127.0.0.1");
    });
    let ask = |forwarded: &str| {
        reply(agent().get(inbox.url("/stats")).header("X-Forwarded-For", forwarded).call())
    };
    let statuses: Vec<u16> = (0..6).map(|_| ask("6.6.6.6, 198.51.100.7").status).collect();
    assert_eq!(statuses[..3], [200; 3]);
    assert!(statuses.contains(&429), "{statuses:?}");
    let refused = std::iter::repeat_with(|| ask("7.7.7.7, 198.51.100.7"))
        .take(20)
        .find(|reply| reply.status == 429)
        .unwrap();
    assert_eq!(refused.header("Retry-After"), Some("1"), "what is forged changes nothing");
    assert_eq!(refused.json, json!({ "detail": "too many requests, try again later" }));
    assert_eq!(ask("198.51.100.8").status, 200, "another client");
    assert_eq!(inbox.get("/health/live").status, 200);
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(ask("198.51.100.7").status, 200, "later");
}

/// Whether a file has these bytes anywhere.
fn holds(path: &std::path::Path, needle: &str) -> bool {
    let Ok(bytes) = fs::read(path) else { return false };
    bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
}

#[test]
fn no_byte_of_an_erased_sender_is_left_and_no_delivery_brings_one_back() {
    let inbox = Inbox::start();
    // Many, in no order, so that pages are split and cells moved about; searched, so that they are
    // packed and found.
    let number = |n: usize| (n * 7_919) % 6_000;
    let lines: Vec<String> = (0..6_000)
        .map(|n| {
            let is_hers = number(n) % 5 == 0;
            let fields = json!({
                "from": if is_hers { "+15557654321" } else { "+15550000000" },
                "text": format!("{} {n} {}", if is_hers { "Zyxwvut" } else { "else" }, "é".repeat(n % 90)),
                "ts": format!("2025-01-{:02}T10:00:{:02}Z", 1 + number(n) % 28, n % 60),
            });
            let name = if is_hers { "qrst" } else { "other" };
            format!("{}\n", message_with(&format!("{name}-{}", number(n)), &fields))
        })
        .collect();
    let folder = inbox.folder.path().to_owned();
    let file = folder.join("lines");
    fs::write(&file, lines.concat()).unwrap();
    let run = |arguments: &[&str]| {
        let output = crate::harness::command(&folder).args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    run(&["import", file.to_str().unwrap()]);
    while inbox.count("SELECT count(*) FROM segments WHERE trigrams IS NULL") > 1 {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(inbox.get_served("/messages?q=zyxwvut").json["total"], 1_200);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0.. {
                if stop.load(SeqCst) {
                    break;
                }
                assert_eq!(inbox.deliver(&message(&format!("beside-{n}"))).status, 200);
            }
        });
        run(&["erase", "--from", "+15557654321", "--yes"]);
        stop.store(true, SeqCst);
    });
    let files = ["mailslot.db", "mailslot.db-wal"].map(|name| folder.join(name));
    for trace in ["15557654321", "Zyxwvut", "zyxwvut", "qrst-"] {
        for file in &files {
            assert!(!holds(file, trace), "{trace} is in {}", file.display());
        }
    }
    assert!(files.iter().any(|file| holds(file, "15550000000")), "the others are there");
    assert_eq!(inbox.get("/messages?from=+15557654321").json["total"], 0);
    assert_eq!(inbox.get_served("/messages?q=zyxwvut").json["total"], 0);
    let rows = inbox.rows();
    for line in lines.iter().filter(|line| line.contains("qrst")).take(20) {
        assert_eq!(inbox.deliver_raw(line.trim_end().as_bytes()).status, 200, "acknowledged");
    }
    assert_eq!(inbox.rows(), rows, "and not stored");
    let stats = inbox.get("/stats").json;
    assert_eq!(stats["total_messages"], json!(rows));
    inbox.stop();
}

#[test]
fn a_clock_that_is_far_ahead_of_the_last_stored_message_deletes_nothing_that_was_new_then() {
    // As a start with the clock 400 days ahead finds it: all was stored 400 days ago by that clock.
    let inbox = Inbox::start();
    let long_ago = |days: i64| {
        let moment =
            std::time::SystemTime::now() - Duration::from_secs(86_400 * days.unsigned_abs());
        let moment = time::OffsetDateTime::from(moment);
        format!("{}T10:00:00.000Z", moment.date())
    };
    let (new_then, old_then) = (long_ago(400), long_ago(500));
    for n in 0..50 {
        let new = json!({ "ts": new_then, "text": "new then" });
        assert_eq!(inbox.deliver(&message_with(&format!("new{n}"), &new)).status, 200);
        let old = json!({ "ts": old_then, "text": "old then" });
        assert_eq!(inbox.deliver(&message_with(&format!("old{n}"), &old)).status, 200);
    }
    let folder = inbox.stop();
    execute(folder.path(), &format!("UPDATE messages SET created_at = '{new_then}'"));
    let inbox = Inbox::start_with(folder, |command| {
        command.env("RETENTION_DAYS", "30");
    });
    let error = inbox.wait_for_log(|line| line["level"] == "ERROR");
    assert!(
        error["msg"].as_str().unwrap().starts_with("messages do not expire: the clock is wrong"),
        "{error}"
    );
    assert_eq!(error["stored"].as_str().unwrap()[..10], new_then[..10]);
    inbox.wait_for_log(|line| line["msg"] == "messages have expired");
    assert_eq!(inbox.count("SELECT count(*) FROM messages WHERE text = 'old then'"), 0);
    assert_eq!(inbox.count("SELECT count(*) FROM messages WHERE text = 'new then'"), 50);
    assert_eq!(inbox.get("/messages?q=new+then").json["total"], 50);
}

#[test]
fn an_import_steps_back_behind_deliveries_and_is_not_starved_by_them() {
    const SENDERS: usize = 16;
    let inbox = Inbox::start();
    let file = inbox.folder.path().join("lines");
    let fields = json!({ "from": "+15550001111" });
    let lines = (0..60_000).map(|n| format!("{}\n", message_with(&format!("line-{n}"), &fields)));
    fs::write(&file, lines.collect::<String>()).unwrap();
    let (delivered, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let imported =
        || inbox.count("SELECT count(*) FROM messages WHERE from_msisdn = '+15550001111'");
    let wait_for = |rows: i64| {
        while imported() < rows {
            std::thread::sleep(Duration::from_millis(20));
        }
        (imported(), delivered.load(SeqCst))
    };
    let (began, ended) = std::thread::scope(|scope| {
        for sender in 0..SENDERS {
            let (inbox, delivered, stop) = (&inbox, &delivered, &stop);
            scope.spawn(move || {
                let mut client = Client::new(inbox.address);
                for n in 0.. {
                    if stop.load(SeqCst) {
                        break;
                    }
                    // A 503 would be an answer too, but not a message that was stored.
                    if client.deliver(&format!("delivery-{sender}-{n}")) == Ok(200) {
                        delivered.fetch_add(1, SeqCst);
                    }
                }
            });
        }
        let mut import = crate::harness::command(inbox.folder.path())
            .arg("import")
            .arg(&file)
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let began = wait_for(500);
        let ended = wait_for(began.0 + 1_000);
        stop.store(true, SeqCst);
        import.kill().unwrap();
        import.wait().unwrap();
        (began, ended)
    });
    let imported = usize::try_from(ended.0 - began.0).unwrap();
    let delivered = ended.1 - began.1;
    assert!(
        delivered > imported,
        "{delivered} messages were delivered while {imported} were imported"
    );
}

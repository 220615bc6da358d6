//! How the process starts, refuses to start, and stops.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use serde_json::json;

use crate::harness::{
    Inbox, Reply, at_once, count, database, database_url, message, notification, notify_socket,
    on_postgres, refused, refused_in,
};

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0)
}

#[test]
fn every_wrong_setting_is_reported_at_once_with_exit_status_2() {
    let output = refused(|command| {
        command
            .env("WEBHOOK_SECRET", "")
            .env("LISTEN", "localhost:80")
            .env("LOG_LEVEL", "loud")
            .env("WORKERS", "many")
            .env("DATABASE_URL", "postgres://x/y");
    });
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    for name in ["WEBHOOK_SECRET", "LISTEN", "LOG_LEVEL", "WORKERS", "DATABASE_URL"] {
        let line = text
            .lines()
            .find(|line| line.contains(name))
            .unwrap_or_else(|| panic!("{name} is not in {text}"));
        assert!(line.contains("expected"), "{line}");
    }
    assert_eq!(output.stdout, b"", "nothing is logged as if it had started");
    assert_eq!(
        refused(|command| {
            command.env_remove("WEBHOOK_SECRET");
        })
        .status
        .code(),
        Some(2)
    );
}

#[test]
fn it_refuses_a_database_that_it_cannot_use_and_a_port_in_use_in_one_go() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let output = refused(|command| {
        let folder = command.get_current_dir().unwrap().to_owned();
        fs::write(
            database(&folder),
            "not a database, but long enough to be read as one".repeat(100),
        )
        .unwrap();
        command.env("LISTEN", taken.local_addr().unwrap().to_string());
    });
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text.contains("it is not a SQLite database") && text.contains("cannot listen"),
        "{text}"
    );
}

#[test]
fn it_refuses_the_database_of_another_program_and_leaves_it_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let other = rusqlite::Connection::open(database(folder.path())).unwrap();
    other.execute_batch("CREATE TABLE orders (id INTEGER PRIMARY KEY)").unwrap();
    drop(other);
    let before = fs::read(database(folder.path())).unwrap();
    let output = refused_in(folder.path(), |_| {});
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("another program"), "{}", stderr(&output));
    assert_eq!(fs::read(database(folder.path())).unwrap(), before);
}

#[test]
fn it_refuses_the_database_of_a_newer_mailslot() {
    let folder = Inbox::start().stop();
    let connection = rusqlite::Connection::open(database(folder.path())).unwrap();
    connection.execute_batch("PRAGMA user_version = 99").unwrap();
    drop(connection);
    let output = refused_in(folder.path(), |_| {});
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("version 99"), "{}", stderr(&output));
    assert_eq!(count(folder.path(), "PRAGMA user_version"), 99);
}

#[test]
fn it_refuses_a_locked_database_of_an_older_version_and_a_folder_it_may_not_write() {
    let folder = Inbox::start().stop();
    let other = rusqlite::Connection::open(database(folder.path())).unwrap();
    other.execute_batch("PRAGMA user_version = 5; BEGIN IMMEDIATE").unwrap();
    let output = refused_in(folder.path(), |_| {});
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("another process holds a lock"), "{}", stderr(&output));
    drop(other);

    let output = refused(|command| {
        command.env("DATABASE_URL", "sqlite:////proc/mailslot/mailslot.db");
    });
    assert!(stderr(&output).contains("folder cannot be created"), "{}", stderr(&output));
    let output = refused(|command| {
        let folder = command.get_current_dir().unwrap();
        fs::create_dir(database(folder)).unwrap();
    });
    assert!(stderr(&output).contains("it is a folder"), "{}", stderr(&output));
    // Root may write anywhere, so permissions are tested as another user only.
    if !is_root() {
        let output = refused(|command| {
            let folder = command.get_current_dir().unwrap();
            fs::set_permissions(folder, fs::Permissions::from_mode(0o500)).unwrap();
        });
        assert!(stderr(&output).contains("cannot be opened"), "{}", stderr(&output));
    }
}

#[test]
fn a_read_only_file_system_is_named_as_the_reason() {
    // A bind mount in a namespace of the test's own, which a user other than root may not make.
    let script =
        "mount --bind \"$1\" \"$1\" && mount -o remount,ro,bind \"$1\" && exec \"$0\" $VERB";
    let program = env!("CARGO_BIN_EXE_mailslot");
    let start = |folder: &Path, path: &str, verb: &str| {
        let mut command = Command::new("unshare");
        command.env_clear().args(["-m", "sh", "-c", script, program]).arg(folder);
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("WEBHOOK_SECRET", "testsecret");
        command.env("LISTEN", "127.0.0.1:0").env("DATABASE_URL", folder.join(path));
        command.env("VERB", verb).output()
    };
    let can_mount = Command::new("unshare").args(["-m", "true"]).output();
    if !can_mount.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: this user may not mount");
        return;
    }
    let folder = Inbox::start().stop();
    for path in ["mailslot.db", "new.db", "folder/new.db"] {
        let output = start(folder.path(), path, "serve").unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = stderr(&output);
        assert!(text.to_lowercase().contains("read-only file system"), "{path}: {text}");
        if !path.contains('/') {
            let output = start(folder.path(), path, "check").unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            assert!(text.contains("it is on a read-only file system"), "{path}: {text}");
        }
    }
}

#[test]
fn every_bad_line_of_the_settings_file_is_reported_with_the_other_wrong_settings() {
    let output = refused(|command| {
        let lines = "WORKERS=many\nno equals sign\n# a comment\nREED_TOKEN=x\nLOG_LEVEL=loud\n";
        fs::write(command.get_current_dir().unwrap().join("settings"), lines).unwrap();
        command.env("SETTINGS_FILE", "settings").env("LISTEN", "nowhere");
    });
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    for problem in [
        "SETTINGS_FILE=settings, line 2: expected NAME=value",
        "SETTINGS_FILE=settings, line 4: there is no setting \"REED_TOKEN\"",
        "WORKERS=\"many\": expected",
        "LOG_LEVEL=\"loud\": expected",
        "LISTEN=\"nowhere\": expected",
    ] {
        assert!(text.contains(problem), "{problem} is not in {text}");
    }
    assert_eq!(text.lines().count(), 5, "{text}");
}

#[test]
fn a_database_url_with_too_few_slashes_is_refused_with_the_right_form() {
    for url in ["sqlite://x.db", "sqlite:x.db", "sqlite:/data/x.db", "sqlite+aiosqlite://x.db"] {
        let output = refused(|command| {
            command.env("DATABASE_URL", url);
        });
        assert_eq!(output.status.code(), Some(2), "{url}");
        assert!(stderr(&output).contains("three slashes"), "{url}: {}", stderr(&output));
    }
}

#[test]
fn the_seeds_database_is_taken_over_with_every_row() {
    let folder = tempfile::tempdir().unwrap();
    seed(
        folder.path(),
        &["2025-01-15T10:00:00Z", "2025-01-15T10:00:00.25Z", "1969-12-31T23:59:59.999999999Z"],
    );
    let inbox = Inbox::start_in(folder);
    let page = inbox.get("/messages").json;
    let order: Vec<_> = page["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["message_id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(order, ["seed2", "seed0", "seed1"]);
    assert_eq!(
        page["data"][1],
        json!({ "message_id": "seed0", "from": "+1", "to": "+2", "ts": "2025-01-15T10:00:00Z", "text": null })
    );
    assert_eq!(inbox.deliver(&message("seed1")).status, 200);
    assert_eq!(inbox.rows(), 3);
    assert_eq!(inbox.count("SELECT count(*) FROM messages WHERE created_at = 'then'"), 3);
    assert_eq!(
        inbox.count("SELECT ts_s * 1000000000 + ts_ns FROM messages WHERE message_id = 'seed2'"),
        -1
    );
    let folder = inbox.stop();
    let inbox = Inbox::start_in(folder);
    assert_eq!(inbox.rows(), 3);
}

#[test]
fn a_seed_database_with_an_invalid_ts_is_refused_unchanged() {
    for bad in [
        "2025-02-30T10:00:00Z",
        "2025-01-15T10:00:00+00:00",
        "2025-01-15T10:00:00.x5Z",
        "2025-01-15T10:00:00.1234567891Z",
        "yesterday",
    ] {
        let folder = tempfile::tempdir().unwrap();
        seed(folder.path(), &["2025-01-15T10:00:00Z", bad]);
        let output = refused_in(folder.path(), |_| {});
        assert_eq!(output.status.code(), Some(1), "{bad}");
        assert!(stderr(&output).contains("seed1"), "{}", stderr(&output));
        assert_eq!(count(folder.path(), "SELECT count(*) FROM messages"), 2);
        assert_eq!(count(folder.path(), "PRAGMA user_version"), 0);
    }
}

fn seed(folder: &Path, timestamps: &[&str]) {
    let connection = rusqlite::Connection::open(database(folder)).unwrap();
    connection.execute_batch(
        "CREATE TABLE messages (message_id VARCHAR NOT NULL, from_msisdn VARCHAR NOT NULL, to_msisdn VARCHAR NOT NULL,
             ts VARCHAR NOT NULL, text TEXT, created_at VARCHAR NOT NULL, PRIMARY KEY (message_id));
         CREATE INDEX ix_messages_ts ON messages (ts);",
    ).unwrap();
    for (number, ts) in timestamps.iter().enumerate() {
        connection
            .execute(
                "INSERT INTO messages VALUES ('seed' || ?1, '+1', '+2', ?2, NULL, 'then')",
                (i64::try_from(number).unwrap(), ts),
            )
            .unwrap();
    }
}

#[test]
fn every_form_of_database_url_finds_its_file() {
    for (url, path) in [
        ("sqlite:///./data/app.db", "data/app.db"),
        ("sqlite:///deep/er/app.db", "deep/er/app.db"),
        ("sqlite+aiosqlite:///app.db", "app.db"),
        ("bare.db", "bare.db"),
        ("", "mailslot.db"),
    ] {
        let inbox = Inbox::start_with(tempfile::tempdir().unwrap(), |command| {
            command.env("DATABASE_URL", url);
        });
        assert_eq!(inbox.deliver(&message("m1")).status, 200);
        assert!(inbox.folder.path().join(path).is_file(), "{url}");
    }
}

#[test]
fn the_start_line_says_what_runs_where() {
    let inbox = Inbox::start_with(tempfile::tempdir().unwrap(), |command| {
        command.env("WORKERS", "3").env("LISTEN", "[::1]:0");
    });
    let line = &inbox.started;
    assert_eq!(
        (&line["level"], &line["version"]),
        (&json!("INFO"), &json!(env!("CARGO_PKG_VERSION")))
    );
    assert_eq!(
        (&line["workers"], &line["address"]),
        (&json!(3), &json!(inbox.address.to_string()))
    );
    let database = if on_postgres() {
        database_url(inbox.folder.path()).replace(":secret@", "@").replace("?sslmode=disable", "")
    } else {
        database(inbox.folder.path()).display().to_string()
    };
    assert_eq!(line["database"], json!(database));
    assert!(inbox.address.is_ipv6());
    assert_eq!(inbox.get("/health/live").status, 200);
}

#[test]
fn sigterm_and_sigint_answer_requests_in_flight_and_leave_one_file() {
    for signal in ["-TERM", "-INT"] {
        let inbox = Inbox::start_with_faults();
        inbox.fault("hang_fsync", true);
        let statuses = at_once(17, |number| {
            if number == 16 {
                // All are accepted before the signal, and answered after it.
                while inbox.metric("mailslot_commit_queue_length") < 16 {
                    std::thread::sleep(Duration::from_millis(5));
                }
                inbox.signal(signal);
                inbox.wait_for_log(|line| line["msg"] == "stopping");
                inbox.fault("hang_fsync", false);
                return 200;
            }
            let mut stream = inbox.connect();
            let body = message(&format!("m{number}")).to_string();
            let signature = crate::harness::sign(body.as_bytes());
            let head = format!(
                "POST /webhook HTTP/1.1\r\nHost: x\r\nX-Signature: {signature}\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).unwrap();
            String::from_utf8_lossy(&answer[9..]).parse::<u16>().unwrap()
        });
        assert_eq!(statuses, [200; 17]);
        inbox.wait_for_log(|line| line["msg"] == "stopped");
        let folder = inbox.kill();
        let wal = fs::metadata(folder.path().join("mailslot.db-wal"));
        assert!(wal.is_err() || wal.is_ok_and(|wal| wal.len() == 0), "checkpointed");
        assert_eq!(count(folder.path(), "SELECT count(*) FROM messages"), 16);
    }
}

#[test]
fn a_stop_under_load_loses_nothing_acknowledged_and_exits_0_in_time() {
    let inbox = Inbox::start();
    let address = inbox.address;
    let (acknowledged, folder) = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..8)
            .map(|sender| {
                scope.spawn(move || {
                    let agent = crate::harness::agent();
                    let mut acknowledged = 0;
                    for number in 0..100_000 {
                        let body = message(&format!("{sender}-{number}")).to_string();
                        let sent = agent
                            .post(format!("http://{address}/webhook"))
                            .header("X-Signature", crate::harness::sign(body.as_bytes()))
                            .send(&body);
                        match sent {
                            Ok(response) if response.status() == 200 => acknowledged += 1,
                            Ok(response) => panic!("{}", response.status()),
                            // Refused once it no longer listens; never a broken answer.
                            Err(_) => break,
                        }
                    }
                    acknowledged
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(300));
        let started = Instant::now();
        let folder = inbox.stop();
        assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
        (senders.into_iter().map(|sender| sender.join().unwrap()).sum::<i64>(), folder)
    });
    assert!(acknowledged > 0);
    assert!(count(folder.path(), "SELECT count(*) FROM messages") >= acknowledged);
}

#[test]
fn the_command_line_explains_itself() {
    let run = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_mailslot")).env_clear().args(arguments).output().unwrap()
    };
    let version = run(&["--version"]);
    assert_eq!(
        String::from_utf8(version.stdout).unwrap(),
        format!("mailslot {}\n", env!("CARGO_PKG_VERSION"))
    );
    let help = String::from_utf8(run(&["--help"]).stdout).unwrap();
    for setting in mailslot::config::SETTINGS {
        let default = setting.default.shown();
        assert!(help.contains(setting.name) && help.contains(default), "{}", setting.name);
    }
    let wrong = run(&["--frobnicate"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("--help"));
}

#[test]
fn healthcheck_asks_its_own_address() {
    let inbox = Inbox::start_with_faults();
    let check = |address: String| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mailslot"));
        command.env_clear().env("LISTEN", address).arg("healthcheck").output().unwrap()
    };
    assert_eq!(check(inbox.address.to_string()).status.code(), Some(0));
    assert_eq!(check(format!("0.0.0.0:{}", inbox.address.port())).status.code(), Some(0));
    inbox.fault("disk_full", true);
    let failed = check(inbox.address.to_string());
    assert_eq!(failed.status.code(), Some(1));
    assert!(stderr(&failed).contains("not ready"), "{}", stderr(&failed));
    let address = inbox.address.to_string();
    drop(inbox);
    assert_eq!(check(address).status.code(), Some(1));
}

#[test]
fn systemd_is_notified_and_provides_the_secret() {
    let folder = tempfile::tempdir().unwrap();
    let socket = notify_socket(folder.path(), Duration::from_secs(10));
    fs::create_dir(folder.path().join("credentials")).unwrap();
    fs::write(folder.path().join("credentials/webhook_secret"), "testsecret\n").unwrap();
    let inbox = Inbox::start_with(folder, |command| {
        let folder = command.get_current_dir().unwrap().to_owned();
        command
            .env_remove("WEBHOOK_SECRET")
            .env("CREDENTIALS_DIRECTORY", folder.join("credentials"));
        command.env("NOTIFY_SOCKET", folder.join("notify"));
    });
    assert_eq!(notification(&socket), "READY=1");
    assert_eq!(inbox.deliver(&message("m1")).status, 200);
    let _folder = inbox.stop();
    assert_eq!(notification(&socket), "STOPPING=1");
}

#[test]
fn the_watchdogs_own_requests_are_logged_as_debug_and_no_clients_are() {
    for level in ["DEBUG", "INFO"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let inbox = Inbox::start_with(folder, |command| {
            command.env("NOTIFY_SOCKET", path);
            command.env("WATCHDOG_USEC", "4000000").env("LOG_LEVEL", level);
        });
        let id = |reply: &Reply| reply.header("X-Request-ID").unwrap().to_owned();
        // A signal to this test's process interrupts a call with a timeout.
        let hear = || loop {
            match socket.recv(&mut [0; 64]) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                heard => return heard.unwrap(),
            }
        };
        // READY=1 and three answers to the watchdog, with a client's between them.
        let _ = [hear(), hear()];
        let of_client = id(&inbox.get("/health/ready"));
        let _ = [hear(), hear()];
        let last = id(&inbox.get("/health/live"));
        let (mut client, mut watchdog, mut unanswered) = (Vec::new(), Vec::new(), 0);
        inbox.wait_for_log(|line| {
            let is_of = |id: &str| line["request_id"] == id;
            // On a busy machine the watchdog may not wait for an answer, which is then any client's.
            unanswered +=
                usize::from(line["msg"].as_str().unwrap().starts_with("mailslot does not"));
            if is_of(&of_client) {
                client.push(line["level"].clone());
            } else if line["path"] == "/health/ready" {
                watchdog.push(line["level"].clone());
            }
            is_of(&last)
        });
        assert_eq!(client, ["INFO"], "{level}");
        let as_info = watchdog.iter().filter(|level| *level != "DEBUG").count();
        assert!(as_info <= unanswered, "{level}: {watchdog:?}, {unanswered} unanswered");
        assert_eq!(watchdog.len() > as_info, level == "DEBUG", "{watchdog:?}");
    }
}

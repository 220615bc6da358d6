//! Restarts without a failed request: in place, and on a listening socket that systemd keeps.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::{Duration, Instant},
};

use crate::{
    client::Client,
    harness::{self, Inbox, SECRET, count, database, message, signal},
};

/// 16 clients that never stop, while `work` is done: how many messages were acknowledged. Not one
/// request may fail.
fn under_load(address: SocketAddr, work: impl FnOnce()) -> i64 {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..16)
            .map(|client| {
                let stop = &stop;
                scope.spawn(move || {
                    let (mut number, mut connection) = (0, Client::new(address));
                    while !stop.load(SeqCst) {
                        let answer = connection.deliver(&format!("{client}-{number}"));
                        assert_eq!(answer, Ok(200), "client {client}, message {number}");
                        number += 1;
                    }
                    number
                })
            })
            .collect();
        work();
        stop.store(true, SeqCst);
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    })
}

#[test]
fn ten_restarts_in_place_under_load_fail_not_one_request() {
    let inbox = Inbox::start();
    let pid = inbox.pid();
    let delivered = under_load(inbox.address, || {
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(200));
            inbox.signal("-USR2");
            let started = inbox.wait_for_log(|line| line["msg"] == "listening");
            assert_eq!(started["address"], inbox.started["address"]);
        }
    });
    assert_eq!((inbox.pid(), inbox.metric("mailslot_restarts_total")), (pid, 10));
    assert_eq!(inbox.rows(), delivered);
    // What each start leaves open must not add up.
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    assert!(descriptors < 60, "{descriptors}");
    inbox.stop();
}

/// As systemd starts a service with a socket unit.
fn start_on(socket: &TcpListener, folder: &std::path::Path) -> Child {
    let mut command = Command::new("sh");
    let binary = env!("CARGO_BIN_EXE_mailslot");
    let script = format!("LISTEN_PID=$$ LISTEN_FDS=1 exec {binary} 3<&0 </dev/null");
    command.args(["-c", &script]).env_clear().env("WEBHOOK_SECRET", crate::harness::SECRET);
    command.env("DATABASE_URL", harness::database_url(folder)).env("LOG_LEVEL", "ERROR");
    command.stdin(OwnedFd::from(socket.try_clone().unwrap())).stdout(Stdio::null());
    command.spawn().unwrap()
}

#[test]
fn ten_restarts_on_a_passed_socket_under_load_fail_not_one_request() {
    let folder = tempfile::tempdir().unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let mut child = start_on(&socket, folder.path());
    let delivered = under_load(address, || {
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(300));
            signal(child.id(), "-TERM");
            assert_eq!(child.wait().unwrap().code(), Some(0));
            child = start_on(&socket, folder.path());
        }
    });
    signal(child.id(), "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(count(folder.path(), "SELECT count(*) FROM messages"), delivered);
}

#[test]
fn a_restart_in_place_keeps_a_passed_socket_too() {
    let folder = tempfile::tempdir().unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let mut child = start_on(&socket, folder.path());
    let mut client = Client::new(address);
    assert_eq!(client.deliver("m1"), Ok(200));
    signal(child.id(), "-USR2");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(Client::new(address).deliver("m2"), Ok(200));
    signal(child.id(), "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(count(folder.path(), "SELECT count(*) FROM messages"), 2);
}

#[test]
fn a_descriptor_that_is_no_listening_socket_is_refused() {
    let output = crate::harness::refused(|command| {
        command.env("MAILSLOT_SOCKET", "1");
    });
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(1) && text.contains("not a listening TCP socket"),
        "{text}"
    );
}

#[test]
fn the_watchdog_is_fed_as_long_as_a_request_finds_the_database() {
    let folder = tempfile::tempdir().unwrap();
    let socket = harness::notify_socket(folder.path(), Duration::from_secs(20));
    let inbox = Inbox::start_with(folder, |command| {
        let folder = command.get_current_dir().unwrap().to_owned();
        command.env("NOTIFY_SOCKET", folder.join("notify")).env("WATCHDOG_USEC", "600000");
    });
    assert_eq!(harness::notification(&socket), "READY=1");
    for _ in 0..3 {
        assert_eq!(harness::notification(&socket), "WATCHDOG=1");
    }
    // Like systemd, the test reads on: a full socket would block the watchdog.
    std::thread::spawn(move || while socket.recv(&mut [0; 64]).is_ok() {});
    // A database that is gone is what a restart mends.
    inbox.execute("DROP TABLE messages");
    inbox.wait_for_log(|line| line["msg"].as_str().unwrap().contains("does not answer its own"));
    assert_ne!(inbox.get("/health/ready").status, 200);
    let status = if harness::on_postgres() { 503 } else { 500 };
    assert_eq!(inbox.deliver(&message("m1")).status, status);
}

/// Puts a mailslot into place as an upgrade does. By another process: a file that this one has open
/// for writing cannot be run by a process that another test starts meanwhile.
fn install(program: &Path) {
    let new = program.with_extension("new");
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_mailslot")).arg(&new).status();
    assert!(copied.unwrap().success());
    fs::rename(new, program).unwrap();
}

/// A mailslot in a file of its own, with its secret in another.
fn start_installed() -> Inbox {
    let folder = tempfile::tempdir().unwrap();
    install(&program_of(folder.path()));
    fs::write(secret_of(folder.path()), SECRET).unwrap();
    Inbox::start_with(folder, |command| {
        let folder = command.get_current_dir().unwrap().to_owned();
        let mut installed = Command::new(program_of(&folder));
        let settings = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
        installed.env_clear().envs(settings).current_dir(&folder);
        installed.env_remove("WEBHOOK_SECRET").env("WEBHOOK_SECRET_FILE", secret_of(&folder));
        installed.env("IDLE_MS", "1000");
        *command = installed;
    })
}

fn program_of(folder: &Path) -> PathBuf {
    folder.join("mailslot")
}

fn secret_of(folder: &Path) -> PathBuf {
    folder.join("secret")
}

/// What makes the guard restart the process (H2).
fn attack(inbox: &Inbox) {
    for _ in 0..600 {
        let _ = inbox.connect().write_all(b"GET / HTTP/2.0\r\n\r\n");
    }
}

fn running_program(inbox: &Inbox) -> String {
    let path = fs::read_link(format!("/proc/{}/exe", inbox.pid())).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_restart_that_clients_cause_runs_the_same_program_although_its_file_is_gone() {
    let inbox = start_installed();
    let program = program_of(inbox.folder.path());
    fs::remove_file(&program).unwrap();
    attack(&inbox);
    inbox.wait_for_log(|line| line["msg"] == "listening");
    assert_eq!(running_program(&inbox), format!("{} (deleted)", program.display()));
    let name = fs::read_to_string(format!("/proc/{}/comm", inbox.pid())).unwrap();
    assert_eq!((inbox.metric("mailslot_restarts_total"), name.as_str()), (1, "mailslot\n"));
    assert_eq!(inbox.deliver(&message("m1")).status, 200);
    // The operator's restart still knows where the new program is to be found.
    install(&program);
    inbox.signal("-USR2");
    inbox.wait_for_log(|line| line["msg"] == "listening");
    assert_eq!(running_program(&inbox), program.to_str().unwrap());
    assert_eq!(inbox.metric("mailslot_restarts_total"), 2);
    inbox.stop();
}

#[test]
fn a_restart_that_clients_cause_waits_until_the_settings_can_be_read() {
    let mut inbox = start_installed();
    fs::write(secret_of(inbox.folder.path()), "").unwrap();
    attack(&inbox);
    let refused = inbox.wait_for_log(|line| line["level"] == "ERROR");
    assert_eq!(refused["msg"], "cannot restart: the service goes on unchanged");
    assert!(refused["problems"].as_str().unwrap().contains("WEBHOOK_SECRET_FILE"), "{refused}");
    assert_eq!(inbox.deliver(&message("m1")).status, 200);
    assert!(inbox.is_running());
    assert_eq!(inbox.metric("mailslot_restarts_total"), 0);
    fs::write(secret_of(inbox.folder.path()), SECRET).unwrap();
    inbox.wait_for_log(|line| line["msg"] == "listening");
    assert_eq!(inbox.metric("mailslot_restarts_total"), 1);
    assert_eq!(inbox.deliver(&message("m2")).status, 200);
    inbox.stop();
}

#[test]
fn a_restart_that_could_not_succeed_is_refused_and_cuts_no_connection() {
    let inbox = start_installed();
    let (program, secret) = (program_of(inbox.folder.path()), secret_of(inbox.folder.path()));
    let refuses = |expected: &str| {
        let mut client = Client::new(inbox.address);
        assert_eq!(client.get("/health/live"), Ok(200));
        inbox.signal("-USR2");
        let refused = inbox.wait_for_log(|line| line["level"] == "ERROR");
        assert_eq!(refused["msg"], "cannot restart: the service goes on unchanged");
        assert_eq!(refused["reason"], "SIGUSR2");
        assert!(refused["problems"].as_str().unwrap().contains(expected), "{refused}");
        assert_eq!(inbox.metric("mailslot_restarts_total"), 0);
    };
    fs::remove_file(&secret).unwrap();
    refuses("WEBHOOK_SECRET_FILE");
    fs::write(&secret, SECRET).unwrap();
    let wrong = |bytes: &str| {
        fs::remove_file(&program).unwrap();
        let script = r#"printf %s "$1" > "$2" && chmod 755 "$2""#;
        let written = Command::new("sh").args(["-c", script, "sh", bytes]).arg(&program).status();
        assert!(written.unwrap().success());
    };
    wrong("\x7fELF, and no more of it yet");
    refuses("cannot be run");
    wrong("#!/bin/sh\nexit 3\n");
    refuses("exit status: 3");
    wrong("#!/bin/sh\n(sleep 5) &\n");
    refuses("another program");
    wrong("#!/bin/sh\nexec sleep 60\n");
    refuses("did not end in time");
    fs::remove_file(&program).unwrap();
    refuses("cannot be run");
    install(&program);
    inbox.signal("-USR2");
    inbox.wait_for_log(|line| line["msg"] == "listening");
    assert_eq!(inbox.metric("mailslot_restarts_total"), 1);
    inbox.stop();
}

#[test]
fn an_upgrade_is_not_lost_in_a_restart_that_clients_cause() {
    let inbox = start_installed();
    let program = program_of(inbox.folder.path());
    // A request that is not whole keeps the process from restarting at once.
    let mut slow = inbox.connect();
    slow.write_all(b"POST /webhook HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n{").unwrap();
    attack(&inbox);
    inbox.wait_for_log(|line| line["msg"] == "stopping");
    install(&program);
    inbox.signal("-USR2");
    inbox.wait_for_log(|line| line["msg"] == "listening");
    assert_eq!(running_program(&inbox), program.to_str().unwrap(), "not the one that was replaced");
    assert_eq!(inbox.metric("mailslot_restarts_total"), 1);
    inbox.stop();
}

#[test]
fn a_restart_while_another_process_holds_the_lock_goes_on_when_it_is_released() {
    let inbox = Inbox::start();
    assert_eq!(inbox.deliver(&message("m1")).status, 200);
    let other = rusqlite::Connection::open(database(inbox.folder.path())).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    inbox.signal("-USR2");
    inbox.wait_for_log(|line| line["msg"] == "listening");
    assert_eq!(inbox.get("/messages").json["total"], 1);
    assert_eq!(inbox.deliver(&message("m2")).status, 503);
    other.execute_batch("ROLLBACK").unwrap();
    inbox.wait_for_log(|line| line["msg"].as_str().unwrap().contains("accepts commits"));
    assert_eq!(inbox.deliver(&message("m2")).status, 200);
    assert_eq!((inbox.rows(), inbox.metric("mailslot_restarts_total")), (2, 1));
    inbox.stop();
}

/// The log may have parts that a power failure takes away until the start has written it again.
#[test]
fn a_stop_before_the_first_commit_moves_nothing_of_the_log_into_the_database() {
    let inbox = Inbox::start();
    assert_eq!(inbox.deliver(&message("m1")).status, 200);
    let folder = inbox.kill();
    let path = database(folder.path());
    let before = fs::read(&path).unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let folder = Inbox::start_in(folder).stop();
    assert_eq!(fs::read(&path).unwrap(), before);
    drop(other);
    let inbox = Inbox::start_in(folder);
    assert_eq!(inbox.rows(), 1);
    inbox.stop();
}

/// Sends SIGUSR2, and SIGTERM after `delay`, while the log is not read: the process then waits up to a
/// second for its last lines to be written before it restarts.
fn stop_during_a_restart(delay: Duration) {
    let folder = tempfile::tempdir().unwrap();
    let mut child = harness::command(folder.path()).stdout(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stdout.take().unwrap()).lines();
    let address: SocketAddr = log
        .find_map(|line| {
            let line: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            Some(line["address"].as_str()?.parse().unwrap())
        })
        .unwrap();
    let mut client = Client::new(address);
    for number in 0..500 {
        assert_eq!(client.deliver(&format!("m{number}")), Ok(200));
    }
    signal(child.id(), "-USR2");
    std::thread::sleep(delay);
    signal(child.id(), "-TERM");
    let end = Instant::now() + Duration::from_secs(20);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > end {
            child.kill().unwrap();
            panic!("SIGTERM {delay:?} after SIGUSR2 was lost");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    // The new program may not have come to handle signals yet.
    assert!(status.code() == Some(0) || status.signal() == Some(15), "{status}");
}

#[test]
fn sigterm_during_a_restart_ends_the_process() {
    let delays = [0, 100, 200, 400, 600, 800, 1000, 1100, 1200, 1300, 1500];
    harness::at_once(delays.len(), |number| {
        stop_during_a_restart(Duration::from_millis(delays[number]));
    });
}

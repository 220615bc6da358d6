//! Restarts that nobody notices: in place, and on a socket that somebody else keeps.

use std::{
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::Duration,
};

use crate::{
    client::Client,
    harness::{Inbox, count, database, message, signal},
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
    assert_eq!((inbox.pid(), inbox.metric("restarts_total")), (pid, 10));
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
    command.env("DATABASE_URL", database(folder)).env("LOG_LEVEL", "ERROR");
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
    assert!(output.status.code() == Some(1) && text.contains("no listening TCP socket"), "{text}");
}

#[test]
fn the_watchdog_is_fed_as_long_as_a_request_finds_the_database() {
    let folder = tempfile::tempdir().unwrap();
    let socket = std::os::unix::net::UnixDatagram::bind(folder.path().join("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let inbox = Inbox::start_with(folder, |command| {
        let folder = command.get_current_dir().unwrap().to_owned();
        command.env("NOTIFY_SOCKET", folder.join("notify")).env("WATCHDOG_USEC", "600000");
    });
    let mut told = [0; 64];
    let mut next = || {
        let length = socket.recv(&mut told).unwrap();
        String::from_utf8_lossy(&told[..length]).into_owned()
    };
    assert_eq!(next(), "READY=1");
    for _ in 0..3 {
        assert_eq!(next(), "WATCHDOG=1");
    }
    // A database that is gone is what a restart mends.
    let connection = rusqlite::Connection::open(database(inbox.folder.path())).unwrap();
    connection.execute_batch("DROP TABLE messages").unwrap();
    inbox.wait_for_log(|line| line["msg"].as_str().unwrap().contains("does not answer itself"));
    assert_ne!(inbox.get("/health/ready").status, 200);
    assert_eq!(inbox.deliver(&message("m1")).status, 500);
}

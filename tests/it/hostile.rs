//! One test for each hazard of docs/TINY_HTTP.md: the attack through raw sockets, beside a well-behaved
//! client that must not notice it. The tests are a binary of their own and run one after the other,
//! since they measure how fast that client is answered.

#![allow(clippy::unwrap_used, unreachable_pub, missing_debug_implementations, dead_code)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)]
// Prints the numbers of a run: `cargo test --test hostile -- --show-output`.
#![allow(clippy::print_stdout, clippy::needless_for_each)]

mod client;
mod harness;

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use client::{Client, Companion};
use harness::{Inbox, at_once, database, message, message_with, sign, signal};

/// The memory of the process at any time, at most.
const MEMORY_KB_MAX: u64 = 100_000;
/// Nine of ten answers arrive within this time. On an idle machine they take milliseconds.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// No answer takes this long, which is half of the server's deadline for a client that stalls.
const STALL_MAX: Duration = Duration::from_secs(5);
/// How long a test waits for what must happen, however busy the machine is.
const PATIENCE: Duration = Duration::from_mins(2);

/// Another address than the attacker's, for tests in which hundreds of connections leak: each of them
/// keeps its address and port from being used again for about two seconds (docs/TINY_HTTP.md).
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Attacks a server, and checks that its other client is served all the time.
fn withstand(settings: &[(&str, &str)], attack: impl FnOnce(&Inbox)) -> Inbox {
    withstand_beside(Ipv4Addr::LOCALHOST, settings, attack)
}

/// The same, with the other client at this address.
fn withstand_beside(
    client: Ipv4Addr,
    settings: &[(&str, &str)],
    attack: impl FnOnce(&Inbox),
) -> Inbox {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut inbox = Inbox::start_with(tempfile::tempdir().unwrap(), |command| {
        command.envs(settings.iter().copied());
    });
    let companion = Companion::start(client, inbox.address, "companion");
    std::thread::sleep(Duration::from_millis(200));
    attack(&inbox);
    std::thread::sleep(Duration::from_millis(500));
    let seen = companion.stop();
    assert!(inbox.is_running());
    assert_eq!(seen.failures, [""; 0], "the client beside it");
    // A machine that is too busy sheds some of the load, but the attack must not deny most of it.
    let (answers, unavailable) = (seen.waits.len(), seen.unavailable);
    assert!(answers > unavailable, "{answers} answers of 200, {unavailable} of 503");
    let late = seen.waits.iter().filter(|wait| **wait > WAIT_MAX).count();
    let slowest = seen.waits.iter().max().unwrap();
    assert!(late <= 1 + answers / 10 && *slowest < STALL_MAX, "{late} of {answers}, {slowest:?}");
    let memory = peak_memory_kb(inbox.pid());
    assert!(memory < MEMORY_KB_MAX, "{memory} kB");
    let delivered = "SELECT count(*) FROM messages WHERE message_id LIKE 'companion-%'";
    assert_eq!(inbox.count(delivered), seen.waits.len() as i64);
    println!("{} answers, the slowest after {slowest:?}; {memory} kB", seen.waits.len());
    inbox
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Delivers as a provider does, which sends again after a 503.
fn deliver_at_last(inbox: &Inbox, body: &[u8]) {
    wait_until("a delivery is answered 200", || {
        let status = inbox.deliver_raw(body).status;
        assert!(status == 200 || status == 503, "{status}");
        status == 200
    });
}

fn peak_memory_kb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn send(inbox: &Inbox, bytes: &[u8]) -> TcpStream {
    let mut stream = inbox.connect();
    let _ = stream.write_all(bytes);
    stream
}

fn post(id: &str) -> String {
    let body = message(id).to_string();
    let (signature, length) = (sign(body.as_bytes()), body.len());
    format!(
        "POST /webhook HTTP/1.1\r\nX-Signature: {signature}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// Makes the connection's end a reset, as a crashed client does.
fn reset(stream: &TcpStream) {
    rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO)).unwrap();
}

#[test]
fn h1_absurd_lengths_abort_nothing_on_any_kind_of_path() {
    withstand(&[], |inbox| {
        let lines =
            ["POST /webhook", "GET /stats", "DELETE /nope", "HEAD /metrics", "PUT /messages"];
        for length in [1_048_577, 1 << 33, 1 << 62, u64::MAX] {
            for line in lines {
                let head = format!("{line} HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
                let answer = inbox.raw(head.as_bytes());
                assert!(answer.starts_with("HTTP/1.1 413 "), "{line} {length}: {answer}");
                // The same behind a request in flight.
                drop(send(inbox, format!("GET /health/ready HTTP/1.1\r\n\r\n{head}").as_bytes()));
            }
        }
    });
}

#[test]
fn h2_lines_with_http_2_cost_little_each() {
    let inbox = withstand_beside(ELSEWHERE, &[], |inbox| {
        for line in ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/3.0\r\n\r\n"] {
            (0..100).for_each(|_| drop(send(inbox, line.as_bytes())));
        }
    });
    assert_eq!(inbox.metric("mailslot_restarts_total"), 0);
}

#[test]
fn h2_leaks_are_counted_and_end_in_a_restart_that_no_client_notices() {
    let inbox = withstand_beside(ELSEWHERE, &[("IDLE_MS", "1000")], |inbox| {
        let pid = inbox.pid();
        for _ in 0..600 {
            drop(send(inbox, b"GET / HTTP/2.0\r\n\r\n"));
        }
        inbox.wait_for_log(|line| line["msg"] == "listening");
        assert_eq!(inbox.pid(), pid);
    });
    assert_eq!(
        (inbox.metric("mailslot_restarts_total"), inbox.metric("mailslot_connections_leaked")),
        (1, 0)
    );
    inbox.stop();
}

/// Starts a mailslot on this socket with a limit on descriptors.
fn start_with_descriptors(socket: &TcpListener, descriptors: usize, folder: &Path) -> Child {
    let mut command = Command::new("sh");
    let binary = env!("CARGO_BIN_EXE_mailslot");
    let script = format!(
        "ulimit -n {descriptors}; LISTEN_PID=$$ LISTEN_FDS=1 exec {binary} 3<&0 </dev/null"
    );
    command.args(["-c", &script]).env_clear().env("WEBHOOK_SECRET", harness::SECRET);
    command.env("DATABASE_URL", database(folder)).env("LOG_LEVEL", "ERROR");
    command.stdin(OwnedFd::from(socket.try_clone().unwrap())).stdout(Stdio::null());
    command.spawn().unwrap()
}

fn wait_until_it_serves(child: &mut Child, address: SocketAddr) {
    let mut number = 0;
    wait_until("it serves", || {
        assert!(child.try_wait().unwrap().is_none(), "the process has ended");
        number += 1;
        Client::new(address).deliver(&format!("m{number}")) == Ok(200)
    });
}

fn stop(mut child: Child) {
    signal(child.id(), "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn h3_without_descriptors_it_serves_again_once_they_are_free() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    // tiny_http's accept loop ends: with an error or silently, depending on the limit.
    for descriptors in [64, 65] {
        let folder = tempfile::tempdir().unwrap();
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let mut child = start_with_descriptors(&socket, descriptors, folder.path());
        wait_until_it_serves(&mut child, address);
        let held: Vec<_> = (0..100).filter_map(|_| TcpStream::connect(address).ok()).collect();
        std::thread::sleep(Duration::from_secs(1));
        drop(held);
        wait_until_it_serves(&mut child, address);
        stop(child);
    }
}

#[test]
fn h3_connections_that_wait_at_the_start_cannot_take_the_descriptors_that_a_start_needs() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let mut needed = None;
    for _ in 0..20 {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        rustix::net::listen(&socket, 1024).unwrap();
        let address = socket.local_addr().unwrap();
        let waiting = if needed.is_some() { 300 } else { 0 };
        let held: Vec<_> = (0..waiting).map(|_| TcpStream::connect(address).unwrap()).collect();
        let limit = needed.map_or(256, |needed| needed + 1);
        let mut child = start_with_descriptors(&socket, limit, folder.path());
        if let Some(needed) = needed {
            wait_until("its descriptors are in use", || {
                assert!(child.try_wait().unwrap().is_none(), "the process has ended");
                descriptors(child.id()) >= needed
            });
            std::thread::sleep(Duration::from_millis(200));
            assert!(child.try_wait().unwrap().is_none(), "the process has ended");
        } else {
            wait_until_it_serves(&mut child, address);
            needed = Some(descriptors(child.id()));
        }
        drop(held);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// How many descriptors a process has open.
fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

#[test]
fn h4_bursts_of_connections_are_served_to_the_last() {
    withstand(&[], |inbox| {
        for _ in 0..5 {
            let connections: Vec<_> = (0..64).map(|_| inbox.connect()).collect();
            let started = Instant::now();
            for mut stream in &connections {
                stream.write_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            }
            for mut stream in &connections {
                let mut answer = [0; 12];
                stream.read_exact(&mut answer).unwrap();
                assert_eq!(&answer, b"HTTP/1.1 200");
            }
            println!("64 connections answered after {:?}", started.elapsed());
        }
    });
}

#[test]
fn h5_incomplete_heads_delay_no_other_client_and_are_closed() {
    let inbox = withstand(&[("IDLE_MS", "3000")], |inbox| {
        let half: Vec<_> =
            (0..1000).map(|_| send(inbox, b"POST /webhook HTTP/1.1\r\nHo")).collect();
        // Each byte would be in time for a deadline of one read, but the deadline is the whole head's.
        for _ in 0..4 {
            std::thread::sleep(Duration::from_secs(1));
            half.iter().for_each(|mut stream| drop(stream.write_all(b"s")));
        }
        // The clients keep them open: the server does not count one that its client has closed.
        let closed = "mailslot_connections_closed_total{reason=\"idle\"}";
        wait_until("they are closed", || inbox.metric(closed) >= 1000);
    });
    wait_until("they are gone", || inbox.metric("mailslot_connections") < 50);
}

#[test]
fn h5_stalled_bodies_delay_no_other_client() {
    withstand(&[], |inbox| {
        let head = b"POST /webhook HTTP/1.1\r\nContent-Length: 5000\r\n\r\nslow";
        let stalled: Vec<_> = (0..64).map(|_| send(inbox, head)).collect();
        let mut large = message("large").to_string().into_bytes();
        large.resize(500_000, b' ');
        for _ in 0..20 {
            deliver_at_last(inbox, &large);
            std::thread::sleep(Duration::from_millis(50));
        }
        drop(stalled);
    });
}

/// Sends the largest body that is accepted, without its last byte.
fn send_all_but_a_byte(mut stream: TcpStream) -> TcpStream {
    let body = vec![b'x'; 1024 * 1024 - 1];
    // A connection for which there is no memory is refused meanwhile.
    let _ = stream.write_all(b"POST /webhook HTTP/1.1\r\nContent-Length: 1048576\r\n\r\n");
    let _ = stream.write_all(&body);
    stream
}

#[test]
fn h5_bodies_that_stop_before_their_end_lose_their_memory_to_others_before_their_deadline() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let inbox = Inbox::start();
    // Slightly more bodies than there is memory for.
    let stalled = at_once(36, |_| send_all_but_a_byte(inbox.connect()));
    let mut body = message("large").to_string().into_bytes();
    body.resize(4_000, b' ');
    let (mut stored, mut refused) = (0, 0);
    // For most of the bodies' deadline of 10 s.
    let end = Instant::now() + Duration::from_secs(8);
    while Instant::now() < end {
        match inbox.deliver_raw(&body).status {
            200 => stored += 1,
            status => {
                assert_eq!(status, 503);
                refused += 1;
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("{stored} answers of 200, {refused} of 503");
    assert!(stored > refused, "{stored} answers of 200, {refused} of 503");
    drop(stalled);
}

#[test]
fn h5_the_stalled_bodies_of_one_address_leave_memory_for_others() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(own) = own_address() else { return };
    let inbox = Inbox::start_with(tempfile::tempdir().unwrap(), |command| {
        command.env("LISTEN", "0.0.0.0:0");
    });
    let port = inbox.address.port();
    let body = message("large").to_string() + &" ".repeat(4_000);
    let deliver = || {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let (signature, length) = (sign(body.as_bytes()), body.len());
        let head = format!("X-Signature: {signature}\r\nContent-Length: {length}\r\n\r\n");
        write!(stream, "POST /webhook HTTP/1.0\r\n{head}{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let connect = || TcpStream::connect((own, port)).unwrap();
    let stalled = at_once(32, |_| send_all_but_a_byte(connect()));
    // Long enough for the server to have read all that was sent.
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        let answer = deliver();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    drop(stalled);
}

#[test]
fn h6_a_hundred_thousand_pipelined_requests_are_not_kept() {
    let inbox = withstand(&[], |inbox| {
        let flood = "GET /stats HTTP/1.1\r\n\r\n".repeat(100_000);
        let streams: Vec<_> = at_once(4, |_| send(inbox, flood.as_bytes()));
        std::thread::sleep(Duration::from_secs(1));
        drop(streams);
    });
    assert_eq!(inbox.metric("mailslot_restarts_total"), 0);
    let closed =
        |reason| inbox.metric(&format!("mailslot_connections_closed_total{{reason=\"{reason}\"}}"));
    assert_eq!(closed("pipelined") + closed("flood") + closed("head"), 4);
}

#[test]
fn h6_a_client_that_sends_and_never_reads_delays_no_other_client() {
    withstand(&[], |inbox| {
        let ready = "GET /health/ready HTTP/1.1\r\n\r\n";
        at_once(8, |_| {
            let mut stream = inbox.connect();
            stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
            // Slowly enough for eight requests to be answered before the next eight are sent.
            for _ in 0..400 {
                if stream.write_all(ready.repeat(8).as_bytes()).is_err() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
    });
}

#[test]
fn h7_resets_in_and_out_of_the_accept_queue_are_survived() {
    withstand(&[], |inbox| {
        for number in 0..1000 {
            let stream = inbox.connect();
            reset(&stream);
            if number % 2 == 0 {
                let _ = (&stream).write_all(post(&format!("reset-{number}")).as_bytes());
            }
        }
        // Many at once, so that the accept loop finds them closed already.
        for _ in 0..5 {
            let streams: Vec<_> =
                (0..200).map(|_| send(inbox, b"GET / HTTP/1.1\r\n\r\n")).collect();
            streams.iter().for_each(reset);
        }
    });
}

#[test]
fn h8_slow_readers_of_large_pages_delay_no_other_client() {
    withstand(&[], |inbox| {
        at_once(8, |sender| {
            for number in 0..13 {
                let fields = serde_json::json!({ "text": "😀".repeat(4096) });
                let message = message_with(&format!("{sender}-{number}"), &fields);
                deliver_at_last(inbox, message.to_string().as_bytes());
            }
        });
        let page = b"GET /messages?limit=100 HTTP/1.1\r\n\r\n";
        let mut slow: Vec<_> = (0..48).map(|_| send(inbox, page)).collect();
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(100));
            slow.iter_mut().for_each(|stream| drop(stream.read(&mut [0; 16])));
        }
    });
}

#[test]
fn h9_ambiguous_framing_is_refused_and_nothing_behind_it_is_processed() {
    let inbox = withstand(&[], |inbox| {
        for framing in [
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            "Transfer-Encoding: \tidentity, chunked",
            "Content-Length: 0\r\nContent-Length: 5",
            "Content-Length: +5",
            "Content-Length: 0x5",
        ] {
            let bytes = format!(
                "POST /webhook HTTP/1.1\r\n{framing}\r\n\r\n0\r\n\r\n{0}{0}",
                post("smuggled")
            );
            let answer = inbox.raw(bytes.as_bytes());
            assert!(answer.starts_with("HTTP/1.1 400 "), "{framing}: {answer}");
            assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{framing}: {answer}");
        }
    });
    assert_eq!(inbox.count("SELECT count(*) FROM messages WHERE message_id = 'smuggled'"), 0);
}

/// A connection from this port, which another connection may have used just before.
fn connect_from(port: u16, to: SocketAddr) -> Option<TcpStream> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};
    let stream = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    sockopt::set_socket_reuseaddr(&stream, true).unwrap();
    bind(&stream, &SocketAddr::from(([127, 0, 0, 1], port))).ok()?;
    connect(&stream, &to).ok()?;
    let stream = TcpStream::from(stream);
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    Some(stream)
}

#[test]
fn h9_a_reused_port_frees_nothing_that_waits_behind_a_refusal_and_hangs_no_client() {
    let inbox = withstand(&[], |inbox| {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let head = "POST /webhook HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n";
        let attack = format!("{head}{}", post("smuggled").repeat(12));
        let (mut attacks, mut answers) = (0, 0);
        for _ in 0..150 {
            let Some(mut evil) = connect_from(free, inbox.address) else { continue };
            let _ = evil.write_all(attack.as_bytes());
            reset(&evil);
            drop(evil);
            attacks += 1;
            let Some(mut next) = connect_from(free, inbox.address) else { continue };
            let _ = next.write_all(b"GET /health/live HTTP/1.1\r\n\r\n");
            // The client gets an answer or an end of the connection, and can then try again.
            let read = next.read(&mut [0; 256]);
            let is_hung = read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
            assert!(!is_hung, "attack {attacks}");
            answers += 1;
            reset(&next);
        }
        assert!(attacks > 50 && answers > 50, "{attacks} attacks, {answers} others");
    });
    assert_eq!(inbox.count("SELECT count(*) FROM messages WHERE message_id = 'smuggled'"), 0);
}

#[test]
fn h9_a_head_without_end_closes_its_connection() {
    let inbox = withstand(&[], |inbox| {
        at_once(4, |number| {
            let mut stream = inbox.connect();
            stream.write_all(b"GET / HTTP/1.1\r\nA: ").unwrap();
            let piece =
                if number % 2 == 0 { "a".repeat(100_000) } else { "a:b\r\n".repeat(20_000) };
            let started = Instant::now();
            while stream.write_all(piece.as_bytes()).is_ok() {
                assert!(
                    started.elapsed() < Duration::from_secs(20),
                    "the connection is never closed"
                );
            }
        });
    });
    assert_eq!(inbox.metric("mailslot_connections_closed_total{reason=\"head\"}"), 4);
}

#[test]
fn h9_a_head_without_end_closes_its_connection_behind_a_request_that_waits_too() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let inbox = Inbox::start();
    at_once(2, |_| {
        let mut stream = inbox.connect();
        stream.write_all(b"GET /feed?wait=30 HTTP/1.1\r\n\r\n").unwrap();
        wait_until("both wait", || inbox.metric("mailslot_feed_waiters") == 2);
        stream.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        let started = Instant::now();
        // Too slowly for pressure on memory or on the queue.
        while stream.write_all("a:b\r\n".repeat(2_000).as_bytes()).is_ok() {
            assert!(started.elapsed() < Duration::from_secs(25), "the connection is never closed");
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    assert_eq!(inbox.metric("mailslot_connections_closed_total{reason=\"head\"}"), 2);
}

#[test]
fn h9_a_truncated_body_is_never_processed() {
    let inbox = withstand(&[], |inbox| {
        let body = message("short").to_string();
        for length in [400, 5000, 500_000] {
            let signature = sign(body.as_bytes());
            let head = format!(
                "POST /webhook HTTP/1.1\r\nX-Signature: {signature}\r\nContent-Length: {length}\r\n\r\n"
            );
            let mut stream = send(inbox, (head + &body).as_bytes());
            stream.shutdown(Shutdown::Write).unwrap();
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer);
            // tiny_http closes the connection itself if the body is one that it would have buffered.
            let expected = if length > 1024 { "HTTP/1.1 400 " } else { "" };
            assert!(answer.starts_with(expected) && !answer.contains(" 200 "), "{answer}");
        }
    });
    assert_eq!(inbox.count("SELECT count(*) FROM messages WHERE message_id = 'short'"), 0);
}

#[test]
fn malformed_requests_cost_no_other_connection() {
    let inbox = withstand_beside(ELSEWHERE, &[], |inbox| {
        let ask = |mut stream: &TcpStream| {
            let _ = stream.write_all(b"GET /health/live HTTP/1.1\r\n\r\n");
            stream.read(&mut [0; 512]).is_ok_and(|length| length > 0)
        };
        let connect = |_| {
            let stream = inbox.connect();
            assert!(ask(&stream));
            stream
        };
        let idle: Vec<_> = (0..700).map(connect).collect();
        let end = Instant::now() + Duration::from_secs(4);
        let refused = at_once(14, |_| {
            let mut refused = 0;
            while Instant::now() < end {
                let mut stream = inbox.connect();
                let head = b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
                let _ = stream.write_all(head);
                refused += u32::from(stream.read(&mut [0; 512]).is_ok());
                // Slowly enough for a busy machine to keep up.
                std::thread::sleep(Duration::from_millis(20));
            }
            refused
        });
        println!("{} refused in 4 s", refused.iter().sum::<u32>());
        let alive = idle.iter().filter(|stream| ask(stream)).count();
        assert_eq!(alive, idle.len(), "{}", metrics_of(inbox.address.port()));
    });
    assert_eq!(inbox.metric("mailslot_connections_closed_total{reason=\"cap\"}"), 0);
}

#[test]
fn a_connection_with_a_part_of_a_request_is_not_closed_while_there_are_silent_ones() {
    withstand(&[("MAX_CONNECTIONS", "100")], |inbox| {
        let request = post("begun");
        let mut stream = send(inbox, &request.as_bytes()[..20]);
        let silent: Vec<_> = (0..300).map(|_| inbox.connect()).collect();
        let closed = "mailslot_connections_closed_total{reason=\"cap\"}";
        wait_until("the silent ones are closed", || inbox.metric(closed) >= 200);
        stream.write_all(&request.as_bytes()[20..]).unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        drop(silent);
    });
}

#[test]
fn too_many_connections_cost_the_longest_idle_ones_only() {
    withstand(&[("MAX_CONNECTIONS", "100"), ("MAX_CONNECTIONS_PER_ADDRESS", "8")], |inbox| {
        let silent: Vec<_> = (0..500).map(|_| inbox.connect()).collect();
        // Before all of them are accepted, there are few at any moment.
        let closed = "mailslot_connections_closed_total{reason=\"cap\"}";
        wait_until("the excess is closed", || inbox.metric(closed) >= 390);
        wait_until("the cap is kept", || inbox.metric("mailslot_connections") <= 110);
        drop(silent);
    });
}

/// An address of this machine other than loopback. No packet is sent to find it.
fn own_address() -> Option<IpAddr> {
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let own = probe.connect("192.0.2.1:9").and_then(|()| probe.local_addr()).map(|own| own.ip());
    own.ok().filter(|own| !own.is_loopback())
}

#[test]
fn one_address_cannot_take_all_connections() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(own) = own_address() else { return };
    let inbox = Inbox::start_with(tempfile::tempdir().unwrap(), |command| {
        // A busy machine may need more than the usual 30 s to ask on each of these connections.
        command.env("LISTEN", "0.0.0.0:0").env("IDLE_MS", "600000");
        command.env("MAX_CONNECTIONS_PER_ADDRESS", "8");
    });
    let port = inbox.address.port();
    let connect = |ip: IpAddr| -> Vec<_> {
        (0..50).map(|_| TcpStream::connect((ip, port)).unwrap()).collect()
    };
    let (greedy, proxy) = (connect(own), connect(Ipv4Addr::LOCALHOST.into()));
    let closed = "mailslot_connections_closed_total{reason=\"address\"} 42";
    wait_until("the excess is closed", || metrics_of(port).contains(closed));
    let alive = |streams: &[TcpStream]| {
        let ask = |mut stream: &TcpStream| {
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let _ = stream.write_all(b"GET /health/live HTTP/1.1\r\n\r\n");
            stream.read(&mut [0; 12]).is_ok_and(|length| length > 0)
        };
        streams.iter().filter(|stream| ask(stream)).count()
    };
    assert_eq!((alive(&greedy), alive(&proxy)), (8, 50));
}

fn metrics_of(port: u16) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_flood_of_refusals_does_not_fill_the_log() {
    let inbox = withstand(&[], |inbox| {
        at_once(4, |_| {
            let mut client = Client::new(inbox.address);
            for _ in 0..1500 {
                assert_eq!(client.get("/nope"), Ok(404));
            }
        });
    });
    assert!(inbox.metric("mailslot_log_lines_suppressed_total") > 3000);
}

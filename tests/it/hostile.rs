//! One test for each hazard of docs/TINY_HTTP.md: the attack, from outside, through raw sockets, and
//! a well-behaved client beside it that must not notice. A test binary of its own, whose tests run
//! one after the other: what they ask is how fast a client is answered.

#![allow(clippy::unwrap_used, unreachable_pub, missing_debug_implementations, dead_code)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)]
// The numbers of a run: `cargo test --test hostile -- --show-output`.
#![allow(clippy::print_stdout, clippy::needless_for_each)]

mod client;
mod harness;

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use client::{Client, Companion};
use harness::{Inbox, at_once, database, message, message_with, sign, signal};

/// What the process may have in memory at any time.
const MEMORY_KB_MAX: u64 = 100_000;
/// What the well-behaved client may have to wait: nearly always, and where the machine stumbles.
const WAIT_MAX: Duration = Duration::from_secs(1);
const STUMBLE_MAX: Duration = Duration::from_secs(8);

/// Another host than the attacker's, where hundreds of its connections leak: each of those keeps its
/// address and port from being used again for some two seconds (docs/TINY_HTTP.md).
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Whether everything is as it should be after an attack, and during it.
fn withstand(settings: &[(&str, &str)], attack: impl FnOnce(&Inbox)) -> Inbox {
    withstand_beside(Ipv4Addr::LOCALHOST, settings, attack)
}

/// With the well-behaved client at this address.
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
    let late = seen.waits.iter().filter(|wait| **wait > WAIT_MAX).count();
    let slowest = seen.waits.iter().max().unwrap();
    let stumbles = 2 + seen.waits.len() / 100;
    assert!(late <= stumbles && *slowest < STUMBLE_MAX, "{late} late, {slowest:?}");
    let memory = peak_memory_kb(inbox.pid());
    assert!(memory < MEMORY_KB_MAX, "{memory} kB");
    let delivered = "SELECT count(*) FROM messages WHERE message_id LIKE 'companion-%'";
    assert_eq!(inbox.count(delivered), seen.waits.len() as i64);
    println!("{} answers, the slowest after {slowest:?}; {memory} kB", seen.waits.len());
    inbox
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

/// As a crashed client does.
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
                // And from behind a request that is in hand.
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
    assert_eq!(inbox.metric("restarts_total"), 0);
}

#[test]
fn h2_leaks_are_counted_and_end_in_a_restart_that_nobody_notices() {
    let inbox = withstand_beside(ELSEWHERE, &[("IDLE_MS", "1000")], |inbox| {
        let pid = inbox.pid();
        for _ in 0..600 {
            drop(send(inbox, b"GET / HTTP/2.0\r\n\r\n"));
        }
        inbox.wait_for_log(|line| line["msg"] == "listening");
        assert_eq!(inbox.pid(), pid);
    });
    assert_eq!((inbox.metric("restarts_total"), inbox.metric("connections_leaked")), (1, 0));
    inbox.stop();
}

#[test]
fn h3_without_descriptors_it_serves_again_once_they_are_free() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    // tiny_http's accept loop dies of it, half of the times without a word.
    for descriptors in [64, 65] {
        let folder = tempfile::tempdir().unwrap();
        let binary = env!("CARGO_BIN_EXE_mailslot");
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {descriptors}; exec {binary}")]);
        command.env("WEBHOOK_SECRET", harness::SECRET).env("LISTEN", free.to_string());
        command.env("DATABASE_URL", database(folder.path())).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        let end = Instant::now() + Duration::from_secs(30);
        while Client::new(free).get("/health/live") != Ok(200) {
            assert!(Instant::now() < end);
            std::thread::sleep(Duration::from_millis(20));
        }
        let held: Vec<_> = (0..100).filter_map(|_| TcpStream::connect(free).ok()).collect();
        std::thread::sleep(Duration::from_secs(1));
        drop(held);
        let mut number = 0;
        while Client::new(free).deliver(&format!("m{number}")) != Ok(200) {
            assert!(Instant::now() < end, "it serves nobody any more");
            assert!(child.try_wait().unwrap().is_none(), "it has given up");
            number += 1;
            std::thread::sleep(Duration::from_millis(20));
        }
        signal(child.id(), "-TERM");
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
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
            assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        }
    });
}

#[test]
fn h5_half_heads_hold_up_nobody_and_are_cut() {
    let inbox = withstand(&[("IDLE_MS", "3000")], |inbox| {
        let half: Vec<_> =
            (0..1000).map(|_| send(inbox, b"POST /webhook HTTP/1.1\r\nHo")).collect();
        // Every byte comes in time for a deadline of one read; the deadline is one of the whole head.
        for _ in 0..4 {
            std::thread::sleep(Duration::from_secs(1));
            half.iter().for_each(|mut stream| drop(stream.write_all(b"s")));
        }
    });
    assert!(inbox.metric("connections_cut_total{reason=\"idle\"}") >= 900);
    assert!(inbox.metric("connections") < 50);
}

#[test]
fn h5_stalled_bodies_hold_up_nobody() {
    withstand(&[], |inbox| {
        let head = b"POST /webhook HTTP/1.1\r\nContent-Length: 5000\r\n\r\nslow";
        let stalled: Vec<_> = (0..64).map(|_| send(inbox, head)).collect();
        let mut large = message("large").to_string().into_bytes();
        large.resize(500_000, b' ');
        for _ in 0..20 {
            assert_eq!(inbox.deliver_raw(&large).status, 200);
            std::thread::sleep(Duration::from_millis(50));
        }
        drop(stalled);
    });
}

#[test]
fn h6_a_hundred_thousand_pipelined_requests_are_not_kept() {
    let inbox = withstand(&[], |inbox| {
        let flood = "GET /stats HTTP/1.1\r\n\r\n".repeat(100_000);
        let streams: Vec<_> = at_once(4, |_| send(inbox, flood.as_bytes()));
        std::thread::sleep(Duration::from_secs(1));
        drop(streams);
    });
    assert_eq!(inbox.metric("restarts_total"), 0);
    let cut = |reason| inbox.metric(&format!("connections_cut_total{{reason=\"{reason}\"}}"));
    assert_eq!(cut("pipelined") + cut("flood") + cut("head"), 4);
}

#[test]
fn h6_who_sends_and_never_reads_holds_up_nobody() {
    withstand(&[], |inbox| {
        let ready = "GET /health/ready HTTP/1.1\r\n\r\n";
        at_once(8, |_| {
            let mut stream = inbox.connect();
            stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
            // One at a time, as far as can be told without reading the answers.
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
        // Many at once, so that the accept loop finds them dead.
        for _ in 0..5 {
            let streams: Vec<_> =
                (0..200).map(|_| send(inbox, b"GET / HTTP/1.1\r\n\r\n")).collect();
            streams.iter().for_each(reset);
        }
    });
}

#[test]
fn h8_slow_readers_of_large_pages_hold_up_nobody() {
    withstand(&[], |inbox| {
        at_once(8, |sender| {
            for number in 0..13 {
                let fields = serde_json::json!({ "text": "😀".repeat(4096) });
                let message = message_with(&format!("{sender}-{number}"), &fields);
                assert_eq!(inbox.deliver(&message).status, 200);
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
fn h9_two_readings_of_one_request_are_refused_and_nothing_behind_it_is_processed() {
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

/// A connection from a port of the caller's choice, which may just have been another's.
fn connect_from(port: u16, to: std::net::SocketAddr) -> Option<TcpStream> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};
    let stream = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    sockopt::set_socket_reuseaddr(&stream, true).unwrap();
    bind(&stream, &std::net::SocketAddr::from(([127, 0, 0, 1], port))).ok()?;
    connect(&stream, &to).ok()?;
    let stream = TcpStream::from(stream);
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    Some(stream)
}

#[test]
fn h9_a_reused_port_frees_nothing_that_waits_behind_a_refusal_and_hangs_nobody() {
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
            // An answer or an end, but soon: the client can try again from elsewhere.
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
fn h9_heads_without_end_are_cut() {
    let inbox = withstand(&[], |inbox| {
        at_once(4, |number| {
            let mut stream = inbox.connect();
            stream.write_all(b"GET / HTTP/1.1\r\nA: ").unwrap();
            let piece =
                if number % 2 == 0 { "a".repeat(100_000) } else { "a:b\r\n".repeat(20_000) };
            let started = Instant::now();
            while stream.write_all(piece.as_bytes()).is_ok() {
                assert!(started.elapsed() < Duration::from_secs(20), "never cut");
            }
        });
    });
    assert_eq!(inbox.metric("connections_cut_total{reason=\"head\"}"), 4);
}

#[test]
fn h9_a_body_cut_short_is_never_processed() {
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
            // tiny_http closes by itself what it has not got whole and would have buffered.
            let expected = if length > 1024 { "HTTP/1.1 400 " } else { "" };
            assert!(answer.starts_with(expected) && !answer.contains(" 200 "), "{answer}");
        }
    });
    assert_eq!(inbox.count("SELECT count(*) FROM messages WHERE message_id = 'short'"), 0);
}

#[test]
fn too_many_connections_cost_the_longest_idle_ones_only() {
    let inbox =
        withstand(&[("MAX_CONNECTIONS", "100"), ("MAX_CONNECTIONS_PER_ADDRESS", "8")], |inbox| {
            let silent: Vec<_> = (0..500).map(|_| inbox.connect()).collect();
            std::thread::sleep(Duration::from_secs(1));
            assert!(inbox.metric("connections") <= 110, "{}", inbox.metric("connections"));
            drop(silent);
        });
    assert!(inbox.metric("connections_cut_total{reason=\"cap\"}") >= 390);
}

#[test]
fn one_address_cannot_take_all_connections() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    // An address of this machine that is not a loopback one; no packet is sent to find it.
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let own = probe.connect("192.0.2.1:9").and_then(|()| probe.local_addr()).map(|own| own.ip());
    let Some(own) = own.ok().filter(|own| !own.is_loopback()) else { return };
    let inbox = Inbox::start_with(tempfile::tempdir().unwrap(), |command| {
        command.env("LISTEN", "0.0.0.0:0").env("MAX_CONNECTIONS_PER_ADDRESS", "8");
    });
    let port = inbox.address.port();
    let connect = |ip: std::net::IpAddr| -> Vec<_> {
        (0..50).map(|_| TcpStream::connect((ip, port)).unwrap()).collect()
    };
    let (greedy, proxy) = (connect(own), connect(std::net::Ipv4Addr::LOCALHOST.into()));
    std::thread::sleep(Duration::from_secs(1));
    let alive = |streams: &[TcpStream]| {
        let ask = |mut stream: &TcpStream| {
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let _ = stream.write_all(b"GET /health/live HTTP/1.1\r\n\r\n");
            stream.read(&mut [0; 12]).is_ok_and(|length| length > 0)
        };
        streams.iter().filter(|stream| ask(stream)).count()
    };
    assert_eq!((alive(&greedy), alive(&proxy)), (8, 50));
    let metrics = metrics_of(port);
    assert!(metrics.contains("connections_cut_total{reason=\"address\"} 42"), "{metrics}");
}

fn metrics_of(port: u16) -> String {
    let mut stream = TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, port)).unwrap();
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
    assert!(inbox.metric("log_lines_suppressed_total") > 3000);
}

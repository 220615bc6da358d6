//! Requests that only a raw socket can send.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::harness::{Inbox, at_once, message, sign};

fn post(id: &str) -> String {
    let body = message(id).to_string();
    format!(
        "POST /webhook HTTP/1.1\r\nHost: x\r\nX-Signature: {}\r\nContent-Length: {}\r\n\r\n{body}",
        sign(body.as_bytes()),
        body.len()
    )
}

#[test]
fn ambiguous_framing_is_400_and_nothing_more_is_processed() {
    let inbox = Inbox::start();
    for header in [
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Content-Length: 0\r\nContent-Length: 5",
        "Content-Length: +5",
        "Content-Length: 0x5",
        "Content-Length: 5, 5",
        "Content-Length: -1",
        "Content-Length: ",
        "Connection: upgrade\r\nContent-Length: 0",
    ] {
        let answer = inbox.raw(
            format!(
                "GET /stats HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n0\r\n\r\n{}",
                post("smuggled")
            )
            .as_bytes(),
        );
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{header}: {answer}");
        assert!(
            answer.contains("Connection: close\r\n") && answer.contains(r#"{"detail":"#),
            "{header}: {answer}"
        );
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{header}: {answer}");
    }
    assert_eq!(inbox.rows(), 0);
}

/// Sends a request with a valid delivery behind it, of which nothing may be processed.
fn is_refused_with_all_that_follows(inbox: &Inbox, request: &str) {
    let answer = inbox.raw(format!("{request}{}", post("smuggled")).as_bytes());
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{request:?}: {answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{request:?}: {answer}");
}

#[test]
fn a_head_that_rfc_9112_does_not_allow_is_400_and_nothing_more_is_processed() {
    let inbox = Inbox::start();
    for header in [
        ": no name",
        "Bad\0Name: x",
        "Bad\x1fName: x",
        "Bad\x7fName: x",
        "Bad,Name: x",
        "Bad(Name): x",
        "\"Name\": x",
        "Content-Length\0: 5",
        "A: b\nContent-Length: 5",
        "A: b\rContent-Length: 5",
        "A: b\0c",
        "A: \x01",
        "A: b\x7fc",
        "A: b\x0bc",
        "Host: y",
        "host: x",
    ] {
        let request = format!("GET /stats HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n");
        is_refused_with_all_that_follows(&inbox, &request);
    }
    for line in [
        "GET  HTTP/1.1",
        "GET /stats\n HTTP/1.1",
        "GET /st\0ats HTTP/1.1",
        "GET /stats?q=\x7f HTTP/1.1",
        "GET /stats\tx HTTP/1.1",
        "G\0T /stats HTTP/1.1",
        "G(T /stats HTTP/1.1",
        "GET /stats HTTP/1.1x",
        "GET /stats HTTP/1.1\tx",
    ] {
        is_refused_with_all_that_follows(&inbox, &format!("{line}\r\nHost: x\r\n\r\n"));
    }
    assert_eq!(inbox.rows(), 0);
    let allowed = "GET /stats HTTP/1.1\r\nHost: x\r\n!#$%&'*+-.^_`|~9: a\tb \"(,;\\\r\nEmpty:\r\n";
    let answer = inbox.raw(format!("{allowed}Connection: close\r\n\r\n").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[test]
fn absurd_lengths_are_413_on_every_path_and_the_process_lives() {
    let mut inbox = Inbox::start();
    for length in [
        "1048577",
        "300000000",
        "4611686018427387904",
        "9223372036854775807",
        "18446744073709551615",
        "99999999999999999999999",
    ] {
        for line in ["POST /webhook", "GET /stats", "DELETE /nope", "HEAD /metrics"] {
            let answer = inbox.raw(
                format!("{line} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n")
                    .as_bytes(),
            );
            assert!(answer.starts_with("HTTP/1.1 413 "), "{line} {length}: {answer}");
        }
    }
    assert!(inbox.is_running());
    assert_eq!(inbox.deliver(&message("m1")).status, 200);
}

#[test]
fn a_truncated_body_is_never_processed() {
    let inbox = Inbox::start();
    for length in [400, 5000] {
        let body = message("short").to_string();
        let head = format!(
            "POST /webhook HTTP/1.1\r\nHost: x\r\nX-Signature: {}\r\nContent-Length: {length}\r\n\r\n{body}",
            sign(body.as_bytes())
        );
        let mut stream = inbox.connect();
        stream.write_all(head.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        // tiny_http closes the connection itself if the body is one that it would have buffered.
        let expected = if length > 1024 { "HTTP/1.1 400 " } else { "" };
        assert!(answer.starts_with(expected) && !answer.contains("200 OK"), "{answer}");
    }
    assert_eq!(inbox.rows(), 0);
}

#[test]
fn pipelined_requests_are_answered_in_order_and_deadlock_no_worker() {
    let inbox = Inbox::start();
    let connections = at_once(12, |connection| {
        let mut bytes = String::new();
        for number in 0..8 {
            bytes.push_str(&post(&format!("{connection}-{number}")));
            bytes.push_str("GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n");
        }
        bytes.truncate(bytes.len() - 2);
        bytes.push_str("Connection: close\r\n\r\n");
        inbox.raw(bytes.as_bytes())
    });
    for answer in connections {
        let statuses = answer.matches("HTTP/1.1 200 OK").count();
        assert_eq!(statuses, 16, "{answer}");
    }
    assert_eq!(inbox.rows(), 96);
}

/// Connections that declare a body and send a little of it.
fn stalled_bodies(inbox: &Inbox, count: usize) -> Vec<TcpStream> {
    let stall = |_| {
        let mut stream = inbox.connect();
        let head = "POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\nslow";
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    (0..count).map(stall).collect()
}

#[test]
fn slow_bodies_delay_no_other_client_and_are_given_up_in_time() {
    let inbox = Inbox::start();
    let stalled = stalled_bodies(&inbox, 64);
    let mut large = message("large").to_string().into_bytes();
    large.resize(500_000, b' ');
    let started = Instant::now();
    for number in 0..5 {
        assert_eq!(inbox.deliver(&message(&format!("m{number}"))).status, 200);
        assert_eq!(inbox.deliver_raw(&large).status, 200, "large bodies need no free thread");
    }
    // A request that waited for a stalled body would wait for BODY_MS_MAX.
    assert!(started.elapsed() < Duration::from_secs(9), "{:?}", started.elapsed());
    // Each byte would be in time for a deadline of one read, but the deadline is the whole body's.
    let mut answers = at_once(64, |number| {
        let mut stream = &stalled[number];
        for _ in 0..9 {
            std::thread::sleep(Duration::from_secs(1));
            let _ = stream.write_all(b"ly");
        }
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    });
    answers.retain(|answer| !answer.starts_with("HTTP/1.1 400 "));
    assert_eq!(answers, [""; 0]);
    assert_eq!(inbox.metric("mailslot_connections_closed_total{reason=\"body\"}"), 64);
}

#[test]
fn what_follows_a_refused_request_is_never_processed() {
    let inbox = Inbox::start();
    // tiny_http reads up to 1 KiB at once, so its buffer has the second request with the first.
    for _ in 0..20 {
        let first =
            "POST /webhook HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        inbox.raw(format!("{first}{0}{0}", post("smuggled")).as_bytes());
    }
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(inbox.rows(), 0);
}

#[test]
fn a_body_announced_with_expect_is_read_and_http_1_0_is_answered() {
    let inbox = Inbox::start();
    let body = message("m1").to_string();
    let mut stream = inbox.connect();
    let head = format!(
        "POST /webhook HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nX-Signature: {}\r\nContent-Length: {}\r\n\r\n",
        sign(body.as_bytes()),
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut buffer = [0; 4096];
    let length = stream.read(&mut buffer).unwrap();
    assert!(buffer[..length].starts_with(b"HTTP/1.1 100 "));
    stream.write_all(body.as_bytes()).unwrap();
    let length = stream.read(&mut buffer).unwrap();
    assert!(buffer[..length].starts_with(b"HTTP/1.1 200 OK"));
    let old = inbox.raw(b"GET /health/live HTTP/1.0\r\n\r\n");
    assert!(old.starts_with("HTTP/1.1 200 OK") && old.contains("Connection: close"), "{old}");
    let close = inbox.raw(b"GET /health/live HTTP/1.1\r\nConnection: Close\r\n\r\n");
    assert!(close.starts_with("HTTP/1.1 200 OK") && close.contains("Connection: close"), "{close}");
}

#[test]
fn a_client_that_pipelines_without_end_is_disconnected_and_no_other() {
    let inbox = Inbox::start();
    let mut stream = inbox.connect();
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    let flood = "GET /stats HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000);
    let end = Instant::now() + Duration::from_secs(20);
    let error = loop {
        match stream.write_all(flood.as_bytes()) {
            Ok(()) => assert!(Instant::now() < end, "it reads and answers without end"),
            Err(error) => break error,
        }
    };
    assert_ne!(error.kind(), ErrorKind::WouldBlock, "it neither reads nor disconnects");
    assert_eq!(inbox.get("/health/live").status, 200);
}

#[test]
fn a_burst_of_connections_is_served_to_the_last() {
    let inbox = Inbox::start();
    for _ in 0..3 {
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
        assert!(started.elapsed() < Duration::from_secs(9), "{:?}", started.elapsed());
    }
}

#[test]
fn slow_readers_of_large_pages_hold_no_worker() {
    let inbox = Inbox::start();
    at_once(8, |sender| {
        for number in 0..13 {
            let fields = serde_json::json!({ "text": "😀".repeat(4096) });
            let message = crate::harness::message_with(&format!("{sender}-{number}"), &fields);
            assert_eq!(inbox.deliver(&message).status, 200);
        }
    });
    // Pages of 100 messages of 16 KiB each, which their clients do not read.
    let slow: Vec<_> = (0..16)
        .map(|_| {
            let mut stream = inbox.connect();
            stream.write_all(b"GET /messages?limit=100 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            stream
        })
        .collect();
    // Now the pages are ready, and sending them takes until their deadline.
    std::thread::sleep(Duration::from_secs(1));
    for number in 0..50 {
        let started = Instant::now();
        assert_eq!(inbox.deliver(&message(&format!("m{number}"))).status, 200);
        assert!(started.elapsed() < Duration::from_secs(9), "{:?}", started.elapsed());
        std::thread::sleep(Duration::from_millis(10));
    }
    // Another page may be shed, or get no memory, until some of the slow clients are disconnected.
    let end = Instant::now() + Duration::from_secs(20);
    let page = loop {
        let page = inbox.get("/messages?limit=100");
        if page.status == 200 {
            break page;
        }
        assert_eq!((page.status, page.header("Retry-After")), (503, Some("1")));
        assert!(Instant::now() < end, "{}", page.text);
        std::thread::sleep(Duration::from_millis(200));
    };
    assert!(page.text.len() > 1024 * 1024, "a client that reads is served");
    drop(slow);
}

#[test]
fn an_absurd_length_behind_pipelined_requests_aborts_nothing() {
    let mut inbox = Inbox::start();
    let mut bytes = "GET /health/ready HTTP/1.1\r\nHost: x\r\n\r\n".repeat(22);
    bytes.push_str("GET /stats HTTP/1.1\r\nHost: x\r\nContent-Length: 4611686018427387904\r\n\r\n");
    for _ in 0..5 {
        inbox.raw(bytes.as_bytes());
    }
    assert!(inbox.is_running());
    assert_eq!(inbox.deliver(&message("m1")).status, 200);
}

#[test]
fn refused_connections_leave_every_body_reader_free() {
    let inbox = Inbox::start();
    let again = "GET /stats HTTP/1.1\r\nHost: x\r\n\r\n".repeat(3);
    let bytes =
        format!("GET /stats HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\n0\r\n\r\n{again}");
    for answer in at_once(20, |_| inbox.raw(bytes.as_bytes())) {
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    let mut body = message("large").to_string().into_bytes();
    body.resize(5000, b' ');
    let started = Instant::now();
    assert_eq!(inbox.deliver_raw(&body).status, 200);
    inbox.stop();
    assert!(started.elapsed() < Duration::from_secs(9), "{:?}", started.elapsed());
}

#[test]
fn a_refusal_is_sent_even_while_there_are_as_many_slow_clients_as_allowed() {
    let inbox = Inbox::start();
    let slow = stalled_bodies(&inbox, 520);
    let mut refused = 0;
    let end = Instant::now() + Duration::from_secs(20);
    while refused == 0 && Instant::now() < end {
        refused = inbox.metric("webhook_requests_total{result=\"unavailable\"}");
    }
    assert!(refused > 0, "one more than 512 gets a 503");
    let head = "POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n";
    assert!(inbox.raw(head.as_bytes()).starts_with("HTTP/1.1 413 "));
    drop(slow);
}

#[test]
fn a_target_in_absolute_form_is_its_path_and_connection_close_closes() {
    let inbox = Inbox::start();
    let (live, page, unknown) = (r#"{"status":"ok"}"#, "text/html", "Not Found");
    for (target, expected) in [
        ("http://x/health/live", live),
        ("HTTP://x:80/health/live?q=1", live),
        ("/health/live?", live),
        ("/health/live#top", live),
        ("http://x/health/live#top?q=1", live),
        ("http://x?/health/live", page),
        ("http://x#/health/live", page),
        ("http://x?http://x/health/live", page),
        ("/nope?http://x/health/live", unknown),
    ] {
        let answer =
            inbox.raw(format!("GET {target} HTTP/1.1\r\nConnection: close\r\n\r\n").as_bytes());
        assert!(answer.contains(expected), "{target}: {answer}");
    }
    // tiny_http uses the first such header only, and would keep the connection open.
    let started = Instant::now();
    let head = "GET /health/live HTTP/1.1\r\nConnection: foo\r\nConnection: close\r\n\r\n";
    assert!(inbox.raw(head.as_bytes()).contains("Connection: close"));
    assert!(started.elapsed() < Duration::from_secs(9));
}

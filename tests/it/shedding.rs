//! More reads than the service can answer: which requests it refuses, and with which response.

use std::{
    fmt::Write as _,
    io::Write as _,
    process::Stdio,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::harness::{Inbox, Reply, command, message, message_with};

/// Messages that each search has to read.
const MESSAGES: usize = 6_000;
/// Searches at once; the one worker has all of them wait for each other.
const READERS: usize = 24;
/// For what must come about, however busy the machine is.
const PATIENCE: Duration = Duration::from_mins(2);

fn filled() -> Inbox {
    let folder = tempfile::tempdir().unwrap();
    let mut lines = String::new();
    for number in 0..MESSAGES {
        let text = json!({ "text": format!("{number} ").repeat(60) });
        writeln!(lines, "{}", message_with(&format!("m{number}"), &text)).unwrap();
    }
    let mut import = command(folder.path())
        .args(["import", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    import.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(import.wait().unwrap().success());
    Inbox::start_with(folder, |command| {
        command.env("WORKERS", "1").env("LOG_LEVEL", "ERROR").env("MAX_CONNECTIONS", "512");
    })
}

/// True for an answer of 200; a refusal must say when to come back.
fn is_served(reply: &Reply) -> bool {
    if reply.status == 503 {
        let after: u64 = reply.header("Retry-After").unwrap().parse().unwrap();
        assert!((1..=60).contains(&after), "{reply:?}");
        assert!(reply.json["detail"].is_string(), "{reply:?}");
        return false;
    }
    assert_eq!(reply.status, 200, "{}", reply.text);
    true
}

#[test]
fn reads_beyond_what_can_be_answered_are_refused_while_deliveries_and_health_are_answered() {
    let inbox = filled();
    let (served, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (requests, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let read = || {
        while !is_over.load(SeqCst) {
            // No search is the same as another, or its result would be known already.
            let nanoseconds = requests.fetch_add(1, SeqCst);
            let path = format!("/messages?q=99+1&since=2025-01-01T00:00:00.{nanoseconds:09}Z");
            if is_served(&inbox.request("GET", &path)) {
                served.fetch_add(1, SeqCst);
            } else {
                refused.fetch_add(1, SeqCst);
                thread::sleep(Duration::from_millis(200));
            }
        }
    };
    let (stored, unavailable) = (AtomicUsize::new(0), AtomicUsize::new(0));
    // Deliveries are counted from the moment on at which the service sheds.
    let deliver = || {
        while !is_over.load(SeqCst) {
            if refused.load(SeqCst) == 0 {
                thread::sleep(Duration::from_millis(20));
                continue;
            }
            let number = stored.load(SeqCst) + unavailable.load(SeqCst);
            let reply = inbox.deliver(&message(&format!("delivered-{number}")));
            let count = if is_served(&reply) { &stored } else { &unavailable };
            count.fetch_add(1, SeqCst);
        }
    };
    let end = Instant::now() + PATIENCE;
    thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(read);
        }
        scope.spawn(deliver);
        // The others end with this thread, also where it fails.
        let _over = Over(&is_over);
        while refused.load(SeqCst) < 60 || stored.load(SeqCst) < 10 {
            assert!(
                Instant::now() < end,
                "{served:?} and {refused:?} reads, {stored:?} deliveries"
            );
            for path in ["/health/live", "/health/ready", "/metrics"] {
                assert_eq!(inbox.request("GET", path).status, 200, "{path}");
            }
        }
    });
    let (stored, unavailable) = (stored.into_inner(), unavailable.into_inner());
    let (served, refused) = (served.into_inner(), refused.into_inner());
    assert!(served > 0);
    // Deliveries are shed last: only where refusing every read has not been enough.
    assert!(unavailable * (served + refused) < refused * (stored + unavailable));
    let delivered = "SELECT count(*) FROM messages WHERE message_id LIKE 'delivered-%'";
    assert_eq!(inbox.count(delivered), i64::try_from(stored).unwrap());
    let shed = refused + unavailable;
    assert!(inbox.metric("mailslot_requests_shed_total") >= shed as u64);
    // Over when the load is.
    let calm = Instant::now() + PATIENCE;
    while !(0..10).all(|_| inbox.request("GET", "/messages?limit=1").status == 200) {
        assert!(Instant::now() < calm, "reads are still refused although the load is over");
    }
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

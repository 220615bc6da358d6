//! Nodes side by side: one order of the feed, one schema, one database.

use std::{
    collections::BTreeSet,
    io::Write,
    process::Stdio,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    time::{Duration, Instant},
};

use crate::{
    client::Client,
    harness::{Inbox, at_once, message, refused},
    load::{Cluster, Followed, follow},
};

const SENDERS: usize = 32;

/// Two nodes store so many messages, each commit with a random delay, while both are followed. Gives
/// what was stored and what the followers saw.
fn follow_two_nodes(
    cluster: &Cluster<'_>,
    nodes: &[Inbox; 2],
    messages: usize,
) -> (BTreeSet<String>, Vec<Followed>) {
    let (stop, next) = (AtomicBool::new(false), AtomicUsize::new(0));
    let followed = std::thread::scope(|scope| {
        let followers: Vec<_> = nodes
            .iter()
            .map(|node| (node.address, &stop))
            .map(|(address, stop)| scope.spawn(move || follow(address, stop)))
            .collect();
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| (nodes[sender % 2].address, &next))
            .map(|(address, next)| scope.spawn(move || send_numbers(address, next, messages)))
            .collect();
        for sender in senders {
            sender.join().unwrap();
        }
        stop.store(true, SeqCst);
        followers.into_iter().map(|follower| follower.join().unwrap()).collect()
    });
    (cluster.ids(), followed)
}

fn send_numbers(address: std::net::SocketAddr, next: &AtomicUsize, messages: usize) {
    let mut client = Client::new(address);
    loop {
        let number = next.fetch_add(1, SeqCst);
        if number >= messages {
            return;
        }
        crate::load::send(std::slice::from_mut(&mut client), 0, &format!("m{number}"));
    }
}

/// 200,000 with MESSAGES=200000; a run of the whole suite has time for fewer.
fn messages() -> usize {
    std::env::var("MESSAGES").map_or(5_000, |number| number.parse().unwrap())
}

#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn followers_of_two_nodes_miss_nothing_and_get_nothing_twice_whatever_commits_take() {
    let cluster = Cluster::shared();
    let nodes = [cluster.node(), cluster.node()];
    cluster.delay(8.0);
    let (stored, followed) = follow_two_nodes(&cluster, &nodes, messages());
    assert_eq!(stored.len(), messages());
    for followed in followed {
        followed.check();
        assert_eq!(followed.skipped(&stored), Vec::<&String>::new());
        assert_eq!(followed.ids.len(), stored.len());
    }
}

/// The test above proves something only if it fails where the order is not kept: here a session stores
/// without the lock that orders commits.
#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn followers_miss_messages_that_are_stored_without_the_lock() {
    const ROWS: usize = 500;
    let cluster = Cluster::shared();
    let nodes = [cluster.node(), cluster.node()];
    cluster.delay(8.0);
    let insert = "BEGIN;
        INSERT INTO messages (id, hash, message_id, from_msisdn, to_msisdn, ts, ts_s, ts_ns, created_at)
        SELECT nextval('seq'), sha256(id::bytea), id, '+1', '+2', '2025-01-15T10:00:00Z', 1736935200, 0, now()
        FROM (SELECT 'without ' || gen_random_uuid() AS id) AS new;
        COMMIT;";
    let (stored, followed) = std::thread::scope(|scope| {
        let session = scope.spawn(|| {
            let mut psql = cluster.server.psql(&cluster.database());
            let mut child = psql.stdin(Stdio::piped()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(insert.repeat(ROWS).as_bytes()).unwrap();
            assert!(child.wait().unwrap().success());
        });
        let found = follow_two_nodes(&cluster, &nodes, messages().min(5_000));
        session.join().unwrap();
        found
    });
    let skipped: Vec<_> = followed.iter().flat_map(|one| one.skipped(&stored)).collect();
    assert!(!skipped.is_empty(), "{} were stored, and no follower missed one", stored.len());
    eprintln!("beside {ROWS} rows without turns {} messages were missed", skipped.len());
}

#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn a_reader_that_waits_at_one_node_gets_what_another_node_stores() {
    let cluster = Cluster::shared();
    let [one, other] = [cluster.node(), cluster.node()];
    assert_eq!(one.deliver(&message("first")).status, 200);
    let latest = other.get("/feed?after=latest").json["next"].as_str().unwrap().to_owned();
    let path = format!("/feed?after={latest}&wait=20");
    let mut waits = Vec::new();
    std::thread::scope(|scope| {
        let mut after = path.clone();
        for number in 0..10 {
            let waiting = scope.spawn({
                let (other, after) = (&other, after.clone());
                move || (other.get(&after), Instant::now())
            });
            std::thread::sleep(Duration::from_millis(200));
            assert_eq!(one.deliver(&message(&format!("m{number}"))).status, 200);
            let acknowledged = Instant::now();
            let (page, got) = waiting.join().unwrap();
            assert_eq!(page.json["data"][0]["message_id"], format!("m{number}"));
            waits.push(got.saturating_duration_since(acknowledged));
            after = format!("/feed?after={}&wait=20", page.json["next"].as_str().unwrap());
        }
    });
    waits.sort();
    // 100 ms on a machine that has nothing else to do.
    assert!(waits[5] < Duration::from_secs(1), "{waits:?}");
    eprintln!("a message of another node reaches a waiting reader after {:?} (median)", waits[5]);
}

#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn the_first_starts_of_several_nodes_at_once_create_one_schema() {
    for _ in 0..3 {
        let cluster = Cluster::shared();
        let nodes = at_once(4, |_| cluster.node());
        for (number, node) in nodes.iter().enumerate() {
            assert_eq!(node.deliver(&message(&format!("m{number}"))).status, 200);
            assert_eq!(node.deliver(&message("same")).status, 200);
        }
        assert_eq!(cluster.rows(), 5);
    }
}

#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn a_schema_that_is_too_new_is_refused_at_the_start_and_stops_what_runs() {
    let cluster = Cluster::shared();
    let old = cluster.node();
    assert_eq!(old.deliver(&message("before")).status, 200);
    // A newer version that this program can still write to changes nothing for it.
    cluster.sql("UPDATE sequencer SET version = version + 1");
    assert_eq!(old.deliver(&message("beside")).status, 200);
    let beside = cluster.node();
    assert_eq!(beside.deliver(&message("beside too")).status, 200);
    cluster.sql("UPDATE sequencer SET writable_from = version");
    for node in [&old, &beside] {
        let reply = node.deliver(&message("after"));
        assert_eq!((reply.status, reply.header("Retry-After")), (503, Some("1")), "{reply:?}");
        assert_eq!(node.get("/health/ready").status, 503);
    }
    assert_eq!(cluster.rows(), 3);
    let url = cluster.url();
    let output = refused(|command| {
        command.env("DATABASE_URL", url);
    });
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("newer mailslot") && said.lines().count() == 1, "{said}");
    // An upgrade in place is what such a node needs: it is not refused.
    old.signal("-USR2");
    let log = old.wait_for_log(|line| line["signal"] == 12 || line["reason"] == "SIGUSR2");
    assert_eq!(log["msg"], "stopping");
}

#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn what_one_node_stores_is_in_the_answers_of_another_at_once() {
    let cluster = Cluster::shared();
    let nodes: [Inbox; 2] = [cluster.node(), cluster.node()];
    for number in 0..200 {
        let (one, other) = (&nodes[number % 2], &nodes[(number + 1) % 2]);
        assert_eq!(one.deliver(&message(&format!("m{number:03}"))).status, 200);
        let page = other.get(&format!("/messages?limit=1&offset={number}")).json;
        assert_eq!(page["total"], number + 1);
        assert_eq!(page["data"][0]["message_id"], format!("m{number:03}"));
        assert_eq!(other.get("/stats").json["total_messages"], number + 1);
    }
    assert_eq!(nodes[0].get("/export").text, nodes[1].get("/export").text);
}

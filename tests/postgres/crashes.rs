//! What is acknowledged is stored once, whatever is killed, stopped or cut off meanwhile.

use std::{
    net::SocketAddr,
    process::Stdio,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    client::Client,
    harness::{Inbox, message, server::Server, signal, wait_for},
    load::{Cluster, follow, send, send_all, try_delivery},
};

/// A node on an address that it had before.
fn start_again(cluster: &Cluster<'_>, node: Inbox) -> Inbox {
    let address = node.address.to_string();
    let folder = node.kill();
    cluster.node_in(folder, |command| {
        command.env("LISTEN", address);
    })
}

#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn what_was_acknowledged_is_stored_once_through_kills_of_sessions_servers_and_nodes() {
    let server = Server::start(&[], &[]);
    let cluster = Cluster::on(&server);
    let mut nodes = vec![cluster.node(), cluster.node()];
    let addresses: Vec<SocketAddr> = nodes.iter().map(|node| node.address).collect();
    let [stop, is_over] = [AtomicBool::new(false), AtomicBool::new(false)];
    let (acknowledged, followed) = thread::scope(|scope| {
        let senders = scope.spawn(|| send_all(&addresses, 16, |_| stop.load(SeqCst)));
        let follower = scope.spawn(|| follow(addresses[0], &is_over));
        let pause = || thread::sleep(Duration::from_millis(700));
        for round in 0..4 {
            pause();
            assert!(server.kill_session(&cluster.database()), "there was a session to kill");
            server.wait();
            pause();
            let node = nodes.remove(0);
            nodes.push(start_again(&cluster, node));
            pause();
            if round % 2 == 0 {
                server.stop("immediate");
                server.start_again(&[]);
            }
        }
        pause();
        stop.store(true, SeqCst);
        let acknowledged = senders.join().unwrap();
        is_over.store(true, SeqCst);
        (acknowledged, follower.join().unwrap())
    });
    let stored = cluster.ids();
    let lost: Vec<_> = acknowledged.difference(&stored).collect();
    assert_eq!(lost, Vec::<&String>::new(), "acknowledged, but not stored");
    assert!(acknowledged.len() > 100, "{}", acknowledged.len());
    followed.check();
    assert_eq!(followed.skipped(&stored), Vec::<&String>::new());
    let stats = nodes[0].get("/stats").json;
    assert_eq!(stats["total_messages"], stored.len());
    eprintln!("{} acknowledged, {} stored, each once", acknowledged.len(), stored.len());
}

/// However long a node is silent, and wherever in its commit, the other one waits at most 10 seconds.
#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn a_node_that_stands_still_holds_up_the_others_for_ten_seconds_at_most() {
    let cluster = Cluster::shared();
    let [still, other] = [cluster.node(), cluster.node()];
    let stop = AtomicBool::new(false);
    let mut longest = Duration::ZERO;
    thread::scope(|scope| {
        for sender in 0..8 {
            let (stop, address) = (&stop, still.address);
            scope.spawn(move || {
                let mut client = Client::new(address);
                for number in 0.. {
                    if stop.load(SeqCst) {
                        break;
                    }
                    send(std::slice::from_mut(&mut client), 0, &format!("s{sender}-{number}"));
                }
            });
        }
        for round in 0..12 {
            // Moments all over a commit, which takes some milliseconds.
            thread::sleep(Duration::from_micros(200_000 + 370 * round));
            still.signal("-STOP");
            let began = Instant::now();
            let mut client = Client::new(other.address);
            send(std::slice::from_mut(&mut client), 0, &format!("other{round}"));
            longest = longest.max(began.elapsed());
            still.signal("-CONT");
        }
        stop.store(true, SeqCst);
    });
    assert!(longest < Duration::from_secs(10), "{longest:?}");
    eprintln!("beside a node that stands still, a delivery took {longest:?} at most");
    assert_eq!(cluster.count("SELECT count(*) FROM messages WHERE message_id LIKE 'other%'"), 12);
}

/// What another session of any kind keeps locked costs deliveries a 503, and nothing else.
#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn while_a_session_holds_the_writers_lock_deliveries_are_503_and_reads_go_on() {
    let cluster = Cluster::shared();
    let node = cluster.node();
    assert_eq!(node.deliver(&message("before")).status, 200);
    let session =
        cluster.server.session(&cluster.database(), "BEGIN; SELECT FROM sequencer FOR UPDATE");
    let refused = node.deliver(&message("during"));
    assert_eq!((refused.status, refused.header("Retry-After")), (503, Some("1")), "{refused:?}");
    assert_eq!(node.get("/health/ready").status, 503);
    assert_eq!(node.get("/messages").json["total"], 1);
    drop(session);
    send(&mut [Client::new(node.address)], 0, "during");
    wait_for(|| node.get("/health/ready").status == 200);
    assert_eq!(cluster.rows(), 2);
}

/// What is in hand is committed or refused, and answered, before the process ends.
#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn a_stop_while_commits_wait_for_the_lock_answers_every_delivery() {
    for signal in ["-TERM", "-INT"] {
        let cluster = Cluster::shared();
        let node = cluster.node();
        let lock = "BEGIN; SELECT FROM sequencer FOR UPDATE";
        let answered = AtomicU64::new(0);
        let session = Mutex::new(Some(cluster.server.session(&cluster.database(), lock)));
        let statuses = crate::harness::at_once(17, |number| {
            if number < 16 {
                let answer = try_delivery(node.address, &format!("m{number}"));
                answered.fetch_add(1, SeqCst);
                return answer;
            }
            // All are accepted before the signal. A lock is waited for for two seconds.
            let waiting = || node.metric("mailslot_commit_queue_length");
            wait_for(|| waiting() + answered.load(SeqCst) >= 16);
            node.signal(signal);
            node.wait_for_log(|line| line["msg"] == "stopping");
            drop(session.lock().unwrap().take());
            Ok(200)
        });
        node.wait_for_log(|line| line["msg"] == "stopped");
        assert!(statuses.iter().all(|status| [Ok(200), Ok(503)].contains(status)), "{statuses:?}");
        let acknowledged = statuses.iter().filter(|status| **status == Ok(200)).count() - 1;
        assert_eq!(cluster.rows(), i64::try_from(acknowledged).unwrap());
    }
}

/// The thread that opens the database also gets the signals.
#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn a_stop_while_the_start_waits_for_the_server_is_an_orderly_one() {
    let cluster = Cluster::shared();
    let folder = tempfile::tempdir().unwrap();
    let lock = "SELECT pg_advisory_lock(5570192358041321472)";
    let session = cluster.server.session(&cluster.database(), lock);
    let mut command = crate::harness::command(folder.path());
    let url = cluster.server.url(cluster.folder.path());
    let mut child = command.env("DATABASE_URL", url).stdout(Stdio::null()).spawn().unwrap();
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    wait_for(|| cluster.count(waits) > 0);
    signal(child.id(), "-TERM");
    thread::sleep(Duration::from_millis(100));
    drop(session);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn without_its_synchronous_standby_nothing_is_acknowledged_also_no_repeat() {
    let server = Server::start(&[], &[]);
    let cluster = Cluster::on(&server);
    let node = cluster.node();
    assert_eq!(node.deliver(&message("before")).status, 200);
    server.set("synchronous_standby_names", "gone");
    for id in ["new", "before"] {
        // 503, or no answer in 20 seconds: both make a sender repeat it.
        let answer = try_delivery(node.address, id);
        assert_ne!(answer, Ok(200), "{id} is on one disk only");
        assert_eq!(answer, Ok(503), "{id}");
    }
    // An operator who cancels the wait acknowledges nothing by it.
    let cancelled = thread::scope(|scope| {
        let delivery = scope.spawn(|| try_delivery(node.address, "cancelled"));
        let end = Instant::now() + Duration::from_secs(4);
        while !delivery.is_finished() && Instant::now() < end {
            server.sql(
                "postgres",
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'",
            );
            thread::sleep(Duration::from_millis(50));
        }
        delivery.join().unwrap()
    });
    assert_eq!(cancelled, Ok(503));
    server.set("synchronous_standby_names", "");
    for id in ["new", "before", "cancelled"] {
        send(&mut [Client::new(node.address)], 0, id);
    }
    assert_eq!(cluster.rows(), 3);
}

/// A full disk of the server, a broken one, and one that is only slow: as PostgreSQL reports them.
#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn errors_of_the_server_are_503_until_they_end() {
    let cluster = Cluster::shared();
    let node = cluster.node();
    assert_eq!(node.deliver(&message("before")).status, 200);
    for code in ["53100", "53200", "58030", "57P01", "40001", "40P01", "25006"] {
        cluster.sql(&format!(
            "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN RAISE ''by a test'' USING ERRCODE = ''{code}''; END';
             CREATE TRIGGER refuse BEFORE INSERT ON messages
                 FOR EACH STATEMENT EXECUTE FUNCTION public.refuse()"
        ));
        let refused = node.deliver(&message(code));
        assert_eq!((refused.status, refused.header("Retry-After")), (503, Some("1")), "{code}");
        let text = refused.text.to_lowercase();
        assert!(!text.contains("by a test") && !text.contains("postgres"), "{text}");
        cluster.sql("DROP FUNCTION public.refuse CASCADE");
        send(&mut [Client::new(node.address)], 0, code);
    }
    assert_eq!(cluster.rows(), 8);
}

#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn one_message_that_the_server_refuses_fails_no_other_of_its_batch() {
    let cluster = Cluster::shared();
    let node = cluster.node();
    cluster.sql(
        "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN IF NEW.message_id LIKE ''bad%'' THEN RAISE ''by a test'' USING ERRCODE = ''22000'';
              END IF; RETURN NEW; END';
         CREATE TRIGGER refuse BEFORE INSERT ON messages
             FOR EACH ROW EXECUTE FUNCTION public.refuse()",
    );
    cluster.delay(30.0);
    let replies = crate::harness::at_once(32, |number| {
        let id = format!("{}{number}", if number % 4 == 0 { "bad" } else { "good" });
        (number % 4 == 0, node.deliver(&message(&id)).status)
    });
    for (is_bad, status) in replies {
        assert_eq!(status, if is_bad { 500 } else { 200 });
    }
    assert_eq!(cluster.rows(), 24);
}

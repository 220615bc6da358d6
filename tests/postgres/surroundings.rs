//! What stands between mailslot and PostgreSQL, and what else is done in the server meanwhile.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc::channel,
    },
    time::{Duration, Instant},
};

use crate::{
    client::Client,
    harness::{message, message_with, server::Server, signal, wait_for},
    load::{Cluster, follow, run, send_all},
};

/// pgbouncer in front of a server; it ends with this.
struct Pool {
    child: Child,
    port: u16,
}

impl Pool {
    /// None where pgbouncer is not installed.
    fn start(server: &Server, folder: &Path) -> Option<Pool> {
        if Command::new("pgbouncer").arg("--version").output().is_err() {
            eprintln!("pgbouncer is not installed: it was not tried");
            return None;
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = port.local_addr().unwrap().port();
        let path = folder.join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = scram-sha-256\n\
             auth_file = {folder}/users\npool_mode = transaction\ndefault_pool_size = 3\n\
             max_client_conn = 200\nlogfile = {folder}/log\n",
            server.port,
            folder = folder.display()
        );
        fs::write(&path, text).unwrap();
        fs::write(folder.join("users"), "\"mailslot\" \"secret\"\n").unwrap();
        let mut command = Command::new("sh");
        // pgbouncer refuses root, as PostgreSQL does.
        let script = "test $(id -u) != 0 || { chmod 711 $0 && chown -R nobody $0; \
                      set -- setpriv --reuid=nobody --regid=$(id -g nobody) --clear-groups; }
                      exec \"$@\" pgbouncer -q $0/pgbouncer.ini";
        command.args(["-c", script]).arg(folder).stdin(Stdio::null());
        let child = command.stderr(Stdio::null()).spawn().unwrap();
        wait_for(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        Some(Pool { child, port })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        signal(self.child.id(), "-KILL");
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn through_pgbouncer_in_transaction_mode_everything_is_as_without() {
    let cluster = Cluster::shared();
    let folder = tempfile::tempdir().unwrap();
    let Some(pool) = Pool::start(cluster.server, folder.path()) else { return };
    let pooled = cluster.url().replace(&cluster.server.port.to_string(), &pool.port.to_string());
    let node = || {
        cluster.node_with(|command| {
            command.env("DATABASE_URL", &pooled);
        })
    };
    let nodes = [node(), node()];
    let addresses = nodes.each_ref().map(|node| node.address);
    let stop = AtomicBool::new(false);
    let (acknowledged, followed) = std::thread::scope(|scope| {
        let followers = addresses.map(|address| {
            scope.spawn({
                let stop = &stop;
                move || follow(address, stop)
            })
        });
        // A reader beside, whose answers must be of one moment.
        let reader = scope.spawn(|| {
            let mut client = Client::new(addresses[1]);
            while !stop.load(SeqCst) {
                let page = client.read("/messages?limit=100&offset=3&q=hello").unwrap();
                let page: serde_json::Value = serde_json::from_str(&page).unwrap();
                let (total, data) = (page["total"].as_u64().unwrap(), &page["data"]);
                let expected = total.saturating_sub(3).min(100);
                assert_eq!(data.as_array().unwrap().len() as u64, expected, "{total}");
            }
        });
        let acknowledged = send_all(&addresses, 8, |number| number == 150);
        stop.store(true, SeqCst);
        reader.join().unwrap();
        (acknowledged, followers.map(|follower| follower.join().unwrap()))
    });
    let stored = cluster.ids();
    assert_eq!(acknowledged, stored);
    for followed in followed {
        followed.check();
        assert_eq!(followed.ids.len(), stored.len());
    }
    let (status, said) = run(&pooled, folder.path(), &["export"]);
    assert_eq!((status, said.lines().count()), (Some(0), stored.len()));
}

/// JIT, parallel workers, and a planner without statistics make a read of a millisecond a hundred times
/// slower: no read uses them, although the server's settings here make it use them for anything that
/// is more than a lookup of one row.
#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn no_read_is_compiled_or_parallel_or_scans_the_table_although_it_was_never_analyzed() {
    let server = Server::start(
        &[
            "autovacuum=off",
            "jit=on",
            "jit_above_cost=100",
            "parallel_setup_cost=10",
            "parallel_tuple_cost=0",
            "min_parallel_table_scan_size=0",
            "min_parallel_index_scan_size=0",
            "shared_preload_libraries=auto_explain",
            "auto_explain.log_min_duration=0",
            "auto_explain.log_nested_statements=on",
            "auto_explain.log_format=json",
        ],
        &[],
    );
    let cluster = Cluster::on(&server);
    let node = cluster.node();
    let folder = tempfile::tempdir().unwrap();
    let lines: Vec<String> = (0..20_000)
        .map(|number| {
            let fields = serde_json::json!({
                "from": format!("+{}", number % 50),
                "ts": format!("2025-01-{:02}T{:02}:00:{:02}Z", 1 + number % 28, number % 24, number % 60),
            });
            format!("{}\n", message_with(&format!("m{number}"), &fields))
        })
        .collect();
    fs::write(folder.path().join("lines"), lines.concat()).unwrap();
    let (status, said) = run(&cluster.url(), folder.path(), &["import", "lines"]);
    assert_eq!(status, Some(0), "{said}");
    // Until all but the newest are counted.
    let counted = "SELECT (SELECT max(id) FROM messages) = counted_id FROM totals";
    wait_for(|| cluster.sql(counted) == "t");
    assert_eq!(cluster.sql("SELECT count(*) FROM pg_stats WHERE schemaname = 'mailslot'"), "0");
    let log = server.folder.join("log");
    let before = fs::read_to_string(&log).unwrap().len();
    let paths = [
        "/messages",
        "/messages?offset=9000",
        "/messages?from=%2B7&offset=100",
        "/messages?since=2025-01-10T00:00:00Z&until=2025-01-20T00:00:00Z",
        "/messages?order=desc",
        "/stats",
        "/stats/series?interval=day",
        "/feed?after=0&limit=10",
        "/feed?after=latest",
        "/health/ready",
    ];
    for path in paths {
        assert_eq!(node.get(path).status, 200, "{path}");
    }
    let plans = fs::read_to_string(&log).unwrap().split_off(before);
    assert!(plans.matches("\"Plan\"").count() > paths.len(), "{plans}");
    for (found, what) in
        [("\"JIT\"", "a read is compiled"), ("\"Workers Planned\"", "a read is parallel")]
    {
        assert!(!plans.contains(found), "{what}: {plans}");
    }
    let scans = plans.split("\"Node Type\": \"Seq Scan\"").skip(1);
    let relations: Vec<&str> = scans
        .filter_map(|scan| scan.split("\"Relation Name\": \"").nth(1)?.split('"').next())
        .collect();
    assert!(!relations.contains(&"messages"), "a read scans the table: {plans}");
}

/// As pg_dump has it, or a standby with hot_standby_feedback: no row version can go meanwhile.
#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn beside_a_long_transaction_everything_goes_on_and_the_rows_that_writers_lock_do_not_pile_up() {
    let cluster = Cluster::shared();
    let [one, other] = [cluster.node(), cluster.node()];
    assert_eq!(one.deliver(&message("before")).status, 200);
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM messages";
    let long = cluster.server.session(&cluster.database(), begin);
    let acknowledged = send_all(&[one.address, other.address], 8, |number| number == 200);
    for node in [&one, &other] {
        assert_eq!(node.get("/messages").json["total"], acknowledged.len() + 1);
    }
    assert_eq!(cluster.count("SELECT pg_relation_size('sequencer') / 8192"), 1);
    drop(long);
    assert_eq!(cluster.rows() as usize, acknowledged.len() + 1);
}

/// A long line to the server: everything that it sends arrives this much later. The port of its near
/// end; its threads end with the process.
fn long_line(server: &Server, delay: Duration) -> u16 {
    let near = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, far) = (near.local_addr().unwrap().port(), server.port);
    std::thread::spawn(move || {
        for client in near.incoming() {
            let client = client.unwrap();
            let server = TcpStream::connect(("127.0.0.1", far)).unwrap();
            for stream in [&client, &server] {
                stream.set_nodelay(true).unwrap();
            }
            let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            carry(from, to, Duration::ZERO);
            carry(server, client, delay);
        }
    });
    port
}

fn carry(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let (sender, arriving) = channel::<(Instant, Vec<u8>)>();
    std::thread::spawn(move || {
        let mut bytes = vec![0; 65_536];
        while let Ok(length @ 1..) = from.read(&mut bytes) {
            let _ = sender.send((Instant::now() + delay, bytes[..length].to_vec()));
        }
    });
    std::thread::spawn(move || {
        for (due, bytes) in arriving {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}

/// The feed answers waiting readers in rounds that have 20 ms, which is less than one query takes here.
#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn far_from_its_server_a_node_answers_waiting_readers_as_soon_as_it_can() {
    let cluster = Cluster::shared();
    let port = long_line(cluster.server, Duration::from_millis(40));
    let far = cluster.url().replace(&cluster.server.port.to_string(), &port.to_string());
    let node = cluster.node_with(|command| {
        command.env("DATABASE_URL", &far);
    });
    assert_eq!(node.deliver(&message("m0")).status, 200);
    std::thread::scope(|scope| {
        // Some wait for new messages, the others read from the beginning, one message at a time.
        let (new, all): (Vec<_>, Vec<_>) = (0..8)
            .map(|_| {
                let follow = |first: &str, limit: u32| {
                    let (mut client, mut after) = (Client::new(node.address), first.to_owned());
                    let mut seen = 0;
                    while seen < 10 {
                        let path = format!("/feed?after={after}&limit={limit}&wait=30");
                        let page = client.read(&path).unwrap();
                        let page: serde_json::Value = serde_json::from_str(&page).unwrap();
                        let data = page["data"].as_array().unwrap();
                        assert!(!data.is_empty(), "a reader waited for 30 seconds");
                        seen += data.len();
                        page["next"].as_str().unwrap().clone_into(&mut after);
                    }
                };
                (scope.spawn(move || follow("latest", 1000)), scope.spawn(move || follow("0", 1)))
            })
            .unzip();
        wait_for(|| node.metric("mailslot_feed_waiters") == 16);
        for number in 1..=10 {
            assert_eq!(node.deliver(&message(&format!("m{number}"))).status, 200);
        }
        for reader in new.into_iter().chain(all) {
            reader.join().unwrap();
        }
    });
    let paths = [
        "/messages?q=hello&limit=5",
        "/messages/m7",
        "/stats",
        "/export",
        "/metrics",
        "/health/ready",
    ];
    for path in paths {
        assert_eq!(node.get(path).status, 200, "{path}");
    }
}

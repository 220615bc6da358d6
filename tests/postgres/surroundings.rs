//! What stands between mailslot and PostgreSQL, and what else is done in the server meanwhile.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
        mpsc::channel,
    },
    time::{Duration, Instant},
};

use crate::{
    client::Client,
    harness::{self, Inbox, message, message_with, server::Server, signal, wait_for},
    load::{Cluster, follow, run, send_all},
};

/// A process that ends with this.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        signal(self.0.id(), "-KILL");
        let _ = self.0.wait();
    }
}

/// pgbouncer in front of a server.
struct Pool {
    _child: Killed,
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
        Some(Pool { _child: Killed(child), port })
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

/// A network between nodes and the server. Its threads end with the process.
struct Network {
    port: u16,
    /// Connections so far, and how many of these carry nothing more, as behind a firewall that has
    /// forgotten them.
    connections: Arc<AtomicUsize>,
    silent: Arc<AtomicUsize>,
}

impl Network {
    /// What the server sends arrives this much later.
    fn start(server: &Server, delay: Duration) -> Network {
        let near = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, far) = (near.local_addr().unwrap().port(), server.port);
        let network = Network { port, connections: Arc::default(), silent: Arc::default() };
        let (connections, silent) = (network.connections.clone(), network.silent.clone());
        std::thread::spawn(move || {
            for client in near.incoming() {
                let client = client.unwrap();
                let Ok(server) = TcpStream::connect(("127.0.0.1", far)) else { continue };
                for stream in [&client, &server] {
                    stream.set_nodelay(true).unwrap();
                }
                let number = connections.fetch_add(1, SeqCst);
                let is_silent = move |silent: &AtomicUsize| number < silent.load(SeqCst);
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let ways = [(from, to, Duration::ZERO), (server, client, delay)];
                for (from, to, delay) in ways {
                    let silent = silent.clone();
                    carry(from, to, delay, move || is_silent(&silent));
                }
            }
        });
        network
    }

    fn url(&self, cluster: &Cluster<'_>) -> String {
        cluster.url().replace(&cluster.server.port.to_string(), &self.port.to_string())
    }

    fn node(&self, cluster: &Cluster<'_>) -> Inbox {
        cluster.node_with(|command| {
            command.env("DATABASE_URL", self.url(cluster));
        })
    }
}

fn carry(
    mut from: TcpStream,
    mut to: TcpStream,
    delay: Duration,
    is_silent: impl Fn() -> bool + Send + 'static,
) {
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
            if !is_silent() && to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}

/// The feed answers waiting readers in rounds that have 20 ms, which is less than one query takes
/// here. With a query for each of them the last one would wait for longer than its client does.
#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn far_from_its_server_a_node_answers_hundreds_of_waiting_readers_in_time() {
    let cluster = Cluster::shared();
    let node = Network::start(cluster.server, Duration::from_millis(40)).node(&cluster);
    assert_eq!(node.deliver(&message("m0")).status, 200);
    let is_empty = |page: &serde_json::Value| page["data"] == serde_json::json!([]);
    for (wait, delivers) in [(1, false), (30, true)] {
        // With a cursor, so that no worker has a query for it.
        let next = node.get("/feed?after=latest").json["next"].as_str().unwrap().to_owned();
        let path = format!("/feed?after={next}&wait={wait}");
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..300)
                .map(|_| scope.spawn(|| Client::new(node.address).read(&path).unwrap()))
                .collect();
            if delivers {
                wait_for(|| node.metric("mailslot_feed_waiters") == 300);
                assert_eq!(node.deliver(&message("m1")).status, 200);
            }
            for reader in readers {
                let page = serde_json::from_str(&reader.join().unwrap()).unwrap();
                assert_eq!(is_empty(&page), !delivers, "{page}");
            }
        });
    }
    // Readers that catch up, one message at a time.
    std::thread::scope(|scope| {
        let follow = || {
            let (mut client, mut after, mut seen) = (Client::new(node.address), "0".to_owned(), 0);
            while seen < 4 {
                let page = client.read(&format!("/feed?after={after}&limit=1&wait=30")).unwrap();
                let page: serde_json::Value = serde_json::from_str(&page).unwrap();
                assert!(!is_empty(&page), "a reader waited for 30 seconds");
                seen += 1;
                page["next"].as_str().unwrap().clone_into(&mut after);
            }
        };
        let readers: Vec<_> = (0..8).map(|_| scope.spawn(follow)).collect();
        wait_for(|| node.metric("mailslot_feed_waiters") == 8);
        for number in 2..4 {
            assert_eq!(node.deliver(&message(&format!("m{number}"))).status, 200);
        }
        for reader in readers {
            reader.join().unwrap();
        }
    });
    let paths = [
        "/messages?q=hello&limit=5",
        "/messages/m3",
        "/stats",
        "/export",
        "/metrics",
        "/health/ready",
    ];
    for path in paths {
        assert_eq!(node.get(path).status, 200, "{path}");
    }
}

#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn a_delivery_over_a_connection_that_a_firewall_has_dropped_is_stored_over_another_one() {
    let cluster = Cluster::shared();
    let network = Network::start(cluster.server, Duration::ZERO);
    let node = network.node(&cluster);
    assert_eq!(node.deliver(&message("m1")).status, 200);
    network.silent.store(network.connections.load(SeqCst), SeqCst);
    assert_eq!(node.deliver(&message("m2")).status, 200);
    assert_eq!(cluster.rows(), 2);
}

/// A node holds locks over several round trips while it starts, and while it counts.
#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn a_node_that_stands_still_within_a_transaction_keeps_no_other_from_starting() {
    let cluster = Cluster::shared();
    let network = Network::start(cluster.server, Duration::from_millis(300));
    let folder = tempfile::tempdir().unwrap();
    let mut command = harness::command(folder.path());
    command.env("DATABASE_URL", network.url(&cluster));
    let still = Killed(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    // That of the schema, which every start takes.
    let idle = format!(
        "SELECT count(*) FROM pg_stat_activity JOIN pg_locks USING (pid)
         WHERE datname = '{}' AND state = 'idle in transaction'
             AND locktype = 'advisory' AND granted",
        cluster.database()
    );
    wait_for(|| cluster.server.sql("postgres", &idle) == "1");
    signal(still.0.id(), "-STOP");
    assert_eq!(cluster.node().deliver(&message("m1")).status, 200);
}

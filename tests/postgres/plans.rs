//! The plan of each statement that a read runs, as the server logs it, is by an index.

use std::{fs, path::Path};

use serde_json::json;

use crate::{
    harness::{Inbox, message, server::Server, wait_for},
    load::Cluster,
};

#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn every_read_is_planned_by_an_index() {
    let server = Server::start(
        &[
            "session_preload_libraries=auto_explain",
            "auto_explain.log_min_duration=0",
            "auto_explain.log_analyze=on",
            // Without statistics, as after a restore: the plans must not depend on them.
            "autovacuum=off",
        ],
        &[],
    );
    let cluster = Cluster::on(&server);
    let node = cluster.node();
    for number in 0..20 {
        let mut message = message(&format!("m{number}"));
        message["text"] = json!(format!("order {number}"));
        assert_eq!(node.deliver(&message).status, 200);
    }
    // Enough for a sender and a second receiver with counts of their own, and for an index to be
    // worth it. The second receiver has the earliest messages, and no others.
    cluster.sql(
        "INSERT INTO messages (id, hash, message_id, from_msisdn, to_msisdn, ts, ts_s, ts_ns, text,
             created_at, source, kind)
         SELECT nextval('seq'), sha256(n::text::bytea), 'n' || n,
             '+' || CASE WHEN n % 3 = 0 THEN 7 ELSE 100 + n % 500 END,
             CASE WHEN n <= 4000 THEN '+8' WHEN n % 10 < 9 THEN '+14155550100' ELSE '+2' || n % 100 END,
             '2025-01-15T10:00:00Z', 1736935200 + n * 7, 0, 'order ' || n, now(),
             CASE WHEN n % 5000 = 0 THEN 'twilio' WHEN n % 10 < 3 THEN 'whatsapp' ELSE 'webhook' END,
             CASE WHEN n % 10 = 0 THEN 'image' ELSE 'text' END
         FROM generate_series(1, 20000) AS n",
    );
    wait_until_counted(&cluster);
    assert!(cluster.count("SELECT count(*) FROM parties WHERE is_heavy") == 2);
    let begin = fs::read_to_string(server.folder.join("log")).unwrap().len();
    let times = "since=2025-01-15T11:00:00Z&until=2025-01-16T11:00:00.5Z";
    ask(
        &node,
        &[
            "/messages",
            "/messages?order=desc",
            "/messages?offset=9000",
            "/messages?offset=19990&order=desc",
            &format!("/messages?{times}"),
            &format!("/messages?{times}&offset=900"),
            "/messages?from=%2B7",
            "/messages?from=%2B7&offset=3000",
            "/messages?from=%2B101&offset=3",
            &format!("/messages?from=%2B101&{times}"),
            "/messages?q=order",
            "/messages?q=19999",
            "/messages?q=absent",
            "/messages?from=%2B101&q=or",
            "/messages?since=2025-01-15T11:00:00Z&until=2025-01-15T11:30:00Z&q=or",
            "/messages?since=2025-01-15T11:00:00Z&until=2025-01-15T11:30:00Z&to=%2B14155550100",
            "/stats",
            "/stats/series?bucket=hour&until=2025-01-17T00:00:00Z",
            "/stats/series?bucket=day&until=2025-01-17T12:30:00Z",
            "/feed?after=0",
            "/feed?after=latest",
            "/export?from=%2B101",
            &format!("/export?{times}"),
            "/health/ready",
        ],
    );
    let plans = fs::read_to_string(server.folder.join("log")).unwrap().split_off(begin);
    let scanned = scanned(&plans);
    assert_eq!(scanned, Vec::<String>::new());
    for table in ["messages", "counts", "parties"] {
        assert!(plans.contains(&format!(" on {table}")), "no plan was logged: {plans}");
    }
    check_what_is_read(&cluster, &node, &server.folder.join("log"));
    check_what_is_counted(&cluster, &server.folder.join("log"));
    // The check is one that finds something.
    cluster.sql("SELECT count(*) FROM messages WHERE text = 'order'");
    let plans = fs::read_to_string(server.folder.join("log")).unwrap().split_off(begin);
    assert!(!self::scanned(&plans).is_empty());
}

/// Asks for each of the paths, and for the page after it.
fn ask(node: &Inbox, paths: &[&str]) {
    for path in paths {
        let answer = node.get(path);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        if let Some(link) = answer.header("Link") {
            let next = link.split(['<', '>']).nth(1).unwrap().to_owned();
            assert_eq!(node.get(&next).status, 200, "{next}");
        }
    }
}

/// With and without statistics: without a search, what is read is about as much as what is shown,
/// wherever the page is and however many messages there are.
fn check_what_is_read(cluster: &Cluster<'_>, node: &Inbox, log: &Path) {
    const READ_MAX: u64 = 1_000;
    for _ in 0..2 {
        let begin = fs::read_to_string(log).unwrap().len();
        for filter in [
            "order=asc",
            "from=%2B7",
            "source=whatsapp",
            "source=webhook",
            "source=twilio",
            "kind=text",
            "kind=image",
            "source=whatsapp&kind=text",
            "source=whatsapp&kind=image",
            "source=standard",
            "from=%2B101&source=webhook&kind=text",
            "to=%2B8",
            "to=%2B14155550100",
            "to=%2B229",
            "to=%2B999",
            "to=%2B229&source=webhook",
            "to=%2B229&q=order",
            "from=%2B101&to=%2B14155550100",
        ] {
            let times = "since=2025-01-15T11:00:00Z&until=2025-01-16T11:00:00.5Z";
            let paths = [
                format!("/messages?{filter}"),
                format!("/messages?{filter}&order=desc"),
                format!("/messages?{filter}&offset=1300"),
                format!("/messages?{filter}&offset=1300&order=desc"),
                format!("/messages?{filter}&{times}&offset=700"),
                format!("/stats/series?bucket=hour&until=2025-01-17T00:00:00Z&{filter}"),
                format!("/stats/series?bucket=day&until=2025-01-17T12:30:00Z&{filter}"),
            ];
            let paths = paths.each_ref().map(String::as_str);
            ask(node, &paths);
        }
        let plans = fs::read_to_string(log).unwrap().split_off(begin);
        let reads_much = |plan: &&str| {
            !scanned(plan).is_empty() || plan.lines().any(|line| read_rows(line) > READ_MAX)
        };
        let much: Vec<&str> = plans.split("Query Text:").filter(reads_much).collect();
        assert_eq!(much, Vec::<&str>::new());
        for index in ["messages_by_class", "messages_by_from", "messages_by_to"] {
            assert!(plans.contains(index), "{index}");
        }
        cluster.sql("ANALYZE");
    }
}

/// With statistics, by which each receiver has a good part of the messages: a new one gets its counts
/// from its own messages.
fn check_what_is_counted(cluster: &Cluster<'_>, log: &Path) {
    const NEW: u64 = 2_100;
    let begin = fs::read_to_string(log).unwrap().len();
    cluster.sql(&format!(
        "INSERT INTO messages (id, hash, message_id, from_msisdn, to_msisdn, ts, ts_s, ts_ns, text,
             created_at)
         SELECT nextval('seq'), sha256(('c' || n)::bytea), 'c' || n, '+' || n, '+9',
             '2025-01-15T10:00:00Z', 1736935200, 0, 'order', now()
         FROM generate_series(1, {NEW}) AS n"
    ));
    wait_until_counted(cluster);
    assert!(cluster.count("SELECT count(*) FROM parties WHERE msisdn = '+9' AND is_heavy") == 1);
    let plans = fs::read_to_string(log).unwrap().split_off(begin);
    let counts = plans.split("Query Text:").filter(|plan| plan.contains("INSERT INTO mailslot."));
    let much = |plan: &&str| plan.lines().any(|line| read_rows(line) > NEW);
    assert_eq!(counts.filter(much).collect::<Vec<_>>(), Vec::<&str>::new());
}

fn wait_until_counted(cluster: &Cluster<'_>) {
    let is_counted =
        "SELECT count(*) FROM totals WHERE counted_id = (SELECT max(id) FROM messages)";
    wait_for(|| cluster.count(is_counted) == 1);
}

/// The rows that a node of a plan has read of the messages or their indexes, and those that it has
/// left out.
fn read_rows(line: &str) -> u64 {
    let number = |before: &str| {
        let (_, rest) = line.rsplit_once(before)?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
    };
    let removed = number("Rows Removed by Filter: ").unwrap_or(0);
    let is_of_messages = line.contains(" on messages") || line.contains(" messages_");
    let read = || Some(number(" rows=")? * number(" loops=")?);
    removed + is_of_messages.then(read).flatten().unwrap_or(0)
}

/// The plans that read all of a table that grows.
fn scanned(log: &str) -> Vec<String> {
    let grows = ["messages", "counts", "parties", "erased"];
    let scans = |plan: &&str| {
        plan.lines().any(|line| {
            line.contains("Seq Scan on ")
                && grows.iter().any(|table| {
                    let scanned = format!("Seq Scan on {table}");
                    let found = line.find(&scanned).map(|at| &line[at + scanned.len()..]);
                    found.is_some_and(|rest| rest.starts_with([' ', '_']) || rest.is_empty())
                })
        })
    };
    log.split("Query Text:").filter(scans).map(str::to_owned).collect()
}

//! Several nodes with RETENTION_DAYS: messages expire once, and one node at a time deletes them.

use std::collections::BTreeSet;

use crate::{
    harness::{Inbox, wait_for},
    load::{Cluster, run},
};

const OLD: i64 = 6_000;
const NEW: i64 = 100;

/// A database with messages of which most have expired. It records which connection deletes which
/// messages, from when to when, and deleting 500 of them takes so many seconds.
fn with_old_messages(cluster: &Cluster<'_>, pause_s: f64) {
    drop(cluster.node().stop());
    cluster.sql(&format!(
        "INSERT INTO messages (id, hash, message_id, from_msisdn, to_msisdn, ts, ts_s, ts_ns, text, created_at)
         SELECT nextval('seq'), sha256(n::text::bytea), 'n' || n, '+' || n % 9, '+2' || n % 2, '-', second, 0, 'old', now()
         FROM generate_series(1, {OLD} + {NEW}) AS n, LATERAL (
             SELECT CASE WHEN n > {OLD} THEN floor(extract(epoch FROM now()))::bigint ELSE 1700000000 + n END
         ) AS sent (second);
         CREATE TABLE public.deleted (id bigint, connection integer, begun timestamptz, ended timestamptz);
         GRANT ALL ON public.deleted TO mailslot;
         CREATE FUNCTION public.record() RETURNS trigger LANGUAGE plpgsql AS
             'DECLARE begun timestamptz := clock_timestamp(); BEGIN
                 IF EXISTS (SELECT FROM gone) THEN PERFORM pg_sleep({pause_s}); END IF;
                 INSERT INTO public.deleted
                 SELECT id, pg_backend_pid(), begun, clock_timestamp() FROM gone;
                 RETURN NULL; END';
         CREATE TRIGGER record AFTER DELETE ON messages REFERENCING OLD TABLE AS gone
             FOR EACH STATEMENT EXECUTE FUNCTION public.record()"
    ));
}

fn node(cluster: &Cluster<'_>) -> Inbox {
    cluster.node_with(|command| {
        command.env("RETENTION_DAYS", "30");
    })
}

/// Each old message was deleted once, at no moment by two connections, and the counters are right.
fn check(cluster: &Cluster<'_>) {
    assert_eq!(cluster.rows(), NEW);
    let once = "SELECT count(*) FROM (SELECT id FROM public.deleted GROUP BY id HAVING count(*) = 1) AS once";
    assert_eq!(cluster.count(once), OLD);
    assert_eq!(cluster.count("SELECT count(*) FROM public.deleted"), OLD);
    let at_once = "
        WITH portions AS (SELECT DISTINCT connection, begun, ended FROM public.deleted)
        SELECT count(*) FROM portions AS one JOIN portions AS other
            ON one.connection <> other.connection AND one.begun < other.ended AND other.begun < one.ended";
    assert_eq!(cluster.count(at_once), 0);
    assert_eq!(cluster.count("SELECT count(*) FROM counts WHERE n = 0"), 0);
    let folder = tempfile::tempdir().unwrap();
    let (_, said) = run(&cluster.url(), folder.path(), &["check"]);
    assert!(said.contains(&format!("right for {NEW} messages")), "{said}");
}

#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn of_two_nodes_with_a_retention_one_at_a_time_deletes_and_each_message_expires_once() {
    let cluster = Cluster::shared();
    with_old_messages(&cluster, 0.05);
    let nodes = [node(&cluster), node(&cluster)];
    wait_for(|| cluster.rows() == NEW);
    for node in &nodes {
        assert_eq!(node.get("/stats").json["total_messages"], NEW);
    }
    check(&cluster);
}

#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn where_the_node_that_deletes_is_killed_another_one_goes_on() {
    let cluster = Cluster::shared();
    // Long enough for the start of the other node, also on a busy machine.
    with_old_messages(&cluster, 0.7);
    let killed = node(&cluster);
    let deleting = "SELECT count(DISTINCT connection) FROM public.deleted";
    wait_for(|| cluster.count(deleting) == 1);
    let other = node(&cluster);
    drop(killed.kill());
    let left = cluster.rows() - NEW;
    assert!(left > 0, "the first node was done before it was killed");
    wait_for(|| cluster.rows() == NEW);
    let connections: BTreeSet<String> = cluster
        .sql("SELECT DISTINCT connection FROM public.deleted")
        .lines()
        .map(str::to_owned)
        .collect();
    assert_eq!(connections.len(), 2);
    assert_eq!(other.get("/stats").json["total_messages"], NEW);
    check(&cluster);
}

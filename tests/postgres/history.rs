//! A cursor is never given twice, although a failover or a restored backup takes messages back.

use std::{fs, path::Path, process::Command};

use crate::{
    client::Client,
    harness::{Inbox, message, server::Server, wait_for},
    load::{Cluster, cursor_of, send},
};

fn deliver(node: &Inbox, name: &str, numbers: std::ops::Range<usize>) -> i64 {
    for number in numbers.clone() {
        send(&mut [Client::new(node.address)], 0, &format!("{name}{number}"));
    }
    cursor_of(node, &format!("{name}{}", numbers.end - 1))
}

fn ids(node: &Inbox, after: i64) -> Vec<String> {
    let page = node.get(&format!("/feed?after={after}")).json;
    let data = page["data"].as_array().unwrap_or_else(|| panic!("{page}"));
    data.iter().map(|message| message["message_id"].as_str().unwrap().to_owned()).collect()
}

/// Ten messages survive and five are lost, by `lose`, which is called with what loses them after the ten
/// and gives the node that goes on. A reader of the five must learn that its cursor means nothing here,
/// before and after others come, and a reader of the ten must miss nothing.
fn lose_and_read_on(before: Inbox, kept: impl FnOnce(), lose: impl FnOnce(Inbox) -> Inbox) {
    let ten = deliver(&before, "first", 0..10);
    kept();
    let fifteen = deliver(&before, "lost", 0..5);
    let node = lose(before);
    assert_eq!(node.get("/messages").json["total"], 10);
    assert_eq!(ids(&node, ten), [""; 0]);
    let last = deliver(&node, "new", 0..8);
    assert!(last > fifteen, "{last} after {fifteen}");
    for ahead in [fifteen, fifteen - 3] {
        let reply = node.get(&format!("/feed?after={ahead}"));
        assert_eq!(reply.status, 409, "{ahead}: {reply:?}");
    }
    let new: Vec<String> = (0..8).map(|number| format!("new{number}")).collect();
    assert_eq!(ids(&node, ten), new);
    assert_eq!(ids(&node, last - 1), ["new7"]);
    assert_eq!(ids(&node, 0).len(), 18);
}

#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn after_a_failover_that_loses_commits_a_reader_of_these_gets_409() {
    let server = Server::start(&[], &[]);
    let cluster = Cluster::on(&server);
    let (data, copy) = (server.folder.join("data"), server.folder.join("copy"));
    let run = |program: &str, arguments: &[&Path]| {
        let status = Command::new(program).arg("-a").args(arguments).status();
        assert!(status.unwrap().success());
    };
    let node = cluster.node();
    lose_and_read_on(
        node,
        // A standby that gets nothing more.
        || {
            server.stop("fast");
            run("cp", &[&data, &copy]);
            server.start_again(&[]);
            server.wait();
        },
        |node| {
            server.stop("immediate");
            fs::remove_dir_all(&data).unwrap();
            fs::rename(&copy, &data).unwrap();
            fs::write(data.join("standby.signal"), "").unwrap();
            server.start_again(&[]);
            // mailslot waits until the server is a primary.
            let refused = node.deliver(&message("to a standby"));
            assert_eq!((refused.status, refused.header("Retry-After")), (503, Some("1")));
            assert_eq!(server.sql("postgres", "SELECT pg_promote()"), "t");
            wait_for(|| node.get("/health/ready").status == 200);
            node
        },
    );
}

#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn after_a_dump_is_restored_a_reader_of_what_it_lacks_gets_409() {
    let cluster = Cluster::shared();
    let (server, database) = (cluster.server, cluster.database());
    let folder = tempfile::tempdir().unwrap();
    let dump = folder.path().join("dump");
    let program = |name: &str| {
        let mut command = Command::new(name);
        command.arg("-h").arg(&server.folder).args(["-p", &server.port.to_string()]);
        command.args(["-U", "postgres"]);
        command
    };
    let node = cluster.node();
    lose_and_read_on(
        node,
        || {
            let status = program("pg_dump").args(["-Fc", "-f"]).arg(&dump).arg(&database).status();
            assert!(status.unwrap().success());
        },
        |node| {
            let folder = node.stop();
            server.sql("postgres", &format!("DROP DATABASE \"{database}\""));
            server.sql("postgres", &format!("CREATE DATABASE \"{database}\" OWNER mailslot"));
            let status = program("pg_restore").args(["-d", &database]).arg(&dump).status();
            assert!(status.unwrap().success());
            cluster.node_in(folder, |_| {})
        },
    );
}

#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn a_cursor_is_good_after_any_number_of_restarts_of_the_server_and_of_nodes() {
    let server = Server::start(&[], &[]);
    let cluster = Cluster::on(&server);
    let mut node = cluster.node();
    let mut last = 0;
    for round in 0..3 {
        let cursor = deliver(&node, &format!("r{round}-"), 0..5);
        assert_eq!(ids(&node, last).len(), 5);
        last = cursor;
        server.stop(if round == 0 { "fast" } else { "immediate" });
        server.start_again(&[]);
        let folder = node.kill();
        node = cluster.node_in(folder, |_| {});
        assert_eq!(ids(&node, last), [""; 0]);
        assert_eq!(node.get(&format!("/feed?after={}", last + 1)).status, 409);
    }
    assert_eq!(ids(&node, 0).len(), 15);
}

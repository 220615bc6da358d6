//! `mailslot move`: from SQLite to PostgreSQL and back.

use serde_json::Value;

use crate::{
    harness::{Inbox, message},
    load::{Cluster, run},
};

fn feed(inbox: &Inbox) -> Vec<Value> {
    let (mut after, mut all) = ("0".to_owned(), Vec::new());
    loop {
        let page = inbox.get(&format!("/feed?limit=1000&after={after}")).json;
        let data = page["data"].as_array().unwrap();
        if data.is_empty() {
            return all;
        }
        all.extend(data.iter().cloned());
        page["next"].as_str().unwrap().clone_into(&mut after);
    }
}

/// Stores and erases some messages, some of them in an epoch of their own.
fn filled(mut inbox: Inbox, url: &str, restart: impl Fn(Inbox) -> Inbox) -> Inbox {
    for number in 0..600 {
        let mut message = message(&format!("m{number}"));
        message["from"] = Value::from(format!("+{}", 100 + number % 7));
        message["text"] = Value::from(["straße\0", "plain", "ÉCOLE"][number % 3]);
        assert_eq!(inbox.deliver(&message).status, 200);
        if number == 300 {
            inbox = restart(inbox);
        }
    }
    let folder = inbox.folder.path().to_owned();
    let (status, said) = run(url, &folder, &["erase", "--yes", "--from", "+103"]);
    assert_eq!(status, Some(0), "{said}");
    inbox
}

#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn a_move_to_postgresql_and_back_keeps_cursors_times_and_tombstones() {
    let cluster = Cluster::shared();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| format!("sqlite:///{}", folder.path().join(name).display());
    let start = |url: &str| {
        let url = url.to_owned();
        Inbox::start_with(tempfile::tempdir().unwrap(), |command| {
            command.env("DATABASE_URL", url);
        })
    };
    let (first, second, server) = (file("first.db"), file("second.db"), cluster.url());
    let inbox = filled(start(&first), &first, |inbox| {
        drop(inbox.stop());
        start(&first)
    });
    let (expected, totals) = (feed(&inbox), inbox.get("/stats").text);
    assert_eq!(expected.len(), 514);
    drop(inbox.stop());

    let moves = |from: &str, to: &str| run(from, folder.path(), &["move", to]);
    let (status, said) = moves(&first, &server);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("moved: 514 messages and the tombstones of 86"), "{said}");
    // Once more has nothing to do, and finds the same.
    let (status, again) = moves(&first, &server);
    assert_eq!((status, digest(&again)), (Some(0), digest(&said)), "{again}");

    let node = cluster.node();
    assert_eq!(feed(&node), expected, "with cursors and times");
    assert_eq!(node.get("/stats").text, totals);
    let last = expected.last().unwrap()["cursor"].as_str().unwrap();
    assert_eq!(node.get(&format!("/feed?after={last}")).json["next"], *last);
    assert_eq!(node.get(&format!("/feed?after={}", last.parse::<i64>().unwrap() + 1)).status, 409);
    let mut erased = message("m3");
    erased["from"] = Value::from("+103");
    let answer = node.deliver(&erased);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(node.get("/stats").text, totals, "it stays erased");
    assert_eq!(node.deliver(&message("new")).status, 200);
    let with_new = feed(&node);
    assert_eq!(with_new[..expected.len()], expected[..]);
    let cursor = |message: &Value| message["cursor"].as_str().unwrap().parse::<i64>().unwrap();
    assert!(cursor(&with_new[expected.len()]) > cursor(&expected[expected.len() - 1]));
    let (status, said) = moves(&first, &server);
    assert_eq!(status, Some(1));
    assert!(said.contains("in use already"), "{said}");

    drop(node.stop());
    let (status, said) = moves(&server, &second);
    assert_eq!(status, Some(0), "{said}");
    let inbox = start(&second);
    assert_eq!(feed(&inbox), with_new);
    assert_eq!(inbox.deliver(&erased).status, 200);
    assert_eq!(inbox.deliver(&message("last")).status, 200);
    assert_eq!(feed(&inbox).len(), with_new.len() + 1);
    let (status, said) = run(&second, folder.path(), &["check"]);
    assert!(said.contains("right for"), "{status:?} {said}");
    let (_, said) = moves(&first, &second);
    assert!(said.contains("in use already") || said.contains("messages of its own"), "{said}");
}

fn digest(said: &str) -> &str {
    said.split_once("SHA-256 ").map_or(said, |(_, rest)| &rest[..64])
}

#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn a_move_that_was_interrupted_goes_on_where_it_was() {
    let cluster = Cluster::shared();
    let folder = tempfile::tempdir().unwrap();
    let source = format!("sqlite:///{}", folder.path().join("source.db").display());
    let url = source.clone();
    let inbox = Inbox::start_with(tempfile::tempdir().unwrap(), |command| {
        command.env("DATABASE_URL", url);
    });
    let inbox = filled(inbox, &source, |inbox| inbox);
    drop(inbox.stop());
    // Its second portion fails, and all that follow.
    let server = cluster.url();
    drop(cluster.node().stop());
    cluster.sql(
        "CREATE FUNCTION public.stop() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN IF (SELECT count(*) FROM mailslot.messages) > 500 THEN RAISE ''by a test'';
              END IF; RETURN NULL; END';
         CREATE TRIGGER stop AFTER INSERT ON messages
             FOR EACH STATEMENT EXECUTE FUNCTION public.stop()",
    );
    let (status, said) = run(&source, folder.path(), &["move", &server]);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("by a test"), "{said}");
    assert_eq!(cluster.rows(), 500);
    cluster.sql("DROP TRIGGER stop ON messages");
    let (status, said) = run(&source, folder.path(), &["move", &server]);
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(cluster.rows(), 514);
}

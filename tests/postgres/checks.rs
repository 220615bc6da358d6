//! What `mailslot check` finds on a server, and the index of searches.

use crate::{
    harness::{message, server::Server, wait_for},
    load::{Cluster, run},
};

#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn a_check_names_what_is_wrong_with_the_server_and_with_the_counters() {
    let server = Server::start(&["fsync=off", "synchronous_commit=off"], &[]);
    let cluster = Cluster::on(&server);
    let folder = tempfile::tempdir().unwrap();
    let check = || run(&cluster.url(), folder.path(), &["check", "--full"]);
    let (_, said) = check();
    assert!(said.contains("start the service once, which creates its tables"), "{said}");
    let node = cluster.node();
    for number in 0..50 {
        assert_eq!(node.deliver(&message(&format!("m{number}"))).status, 200);
    }
    let (status, said) = check();
    assert_eq!(status, Some(1), "{said}");
    for finding in [
        "PostgreSQL 1",
        "fsync is off, so a power failure loses what was acknowledged",
        "synchronous_commit is off: mailslot's own commits set it to on",
        "no synchronous standby",
        "the server allows 397 in all",
        "the server's agrees with this machine's",
        "its index is there",
        "this user may read and write every table",
        "right for 50 messages",
        "intact, and of this version",
    ] {
        assert!(said.contains(finding), "{finding}: {said}");
    }
    wait_for(|| cluster.count("SELECT messages FROM totals") == 50);
    cluster.sql(
        "UPDATE totals SET messages = 51; UPDATE classes SET n = 51; UPDATE parties SET n = n + 1;
         UPDATE counts SET n = n + 1 WHERE level = 3",
    );
    let (_, said) = check();
    assert!(said.contains("51 messages, but there are 50"), "{said}");
    assert!(said.contains("wrong for 1 senders"), "{said}");
    assert!(said.contains("0 receivers with a right count, but there are 1"), "{said}");
    assert!(said.contains("0 kinds with a right count, but there are 1"), "{said}");
    assert!(said.contains("51 messages in the counts of hours, but there are 50"), "{said}");
    cluster.sql("REVOKE DELETE ON messages FROM mailslot");
    cluster.sql("UPDATE messages SET hash = sha256('x') WHERE message_id = 'm1'");
    let (_, said) = check();
    assert!(said.contains("this user may not read and write messages"), "{said}");
    assert!(said.contains("of which 1 are wrong"), "{said}");
}

#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn the_index_of_searches_is_there_where_the_operator_wants_it_and_changes_no_answer() {
    let cluster = Cluster::shared();
    let has_index = || {
        cluster.count(
            "SELECT count(*) FROM pg_index
             WHERE indexrelid = to_regclass('mailslot.messages_by_text') AND indisvalid",
        ) == 1
    };
    let node = cluster.node();
    wait_for(has_index);
    for number in 0..2_000 {
        let mut message = message(&format!("m{number}"));
        message["text"] = format!("Word {number} a%b_c").into();
        if number % 100 == 0 {
            assert_eq!(node.deliver(&message).status, 200);
        }
    }
    let searches = ["q=word", "q=1900", "q=a%25b", "q=b_c", "q=a_b", "q=d", "q=absent&order=desc"];
    let answers = |node: &crate::harness::Inbox| {
        searches.map(|search| node.get(&format!("/messages?{search}")).text)
    };
    let expected = answers(&node);
    drop(node.stop());
    let node = cluster.node_with(|command| {
        command.env("SEARCH_INDEX", "off");
    });
    wait_for(|| !has_index());
    assert_eq!(answers(&node), expected);
    drop(node.stop());
    let node = cluster.node();
    wait_for(has_index);
    assert_eq!(answers(&node), expected);
    // One whose creation was interrupted is of no use, and is made once more.
    drop(node.stop());
    cluster.sql(
        "UPDATE pg_index SET indisvalid = false
         WHERE indexrelid = 'mailslot.messages_by_text'::regclass",
    );
    let node = cluster.node();
    wait_for(has_index);
    assert_eq!(answers(&node), expected);
}

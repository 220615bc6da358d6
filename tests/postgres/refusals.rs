//! Servers that mailslot cannot use: one sentence at the start, and 503 later.

use std::{fs, path::Path, process::Command, time::Duration};

use crate::{
    client::Client,
    harness::{message, notification, notify_socket, refused, server::Server, wait_for},
    load::{Cluster, send},
};

/// The exit status where the operator has to change something, and where it may pass.
const MEND: i32 = 2;
const PASSING: i32 = 1;

/// A start with this DATABASE_URL says one sentence, with these words in it, and not the password.
fn expect_refusal(url: &str, status: i32, words: &[&str]) {
    let output = refused(|command| {
        command.env("DATABASE_URL", url);
    });
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{url}: {said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{url}: {said}");
    assert!(words.iter().all(|word| said.contains(word)), "{url}: {said}, not {words:?}");
    assert!(!said.contains("secret"), "{said}");
    eprint!("{said}");
}

#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn a_wrong_password_user_database_or_port_is_one_sentence() {
    let cluster = Cluster::shared();
    let url = cluster.url();
    expect_refusal(&url.replace(":secret@", ":wrong@"), MEND, &["password"]);
    expect_refusal(&url.replace(":secret@", "@"), MEND, &["password"]);
    expect_refusal(&url.replace("//mailslot:", "//somebody:"), MEND, &["somebody"]);
    expect_refusal(&url.replace(&cluster.database(), "missing"), MEND, &["\"missing\""]);
    // Nothing listens on port 1.
    expect_refusal(&url.replace(&cluster.server.port.to_string(), "1"), PASSING, &["127.0.0.1:1"]);
}

#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn an_encoding_other_than_utf8_is_one_sentence() {
    let server = Server::shared();
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let name = format!("of_{encoding}");
        server.sql(
            "postgres",
            &format!(
                "CREATE DATABASE \"{name}\" OWNER mailslot TEMPLATE template0
                 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
            ),
        );
        let cluster = Cluster::shared();
        expect_refusal(
            &cluster.url().replace(&cluster.database(), &name),
            MEND,
            &[encoding, "UTF8"],
        );
    }
}

#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn a_user_without_the_rights_is_refused_with_their_names() {
    let cluster = Cluster::shared();
    cluster.server.sql("postgres", "CREATE ROLE visitor LOGIN PASSWORD 'secret'");
    let url = cluster.url().replace("//mailslot:", "//visitor:");
    expect_refusal(&url, MEND, &["visitor", "GRANT"]);
    drop(cluster.node());
    expect_refusal(&url, MEND, &["visitor", "GRANT"]);
}

#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn a_server_in_recovery_is_refused_at_the_start_and_waited_for_later() {
    let server = Server::start(&[], &[]);
    let cluster = Cluster::on(&server);
    let node = cluster.node();
    assert_eq!(node.deliver(&message("before")).status, 200);
    server.stop("fast");
    let refused = node.deliver(&message("down"));
    assert_eq!((refused.status, refused.header("Retry-After")), (503, Some("1")), "{refused:?}");
    fs::write(server.folder.join("data/standby.signal"), "").unwrap();
    server.start_again(&[]);
    expect_refusal(&cluster.url(), PASSING, &["read"]);
    let refused = node.deliver(&message("recovery"));
    assert_eq!((refused.status, refused.header("Retry-After")), (503, Some("1")), "{refused:?}");
    assert_eq!(node.get("/health/ready").status, 503);
    assert_eq!(server.sql("postgres", "SELECT pg_promote()"), "t");
    send(&mut [Client::new(node.address)], 0, "after");
    assert_eq!(cluster.rows(), 2);
}

#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn a_database_that_is_read_only_by_its_settings_is_refused_and_503_later() {
    let cluster = Cluster::shared();
    let (server, database) = (cluster.server, cluster.database());
    let node = cluster.node();
    let end_sessions = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
    );
    let set = format!("ALTER DATABASE \"{database}\" SET default_transaction_read_only =");
    server.sql("postgres", &format!("{set} on"));
    server.sql("postgres", &end_sessions);
    expect_refusal(&cluster.url(), PASSING, &["read"]);
    let refused = node.deliver(&message("m1"));
    assert_eq!((refused.status, refused.header("Retry-After")), (503, Some("1")), "{refused:?}");
    server.sql("postgres", &format!("{set} off"));
    send(&mut [Client::new(node.address)], 0, "m1");
    assert_eq!(node.get("/messages").json["total"], 1);
}

#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn too_many_connections_are_one_sentence_and_503_later() {
    let cluster = Cluster::shared();
    let (server, database) = (cluster.server, cluster.database());
    let node = cluster.node();
    assert_eq!(node.deliver(&message("before")).status, 200);
    server.sql("postgres", &format!("ALTER DATABASE \"{database}\" CONNECTION LIMIT 0"));
    server.sql(
        "postgres",
        &format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
        ),
    );
    expect_refusal(&cluster.url(), PASSING, &["too many connections"]);
    for path in ["/messages", "/stats", "/feed?after=0"] {
        assert_eq!(node.get(path).status, 503, "{path}");
    }
    assert_eq!(node.deliver(&message("during")).status, 503);
    assert_eq!(node.get("/health/live").status, 200);
    server.sql("postgres", &format!("ALTER DATABASE \"{database}\" CONNECTION LIMIT -1"));
    send(&mut [Client::new(node.address)], 0, "during");
    wait_for(|| node.get("/messages").json["total"] == 2);
}

/// An old password file of MD5 hashes gives no SCRAM.
#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn a_password_that_is_stored_as_md5_is_one_sentence() {
    let server = Server::start(&["password_encryption=md5"], &[]);
    let cluster = Cluster::on(&server);
    let url = cluster.url();
    let methods = server.folder.join("data/pg_hba.conf");
    for method in ["md5", "password"] {
        fs::write(&methods, format!("local all all trust\nhost all all 127.0.0.1/32 {method}\n"))
            .unwrap();
        server.sql("postgres", "SELECT pg_reload_conf()");
        let changed =
            format!("SELECT count(*) FROM pg_hba_file_rules WHERE auth_method = '{method}'");
        wait_for(|| server.sql("postgres", &changed) == "1");
        expect_refusal(&url, MEND, &["scram-sha-256"]);
    }
}

/// Files of an authority, and of a server's certificate for 127.0.0.1 with these days of validity.
fn certificates(folder: &Path, name: &str, days: &str) {
    let script = "
        test -e ca.pem || openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 30 \
            -subj /CN=authority 2>/dev/null
        openssl req -newkey rsa:2048 -nodes -keyout $1.key -out $1.csr -subj /CN=server 2>/dev/null
        printf 'subjectAltName=IP:127.0.0.1\\nbasicConstraints=CA:false' > $1.ext
        openssl x509 -req -in $1.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out $1.pem \
            -extfile $1.ext $2 2>/dev/null";
    let script = script.replace("$2", days).replace("$1", name);
    let status = Command::new("sh").args(["-ec", &script]).current_dir(folder).status();
    assert!(status.unwrap().success());
}

#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn a_server_without_tls_or_with_a_certificate_that_does_not_hold_is_one_sentence() {
    let cluster = Cluster::shared();
    for mode in ["require", "verify-full"] {
        let url = cluster.url().replace("sslmode=disable", &format!("sslmode={mode}"));
        expect_refusal(&url, MEND, &["TLS"]);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    certificates(folder.path(), "good", "-days 20");
    // openssl req cannot write a certificate that has expired; x509 can, with a negative number.
    certificates(folder.path(), "expired", "-days -1");
    for (name, is_good) in [("good", true), ("expired", false)] {
        let (certificate, key) = (path(&format!("{name}.pem")), path(&format!("{name}.key")));
        let environment = [("SSL_CERTIFICATE", &*certificate), ("SSL_KEY", &*key)];
        let server = Server::start(&[], &environment);
        let cluster = Cluster::on(&server);
        let url = |mode: &str| cluster.url().replace("sslmode=disable", mode);
        let verified = url(&format!("sslmode=verify-full&sslrootcert={}", path("ca.pem")));
        let mut urls = vec![url("sslmode=require")];
        if is_good {
            expect_refusal(
                &url("sslmode=verify-full"),
                MEND,
                &["unknown authority", "sslrootcert"],
            );
            let other_name = verified.replace("127.0.0.1", "localhost");
            expect_refusal(&other_name, MEND, &["another host name"]);
            urls.push(verified);
        } else {
            expect_refusal(&verified, MEND, &["expired"]);
        }
        for url in urls {
            let node = cluster.node_with(|command| {
                command.env("DATABASE_URL", &url);
            });
            assert_eq!(node.deliver(&message("m1")).status, 200, "{url}");
            let encrypted = "SELECT count(*) > 0 AND bool_and(ssl)
                FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'mailslot'";
            assert_eq!(server.sql("postgres", encrypted), "t", "{url}");
        }
    }
}

/// A restart would not bring the server back, and the restarted process could not start without it.
#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn while_the_server_is_away_a_node_is_alive_for_systemd_and_refuses_to_restart() {
    let server = Server::start(&[], &[]);
    let cluster = Cluster::on(&server);
    let folder = tempfile::tempdir().unwrap();
    let socket = notify_socket(folder.path(), Duration::from_mins(1));
    let node = cluster.node_in(folder, |command| {
        let folder = command.get_current_dir().unwrap().to_owned();
        command.env("NOTIFY_SOCKET", folder.join("notify")).env("WATCHDOG_USEC", "12000000");
    });
    assert_eq!(node.deliver(&message("m1")).status, 200);
    assert_eq!(
        (notification(&socket), notification(&socket)),
        ("READY=1".to_owned(), "WATCHDOG=1".to_owned())
    );
    server.stop("immediate");
    assert_eq!(node.get("/health/ready").status, 503);
    assert_eq!(notification(&socket), "WATCHDOG=1", "with the server away");
    node.signal("-USR2");
    let refused = node.wait_for_log(|line| line["reason"] == "SIGUSR2");
    assert_eq!(refused["problems"], "the database server takes no commit now");
    server.start_again(&[]);
    send(&mut [Client::new(node.address)], 0, "m2");
    node.signal("-USR2");
    node.wait_for_log(|line| line["msg"] == "listening");
    assert_eq!(node.deliver(&message("m2")).status, 200);
    assert_eq!(cluster.rows(), 2);
    node.stop();
}

//! The verbs of the command line, each as an operator runs it.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use rustix::pty::{self, OpenptFlags};
use serde_json::{Value, json};

use crate::harness::{
    Inbox, SECRET, command, count, database, message, message_with, on_postgres, sign, sign_with,
    signal,
};

/// Every command with its options and its operand.
pub const VERBS: [(&str, &[&str]); 15] = [
    ("serve", &[]),
    ("healthcheck", &[]),
    ("sign", &["--scheme", "--url", "--id", "--timestamp", "FILE"]),
    ("verify", &["--signature", "--explain", "--scheme", "--url", "--id", "--timestamp", "FILE"]),
    ("send", &["--url", "--count", "--rate", "--connections", "--json", "--scheme", "FILE"]),
    ("tail", &["-n", "--follow"]),
    (
        "export",
        &[
            "--format",
            "--from",
            "--to",
            "--since",
            "--until",
            "--q",
            "--source",
            "--kind",
            "--originals",
            "--output",
        ],
    ),
    ("import", &["FILE"]),
    ("backup", &["--force", "FILE"]),
    ("check", &["--full", "--json"]),
    ("config", &["--json"]),
    ("erase", &["--from", "--before", "--yes"]),
    ("move", &["URL"]),
    ("completions", &["bash", "zsh", "fish"]),
    ("man", &[]),
];

fn run(command: &mut Command, arguments: &[&str]) -> Output {
    command.args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn run_with(command: &mut Command, arguments: &[&str], input: &[u8]) -> Output {
    let pipes = command.args(arguments).stdin(Stdio::piped());
    let mut child = pipes.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

/// What a command writes where its stdout is a terminal.
fn on_a_terminal(command: &mut Command, arguments: &[&str]) -> String {
    let controller = pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    pty::grantpt(&controller).unwrap();
    pty::unlockpt(&controller).unwrap();
    let name = pty::ptsname(&controller, Vec::new()).unwrap().into_string().unwrap();
    let terminal = fs::File::options().read(true).write(true).open(name).unwrap();
    let mut child = command.args(arguments).stdin(Stdio::null()).stdout(terminal).spawn().unwrap();
    // Also the copy that the command keeps, so that reading ends when the program does.
    command.stdout(Stdio::null());
    let mut shown = Vec::new();
    // At the end, a terminal that is closed on its other side gives an error.
    let _ = fs::File::from(controller).read_to_end(&mut shown);
    assert!(child.wait().unwrap().success());
    // A terminal writes "\r\n" for "\n", and so "\r\r\n" for "\r\n".
    String::from_utf8(shown).unwrap().replace('\r', "")
}

/// With the settings that the service was started with.
fn beside(inbox: &Inbox) -> Command {
    let mut command = command(inbox.folder.path());
    command.env("LISTEN", inbox.address.to_string());
    command
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    stdout(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn failed(output: &Output, status: i32, why: &str) {
    assert_eq!(output.status.code(), Some(status), "{output:?}");
    assert!(stderr(output).contains(why), "{why} is not in {}", stderr(output));
}

#[test]
fn every_verb_explains_itself_and_its_flags() {
    let bare = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mailslot"));
        command.env_clear();
        command
    };
    let all = stdout(&run(&mut bare(), &["--help"]));
    let readme = fs::read_to_string("docs/REFERENCE.md").unwrap();
    for (verb, flags) in VERBS {
        assert!(readme.contains(&format!("\n| `{verb}")), "REFERENCE.md lacks {verb}");
        let help = run(&mut bare(), &[verb, "--help"]);
        assert_eq!((help.status.code(), stderr(&help)), (Some(0), String::new()), "{verb}");
        for flag in flags {
            assert!(stdout(&help).contains(flag), "{verb} --help lacks {flag}");
        }
        assert!(verb == "serve" || all.contains(&format!("mailslot {verb}")), "{verb}");
        failed(&run(&mut bare(), &[verb, "--frobnicate"]), 2, "--help");
    }
    assert_eq!(all.matches("\n  mailslot ").count(), VERBS.len() + 3, "a verb is not tested here");
    failed(&run(&mut bare(), &["snd"]), 2, "unknown command \"snd\"; see mailslot --help");
    let extra = run(&mut bare(), &["serve", "extra"]);
    failed(&extra, 2, "unexpected argument \"extra\"; see mailslot serve --help");
    failed(&run(&mut bare(), &["sign", "a", "b"]), 2, "see mailslot sign --help");
}

#[test]
fn what_sign_prints_the_service_takes() {
    let inbox = Inbox::start();
    let body = message("m1").to_string();
    let signed = run_with(&mut beside(&inbox), &["sign", "-"], body.as_bytes());
    assert_eq!(stdout(&signed), format!("{}\n", sign(body.as_bytes())));
    let signature = stdout(&signed).trim().to_owned();
    assert_eq!(inbox.post(body.as_bytes(), &[("X-Signature", &signature)]).status, 200);
    fs::write(inbox.folder.path().join("body"), &body).unwrap();
    assert_eq!(stdout(&run(&mut beside(&inbox), &["sign", "body"])), stdout(&signed));
    failed(&run(&mut beside(&inbox), &["sign", "nowhere"]), 1, "nowhere: No such file");
    failed(&run(beside(&inbox).env_remove("WEBHOOK_SECRET"), &["sign", "body"]), 2, "expected");
}

#[test]
fn verify_says_which_secret_it_was() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("secrets"), "new secret\nold secret\n").unwrap();
    let verify = |signature: &str| {
        let mut command = command(folder.path());
        command.env_remove("WEBHOOK_SECRET").env("WEBHOOK_SECRET_FILE", "secrets");
        run_with(&mut command, &["verify", "--signature", signature, "-"], b"body")
    };
    for (secret, said, status) in [
        ("new secret", "ok (secret 1)\n", 0),
        ("old secret", "ok (secret 2)\n", 0),
        ("older secret", "not valid\n", 1),
    ] {
        for signature in [sign_with(secret, b"body"), sign_with(secret, b"body").to_uppercase()] {
            let output = verify(&signature);
            assert_eq!((&*stdout(&output), output.status.code()), (said, Some(status)));
            assert_eq!(stderr(&output), "");
        }
    }
}

/// What `verify --explain` says, under this secret.
fn explained(secret: &str, signature: &str, body: &[u8]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["verify", "--explain", "--signature", signature, "-"];
    let mut command = command(folder.path());
    let output = run_with(command.env("WEBHOOK_SECRET", secret), &arguments, body);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = stdout(&output);
    assert!(!text.contains(secret.trim()), "{text}");
    let rest = text.strip_prefix("not valid\n").unwrap();
    rest.lines().map(str::to_owned).collect()
}

#[test]
fn verify_explains_what_is_wrong_with_a_signature() {
    let right = sign(b"body");
    let base64 = BASE64_STANDARD.encode(hex::decode(&right).unwrap());
    for (signature, why) in [
        (format!("sha256={right}"), "begins with sha256="),
        (format!(" {right}\n"), "white space around it"),
        (base64.clone(), "base64"),
        (base64.trim_end_matches('=').replace('+', "-").replace('/', "_"), "base64"),
        (right[..40].to_owned(), "40 hexadecimal digits"),
        (format!("{right}00"), "66 hexadecimal digits"),
        (
            right.replace(|c: char| c.is_ascii_digit(), "x"),
            "64 characters that are not hexadecimal",
        ),
        (sign_with("other", b"body"), "another secret, or of another body"),
    ] {
        let reasons = explained(SECRET, &signature, b"body");
        assert!(reasons.len() == 1 && reasons[0].contains(why), "{why}: {reasons:?}");
    }
}

#[test]
fn verify_explains_what_happened_to_a_body() {
    for (signed, arrived, why) in [
        (&b"{}"[..], &b"{}\n"[..], "signed without the \\n at its end"),
        (b"{}", b"{}\r\n", "signed without the \\r\\n at its end"),
        (b"{}\n", b"{}", "signed with \\n at its end"),
        (b"{}\r\n", b"{}", "signed with \\r\\n at its end"),
        (b"{\"b\":1,\"a\":\"x, y\"}", b"{ \"b\": 1.0,\"a\":\"x, y\" }", "another"),
        (
            b"{\"b\":1,\"a\":\"x, y\"}",
            b"{\n  \"b\": 1,\n  \"a\": \"x, y\"\n}",
            "without white space",
        ),
        (b"{\"b\": 1, \"a\": \"x\"}", b"{\"b\":1,\"a\":\"x\"}", "with a space after each"),
    ] {
        let reasons = explained(SECRET, &sign(signed), arrived);
        assert!(reasons.len() == 1 && reasons[0].contains(why), "{why}: {reasons:?}");
    }
}

#[test]
fn verify_explains_what_happened_to_a_secret() {
    let signed = |key: &[u8]| {
        use hmac::{Hmac, KeyInit, Mac};
        let mac = Hmac::<sha2::Sha256>::new_from_slice(key).unwrap();
        hex::encode(mac.chain_update(b"body").finalize().into_bytes())
    };
    let encoded = BASE64_STANDARD.encode("a key of bytes");
    let whsec = format!("whsec_{encoded}");
    for (secret, used, why) in [
        (" testsecret ", &b"testsecret"[..], "has white space around it"),
        ("testsecret", b"testsecret\n", "has \\n at its end where the body is signed"),
        ("testsecret", b"testsecret\r\n", "has \\r\\n at its end"),
        ("0123456789abcdef00", &hex::decode("0123456789abcdef00").unwrap(), "hexadecimal"),
        (&encoded, b"a key of bytes", "decoded from base64"),
        (&whsec, b"a key of bytes", "behind whsec_"),
        (&whsec, encoded.as_bytes(), "without whsec_"),
    ] {
        let reasons = explained(secret, &signed(used), b"body");
        assert!(reasons.len() == 1 && reasons[0].contains(why), "{why}: {reasons:?}");
        let reasons = explained(secret, &format!("sha256={}", signed(used)), b"body\n");
        assert!(reasons.len() == 3 && reasons[1].contains(why), "three mistakes: {reasons:?}");
    }
}

#[test]
fn a_backup_under_load_has_what_was_acknowledged_and_can_be_served() {
    let inbox = Inbox::start();
    let filled = run(&mut beside(&inbox), &["send", "--count", "3000", "--connections", "8"]);
    assert!(filled.status.success(), "{filled:?}");
    let is_over = AtomicBool::new(false);
    let before = thread::scope(|scope| {
        for client in 0..4 {
            let (inbox, is_over) = (&inbox, &is_over);
            scope.spawn(move || {
                for number in 0.. {
                    if is_over.load(SeqCst) {
                        break;
                    }
                    let sent = inbox.deliver(&message(&format!("{client}-{number}")));
                    assert_eq!(sent.status, 200);
                }
            });
        }
        thread::sleep(Duration::from_millis(200));
        let before = inbox.rows();
        let output = run(&mut beside(&inbox), &["backup", "copy/../copy.db"]);
        failed(&output, 1, "copy/../copy.db.part: No such file");
        let output = run(&mut beside(&inbox), &["backup", "copy.db"]);
        is_over.store(true, SeqCst);
        assert!(output.status.success(), "{output:?}");
        assert!(stdout(&output).starts_with("copy.db: "), "{output:?}");
        before
    });
    let copied = tempfile::tempdir().unwrap();
    let of_inbox: Vec<_> = fs::read_dir(inbox.folder.path()).unwrap().collect();
    let names: Vec<String> = of_inbox
        .into_iter()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("copy"))
        .collect();
    assert_eq!(names, ["copy.db"]);
    fs::copy(inbox.folder.path().join("copy.db"), database(copied.path())).unwrap();
    let (in_copy, in_all) = (count(copied.path(), "SELECT count(*) FROM messages"), inbox.rows());
    assert!((before..=in_all).contains(&in_copy), "{before} {in_copy} {in_all}");
    assert!(before > 3000, "{before}");
    let copy = Inbox::start_in(copied);
    assert_eq!(copy.get("/stats").json["total_messages"], json!(in_copy));
    assert_eq!(copy.deliver(&message("0-0")).status, 200);
    assert_eq!(copy.rows(), in_copy, "it was there already");
}

#[test]
fn a_backup_replaces_a_file_only_when_asked_to_and_never_the_database() {
    let inbox = Inbox::start();
    assert_eq!(inbox.deliver(&message("m1")).status, 200);
    let folder = inbox.folder.path();
    fs::write(folder.join("there"), "precious").unwrap();
    failed(&run(&mut beside(&inbox), &["backup", "there"]), 1, "--force");
    assert_eq!(fs::read(folder.join("there")).unwrap(), b"precious");
    assert!(run(&mut beside(&inbox), &["backup", "--force", "there"]).status.success());
    assert!(fs::read(folder.join("there")).unwrap().starts_with(b"SQLite format 3"));
    for name in ["mailslot.db", "./mailslot.db"] {
        failed(&run(&mut beside(&inbox), &["backup", "--force", name]), 1, "the database itself");
        let output = run(&mut beside(&inbox), &["export", "--output", name]);
        failed(&output, 1, "the database itself");
    }
    fs::write(folder.join("other.db-wal"), "").unwrap();
    failed(&run(&mut beside(&inbox), &["backup", "other.db"]), 1, "a database in use");
    assert_eq!(inbox.rows(), 1);
    failed(&run(beside(&inbox).env("DATABASE_URL", "none.db"), &["backup", "x"]), 1, "not there");
    assert!(!folder.join("none.db").exists() && !folder.join("x.part").exists());
}

/// A stopped inbox whose file has been overwritten somewhere in its middle.
fn damaged() -> tempfile::TempDir {
    let inbox = Inbox::start();
    assert!(run(&mut beside(&inbox), &["send", "--count", "500"]).status.success());
    let folder = inbox.stop();
    let mut bytes = fs::read(database(folder.path())).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 8 * 4096].fill(0xa5);
    fs::write(database(folder.path()), bytes).unwrap();
    folder
}

#[test]
fn a_backup_of_a_damaged_database_gets_no_name() {
    let folder = damaged();
    failed(&run(&mut command(folder.path()), &["backup", "copy"]), 1, "the copy is damaged");
    assert!(!folder.path().join("copy").exists() && !folder.path().join("copy.part").exists());
    let checked = run(&mut command(folder.path()), &["check"]);
    assert_eq!(checked.status.code(), Some(1));
    assert!(stdout(&checked).contains("PROBLEM  database: "), "{}", stdout(&checked));
}

#[test]
fn check_finds_a_healthy_inbox_healthy() {
    let inbox = Inbox::start();
    assert!(run(&mut beside(&inbox), &["send", "--count", "200"]).status.success());
    for arguments in [&["check"][..], &["check", "--full"]] {
        let output = run(&mut beside(&inbox), arguments);
        let text = stdout(&output);
        assert_eq!(output.status.code(), Some(0), "{text}");
        let engine = if on_postgres() {
            ["ok       server: PostgreSQL", "ok       database: intact"]
        } else {
            ["ok       disk: ", "ok       database: intact"]
        };
        for line in [
            "ok       settings: ",
            "warning  secret 1: 10 bytes",
            engine[0],
            engine[1],
            "ok       counters: right for 200 messages\n",
            "ok       clock: 20",
            "ok       service: ready at ",
            ", and it stores in this database\n",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        assert!(!text.contains(SECRET));
    }
}

#[test]
fn check_says_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let check = |command: &mut Command| {
        let output = run(command, &["check"]);
        (output.status.code().unwrap(), stdout(&output))
    };
    let (status, text) = check(&mut command(folder.path()));
    assert!(status == 0 && text.contains("does not exist yet"), "{text}");
    assert!(!database(folder.path()).exists(), "it has made none");
    let wrong = check(command(folder.path()).env("WORKERS", "many").env("LOG_LEVEL", "loud"));
    assert!(
        wrong.0 == 1 && wrong.1.contains("PROBLEM  settings: WORKERS=\"many\": expected"),
        "{wrong:?}"
    );
    assert!(wrong.1.contains("PROBLEM  settings: LOG_LEVEL=\"loud\": expected"), "{wrong:?}");

    let inbox = Inbox::start_in(folder);
    assert_eq!(inbox.deliver(&message("m1")).status, 200);
    let folder = inbox.stop();
    let tamper = |sql: &str| {
        let connection = rusqlite::Connection::open(database(folder.path())).unwrap();
        connection.execute_batch(sql).unwrap();
    };
    for (sql, undo, expected) in [
        (
            "UPDATE totals SET messages = 7",
            "UPDATE totals SET messages = 1",
            "7 messages, but there are 1",
        ),
        (
            "UPDATE totals SET senders = 0",
            "UPDATE totals SET senders = 1",
            "0 senders, but there are 1",
        ),
        ("UPDATE senders SET n = 2", "UPDATE senders SET n = 1", "wrong for 1 senders"),
        (
            "UPDATE rank_index SET n = n + 1 WHERE sender_id = 0 AND level = 1",
            "UPDATE rank_index SET n = n - 1 WHERE sender_id = 0 AND level = 1",
            "2 messages in the rank index, but there are 1",
        ),
        (
            "UPDATE messages SET created_at = '2999-01-01T00:00:00.000Z'",
            "UPDATE messages SET created_at = '2025-01-01T00:00:00.000Z'",
            "PROBLEM  clock",
        ),
    ] {
        tamper(sql);
        let (status, text) = check(&mut command(folder.path()));
        assert!(status == 1 && text.contains(expected), "{expected}: {text}");
        assert_eq!(text.matches("PROBLEM").count(), 1, "{text}");
        tamper(undo);
    }
    tamper("PRAGMA user_version = 99");
    let (status, text) = check(&mut command(folder.path()));
    assert!(status == 1 && text.contains("version 99"), "{text}");
}

/// What `check --json` finds, under these changes to a stopped inbox's settings.
fn found(settings: &[(&str, &str)]) -> Vec<(String, String, String)> {
    let folder = Inbox::start().stop();
    for (name, mode) in [("private", 0o600), ("public", 0o644)] {
        let file = folder.path().join(name);
        fs::write(&file, "a secret that is long enough\n").unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::write(folder.path().join("public.env"), "READ_TOKEN=a-token-that-is-long-enough\n")
        .unwrap();
    if !on_postgres() {
        fs::set_permissions(database(folder.path()), fs::Permissions::from_mode(0o600)).unwrap();
    }
    // Others could otherwise not come to the files in it.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(folder.path().join("credentials")).unwrap();
    fs::write(folder.path().join("credentials/webhook_secret"), SECRET).unwrap();
    let mut command = command(folder.path());
    let output = run(command.envs(settings.iter().copied()), &["check", "--json"]);
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let findings = report["findings"].as_array().unwrap().iter();
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap().to_owned();
    let findings: Vec<_> = findings
        .map(|finding| (text(finding, "level"), text(finding, "what"), text(finding, "message")))
        .collect();
    let worst =
        ["problem", "warning", "ok"].into_iter().find(|l| findings.iter().any(|f| f.0 == *l));
    assert_eq!(report["verdict"].as_str(), worst, "{report}");
    assert_eq!(output.status.code(), Some(i32::from(worst == Some("problem"))), "{report}");
    assert!(!stdout(&output).contains("long enough"), "{report}");
    findings
}

#[test]
fn check_finds_secrets_that_are_weak_readable_by_others_or_given_twice() {
    const LONG: &str = "0123456789abcdef";
    for (settings, what, message) in [
        (
            &[("WEBHOOK_SECRET", ""), ("WEBHOOK_SECRET_FILE", "public")][..],
            "WEBHOOK_SECRET_FILE",
            "others may read public",
        ),
        (&[("READ_TOKEN_FILE", "public.env")], "READ_TOKEN_FILE", "others may read public.env"),
        (&[("SETTINGS_FILE", "public.env")], "SETTINGS_FILE", "others may read public.env"),
        (&[("WEBHOOK_SECRET_FILE", "private")], "WEBHOOK_SECRET", "WEBHOOK_SECRET_FILE is ignored"),
        (
            &[("READ_TOKEN", LONG), ("READ_TOKEN_FILE", "public.env")],
            "READ_TOKEN",
            "READ_TOKEN_FILE is ignored",
        ),
        (
            &[("CREDENTIALS_DIRECTORY", "credentials")],
            "WEBHOOK_SECRET",
            "credential webhook_secret is ignored",
        ),
        (&[("READ_TOKEN", "0123456789abcdef short")], "read token 2", "5 bytes"),
        (&[("LISTEN", "0.0.0.0:0")], "LISTEN", "set READ_TOKEN"),
        (&[("LISTEN", "[::]:0")], "LISTEN", "set READ_TOKEN"),
    ] {
        let findings = found(settings);
        let is_it = |finding: &&(String, String, String)| {
            finding.0 == "warning" && finding.1 == what && finding.2.contains(message)
        };
        assert_eq!(findings.iter().filter(is_it).count(), 1, "{what} {message}: {findings:?}");
    }
    for settings in [
        &[("WEBHOOK_SECRET", ""), ("WEBHOOK_SECRET_FILE", "private")][..],
        &[("WEBHOOK_SECRET", LONG), ("READ_TOKEN", LONG), ("LISTEN", "0.0.0.0:0")],
        &[("WEBHOOK_SECRET", LONG), ("LISTEN", "[::1]:0")],
    ] {
        let findings = found(settings);
        let is_fine = |(level, what, _): &(String, String, String)| {
            // PostgreSQL has no synchronous standby here.
            level == "ok" || what == "service" || what == "server" && on_postgres()
        };
        assert!(findings.iter().all(is_fine), "{findings:?}");
    }
}

#[test]
fn check_finds_that_the_running_service_stores_in_another_database() {
    let inbox = Inbox::start();
    let other = Inbox::start().stop();
    for (path, is_right) in [
        (database(inbox.folder.path()), true),
        (database(other.path()), false),
        (inbox.folder.path().join("none.db"), false),
    ] {
        let mut command = beside(&inbox);
        let output = run(command.env("DATABASE_URL", &path), &["check"]);
        let text = stdout(&output);
        assert_eq!(output.status.code(), Some(i32::from(!is_right)), "{text}");
        assert_eq!(text.contains("it stores in this database"), is_right, "{text}");
        let problem = "PROBLEM  service: ready at ";
        assert_eq!(text.contains(problem), !is_right, "{text}");
        assert_eq!(text.contains("stores in another database than"), !is_right, "{text}");
    }
    assert!(!inbox.folder.path().join("none.db").exists());
}

#[test]
fn check_as_root_under_systemd_says_how_to_run_it_as_the_services_user() {
    let inbox = Inbox::start();
    let unit = fs::read_to_string("packaging/mailslot.service").unwrap();
    // systemd is there as sd_booted(3) sees it, in a namespace of the test's own.
    let script = "mount -t tmpfs none /run && mkdir -p /run/systemd/system && exec \"$0\" check";
    let mut unshared = Command::new("unshare");
    unshared.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").args(["-m", "sh", "-c"]);
    for (name, value) in beside(&inbox).get_envs() {
        unshared.env(name, value.unwrap());
    }
    let Ok(output) = unshared.args([script, env!("CARGO_BIN_EXE_mailslot")]).output() else {
        return;
    };
    if !stdout(&output).contains("ok       settings") {
        eprintln!("skipped: this user may not mount: {}", stderr(&output));
        return;
    }
    let text = stdout(&output);
    let line = text.lines().find(|line| line.starts_with("warning  user: this is root"));
    let line = line.unwrap_or_else(|| panic!("{text}"));
    assert!(
        line.contains("systemd-run --quiet --pipe --wait ") && line.ends_with(" check"),
        "{line}"
    );
    // What the unit says of its user, its folder and its settings.
    for property in line.split(" -p ").skip(1) {
        let property = property.split(' ').next().unwrap();
        assert!(property == "User=mailslot" || unit.contains(property), "{property}");
    }
    assert!(!stdout(&run(&mut beside(&inbox), &["check"])).contains("systemd-run"));
}

#[test]
fn config_prints_the_effective_settings_with_their_sources_and_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("token"), "first-token\nsecond-token\n").unwrap();
    fs::create_dir(folder.path().join("credentials")).unwrap();
    fs::write(folder.path().join("credentials/webhook_secret"), SECRET).unwrap();
    fs::write(folder.path().join("settings"), "# comment\nWORKERS=3\nLOG_LEVEL=debug\n").unwrap();
    let config = |arguments: &[&str], settings: &[(&str, &str)]| {
        let mut command = command(folder.path());
        command.env_remove("WEBHOOK_SECRET").env("CREDENTIALS_DIRECTORY", "credentials");
        command.env("READ_TOKEN_FILE", "token").env("SETTINGS_FILE", "settings");
        command.env("LOG_LEVEL", "ERROR");
        run(command.envs(settings.iter().copied()).arg("config"), arguments)
    };
    let output = config(&["--json"], &[]);
    let settings: Value = serde_json::from_str(&stdout(&output)).unwrap();
    for (name, value, source) in [
        ("WEBHOOK_SECRET", json!("***"), "credential webhook_secret"),
        ("WEBHOOK_SECRET_FILE", Value::Null, "default"),
        ("READ_TOKEN", json!("*** ***"), "READ_TOKEN_FILE"),
        ("READ_TOKEN_FILE", json!("token"), "environment"),
        ("LISTEN", json!("127.0.0.1:0"), "environment"),
        ("WORKERS", json!("3"), "SETTINGS_FILE line 2"),
        ("LOG_LEVEL", json!("ERROR"), "environment"),
        ("MAX_CONNECTIONS", json!("1024"), "default"),
        ("RETENTION_DAYS", Value::Null, "default"),
    ] {
        assert_eq!(settings[name], json!({ "value": value, "source": source }), "{name}");
    }
    let names: Vec<_> = mailslot::config::SETTINGS.iter().map(|setting| setting.name).collect();
    assert_eq!(settings.as_object().unwrap().len(), names.len());
    let text = stdout(&config(&[], &[]));
    assert_eq!(text.lines().map(|line| line.split(' ').next().unwrap()).collect::<Vec<_>>(), names);
    assert!(text.contains(" 3 [SETTINGS_FILE line 2]\n"), "{text}");
    for secret in [SECRET, "first-token", "second-token"] {
        assert!(!text.contains(secret) && !stdout(&output).contains(secret), "{text}");
    }
    let output = config(&["--json"], &[("WEBHOOK_SECRET", SECRET)]);
    let settings: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(settings["WEBHOOK_SECRET"], json!({ "value": "***", "source": "environment" }));

    let output = config(&[], &[("LISTEN", "nowhere"), ("IDLE_MS", "x")]);
    failed(&output, 2, "LISTEN=\"nowhere\": expected");
    failed(&output, 2, "IDLE_MS=\"x\": expected");
    assert_eq!(stdout(&output), "");
}

fn follow(inbox: &Inbox, arguments: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut command = beside(inbox);
    let mut child = command.arg("tail").args(arguments).stdout(Stdio::piped()).spawn().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    (child, output)
}

fn ended(child: &mut Child) -> Option<i32> {
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    panic!("it goes on");
}

#[test]
fn tail_prints_the_last_messages_as_the_feed_does() {
    let inbox = Inbox::start();
    assert!(stdout(&run(&mut beside(&inbox), &["tail"])).is_empty());
    for number in 0..12 {
        assert_eq!(inbox.deliver(&message(&format!("m{number}"))).status, 200);
    }
    let feed = inbox.get("/feed").json["data"].as_array().unwrap().clone();
    assert_eq!(lines(&run(&mut beside(&inbox), &["tail"])), feed[2..]);
    assert_eq!(lines(&run(&mut beside(&inbox), &["tail", "-n", "3"])), feed[9..]);
    assert_eq!(lines(&run(&mut beside(&inbox), &["tail", "-n0"])), feed[12..]);
    assert_eq!(lines(&run(&mut beside(&inbox), &["tail", "-n", "100"])), feed);
    failed(&run(&mut beside(&inbox), &["tail", "-n", "some"]), 2, "tail --help");
    let folder = inbox.stop();
    assert_eq!(lines(&run(&mut command(folder.path()), &["tail"])), feed[2..]);
}

#[test]
fn tail_follows_new_messages_until_its_output_is_closed() {
    let inbox = Inbox::start();
    assert_eq!(inbox.deliver(&message("m0")).status, 200);
    let (mut child, mut output) = follow(&inbox, &["-n", "1", "--follow"]);
    for id in ["m0", "m1", "m2"] {
        if id != "m0" {
            assert_eq!(inbox.deliver(&message(id)).status, 200);
        }
        let (sent, mut line) = (Instant::now(), String::new());
        output.read_line(&mut line).unwrap();
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["message_id"], id);
        assert!(sent.elapsed() < Duration::from_secs(9), "{:?}", sent.elapsed());
    }
    drop(output);
    assert_eq!(ended(&mut child), Some(0));

    // The pipe may also close while it writes.
    assert!(run(&mut beside(&inbox), &["send", "--count", "2000"]).status.success());
    let (mut child, mut output) = follow(&inbox, &["-n", "2000"]);
    output.read_line(&mut String::new()).unwrap();
    drop(output);
    assert_eq!(ended(&mut child), Some(0));

    if on_postgres() {
        return;
    }
    let (mut child, mut output) = follow(&inbox, &["-n", "1", "-f"]);
    output.read_line(&mut String::new()).unwrap();
    let folder = inbox.stop();
    fs::rename(database(folder.path()), folder.path().join("moved.db")).unwrap();
    assert_eq!(ended(&mut child), Some(1));
}

#[test]
fn export_gives_what_the_endpoint_gives() {
    let inbox = Inbox::start();
    for number in 0..600 {
        let fields = json!({
            "ts": format!("2025-01-{:02}T10:00:00Z", 1 + number % 28),
            "from": format!("+{}", number % 3),
            "to": format!("+{}", number % 5),
            "text": format!("Nummer {number}, \"École\""),
        });
        assert_eq!(inbox.deliver(&message_with(&format!("m{number}"), &fields)).status, 200);
    }
    for (query, flags) in [
        ("", &[][..]),
        ("format=csv", &["--format", "csv"]),
        ("from=%2B1&to=%2B2&q=%C3%A9cole", &["--from", "+1", "--to=+2", "--q", "ÉCOLE"]),
        (
            "since=2025-01-05T00:00:00Z&until=2025-01-07T00:00:00Z&format=ndjson",
            &[
                "--since",
                "2025-01-05T00:00:00Z",
                "--until",
                "2025-01-07T00:00:00Z",
                "--format=ndjson",
            ],
        ),
        ("from=%2B9", &["--from", "+9"]),
    ] {
        let wanted = inbox.get(&format!("/export?{query}")).text;
        let output = run(beside(&inbox).arg("export"), flags);
        assert_eq!((stdout(&output), output.status.code()), (wanted.clone(), Some(0)), "{query}");
        let output = run(beside(&inbox).args(["export", "--output", "file"]), flags);
        assert_eq!((stdout(&output), output.status.code()), (String::new(), Some(0)));
        assert_eq!(fs::read_to_string(inbox.folder.path().join("file")).unwrap(), wanted);
        assert!(!inbox.folder.path().join("file.part").exists());
    }
    for wrong in [["--format", "xml"], ["--since", "yesterday"]] {
        failed(&run(beside(&inbox).arg("export"), &wrong), 2, "expected");
    }
}

#[test]
fn send_reports_what_the_database_has() {
    let inbox = Inbox::start();
    let output =
        run(&mut beside(&inbox), &["send", "--count", "300", "--connections", "4", "--json"]);
    let report = &lines(&output)[0];
    assert_eq!((&report["acknowledged"], output.status.code()), (&json!(300), Some(0)));
    assert_eq!(
        (inbox.rows(), inbox.get("/stats").json["total_messages"].as_i64()),
        (300, Some(300))
    );
    let latency = |name: &str| report["latency_ms"][name].as_f64().unwrap();
    assert!(0.0 < latency("p50") && latency("p50") <= latency("p99"), "{report}");
    assert!(latency("p99") <= latency("max"), "{report}");

    let started = Instant::now();
    let output = run(&mut beside(&inbox), &["send", "--count", "11", "--rate", "20"]);
    assert!(started.elapsed() >= Duration::from_millis(500), "{:?}", started.elapsed());
    assert!(stdout(&output).starts_with("11 acknowledged in "), "{output:?}");
    assert_eq!(inbox.rows(), 311);
}

#[test]
fn send_posts_the_lines_of_a_file_and_says_what_is_refused() {
    let inbox = Inbox::start();
    let bad = message_with("bad", &json!({ "from": "nobody" }));
    let lines = format!("{}\n\n{bad}\r\n{}\n", message("m1"), message("m2"));
    fs::write(inbox.folder.path().join("lines"), &lines).unwrap();
    let url = inbox.url("/webhook");
    for file in ["lines", "-"] {
        let mut command = beside(&inbox);
        let arguments = ["send", "--url", &*url, file];
        let output = run_with(command.env("LISTEN", "127.0.0.1:1"), &arguments, lines.as_bytes());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = stdout(&output);
        assert!(text.starts_with("2 acknowledged") && text.contains("\n1 refused with 422\n"));
    }
    assert_eq!(inbox.rows(), 2);
    let output = run(&mut beside(&inbox), &["send", "--count", "1", "lines"]);
    assert!(output.status.success() && stdout(&output).starts_with("1 acknowledged"));
    let mut other = beside(&inbox);
    let output = run(other.env("WEBHOOK_SECRET", "another"), &["send"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("1 refused with 401"), "{output:?}");
    let https = ["send", "--url", "https://127.0.0.1/webhook"];
    failed(&run(&mut beside(&inbox), &https), 2, "there is no https");
}

#[test]
fn send_tries_again_what_could_not_be_stored() {
    let inbox = Inbox::start_with_faults();
    inbox.fault("disk_full", true);
    let mut command = beside(&inbox);
    command.args(["send", "--count", "3", "--connections", "3"]).stdout(Stdio::piped());
    let child = command.spawn().unwrap();
    inbox.wait_for_log(|line| line["status"] == 503);
    inbox.fault("disk_full", false);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(stdout(&output).starts_with("3 acknowledged"), "{output:?}");
    assert!(stdout(&output).contains(" sent again\n"), "{output:?}");
    assert_eq!(inbox.rows(), 3);
}

#[test]
fn send_reports_what_was_acknowledged_when_it_is_interrupted() {
    let inbox = Inbox::start();
    // With messages still to send, and while it waits for more of them.
    for (arguments, lines) in [(&["--count", "1000000", "--rate", "100"][..], 0), (&["-"], 20)] {
        let before = inbox.rows();
        let mut command = beside(&inbox);
        command.args(["send", "--json"]).args(arguments).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        for number in 0..lines {
            writeln!(input, "{}", message(&format!("line{number}"))).unwrap();
        }
        while inbox.rows() < before + 20 {
            thread::sleep(Duration::from_millis(10));
        }
        signal(child.id(), "-INT");
        let output = child.wait_with_output().unwrap();
        // The shell that runs it sees that the user interrupted it.
        assert_eq!(output.status.signal(), Some(2), "{output:?}");
        assert!(stderr(&output).contains("interrupted"), "{output:?}");
        let acknowledged = self::lines(&output)[0]["acknowledged"].as_i64().unwrap();
        // The last message may be stored and not acknowledged yet.
        let stored = inbox.rows() - before;
        assert!((stored - 1..=stored).contains(&acknowledged), "{acknowledged} of {stored}");
    }
}

#[test]
fn erase_asks_and_then_erases_for_good() {
    let inbox = Inbox::start();
    for (id, from, ts) in [
        ("m1", "+1", "2025-01-15T10:00:00Z"),
        ("m2", "+2", "2025-01-15T10:00:00Z"),
        ("m3", "+2", "2024-01-15T10:00:00Z"),
    ] {
        let sent = inbox.deliver(&message_with(id, &json!({ "from": from, "ts": ts })));
        assert_eq!(sent.status, 200);
    }
    failed(&run(&mut beside(&inbox), &["erase", "--from", "+1"]), 2, "--yes");
    failed(&run(&mut beside(&inbox), &["erase", "--yes"]), 2, "--from");
    failed(&run(&mut beside(&inbox), &["erase", "--before", "then", "--yes"]), 2, "expected");
    assert_eq!(inbox.rows(), 3);
    let output = run(&mut beside(&inbox), &["erase", "--from", "+1", "--yes"]);
    assert_eq!((&*stdout(&output), inbox.rows()), ("messages erased: 1\n", 2));
    assert_eq!(inbox.deliver(&message("m1")).status, 200);
    assert_eq!(inbox.rows(), 2, "it stays away");
    let output = run(&mut beside(&inbox), &["erase", "--before", "2025-01-01T00:00:00Z", "--yes"]);
    assert_eq!((&*stdout(&output), inbox.rows()), ("messages erased: 1\n", 1));
    let checked = stdout(&run(&mut beside(&inbox), &["check", "--full"]));
    assert!(checked.contains("right for 1 messages"), "{checked}");
    let mut elsewhere = beside(&inbox);
    let output = run(elsewhere.env("DATABASE_URL", "none.db"), &["erase", "--from", "+1", "--yes"]);
    failed(&output, 1, "not there");
    assert!(!inbox.folder.path().join("none.db").exists());
}

#[test]
fn on_a_terminal_control_characters_are_escaped_and_a_pipe_gets_every_byte() {
    let inbox = Inbox::start();
    let text =
        "\u{1b}[2J|\u{7f}|\u{9b}31m|\u{202e}|\u{200f}|\u{2066}|over\rwritten|tab\t|École 🙂\nline";
    let delivered = message_with("\u{9d}0;title\u{9c}", &json!({ "text": text }));
    assert_eq!(inbox.deliver(&delivered).status, 200);
    let is_obeyed = |c: char| {
        let is_control = c.is_control() && c != '\n' && c != '\t';
        is_control || "\u{202e}\u{200f}\u{2066}".contains(c)
    };
    let csv = ["export", "--format", "csv"];
    for arguments in [&["tail"][..], &["export"], &csv] {
        let shown = on_a_terminal(&mut beside(&inbox), arguments);
        assert!(!shown.contains(is_obeyed), "{arguments:?} {shown:?}");
        for part in ["\\u009d0;title\\u009c", "\\u001b[2J", "\\u007f", "\\u202e", "École 🙂"] {
            assert!(shown.contains(part), "{arguments:?} {part} {shown:?}");
        }
        let piped = stdout(&run(&mut beside(&inbox), arguments));
        assert!(piped.contains("\u{202e}|\u{200f}|\u{2066}|over"), "{arguments:?} {piped:?}");
        if arguments == csv {
            assert!(piped.contains(text), "{piped:?}");
            assert!(shown.contains("|over\\u000dwritten|tab\t|"), "{shown:?}");
        } else {
            // The same message, which other programs can read.
            let [shown, piped] = [&shown, &piped].map(|line| serde_json::from_str(line).unwrap());
            let (shown, piped): (Value, Value) = (shown, piped);
            assert_eq!(shown, piped);
            assert_eq!(shown["text"], text);
        }
    }
}

#[test]
fn an_option_whose_number_is_wrong_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for (verb, option, wrong) in [
        ("send", "--count", "x"),
        ("send", "--count", "-1"),
        ("send", "--rate", "fast"),
        ("send", "--rate", "NaN"),
        ("send", "--rate", "0"),
        ("send", "--connections", "many"),
        ("send", "--connections", "0"),
        ("tail", "-n", "some"),
        ("tail", "-n", "-1"),
    ] {
        let output = run(&mut command(folder.path()), &[verb, option, wrong]);
        failed(&output, 2, &format!("{option} {wrong:?}: expected "));
        failed(&output, 2, &format!("see mailslot {verb} --help"));
    }
}

#[test]
fn erase_of_a_sender_without_messages_says_so_and_exits_with_2() {
    let inbox = Inbox::start();
    assert_eq!(inbox.deliver(&message("m1")).status, 200);
    let epoch = || inbox.count("SELECT max(first_cursor) FROM epochs");
    let first = epoch();
    for arguments in [["--from", "+1"], ["--before", "2024-01-01T00:00:00Z"]] {
        let output = run(beside(&inbox).args(["erase", "--yes"]), &arguments);
        failed(&output, 2, &format!("no message matches {} {}", arguments[0], arguments[1]));
        assert_eq!(epoch(), first, "counting writes nothing");
        assert_eq!(stdout(&output), "");
    }
    assert_eq!(inbox.rows(), 1);

    // Unless an erasure was interrupted, of which this one does the rest.
    let connection = rusqlite::Connection::open(database(inbox.folder.path())).unwrap();
    connection.execute_batch("UPDATE totals SET erasing = 1").unwrap();
    drop(connection);
    let output = run(&mut beside(&inbox), &["erase", "--from", "+1", "--yes"]);
    assert_eq!((output.status.code(), &*stdout(&output)), (Some(0), "messages erased: 0\n"));
    assert!(stderr(&output).contains("was interrupted"), "{output:?}");
    assert_eq!(inbox.count("SELECT erasing FROM totals"), 0);
}

#[test]
fn import_of_an_empty_input_creates_no_database() {
    let folder = tempfile::tempdir().unwrap();
    let output = run_with(&mut command(folder.path()), &["import", "-"], b"");
    assert!(output.status.success(), "{output:?}");
    assert!(stderr(&output).starts_with("0 messages stored, "), "{output:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "no file was made");
}

#[test]
fn import_shows_its_progress_on_a_terminal_only() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path());
    let pipes = command.args(["import", "-"]).stdin(Stdio::piped());
    let mut child = pipes.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    for number in 0..3 {
        writeln!(input, "{}", message(&format!("m{number}"))).unwrap();
        // Longer than the second between two lines of progress.
        thread::sleep(Duration::from_millis(1_100));
    }
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let report = stderr(&output);
    assert!(report.starts_with("3 messages stored, 0 known already, 0 bad lines"), "{report}");
    assert_eq!(report.lines().count(), 1, "{report}");
}

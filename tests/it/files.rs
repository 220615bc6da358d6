//! The files of the database, and what the command line writes beside them.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::harness::{Inbox, command, count, database, fault_library, message, refused_in};

fn deliver_some(inbox: &Inbox, name: &str, messages: usize) {
    for number in 0..messages {
        assert_eq!(inbox.deliver(&message(&format!("{name}{number}"))).status, 200);
    }
}

/// Deliveries are refused, and the log names the file.
fn refuses_because_of(inbox: &Inbox, path: &Path) {
    let reply = inbox.deliver(&message("refused"));
    assert_eq!(reply.status, 503, "{} is not what it was", path.display());
    assert_eq!(reply.json, json!({ "detail": "the database file was removed or replaced" }));
    let line =
        inbox.wait_for_log(|line| line["msg"].as_str().unwrap().starts_with("the database file"));
    assert_eq!(line["path"], json!(path));
}

#[test]
fn a_log_that_is_removed_is_noticed_also_where_database_url_names_a_symbolic_link() {
    for is_there_before in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(elsewhere.path()).unwrap().join("real.db");
        if is_there_before {
            fs::write(&real, "").unwrap();
        }
        // A link to a link, the second one relative to its own folder.
        symlink("real.db", elsewhere.path().join("second")).unwrap();
        symlink(elsewhere.path().join("second"), database(folder.path())).unwrap();
        let inbox = Inbox::start_in(folder);
        deliver_some(&inbox, "m", 40);
        let log = elsewhere.path().join("real.db-wal");
        assert!(fs::metadata(&log).is_ok_and(|log| log.len() > 0));
        fs::remove_file(&log).unwrap();
        refuses_because_of(&inbox, &real.with_extension("db-wal"));
        assert_eq!(inbox.get("/health/ready").status, 503);
        let folder = inbox.stop();
        assert_eq!(count(folder.path(), "SELECT count(*) FROM messages"), 40, "nothing is lost");
    }
}

/// After a killed process the page cache can have commits that the disk does not have, and only a
/// start writes the log again before it checkpoints. SQLite also checkpoints when the last
/// connection of all processes is closed.
#[test]
fn a_command_that_reads_leaves_the_log_of_a_killed_service_to_the_next_start() {
    let inbox = Inbox::start();
    deliver_some(&inbox, "m", 40);
    let folder = inbox.kill();
    let log = database(folder.path()).with_extension("db-wal");
    let left = fs::read(&log).unwrap();
    assert!(!left.is_empty());
    let output = folder.path().join("export.ndjson");
    let commands: [&[&str]; 4] = [
        &["check"],
        &["export", "--output", output.to_str().unwrap()],
        &["tail", "-n", "1"],
        &["erase", "--from", "+10000000000"],
    ];
    for arguments in commands {
        command(folder.path()).args(arguments).output().unwrap();
        assert!(fs::read(&log).is_ok_and(|log| log == left), "{arguments:?} changed the log");
    }
    let inbox = Inbox::start_in(folder);
    assert_eq!(inbox.rows(), 40);
}

#[test]
fn a_symbolic_link_that_is_pointed_elsewhere_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let link = database(folder.path());
    symlink(elsewhere.path().join("real.db"), &link).unwrap();
    let inbox = Inbox::start_in(folder);
    deliver_some(&inbox, "m", 1);
    fs::remove_file(&link).unwrap();
    symlink(elsewhere.path().join("other.db"), &link).unwrap();
    refuses_because_of(&inbox, &link);
}

#[test]
fn a_removed_shm_is_noticed_and_nothing_acknowledged_is_lost_though_others_write() {
    let inbox = Inbox::start();
    deliver_some(&inbox, "a", 40);
    let folder = inbox.folder.path().to_owned();
    let index = fs::canonicalize(&folder).unwrap().join("mailslot.db-shm");
    fs::remove_file(&index).unwrap();
    let lines = (0..200).map(|n| message(&format!("b{n}")).to_string() + "\n");
    fs::write(folder.join("lines"), lines.collect::<String>()).unwrap();
    let import = command(&folder).args(["import", "lines"]).output().unwrap();
    assert!(import.status.success(), "{import:?}");
    refuses_because_of(&inbox, &index);
    let inbox = Inbox::start_in(inbox.stop());
    assert_eq!(inbox.get("/stats").json["total_messages"], 240);
    deliver_some(&inbox, "c", 10);
    let folder = inbox.stop();
    assert_eq!(count(folder.path(), "SELECT count(*) FROM messages"), 250);
    assert_eq!(
        count(
            folder.path(),
            "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check = 'ok'"
        ),
        1
    );
}

/// What `export --output` and `backup` say to a name that they must not write to.
fn refused_output(folder: &Path, arguments: &[&str], sentence: &str) {
    let output = command(folder).args(arguments).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
    assert!(stderr.contains(sentence), "{arguments:?}: {stderr}");
}

#[test]
fn an_export_or_a_backup_never_replaces_a_file_of_a_database() {
    let inbox = Inbox::start();
    deliver_some(&inbox, "m", 10);
    let folder = inbox.folder.path();
    let inode = |name: &str| fs::metadata(folder.join(name)).unwrap().ino();
    let names = ["mailslot.db", "mailslot.db-wal", "mailslot.db-shm"];
    let before = names.map(inode);
    for name in ["mailslot.db-wal", "mailslot.db-shm", "mailslot.db-journal", "new-wal"] {
        refused_output(folder, &["export", "--output", name], "name another file");
        refused_output(folder, &["backup", name, "--force"], "name another file");
    }
    refused_output(folder, &["export", "--output", "-"], "a file is needed");
    refused_output(folder, &["backup", "-"], "a file is needed");
    // A link to the database; and a name from which FILE.part would be the database.
    symlink("mailslot.db", folder.join("link.db")).unwrap();
    refused_output(folder, &["backup", "link.db", "--force"], "the database itself");
    assert_eq!(names.map(inode), before);
    deliver_some(&inbox, "n", 10);
    for other in ["other.db-wal", "third.db-shm", "fourth.db-journal"] {
        fs::write(folder.join(other), "x").unwrap();
        let name = other.rsplit_once('-').unwrap().0;
        refused_output(folder, &["backup", name], "a database in use");
    }
    assert_eq!(count(inbox.stop().path(), "SELECT count(*) FROM messages"), 20);

    let inbox = Inbox::start_with(tempfile::tempdir().unwrap(), |command| {
        command.env("DATABASE_URL", "inbox.part");
    });
    deliver_some(&inbox, "m", 10);
    let output = command(inbox.folder.path())
        .env("DATABASE_URL", "inbox.part")
        .args(["export", "--output", "inbox"])
        .output();
    let stderr = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(stderr.contains("inbox.part: that is the database itself"), "{stderr}");
    deliver_some(&inbox, "n", 10);
    assert_eq!(inbox.get("/stats").json["total_messages"], 20);
}

#[test]
fn an_unfinished_export_goes_into_a_private_file_of_its_own_and_nowhere_else() {
    let folder = Inbox::start().stop();
    let folder = folder.path();
    let part = folder.join("out.part");
    let victim = folder.join("victim");
    fs::write(&victim, "untouched").unwrap();
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).unwrap();
    let foreign: [&dyn Fn(); 5] = [
        &|| symlink(&victim, &part).unwrap(),
        &|| symlink(folder.join("nowhere"), &part).unwrap(),
        &|| fs::hard_link(&victim, &part).unwrap(),
        &|| {
            fs::write(&part, "").unwrap();
            fs::set_permissions(&part, fs::Permissions::from_mode(0o644)).unwrap();
        },
        &|| {
            let made = Command::new("mkfifo").arg("-m").arg("600").arg(&part).status();
            assert!(made.unwrap().success());
        },
    ];
    for lay in foreign {
        lay();
        for arguments in [&["export", "--output", "out"][..], &["backup", "out"]] {
            refused_output(folder, arguments, "out.part: the file exists");
        }
        assert!(fs::symlink_metadata(&part).is_ok() && !folder.join("out").exists());
        fs::remove_file(&part).unwrap();
    }
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    assert!(!folder.join("nowhere").exists());
    // What an interrupted run of its own has left does not stop the next one.
    fs::write(&part, "left").unwrap();
    fs::set_permissions(&part, fs::Permissions::from_mode(0o600)).unwrap();
    let output = command(folder).args(["export", "--output", "out"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(fs::metadata(folder.join("out")).unwrap().mode() & 0o777, 0o600);
}

fn with_faults(command: &mut Command) {
    let faults = command.get_current_dir().unwrap().join("faults");
    command.env("LD_PRELOAD", fault_library()).env("FAULTS", faults);
}

#[test]
fn a_full_disk_takes_messages_as_long_as_the_log_can_be_used_from_its_start() {
    for is_killed in [false, true] {
        let inbox = Inbox::start_with_faults();
        deliver_some(&inbox, "before", 20);
        // From here on the database has all its pages, and the log begins empty.
        let mut inbox = Inbox::start_with(inbox.stop(), with_faults);
        // Each writes a page that is there already: the log grows, the database need not.
        for _ in 0..100 {
            assert_eq!(inbox.get("/health/ready").status, 200);
        }
        inbox.fault("no_growth", true);
        if is_killed {
            inbox = Inbox::start_with(inbox.kill(), with_faults);
        } else {
            assert_eq!(inbox.deliver(&message("during")).status, 503, "the log cannot grow");
        }
        let end = Instant::now() + Duration::from_secs(20);
        while inbox.deliver(&message("during")).status != 200 {
            assert!(Instant::now() < end, "the log is not used from its start");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(inbox.rows(), 21);
        let folder = inbox.kill();
        assert_eq!(count(folder.path(), "SELECT count(*) FROM messages"), 21);
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

#[test]
fn only_its_own_user_may_read_the_database_that_it_creates_whatever_the_umask_is() {
    let inbox = Inbox::start_with(tempfile::tempdir().unwrap(), |command| {
        command.env("DATABASE_URL", "new/folder/app.db");
    });
    deliver_some(&inbox, "m", 1);
    let new = inbox.folder.path().join("new/folder");
    for name in ["app.db", "app.db-wal", "app.db-shm"] {
        assert_eq!(mode(&new.join(name)), 0o600, "{name}");
    }
    assert_eq!(mode(&new), 0o700);

    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("lines"), format!("{}\n", message("m1"))).unwrap();
    let import = Command::new("sh")
        .args(["-c", "umask 000 && exec \"$0\" import lines", env!("CARGO_BIN_EXE_mailslot")])
        .current_dir(folder.path())
        .status();
    assert!(import.unwrap().success());
    let file = database(folder.path());
    assert_eq!(mode(&file), 0o600);

    // What the operator has allowed stays allowed, also in the files that SQLite adds.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let inbox = Inbox::start_in(folder);
    deliver_some(&inbox, "n", 1);
    for end in ["db", "db-wal", "db-shm"] {
        assert_eq!(mode(&database(inbox.folder.path()).with_extension(end)), 0o640, "{end}");
    }
}

#[test]
fn it_does_not_start_in_a_new_folder_that_it_cannot_make_durable() {
    let folder = tempfile::tempdir().unwrap();
    // Whatever is in a folder of this name fails as the database's own files do: see fault.c.
    fs::create_dir(folder.path().join("disk.db")).unwrap();
    fs::create_dir(folder.path().join("faults")).unwrap();
    fs::write(folder.path().join("faults/fail_fsync"), "").unwrap();
    let output = refused_in(folder.path(), |command| {
        command
            .env("LD_PRELOAD", fault_library())
            .env("FAULTS", folder.path().join("faults"))
            .env("DATABASE_URL", "disk.db/new/mailslot.db");
    });
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("its folder cannot be created: Input/output error"), "{stderr}");
    assert!(!folder.path().join("disk.db/new").exists(), "the next start tries it again");
}

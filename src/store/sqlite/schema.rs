//! The schema and its versions, counted by `PRAGMA user_version`.

use std::time;

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use super::{BUSY_MS_MAX, counts, packs};
use crate::timestamp::Timestamp;

/// `MIGRATIONS[n]` leads from version n to n + 1. What has been released is never edited.
pub(super) const MIGRATIONS: [&str; VERSION as usize] = [
    // The order of messages is by timestamp, and a text does not sort as one ('.' is before 'Z'), so
    // the timestamp is stored: seconds since 1970 and nanoseconds, which holds every ts from the
    // year 0001 to 9999 exactly. In an index that is 6 bytes for a ts without a fraction (the text
    // has 20), since SQLite stores small integers small and zero in none.
    "CREATE TABLE messages (
         id          INTEGER PRIMARY KEY,
         message_id  TEXT NOT NULL UNIQUE,
         from_msisdn TEXT NOT NULL,
         to_msisdn   TEXT NOT NULL,
         ts          TEXT NOT NULL,
         ts_s        INTEGER NOT NULL,
         ts_ns       INTEGER NOT NULL,
         text        TEXT,
         created_at  TEXT NOT NULL
     ) STRICT;
     CREATE INDEX messages_by_ts ON messages (ts_s, ts_ns, message_id);
     CREATE INDEX messages_by_from ON messages (from_msisdn, ts_s, ts_ns, message_id);
     PRAGMA application_id = 1297304660;",
    // What reads would otherwise have to count (counts.rs), and the texts once more, for searching
    // (packs.rs). What is inserted is counted by the writer, for a whole batch at once; what is
    // deleted, by triggers, so that `sqlite3` may delete too.
    "CREATE TABLE totals (
         one      INTEGER PRIMARY KEY CHECK (one = 1),
         messages INTEGER NOT NULL,
         senders  INTEGER NOT NULL,
         last_id  INTEGER NOT NULL, -- the highest messages.id ever; none is given twice
         changes  INTEGER NOT NULL  -- deleted or changed messages, ever
     ) STRICT;
     INSERT INTO totals VALUES (1, 0, 0, 0, 0);

     CREATE TABLE senders (
         id       INTEGER PRIMARY KEY,
         msisdn   TEXT NOT NULL UNIQUE,
         n        INTEGER NOT NULL,
         is_heavy INTEGER NOT NULL DEFAULT 0 -- has milestones
     ) STRICT;
     CREATE INDEX senders_by_n ON senders (n DESC, msisdn);

     CREATE TABLE milestones (
         sender_id  INTEGER NOT NULL, -- 0: everybody
         level      INTEGER NOT NULL,
         ts_s       INTEGER NOT NULL,
         ts_ns      INTEGER NOT NULL,
         message_id TEXT NOT NULL,
         n          INTEGER NOT NULL, -- messages from here to the next
         PRIMARY KEY (sender_id, level, ts_s, ts_ns, message_id)
     ) STRICT, WITHOUT ROWID;
     CREATE INDEX milestones_empty ON milestones (sender_id) WHERE n = 0;

     CREATE TABLE packs (
         block    INTEGER PRIMARY KEY,        -- of the messages with id / 2048 = block
         changes  INTEGER NOT NULL DEFAULT 0, -- deleted or changed messages, ever
         ts_s_max INTEGER,
         trigrams BLOB                        -- null: not packed
     ) STRICT;
     CREATE INDEX packs_missing ON packs (block) WHERE trigrams IS NULL;
     CREATE TABLE pieces (
         id   INTEGER PRIMARY KEY, -- block * 64 and up
         rows BLOB NOT NULL
     ) STRICT;

     CREATE TRIGGER messages_deleted AFTER DELETE ON messages
     WHEN old.id BETWEEN 0 AND (SELECT last_id FROM totals) BEGIN
         UPDATE milestones SET n = n - 1
         WHERE (sender_id, level, ts_s, ts_ns, message_id) = (
             SELECT sender_id, level, ts_s, ts_ns, message_id FROM milestones
             WHERE sender_id = 0 AND level = 1
                 AND (ts_s, ts_ns, message_id) <= (old.ts_s, old.ts_ns, old.message_id)
             ORDER BY ts_s DESC, ts_ns DESC, message_id DESC LIMIT 1);
         UPDATE milestones SET n = n - 1
         WHERE (sender_id, level, ts_s, ts_ns, message_id) = (
             SELECT sender_id, level, ts_s, ts_ns, message_id FROM milestones
             WHERE sender_id = 0 AND level = 2
                 AND (ts_s, ts_ns, message_id) <= (old.ts_s, old.ts_ns, old.message_id)
             ORDER BY ts_s DESC, ts_ns DESC, message_id DESC LIMIT 1);
         UPDATE milestones SET n = n - 1
         WHERE (sender_id, level, ts_s, ts_ns, message_id) = (
             SELECT sender_id, level, ts_s, ts_ns, message_id FROM milestones
             WHERE sender_id = (SELECT id FROM senders WHERE msisdn = old.from_msisdn)
                 AND level = 1
                 AND (ts_s, ts_ns, message_id) <= (old.ts_s, old.ts_ns, old.message_id)
             ORDER BY ts_s DESC, ts_ns DESC, message_id DESC LIMIT 1);
         UPDATE milestones SET n = n - 1
         WHERE (sender_id, level, ts_s, ts_ns, message_id) = (
             SELECT sender_id, level, ts_s, ts_ns, message_id FROM milestones
             WHERE sender_id = (SELECT id FROM senders WHERE msisdn = old.from_msisdn)
                 AND level = 2
                 AND (ts_s, ts_ns, message_id) <= (old.ts_s, old.ts_ns, old.message_id)
             ORDER BY ts_s DESC, ts_ns DESC, message_id DESC LIMIT 1);

         UPDATE senders SET n = n - 1 WHERE msisdn = old.from_msisdn;
         DELETE FROM milestones
         WHERE sender_id = (SELECT id FROM senders WHERE msisdn = old.from_msisdn AND n = 0);
         UPDATE totals SET messages = messages - 1, changes = changes + 1, senders = senders -
             (SELECT count(*) FROM senders WHERE msisdn = old.from_msisdn AND n = 0);
         DELETE FROM senders WHERE msisdn = old.from_msisdn AND n = 0;

         DELETE FROM pieces
         WHERE id BETWEEN old.id / 2048 * 64 AND old.id / 2048 * 64 + 63;
         INSERT INTO packs (block, changes) VALUES (old.id / 2048, 1)
         ON CONFLICT (block) DO UPDATE SET changes = changes + 1, trigrams = NULL;
     END;
     CREATE TRIGGER messages_reworded AFTER UPDATE OF text ON messages BEGIN
         DELETE FROM pieces
         WHERE id BETWEEN old.id / 2048 * 64 AND old.id / 2048 * 64 + 63;
         UPDATE packs SET changes = changes + 1, trigrams = NULL WHERE block = old.id / 2048;
         UPDATE totals SET changes = changes + 1;
     END;
     CREATE TRIGGER messages_moved BEFORE UPDATE ON messages
     WHEN new.id IS NOT old.id OR new.message_id IS NOT old.message_id
         OR new.from_msisdn IS NOT old.from_msisdn
         OR (new.ts, new.ts_s, new.ts_ns) IS NOT (old.ts, old.ts_s, old.ts_ns) BEGIN
         SELECT RAISE(ABORT, 'mailslot keeps counts by these columns: a message can be deleted, but not moved');
     END;",
    // Searching knows receivers too: everything is packed anew, in the background.
    "ALTER TABLE packs ADD COLUMN receivers TEXT; -- of the block, a JSON array
     DELETE FROM pieces;
     UPDATE packs SET changes = changes + 1, trigrams = NULL;
     DROP TRIGGER messages_reworded;
     CREATE TRIGGER messages_reworded AFTER UPDATE OF text, to_msisdn ON messages BEGIN
         DELETE FROM pieces
         WHERE id BETWEEN old.id / 2048 * 64 AND old.id / 2048 * 64 + 63;
         UPDATE packs SET changes = changes + 1, trigrams = NULL WHERE block = old.id / 2048;
         UPDATE totals SET changes = changes + 1;
     END;",
    // Who was erased must not come back by a delivery that is repeated: its id is known by a hash,
    // whose key is this database's own.
    "ALTER TABLE totals ADD COLUMN erased INTEGER NOT NULL DEFAULT 0;
     ALTER TABLE totals ADD COLUMN erasing_key BLOB;
     UPDATE totals SET erasing_key = randomblob(32);
     CREATE TABLE erased (hash BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;",
    // Milestones lack the newest messages, which readers count one by one.
    "ALTER TABLE totals ADD COLUMN counted_id INTEGER NOT NULL DEFAULT 0; -- the last id in milestones
     UPDATE totals SET counted_id = last_id;
     DROP TRIGGER messages_deleted;
     CREATE TRIGGER messages_deleted AFTER DELETE ON messages
     WHEN old.id BETWEEN 0 AND (SELECT last_id FROM totals) BEGIN
         UPDATE senders SET n = n - 1 WHERE msisdn = old.from_msisdn;
         DELETE FROM milestones
         WHERE sender_id = (SELECT id FROM senders WHERE msisdn = old.from_msisdn AND n = 0);
         UPDATE totals SET messages = messages - 1, changes = changes + 1, senders = senders -
             (SELECT count(*) FROM senders WHERE msisdn = old.from_msisdn AND n = 0);
         DELETE FROM senders WHERE msisdn = old.from_msisdn AND n = 0;

         DELETE FROM pieces
         WHERE id BETWEEN old.id / 2048 * 64 AND old.id / 2048 * 64 + 63;
         INSERT INTO packs (block, changes) VALUES (old.id / 2048, 1)
         ON CONFLICT (block) DO UPDATE SET changes = changes + 1, trigrams = NULL;
     END;
     CREATE TRIGGER milestones_deleted AFTER DELETE ON messages
     WHEN old.id BETWEEN 0 AND (SELECT counted_id FROM totals) BEGIN
         UPDATE milestones SET n = n - 1
         WHERE (sender_id, level, ts_s, ts_ns, message_id) = (
             SELECT sender_id, level, ts_s, ts_ns, message_id FROM milestones
             WHERE sender_id = 0 AND level = 1
                 AND (ts_s, ts_ns, message_id) <= (old.ts_s, old.ts_ns, old.message_id)
             ORDER BY ts_s DESC, ts_ns DESC, message_id DESC LIMIT 1);
         UPDATE milestones SET n = n - 1
         WHERE (sender_id, level, ts_s, ts_ns, message_id) = (
             SELECT sender_id, level, ts_s, ts_ns, message_id FROM milestones
             WHERE sender_id = 0 AND level = 2
                 AND (ts_s, ts_ns, message_id) <= (old.ts_s, old.ts_ns, old.message_id)
             ORDER BY ts_s DESC, ts_ns DESC, message_id DESC LIMIT 1);
         UPDATE milestones SET n = n - 1
         WHERE (sender_id, level, ts_s, ts_ns, message_id) = (
             SELECT sender_id, level, ts_s, ts_ns, message_id FROM milestones
             WHERE sender_id = (SELECT id FROM senders WHERE msisdn = old.from_msisdn)
                 AND level = 1
                 AND (ts_s, ts_ns, message_id) <= (old.ts_s, old.ts_ns, old.message_id)
             ORDER BY ts_s DESC, ts_ns DESC, message_id DESC LIMIT 1);
         UPDATE milestones SET n = n - 1
         WHERE (sender_id, level, ts_s, ts_ns, message_id) = (
             SELECT sender_id, level, ts_s, ts_ns, message_id FROM milestones
             WHERE sender_id = (SELECT id FROM senders WHERE msisdn = old.from_msisdn)
                 AND level = 2
                 AND (ts_s, ts_ns, message_id) <= (old.ts_s, old.ts_ns, old.message_id)
             ORDER BY ts_s DESC, ts_ns DESC, message_id DESC LIMIT 1);
     END;",
    // A cursor of the feed is valid in the history in which it was given: `epochs` (epochs.rs).
    // A block whose pack is dropped keeps no receiver of a deleted message. An erasure that was
    // interrupted is known by `totals.erasing`.
    "CREATE TABLE epochs (
         first_id     INTEGER PRIMARY KEY, -- of the messages of this epoch, the first
         first_cursor INTEGER NOT NULL UNIQUE
     ) STRICT;
     INSERT INTO epochs VALUES (0, 0);
     ALTER TABLE totals ADD COLUMN erasing INTEGER NOT NULL DEFAULT 0; -- 1: the file is to be rebuilt
     UPDATE packs SET receivers = NULL WHERE trigrams IS NULL;
     DROP TRIGGER messages_deleted;
     CREATE TRIGGER messages_deleted AFTER DELETE ON messages
     WHEN old.id BETWEEN 0 AND (SELECT last_id FROM totals) BEGIN
         UPDATE senders SET n = n - 1 WHERE msisdn = old.from_msisdn;
         DELETE FROM milestones
         WHERE sender_id = (SELECT id FROM senders WHERE msisdn = old.from_msisdn AND n = 0);
         UPDATE totals SET messages = messages - 1, changes = changes + 1, senders = senders -
             (SELECT count(*) FROM senders WHERE msisdn = old.from_msisdn AND n = 0);
         DELETE FROM senders WHERE msisdn = old.from_msisdn AND n = 0;

         DELETE FROM pieces
         WHERE id BETWEEN old.id / 2048 * 64 AND old.id / 2048 * 64 + 63;
         INSERT INTO packs (block, changes) VALUES (old.id / 2048, 1)
         ON CONFLICT (block) DO UPDATE
             SET changes = changes + 1, trigrams = NULL, receivers = NULL;
     END;
     DROP TRIGGER messages_reworded;
     CREATE TRIGGER messages_reworded AFTER UPDATE OF text, to_msisdn ON messages BEGIN
         DELETE FROM pieces
         WHERE id BETWEEN old.id / 2048 * 64 AND old.id / 2048 * 64 + 63;
         UPDATE packs SET changes = changes + 1, trigrams = NULL, receivers = NULL
         WHERE block = old.id / 2048;
         UPDATE totals SET changes = changes + 1;
     END;",
];

/// The version that this program reads and writes.
pub(super) const VERSION: u32 = 6;
/// "MSLT": how the file tells that it is mailslot's.
const APPLICATION_ID: i64 = 0x4d53_4c54;

/// The table of the design that mailslot comes from, as its FastAPI implementations make it.
const SEED_COLUMNS: [&str; 6] =
    ["created_at", "from_msisdn", "message_id", "text", "to_msisdn", "ts"];

/// Whose file it is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Found {
    Empty,
    Seed,
    Ours { version: u32 },
}

/// Refuses a file that is not ours to write, before anything is written to it.
///
/// # Errors
/// A sentence for the operator.
pub(super) fn check(connection: &Connection) -> Result<(), String> {
    find(connection).map(|_| ())
}

/// Brings the database to [`VERSION`] in one transaction. One that has it already must be writable.
///
/// # Errors
/// A sentence for the operator.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), String> {
    if find(connection)? == (Found::Ours { version: VERSION }) {
        return check_writable(connection).map_err(|error| sentence(&error));
    }
    // Immediate, so that nobody else changes it meanwhile.
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(|error| sentence(&error))?;
    let found = find(&transaction)?;
    if found != (Found::Ours { version: VERSION }) {
        upgrade(&transaction, found)?;
    }
    packs::register(&transaction).map_err(|error| sentence(&error))?;
    transaction.commit().map_err(|error| sentence(&error))
}

/// Fails where this user may not write the database. A lock that another process holds, which may take
/// long, is no reason to refuse the start: `Writer::begin` tries again until it is released.
fn check_writable(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("PRAGMA busy_timeout = 0")?;
    let tried = connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK");
    connection.execute_batch(&format!("PRAGMA busy_timeout = {BUSY_MS_MAX}"))?;
    match tried {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Ok(()),
        tried => tried,
    }
}

pub(super) fn version(connection: &Connection) -> rusqlite::Result<u32> {
    connection.prepare_cached("PRAGMA user_version")?.query_row((), |row| row.get(0))
}

fn find(connection: &Connection) -> Result<Found, String> {
    let version = version(connection).map_err(|error| sentence(&error))?;
    let application: i64 = connection
        .query_row("PRAGMA application_id", (), |row| row.get(0))
        .map_err(|error| sentence(&error))?;
    if application == APPLICATION_ID {
        return if version <= VERSION {
            Ok(Found::Ours { version })
        } else {
            Err(format!(
                "its schema has version {version} and this mailslot knows {VERSION}: run the mailslot that wrote it, or a newer one"
            ))
        };
    }
    let tables = names(
        connection,
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT GLOB 'sqlite_*'",
    )?;
    let columns =
        names(connection, "SELECT name FROM pragma_table_info('messages') ORDER BY name")?;
    match (application, version, &*tables) {
        (0, 0, []) => Ok(Found::Empty),
        (0, 0, [table]) if table == "messages" && columns == SEED_COLUMNS => Ok(Found::Seed),
        _ => {
            Err("it is a SQLite database of another program: give mailslot a file of its own"
                .into())
        }
    }
}

fn names(connection: &Connection, sql: &str) -> Result<Vec<String>, String> {
    let names = || -> rusqlite::Result<_> {
        connection.prepare(sql)?.query_map((), |row| row.get(0))?.collect()
    };
    names().map_err(|error| sentence(&error))
}

fn upgrade(transaction: &Transaction<'_>, found: Found) -> Result<(), String> {
    let run = |sql: &str| transaction.execute_batch(sql).map_err(|error| sentence(&error));
    if found == Found::Seed {
        run("ALTER TABLE messages RENAME TO seed_messages")?;
    }
    let done = if let Found::Ours { version } = found { version } else { 0 };
    for migration in MIGRATIONS.iter().skip(done as usize) {
        run(migration)?;
    }
    if done == 1 && !has_sane_ids(transaction).map_err(|error| sentence(&error))? {
        return Err("another program has stored messages with ids of its own: copy them into a new database with mailslot import".into());
    }
    let mut progress = Progress::of(transaction, found);
    if found == Found::Seed {
        adopt(transaction, &mut progress)?;
    }
    if done < 2 {
        counts::rebuild(transaction, &mut |step, messages| progress.advance(step, messages))
            .map_err(|error| sentence(&error))?;
    }
    run(&format!("PRAGMA user_version = {VERSION}"))?;
    if found != Found::Empty {
        log::info!(from:? = found, to = VERSION; "database migrated");
    }
    Ok(())
}

/// Tells in the log how far long work has come.
struct Progress {
    messages: i64,
    step: &'static str,
    /// Of this step.
    done: i64,
    told: time::Instant,
}

/// How often it does.
const PROGRESS_SECONDS: u64 = 2;

impl Progress {
    fn of(transaction: &Transaction<'_>, found: Found) -> Progress {
        let table = if found == Found::Seed { "seed_messages" } else { "messages" };
        let count =
            transaction.query_row(&format!("SELECT count(*) FROM {table}"), (), |row| row.get(0));
        let (messages, told) = (count.unwrap_or_default(), time::Instant::now());
        Progress { messages, step: "", done: 0, told }
    }

    fn advance(&mut self, step: &'static str, messages: i64) {
        if self.step != step {
            (self.step, self.done) = (step, 0);
        }
        self.done += messages;
        if self.told.elapsed().as_secs() >= PROGRESS_SECONDS {
            log::info!(step, done = self.done, messages = self.messages; "the database is being migrated");
            self.told = time::Instant::now();
        }
    }
}

/// Ids as mailslot gives them: from 1 on, and hardly more than there are messages.
fn has_sane_ids(transaction: &Transaction<'_>) -> rusqlite::Result<bool> {
    let (first, last): (Option<i64>, Option<i64>) = transaction.query_row(
        "SELECT (SELECT min(id) FROM messages), (SELECT max(id) FROM messages)",
        (),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    Ok(first.unwrap_or(1) >= 1 && last.unwrap_or(1) <= ID_SANE)
}

/// More messages than a small machine ever gets.
const ID_SANE: i64 = 1_000_000_000;

/// Takes the seed's rows over, in the order in which they came. What is no timestamp on the way in
/// is none here either: it has no place in the order.
fn adopt(transaction: &Transaction<'_>, progress: &mut Progress) -> Result<(), String> {
    let mut copy_all = || -> rusqlite::Result<Option<String>> {
        let mut read = transaction
            .prepare("SELECT rowid, message_id, ts FROM seed_messages ORDER BY rowid")?;
        let mut copy = transaction.prepare(
            "INSERT INTO messages
                 (message_id, from_msisdn, to_msisdn, ts, ts_s, ts_ns, text, created_at)
             SELECT message_id, from_msisdn, to_msisdn, ts, ?2, ?3, text, created_at
             FROM seed_messages WHERE rowid = ?1",
        )?;
        let mut rows = read.query(())?;
        while let Some(row) = rows.next()? {
            let Some(Timestamp { seconds, nanoseconds }) =
                Timestamp::parse(&row.get::<_, String>(2)?)
            else {
                return row.get(1).map(Some);
            };
            copy.execute((row.get::<_, i64>(0)?, seconds, nanoseconds))?;
            progress.advance("copying", 1);
        }
        Ok(None)
    };
    if let Some(message_id) = copy_all().map_err(|error| sentence(&error))? {
        return Err(format!("the ts of message_id {message_id:?} is no UTC timestamp"));
    }
    transaction.execute_batch("DROP TABLE seed_messages").map_err(|error| sentence(&error))
}

/// What the operator should do about an error while the database is opened.
pub(super) fn sentence(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => "it is not a SQLite database".to_owned(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another process holds a lock on it".to_owned()
        }
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            format!(
                "it cannot be opened or created: check that this user may write it and its folder ({error})"
            )
        }
        Some(ErrorCode::ReadOnly) => {
            format!("it cannot be written: check the permissions of it and its folder ({error})")
        }
        Some(ErrorCode::DiskFull) => "the disk is full".to_owned(),
        _ => error.to_string(),
    }
}

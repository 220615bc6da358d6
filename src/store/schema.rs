//! The schema and its versions, counted by `PRAGMA user_version`.

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::message::Instant;

/// `MIGRATIONS[n]` leads from version n to n + 1. What has been released is never edited.
const MIGRATIONS: [&str; VERSION as usize] = [
    // The order of messages is by instant, and a text does not sort as one ('.' is before 'Z'), so
    // the instant is stored: seconds since 1970 and nanoseconds, which holds every ts from the
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
];

/// The version that this program reads and writes.
pub(super) const VERSION: u32 = 1;
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

/// Brings the database to [`VERSION`] in one transaction.
///
/// # Errors
/// A sentence for the operator.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), String> {
    // Immediate, so that nobody else changes it meanwhile, and to prove, before anything listens,
    // that it can be written.
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(|error| sentence(&error))?;
    let found = find(&transaction)?;
    if found != (Found::Ours { version: VERSION }) {
        upgrade(&transaction, found)?;
    }
    transaction.commit().map_err(|error| sentence(&error))
}

pub(super) fn version(connection: &Connection) -> rusqlite::Result<u32> {
    connection.query_row("PRAGMA user_version", (), |row| row.get(0))
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
    if found == Found::Seed {
        adopt(transaction)?;
    }
    run(&format!("PRAGMA user_version = {VERSION}"))?;
    if found != Found::Empty {
        log::info!(from:? = found, to = VERSION; "database migrated");
    }
    Ok(())
}

/// Takes the seed's rows over, in the order in which they came. What is no timestamp on the way in
/// is none here either: it has no place in the order.
fn adopt(transaction: &Transaction<'_>) -> Result<(), String> {
    let copy_all = || -> rusqlite::Result<Option<String>> {
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
            let Some(Instant { seconds, nanoseconds }) = Instant::parse(&row.get::<_, String>(2)?)
            else {
                return row.get(1).map(Some);
            };
            copy.execute((row.get::<_, i64>(0)?, seconds, nanoseconds))?;
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
    use rusqlite::ErrorCode;
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

//! Bringing a database to the newest version of the schema, in one transaction.

use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use super::{
    connection::{BUSY_MS_MAX, sentence},
    counts,
    layout::Layout,
    schema::{self, Found, VERSION},
    segments,
};
use crate::timestamp::Timestamp;

/// Creates the tables in an empty file, takes the rows of the seed over, or migrates an older
/// version. A database of the newest version must be writable.
///
/// # Errors
/// A sentence for the operator. The file is then as it was.
pub(super) fn migrate(connection: &mut Connection, layout: &Layout) -> Result<(), String> {
    if schema::find(connection)? == (Found::Ours { version: VERSION }) {
        return check_writable(connection).map_err(sentence);
    }
    // Immediate, so that no other process changes it meanwhile.
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sentence)?;
    let found = schema::find(&transaction)?;
    if found != (Found::Ours { version: VERSION }) {
        upgrade(&transaction, layout, found)?;
    }
    segments::register(&transaction).map_err(sentence)?;
    transaction.commit().map_err(sentence)
}

/// Fails where this user may not write the database. A lock that another process holds, which may
/// take long, is no reason to refuse the start: `Writer::begin` tries again until it is released.
fn check_writable(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("PRAGMA busy_timeout = 0")?;
    let tried = connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK");
    connection.execute_batch(&format!("PRAGMA busy_timeout = {BUSY_MS_MAX}"))?;
    match tried {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Ok(()),
        tried => tried,
    }
}

fn upgrade(transaction: &Transaction<'_>, layout: &Layout, found: Found) -> Result<(), String> {
    let run = |sql: &str| transaction.execute_batch(sql).map_err(sentence);
    let mut progress = Progress::of(transaction);
    match found {
        Found::Ours { .. } => found.migrations().iter().try_for_each(|sql| run(sql))?,
        Found::Empty => run(schema::TABLES)?,
        Found::Seed => {
            run("ALTER TABLE messages RENAME TO seed_messages")?;
            run(schema::TABLES)?;
            adopt(transaction, &mut progress)?;
        }
    }
    run(schema::DERIVED)?;
    if !matches!(found, Found::Ours { .. }) {
        let mut heard = |step, messages| progress.advance(step, messages);
        counts::rebuild(transaction, layout, &mut heard).map_err(sentence)?;
    }
    run(&format!("PRAGMA user_version = {VERSION}"))?;
    if found != Found::Empty {
        log::info!(from:? = found, to = VERSION; "database migrated");
    }
    Ok(())
}

/// Copies the seed's rows, in the order in which they came. A row whose `ts` is not a timestamp has
/// no position in the order and cannot be copied.
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
            let timestamp = Timestamp::parse(&row.get::<_, String>(2)?);
            let Some(Timestamp { seconds, nanoseconds }) = timestamp else {
                return row.get(1).map(Some);
            };
            copy.execute((row.get::<_, i64>(0)?, seconds, nanoseconds))?;
            progress.advance("copying", 1);
        }
        Ok(None)
    };
    if let Some(message_id) = copy_all().map_err(sentence)? {
        return Err(format!("the ts of message_id {message_id:?} is no UTC timestamp"));
    }
    transaction.execute_batch("DROP TABLE seed_messages").map_err(sentence)
}

/// How often the log says how far a migration is.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// How far long work is, for the log.
struct Progress {
    messages: i64,
    step: &'static str,
    /// Messages that this step has read.
    done: i64,
    logged: Instant,
}

impl Progress {
    fn of(transaction: &Transaction<'_>) -> Progress {
        let count = transaction.query_row("SELECT count(*) FROM messages", (), |row| row.get(0));
        Progress { messages: count.unwrap_or_default(), step: "", done: 0, logged: Instant::now() }
    }

    fn advance(&mut self, step: &'static str, messages: i64) {
        if self.step != step {
            (self.step, self.done) = (step, 0);
        }
        self.done += messages;
        if self.logged.elapsed() >= PROGRESS_EVERY {
            let Progress { step, done, messages, .. } = *self;
            log::info!(step, done, messages; "the database is being migrated");
            self.logged = Instant::now();
        }
    }
}

//! Erasing messages for good.
//!
//! What is deleted is overwritten (PRAGMA secure_delete). That leaves what SQLite once moved from
//! one place of a page to another (seen: ids in an index), so after an erasure the file is rebuilt
//! and the write-ahead log emptied. Of an erased message a keyed hash of its id stays, so that a
//! repeated delivery is acknowledged and does not bring it back. An expired message leaves nothing.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, Transaction, TransactionBehavior, params_from_iter, types::Value};

use super::{
    connection::sentence, counts, erased::Erased, layout::Layout, rows, schema, writer::Writer,
};
use crate::{store::types::Selection, timestamp::Timestamp};

/// Messages that one transaction erases, so that deliveries do not wait long for it.
const ERASED_AT_ONCE: i64 = 200;
/// How long an erasure leaves the database to others between two transactions.
const PAUSE: Duration = Duration::from_millis(5);
/// How long it waits in the end for readers of the log.
const LOG_MS_MAX: u64 = 10_000;

/// A condition on `messages`, and its parameters.
fn condition(selection: &Selection) -> (&'static str, Vec<Value>) {
    match selection {
        Selection::From(msisdn) => ("from_msisdn = ?", vec![msisdn.clone().into()]),
        Selection::Before(Timestamp { seconds, nanoseconds }) => {
            ("(ts_s, ts_ns) < (?, ?)", vec![(*seconds).into(), (*nanoseconds).into()])
        }
    }
}

/// How many messages an erasure would erase.
pub(crate) fn count_selected(database: &Path, selection: &Selection) -> Result<i64, String> {
    let connection = schema::open_read_only(database)?;
    let (condition, values) = condition(selection);
    let sql = format!("SELECT count(*) FROM messages WHERE {condition}");
    connection.query_row(&sql, params_from_iter(values), |row| row.get(0)).map_err(sentence)
}

impl Writer {
    pub(crate) fn erase(
        mut self,
        selection: &Selection,
        progress: &mut dyn FnMut(i64),
    ) -> Result<i64, String> {
        if let Some(reason) = self.not_ready() {
            return Err(format!("nothing was erased: {reason}"));
        }
        let mut gone = 0;
        loop {
            let erased = erase_some(&mut self.connection, selection).map_err(sentence)?;
            if erased == 0 {
                break;
            }
            gone += erased;
            progress(gone);
            thread::sleep(PAUSE);
        }
        replace_fences(&mut self.connection, &self.layout).map_err(sentence)?;
        // What another program has replaced may have left its original behind.
        self.connection
            .execute("DELETE FROM originals WHERE id NOT IN (SELECT id FROM messages)", ())
            .map_err(sentence)?;
        rebuild_file(&self.connection)?;
        Ok(gone)
    }
}

/// Sets the fences of the rank index again: one of them may have the id of an erased message.
fn replace_fences(connection: &mut Connection, layout: &Layout) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    counts::index_tail(&transaction, layout)?;
    counts::rebuild_rank_index(&transaction, layout, &mut |_, _| ())?;
    transaction.commit()
}

/// Rebuilds the database's file and empties the log, so that no byte of what was deleted is left.
fn rebuild_file(connection: &Connection) -> Result<(), String> {
    // Temporary tables are in a file, since the whole database is written there once.
    connection.execute_batch("PRAGMA temp_store = FILE; VACUUM").map_err(|error| {
        format!(
            "the messages are erased, but the file cannot be rebuilt and still has traces of them: \
             {}; run `mailslot erase` again",
            sentence(error)
        )
    })?;
    empty_log(connection)?;
    // A real commit: its fsync is what makes the end of the old log durable. Before that a power
    // cut would bring back the log with what was erased.
    connection.execute_batch("UPDATE totals SET erasing = 0").map_err(sentence)
}

/// Whether an erasure was interrupted after its first message and before the file was rebuilt, so
/// that bytes of erased messages may be left in it.
pub(crate) fn is_erasure_unfinished(database: &Path) -> Result<bool, String> {
    let connection = schema::open_read_only(database)?;
    let erasing = connection.query_row("SELECT erasing FROM totals", (), |row| row.get(0));
    erasing.map_err(sentence)
}

fn erase_some(connection: &mut Connection, selection: &Selection) -> rusqlite::Result<i64> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found = find(&transaction, selection)?;
    let erased_now = i64::try_from(found.len()).unwrap_or(i64::MAX);
    if !found.is_empty() {
        let erased = Erased::open(&transaction)?;
        for (id, message_id) in &found {
            erased.add(&transaction, message_id)?;
            transaction.prepare_cached("DELETE FROM messages WHERE id = ?1")?.execute([id])?;
        }
        transaction
            .prepare_cached("UPDATE totals SET erased = erased + ?1, erasing = 1")?
            .execute([erased_now])?;
    }
    transaction.commit()?;
    Ok(erased_now)
}

/// Some of the messages: id and `message_id`.
fn find(
    transaction: &Transaction<'_>,
    selection: &Selection,
) -> rusqlite::Result<Vec<(i64, String)>> {
    let (condition, values) = condition(selection);
    let sql = format!(
        "SELECT id, message_id FROM messages
         WHERE {condition} ORDER BY ts_s, ts_ns, message_id LIMIT {ERASED_AT_ONCE}"
    );
    let mut statement = transaction.prepare_cached(&sql)?;
    let rows = statement
        .query_map(params_from_iter(values), |row| Ok((row.get(0)?, rows::text(row, 1)?)))?;
    rows.collect()
}

/// What was deleted is in the write-ahead log, too, until all of it is in the database and no
/// process reads it.
fn empty_log(connection: &Connection) -> Result<(), String> {
    let started = Instant::now();
    loop {
        let busy: i64 = connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |row| row.get(0))
            .map_err(sentence)?;
        if busy == 0 {
            return Ok(());
        }
        if started.elapsed() > Duration::from_millis(LOG_MS_MAX) {
            return Err(
                "the messages are erased, but the write-ahead log still has them, since another \
                process, Litestream perhaps, reads the database all the time: stop it and run this \
                again"
                    .into(),
            );
        }
        thread::sleep(10 * PAUSE);
    }
}

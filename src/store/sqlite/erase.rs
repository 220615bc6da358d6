//! What goes for good: messages that are too old, and those of whom the operator erases.
//!
//! What is deleted is overwritten (PRAGMA secure_delete). That leaves what SQLite once moved from one
//! place of a page to another (seen: ids in an index), so after an erasure the file is rebuilt and the
//! write-ahead log emptied. Of an erased message a keyed hash of its id stays, so that a repeated delivery is
//! acknowledged and does not bring it back. An expired message leaves nothing.

use std::{
    path::Path,
    thread,
    time::{self, Duration},
};

use hmac::Hmac;
use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use sha2::Sha256;

use super::{
    Writer,
    counts::{self, Place, Scope},
    schema, visit,
};
use crate::{signature, timestamp::Timestamp};

/// Messages that go in one transaction, so that deliveries do not wait long for it.
const EXPIRED_AT_ONCE: i64 = 32;
const ERASED_AT_ONCE: i64 = 200;
/// How long an erasure leaves the database to others between two of them.
const PAUSE: Duration = Duration::from_millis(5);
/// How long it waits in the end for readers of the log.
const LOG_MS_MAX: u64 = 10_000;

/// Which messages.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum What {
    /// Everything from this sender.
    From(String),
    /// Everything whose `ts` is earlier.
    Before(Timestamp),
}

/// The ids of erased messages, by their hashes.
pub(super) struct Erased(Hmac<Sha256>);

impl Erased {
    pub(super) fn open(transaction: &Transaction<'_>) -> rusqlite::Result<Erased> {
        let mut statement = transaction.prepare_cached("SELECT erasing_key FROM totals")?;
        let key: Vec<u8> = statement.query_row((), |row| row.get(0))?;
        Ok(Erased(signature::scheduled(&key)))
    }

    fn hash(&self, message_id: &str) -> [u8; 32] {
        signature::digest(&self.0, message_id.as_bytes())
    }

    pub(super) fn has(
        &self,
        transaction: &Transaction<'_>,
        message_id: &str,
    ) -> rusqlite::Result<bool> {
        let mut statement = transaction.prepare_cached("SELECT 1 FROM erased WHERE hash = ?1")?;
        statement.exists([self.hash(message_id)])
    }

    fn add(&self, transaction: &Transaction<'_>, message_id: &str) -> rusqlite::Result<()> {
        transaction
            .prepare_cached("INSERT OR IGNORE INTO erased (hash) VALUES (?1)")?
            .execute([self.hash(message_id)])?;
        Ok(())
    }
}

/// Deletes the oldest messages, some of those from before this moment.
pub(super) fn expire(transaction: &Transaction<'_>, before: Timestamp) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "DELETE FROM messages WHERE id IN (
                 SELECT id FROM messages WHERE (ts_s, ts_ns) < (?1, ?2)
                 ORDER BY ts_s, ts_ns, message_id LIMIT ?3)",
        )?
        .execute((before.seconds, before.nanoseconds, EXPIRED_AT_ONCE))?;
    Ok(())
}

/// How many messages that would be.
///
/// # Errors
/// A sentence for the operator.
pub(crate) fn count(database: &Path, what: &What) -> Result<i64, String> {
    let connection = visit::connect(database)?;
    let counted = match what {
        What::From(msisdn) => connection.query_row(
            "SELECT coalesce((SELECT n FROM senders WHERE msisdn = ?1), 0)",
            [msisdn],
            |row| row.get(0),
        ),
        What::Before(Timestamp { seconds, nanoseconds }) => connection.query_row(
            "SELECT count(*) FROM messages WHERE (ts_s, ts_ns) < (?1, ?2)",
            (seconds, nanoseconds),
            |row| row.get(0),
        ),
    };
    counted.map_err(|error| schema::sentence(&error))
}

/// Erases them, beside the service if it runs. `progress` hears how many are gone so far.
///
/// # Errors
/// A sentence for the operator. What is gone by then is gone; run it again for the rest.
pub(crate) fn erase(
    database: &Path,
    what: &What,
    progress: &mut dyn FnMut(i64),
) -> Result<i64, String> {
    let writer = Writer::open(database)?;
    if let Some(reason) = writer.not_begun() {
        return Err(format!("nothing was erased: {reason}"));
    }
    let Writer { mut connection, .. } = writer;
    let mut gone = 0;
    loop {
        let erased = erase_some(&mut connection, what).map_err(|error| schema::sentence(&error))?;
        if erased == 0 {
            break;
        }
        gone += erased;
        progress(gone);
        thread::sleep(PAUSE);
    }
    // In a file, since the whole database is written there once.
    connection
        .execute_batch("PRAGMA temp_store = FILE; VACUUM")
        .map_err(|error| format!("they are gone, but traces are left, since the file cannot be rebuilt: {}; run it again", schema::sentence(&error)))?;
    empty_log(&connection)?;
    // A real commit: its fsync is what makes the end of the old log durable. Before that a power cut
    // would bring back the log with what was erased.
    connection
        .execute_batch("UPDATE totals SET erasing = 0")
        .map_err(|error| schema::sentence(&error))?;
    Ok(gone)
}

/// Whether an erasure was interrupted after its first message and before the file was rebuilt, so that
/// bytes of erased messages may be left in it.
///
/// # Errors
/// A sentence for the operator.
pub(crate) fn is_unfinished(database: &Path) -> Result<bool, String> {
    let connection = visit::connect(database)?;
    let erasing = connection.query_row("SELECT erasing FROM totals", (), |row| row.get(0));
    erasing.map_err(|error| schema::sentence(&error))
}

fn erase_some(connection: &mut Connection, what: &What) -> rusqlite::Result<i64> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found = find(&transaction, what)?;
    let erased_now = i64::try_from(found.len()).unwrap_or(i64::MAX);
    if !found.is_empty() {
        let erased = Erased::open(&transaction)?;
        counts::take_in(&transaction)?;
        for (id, sender_id, msisdn, place) in &found {
            erased.add(&transaction, &place.message_id)?;
            transaction.prepare_cached("DELETE FROM messages WHERE id = ?1")?.execute([id])?;
            // A milestone that stood there has its id.
            counts::leave(&transaction, Scope::All, place)?;
            counts::leave(&transaction, Scope::Sender { id: *sender_id, msisdn }, place)?;
        }
        transaction
            .prepare_cached("UPDATE totals SET erased = erased + ?1, erasing = 1")?
            .execute([erased_now])?;
    }
    transaction.commit()?;
    Ok(erased_now)
}

/// Some of them: id, sender, and place.
fn find(
    transaction: &Transaction<'_>,
    what: &What,
) -> rusqlite::Result<Vec<(i64, i64, String, Place)>> {
    let (condition, msisdn, before) = match what {
        What::From(msisdn) => ("from_msisdn = ?1", Some(msisdn), None),
        What::Before(before) => ("?1 IS NULL AND (ts_s, ts_ns) < (?2, ?3)", None, Some(before)),
    };
    let sql = format!(
        "SELECT ts_s, ts_ns, message_id, messages.id, senders.id, msisdn
         FROM messages CROSS JOIN senders ON senders.msisdn = from_msisdn
         WHERE {condition} ORDER BY ts_s, ts_ns, message_id LIMIT ?4"
    );
    let (seconds, nanoseconds) =
        (before.map(|before| before.seconds), before.map(|before| before.nanoseconds));
    let mut statement = transaction.prepare_cached(&sql)?;
    let rows = statement
        .query_map(params![msisdn, seconds, nanoseconds, ERASED_AT_ONCE], |row| {
            Ok((row.get(3)?, row.get(4)?, row.get(5)?, Place::read(row)?))
        })?;
    rows.collect()
}

/// What was deleted is in the write-ahead log, too, until all of it is moved and nobody reads it.
fn empty_log(connection: &Connection) -> Result<(), String> {
    let started = time::Instant::now();
    loop {
        let busy: i64 = connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |row| row.get(0))
            .map_err(|error| schema::sentence(&error))?;
        if busy == 0 {
            return Ok(());
        }
        if started.elapsed() > Duration::from_millis(LOG_MS_MAX) {
            return Err("they are gone, but the write-ahead log still has them, since another process, Litestream perhaps, reads the database all the time: stop it and run this again".into());
        }
        thread::sleep(10 * PAUSE);
    }
}

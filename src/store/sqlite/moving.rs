//! One side of a move to another engine. A cursor of the other engine becomes an id in an epoch of
//! its own range of cursors (epochs.rs), so that ids stay without large gaps.

use std::path::Path;

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::{
    classes::Classes, connection::sentence, counts, epochs, layout::Layout, rows, schema, segments,
    writer::Writer,
};
use crate::{
    store::types::{History, Kept},
    timestamp::Timestamp,
};

#[derive(Debug)]
pub(crate) struct Moving {
    connection: Connection,
    layout: Layout,
    /// Of a destination: the first id and the first cursor of each epoch.
    epochs: Vec<(i64, i64)>,
}

impl Moving {
    pub(crate) fn source(database: &Path) -> Result<Moving, String> {
        let connection = schema::open_read_only(database)?;
        Ok(Moving { connection, layout: Layout::SHIPPED, epochs: Vec::new() })
    }

    pub(crate) fn destination(database: &Path) -> Result<Moving, String> {
        let Writer { connection, layout, .. } = Writer::open(database)?.patient();
        Ok(Moving { connection, layout, epochs: Vec::new() })
    }

    pub(crate) fn history(&self) -> Result<History, String> {
        read_history(&self.connection).map_err(sentence)
    }

    /// Of the messages that are stored, the last cursor; 0 if there are none.
    pub(crate) fn last_cursor(&self) -> Result<i64, String> {
        epochs::last_cursor(&self.connection).map_err(sentence)
    }

    pub(crate) fn messages(&mut self, after: i64, limit: i64) -> Result<Vec<Kept>, String> {
        let read = || -> rusqlite::Result<Vec<Kept>> {
            let mut statement = self.connection.prepare_cached(&format!(
                "SELECT {},
                     (SELECT id - first_id + first_cursor FROM epochs
                      WHERE first_id <= id ORDER BY first_id DESC LIMIT 1)
                 FROM messages
                 WHERE id > (SELECT coalesce(max(first_id + min(?1 - first_cursor, coalesce((
                         SELECT min(later.first_id) FROM epochs AS later
                         WHERE later.first_id > epochs.first_id), ?3) - first_id - 1)), 0)
                     FROM epochs WHERE first_cursor <= ?1)
                     AND id >= 1 AND id <= (SELECT last_id FROM totals)
                 ORDER BY id LIMIT ?2",
                rows::received_columns(true)
            ))?;
            let read = statement.query_map((after, limit, i64::MAX), |row| {
                Ok(Kept { received: rows::received(row)?, cursor: row.get(11)? })
            })?;
            read.collect()
        };
        read().map_err(sentence)
    }

    /// Some of the hashes of erased messages, in ascending order.
    pub(crate) fn tombstones(&mut self, after: &[u8], limit: i64) -> Result<Vec<Vec<u8>>, String> {
        let read = || -> rusqlite::Result<Vec<Vec<u8>>> {
            let sql = "SELECT hash FROM erased WHERE hash > ?1 ORDER BY hash LIMIT ?2";
            let mut statement = self.connection.prepare_cached(sql)?;
            statement.query_map((after, limit), |row| row.get(0))?.collect()
        };
        read().map_err(sentence)
    }

    /// Gives an empty database the key and the epochs of another one.
    pub(crate) fn adopt(&mut self, history: &History) -> Result<(), String> {
        self.epochs.clear();
        let mut next_id = 1;
        for (first, last) in &history.ranges {
            self.epochs.push((next_id, *first));
            next_id += last - first + 1;
        }
        let Moving { connection, epochs, .. } = self;
        let write = |transaction: &Transaction<'_>| -> rusqlite::Result<()> {
            transaction.execute("UPDATE totals SET erasing_key = ?1", [&history.erasing_key])?;
            transaction.execute("DELETE FROM epochs", ())?;
            transaction.execute("INSERT INTO epochs VALUES (0, 0)", ())?;
            for epoch in epochs {
                transaction.execute("INSERT INTO epochs VALUES (?1, ?2)", *epoch)?;
            }
            Ok(())
        };
        in_transaction(connection, write)
    }

    fn id_of(&self, cursor: i64) -> i64 {
        let at = self.epochs.partition_point(|(_, first_cursor)| *first_cursor <= cursor);
        let epoch = at.checked_sub(1).and_then(|at| self.epochs.get(at));
        epoch.map_or(0, |(first_id, first_cursor)| cursor - first_cursor + first_id)
    }

    pub(crate) fn store(&mut self, messages: &[Kept]) -> Result<(), String> {
        let ids: Vec<i64> = messages.iter().map(|kept| self.id_of(kept.cursor)).collect();
        let (Some(first_id), Some(last_id)) = (ids.first(), ids.last()) else { return Ok(()) };
        let Moving { connection, layout, .. } = self;
        in_transaction(connection, |transaction| {
            let mut statement = transaction.prepare_cached(
                "INSERT INTO messages
                     (id, message_id, from_msisdn, to_msisdn, ts, ts_s, ts_ns, text, created_at,
                      class_id)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?;
            let mut classes = Classes::unlimited();
            for (id, Kept { received, .. }) in ids.iter().zip(messages) {
                let message = &received.message;
                let Timestamp { seconds, nanoseconds } = message.timestamp;
                statement.execute(params![
                    id,
                    message.message_id,
                    message.from,
                    message.to,
                    message.ts,
                    seconds,
                    nanoseconds,
                    message.text,
                    received.created_at,
                    classes.id(transaction, received.source, &received.kind)?
                ])?;
                if let Some(original) = &received.original {
                    transaction
                        .prepare_cached("INSERT INTO originals (id, stored) VALUES (?1, ?2)")?
                        .execute((id, original.stored()))?;
                }
            }
            counts::advance(transaction, layout, *last_id)?;
            if first_id / segments::BLOCK_MESSAGES != last_id / segments::BLOCK_MESSAGES {
                segments::register(transaction)?;
            }
            Ok(())
        })
    }

    pub(crate) fn store_tombstones(&mut self, hashes: &[Vec<u8>]) -> Result<(), String> {
        in_transaction(&mut self.connection, |transaction| {
            let sql = "INSERT OR IGNORE INTO erased (hash) VALUES (?1)";
            let mut statement = transaction.prepare_cached(sql)?;
            hashes.iter().try_for_each(|hash| statement.execute([hash]).map(drop))
        })
    }

    /// Everything is stored: the last cursor is the other database's, also where its message is
    /// gone.
    pub(crate) fn finish(&mut self, history: &History) -> Result<(), String> {
        let last_id = self.id_of(history.last_cursor());
        let Moving { connection, layout, .. } = self;
        in_transaction(connection, |transaction| {
            transaction.execute("UPDATE totals SET erased = ?1", [history.erased])?;
            counts::advance(transaction, layout, last_id)?;
            segments::register(transaction)?;
            counts::index_tail(transaction, layout)
        })
    }
}

fn in_transaction(
    connection: &mut Connection,
    write: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>,
) -> Result<(), String> {
    let run = || -> rusqlite::Result<()> {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        write(&transaction)?;
        transaction.commit()
    };
    run().map_err(sentence)
}

fn read_history(connection: &Connection) -> rusqlite::Result<History> {
    let (last_id, erasing_key, erased): (i64, Vec<u8>, i64) =
        connection.query_row("SELECT last_id, erasing_key, erased FROM totals", (), |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
    let mut statement =
        connection.prepare("SELECT first_id, first_cursor FROM epochs ORDER BY first_id")?;
    let epochs: Vec<(i64, i64)> = statement
        .query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let mut ranges = Vec::new();
    for (at, (first_id, first_cursor)) in epochs.iter().enumerate() {
        let end = epochs.get(at + 1).map_or(last_id, |(next, _)| next - 1).min(last_id);
        // Ids begin with 1.
        let first = (*first_id).max(1);
        if first <= end {
            ranges.push((first - first_id + first_cursor, end - first_id + first_cursor));
        }
    }
    Ok(History { ranges, erasing_key, erased })
}

//! What was committed after a cursor, in the order of the commits, and one message alone.
//!
//! The one writer gives ids in the order of its commits, and none twice (`totals.last_id`), so that
//! messages that a reader has not seen yet always have higher ones. A cursor is a message's id,
//! moved by the epoch in which the message was stored (epochs.rs).

use std::time::Duration;

use rusqlite::{OptionalExtension, Row, Transaction};

use super::{epochs, reader::Reader, rows};
use crate::{
    error::Error,
    store::types::{Committed, FEED_BYTES_MAX, Found},
};

/// How often readers of the feed look for what another process has committed, such as an import.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// A message's cursor.
const CURSOR: &str = "(SELECT id - first_id + first_cursor FROM epochs
     WHERE first_id <= id ORDER BY first_id DESC LIMIT 1)";

/// Of a row with [`rows::received_columns`] and [`CURSOR`].
fn committed(row: &Row<'_>) -> rusqlite::Result<Committed> {
    Ok(Committed { received: rows::received(row)?, cursor: row.get::<_, i64>(11)?.to_string() })
}

impl Reader {
    /// The id of the last message that was ever committed; 0 if there has been none.
    pub(super) fn last_id(&self) -> Result<i64, Error> {
        let mut statement = self.connection.prepare_cached("SELECT last_id FROM totals")?;
        Ok(statement.query_row((), |row| row.get(0))?)
    }

    pub(crate) fn last_cursor(&self) -> Result<i64, Error> {
        Ok(epochs::last_cursor(&self.connection)?)
    }

    pub(crate) fn cursor_before_last(&self, count: i64) -> Result<i64, Error> {
        let mut statement = self.connection.prepare_cached(
            "SELECT coalesce((SELECT id FROM messages WHERE id BETWEEN 1 AND last_id
                              ORDER BY id DESC LIMIT 1 OFFSET ?1), 0) FROM totals",
        )?;
        let id = statement.query_row([count], |row| row.get(0))?;
        Ok(epochs::cursor_of(&self.connection, id)?)
    }

    pub(crate) fn committed(&mut self, after: i64, limit: i64) -> Result<Vec<Committed>, Error> {
        let transaction = self.connection.transaction()?;
        let id = epochs::id_of(&transaction, after)?.ok_or(Error::CursorAhead)?;
        read(&transaction, "id > ?1", "id", id, limit)
    }

    pub(crate) fn committed_before(
        &mut self,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<Committed>, Error> {
        let transaction = self.connection.transaction()?;
        let id = match before {
            None => i64::MAX,
            Some(cursor) => epochs::id_of(&transaction, cursor)?.ok_or(Error::CursorAhead)?,
        };
        let mut messages = read(&transaction, "id >= 1 AND id < ?1", "id DESC", id, limit)?;
        messages.reverse();
        Ok(messages)
    }

    pub(crate) fn find(&mut self, message_id: &str) -> Result<Option<Found>, Error> {
        let sql = format!(
            "SELECT {}, {CURSOR}
             FROM messages
             WHERE message_id = ?1 AND +id BETWEEN 1 AND (SELECT last_id FROM totals)",
            rows::received_columns(true)
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let found = statement.query_row([message_id], committed).optional()?;
        Ok(found.map(Found::from))
    }
}

fn read(
    transaction: &Transaction<'_>,
    condition: &str,
    order: &str,
    id: i64,
    limit: i64,
) -> Result<Vec<Committed>, Error> {
    // Rows beyond `last_id` were inserted by another program; the next commit counts them first.
    let mut statement = transaction.prepare_cached(&format!(
        "SELECT {}, {CURSOR}
         FROM messages WHERE {condition} AND id <= (SELECT last_id FROM totals)
         ORDER BY {order} LIMIT ?2",
        rows::received_columns(false)
    ))?;
    let mut rows = statement.query((id, limit))?;
    let (mut messages, mut bytes) = (Vec::new(), 0);
    while bytes < FEED_BYTES_MAX
        && let Some(row) = rows.next()?
    {
        let committed = committed(row)?;
        bytes += committed.received.bytes();
        messages.push(committed);
    }
    Ok(messages)
}

//! What was committed after a cursor, in the order of the commits.
//!
//! A cursor is a message's id. The one writer gives ids in the order of its commits, and none twice
//! (`totals.last_id`), so that what a reader has not seen yet always has higher ones.

use serde::Serialize;

use super::{
    Reader,
    reader::{Received, received},
};
use crate::error::Error;

/// Bytes of one answer, about: beyond, it has fewer messages than were asked for. So it fits into the
/// kernel's buffers, and a thousand readers do not take a gigabyte.
pub(crate) const FEED_BYTES_MAX: usize = 65_536;

#[derive(Debug, Serialize)]
pub(crate) struct Committed {
    #[serde(flatten)]
    received: Received,
    pub(crate) cursor: String,
}

impl Reader {
    /// The cursor of the last message that was ever committed; 0 if none was.
    pub(crate) fn last_cursor(&self) -> Result<i64, Error> {
        let mut statement = self.connection.prepare_cached("SELECT last_id FROM totals")?;
        Ok(statement.query_row((), |row| row.get(0))?)
    }

    /// Behind which the last `count` messages come.
    pub(crate) fn cursor_before_last(&self, count: i64) -> Result<i64, Error> {
        let mut statement = self.connection.prepare_cached(
            "SELECT coalesce((SELECT id FROM messages WHERE id <= last_id
                              ORDER BY id DESC LIMIT 1 OFFSET ?1), 0) FROM totals",
        )?;
        Ok(statement.query_row([count], |row| row.get(0))?)
    }

    /// The next messages, at most `limit`.
    ///
    /// # Errors
    /// [`Error::CursorAhead`] where no such cursor can have been given out.
    pub(crate) fn committed(&mut self, after: i64, limit: i64) -> Result<Vec<Committed>, Error> {
        let transaction = self.connection.transaction()?;
        let last_id: i64 = transaction
            .prepare_cached("SELECT last_id FROM totals")?
            .query_row((), |row| row.get(0))?;
        if after > last_id {
            return Err(Error::CursorAhead);
        }
        // What a stranger has inserted beyond is committed once the writer has counted it.
        let mut statement = transaction.prepare_cached(
            "SELECT message_id, from_msisdn, to_msisdn, ts, text, ts_s, ts_ns, created_at, id
             FROM messages WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3",
        )?;
        let mut rows = statement.query((after, last_id, limit))?;
        let (mut messages, mut bytes) = (Vec::new(), 0);
        while bytes < FEED_BYTES_MAX
            && let Some(row) = rows.next()?
        {
            let received = received(row)?;
            bytes += received.bytes();
            messages.push(Committed { received, cursor: row.get::<_, i64>(8)?.to_string() });
        }
        Ok(messages)
    }
}

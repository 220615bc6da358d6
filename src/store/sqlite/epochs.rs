//! Epochs: which history a cursor of the feed belongs to.
//!
//! When an operator restores a backup, messages get ids again that lost messages had before, and a
//! reader of the feed that had seen those would skip as many new ones. A file does not show whether
//! it was restored, so every time that a database is opened for writing a new epoch begins: the
//! cursors of its messages are their ids plus a jump, which leads beyond every cursor that any
//! earlier history of this database can have given. A reader that is not ahead of the restored end
//! reads on over the jump; a cursor beyond the end of its own epoch is refused (409).
//!
//! An epoch's first cursor is the time of its beginning, in units of which a millisecond has
//! [`CURSORS_PER_MS`], more than messages can be stored in it. So a cursor that was given before
//! that moment is lower, as long as the clock is right; cursors stay below 2^53 until the year
//! 2255, so that they are exact as a JavaScript number.
//!
//! Deliberately absent: an identity of the file, by which a restored one could be recognized. `cp`
//! keeps the inode of the file that it overwrites, and whatever the file contains is restored with
//! it.
//! What this cannot notice is a machine that goes on from an older snapshot without a restart of
//! mailslot.

use rusqlite::{Connection, OptionalExtension, Transaction};

use crate::logging;

/// Cursors for each millisecond since 1970.
const CURSORS_PER_MS: i64 = 1 << 10;
/// Where the clock is behind the last cursor, the jump is this long, and up to twice as long by the
/// clock, so that two histories that begin from one backup do not jump to the same place.
const JUMP: i64 = 1 << 40;

/// Begins a new epoch with the next message.
pub(super) fn begin(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let last = last_cursor(transaction)?;
    let clock = logging::now_ms().max(0).saturating_mul(CURSORS_PER_MS);
    let first = if clock > last { clock } else { last + JUMP + clock % JUMP };
    // An epoch in which no message was stored has given no cursor, and is replaced.
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO epochs (first_id, first_cursor)
             SELECT last_id + 1, ?1 FROM totals",
        )?
        .execute([first])?;
    Ok(())
}

/// The cursor of the last message that was ever committed; 0 if there has been none.
pub(super) fn last_cursor(connection: &Connection) -> rusqlite::Result<i64> {
    let mut statement = connection.prepare_cached(
        "SELECT (SELECT last_id - first_id + first_cursor FROM epochs
                 WHERE first_id <= last_id ORDER BY first_id DESC LIMIT 1) FROM totals",
    )?;
    statement.query_row((), |row| row.get(0))
}

/// The cursor of the message with this id.
pub(super) fn cursor_of(connection: &Connection, id: i64) -> rusqlite::Result<i64> {
    let mut statement = connection.prepare_cached(
        "SELECT ?1 - first_id + first_cursor FROM epochs
         WHERE first_id <= ?1 ORDER BY first_id DESC LIMIT 1",
    )?;
    statement.query_row([id], |row| row.get(0))
}

/// The id of the message that this cursor was given for; `None` if it is beyond the end of its
/// epoch.
pub(super) fn id_of(connection: &Connection, cursor: i64) -> rusqlite::Result<Option<i64>> {
    let mut statement = connection.prepare_cached(
        "SELECT ?1 - first_cursor + first_id FROM totals, epochs AS own
         WHERE first_cursor = (SELECT max(first_cursor) FROM epochs WHERE first_cursor <= ?1)
             AND ?1 - first_cursor + first_id <= last_id
             AND NOT EXISTS (
                 SELECT 1 FROM epochs AS later WHERE later.first_id > own.first_id
                     AND later.first_id <= ?1 - own.first_cursor + own.first_id)",
    )?;
    statement.query_row([cursor], |row| row.get(0)).optional()
}

//! Columns of a row as values. Another program may have written what mailslot would not, and one
//! such row must not hide a page nor stop a commit: a text that is not UTF-8 is read with U+FFFD in
//! it.

use rusqlite::Row;

use crate::{
    message::Message,
    metrics::Source,
    original::Original,
    store::types::{Position, Received},
    timestamp::Timestamp,
};

/// Of a row that begins with `message_id, from_msisdn, to_msisdn, ts, text, ts_s, ts_ns`.
pub(super) fn message(row: &Row<'_>) -> rusqlite::Result<Message> {
    Ok(Message {
        message_id: text(row, 0)?,
        from: text(row, 1)?,
        to: text(row, 2)?,
        ts: text(row, 3)?,
        text: row.get_ref(4)?.as_bytes_or_null()?.map(lossy),
        timestamp: timestamp(row, 5)?,
    })
}

/// The columns of [`received`], of `messages`. The original is null where it is not asked for.
pub(super) fn received_columns(has_original: bool) -> String {
    let original = if has_original {
        "(SELECT stored FROM originals WHERE originals.id = messages.id)"
    } else {
        "NULL"
    };
    format!(
        "message_id, from_msisdn, to_msisdn, ts, text, ts_s, ts_ns, created_at,
         (SELECT source FROM classes WHERE classes.id = class_id),
         (SELECT kind FROM classes WHERE classes.id = class_id), {original}"
    )
}

/// Of a row that begins with [`received_columns`].
pub(super) fn received(row: &Row<'_>) -> rusqlite::Result<Received> {
    let original: Option<Vec<u8>> = row.get(10)?;
    Ok(Received {
        message: message(row)?,
        created_at: text(row, 7)?,
        source: Source::named(&text(row, 8)?).unwrap_or(Source::Webhook),
        kind: text(row, 9)?,
        original: original.map(Original::from_stored),
    })
}

/// Of a row that begins with `ts_s, ts_ns, message_id`.
pub(super) fn position(row: &Row<'_>) -> rusqlite::Result<Position> {
    Ok(Position { timestamp: timestamp(row, 0)?, message_id: text(row, 2)? })
}

/// What a position is compared with as a row: `ts_s, ts_ns, message_id`.
pub(super) fn columns(position: &Position) -> (i64, u32, &str) {
    let Position { timestamp, message_id } = position;
    (timestamp.seconds, timestamp.nanoseconds, message_id)
}

/// How many there are, as SQLite counts.
pub(super) fn length<T>(all: &[T]) -> i64 {
    i64::try_from(all.len()).unwrap_or(i64::MAX)
}

/// A text that is not null.
pub(super) fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    Ok(lossy(row.get_ref(column)?.as_bytes()?))
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Of `ts_s` and, in the next column, `ts_ns`.
pub(super) fn timestamp(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    let nanoseconds: i64 = row.get(column + 1)?;
    let nanoseconds = u32::try_from(nanoseconds).unwrap_or(999_999_999);
    Ok(Timestamp { seconds: row.get(column)?, nanoseconds })
}

//! Columns of a row as values.

use super::{failure::Failure, text::decode, values::Row};
use crate::{
    message::Message,
    metrics::Source,
    original::Original,
    store::types::{Position, Received},
    timestamp::Timestamp,
};

/// What [`message`] reads.
pub(super) const MESSAGE: &str = "messages.message_id, messages.from_msisdn, messages.to_msisdn, \
                                  messages.ts, messages.text, messages.ts_s, messages.ts_ns";
/// What [`received`] reads; the original is null where it is not asked for.
pub(super) fn received_columns(has_original: bool) -> String {
    let original = if has_original { "encode(messages.original, 'hex')" } else { "NULL" };
    // The text of a moment is that of `logging::now`.
    format!(
        "{MESSAGE},
         to_char(messages.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'),
         messages.source, messages.kind, {original}"
    )
}

/// Of the columns from `first` on.
pub(super) fn message(row: &Row, first: usize) -> Result<Message, Failure> {
    Ok(Message {
        message_id: text(row, first)?,
        from: text(row, first + 1)?,
        to: text(row, first + 2)?,
        ts: text(row, first + 3)?,
        text: row.optional_text(first + 4)?.map(|text| decode(text).into_owned()),
        timestamp: timestamp(row, first + 5)?,
    })
}

/// Of a row that begins with [`received_columns`].
pub(super) fn received(row: &Row) -> Result<Received, Failure> {
    let original = row.optional_text(10)?.map(|_| row.bytes(10)).transpose()?;
    Ok(Received {
        message: message(row, 0)?,
        created_at: text(row, 7)?,
        source: Source::named(row.text(8)?).unwrap_or(Source::Webhook),
        kind: text(row, 9)?,
        original: original.map(Original::from_stored),
    })
}

/// Of a row that begins with `ts_s, ts_ns, message_id`.
pub(super) fn position(row: &Row) -> Result<Position, Failure> {
    Ok(Position { timestamp: timestamp(row, 0)?, message_id: text(row, 2)? })
}

/// A text that is not null, as it was before it was stored.
pub(super) fn text(row: &Row, column: usize) -> Result<String, Failure> {
    Ok(decode(row.text(column)?).into_owned())
}

/// Of `ts_s` and, in the next column, `ts_ns`.
pub(super) fn timestamp(row: &Row, column: usize) -> Result<Timestamp, Failure> {
    let nanoseconds = u32::try_from(row.integer(column + 1)?).unwrap_or(999_999_999);
    Ok(Timestamp { seconds: row.integer(column)?, nanoseconds })
}

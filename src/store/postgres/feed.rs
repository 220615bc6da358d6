//! What was committed after a cursor, in the order of the commits.
//!
//! A cursor is a message's id. Commits have an order (sequencer.rs), and ids follow it, so that
//! messages that a reader has not seen yet always have higher ones. None is given twice
//! (epochs.rs).

use std::time::Duration;

use super::{
    epochs::{IS_AHEAD, LAST_CURSOR},
    failure::Failure,
    reader::Reader,
    rows::{self, RECEIVED},
    values::{Statement, Value},
};
use crate::{
    error::Error,
    store::types::{Committed, FEED_BYTES_MAX},
};

/// How often readers of the feed look for what another node has committed.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(50);

impl Reader {
    pub(crate) fn last_cursor(&mut self) -> Result<i64, Error> {
        Ok(self.ask(LAST_CURSOR, &[])?.one()?.integer(0)?)
    }

    pub(crate) fn cursor_before_last(&mut self, count: i64) -> Result<i64, Error> {
        let sql = "SELECT coalesce((
                       SELECT id FROM mailslot.messages ORDER BY id DESC LIMIT 1 OFFSET $1), 0)";
        Ok(self.ask(sql, &[Value::Integer(count)])?.one()?.integer(0)?)
    }

    pub(crate) fn committed(&mut self, after: i64, limit: i64) -> Result<Vec<Committed>, Error> {
        // The server sends few messages more than are taken, even if they are long.
        let sql = format!(
            "SELECT {RECEIVED}, id FROM (
                 SELECT *, coalesce(sum(200 + octet_length(message_id)
                         + coalesce(octet_length(text), 0))
                     OVER (ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)
                     AS bytes_before
                 FROM (SELECT * FROM mailslot.messages WHERE id > $1 ORDER BY id LIMIT $2)
                     AS messages
             ) AS messages WHERE bytes_before < $3 ORDER BY id"
        );
        let bytes_max = i64::try_from(FEED_BYTES_MAX).unwrap_or(i64::MAX);
        let values = [Value::Integer(after), Value::Integer(limit), Value::Integer(bytes_max)];
        let (is_ahead, messages) = self.read(|snapshot| {
            let statements =
                [Statement::new(IS_AHEAD, &values[..1]), Statement::new(&sql, &values)];
            let rows = snapshot.run_last(&statements)?;
            let [is_ahead, found, ..] = &rows[..] else {
                return Err(Failure::unexpected("no result"));
            };
            let (mut messages, mut bytes) = (Vec::new(), 0);
            for row in found.iter() {
                if bytes >= FEED_BYTES_MAX {
                    break;
                }
                let received = rows::received(row)?;
                bytes += received.bytes();
                messages.push(Committed { received, cursor: row.text(8)?.to_owned() });
            }
            Ok((is_ahead.one()?.boolean(0)?, messages))
        })?;
        if is_ahead { Err(Error::CursorAhead) } else { Ok(messages) }
    }
}

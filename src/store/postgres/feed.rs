//! What was committed after a cursor, in the order of the commits.
//!
//! A cursor is a message's id. Commits have an order (sequencer.rs), and ids follow it, so that
//! messages that a reader has not seen yet always have higher ones. None is given twice
//! (epochs.rs).

use std::time::Duration;

use sha2::{Digest, Sha256};

use super::{
    epochs::{IS_AHEAD, LAST_CURSOR},
    failure::Failure,
    reader::Reader,
    rows::{self, received_columns},
    values::{Statement, Value},
};
use crate::{
    error::Error,
    store::types::{Committed, FEED_BYTES_MAX, Found},
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

    pub(crate) fn find(&mut self, message_id: &str) -> Result<Option<Found>, Error> {
        let sql =
            format!("SELECT {}, id FROM mailslot.messages WHERE hash = $1", received_columns(true));
        let rows = self.ask(&sql, &[Value::Bytes(&Sha256::digest(message_id))])?;
        let Some(row) = rows.iter().next() else { return Ok(None) };
        let committed =
            Committed { received: rows::received(row)?, cursor: row.text(11)?.to_owned() };
        Ok(Some(Found::from(committed)))
    }

    pub(crate) fn committed(&mut self, after: i64, limit: i64) -> Result<Vec<Committed>, Error> {
        self.committed_beside(after, "id > $1", "id", limit)
    }

    pub(crate) fn committed_before(
        &mut self,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<Committed>, Error> {
        let mut messages = match before {
            Some(before) => self.committed_beside(before, "id < $1", "id DESC", limit)?,
            None => self.committed_beside(0, "id > $1", "id DESC", limit)?,
        };
        messages.reverse();
        Ok(messages)
    }

    /// Messages on one side of a cursor, in this order.
    fn committed_beside(
        &mut self,
        cursor: i64,
        condition: &str,
        order: &str,
        limit: i64,
    ) -> Result<Vec<Committed>, Error> {
        // The server sends few messages more than are taken, even if they are long.
        let sql = format!(
            "SELECT {}, id FROM (
                 SELECT *, coalesce(sum(200 + octet_length(message_id)
                         + coalesce(octet_length(text), 0))
                     OVER (ORDER BY {order} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)
                     AS bytes_before
                 FROM (SELECT * FROM mailslot.messages WHERE {condition}
                       ORDER BY {order} LIMIT $2) AS messages
             ) AS messages WHERE bytes_before < $3 ORDER BY {order}",
            received_columns(false)
        );
        let bytes_max = i64::try_from(FEED_BYTES_MAX).unwrap_or(i64::MAX);
        let values = [Value::Integer(cursor), Value::Integer(limit), Value::Integer(bytes_max)];
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
                messages.push(Committed { received, cursor: row.text(11)?.to_owned() });
            }
            Ok((is_ahead.one()?.boolean(0)?, messages))
        })?;
        if is_ahead { Err(Error::CursorAhead) } else { Ok(messages) }
    }
}

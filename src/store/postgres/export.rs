//! All messages that a filter means, a portion at a time.
//!
//! An export is of the moment at which it begins: messages that are committed later are not in it.
//! Messages that are deleted before their portion is read are not in it either, so that erased data
//! never leaks. No transaction stays open between portions: that would keep the server from
//! cleaning up after deletions.

use memchr::memmem::Finder;

use super::{
    failure::Failure,
    ranks::{optional, position_values},
    reader::Reader,
    rows::{self, received_columns},
    text::encode,
    values::{Statement, Value},
};
use crate::{
    error::Error,
    store::types::{Filter, Position, Received},
    timestamp::Timestamp,
};

/// Messages that are read for one portion.
const PORTION_MESSAGES: i64 = 256;

#[derive(Debug)]
pub(crate) struct Export {
    reader: Reader,
    filter: Filter,
    has_originals: bool,
    /// The last message at the beginning.
    last_id: i64,
    /// Behind what was read.
    position: Position,
    is_done: bool,
}

impl Reader {
    pub(crate) fn export(mut self, filter: Filter, has_originals: bool) -> Result<Export, Error> {
        let last_id = self.last_cursor()?;
        let position = Position::at(filter.since.unwrap_or(Position::START.timestamp));
        Ok(Export { reader: self, filter, has_originals, last_id, position, is_done: false })
    }
}

impl Export {
    pub(crate) fn next(&mut self) -> Result<Option<Vec<Received>>, Error> {
        if self.is_done {
            return Ok(None);
        }
        let sql = format!(
            "SELECT {}, id FROM mailslot.messages
             WHERE ($1::text IS NULL OR from_msisdn = $1)
                 AND (ts_s, ts_ns, left(message_id, 256), message_id)
                     > ($2, $3, left($4, 256), $4) AND (ts_s, ts_ns) < ($5, $6)
             ORDER BY ts_s, ts_ns, left(message_id, 256), message_id LIMIT $7",
            received_columns(self.has_originals)
        );
        let id = encode(&self.position.message_id);
        let [seconds, nanoseconds, id] = position_values(&self.position, &id);
        let end = Timestamp { seconds: i64::MAX, nanoseconds: 0 };
        let [until, until_ns, _] =
            position_values(&Position::at(self.filter.until.unwrap_or(end)), "");
        let values = [
            optional(self.filter.from.as_deref()),
            seconds,
            nanoseconds,
            id,
            until,
            until_ns,
            Value::Integer(PORTION_MESSAGES),
        ];
        let portion = self.reader.read(|snapshot| {
            let rows = snapshot.run_last(&[Statement::new(&sql, &values)])?;
            let [rows, ..] = &rows[..] else { return Err(Failure::unexpected("no result")) };
            let portion = rows.iter().map(|row| Ok((row.integer(11)?, rows::received(row)?)));
            portion.collect::<Result<Vec<_>, Failure>>()
        })?;
        self.is_done = portion.len() < usize::try_from(PORTION_MESSAGES).unwrap_or(usize::MAX);
        if let Some((_, last)) = portion.last() {
            self.position = last.position();
        }
        let finder = self.filter.q.as_deref().map(Finder::new);
        let found = portion.into_iter().filter(|(id, received)| {
            *id <= self.last_id && self.filter.is_match(received, finder.as_ref())
        });
        Ok(Some(found.map(|(_, received)| received).collect()))
    }
}

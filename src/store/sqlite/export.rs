//! All messages that a filter means, a portion at a time.
//!
//! An export is of the moment at which it begins: messages that are committed later are not in it.
//! Messages that are deleted before their portion is read are not in it either, so that erased data
//! never leaks. No transaction stays open between portions: that would keep the write-ahead log
//! growing.

use memchr::memmem::Finder;

use super::{
    reader::Reader,
    rows,
    scope::{Candidates, FIRST_ID},
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
    pub(crate) fn export(self, filter: Filter, has_originals: bool) -> Result<Export, Error> {
        let last_id = self.last_id()?;
        let position = Position::at(filter.since.unwrap_or(Position::START.timestamp));
        Ok(Export { reader: self, filter, has_originals, last_id, position, is_done: false })
    }
}

impl Export {
    pub(crate) fn next(&mut self) -> Result<Option<Vec<Received>>, Error> {
        if self.is_done {
            return Ok(None);
        }
        let transaction = self.reader.connection.transaction()?;
        let candidates = Candidates::of(&transaction, &self.filter)?;
        if candidates.scopes.is_empty() {
            return Ok(None);
        }
        let columns = rows::received_columns(self.has_originals);
        let in_order = candidates.in_order(|scope| {
            format!(
                "SELECT {columns}, id FROM messages
                 WHERE {} AND (ts_s, ts_ns, message_id) > (?2, ?3, ?4)
                     AND (ts_s, ts_ns) < (?5, ?6)",
                scope.condition()
            )
        });
        let sql = format!("{in_order} LIMIT {PORTION_MESSAGES}");
        let mut statement = transaction.prepare_cached(&sql)?;
        let until = self.filter.until.unwrap_or(Timestamp { seconds: i64::MAX, nanoseconds: 0 });
        let (a, b) = (rows::columns(&self.position), until);
        let part = (candidates.msisdn(), a.0, a.1, a.2, b.seconds, b.nanoseconds);
        let mut rows = statement.query(part)?;
        let finder = self.filter.q.as_deref().map(Finder::new);
        let (mut found, mut read, mut position) = (Vec::new(), 0, None);
        while let Some(row) = rows.next()? {
            read += 1;
            let received = rows::received(row)?;
            position = Some(received.position());
            if (FIRST_ID..=self.last_id).contains(&row.get(11)?)
                && self.filter.is_match(&received, finder.as_ref())
            {
                found.push(received);
            }
        }
        self.is_done = read < PORTION_MESSAGES;
        self.position = position.unwrap_or(Position::START);
        Ok(Some(found))
    }
}

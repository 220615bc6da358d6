//! All messages that a filter means, a portion at a time.
//!
//! An export is of the moment at which it begins: what is committed later is not in it, and what is
//! deleted before its turn comes is not either, since what was erased must not leave the house. No
//! transaction stays open between portions: that would keep the write-ahead log from ending.

use memchr::memmem::Finder;
use rusqlite::params;

use super::{
    Reader,
    counts::{FIRST_ID, Place},
    reader::{Filter, Received, received, scope},
    search::is_found,
};
use crate::{error::Error, timestamp::Timestamp};

/// Messages that are looked at for one portion.
const PORTION_MESSAGES: i64 = 256;

#[derive(Debug)]
pub(crate) struct Export {
    filter: Filter,
    /// The last message then.
    last_id: i64,
    /// Behind what was looked at.
    place: Place,
    is_done: bool,
}

impl Export {
    /// Begins here and now.
    pub(crate) fn begin(reader: &Reader, filter: Filter) -> Result<Export, Error> {
        let last_id = reader.last_id()?;
        let place = Place::at(filter.since.unwrap_or(Place::START.timestamp));
        Ok(Export { filter, last_id, place, is_done: false })
    }

    /// The next portion, which may be empty; `None` in the end.
    pub(crate) fn next(&mut self, reader: &mut Reader) -> Result<Option<Vec<Received>>, Error> {
        if self.is_done {
            return Ok(None);
        }
        let transaction = reader.connection.transaction()?;
        let Some((scope, _)) = scope(&transaction, &self.filter)? else { return Ok(None) };
        let sql = format!(
            "SELECT message_id, from_msisdn, to_msisdn, ts, text, ts_s, ts_ns, created_at, id
             FROM messages
             WHERE {} AND (ts_s, ts_ns, message_id) > (?2, ?3, ?4) AND (ts_s, ts_ns) < (?5, ?6)
             ORDER BY ts_s, ts_ns, message_id LIMIT ?7",
            scope.condition()
        );
        let mut statement = transaction.prepare_cached(&sql)?;
        let Place { timestamp, message_id } = &self.place;
        let until = self.filter.until.unwrap_or(Timestamp { seconds: i64::MAX, nanoseconds: 0 });
        let mut rows = statement.query(params![
            scope.msisdn(),
            timestamp.seconds,
            timestamp.nanoseconds,
            message_id,
            until.seconds,
            until.nanoseconds,
            PORTION_MESSAGES
        ])?;
        let finder = self.filter.q.as_deref().map(Finder::new);
        let (mut found, mut looked, mut place) = (Vec::new(), 0, None);
        while let Some(row) = rows.next()? {
            looked += 1;
            let received = received(row)?;
            place = Some(received.place());
            if (FIRST_ID..=self.last_id).contains(&row.get(8)?)
                && self.filter.is_to(received.message.to.as_bytes())
                && is_found(finder.as_ref(), row.get_ref(4)?)?
            {
                found.push(received);
            }
        }
        self.is_done = looked < PORTION_MESSAGES;
        self.place = place.unwrap_or(Place::START);
        Ok(Some(found))
    }
}

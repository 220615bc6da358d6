//! Pages and totals. Each worker has a reader of its own, and no reader can write.

use std::{path::Path, sync::Arc};

use memchr::memmem::Finder;
use rusqlite::{Connection, Transaction};

use super::{
    connection::open_for_reading,
    layout::Layout,
    ranks::Ranks,
    rows, schema,
    scope::{Candidates, IS_COUNTED},
    search::{self, Searches},
};
use crate::{
    error::Error,
    message::Message,
    store::types::{Filter, Listing, Order, Paging, Position},
    timestamp::Timestamp,
};

/// The page cache of each reader.
const CACHE_KIB: u32 = 2_000;

#[derive(Debug)]
pub(crate) struct Reader {
    pub(super) connection: Connection,
    layout: Layout,
    searches: Arc<Searches>,
}

impl Reader {
    /// Opens a database that the writer has brought up to date. Readers share `searches`.
    pub(super) fn open(
        path: &Path,
        layout: Layout,
        searches: &Arc<Searches>,
    ) -> rusqlite::Result<Reader> {
        let connection = open_for_reading(path, CACHE_KIB)?;
        Ok(Reader { connection, layout, searches: Arc::clone(searches) })
    }

    /// For a process beside the service: nothing is created, migrated or changed.
    pub(crate) fn open_read_only(path: &Path) -> Result<Reader, String> {
        let searches = Arc::new(Searches::new(1));
        Ok(Reader { connection: schema::open_read_only(path)?, layout: Layout::SHIPPED, searches })
    }

    pub(crate) fn check_schema(&self) -> Result<(), Error> {
        let version = schema::version(&self.connection)?;
        self.connection.prepare_cached("SELECT message_id FROM messages LIMIT 1")?.exists(())?;
        if version == schema::VERSION {
            Ok(())
        } else {
            Err(Error::NotReady("the database has another schema"))
        }
    }

    pub(crate) fn list(&mut self, filter: &Filter, paging: &Paging) -> Result<Listing, Error> {
        let transaction = self.connection.transaction()?;
        let ranks = Ranks::open(&transaction, filter)?;
        let candidates = &ranks.candidates;
        if ranks.total == 0 {
            return Ok(Listing::default());
        }
        let before = |bound: Option<Timestamp>, otherwise| match bound {
            Some(timestamp) => ranks.rank(&Position::at(timestamp)),
            None => Ok(otherwise),
        };
        let first = before(filter.since, 0)?;
        let count = (before(filter.until, ranks.total)? - first).max(0);
        let (total, window, mut messages);
        if filter.q.is_none() && filter.to.is_none() && candidates.classes.is_none() {
            total = count;
            window = paging
                .window(total, |position| Ok((ranks.rank(position)? - first).clamp(0, total)))?;
            let (position, left) = ranks.seek(first + window.start)?;
            messages = page(&transaction, &ranks, &position, left, window.end - window.start)?;
        } else if count <= self.layout.few {
            let found = scan(&transaction, candidates, filter)?;
            total = rows::length(&found);
            window = paging.window(total, |position| {
                let rank = found.partition_point(|(other, _)| other < position);
                Ok(i64::try_from(rank).unwrap_or(i64::MAX))
            })?;
            let ids: Vec<i64> = (window.clone())
                .filter_map(|at| found.get(usize::try_from(at).ok()?).map(|(_, id)| *id))
                .collect();
            messages = with_ids(&transaction, &ids)?;
        } else {
            let matches = search::search(&transaction, filter, candidates, &self.searches)?;
            total = matches.total;
            window = paging.window(total, |position| Ok(matches.rank(&transaction, position)?))?;
            let ids = matches.page(&transaction, window.clone())?;
            self.searches.put(filter.clone(), matches);
            messages = with_ids(&transaction, &ids)?;
        }
        let mut offset = window.start;
        if paging.order == Order::Descending {
            messages.reverse();
            offset = total - window.end;
        }
        Ok(Listing { messages, total, offset })
    }

    pub(crate) fn row(&self, message_id: &str) -> Option<i64> {
        let mut statement =
            self.connection.prepare_cached("SELECT id FROM messages WHERE message_id = ?1").ok()?;
        statement.query_row([message_id], |row| row.get(0)).ok()
    }

    pub(crate) fn position(&self, row: i64) -> Option<Position> {
        let sql = "SELECT ts_s, ts_ns, message_id FROM messages WHERE id = ?1";
        let mut statement = self.connection.prepare_cached(sql).ok()?;
        statement.query_row([row], rows::position).ok()
    }
}

/// Messages from a position on, without the first few.
fn page(
    transaction: &Transaction<'_>,
    ranks: &Ranks<'_>,
    position: &Position,
    offset: i64,
    limit: i64,
) -> rusqlite::Result<Vec<Message>> {
    let in_order = ranks.candidates.in_order(|scope| {
        format!(
            "SELECT message_id, from_msisdn, to_msisdn, ts, text, ts_s, ts_ns FROM messages
             WHERE {} AND (ts_s, ts_ns, message_id) >= (?2, ?3, ?4)",
            ranks.condition(scope)
        )
    });
    let sql = format!("{in_order} LIMIT ?5 OFFSET ?6");
    let mut statement = transaction.prepare_cached(&sql)?;
    let (seconds, nanoseconds, message_id) = rows::columns(position);
    let from = (ranks.candidates.msisdn(), seconds, nanoseconds, message_id, limit, offset);
    statement.query_map(from, rows::message)?.collect()
}

/// Reads every candidate, and gives those that match.
fn scan(
    transaction: &Transaction<'_>,
    candidates: &Candidates<'_>,
    filter: &Filter,
) -> rusqlite::Result<Vec<(Position, i64)>> {
    let classes = candidates.class_condition();
    let sql = candidates.in_order(|scope| {
        format!(
            "SELECT ts_s, ts_ns, message_id, id, text, to_msisdn FROM messages
             WHERE {} AND (ts_s, ts_ns) >= (?2, ?3) AND (ts_s, ts_ns) < (?4, ?5)
                 AND {IS_COUNTED} AND {classes}",
            scope.condition()
        )
    });
    let finder = filter.q.as_deref().map(Finder::new);
    let since = filter.since.unwrap_or(Position::START.timestamp);
    let until = filter.until.unwrap_or(Timestamp { seconds: i64::MAX, nanoseconds: 0 });
    let mut statement = transaction.prepare_cached(&sql)?;
    let (a, b) = (since, until);
    let within = (candidates.msisdn(), a.seconds, a.nanoseconds, b.seconds, b.nanoseconds);
    let mut rows = statement.query(within)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let is_to = filter.is_to(row.get_ref(5)?.as_bytes()?);
        if is_to && search::is_found(finder.as_ref(), row.get_ref(4)?)? {
            found.push((rows::position(row)?, row.get(3)?));
        }
    }
    Ok(found)
}

fn with_ids(transaction: &Transaction<'_>, ids: &[i64]) -> rusqlite::Result<Vec<Message>> {
    let mut statement = transaction.prepare_cached(
        "SELECT message_id, from_msisdn, to_msisdn, ts, text, ts_s, ts_ns FROM messages
         WHERE id = ?1",
    )?;
    ids.iter().map(|id| statement.query_row([id], rows::message)).collect()
}

//! The messages that a filter means, in one of three forms, each of which can be counted, ranked
//! and paged: a range of the rank index, a few messages that were read one by one, or what a search
//! has found.

use std::ops::Range;

use memchr::memmem::Finder;
use rusqlite::{OptionalExtension, Transaction};

use super::{
    layout::Layout,
    matches::Matches,
    ranks::Ranks,
    rows,
    scope::{BEGINS, IS_COUNTED, class_condition},
    search::{self, Searches},
};
use crate::{
    error::Error,
    message::Message,
    store::types::{Filter, Position},
    timestamp::Timestamp,
};

pub(super) enum Subset<'a> {
    /// The messages of a scope from the offset `first` on.
    Ranked {
        ranks: Ranks<'a>,
        first: i64,
        total: i64,
    },
    /// Their positions, in order, and their ids.
    Few(Vec<(Position, i64)>),
    Many(Matches),
}

impl<'a> Subset<'a> {
    /// The filter is [`super::scope::narrow`]ed.
    pub(super) fn of(
        transaction: &'a Transaction<'a>,
        filter: &'a Filter,
        layout: Layout,
        searches: &Searches,
    ) -> Result<Subset<'a>, Error> {
        if let Some(message_id) = &filter.message_id {
            return Ok(Subset::Few(one(transaction, message_id, filter)?));
        }
        let ranks = Ranks::open(transaction, filter)?;
        let candidates = &ranks.candidates;
        let classes = search::classes(candidates);
        let classes = classes.map_or_else(|| "TRUE".to_owned(), |ids| class_condition(&ids));
        if ranks.total == 0 {
            return Ok(Subset::Few(Vec::new()));
        }
        let before = |bound: Option<Timestamp>, otherwise| match bound {
            Some(timestamp) => ranks.rank(&Position::at(timestamp)),
            None => Ok(otherwise),
        };
        let first = before(filter.since, 0)?;
        let total = (before(filter.until, ranks.total)? - first).max(0);
        if filter.q.is_none()
            && filter.to.is_none()
            && filter.from_prefix.is_none()
            && candidates.classes.is_none()
        {
            return Ok(Subset::Ranked { ranks, first, total });
        }
        if total <= layout.few {
            let by_time: Vec<String> = (candidates.scopes.iter())
                .map(|scope| format!("messages WHERE {} AND {classes}", scope.condition()))
                .collect();
            return Ok(Subset::Few(scan(transaction, &by_time, candidates.msisdn(), filter)?));
        }
        if let Some(prefix) = &filter.from_prefix
            && has_few(transaction, prefix, layout.few)?
        {
            let by_sender =
                format!("messages INDEXED BY messages_by_from WHERE {BEGINS} AND {classes}");
            return Ok(Subset::Few(scan(transaction, &[by_sender], Some(prefix), filter)?));
        }
        Ok(Subset::Many(search::search(transaction, filter, candidates, searches)?))
    }

    pub(super) fn total(&self) -> i64 {
        match self {
            Subset::Ranked { total, .. } => *total,
            Subset::Few(found) => rows::length(found),
            Subset::Many(matches) => matches.total,
        }
    }

    /// How many of them come before a position.
    pub(super) fn rank(
        &self,
        transaction: &Transaction<'_>,
        position: &Position,
    ) -> Result<i64, Error> {
        Ok(match self {
            Subset::Ranked { ranks, first, total } => {
                (ranks.rank(position)? - first).clamp(0, *total)
            }
            Subset::Few(found) => {
                let rank = found.partition_point(|(other, _)| other < position);
                i64::try_from(rank).unwrap_or(i64::MAX)
            }
            Subset::Many(matches) => matches.rank(transaction, position)?,
        })
    }

    /// Those of a range of offsets.
    pub(super) fn page(
        &self,
        transaction: &Transaction<'_>,
        window: Range<i64>,
    ) -> rusqlite::Result<Vec<Message>> {
        match self {
            Subset::Ranked { ranks, first, .. } => {
                let (position, left) = ranks.seek(first + window.start)?;
                page(transaction, ranks, &position, left, window.end - window.start)
            }
            Subset::Few(found) => {
                let at = |at| found.get(usize::try_from(at).ok()?).map(|(_, id)| *id);
                with_ids(transaction, &window.filter_map(at).collect::<Vec<_>>())
            }
            Subset::Many(matches) => with_ids(transaction, &matches.page(transaction, window)?),
        }
    }

    /// Keeps what a search has found for the next page of it.
    pub(super) fn put(self, filter: &Filter, searches: &Searches) {
        if let Subset::Many(matches) = self {
            searches.put(filter.clone(), matches);
        }
    }
}

/// The message with this id, if it matches.
fn one(
    transaction: &Transaction<'_>,
    message_id: &str,
    filter: &Filter,
) -> rusqlite::Result<Vec<(Position, i64)>> {
    let sql = format!(
        "SELECT {}, id FROM messages WHERE message_id = ?1 AND {IS_COUNTED}",
        rows::received_columns(false)
    );
    let mut statement = transaction.prepare_cached(&sql)?;
    let finder = filter.q.as_deref().map(Finder::new);
    let found = statement.query_row([message_id], |row| {
        let received = rows::received(row)?;
        let Message { from, timestamp, .. } = &received.message;
        let is_match = filter.from.as_ref().is_none_or(|wanted| wanted == from)
            && filter.covers(*timestamp)
            && filter.is_match(&received, finder.as_ref());
        Ok(is_match.then_some((received.position(), row.get(11)?)))
    });
    Ok(found.optional()?.flatten().into_iter().collect())
}

/// Whether the senders that begin so have at most `few` messages.
fn has_few(transaction: &Transaction<'_>, prefix: &str, few: i64) -> rusqlite::Result<bool> {
    let sql = format!("SELECT 1 FROM messages WHERE {BEGINS} LIMIT 1 OFFSET ?2");
    Ok(!transaction.prepare_cached(&sql)?.exists((prefix, few))?)
}

/// Messages of a scope from a position on, without the first few.
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

/// Reads every message of some sources, which have `sender` as their first parameter and no message
/// in common, and gives those that match, in order.
fn scan(
    transaction: &Transaction<'_>,
    sources: &[String],
    sender: Option<&str>,
    filter: &Filter,
) -> rusqlite::Result<Vec<(Position, i64)>> {
    let finder = filter.q.as_deref().map(Finder::new);
    let since = filter.since.unwrap_or(Position::START.timestamp);
    let until = filter.until.unwrap_or(Timestamp { seconds: i64::MAX, nanoseconds: 0 });
    let (a, b) = (since, until);
    let within = (sender, a.seconds, a.nanoseconds, b.seconds, b.nanoseconds);
    let mut found = Vec::new();
    for source in sources {
        let sql = format!(
            "SELECT ts_s, ts_ns, message_id, id, text, to_msisdn, from_msisdn FROM {source}
                 AND (ts_s, ts_ns) >= (?2, ?3) AND (ts_s, ts_ns) < (?4, ?5) AND {IS_COUNTED}"
        );
        let mut statement = transaction.prepare_cached(&sql)?;
        let mut rows = statement.query(within)?;
        while let Some(row) = rows.next()? {
            if filter.is_to(row.get_ref(5)?.as_bytes()?)
                && filter.is_from_prefix(&rows::text(row, 6)?)
                && search::is_found(finder.as_ref(), row.get_ref(4)?)?
            {
                found.push((rows::position(row)?, row.get(3)?));
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn with_ids(transaction: &Transaction<'_>, ids: &[i64]) -> rusqlite::Result<Vec<Message>> {
    let mut statement = transaction.prepare_cached(
        "SELECT message_id, from_msisdn, to_msisdn, ts, text, ts_s, ts_ns FROM messages
         WHERE id = ?1",
    )?;
    ids.iter().map(|id| statement.query_row([id], rows::message)).collect()
}

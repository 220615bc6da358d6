//! Every SELECT. Each worker has a reader of its own, and no reader can write.

use std::{ops::Range, path::Path, sync::Arc};

use memchr::memmem::Finder;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde::Serialize;

use super::{
    configure,
    counts::{IS_COUNTED, Line, Place, Scope},
    open, schema,
    search::{self, Searches},
};
use crate::{error::Error, message::Message, timestamp::Timestamp};

/// Pages that each reader keeps.
const CACHE_KIB: u32 = 2_000;
/// Senders in /stats.
const TOP_SENDERS: i64 = 10;

/// Messages that a search reads one by one rather than by the packs of all.
const FEW: i64 = if cfg!(test) { 60 } else { 1_024 };

/// About what the rest of a message takes in an answer.
const FIELDS_BYTES: usize = 200;

#[derive(Debug)]
pub(crate) struct Reader {
    pub(super) connection: Connection,
    pub(super) searches: Arc<Searches>,
}

/// Which messages. All conditions hold at once.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Filter {
    pub(crate) from: Option<String>,
    pub(crate) to: Option<String>,
    /// Inclusive.
    pub(crate) since: Option<Timestamp>,
    /// Exclusive.
    pub(crate) until: Option<Timestamp>,
    /// A substring of the text, case-folded.
    pub(crate) q: Option<String>,
}

/// Which part of them, and which way round.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Paging {
    pub(crate) limit: i64,
    pub(crate) start: Start,
    pub(crate) order: Order,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Start {
    Offset(i64),
    /// What comes after a place, in the order asked for.
    After(Place),
    /// What comes right before it.
    Before(Place),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Ascending,
    Descending,
}

/// A message, and when it was stored.
#[derive(Debug, Serialize)]
pub(crate) struct Received {
    #[serde(flatten)]
    pub(crate) message: Message,
    pub(crate) created_at: String,
}

/// A page of messages.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) messages: Vec<Message>,
    /// How many match in all.
    pub(crate) total: i64,
    /// How many of them come before the page.
    pub(crate) offset: i64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Stats {
    total_messages: i64,
    senders_count: i64,
    messages_per_sender: Vec<Sender>,
    first_message_ts: Option<String>,
    last_message_ts: Option<String>,
}

#[derive(Debug, Serialize)]
struct Sender {
    from: String,
    count: i64,
}

/// A connection that cannot write.
pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = open(path)?;
    configure(&connection, CACHE_KIB)?;
    connection.execute_batch("PRAGMA query_only = ON")?;
    Ok(connection)
}

impl Reader {
    /// Opens a database that [`super::Writer::open`] has brought up to date. Readers share `searches`.
    pub(crate) fn open(path: &Path, searches: &Arc<Searches>) -> rusqlite::Result<Reader> {
        Ok(Reader { connection: connect(path)?, searches: Arc::clone(searches) })
    }

    /// The database answers, and with the schema that this program knows.
    pub(crate) fn check_schema(&self) -> Result<(), Error> {
        let version = schema::version(&self.connection)?;
        self.connection.prepare_cached("SELECT message_id FROM messages LIMIT 1")?.exists(())?;
        if version == schema::VERSION {
            Ok(())
        } else {
            Err(Error::NotReady("the database has another schema"))
        }
    }

    /// A page in the order of (timestamp, `message_id`), and how many match in all, at one moment.
    pub(crate) fn list(&mut self, filter: &Filter, paging: &Paging) -> Result<Listing, Error> {
        let transaction = self.connection.transaction()?;
        let Some((scope, n)) = scope(&transaction, filter)? else { return Ok(Listing::default()) };
        let line = Line::open(&transaction, scope)?;
        let before = |bound: Option<Timestamp>, otherwise| match bound {
            Some(timestamp) => line.rank(&Place::at(timestamp)),
            None => Ok(otherwise),
        };
        let first = before(filter.since, 0)?;
        let candidates = (before(filter.until, n)? - first).max(0);
        let (total, window, mut messages);
        if filter.q.is_none() && filter.to.is_none() {
            total = candidates;
            window =
                paging.window(total, |place| Ok((line.rank(place)? - first).clamp(0, total)))?;
            let (place, left) = line.seek(first + window.start)?;
            messages = page(&transaction, &line, &place, left, window.end - window.start)?;
        } else if candidates <= FEW {
            let found = pick(&transaction, scope, filter)?;
            total = i64::try_from(found.len()).unwrap_or(i64::MAX);
            window = paging.window(total, |place| {
                let rank = found.partition_point(|(other, _)| other < place);
                Ok(i64::try_from(rank).unwrap_or(i64::MAX))
            })?;
            let ids: Vec<i64> = (window.clone())
                .filter_map(|at| found.get(usize::try_from(at).ok()?).map(|(_, id)| *id))
                .collect();
            messages = with_ids(&transaction, &ids)?;
        } else {
            let matches = search::search(&transaction, filter, scope, &self.searches)?;
            total = matches.total;
            window = paging.window(total, |place| matches.rank(&transaction, place))?;
            let ids = matches.page(&transaction, window.clone())?;
            self.searches.remember(filter.clone(), matches);
            messages = with_ids(&transaction, &ids)?;
        }
        let mut offset = window.start;
        if paging.order == Order::Descending {
            messages.reverse();
            offset = total - window.end;
        }
        Ok(Listing { messages, total, offset })
    }

    /// The row of the message with this id.
    pub(crate) fn row(&self, message_id: &str) -> Option<i64> {
        let mut statement =
            self.connection.prepare_cached("SELECT id FROM messages WHERE message_id = ?1").ok()?;
        statement.query_row([message_id], |row| row.get(0)).ok()
    }

    /// The place of the message in this row.
    pub(crate) fn place(&self, row: i64) -> Option<Place> {
        let sql = "SELECT ts_s, ts_ns, message_id FROM messages WHERE id = ?1";
        let mut statement = self.connection.prepare_cached(sql).ok()?;
        statement.query_row([row], Place::read).ok()
    }

    pub(crate) fn stats(&mut self) -> Result<Stats, Error> {
        let transaction = self.connection.transaction()?;
        let (total_messages, senders_count) = transaction
            .prepare_cached("SELECT messages, senders FROM totals")?
            .query_row((), |row| Ok((row.get(0)?, row.get(1)?)))?;
        let ts = |order: &str| -> rusqlite::Result<Option<String>> {
            let sql = format!(
                "SELECT (SELECT ts FROM messages WHERE {IS_COUNTED} ORDER BY {order} LIMIT 1)"
            );
            transaction.prepare_cached(&sql)?.query_row((), |row| row.get(0))
        };
        let mut senders = transaction
            .prepare_cached("SELECT msisdn, n FROM senders ORDER BY n DESC, msisdn LIMIT ?1")?;
        let top = senders
            .query_map([TOP_SENDERS], |row| Ok(Sender { from: row.get(0)?, count: row.get(1)? }))?;
        Ok(Stats {
            total_messages,
            senders_count,
            messages_per_sender: top.collect::<rusqlite::Result<_>>()?,
            first_message_ts: ts("ts_s, ts_ns, message_id")?,
            last_message_ts: ts("ts_s DESC, ts_ns DESC, message_id DESC")?,
        })
    }
}

impl Received {
    pub(super) fn place(&self) -> Place {
        let Message { timestamp, message_id, .. } = &self.message;
        Place { timestamp: *timestamp, message_id: message_id.clone() }
    }

    /// About as long as it is in an answer.
    pub(super) fn bytes(&self) -> usize {
        let Message { message_id, text, .. } = &self.message;
        FIELDS_BYTES + escaped(message_id) + text.as_deref().map_or(0, escaped)
    }
}

/// Bytes of a text in JSON, where some take six times as many.
fn escaped(text: &str) -> usize {
    let bytes = |byte: u8| match byte {
        0..0x20 => 6,
        b'"' | b'\\' => 2,
        _ => 1,
    };
    text.bytes().map(bytes).sum()
}

impl Filter {
    /// Whether a moment is in its time.
    pub(super) fn covers(&self, timestamp: Timestamp) -> bool {
        self.since.is_none_or(|since| timestamp >= since)
            && self.until.is_none_or(|until| timestamp < until)
    }

    pub(super) fn is_to(&self, msisdn: &[u8]) -> bool {
        self.to.as_ref().is_none_or(|to| to.as_bytes() == msisdn)
    }
}

impl Paging {
    /// Which of `total` messages, counted in ascending order. `rank` says how many come before a place.
    fn window(
        &self,
        total: i64,
        rank: impl Fn(&Place) -> rusqlite::Result<i64>,
    ) -> rusqlite::Result<Range<i64>> {
        use Order::{Ascending, Descending};
        let forward = |from: i64| from..from.saturating_add(self.limit).min(total);
        let backward = |end: i64| (end - self.limit).max(0)..end;
        Ok(match (&self.start, self.order) {
            (Start::Offset(offset), Ascending) => forward((*offset).min(total)),
            (Start::Offset(offset), Descending) => backward((total - offset).max(0)),
            (Start::After(place), Ascending) | (Start::Before(place), Descending) => {
                forward(rank(&place.next())?)
            }
            (Start::Before(place), Ascending) | (Start::After(place), Descending) => {
                backward(rank(place)?)
            }
        })
    }
}

/// Whose messages the filter means, and how many there are of them; `None` if nobody's.
pub(super) fn scope<'a>(
    transaction: &Transaction<'_>,
    filter: &'a Filter,
) -> rusqlite::Result<Option<(Scope<'a>, i64)>> {
    let Some(msisdn) = &filter.from else {
        let mut all = transaction.prepare_cached("SELECT messages FROM totals")?;
        return Ok(Some((Scope::All, all.query_row((), |row| row.get(0))?)));
    };
    transaction
        .prepare_cached("SELECT id, n FROM senders WHERE msisdn = ?1")?
        .query_row([msisdn], |row| Ok((Scope::Sender { id: row.get(0)?, msisdn }, row.get(1)?)))
        .optional()
}

/// Messages from a place on, without the first few.
fn page(
    transaction: &Transaction<'_>,
    line: &Line<'_>,
    place: &Place,
    offset: i64,
    limit: i64,
) -> rusqlite::Result<Vec<Message>> {
    let sql = format!(
        "SELECT message_id, from_msisdn, to_msisdn, ts, text, ts_s, ts_ns FROM messages
         WHERE {} AND (ts_s, ts_ns, message_id) >= (?2, ?3, ?4)
         ORDER BY ts_s, ts_ns, message_id LIMIT ?5 OFFSET ?6",
        line.condition
    );
    let mut statement = transaction.prepare_cached(&sql)?;
    let Place { timestamp: Timestamp { seconds, nanoseconds }, message_id } = place;
    let from = params![line.scope.msisdn(), seconds, nanoseconds, message_id, limit, offset];
    statement.query_map(from, message)?.collect()
}

/// Reads every message that comes into question.
fn pick(
    transaction: &Transaction<'_>,
    scope: Scope<'_>,
    filter: &Filter,
) -> rusqlite::Result<Vec<(Place, i64)>> {
    let sql = format!(
        "SELECT ts_s, ts_ns, message_id, id, text, to_msisdn FROM messages
         WHERE {} AND (ts_s, ts_ns) >= (?2, ?3) AND (ts_s, ts_ns) < (?4, ?5) AND {IS_COUNTED}
         ORDER BY ts_s, ts_ns, message_id",
        scope.condition()
    );
    let finder = filter.q.as_deref().map(Finder::new);
    let since = filter.since.unwrap_or(Place::START.timestamp);
    let until = filter.until.unwrap_or(Timestamp { seconds: i64::MAX, nanoseconds: 0 });
    let mut statement = transaction.prepare_cached(&sql)?;
    let mut rows = statement.query(params![
        scope.msisdn(),
        since.seconds,
        since.nanoseconds,
        until.seconds,
        until.nanoseconds
    ])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let is_to = filter.is_to(row.get_ref(5)?.as_bytes()?);
        if is_to && search::is_found(finder.as_ref(), row.get_ref(4)?)? {
            found.push((Place::read(row)?, row.get(3)?));
        }
    }
    Ok(found)
}

fn with_ids(transaction: &Transaction<'_>, ids: &[i64]) -> rusqlite::Result<Vec<Message>> {
    let mut statement = transaction.prepare_cached(
        "SELECT message_id, from_msisdn, to_msisdn, ts, text, ts_s, ts_ns FROM messages
         WHERE id = ?1",
    )?;
    ids.iter().map(|id| statement.query_row([id], message)).collect()
}

/// A message of the first eight columns that every SELECT for one begins with.
pub(super) fn received(row: &Row<'_>) -> rusqlite::Result<Received> {
    Ok(Received { message: message(row)?, created_at: text(row, 7)? })
}

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

// Another program may have written what mailslot would not: one such row must not hide a page, nor
// stop a commit.

/// A text that is not null.
pub(super) fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    Ok(lossy(row.get_ref(column)?.as_bytes()?))
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Of two columns.
pub(super) fn timestamp(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    let nanoseconds: i64 = row.get(column + 1)?;
    let nanoseconds = u32::try_from(nanoseconds).unwrap_or(999_999_999);
    Ok(Timestamp { seconds: row.get(column)?, nanoseconds })
}

//! Every SELECT. Each worker has a reader of its own, and no reader can write.

use std::{path::Path, sync::Arc};

use memchr::memmem::Finder;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde::Serialize;

use super::{
    configure,
    counts::{self, Place, Scope},
    open, schema,
    search::{self, Searches},
};
use crate::{
    error::Error,
    message::{Instant, Message, fold_case},
};

/// Pages that each reader keeps.
const CACHE_KIB: u32 = 2_000;
/// Senders in /stats.
const TOP_SENDERS: i64 = 10;

/// Messages that a search reads one by one rather than by the packs of all.
const FEW: i64 = if cfg!(test) { 60 } else { 1_024 };

#[derive(Debug)]
pub(crate) struct Reader {
    pub(super) connection: Connection,
    searches: Arc<Searches>,
}

/// All conditions hold at once.
#[derive(Debug)]
pub(crate) struct Filter {
    pub(crate) limit: i64,
    pub(crate) offset: i64,
    pub(crate) from: Option<String>,
    /// Inclusive.
    pub(crate) since: Option<Instant>,
    /// A substring of the text, case-folded.
    pub(crate) q: Option<String>,
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

    /// A page in the order of (instant, `message_id`), and how many match in all, at one moment.
    pub(crate) fn list(&mut self, filter: &Filter) -> Result<(Vec<Message>, i64), Error> {
        let transaction = self.connection.transaction()?;
        let Some((scope, n)) = scope(&transaction, filter)? else { return Ok((Vec::new(), 0)) };
        let before = match filter.since {
            Some(since) => counts::rank(&transaction, scope, since)?,
            None => 0,
        };
        let candidates = n - before;
        match &filter.q {
            None if filter.offset >= candidates => Ok((Vec::new(), candidates)),
            None => {
                Ok((page(&transaction, scope, before + filter.offset, filter.limit)?, candidates))
            }
            Some(q) if candidates <= FEW => Ok(pick(&transaction, scope, filter, q)?),
            Some(q) => {
                let (ids, total) = search::search(&transaction, filter, scope, q, &self.searches)?;
                Ok((with_ids(&transaction, &ids)?, total))
            }
        }
    }

    pub(crate) fn stats(&mut self) -> Result<Stats, Error> {
        let transaction = self.connection.transaction()?;
        let (total_messages, senders_count) = transaction
            .prepare_cached("SELECT messages, senders FROM totals")?
            .query_row((), |row| Ok((row.get(0)?, row.get(1)?)))?;
        let ts = |sql: &str| -> rusqlite::Result<Option<String>> {
            transaction.prepare_cached(sql)?.query_row((), |row| row.get(0))
        };
        let mut senders = transaction
            .prepare_cached("SELECT msisdn, n FROM senders ORDER BY n DESC, msisdn LIMIT ?1")?;
        let top = senders
            .query_map([TOP_SENDERS], |row| Ok(Sender { from: row.get(0)?, count: row.get(1)? }))?;
        Ok(Stats {
            total_messages,
            senders_count,
            messages_per_sender: top.collect::<rusqlite::Result<_>>()?,
            first_message_ts: ts(
                "SELECT (SELECT ts FROM messages ORDER BY ts_s, ts_ns, message_id LIMIT 1)",
            )?,
            last_message_ts: ts(
                "SELECT (SELECT ts FROM messages ORDER BY ts_s DESC, ts_ns DESC, message_id DESC LIMIT 1)",
            )?,
        })
    }
}

/// Whose messages the filter means, and how many there are of them; `None` if nobody's.
fn scope<'a>(
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

fn page(
    transaction: &Transaction<'_>,
    scope: Scope<'_>,
    offset: i64,
    limit: i64,
) -> rusqlite::Result<Vec<Message>> {
    let (Place { instant, message_id }, left) = counts::seek(transaction, scope, offset)?;
    let sql = format!(
        "SELECT message_id, from_msisdn, to_msisdn, ts, text, ts_s, ts_ns FROM messages
         WHERE {} AND (ts_s, ts_ns, message_id) >= (?2, ?3, ?4)
         ORDER BY ts_s, ts_ns, message_id LIMIT ?5 OFFSET ?6",
        scope.condition()
    );
    let mut statement = transaction.prepare_cached(&sql)?;
    let Instant { seconds, nanoseconds } = instant;
    let from = params![scope.msisdn(), seconds, nanoseconds, message_id, limit, left];
    statement.query_map(from, message)?.collect()
}

/// Reads every message that comes into question.
fn pick(
    transaction: &Transaction<'_>,
    scope: Scope<'_>,
    filter: &Filter,
    q: &str,
) -> rusqlite::Result<(Vec<Message>, i64)> {
    let sql = format!(
        "SELECT message_id, from_msisdn, to_msisdn, ts, text, ts_s, ts_ns FROM messages
         WHERE {} AND (ts_s, ts_ns) >= (?2, ?3) ORDER BY ts_s, ts_ns, message_id",
        scope.condition()
    );
    let finder = Finder::new(q);
    let Instant { seconds, nanoseconds } = filter.since.unwrap_or(Place::START.instant);
    let mut statement = transaction.prepare_cached(&sql)?;
    let mut rows = statement.query(params![scope.msisdn(), seconds, nanoseconds])?;
    let (mut messages, mut total) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let text = String::from_utf8_lossy(row.get_ref(4)?.as_bytes_or_null()?.unwrap_or_default());
        if finder.find(fold_case(&text).as_bytes()).is_some() {
            if (filter.offset..filter.offset.saturating_add(filter.limit)).contains(&total) {
                messages.push(message(row)?);
            }
            total += 1;
        }
    }
    Ok((messages, total))
}

fn with_ids(transaction: &Transaction<'_>, ids: &[i64]) -> rusqlite::Result<Vec<Message>> {
    let mut statement = transaction.prepare_cached(
        "SELECT message_id, from_msisdn, to_msisdn, ts, text, ts_s, ts_ns FROM messages
         WHERE id = ?1",
    )?;
    ids.iter().map(|id| statement.query_row([id], message)).collect()
}

pub(super) fn message(row: &Row<'_>) -> rusqlite::Result<Message> {
    // Another program may have written what is no UTF-8: one such row must not hide a page.
    let text = |column: usize| -> rusqlite::Result<Option<String>> {
        let value = row.get_ref(column)?.as_bytes_or_null()?;
        Ok(value.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
    };
    Ok(Message {
        message_id: text(0)?.unwrap_or_default(),
        from: text(1)?.unwrap_or_default(),
        to: text(2)?.unwrap_or_default(),
        ts: text(3)?.unwrap_or_default(),
        text: text(4)?,
        instant: Instant { seconds: row.get(5)?, nanoseconds: row.get(6)? },
    })
}

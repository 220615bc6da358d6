//! Every SELECT. Each worker has a reader of its own, and no reader can write.

use std::path::Path;

use rusqlite::{Connection, Row, ToSql, Transaction, functions::FunctionFlags, types::ValueRef};
use serde::Serialize;

use super::{configure, open, schema};
use crate::{
    error::Error,
    message::{Instant, Message, fold_case},
};

/// Pages that each reader keeps.
const CACHE_KIB: u32 = 2_000;
/// Senders in /stats.
const TOP_SENDERS: i64 = 10;

#[derive(Debug)]
pub(crate) struct Reader(Connection);

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

impl Reader {
    /// Opens a database that [`super::Writer::open`] has brought up to date.
    pub(crate) fn open(path: &Path) -> rusqlite::Result<Reader> {
        let connection = open(path)?;
        configure(&connection, CACHE_KIB)?;
        connection.execute_batch("PRAGMA query_only = ON")?;
        let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
        connection.create_scalar_function("contains_folded", 2, flags, |context| {
            let (ValueRef::Text(text), ValueRef::Text(folded)) =
                (context.get_raw(0), context.get_raw(1))
            else {
                return Ok(false);
            };
            let (text, folded) = (String::from_utf8_lossy(text), String::from_utf8_lossy(folded));
            Ok(fold_case(&text).contains(&*folded))
        })?;
        Ok(Reader(connection))
    }

    /// The database answers, and with the schema that this program knows.
    pub(crate) fn check_schema(&self) -> Result<(), Error> {
        let version = schema::version(&self.0)?;
        self.0.prepare_cached("SELECT message_id FROM messages LIMIT 1")?.exists(())?;
        if version == schema::VERSION {
            Ok(())
        } else {
            Err(Error::NotReady("the database has another schema"))
        }
    }

    /// A page in the order of (instant, `message_id`), and how many match in all, at one moment.
    pub(crate) fn list(&mut self, filter: &Filter) -> Result<(Vec<Message>, i64), Error> {
        let transaction = self.0.transaction()?;
        let total = count(&transaction, filter)?;
        let messages = if filter.offset < total { page(&transaction, filter)? } else { Vec::new() };
        Ok((messages, total))
    }

    pub(crate) fn stats(&mut self) -> Result<Stats, Error> {
        let transaction = self.0.transaction()?;
        let count = |sql: &str| transaction.prepare_cached(sql)?.query_row((), |row| row.get(0));
        let ts = |sql: &str| -> rusqlite::Result<Option<String>> {
            transaction.prepare_cached(sql)?.query_row((), |row| row.get(0))
        };
        let mut senders = transaction.prepare_cached(
            "SELECT from_msisdn, count(*) AS n FROM messages
             GROUP BY from_msisdn ORDER BY n DESC, from_msisdn LIMIT ?1",
        )?;
        let top = senders
            .query_map([TOP_SENDERS], |row| Ok(Sender { from: row.get(0)?, count: row.get(1)? }))?;
        Ok(Stats {
            total_messages: count("SELECT count(*) FROM messages")?,
            senders_count: count("SELECT count(DISTINCT from_msisdn) FROM messages")?,
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

/// `WHERE` for the filters that are there; the statement cache holds a statement for each set.
fn conditions(filter: &Filter) -> String {
    let mut conditions = vec!["1"];
    if filter.from.is_some() {
        conditions.push("from_msisdn = :from");
    }
    if filter.since.is_some() {
        conditions.push("(ts_s, ts_ns) >= (:since_s, :since_ns)");
    }
    if filter.q.is_some() {
        conditions.push("contains_folded(text, :q)");
    }
    conditions.join(" AND ")
}

fn count(transaction: &Transaction<'_>, filter: &Filter) -> rusqlite::Result<i64> {
    let sql = format!("SELECT count(*) FROM messages WHERE {}", conditions(filter));
    let mut statement = transaction.prepare_cached(&sql)?;
    bind(&mut statement, filter)?;
    let mut rows = statement.raw_query();
    rows.next()?.map_or(Ok(0), |row| row.get(0))
}

fn page(transaction: &Transaction<'_>, filter: &Filter) -> rusqlite::Result<Vec<Message>> {
    let sql = format!(
        "SELECT message_id, from_msisdn, to_msisdn, ts, text, ts_s, ts_ns FROM messages
         WHERE {} ORDER BY ts_s, ts_ns, message_id LIMIT :limit OFFSET :offset",
        conditions(filter)
    );
    let mut statement = transaction.prepare_cached(&sql)?;
    bind(&mut statement, filter)?;
    statement.raw_query().mapped(message).collect()
}

/// Binds those of the filter's values that the statement asks for.
fn bind(statement: &mut rusqlite::CachedStatement<'_>, filter: &Filter) -> rusqlite::Result<()> {
    let since = filter.since.map(|since| (since.seconds, since.nanoseconds));
    let values: [(&str, &dyn ToSql); 6] = [
        (":from", &filter.from),
        (":since_s", &since.map(|since| since.0)),
        (":since_ns", &since.map(|since| since.1)),
        (":q", &filter.q),
        (":limit", &filter.limit),
        (":offset", &filter.offset),
    ];
    for (name, value) in values {
        if let Some(index) = statement.parameter_index(name)? {
            statement.raw_bind_parameter(index, value)?;
        }
    }
    Ok(())
}

fn message(row: &Row<'_>) -> rusqlite::Result<Message> {
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

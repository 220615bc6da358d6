//! Searching texts for a substring: exactly, with an exact total, and any page of it.
//!
//! Texts are compared by bytes, as they were case-folded when they were stored (`folded`, or `text`
//! where it is folded already). An index of trigrams makes it faster where the operator wants one
//! and the server has the extension; it decides nothing, since each text that it finds is compared.

use std::{borrow::Cow, time::Duration};

use sha2::{Digest, Sha256};

use super::{
    connection::Connection,
    failure::Failure,
    ranks::{optional, position_values},
    rows::{self, MESSAGE},
    snapshot::Snapshot,
    text::encode,
    values::{Rows, Statement, Value},
};
use crate::{
    config::Target,
    message::Message,
    metrics::Label,
    store::types::{Filter, Paging, Position, Start},
    timestamp::Timestamp,
};

/// SQLSTATE of a statement that took too long.
pub(super) const CANCELED: &str = "57014";
/// How long creating the index may take.
const INDEX_TIMEOUT: Duration = Duration::from_hours(24);

/// What a search has found.
pub(super) struct Found {
    pub(super) total: i64,
    /// How many come before the edge of the page.
    pub(super) before: i64,
    /// Those of the page, in ascending order.
    pub(super) messages: Vec<Message>,
}

/// The conditions of a filter, on `$1` to `$11`.
pub(super) struct Conditions {
    pub(super) sql: String,
    hash: Option<[u8; 32]>,
    pattern: Option<String>,
    prefix: Option<String>,
    kind: Option<String>,
    /// For `enable_seqscan`: whether reading the whole table may be the best way.
    may_scan: &'static str,
}

impl Conditions {
    /// `is_few`: the party and the time lead to few messages, which are read one by one.
    pub(super) fn of(filter: &Filter, is_few: bool) -> Conditions {
        let is_few = is_few || filter.message_id.is_some();
        // The index of trigrams is no way to find a text without one, nor to few messages.
        let is_indexed = !is_few && filter.q.as_deref().is_some_and(has_trigram);
        let text = if is_indexed { "coalesce(folded, text)" } else { "coalesce(folded, text, '')" };
        // Without statistics, the server might find a sender's few messages by a busy receiver.
        let to = if filter.from.is_some() { "to_msisdn || ''" } else { "to_msisdn" };
        // No text has a character behind the last one of Unicode. The index by class leads to all
        // messages of a class, and the server may take it where it has no statistics yet.
        let sql = format!(
            "($1::text IS NULL OR from_msisdn = $1) AND ($2::text IS NULL OR {to} = $2)
             AND ($3::bigint IS NULL OR (ts_s, ts_ns) >= ($3, $4))
             AND ($5::bigint IS NULL OR (ts_s, ts_ns) < ($5, $6))
             AND ($7::text IS NULL OR {text} LIKE $7) AND ($8::bytea IS NULL OR hash = $8)
             AND ($9::text IS NULL OR from_msisdn >= $9 AND from_msisdn < $9 || chr(1114111))
             AND ($10::text IS NULL OR source || '' = $10)
             AND ($11::text IS NULL OR kind || '' = $11)"
        );
        Conditions {
            sql,
            hash: filter.message_id.as_ref().map(|id| Sha256::digest(id).into()),
            pattern: filter.q.as_deref().map(pattern),
            prefix: filter.from_prefix.as_deref().map(encode).map(Cow::into_owned),
            kind: filter.kind.as_deref().map(encode).map(Cow::into_owned),
            may_scan: if is_few { "off" } else { "on" },
        }
    }

    pub(super) fn values<'a>(&'a self, filter: &'a Filter) -> Vec<Value<'a>> {
        let bound = |bound: Option<Timestamp>| match bound {
            Some(timestamp) => position_values(&Position::at(timestamp), ""),
            None => [Value::Null; 3],
        };
        let [since, since_ns, _] = bound(filter.since);
        let [until, until_ns, _] = bound(filter.until);
        let (from, to) = (optional(filter.from.as_deref()), optional(filter.to.as_deref()));
        let hash = self.hash.as_ref().map_or(Value::Null, |hash| Value::Bytes(hash));
        let (pattern, prefix) = (self.pattern.as_deref(), self.prefix.as_deref());
        let source = optional(filter.source.map(Label::value));
        let kind = optional(self.kind.as_deref());
        let (pattern, prefix) = (optional(pattern), optional(prefix));
        vec![from, to, since, since_ns, until, until_ns, pattern, hash, prefix, source, kind]
    }

    /// The rows of the last statement of a read.
    pub(super) fn run_last(
        &self,
        snapshot: &mut Snapshot<'_>,
        sql: &str,
        values: &[Value<'_>],
    ) -> Result<Rows, Failure> {
        let rows = snapshot.run_last(&[
            Statement::new(
                "SELECT set_config('enable_seqscan', $1, true)",
                &[Value::Text(self.may_scan)],
            ),
            Statement::new(sql, values),
        ])?;
        rows.into_iter().nth(1).ok_or_else(|| Failure::unexpected("no result"))
    }
}

/// `is_few`: the party and the time lead to few messages, which are read one by one.
pub(super) fn search(
    snapshot: &mut Snapshot<'_>,
    filter: &Filter,
    paging: &Paging,
    is_few: bool,
) -> Result<Found, Failure> {
    let conditions = Conditions::of(filter, is_few);
    let (edge_condition, order) = match (paging.edge(), paging.is_forward()) {
        (None, true) => ("true", ""),
        (None, false) => ("true", "DESC"),
        (_, true) => ("(ts_s, ts_ns, message_id) >= ($12, $13, $14)", ""),
        (_, false) => ("(ts_s, ts_ns, message_id) < ($12, $13, $14)", "DESC"),
    };
    let sql = format!(
        "WITH found AS MATERIALIZED (
             SELECT id, ts_s, ts_ns, message_id FROM mailslot.messages WHERE {}
         ), page AS (
             SELECT id FROM found WHERE {edge_condition}
             ORDER BY ts_s {order}, ts_ns {order}, message_id {order} LIMIT $15 OFFSET $16)
         SELECT total, before, {MESSAGE}
         FROM (
             SELECT count(*) AS total,
                 count(*) FILTER (WHERE (ts_s, ts_ns, message_id) < ($12, $13, $14)) AS before
             FROM found
         ) AS counted LEFT JOIN (page JOIN mailslot.messages USING (id)) ON true
         ORDER BY messages.ts_s, messages.ts_ns, messages.message_id",
        conditions.sql
    );
    let edge = paging.edge().unwrap_or(Position::START);
    let edge_id = encode(&edge.message_id);
    let offset = if let Start::Offset(offset) = paging.start { offset } else { 0 };
    let mut values = conditions.values(filter);
    values.extend(position_values(&edge, &edge_id));
    values.extend([Value::Integer(paging.limit), Value::Integer(offset)]);
    let rows = conditions.run_last(snapshot, &sql, &values)?;
    let row = rows.one()?;
    let is_empty = row.optional_text(2)?.is_none();
    let messages = rows.iter().filter(|_| !is_empty).map(|row| rows::message(row, 2));
    Ok(Found {
        total: row.integer(0)?,
        before: row.integer(1)?,
        messages: messages.collect::<Result<_, _>>()?,
    })
}

/// The pattern of LIKE that means this substring, literally.
fn pattern(substring: &str) -> String {
    let mut pattern = String::from("%");
    for character in encode(substring).chars() {
        if matches!(character, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern.push('%');
    pattern
}

/// Whether the index can find it: there are three letters or digits in a row.
fn has_trigram(substring: &str) -> bool {
    let mut run = 0;
    substring.chars().any(|character| {
        run = if character.is_alphanumeric() { run + 1 } else { 0 };
        run == 3
    })
}

/// Whether there is to be an index of trigrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SearchIndex {
    On,
    Off,
}

impl SearchIndex {
    /// Creates the index or drops it, while messages are stored. False if that is to be tried
    /// again.
    pub(super) fn make(self, target: &Target) -> bool {
        let made = Connection::connect(target).and_then(|connection| self.make_by(connection));
        match made {
            Ok(()) => true,
            Err(failure) if failure.is_passing() => false,
            Err(failure) => {
                log::warn!(
                    error:% = failure;
                    "there is no index for searches, so that each one reads every text: create the \
                     extension pg_trgm in the database, or set SEARCH_INDEX=off"
                );
                true
            }
        }
    }

    fn make_by(self, mut connection: Connection) -> Result<(), Failure> {
        let found = connection.ask(
            "SELECT indisvalid, EXISTS (
                 SELECT FROM pg_stat_progress_create_index WHERE index_relid = indexrelid)
             FROM pg_index WHERE indexrelid = to_regclass('mailslot.messages_by_text')",
        )?;
        let (is_valid, is_running) = match found.iter().next() {
            Some(row) => (Some(row.boolean(0)?), row.boolean(1)?),
            None => (None, false),
        };
        match (self, is_valid) {
            // Another node makes it just now.
            _ if is_running => Ok(()),
            (SearchIndex::On, Some(true)) | (SearchIndex::Off, None) => Ok(()),
            (SearchIndex::Off, Some(_)) => connection.run_script(DROP, INDEX_TIMEOUT),
            (SearchIndex::On, unfinished) => {
                if unfinished.is_some() {
                    connection.run_script(DROP, INDEX_TIMEOUT)?;
                }
                connection.ask("CREATE EXTENSION IF NOT EXISTS pg_trgm")?;
                let schema = connection.ask(
                    "SELECT quote_ident(nspname) FROM pg_extension
                     JOIN pg_namespace ON pg_namespace.oid = extnamespace
                     WHERE extname = 'pg_trgm'",
                )?;
                let create = format!(
                    "CREATE INDEX CONCURRENTLY IF NOT EXISTS messages_by_text ON mailslot.messages
                     USING gin (coalesce(folded, text) {}.gin_trgm_ops)",
                    schema.one()?.text(0)?
                );
                connection.run_script(&create, INDEX_TIMEOUT)
            }
        }
    }
}

const DROP: &str = "DROP INDEX CONCURRENTLY IF EXISTS mailslot.messages_by_text";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_means_what_is_searched_for_and_nothing_else() {
        assert_eq!(pattern("a%_\\b"), "%a\\%\\_\\\\b%");
        assert_eq!(pattern("\0"), "%\x01\x02\x02%");
    }
}

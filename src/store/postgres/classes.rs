//! Classes: the pairs of source and kind.
//!
//! There are few of them, so a filter by source or by kind means a few classes. Messages have an
//! index by class, and each class but one has counts by time, as a party with many messages has
//! (counts.rs). A class is entered before its first message is stored, and stays when its last one
//! goes.

use std::{borrow::Cow, collections::HashMap};

use super::{
    connection::Connection,
    failure::Failure,
    sequencer::{LOCK, SETTINGS},
    snapshot::Snapshot,
    text::encode,
    values::{Rows, Statement, Value},
};
use crate::{
    message::{CLASSES_MAX, Delivered, OTHER_KIND},
    metrics::Label,
    store::types::Filter,
};

/// What a message of /webhook is, by the schema. It has no counts by time, so that they cost an
/// inbox nothing that takes no other messages: those of all messages without the other classes.
const WEBHOOK_TEXT: i64 = 1;
/// How many answers of the database a connection remembers.
const REMEMBERED: usize = 512;

/// The kinds that this connection has found in the database, of each source; and for those that are
/// too many, the other one.
#[derive(Default)]
pub(super) struct Classes(HashMap<(&'static str, String), String>);

impl Classes {
    /// The kind with which each message is stored, encoded for the database. New classes are
    /// entered.
    pub(super) fn kinds<'a>(
        &mut self,
        connection: &mut Connection,
        messages: &[&'a Delivered],
    ) -> Result<Vec<Cow<'a, str>>, Failure> {
        let mut kinds = Vec::with_capacity(messages.len());
        for message in messages {
            let kind = encode(&message.kind);
            let class = (message.source.value(), kind.clone().into_owned());
            let stored = if let Some(stored) = self.0.get(&class) {
                stored.clone()
            } else {
                let stored = enter(connection, class.0, &class.1)?;
                if self.0.len() >= REMEMBERED {
                    self.0.clear();
                }
                self.0.insert(class, stored.clone());
                stored
            };
            kinds.push(if stored == kind { kind } else { Cow::Owned(stored) });
        }
        Ok(kinds)
    }
}

/// The kind of a class, which is entered if it is new. Each source may still have its class of
/// other kinds where there are too many.
fn enter(connection: &mut Connection, source: &str, kind: &str) -> Result<String, Failure> {
    let texts = [source, kind, OTHER_KIND].map(Value::Text);
    let class = [texts[0], texts[1], texts[2], Value::Integer(CLASSES_MAX)];
    // Classes do not go, so that one more than there may be needs no lock.
    let find = "
        SELECT kind FROM mailslot.classes WHERE source = $1 AND (kind = $2
            OR kind = $3 AND (SELECT count(*) FROM mailslot.classes) >= $4)
        ORDER BY kind = $2 DESC LIMIT 1";
    let known = connection.run_in_order(&[Statement::new(find, &class)])?;
    if let Some(row) = known.last().and_then(|rows| rows.iter().next()) {
        return Ok(row.text(0)?.to_owned());
    }
    let add = "
        INSERT INTO mailslot.classes (source, kind)
        SELECT $1, CASE WHEN count(*) < $4 THEN $2 ELSE $3 END FROM mailslot.classes
        ON CONFLICT DO NOTHING";
    let answers = connection.run_in_order(&[
        Statement::plain(SETTINGS),
        Statement::plain(LOCK),
        Statement::new(add, &class),
        Statement::new(find, &class),
    ])?;
    let stored = answers.last().ok_or_else(|| Failure::unexpected("no result"))?;
    Ok(stored.one()?.text(0)?.to_owned())
}

/// Some classes, as the database has them.
#[derive(Debug, Clone, Default)]
pub(super) struct Meant {
    /// `counts.group_id` of the classes that are counted; or that of all messages, and of each
    /// class that is not meant, which is to be subtracted.
    pub(super) counts_of: Vec<i64>,
    /// Source and kind.
    names: Vec<(String, String)>,
}

impl Meant {
    /// The sources, and the kind of each.
    pub(super) fn columns(&self) -> [Vec<Option<&str>>; 2] {
        let sources = self.names.iter().map(|(source, _)| Some(source.as_str()));
        [sources.collect(), self.names.iter().map(|(_, kind)| Some(kind.as_str())).collect()]
    }
}

/// What a filter by source and kind means at the moment of a snapshot.
#[derive(Debug)]
pub(super) struct Found {
    /// The watermark.
    pub(super) counted_id: i64,
    /// How many messages there are of them.
    pub(super) total: i64,
    /// `None` where that is all classes that there are.
    pub(super) classes: Option<Meant>,
}

pub(super) fn find(snapshot: &mut Snapshot<'_>, filter: &Filter) -> Result<Found, Failure> {
    // Another program may have stored a message whose class is not in the table.
    let sql = "
        WITH tail AS MATERIALIZED (
            SELECT source || '' AS source, kind || '' AS kind, count(*) AS n
            FROM mailslot.messages WHERE id > (SELECT counted_id FROM mailslot.totals)
            GROUP BY 1, 2)
        SELECT (SELECT counted_id FROM mailslot.totals), sum(n)::bigint, max(id), source, kind,
            ($1::text IS NULL OR source = $1) AND ($2::text IS NULL OR kind = $2)
        FROM (SELECT source, kind, n, id FROM mailslot.classes
              UNION ALL SELECT source, kind, n, NULL FROM tail) AS summands
        GROUP BY source, kind";
    let kind = filter.kind.as_deref().map(encode);
    let values = [filter.source.map(Label::value), kind.as_deref()]
        .map(|text| text.map_or(Value::Null, Value::Text));
    let rows: Rows = snapshot.ask(sql, &values)?;
    let mut found = Found { counted_id: rows.one()?.integer(0)?, total: 0, classes: None };
    let (mut meant, mut others) = (Meant::default(), vec![0]);
    for row in rows.iter() {
        let (id, is_meant) = (row.optional_integer(2)?, row.boolean(5)?);
        let ids = if is_meant { &mut meant.counts_of } else { &mut others };
        ids.extend(id);
        if is_meant {
            found.total += row.integer(1)?;
            meant.names.push((row.text(3)?.to_owned(), row.text(4)?.to_owned()));
        }
    }
    if meant.counts_of.contains(&WEBHOOK_TEXT) {
        meant.counts_of = others;
    }
    found.classes = (meant.names.len() < rows.len()).then_some(meant);
    Ok(found)
}

//! Classes: the pairs of source and kind, by their numbers.
//!
//! There are few of them, so a filter by source or by kind means a few classes, and each class is a
//! scope with counts of its own (scope.rs). A class stays when its last message goes.
//!
//! Messages have an index by class only once a provider's secret has been set: it costs deliveries
//! up to 17 % of their rate (docs/PERFORMANCE.md), and where every message came by /webhook, a
//! filter means all of them or none. Where a database without the index has several classes, by an
//! import for instance, a filter looks at each message, as a search does.

use rusqlite::{Connection, OptionalExtension, Transaction};

use super::rows;
use crate::{
    message::{CLASSES_MAX, OTHER_KIND, TEXT_KIND},
    metrics::{Label, Source},
    store::types::Filter,
};

/// What a message of /webhook is, by the schema.
const WEBHOOK_TEXT: i64 = 1;

/// The numbers of classes that a batch has looked up.
pub(super) struct Classes {
    known: Vec<(Source, String, i64)>,
    /// How many there may be in the database.
    max: i64,
}

impl Classes {
    pub(super) fn limited() -> Classes {
        Classes { known: Vec::new(), max: CLASSES_MAX }
    }

    /// For messages that come from another database, each with the kind that it was given there.
    pub(super) fn unlimited() -> Classes {
        Classes { known: Vec::new(), max: i64::MAX }
    }

    pub(super) fn id(
        &mut self,
        transaction: &Transaction<'_>,
        source: Source,
        kind: &str,
    ) -> rusqlite::Result<i64> {
        if source == Source::Webhook && kind == TEXT_KIND {
            return Ok(WEBHOOK_TEXT);
        }
        let known = self.known.iter().find(|(other, name, _)| *other == source && name == kind);
        if let Some((_, _, id)) = known {
            return Ok(*id);
        }
        let id = id(transaction, source, kind, self.max)?;
        self.known.push((source, kind.to_owned(), id));
        Ok(id)
    }
}

/// The number of a class, which is entered if it is new.
fn id(
    transaction: &Transaction<'_>,
    source: Source,
    kind: &str,
    max: i64,
) -> rusqlite::Result<i64> {
    let known = transaction
        .prepare_cached("SELECT id FROM classes WHERE source = ?1 AND kind = ?2")?
        .query_row((source.value(), kind), |row| row.get(0))
        .optional()?;
    if let Some(id) = known {
        return Ok(id);
    }
    let count: i64 = transaction
        .prepare_cached("SELECT count(*) FROM classes")?
        .query_row((), |row| row.get(0))?;
    // Each source may still have its class of other kinds.
    if count >= max && kind != OTHER_KIND {
        return id(transaction, source, OTHER_KIND, max);
    }
    transaction
        .prepare_cached("INSERT INTO classes (source, kind) VALUES (?1, ?2)")?
        .execute((source.value(), kind))?;
    Ok(transaction.last_insert_rowid())
}

/// Whether messages have an index by class.
pub(super) fn has_index(connection: &Connection) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM sqlite_schema WHERE name = 'messages_by_class'")?
        .exists(())
}

/// The classes that a filter means, each with its number of messages up to the watermark; `None`
/// where it means all that there are.
pub(super) fn of(
    transaction: &Transaction<'_>,
    filter: &Filter,
) -> rusqlite::Result<Option<Vec<(i64, i64)>>> {
    if filter.source.is_none() && filter.kind.is_none() {
        return Ok(None);
    }
    let mut statement = transaction.prepare_cached(
        "SELECT id, n FROM classes
         WHERE (?1 IS NULL OR source = ?1) AND (?2 IS NULL OR kind = ?2) ORDER BY id",
    )?;
    let filter = (filter.source.map(Label::value), &filter.kind);
    let classes = statement.query_map(filter, |row| Ok((row.get(0)?, row.get(1)?)))?;
    let classes: Vec<(i64, i64)> = classes.collect::<rusqlite::Result<_>>()?;
    let all: i64 = transaction
        .prepare_cached("SELECT count(*) FROM classes")?
        .query_row((), |row| row.get(0))?;
    Ok((rows::length(&classes) < all).then_some(classes))
}

//! The scope of a query: all messages, those of one sender, or those of one class.

use std::borrow::Cow;

use rusqlite::{OptionalExtension, Transaction};

use super::{classes, rows};
use crate::store::types::Filter;

/// mailslot gives ids from here on.
pub(super) const FIRST_ID: i64 = 1;

/// The condition on `messages` for those that are counted. Rows with any other id were inserted by
/// another program. The plus keeps SQLite from reading them in the order of their ids.
pub(super) const IS_COUNTED: &str = "+id BETWEEN 1 AND (SELECT last_id FROM totals)";

/// The condition on `messages` for senders that begin with `?1`. No number and no name of a sender
/// has the last character of Unicode in it.
pub(super) const BEGINS: &str = "from_msisdn >= ?1 AND from_msisdn < ?1 || char(1114111)";

/// The id of a sender none of whose messages is indexed yet. No fence and no segment has it.
const NOT_INDEXED: i64 = i64::MIN;

/// The filter, with the one sender that its prefix means instead of the prefix. It keeps a prefix
/// that means several. `None` if it means no sender.
pub(super) fn narrow<'a>(
    transaction: &Transaction<'_>,
    filter: &'a Filter,
) -> rusqlite::Result<Option<Cow<'a, Filter>>> {
    let Some(prefix) = &filter.from_prefix else { return Ok(Some(Cow::Borrowed(filter))) };
    let of_one =
        |from: String| Cow::Owned(Filter { from: Some(from), from_prefix: None, ..filter.clone() });
    if let Some(from) = &filter.from {
        return Ok(from.starts_with(prefix).then(|| of_one(from.clone())));
    }
    let mut senders: Vec<String> = transaction
        .prepare_cached(
            "SELECT msisdn FROM senders
             WHERE msisdn >= ?1 AND msisdn < ?1 || char(1114111) LIMIT 2",
        )?
        .query_map([prefix], |row| rows::text(row, 0))?
        .collect::<rusqlite::Result<_>>()?;
    let sql = format!(
        "SELECT from_msisdn FROM totals
         CROSS JOIN messages NOT INDEXED ON id > indexed_id AND id <= last_id WHERE {BEGINS}"
    );
    let mut tail = transaction.prepare_cached(&sql)?;
    for sender in tail.query_map([prefix], |row| rows::text(row, 0))? {
        senders.push(sender?);
    }
    senders.sort_unstable();
    senders.dedup();
    Ok(match senders.len() {
        0 => None,
        1 => senders.pop().map(of_one),
        _ => Some(Cow::Borrowed(filter)),
    })
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Scope<'a> {
    All,
    Sender { id: i64, msisdn: &'a str },
    Class { id: i64 },
}

/// The candidates of a filter, before its other conditions are looked at.
#[derive(Debug)]
pub(super) struct Candidates<'a> {
    /// No two of them have a message in common.
    pub(super) scopes: Vec<Scope<'a>>,
    /// How many messages they have up to the watermark.
    pub(super) indexed: i64,
    /// Of which classes a message must be where the scopes do not say it.
    pub(super) classes: Option<Vec<i64>>,
}

impl<'a> Candidates<'a> {
    pub(super) fn of(
        transaction: &Transaction<'_>,
        filter: &'a Filter,
    ) -> rusqlite::Result<Candidates<'a>> {
        let classes = classes::of(transaction, filter)?;
        if classes.as_deref() == Some(&[]) {
            return Ok(Candidates { scopes: Vec::new(), indexed: 0, classes: None });
        }
        let ids = |classes: &[(i64, i64)]| classes.iter().map(|(id, _)| *id).collect();
        let (scopes, indexed, classes) = match (&filter.from, classes) {
            (Some(msisdn), classes) => {
                let known = transaction
                    .prepare_cached("SELECT id, n FROM senders WHERE msisdn = ?1")?
                    .query_row([msisdn], |row| Ok((row.get(0)?, row.get(1)?)))
                    .optional()?;
                let (id, n) = known.unwrap_or((NOT_INDEXED, 0));
                (vec![Scope::Sender { id, msisdn }], n, classes.as_deref().map(ids))
            }
            (None, Some(classes)) if classes::has_index(transaction)? => {
                let scopes = classes.iter().map(|(id, _)| Scope::Class { id: *id }).collect();
                (scopes, classes.iter().map(|(_, n)| n).sum(), None)
            }
            (None, classes) => {
                let mut all = transaction.prepare_cached("SELECT messages FROM totals")?;
                let n = all.query_row((), |row| row.get(0))?;
                (vec![Scope::All], n, classes.as_deref().map(ids))
            }
        };
        Ok(Candidates { scopes, indexed, classes })
    }

    /// The value of `?1` in the conditions of the scopes.
    pub(super) fn msisdn(&self) -> Option<&'a str> {
        self.scopes.first().and_then(|scope| scope.msisdn())
    }

    /// What `select` makes of each scope, as one query in the order of positions, which has the
    /// columns `ts_s, ts_ns, message_id`. Each part is read along an index in this order, so that
    /// SQLite merges them and sorts nothing.
    pub(super) fn in_order(&self, select: impl Fn(Scope<'a>) -> String) -> String {
        let parts: Vec<String> = self.scopes.iter().map(|scope| select(*scope)).collect();
        format!("{} ORDER BY ts_s, ts_ns, message_id", parts.join(" UNION ALL "))
    }
}

/// The condition on `messages` for those of one of these classes.
pub(super) fn class_condition(classes: &[i64]) -> String {
    let ids: Vec<String> = classes.iter().map(i64::to_string).collect();
    format!("+class_id IN ({})", ids.join(", "))
}

impl<'a> Scope<'a> {
    /// What `rank_index.sender_id` is.
    pub(super) fn id(self) -> i64 {
        match self {
            Scope::All => 0,
            Scope::Sender { id, .. } => id,
            Scope::Class { id } => -id,
        }
    }

    /// The condition on `messages`, in which `?1` is [`Scope::msisdn`].
    pub(super) fn condition(self) -> String {
        match self {
            Scope::All => "?1 IS NULL".to_owned(),
            Scope::Sender { .. } => "from_msisdn = ?1".to_owned(),
            Scope::Class { id } => format!("?1 IS NULL AND class_id = {id}"),
        }
    }

    pub(super) fn msisdn(self) -> Option<&'a str> {
        match self {
            Scope::All | Scope::Class { .. } => None,
            Scope::Sender { msisdn, .. } => Some(msisdn),
        }
    }
}

//! The scope of a query: all messages, or those of one sender.

use std::borrow::Cow;

use rusqlite::{OptionalExtension, Transaction};

use super::rows;
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
const NOT_INDEXED: i64 = -1;

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
}

impl<'a> Scope<'a> {
    /// Whose messages the filter means, and how many there are up to the watermark.
    pub(super) fn of(
        transaction: &Transaction<'_>,
        filter: &'a Filter,
    ) -> rusqlite::Result<(Scope<'a>, i64)> {
        let Some(msisdn) = &filter.from else {
            let mut all = transaction.prepare_cached("SELECT messages FROM totals")?;
            return Ok((Scope::All, all.query_row((), |row| row.get(0))?));
        };
        let known = transaction
            .prepare_cached("SELECT id, n FROM senders WHERE msisdn = ?1")?
            .query_row([msisdn], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let (id, n) = known.unwrap_or((NOT_INDEXED, 0));
        Ok((Scope::Sender { id, msisdn }, n))
    }

    /// What `rank_index.sender_id` is.
    pub(super) fn id(self) -> i64 {
        match self {
            Scope::All => 0,
            Scope::Sender { id, .. } => id,
        }
    }

    /// The condition on `messages`, in which `?1` is [`Scope::msisdn`].
    pub(super) fn condition(self) -> &'static str {
        match self {
            Scope::All => "?1 IS NULL",
            Scope::Sender { .. } => "from_msisdn = ?1",
        }
    }

    pub(super) fn msisdn(self) -> Option<&'a str> {
        match self {
            Scope::All => None,
            Scope::Sender { msisdn, .. } => Some(msisdn),
        }
    }
}

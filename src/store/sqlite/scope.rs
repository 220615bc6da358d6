//! The scope of a query: all messages, or those of one sender.

use rusqlite::{OptionalExtension, Transaction};

use crate::store::types::Filter;

/// mailslot gives ids from here on.
pub(super) const FIRST_ID: i64 = 1;

/// The condition on `messages` for those that are counted. Rows with any other id were inserted by
/// another program. The plus keeps SQLite from reading them in the order of their ids.
pub(super) const IS_COUNTED: &str = "+id BETWEEN 1 AND (SELECT last_id FROM totals)";

/// The id of a sender none of whose messages is indexed yet. No fence and no segment has it.
const NOT_INDEXED: i64 = -1;

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

//! The rank index: how many messages come before a position, without counting them.
//!
//! Messages have an order, (timestamp, `message_id`), and each sender's messages have the same one.
//! A **fence** stands at a position in it and holds how many messages lie between it and the next
//! fence of its level. Fences of the second level stand farther apart, each where one of the first
//! level stands. How many messages come before a position, and which message is at an offset, is
//! then a sum over each level and a short walk along an index (ranks.rs).
//!
//! Fences count every message up to `totals.indexed_id`; a commit indexes the tail of newer ones
//! when there are [`Layout::tail`] of them, which costs less than indexing each. A DELETE is
//! counted by a trigger of the schema. A sender with few messages has no fences.

use rusqlite::{OptionalExtension, Transaction};

use super::{
    layout::Layout,
    rows,
    scope::{IS_COUNTED, Scope},
};
use crate::store::types::Position;

/// The rank index over the messages of a scope, within a transaction that writes.
pub(super) struct RankIndex<'a> {
    pub(super) transaction: &'a Transaction<'a>,
    pub(super) layout: &'a Layout,
    pub(super) scope: Scope<'a>,
}

/// The fences of a level from a position on.
pub(super) const FENCES_FROM: &str = "SELECT ts_s, ts_ns, message_id, n FROM rank_index
     WHERE sender_id = ?1 AND level = ?2 AND (ts_s, ts_ns, message_id) >= (?3, ?4, ?5)
     ORDER BY ts_s, ts_ns, message_id";

impl RankIndex<'_> {
    /// Counts messages, given in their order, at the fences that they lie behind.
    pub(super) fn add(&self, messages: &[&Position]) -> rusqlite::Result<()> {
        for level in [1, 2] {
            let mut rest = messages;
            while let Some(first) = rest.first() {
                let (fence, n) = fence_before(self.transaction, self.scope, level, first)?
                    .ok_or(rusqlite::Error::QueryReturnedNoRows)?;
                let inside = match self.fence_after(level, &fence)? {
                    Some(end) => rest.partition_point(|message| **message < end),
                    None => rest.len(),
                };
                let more = rows::length(&rest[..inside]);
                self.count(level, &fence, more)?;
                self.split(level, &fence, n + more)?;
                rest = &rest[inside..];
            }
        }
        Ok(())
    }

    /// Sets all fences along the messages. There are none yet. `progress` is called with
    /// how many more messages have been read.
    pub(super) fn build(&self, progress: &mut dyn FnMut(i64)) -> rusqlite::Result<()> {
        let sql = format!(
            "SELECT ts_s, ts_ns, message_id FROM messages
             WHERE {} AND {IS_COUNTED} ORDER BY ts_s, ts_ns, message_id",
            self.scope.condition()
        );
        let mut statement = self.transaction.prepare(&sql)?;
        let mut messages = statement.query([self.scope.msisdn()])?;
        let mut fences = [(Position::START, 0), (Position::START, 0)];
        let mut read = 0;
        while let Some(row) = messages.next()? {
            for (level, (fence, n)) in (1u8..).zip(&mut fences) {
                if *n == self.layout.spans[usize::from(level) - 1] / 4 * 3 {
                    self.count(level, fence, *n)?;
                    (*fence, *n) = (rows::position(row)?, 0);
                }
                *n += 1;
            }
            read += 1;
            if read % 1_000 == 0 {
                progress(1_000);
            }
        }
        for (level, (fence, n)) in (1u8..).zip(&fences) {
            self.count(level, fence, *n)?;
        }
        Ok(())
    }

    /// Where the next fence stands.
    fn fence_after(&self, level: u8, at: &Position) -> rusqlite::Result<Option<Position>> {
        let (seconds, nanoseconds, message_id) = rows::columns(at);
        let mut statement = self.transaction.prepare_cached(FENCES_FROM)?;
        let mut fences =
            statement.query((self.scope.id(), level, seconds, nanoseconds, message_id))?;
        fences.next()?;
        fences.next()?.map(rows::position).transpose()
    }

    /// Splits a fence that holds too many messages about half-way, and again, until none holds too
    /// many.
    fn split(&self, level: u8, fence: &Position, n: i64) -> rusqlite::Result<()> {
        if n <= self.layout.spans[usize::from(level) - 1] {
            return Ok(());
        }
        let half = if level == 1 {
            self.message_at(fence, n / 2)?.map(|half| (half, n / 2))
        } else {
            self.fence_half_way(fence, n)?
        };
        let Some((half, before)) = half else { return Ok(()) };
        self.count(level, fence, before - n)?;
        self.count(level, &half, n - before)?;
        self.split(level, fence, before)?;
        self.split(level, &half, n - before)
    }

    /// Adds to what a fence holds, and sets the fence where none stands.
    ///
    /// No statement here has a RETURNING: each one would cost 5 µs.
    fn count(&self, level: u8, fence: &Position, more: i64) -> rusqlite::Result<()> {
        let (seconds, nanoseconds, message_id) = rows::columns(fence);
        self.transaction
            .prepare_cached(
                "INSERT INTO rank_index (sender_id, level, ts_s, ts_ns, message_id, n)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT DO UPDATE SET n = n + excluded.n",
            )?
            .execute((self.scope.id(), level, seconds, nanoseconds, message_id, more))?;
        Ok(())
    }

    /// The message `offset` messages behind a position.
    fn message_at(&self, from: &Position, offset: i64) -> rusqlite::Result<Option<Position>> {
        let sql = format!(
            "SELECT ts_s, ts_ns, message_id FROM messages
             WHERE {} AND (ts_s, ts_ns, message_id) >= (?2, ?3, ?4) AND {IS_COUNTED}
             ORDER BY ts_s, ts_ns, message_id LIMIT 1 OFFSET ?5",
            self.scope.condition()
        );
        let (seconds, nanoseconds, message_id) = rows::columns(from);
        let at = (self.scope.msisdn(), seconds, nanoseconds, message_id, offset);
        self.transaction.prepare_cached(&sql)?.query_row(at, rows::position).optional()
    }

    /// Of the `n` messages behind a fence of the second level: the fence of the first level in
    /// their middle, and how many messages are before it.
    fn fence_half_way(&self, from: &Position, n: i64) -> rusqlite::Result<Option<(Position, i64)>> {
        let (seconds, nanoseconds, message_id) = rows::columns(from);
        let mut statement = self.transaction.prepare_cached(FENCES_FROM)?;
        let mut fences = statement.query((self.scope.id(), 1, seconds, nanoseconds, message_id))?;
        let mut before = 0;
        while let Some(row) = fences.next()? {
            if before >= n / 2 {
                return Ok((before < n).then_some((rows::position(row)?, before)));
            }
            before += row.get::<_, i64>(3)?;
        }
        Ok(None)
    }
}

/// The fence that a position lies behind, or at which it is, and how many messages that one holds.
pub(super) fn fence_before(
    transaction: &Transaction<'_>,
    scope: Scope<'_>,
    level: u8,
    at: &Position,
) -> rusqlite::Result<Option<(Position, i64)>> {
    let (seconds, nanoseconds, message_id) = rows::columns(at);
    transaction
        .prepare_cached(
            "SELECT ts_s, ts_ns, message_id, n FROM rank_index
             WHERE sender_id = ?1 AND level = ?2 AND (ts_s, ts_ns, message_id) <= (?3, ?4, ?5)
             ORDER BY ts_s DESC, ts_ns DESC, message_id DESC LIMIT 1",
        )?
        .query_row((scope.id(), level, seconds, nanoseconds, message_id), |row| {
            Ok((rows::position(row)?, row.get(3)?))
        })
        .optional()
}

/// Removes fences behind which no message is left. One of the first level stays while one of the
/// second stands at its position.
pub(super) fn prune(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("DELETE FROM rank_index WHERE n = 0 AND level = 2 AND ts_s > ?1")?
        .execute([i64::MIN])?;
    transaction
        .prepare_cached(
            "DELETE FROM rank_index AS lower WHERE n = 0 AND level = 1 AND ts_s > ?1
                 AND NOT EXISTS (
                     SELECT 1 FROM rank_index AS upper
                     WHERE upper.sender_id = lower.sender_id AND upper.level = 2
                         AND upper.ts_s = lower.ts_s AND upper.ts_ns = lower.ts_ns
                         AND upper.message_id = lower.message_id)",
        )?
        .execute([i64::MIN])?;
    Ok(())
}

//! Reading the rank index: how many messages come before a position, and where an offset is.

use rusqlite::Transaction;

use super::{
    rank_index::{FENCES_FROM, fence_before},
    rows,
    scope::{Candidates, IS_COUNTED, Scope},
};
use crate::store::types::{Filter, Position};

/// The order of the candidates of a filter, at the moment of a read transaction.
pub(super) struct Ranks<'a> {
    transaction: &'a Transaction<'a>,
    pub(super) candidates: Candidates<'a>,
    /// Of each scope, the positions of the messages behind the watermark, in order.
    tails: Vec<Vec<Position>>,
    /// [`IS_COUNTED`] for walks.
    counted: &'static str,
    /// How many messages there are.
    pub(super) total: i64,
}

impl<'a> Ranks<'a> {
    pub(super) fn open(
        transaction: &'a Transaction<'a>,
        filter: &'a Filter,
    ) -> rusqlite::Result<Ranks<'a>> {
        let candidates = Candidates::of(transaction, filter)?;
        let mut tails = Vec::new();
        for scope in &candidates.scopes {
            // Not by the sender's index, which leads to all messages of the sender.
            let sql = format!(
                "SELECT ts_s, ts_ns, message_id FROM totals
                 CROSS JOIN messages NOT INDEXED ON id > indexed_id AND id <= last_id
                 WHERE {}",
                scope.condition()
            );
            let mut statement = transaction.prepare_cached(&sql)?;
            let positions = statement.query_map([scope.msisdn()], rows::position)?;
            let mut tail = positions.collect::<rusqlite::Result<Vec<Position>>>()?;
            tail.sort_unstable();
            tails.push(tail);
        }
        let counted = counted(transaction)?;
        let total = candidates.indexed + tails.iter().map(|tail| rows::length(tail)).sum::<i64>();
        Ok(Ranks { transaction, candidates, tails, counted, total })
    }

    /// The condition on `messages` for those of a scope that are counted.
    pub(super) fn condition(&self, scope: Scope<'_>) -> String {
        format!("{} AND {}", scope.condition(), self.counted)
    }

    /// How many messages come before a position.
    pub(super) fn rank(&self, at: &Position) -> rusqlite::Result<i64> {
        let mut rank = 0;
        for (scope, tail) in self.candidates.scopes.iter().zip(&self.tails) {
            rank += self.rank_in(*scope, tail, at)?;
        }
        Ok(rank)
    }

    fn rank_in(&self, scope: Scope<'_>, tail: &[Position], at: &Position) -> rusqlite::Result<i64> {
        let (mut from, mut rank) = (Position::START, 0);
        for level in [2, 1] {
            let to = fence_before(self.transaction, scope, level, at)?
                .map_or(Position::START, |(to, _)| to);
            rank += self.held(scope, level, &from, &to)?;
            from = to;
        }
        let sql = format!(
            "SELECT count(*) FROM messages
             WHERE {} AND (ts_s, ts_ns, message_id) >= (?2, ?3, ?4)
                 AND (ts_s, ts_ns, message_id) < (?5, ?6, ?7)",
            self.condition(scope)
        );
        let (a, b) = (rows::columns(&from), rows::columns(at));
        let walk = (scope.msisdn(), a.0, a.1, a.2, b.0, b.1, b.2);
        let walked: i64 =
            self.transaction.prepare_cached(&sql)?.query_row(walk, |row| row.get(0))?;
        Ok(rank + before(tail, &from) + walked)
    }

    /// A fence before the message at `offset`, and how many messages are between them.
    pub(super) fn seek(&self, offset: i64) -> rusqlite::Result<(Position, i64)> {
        match (&*self.candidates.scopes, &*self.tails) {
            ([scope], [tail]) => self.seek_in(*scope, tail, offset),
            (scopes, _) => self.seek_among(scopes, offset),
        }
    }

    fn seek_in(
        &self,
        scope: Scope<'_>,
        tail: &[Position],
        offset: i64,
    ) -> rusqlite::Result<(Position, i64)> {
        let (mut fence, mut held) = (Position::START, 0);
        for level in [2, 1] {
            let mut statement = self.transaction.prepare_cached(FENCES_FROM)?;
            let (seconds, nanoseconds, message_id) = rows::columns(&fence);
            let mut fences =
                statement.query((scope.id(), level, seconds, nanoseconds, message_id))?;
            let mut before_next = held;
            while let Some(row) = fences.next()? {
                let next = rows::position(row)?;
                if before_next + before(tail, &next) > offset {
                    break;
                }
                (fence, held) = (next, before_next);
                before_next += row.get::<_, i64>(3)?;
            }
        }
        let left = offset - held - before(tail, &fence);
        Ok((fence, left))
    }

    /// Halves the fences of all scopes by how many messages come before each, the second level
    /// first and then those of the first level up to the next one.
    fn seek_among(&self, scopes: &[Scope<'_>], offset: i64) -> rusqlite::Result<(Position, i64)> {
        let (mut from, mut until) = (Position::START, None);
        for level in [2, 1] {
            let mut fences = Vec::new();
            for scope in scopes {
                self.add_fences(*scope, level, &from, until.as_ref(), &mut fences)?;
            }
            fences.sort_unstable();
            let (mut low, mut high) = (0, fences.len());
            while low < high {
                let middle = usize::midpoint(low, high);
                if self.rank(&fences[middle])? <= offset {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            until = fences.get(low).cloned().or(until);
            if let Some(last) = low.checked_sub(1) {
                from = fences.swap_remove(last);
            }
        }
        let left = offset - self.rank(&from)?;
        Ok((from, left))
    }

    /// The fences of a scope and a level from one position to another.
    fn add_fences(
        &self,
        scope: Scope<'_>,
        level: u8,
        from: &Position,
        until: Option<&Position>,
        found: &mut Vec<Position>,
    ) -> rusqlite::Result<()> {
        let mut statement = self.transaction.prepare_cached(FENCES_FROM)?;
        let (seconds, nanoseconds, message_id) = rows::columns(from);
        let at = (scope.id(), level, seconds, nanoseconds, message_id);
        let mut fences = statement.query(at)?;
        while let Some(row) = fences.next()? {
            let fence = rows::position(row)?;
            if until.is_some_and(|until| fence >= *until) {
                break;
            }
            found.push(fence);
        }
        Ok(())
    }

    /// How many messages the fences of a level hold from one position to another.
    fn held(
        &self,
        scope: Scope<'_>,
        level: u8,
        from: &Position,
        to: &Position,
    ) -> rusqlite::Result<i64> {
        let (a, b) = (rows::columns(from), rows::columns(to));
        let fences = (scope.id(), level, a.0, a.1, a.2, b.0, b.1, b.2);
        self.transaction
            .prepare_cached(
                "SELECT coalesce(sum(n), 0) FROM rank_index
                 WHERE sender_id = ?1 AND level = ?2
                     AND (ts_s, ts_ns, message_id) >= (?3, ?4, ?5)
                     AND (ts_s, ts_ns, message_id) < (?6, ?7, ?8)",
            )?
            .query_row(fences, |row| row.get(0))
    }
}

/// How many of these positions come before another one.
fn before(tail: &[Position], at: &Position) -> i64 {
    i64::try_from(tail.partition_point(|other| other < at)).unwrap_or(i64::MAX)
}

/// [`IS_COUNTED`] for walks over many messages, which take half as long again where they compare
/// each id: they do so only where another program has inserted a row that is not counted.
fn counted(transaction: &Transaction<'_>) -> rusqlite::Result<&'static str> {
    let mut others = transaction.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM messages WHERE id < 1)
             OR EXISTS (SELECT 1 FROM messages WHERE id > (SELECT last_id FROM totals))",
    )?;
    Ok(if others.query_row((), |row| row.get(0))? { IS_COUNTED } else { "TRUE" })
}

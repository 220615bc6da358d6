//! Reading the rank index: how many messages come before a position, and where an offset is.

use rusqlite::Transaction;

use super::{
    rank_index::{FENCES_FROM, fence_before},
    rows,
    scope::{IS_COUNTED, Scope},
};
use crate::store::types::{Filter, Position};

/// The order of the messages of a filter's scope, at the moment of a read transaction.
pub(super) struct Ranks<'a> {
    transaction: &'a Transaction<'a>,
    pub(super) scope: Scope<'a>,
    /// The condition on `messages` for those of the scope that are counted.
    pub(super) condition: String,
    /// The positions of the messages behind the watermark, in order.
    tail: Vec<Position>,
    /// How many messages there are.
    pub(super) total: i64,
}

impl<'a> Ranks<'a> {
    pub(super) fn open(
        transaction: &'a Transaction<'a>,
        filter: &'a Filter,
    ) -> rusqlite::Result<Ranks<'a>> {
        let (scope, indexed) = Scope::of(transaction, filter)?;
        // Not by the sender's index, which leads to all messages of the sender.
        let sql = format!(
            "SELECT ts_s, ts_ns, message_id FROM totals
             CROSS JOIN messages NOT INDEXED ON id > indexed_id AND id <= last_id
             WHERE {}",
            scope.condition()
        );
        let mut tail: Vec<Position> = transaction
            .prepare_cached(&sql)?
            .query_map([scope.msisdn()], rows::position)?
            .collect::<rusqlite::Result<_>>()?;
        tail.sort_unstable();
        let condition = format!("{} AND {}", scope.condition(), counted(transaction)?);
        let total = indexed + rows::length(&tail);
        Ok(Ranks { transaction, scope, condition, tail, total })
    }

    /// How many messages come before a position.
    pub(super) fn rank(&self, at: &Position) -> rusqlite::Result<i64> {
        let (mut from, mut rank) = (Position::START, 0);
        for level in [2, 1] {
            let to = fence_before(self.transaction, self.scope, level, at)?
                .map_or(Position::START, |(to, _)| to);
            rank += self.held(level, &from, &to)?;
            from = to;
        }
        let sql = format!(
            "SELECT count(*) FROM messages
             WHERE {} AND (ts_s, ts_ns, message_id) >= (?2, ?3, ?4)
                 AND (ts_s, ts_ns, message_id) < (?5, ?6, ?7)",
            self.condition
        );
        let (a, b) = (rows::columns(&from), rows::columns(at));
        let walk = (self.scope.msisdn(), a.0, a.1, a.2, b.0, b.1, b.2);
        let walked: i64 =
            self.transaction.prepare_cached(&sql)?.query_row(walk, |row| row.get(0))?;
        Ok(rank + self.tail_before(&from) + walked)
    }

    /// A fence before the message at `offset`, and how many messages are between them.
    pub(super) fn seek(&self, offset: i64) -> rusqlite::Result<(Position, i64)> {
        let (mut fence, mut held) = (Position::START, 0);
        for level in [2, 1] {
            let mut statement = self.transaction.prepare_cached(FENCES_FROM)?;
            let (seconds, nanoseconds, message_id) = rows::columns(&fence);
            let mut fences =
                statement.query((self.scope.id(), level, seconds, nanoseconds, message_id))?;
            let mut before = held;
            while let Some(row) = fences.next()? {
                let next = rows::position(row)?;
                if before + self.tail_before(&next) > offset {
                    break;
                }
                (fence, held) = (next, before);
                before += row.get::<_, i64>(3)?;
            }
        }
        let left = offset - held - self.tail_before(&fence);
        Ok((fence, left))
    }

    /// How many messages the fences of a level hold from one position to another.
    fn held(&self, level: u8, from: &Position, to: &Position) -> rusqlite::Result<i64> {
        let (a, b) = (rows::columns(from), rows::columns(to));
        let fences = (self.scope.id(), level, a.0, a.1, a.2, b.0, b.1, b.2);
        self.transaction
            .prepare_cached(
                "SELECT coalesce(sum(n), 0) FROM rank_index
                 WHERE sender_id = ?1 AND level = ?2
                     AND (ts_s, ts_ns, message_id) >= (?3, ?4, ?5)
                     AND (ts_s, ts_ns, message_id) < (?6, ?7, ?8)",
            )?
            .query_row(fences, |row| row.get(0))
    }

    fn tail_before(&self, at: &Position) -> i64 {
        i64::try_from(self.tail.partition_point(|other| other < at)).unwrap_or(i64::MAX)
    }
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

//! What a search has found: a bit for each message, counted by where it lies between the fences of
//! the rank index, so that a page is found by a short walk however many matches there are.

use std::ops::Range;

use rusqlite::Transaction;

use super::{rows, segments::BLOCK_MESSAGES};
use crate::store::types::Position;

/// Up to where messages have been searched.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watermark {
    pub(super) last_id: i64,
    /// `totals.changes` then.
    pub(super) changes: i64,
}

/// Which messages match.
#[derive(Debug)]
pub(super) struct Matches {
    pub(super) watermark: Watermark,
    pub(super) total: i64,
    /// A bit for each id from `base` on.
    ids: Vec<u64>,
    /// No message that counts has a lower id.
    base: i64,
    /// From which `ts_s` on, and how many matches there are up to the next entry.
    spans: Vec<(i64, i64)>,
}

/// The span of the last match; the next match of the same segment is in it or in a later one.
#[derive(Debug, Default)]
pub(super) struct Span(Option<usize>);

impl Matches {
    /// Nothing found, and nothing searched.
    pub(super) fn none(transaction: &Transaction<'_>, changes: i64) -> rusqlite::Result<Matches> {
        let mut starts: Vec<(i64, i64)> = transaction
            .prepare_cached(
                "SELECT ts_s, 0 FROM rank_index WHERE sender_id = 0 AND level = 1
                 ORDER BY ts_s, ts_ns, message_id",
            )?
            .query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        starts.dedup();
        let base: i64 = transaction
            .prepare_cached(
                "SELECT coalesce((SELECT min(id) FROM messages WHERE id BETWEEN 1 AND last_id),
                                 last_id + 1) FROM totals",
            )?
            .query_row((), |row| row.get(0))?;
        // Blocks that were deleted long ago cost no time and no memory.
        let last_id = base / BLOCK_MESSAGES * BLOCK_MESSAGES - 1;
        let watermark = Watermark { last_id, changes };
        Ok(Matches { watermark, total: 0, ids: Vec::new(), base, spans: starts })
    }

    /// Reserves room for the messages up to `last_id`, and gives the first one that is to be
    /// searched.
    pub(super) fn extend_to(&mut self, last_id: i64) -> i64 {
        let first = self.watermark.last_id + 1;
        self.watermark.last_id = last_id;
        if let Some((word, _)) = self.bit(last_id) {
            self.ids.resize(word + 1, 0);
        }
        first
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.ids) + size_of_val(&*self.spans)
    }

    pub(super) fn add(&mut self, id: i64, ts_s: i64, span: &mut Span) {
        let at = span.0.get_or_insert_with(|| {
            self.spans.partition_point(|(start, _)| *start <= ts_s).saturating_sub(1)
        });
        while self.spans.get(*at + 1).is_some_and(|(start, _)| *start <= ts_s) {
            *at += 1;
        }
        let Some((word, bit)) = self.bit(id) else { return };
        if let (Some((_, n)), Some(ids)) = (self.spans.get_mut(*at), self.ids.get_mut(word)) {
            *n += 1;
            *ids |= bit;
            self.total += 1;
        }
    }

    /// The word and the bit of an id; `None` for one below [`Matches::base`], which only another
    /// program can have inserted.
    fn bit(&self, id: i64) -> Option<(usize, u64)> {
        let at = u64::try_from(id.checked_sub(self.base)?).ok()?;
        Some((usize::try_from(at / 64).ok()?, 1 << (at % 64)))
    }

    fn has(&self, id: i64) -> bool {
        let Some((word, bit)) = self.bit(id) else { return false };
        self.ids.get(word).is_some_and(|ids| ids & bit != 0)
    }

    /// How many matches come before a position.
    pub(super) fn rank(
        &self,
        transaction: &Transaction<'_>,
        at: &Position,
    ) -> rusqlite::Result<i64> {
        let (seconds, nanoseconds, message_id) = rows::columns(at);
        let spans = self.spans.partition_point(|(start, _)| *start <= seconds).saturating_sub(1);
        let mut rank = self.spans.iter().take(spans).map(|(_, n)| n).sum();
        let Some((start, _)) = self.spans.get(spans) else { return Ok(rank) };
        let mut statement = transaction.prepare_cached(
            "SELECT id FROM messages
             WHERE ts_s >= ?1 AND (ts_s, ts_ns, message_id) < (?2, ?3, ?4)
             ORDER BY ts_s, ts_ns, message_id",
        )?;
        let mut rows = statement.query((start, seconds, nanoseconds, message_id))?;
        while let Some(row) = rows.next()? {
            rank += i64::from(self.has(row.get(0)?));
        }
        Ok(rank)
    }

    /// The ids of these matches, in order.
    pub(super) fn page(
        &self,
        transaction: &Transaction<'_>,
        Range { start: offset, end }: Range<i64>,
    ) -> rusqlite::Result<Vec<i64>> {
        let mut statement = transaction.prepare_cached(
            "SELECT id FROM messages WHERE ts_s >= ?1 AND ts_s < ?2
             ORDER BY ts_s, ts_ns, message_id",
        )?;
        let mut ids = Vec::new();
        let (mut skip, mut wanted) = (offset, end - offset);
        let ends = self.spans.iter().skip(1).map(|(start, _)| *start).chain([i64::MAX]);
        for ((start, n), end) in self.spans.iter().zip(ends) {
            if wanted <= 0 {
                break;
            }
            if skip >= *n {
                skip -= n;
                continue;
            }
            let mut left = *n;
            let mut rows = statement.query((start, end))?;
            while left > 0
                && wanted > 0
                && let Some(row) = rows.next()?
            {
                let id = row.get(0)?;
                if !self.has(id) {
                    continue;
                }
                left -= 1;
                if skip > 0 {
                    skip -= 1;
                    continue;
                }
                ids.push(id);
                wanted -= 1;
            }
        }
        Ok(ids)
    }
}

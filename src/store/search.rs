//! Searching texts for a substring: exactly, with an exact total, and any page of it.
//!
//! Where few messages come into question, by sender or by time, they are read. Otherwise the packs
//! are (packs.rs), and row by row the blocks that have none. What matches is marked in a bitmap by
//! id, and counted by where it lies between the milestones, so that a page is found by a walk along
//! the index of time from the milestone before it, however many matches there are.
//!
//! Deliberately absent: an index of words or of trigrams. FTS5's costs 600 µs an insert.

use std::{
    borrow::Cow,
    collections::VecDeque,
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use memchr::memmem::Finder;
use rusqlite::{Transaction, params, types::ValueRef};

use super::{
    Filter,
    counts::{Place, Scope},
    packs::{BLOCK_MESSAGES, BLOCK_PIECES, Piece, candidates, slots},
};
use crate::{
    error::Error,
    message::{Instant, fold_case},
};

/// A search that takes longer needs one of the places for long ones, of which there are half as many
/// as workers, so that long ones never hold all workers.
pub(crate) const SHORT_SEARCH_MS_MAX: u64 = 20;

/// Bytes of the searches that are remembered, all together.
pub(crate) const REMEMBERED_BYTES_MAX: usize = 4_194_304;

/// What the readers share: places for long searches, and what was found by recent ones, so that
/// paging through a search looks at each message once.
#[derive(Debug)]
pub(crate) struct Searches {
    free: AtomicUsize,
    /// What needs no place.
    short: Duration,
    /// The newest last.
    remembered: Mutex<VecDeque<(Filter, Matches)>>,
}

impl Searches {
    pub(crate) fn for_workers(workers: usize) -> Arc<Searches> {
        Arc::new(Searches {
            free: AtomicUsize::new(workers.div_ceil(2)),
            short: Duration::from_millis(SHORT_SEARCH_MS_MAX),
            remembered: Mutex::default(),
        })
    }

    fn take(&self) -> Option<Permit<'_>> {
        self.free
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(1))
            .is_ok()
            .then(|| Permit(self))
    }

    /// What was found before, if nothing was deleted or reworded since and not much has come.
    fn recall(&self, asked: &Filter, now: Seen) -> Option<Matches> {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let at = remembered.iter().position(|(other, _)| other == asked)?;
        let (_, matches) = remembered.remove(at)?;
        let Seen { last_id, changes } = matches.seen;
        // A reader whose moment is older than what was found finds too much.
        let is_valid =
            changes == now.changes && last_id <= now.last_id && now.last_id / 4 <= last_id / 3;
        is_valid.then_some(matches)
    }

    pub(super) fn remember(&self, asked: Filter, matches: Matches) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.retain(|(other, _)| *other != asked);
        remembered.push_back((asked, matches));
        let mut bytes: usize = remembered.iter().map(|(_, matches)| matches.bytes()).sum();
        while bytes > REMEMBERED_BYTES_MAX
            && let Some((_, oldest)) = remembered.pop_front()
        {
            bytes -= oldest.bytes();
        }
    }
}

#[cfg(test)]
impl Searches {
    /// Without places, and every search is a long one.
    pub(super) fn nowhere() -> Arc<Searches> {
        let (free, short) = (AtomicUsize::new(0), Duration::ZERO);
        Arc::new(Searches { free, short, remembered: Mutex::default() })
    }
}

/// A place for a long search, given back when dropped.
struct Permit<'a>(&'a Searches);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.free.fetch_add(1, Ordering::Relaxed);
    }
}

/// How far messages have been looked at.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// All up to this one.
    last_id: i64,
    /// `totals.changes` then.
    changes: i64,
}

/// Which messages match.
#[derive(Debug)]
pub(super) struct Matches {
    seen: Seen,
    pub(super) total: i64,
    /// A bit for each id from `base` on.
    ids: Vec<u64>,
    /// No message has a lower id.
    base: i64,
    /// From which `ts_s` on, and how many matches there are up to the next.
    spans: Vec<(i64, i64)>,
}

/// What is asked of each message.
struct Question<'a> {
    scope: Scope<'a>,
    filter: &'a Filter,
    finder: Option<Finder<'a>>,
    slots: Vec<usize>,
}

/// Which messages match, to be given to [`Searches::remember`] in the end.
pub(super) fn search(
    transaction: &Transaction<'_>,
    filter: &Filter,
    scope: Scope<'_>,
    searches: &Searches,
) -> Result<Matches, Error> {
    let now = transaction
        .prepare_cached("SELECT last_id, changes FROM totals")?
        .query_row((), |row| Ok(Seen { last_id: row.get(0)?, changes: row.get(1)? }))?;
    let mut matches = match searches.recall(filter, now) {
        Some(matches) => matches,
        None => Matches::none(transaction, now.changes)?,
    };
    let sender_id = if let Scope::Sender { id, .. } = scope { Some(id) } else { None };
    let q = filter.q.as_deref();
    let question = Question {
        scope,
        filter,
        finder: q.map(Finder::new),
        slots: slots(q.unwrap_or_default(), sender_id, filter.to.as_deref()),
    };
    question.look(transaction, now.last_id, &mut matches, searches)?;
    Ok(matches)
}

impl Question<'_> {
    /// Looks at every message up to `last_id` that was not looked at before.
    fn look(
        &self,
        transaction: &Transaction<'_>,
        last_id: i64,
        matches: &mut Matches,
        searches: &Searches,
    ) -> Result<(), Error> {
        let started = std::time::Instant::now();
        let mut place = None;
        let first = matches.look_up_to(last_id);
        if first > last_id {
            return Ok(());
        }
        let mut blocks = transaction.prepare_cached(
            "SELECT block, trigrams, receivers FROM packs
             WHERE block >= ?1 AND (?2 IS NULL OR trigrams IS NULL OR ts_s_max >= ?2)
             ORDER BY block",
        )?;
        let since = self.filter.since.map(|since| since.seconds);
        let mut blocks = blocks.query((first / BLOCK_MESSAGES, since))?;
        while let Some(row) = blocks.next()? {
            let block: i64 = row.get(0)?;
            let start = block * BLOCK_MESSAGES;
            match row.get_ref(1)?.as_blob_or_null().map_err(rusqlite::Error::from)? {
                Some(trigrams) if start >= first => {
                    let pieces = candidates(trigrams, &self.slots);
                    if let Some(block) = self.block(block, row.get_ref(2)?)? {
                        self.read_pieces(transaction, block, pieces, matches)?;
                    }
                }
                _ => self.read_messages(transaction, start.max(first), matches)?,
            }
            if place.is_none() && started.elapsed() >= searches.short {
                place = searches.take();
                if place.is_none() {
                    return Err(Error::Unavailable("too many long searches, try again later"));
                }
            }
        }
        Ok(())
    }

    /// `None` if nothing in the block went to whom the question is about.
    fn block(&self, number: i64, names: ValueRef<'_>) -> rusqlite::Result<Option<Block>> {
        let Some(to) = &self.filter.to else { return Ok(Some(Block { number, receiver: None })) };
        let names: Vec<Cow<'_, str>> =
            serde_json::from_slice(names.as_bytes()?).map_err(|_| rusqlite::Error::InvalidQuery)?;
        let receiver = names.iter().position(|name| name == to);
        Ok(receiver.map(|_| Block { number, receiver }))
    }

    fn read_pieces(
        &self,
        transaction: &Transaction<'_>,
        block: Block,
        mut pieces: u64,
        matches: &mut Matches,
    ) -> rusqlite::Result<()> {
        let mut statement =
            transaction.prepare_cached("SELECT rows FROM pieces WHERE id BETWEEN ?1 AND ?2")?;
        let mut span = Span::default();
        while pieces != 0 {
            // A run of neighbours is read in one go.
            let first = pieces.trailing_zeros();
            let length = (pieces >> first).trailing_ones();
            pieces &= u64::MAX.checked_shl(first + length).unwrap_or(0);
            let from = block.number * i64::from(BLOCK_PIECES) + i64::from(first);
            let mut rows = statement.query((from, from + i64::from(length) - 1))?;
            while let Some(row) = rows.next()? {
                let bytes = row.get_ref(0)?.as_blob()?;
                let piece = Piece::parse(bytes).ok_or(rusqlite::Error::InvalidQuery)?;
                self.read_piece(transaction, block, &piece, &mut span, matches)?;
            }
        }
        Ok(())
    }

    fn read_piece(
        &self,
        transaction: &Transaction<'_>,
        block: Block,
        piece: &Piece<'_>,
        span: &mut Span,
        matches: &mut Matches,
    ) -> rusqlite::Result<()> {
        let mut take = |row: usize| -> rusqlite::Result<()> {
            let id = block.number * BLOCK_MESSAGES + piece.number(row);
            let is_to = block.receiver.is_none_or(|receiver| receiver == piece.receiver(row));
            if is_to
                && self.is_from(piece.sender_id(row))
                && self.is_within(transaction, piece.ts_s(row), id)?
            {
                matches.add(id, piece.ts_s(row), span);
            }
            Ok(())
        };
        let Some(finder) = &self.finder else {
            return (0..piece.length()).try_for_each(take);
        };
        let length = finder.needle().len();
        let (mut at, mut row) = (0, 0);
        while let Some(found) = finder.find(&piece.texts[at..]) {
            let start = at + found;
            while piece.end(row) <= start {
                row += 1;
            }
            let end = piece.end(row);
            if start + length > end {
                at = start + 1; // in two texts at once, so in neither
                continue;
            }
            at = end;
            take(row)?;
        }
        Ok(())
    }

    fn is_from(&self, sender_id: i64) -> bool {
        match self.scope {
            Scope::All => true,
            Scope::Sender { id, .. } => id == sender_id,
        }
    }

    /// By the second, which the pack knows; within the first and the last one by the message itself.
    fn is_within(
        &self,
        transaction: &Transaction<'_>,
        ts_s: i64,
        id: i64,
    ) -> rusqlite::Result<bool> {
        let Filter { since, until, .. } = self.filter;
        let is_at = |bound: Option<Instant>| {
            bound.is_some_and(|bound| ts_s == bound.seconds && bound.nanoseconds > 0)
        };
        if !is_at(*since) && !is_at(*until) {
            return Ok(since.is_none_or(|since| ts_s >= since.seconds)
                && until.is_none_or(|until| ts_s < until.seconds));
        }
        let instant = transaction
            .prepare_cached("SELECT ts_s, ts_ns FROM messages WHERE id = ?1")?
            .query_row([id], |row| {
                Ok(Instant { seconds: row.get(0)?, nanoseconds: row.get(1)? })
            })?;
        Ok(self.filter.covers(instant))
    }

    /// From an id to the end of its block.
    fn read_messages(
        &self,
        transaction: &Transaction<'_>,
        first: i64,
        matches: &mut Matches,
    ) -> rusqlite::Result<()> {
        let mut statement = transaction.prepare_cached(
            "SELECT id, ts_s, ts_ns, text FROM messages
             WHERE id BETWEEN ?1 AND ?2
                 AND (?3 IS NULL OR from_msisdn = ?3) AND (?4 IS NULL OR to_msisdn = ?4)",
        )?;
        let last = (first / BLOCK_MESSAGES + 1) * BLOCK_MESSAGES - 1;
        let mut rows =
            statement.query(params![first, last, self.scope.msisdn(), self.filter.to])?;
        while let Some(row) = rows.next()? {
            let instant = Instant { seconds: row.get(1)?, nanoseconds: row.get(2)? };
            if self.filter.covers(instant) && is_found(self.finder.as_ref(), row.get_ref(3)?)? {
                matches.add(row.get(0)?, instant.seconds, &mut Span::default());
            }
        }
        Ok(())
    }
}

/// Whether a text has what is searched for, if anything is.
pub(super) fn is_found(finder: Option<&Finder<'_>>, text: ValueRef<'_>) -> rusqlite::Result<bool> {
    let Some(finder) = finder else { return Ok(true) };
    let Some(bytes) = text.as_bytes_or_null()? else { return Ok(false) };
    Ok(finder.find(fold_case(&String::from_utf8_lossy(bytes)).as_bytes()).is_some())
}

/// A block that is packed.
#[derive(Debug, Clone, Copy)]
struct Block {
    number: i64,
    /// Which of its receivers is asked for; `None`: whoever.
    receiver: Option<usize>,
}

/// The span of the last match; the next one of the same block is there or later.
#[derive(Debug, Default)]
struct Span(Option<usize>);

impl Matches {
    fn none(transaction: &Transaction<'_>, changes: i64) -> rusqlite::Result<Matches> {
        let mut starts: Vec<(i64, i64)> = transaction
            .prepare_cached(
                "SELECT ts_s, 0 FROM milestones WHERE sender_id = 0 AND level = 1
                 ORDER BY ts_s, ts_ns, message_id",
            )?
            .query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        starts.dedup();
        let base: i64 = transaction
            .prepare_cached("SELECT coalesce(min(id), 0) FROM messages")?
            .query_row((), |row| row.get(0))?;
        // What was deleted long ago costs no more time and no more memory.
        let seen = Seen { last_id: base / BLOCK_MESSAGES * BLOCK_MESSAGES - 1, changes };
        Ok(Matches { seen, total: 0, ids: Vec::new(), base, spans: starts })
    }

    /// Makes room for the messages up to `last_id`, and says with which to go on.
    fn look_up_to(&mut self, last_id: i64) -> i64 {
        let first = self.seen.last_id + 1;
        self.seen.last_id = last_id;
        self.ids.resize(self.position(last_id).0 + 1, 0);
        first
    }

    fn bytes(&self) -> usize {
        size_of_val(&*self.ids) + size_of_val(&*self.spans)
    }

    fn add(&mut self, id: i64, ts_s: i64, span: &mut Span) {
        let at = span.0.get_or_insert_with(|| {
            self.spans.partition_point(|(start, _)| *start <= ts_s).saturating_sub(1)
        });
        while self.spans.get(*at + 1).is_some_and(|(start, _)| *start <= ts_s) {
            *at += 1;
        }
        let (word, bit) = self.position(id);
        if let (Some((_, n)), Some(ids)) = (self.spans.get_mut(*at), self.ids.get_mut(word)) {
            *n += 1;
            *ids |= bit;
            self.total += 1;
        }
    }

    fn position(&self, id: i64) -> (usize, u64) {
        let at = (id - self.base).max(0);
        (usize::try_from(at / 64).unwrap_or(usize::MAX), 1 << (at % 64))
    }

    fn has(&self, id: i64) -> bool {
        let (word, bit) = self.position(id);
        self.ids.get(word).is_some_and(|ids| ids & bit != 0)
    }

    /// How many matches come before a place.
    pub(super) fn rank(
        &self,
        transaction: &Transaction<'_>,
        place: &Place,
    ) -> rusqlite::Result<i64> {
        let seconds = place.instant.seconds;
        let spans = self.spans.partition_point(|(start, _)| *start <= seconds).saturating_sub(1);
        let mut rank = self.spans.iter().take(spans).map(|(_, n)| n).sum();
        let Some((start, _)) = self.spans.get(spans) else { return Ok(rank) };
        let mut statement = transaction.prepare_cached(
            "SELECT id FROM messages
             WHERE ts_s >= ?1 AND (ts_s, ts_ns, message_id) < (?2, ?3, ?4)
             ORDER BY ts_s, ts_ns, message_id",
        )?;
        let Place { instant, message_id } = place;
        let mut rows =
            statement.query((start, instant.seconds, instant.nanoseconds, message_id))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_searches_hold_half_of_the_workers_at_most() {
        let places = Searches::for_workers(4);
        let taken = [places.take(), places.take()];
        assert!(taken.iter().all(Option::is_some) && places.take().is_none());
        drop(taken);
        assert!(places.take().is_some(), "given back");
    }
}

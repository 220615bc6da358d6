//! Searching texts for a substring: exactly, with an exact total, and any page of it.
//!
//! Where few messages come into question, by sender or by time, they are read. Otherwise the packs
//! are (packs.rs), and row by row the blocks that have none. What matches is marked in a bitmap by
//! id, and counted by where it lies between the milestones, so that a page is found by a walk along
//! the index of time from the milestone before it, however many matches there are (matches.rs).
//!
//! A second thread takes half of a search of many blocks, with a connection and so a snapshot of its
//! own. That one is later, but if nothing was deleted or reworded in between, the full blocks have
//! the same messages in both.
//!
//! Deliberately absent: an index of words or of trigrams. FTS5's costs 600 µs an insert.

use std::{
    borrow::Cow,
    collections::VecDeque,
    ops::Range,
    panic,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    thread,
    time::{self, Duration},
};

use memchr::memmem::Finder;
use rusqlite::{Connection, Transaction, params, types::ValueRef};

use super::{
    Filter,
    counts::{FIRST_ID, Scope},
    matches::{Matches, Seen, Span},
    packs::{BLOCK_MESSAGES, BLOCK_PIECES, Piece, candidates, slots},
    reader,
};
use crate::{error::Error, message::fold_case, timestamp::Timestamp};

/// A search that takes longer needs one of the places for long ones, of which there are half as many
/// as workers, so that long ones never hold all workers.
pub(crate) const SHORT_SEARCH_MS_MAX: u64 = 20;

/// Bytes of the searches that are remembered, all together.
pub(crate) const REMEMBERED_BYTES_MAX: usize = 4_194_304;

/// Fewer blocks are not worth a second thread.
const BLOCKS_TO_SHARE: i64 = if cfg!(test) { 2 } else { 32 };

/// Blocks that a thread takes at a time.
const SHARE_BLOCKS: i64 = if cfg!(test) { 1 } else { 4 };

/// Pages that the second thread keeps: what it reads, it reads once.
const SECOND_CACHE_KIB: u32 = 200;

/// What the readers share: places for long searches, a second thread for one of them, and what was
/// found by recent ones, so that paging through a search looks at each message once.
#[derive(Debug)]
pub(crate) struct Searches {
    free: AtomicUsize,
    /// What needs no place.
    short: Duration,
    /// How many are under way.
    running: AtomicUsize,
    /// Of the second thread; the search that has one holds the lock.
    second: Mutex<Option<Connection>>,
    /// The newest last.
    remembered: Mutex<VecDeque<(Filter, Matches)>>,
}

impl Searches {
    pub(crate) fn open(path: &Path, workers: usize) -> rusqlite::Result<Arc<Searches>> {
        let second = reader::connect(path)?;
        second.execute_batch(&format!("PRAGMA cache_size = -{SECOND_CACHE_KIB}"))?;
        Ok(Arc::new(Searches { second: Mutex::new(Some(second)), ..Searches::alone(workers) }))
    }

    /// Without a second thread.
    pub(crate) fn alone(workers: usize) -> Searches {
        Searches {
            free: AtomicUsize::new(workers.div_ceil(2)),
            short: Duration::from_millis(SHORT_SEARCH_MS_MAX),
            running: AtomicUsize::new(0),
            second: Mutex::default(),
            remembered: Mutex::default(),
        }
    }

    fn take(&self) -> Option<Permit<'_>> {
        self.free
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(1))
            .is_ok()
            .then(|| Permit(self))
    }

    fn begin(&self) -> Running<'_> {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running { searches: self, started: time::Instant::now(), place: None }
    }

    fn is_one_alone(&self) -> bool {
        self.running.load(Ordering::Relaxed) <= 1
    }

    fn second(&self) -> Option<MutexGuard<'_, Option<Connection>>> {
        match self.second.try_lock() {
            Ok(second) => Some(second),
            Err(TryLockError::Poisoned(second)) => Some(second.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
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
        Arc::new(Searches { free, short, ..Searches::alone(0) })
    }
}

/// A place for a long search, given back when dropped.
struct Permit<'a>(&'a Searches);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.free.fetch_add(1, Ordering::Relaxed);
    }
}

/// A search under way, and its place if it takes long.
struct Running<'a> {
    searches: &'a Searches,
    started: time::Instant,
    place: Option<Permit<'a>>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.searches.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Running<'_> {
    fn go_on(&mut self) -> Result<(), Error> {
        if self.place.is_none() && self.started.elapsed() >= self.searches.short {
            self.place = self.searches.take();
            if self.place.is_none() {
                return Err(Error::Unavailable("too many long searches, try again later"));
            }
        }
        Ok(())
    }
}

/// Blocks that nobody looks at yet.
struct Blocks {
    next: AtomicI64,
    end: i64,
}

impl Blocks {
    fn take(&self) -> Option<Range<i64>> {
        let start = self.next.fetch_add(SHARE_BLOCKS, Ordering::Relaxed);
        (start < self.end).then(|| start..self.end.min(start + SHARE_BLOCKS))
    }

    /// Where the search has failed, nobody needs to look at them.
    fn drop_rest(&self) {
        self.next.store(self.end, Ordering::Relaxed);
    }
}

/// What is asked of each message.
struct Question<'a> {
    scope: Scope<'a>,
    filter: &'a Filter,
    finder: Option<Finder<'a>>,
    slots: Vec<usize>,
    /// Ids from the one to the other: lower ones were looked at before, and higher ones, of messages
    /// that a stranger has inserted, are not counted yet.
    first: i64,
    last: i64,
}

/// Which messages match, to be given to [`Searches::remember`] in the end.
pub(super) fn search(
    transaction: &Transaction<'_>,
    filter: &Filter,
    scope: Scope<'_>,
    searches: &Searches,
) -> Result<Matches, Error> {
    let now = seen(transaction)?;
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
        first: matches.look_up_to(now.last_id),
        last: now.last_id,
    };
    if question.first <= question.last {
        question.look(transaction, now.changes, &mut matches, searches)?;
    }
    Ok(matches)
}

/// What there is to be seen.
fn seen(transaction: &Transaction<'_>) -> rusqlite::Result<Seen> {
    transaction
        .prepare_cached("SELECT last_id, changes FROM totals")?
        .query_row((), |row| Ok(Seen { last_id: row.get(0)?, changes: row.get(1)? }))
}

impl Question<'_> {
    /// Looks at every message from the first to the last.
    fn look(
        &self,
        transaction: &Transaction<'_>,
        changes: i64,
        matches: &mut Matches,
        searches: &Searches,
    ) -> Result<(), Error> {
        let (start, end) = (self.first / BLOCK_MESSAGES, self.last / BLOCK_MESSAGES);
        let blocks = Blocks { next: AtomicI64::new(start), end };
        let mut running = searches.begin();
        let is_shared = end - start >= BLOCKS_TO_SHARE && searches.is_one_alone();
        let mut second = is_shared.then(|| searches.second()).flatten();
        thread::scope(|scope| {
            let connection = second.as_deref_mut().and_then(Option::as_mut);
            let help = connection.and_then(|connection| {
                let (found, blocks) = (matches.like(), &blocks);
                let help = move || {
                    self.help(connection, changes, blocks, searches, found)
                        .inspect_err(|_| blocks.drop_rest())
                };
                // Where no thread is to be had, this one looks at all.
                thread::Builder::new().name("search".into()).spawn_scoped(scope, help).ok()
            });
            let mut looked = Ok(());
            while looked.is_ok()
                && let Some(share) = blocks.take()
            {
                looked = self.look_at(transaction, share, matches, || running.go_on());
            }
            blocks.drop_rest();
            if let Some(help) = help {
                let found = help.join().unwrap_or_else(|panic| panic::resume_unwind(panic));
                matches.add_all(&found?);
            }
            looked
        })?;
        // Of this one, which is not full, the second thread's snapshot may have more.
        self.look_at(transaction, end..end + 1, matches, || running.go_on())
    }

    /// Looks at a part of the blocks, if nothing was deleted or reworded since `changes` was read, and
    /// until another search needs the processor.
    fn help(
        &self,
        connection: &mut Connection,
        changes: i64,
        blocks: &Blocks,
        searches: &Searches,
        mut found: Matches,
    ) -> Result<Matches, Error> {
        let transaction = connection.transaction()?;
        if seen(&transaction)?.changes == changes {
            while searches.is_one_alone()
                && let Some(share) = blocks.take()
            {
                self.look_at(&transaction, share, &mut found, || Ok(()))?;
            }
        }
        Ok(found)
    }

    fn look_at(
        &self,
        transaction: &Transaction<'_>,
        blocks: Range<i64>,
        matches: &mut Matches,
        mut go_on: impl FnMut() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut packs = transaction.prepare_cached(
            "SELECT block, trigrams, receivers FROM packs
             WHERE block >= ?1 AND block < ?2
                 AND (?3 IS NULL OR trigrams IS NULL OR ts_s_max >= ?3)
             ORDER BY block",
        )?;
        let since = self.filter.since.map(|since| since.seconds);
        let mut packs = packs.query((blocks.start, blocks.end, since))?;
        while let Some(row) = packs.next()? {
            let block: i64 = row.get(0)?;
            let start = block * BLOCK_MESSAGES;
            match row.get_ref(1)?.as_blob_or_null().map_err(rusqlite::Error::from)? {
                Some(trigrams) if start >= self.first => {
                    let pieces = candidates(trigrams, &self.slots);
                    if let Some(block) = self.block(block, row.get_ref(2)?)? {
                        self.read_pieces(transaction, block, pieces, matches)?;
                    }
                }
                _ => self.read_messages(transaction, start.max(self.first), matches)?,
            }
            go_on()?;
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
        let is_at = |bound: Option<Timestamp>| {
            bound.is_some_and(|bound| ts_s == bound.seconds && bound.nanoseconds > 0)
        };
        if !is_at(*since) && !is_at(*until) {
            return Ok(since.is_none_or(|since| ts_s >= since.seconds)
                && until.is_none_or(|until| ts_s < until.seconds));
        }
        let timestamp = transaction
            .prepare_cached("SELECT ts_s, ts_ns FROM messages WHERE id = ?1")?
            .query_row([id], |row| reader::timestamp(row, 0))?;
        Ok(self.filter.covers(timestamp))
    }

    /// From an id to the end of its block, or to the last.
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
        let last = self.last.min((first / BLOCK_MESSAGES + 1) * BLOCK_MESSAGES - 1);
        let first = first.max(FIRST_ID);
        let mut rows =
            statement.query(params![first, last, self.scope.msisdn(), self.filter.to])?;
        while let Some(row) = rows.next()? {
            let timestamp = reader::timestamp(row, 1)?;
            if self.filter.covers(timestamp) && is_found(self.finder.as_ref(), row.get_ref(3)?)? {
                matches.add(row.get(0)?, timestamp.seconds, &mut Span::default());
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

#[cfg(test)]
mod tests {
    use super::{
        super::{Entry, Writer},
        *,
    };
    use crate::message::Message;

    #[test]
    fn long_searches_hold_half_of_the_workers_at_most() {
        let places = Searches::alone(4);
        let taken = [places.take(), places.take()];
        assert!(taken.iter().all(Option::is_some) && places.take().is_none());
        drop(taken);
        assert!(places.take().is_some(), "given back");
    }

    fn store(writer: &mut Writer, ids: Range<i64>) {
        let entries: Vec<Entry> = ids
            .map(|number| Message {
                message_id: format!("m{number}"),
                from: "+1".to_owned(),
                to: "+2".to_owned(),
                ts: "2025-01-15T10:00:00Z".to_owned(),
                text: Some(if number % 3 == 0 { "Hello" } else { "Good bye" }.to_owned()),
                timestamp: Timestamp::parse("2025-01-15T10:00:00Z").unwrap(),
            })
            .map(Entry::Message)
            .collect();
        assert!(writer.commit(entries.iter()).iter().all(Result::is_ok));
    }

    #[test]
    fn a_second_thread_finds_what_was_there_and_helps_nobody_once_a_message_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mailslot.db");
        let mut writer = Writer::open(&path).unwrap();
        store(&mut writer, 1..3 * BLOCK_MESSAGES + 100);
        let mut connection = reader::connect(&path).unwrap();
        let transaction = connection.transaction().unwrap();
        let now = seen(&transaction).unwrap();
        let mut matches = Matches::none(&transaction, now.changes).unwrap();
        let filter = Filter { q: Some("hello".to_owned()), ..Filter::default() };
        let question = Question {
            scope: Scope::All,
            filter: &filter,
            finder: Some(Finder::new("hello")),
            slots: slots("hello", None, None),
            first: matches.look_up_to(now.last_id),
            last: now.last_id,
        };
        let blocks = || Blocks { next: AtomicI64::new(0), end: now.last_id / BLOCK_MESSAGES };
        let searches = Searches::open(&path, 1).unwrap();
        let mut second = searches.second().unwrap();
        assert!(searches.second().is_none(), "one search at a time has it");
        let connection = second.as_mut().unwrap();
        let mut help = |blocks: &Blocks| {
            let found = question.help(connection, now.changes, blocks, &searches, matches.like());
            found.unwrap().total
        };

        store(&mut writer, 3 * BLOCK_MESSAGES + 100..5 * BLOCK_MESSAGES);
        let hellos = (3 * BLOCK_MESSAGES - 1) / 3;
        assert_eq!(help(&blocks()), hellos, "and nothing of what came later");
        writer.connection.execute("DELETE FROM messages WHERE id = 7", ()).unwrap();
        let untouched = blocks();
        assert_eq!(help(&untouched), 0);
        assert_eq!(untouched.take(), Some(0..SHARE_BLOCKS));
        drop(second);
        assert!(searches.second().is_some(), "given back");
    }
}

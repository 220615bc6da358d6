//! Searching texts for a substring: exactly, with an exact total, and any page of it.
//!
//! Where there are few candidates, by sender or by time, they are read one by one (reader.rs).
//! Otherwise the segments are read (segments.rs), and row by row the blocks that have none. What
//! matches is marked in a bitmap by id, and counted by where it lies between the fences of the rank
//! index, so that a page is found by a walk along the index of time from the fence before it
//! (matches.rs).
//!
//! Deliberately absent: an index of words or of trigrams. FTS5's costs 600 µs an insert. And a
//! second thread that takes half of a search: docs/PERFORMANCE.md says what it saved.

use std::{
    borrow::Cow,
    collections::{HashSet, VecDeque},
    sync::Mutex,
    time::{Duration, Instant},
};

use memchr::memmem::Finder;
use rusqlite::{Transaction, params, types::ValueRef};

use super::{
    matches::{Matches, Span, Watermark},
    rows,
    scope::{Candidates, FIRST_ID, Scope, class_condition},
    segments::{BLOCK_MESSAGES, Page, SEGMENT_PAGES, candidates, slots},
};
use crate::{
    error::Error,
    store::{
        search_slots::{SHORT_SEARCH_MS_MAX, SearchSlot, SearchSlots},
        types::{self, Filter},
    },
    threads::lock,
    timestamp::Timestamp,
};

/// Bytes of the results of searches that are cached, all together.
pub(crate) const SEARCH_CACHE_BYTES_MAX: usize = 4_194_304;

/// What the readers share: slots for long searches, and the results of recent ones, so that paging
/// through a search reads each message once.
#[derive(Debug)]
pub(super) struct Searches {
    slots: SearchSlots,
    /// A search that takes no longer needs no slot.
    short: Duration,
    /// The newest last.
    cache: Mutex<VecDeque<(Filter, Matches)>>,
}

impl Searches {
    pub(super) fn new(workers: usize) -> Searches {
        Searches {
            slots: SearchSlots::new(workers),
            short: Duration::from_millis(SHORT_SEARCH_MS_MAX),
            cache: Mutex::default(),
        }
    }

    /// For tests: every search counts as long, and no slot is free.
    #[cfg(test)]
    pub(super) fn without_slots() -> Searches {
        Searches { short: Duration::ZERO, ..Searches::new(0) }
    }

    /// What was found before, if no message was deleted or changed since and not many were stored.
    fn get(&self, filter: &Filter, now: Watermark) -> Option<Matches> {
        let mut cache = lock(&self.cache);
        let at = cache.iter().position(|(other, _)| other == filter)?;
        let (_, matches) = cache.remove(at)?;
        let Watermark { last_id, changes } = matches.watermark;
        // For a reader whose snapshot is older than the result, the result has too much.
        let is_valid =
            changes == now.changes && last_id <= now.last_id && now.last_id / 4 <= last_id / 3;
        is_valid.then_some(matches)
    }

    pub(super) fn put(&self, filter: Filter, matches: Matches) {
        let mut cache = lock(&self.cache);
        cache.retain(|(other, _)| *other != filter);
        cache.push_back((filter, matches));
        let mut bytes: usize = cache.iter().map(|(_, matches)| matches.bytes()).sum();
        while bytes > SEARCH_CACHE_BYTES_MAX
            && let Some((_, oldest)) = cache.pop_front()
        {
            bytes -= oldest.bytes();
        }
    }
}

/// A search under way, and its slot if it takes long.
struct Running<'a> {
    searches: &'a Searches,
    started: Instant,
    slot: Option<SearchSlot<'a>>,
}

impl Running<'_> {
    /// # Errors
    /// [`Error::Unavailable`] where the search takes long and no slot is free.
    fn go_on(&mut self) -> Result<(), Error> {
        if self.slot.is_none() && self.started.elapsed() >= self.searches.short {
            self.slot = self.searches.slots.take();
            if self.slot.is_none() {
                return Err(Error::Unavailable("too many long searches, try again later"));
            }
        }
        Ok(())
    }
}

/// Which messages match, to be given to [`Searches::put`] in the end.
pub(super) fn search(
    transaction: &Transaction<'_>,
    filter: &Filter,
    candidates: &Candidates<'_>,
    searches: &Searches,
) -> Result<Matches, Error> {
    let now = transaction
        .prepare_cached("SELECT last_id, changes FROM totals")?
        .query_row((), |row| Ok(Watermark { last_id: row.get(0)?, changes: row.get(1)? }))?;
    let mut matches = match searches.get(filter, now) {
        Some(matches) => matches,
        None => Matches::none(transaction, now.changes)?,
    };
    let sender_id = match &*candidates.scopes {
        [Scope::Sender { id, .. }] => Some(*id),
        _ => None,
    };
    let senders = match (&filter.from_prefix, sender_id) {
        (Some(prefix), None) => Some(senders(transaction, prefix)?),
        _ => None,
    };
    let q = filter.q.as_deref();
    let predicate = Predicate {
        transaction,
        sender_id,
        classes: classes(candidates),
        filter,
        senders,
        finder: q.map(Finder::new),
        slots: slots(q.unwrap_or_default(), sender_id, filter.to.as_deref()),
        first: matches.extend_to(now.last_id),
        last: now.last_id,
    };
    if predicate.first <= predicate.last {
        let mut running = Running { searches, started: Instant::now(), slot: None };
        predicate.read_blocks(&mut matches, &mut running)?;
    }
    Ok(matches)
}

/// The ids of the senders that begin so. Those that have no id yet have no message in a segment.
fn senders(transaction: &Transaction<'_>, prefix: &str) -> rusqlite::Result<HashSet<i64>> {
    transaction
        .prepare_cached(
            "SELECT id FROM senders WHERE msisdn >= ?1 AND msisdn < ?1 || char(1114111)",
        )?
        .query_map([prefix], |row| row.get(0))?
        .collect()
}

/// Of which classes a message must be.
pub(super) fn classes(candidates: &Candidates<'_>) -> Option<Vec<i64>> {
    let ids = candidates.scopes.iter().filter_map(|scope| match scope {
        Scope::Class { id } => Some(*id),
        Scope::All | Scope::Sender { .. } => None,
    });
    candidates
        .classes
        .clone()
        .or_else(|| Some(ids.collect::<Vec<_>>()).filter(|ids| !ids.is_empty()))
}

/// What each message is compared with.
struct Predicate<'a> {
    transaction: &'a Transaction<'a>,
    sender_id: Option<i64>,
    classes: Option<Vec<i64>>,
    filter: &'a Filter,
    /// The ids of the senders that begin as the filter says.
    senders: Option<HashSet<i64>>,
    finder: Option<Finder<'a>>,
    slots: Vec<usize>,
    /// The ids that are read. Lower ones were read by an earlier search; higher ones, of rows that
    /// another program has inserted, are not counted yet.
    first: i64,
    last: i64,
}

/// A block that has a segment.
#[derive(Debug, Clone, Copy)]
struct Block {
    number: i64,
    /// The number of the filter's receiver among those of the segment; `None`: any receiver
    /// matches.
    receiver: Option<usize>,
}

impl Predicate<'_> {
    fn read_blocks(&self, matches: &mut Matches, running: &mut Running<'_>) -> Result<(), Error> {
        let mut segments = self.transaction.prepare_cached(
            "SELECT block, trigrams, receivers FROM segments
             WHERE block >= ?1 AND block <= ?2
                 AND (?3 IS NULL OR trigrams IS NULL OR ts_s_max >= ?3)
             ORDER BY block",
        )?;
        let since = self.filter.since.map(|since| since.seconds);
        let blocks = (self.first / BLOCK_MESSAGES, self.last / BLOCK_MESSAGES, since);
        let mut segments = segments.query(blocks)?;
        while let Some(row) = segments.next()? {
            let block: i64 = row.get(0)?;
            let start = block * BLOCK_MESSAGES;
            match row.get_ref(1)?.as_blob_or_null().map_err(rusqlite::Error::from)? {
                Some(signature) if start >= self.first => {
                    let pages = candidates(signature, &self.slots);
                    if let Some(block) = self.block(block, row.get_ref(2)?)? {
                        self.read_pages(block, pages, matches)?;
                    }
                }
                _ => self.read_messages(start.max(self.first), matches)?,
            }
            running.go_on()?;
        }
        Ok(())
    }

    /// `None` if no message of the block went to the filter's receiver.
    fn block(&self, number: i64, names: ValueRef<'_>) -> rusqlite::Result<Option<Block>> {
        let Some(to) = &self.filter.to else { return Ok(Some(Block { number, receiver: None })) };
        let names: Vec<Cow<'_, str>> =
            serde_json::from_slice(names.as_bytes()?).map_err(|_| rusqlite::Error::InvalidQuery)?;
        let receiver = names.iter().position(|name| name == to);
        Ok(receiver.map(|_| Block { number, receiver }))
    }

    fn read_pages(
        &self,
        block: Block,
        mut pages: u64,
        matches: &mut Matches,
    ) -> rusqlite::Result<()> {
        let mut statement = self
            .transaction
            .prepare_cached("SELECT rows FROM segment_pages WHERE id BETWEEN ?1 AND ?2")?;
        let mut span = Span::default();
        while pages != 0 {
            // A run of neighbours is read in one go.
            let first = pages.trailing_zeros();
            let length = (pages >> first).trailing_ones();
            pages &= u64::MAX.checked_shl(first + length).unwrap_or(0);
            let from = block.number * i64::from(SEGMENT_PAGES) + i64::from(first);
            let mut rows = statement.query((from, from + i64::from(length) - 1))?;
            while let Some(row) = rows.next()? {
                let bytes = row.get_ref(0)?.as_blob()?;
                let page = Page::parse(bytes).ok_or(rusqlite::Error::InvalidQuery)?;
                self.read_page(block, &page, &mut span, matches)?;
            }
        }
        Ok(())
    }

    fn read_page(
        &self,
        block: Block,
        page: &Page<'_>,
        span: &mut Span,
        matches: &mut Matches,
    ) -> rusqlite::Result<()> {
        let mut take = |row: usize| -> rusqlite::Result<()> {
            let id = block.number * BLOCK_MESSAGES + page.number(row);
            let is_to = block.receiver.is_none_or(|receiver| receiver == page.receiver(row));
            let is_from = self.is_from(page.sender_id(row));
            if is_to && is_from && self.is_within(page.ts_s(row), id)? && self.is_of_class(id)? {
                matches.add(id, page.ts_s(row), span);
            }
            Ok(())
        };
        let Some(finder) = &self.finder else {
            return (0..page.length()).try_for_each(take);
        };
        let length = finder.needle().len();
        let (mut at, mut row) = (0, 0);
        while let Some(found) = finder.find(&page.texts[at..]) {
            let start = at + found;
            while page.end(row) <= start {
                row += 1;
            }
            let end = page.end(row);
            if start + length > end {
                at = start + 1; // across the border of two texts, so in neither
                continue;
            }
            at = end;
            take(row)?;
        }
        Ok(())
    }

    fn is_from(&self, sender_id: i64) -> bool {
        self.sender_id.is_none_or(|id| id == sender_id)
            && self.senders.as_ref().is_none_or(|ids| ids.contains(&sender_id))
    }

    /// A page does not have it, so the message itself is read.
    fn is_of_class(&self, id: i64) -> rusqlite::Result<bool> {
        let Some(classes) = &self.classes else { return Ok(true) };
        let class = self
            .transaction
            .prepare_cached("SELECT class_id FROM messages WHERE id = ?1")?
            .query_row([id], |row| row.get(0))?;
        Ok(classes.contains(&class))
    }

    /// Whether a message is in the filter's range of time. Pages have whole seconds, so nanoseconds
    /// are read from the table where a bound has a fraction of the same second.
    fn is_within(&self, ts_s: i64, id: i64) -> rusqlite::Result<bool> {
        let Filter { since, until, .. } = self.filter;
        let is_at = |bound: Option<Timestamp>| {
            bound.is_some_and(|bound| ts_s == bound.seconds && bound.nanoseconds > 0)
        };
        if !is_at(*since) && !is_at(*until) {
            return Ok(since.is_none_or(|since| ts_s >= since.seconds)
                && until.is_none_or(|until| ts_s < until.seconds));
        }
        let timestamp = self
            .transaction
            .prepare_cached("SELECT ts_s, ts_ns FROM messages WHERE id = ?1")?
            .query_row([id], |row| rows::timestamp(row, 0))?;
        Ok(self.filter.covers(timestamp))
    }

    /// From an id to the end of its block, or to the last id.
    fn read_messages(&self, first: i64, matches: &mut Matches) -> rusqlite::Result<()> {
        let classes = self.classes.as_deref().map(class_condition);
        let sql = format!(
            "SELECT id, ts_s, ts_ns, text FROM messages
             WHERE id BETWEEN ?1 AND ?2
                 AND (?3 IS NULL OR from_msisdn = ?3) AND (?4 IS NULL OR to_msisdn = ?4)
                 AND (?5 IS NULL OR from_msisdn >= ?5 AND from_msisdn < ?5 || char(1114111))
                 AND {}",
            classes.as_deref().unwrap_or("TRUE")
        );
        let mut statement = self.transaction.prepare_cached(&sql)?;
        let last = self.last.min((first / BLOCK_MESSAGES + 1) * BLOCK_MESSAGES - 1);
        let first = first.max(FIRST_ID);
        let Filter { from, to, from_prefix, .. } = self.filter;
        let mut rows = statement.query(params![first, last, from, to, from_prefix])?;
        while let Some(row) = rows.next()? {
            let timestamp = rows::timestamp(row, 1)?;
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
    Ok(types::is_found(finder, &String::from_utf8_lossy(bytes)))
}

//! Segments: the texts once more, arranged for searching.
//!
//! A segment has the messages of a block of ids, and is built in the background (indexer.rs). Its
//! texts stand case-folded in **pages** that each fill a page of the database, in the order of
//! time. Beside them stands a **trigram signature**, bit-sliced: for every three bytes in a row (by
//! their hash), one bit for each page in which they occur. A search reads only the pages in which
//! all of its own trigrams occur. A block without a segment, because it is not full or has changed,
//! is searched row by row, so that a segment may be missing but is never wrong: the schema's
//! triggers drop that of a block in which a message is deleted or gets another text or receiver.

use std::sync::{Arc, Mutex};

use rusqlite::{Transaction, params};

use super::scope::FIRST_ID;
use crate::message::fold_case;

/// Messages of a block: those whose ids, divided by it, are the same. The schema has this number,
/// too.
pub(super) const BLOCK_MESSAGES: i64 = 2_048;
/// Pages of a segment at most, one for each bit of a word of its signature.
pub(super) const SEGMENT_PAGES: u32 = u64::BITS;
/// Bytes of a page, so that one of the database's pages of 4,096 bytes holds it as a row.
const PAGE_BYTES: usize = 4_040;
/// Words of a segment's signature: for each hash of three bytes, a bit for each page of the segment
/// in which they occur.
const SLOTS: usize = 2_048;

/// A segment that is ready to be stored.
#[derive(Debug)]
pub(super) struct Segment {
    block: i64,
    /// What `segments.changes` was when the block was read.
    changes: i64,
    ts_s_max: Option<i64>,
    /// The receivers of its messages, each once, as a JSON array.
    receivers: String,
    signature: Vec<u8>,
    pages: Vec<Vec<u8>>,
}

/// A segment that waits for the next commit to store it.
pub(super) type Prepared = Arc<Mutex<Option<Segment>>>;

/// A message in a page.
struct Entry {
    /// Its id, within the block.
    number: u16,
    sender_id: u32,
    /// Its number among the segment's receivers.
    receiver: u16,
    ts_s: i64,
    text: String,
}

/// Bytes of an [`Entry`] without its text.
const ENTRY_BYTES: usize = 20;
/// Bytes of a page's head: how many messages it has.
const HEAD_BYTES: usize = 2;

/// A page as it is stored: for `n` messages, the ends of their texts, their `ts_s`, their senders,
/// their ids within the block, their receivers, and then the texts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Page<'a> {
    ends: &'a [[u8; 4]],
    ts_s: &'a [[u8; 8]],
    senders: &'a [[u8; 4]],
    numbers: &'a [[u8; 2]],
    receivers: &'a [[u8; 2]],
    pub(crate) texts: &'a [u8],
}

impl<'a> Page<'a> {
    /// `None` if these bytes are not a page.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Page<'a>> {
        let (n, rest) = bytes.split_first_chunk()?;
        let n = usize::from(u16::from_le_bytes(*n));
        let (ends, rest) = rest.split_at_checked(4 * n)?;
        let (ts_s, rest) = rest.split_at_checked(8 * n)?;
        let (senders, rest) = rest.split_at_checked(4 * n)?;
        let (numbers, rest) = rest.split_at_checked(2 * n)?;
        let (receivers, texts) = rest.split_at_checked(2 * n)?;
        let page = Page {
            ends: ends.as_chunks().0,
            ts_s: ts_s.as_chunks().0,
            senders: senders.as_chunks().0,
            numbers: numbers.as_chunks().0,
            receivers: receivers.as_chunks().0,
            texts,
        };
        // A damaged page must not lead outside of the texts.
        let ascends = (1..n).all(|row| page.end(row - 1) <= page.end(row));
        (n > 0 && ascends && page.end(n - 1) == texts.len()).then_some(page)
    }

    /// How many messages it has.
    pub(crate) fn length(&self) -> usize {
        self.ends.len()
    }

    /// Where the text of a message ends.
    pub(crate) fn end(&self, row: usize) -> usize {
        u32::from_le_bytes(self.ends[row]) as usize
    }

    pub(crate) fn ts_s(&self, row: usize) -> i64 {
        i64::from_le_bytes(self.ts_s[row])
    }

    pub(crate) fn sender_id(&self, row: usize) -> i64 {
        i64::from(u32::from_le_bytes(self.senders[row]))
    }

    /// The id within the block.
    pub(crate) fn number(&self, row: usize) -> i64 {
        i64::from(u16::from_le_bytes(self.numbers[row]))
    }

    /// The number among the segment's receivers.
    pub(crate) fn receiver(&self, row: usize) -> usize {
        usize::from(u16::from_le_bytes(self.receivers[row]))
    }

    fn write(entries: &[Entry]) -> Vec<u8> {
        let mut bytes = u16::try_from(entries.len()).unwrap_or(u16::MAX).to_le_bytes().to_vec();
        let mut end = 0;
        for entry in entries {
            end += u32::try_from(entry.text.len()).unwrap_or(u32::MAX);
            bytes.extend(end.to_le_bytes());
        }
        bytes.extend(entries.iter().flat_map(|entry| entry.ts_s.to_le_bytes()));
        bytes.extend(entries.iter().flat_map(|entry| entry.sender_id.to_le_bytes()));
        bytes.extend(entries.iter().flat_map(|entry| entry.number.to_le_bytes()));
        bytes.extend(entries.iter().flat_map(|entry| entry.receiver.to_le_bytes()));
        bytes.extend(entries.iter().flat_map(|entry| entry.text.bytes()));
        bytes
    }
}

/// The slots of a signature that a search reads.
pub(super) fn slots(q: &str, sender_id: Option<i64>, receiver: Option<&str>) -> Vec<usize> {
    let mut slots: Vec<usize> = q.as_bytes().windows(3).map(slot).collect();
    slots.extend(sender_id.map(sender_slot));
    slots.extend(receiver.map(receiver_slot));
    slots.sort_unstable();
    slots.dedup();
    slots
}

/// A bit for each page of a segment in which all of `slots` occur.
pub(super) fn candidates(signature: &[u8], slots: &[usize]) -> u64 {
    let words = signature.as_chunks::<8>().0;
    slots.iter().fold(u64::MAX, |pages, slot| {
        pages & words.get(*slot).map_or(0, |word| u64::from_le_bytes(*word))
    })
}

fn slot(three: &[u8]) -> usize {
    let number = three.iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
    spread(u64::from(number))
}

fn sender_slot(sender_id: i64) -> usize {
    spread(sender_id.cast_unsigned().wrapping_add(1 << 32))
}

fn receiver_slot(msisdn: &str) -> usize {
    let hash =
        msisdn.bytes().fold(1 << 33, |hash: u64, byte| hash * 31 % 0xffff_fffb + u64::from(byte));
    spread(hash)
}

/// Fibonacci hashing: the product's upper bits.
fn spread(number: u64) -> usize {
    let product = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    usize::try_from(product >> (u64::BITS - SLOTS.ilog2())).unwrap_or_default()
}

/// Builds the segment of a block.
pub(super) fn build(
    transaction: &Transaction<'_>,
    block: i64,
    changes: i64,
) -> rusqlite::Result<Segment> {
    let first = block * BLOCK_MESSAGES;
    let mut statement = transaction.prepare_cached(
        "SELECT messages.id - ?1, senders.id, ts_s, text, to_msisdn
         FROM messages CROSS JOIN senders ON senders.msisdn = messages.from_msisdn
         WHERE messages.id BETWEEN max(?1, ?3) AND ?2",
    )?;
    let mut receivers: Vec<String> = Vec::new();
    let rows = statement.query_map((first, first + BLOCK_MESSAGES - 1, FIRST_ID), |row| {
        let text = String::from_utf8_lossy(row.get_ref(3)?.as_bytes_or_null()?.unwrap_or(b""));
        let receiver = String::from_utf8_lossy(row.get_ref(4)?.as_bytes()?);
        Ok(Entry {
            number: row.get(0)?,
            sender_id: row.get(1)?,
            receiver: number(&mut receivers, &receiver),
            ts_s: row.get(2)?,
            text: fold_case(&text),
        })
    })?;
    let mut entries: Vec<Entry> = rows.collect::<rusqlite::Result<_>>()?;
    entries.sort_by_key(|entry| entry.ts_s);
    let mut signature = vec![0_u64; SLOTS];
    let mut pages = Vec::new();
    for page in split_into_pages(&entries) {
        let bit = 1 << pages.len();
        for entry in page {
            signature[receiver_slot(&receivers[usize::from(entry.receiver)])] |= bit;
            signature[sender_slot(i64::from(entry.sender_id))] |= bit;
            for three in entry.text.as_bytes().windows(3) {
                signature[slot(three)] |= bit;
            }
        }
        pages.push(Page::write(page));
    }
    if entries.is_empty() {
        signature.clear();
    }
    Ok(Segment {
        block,
        changes,
        ts_s_max: entries.last().map(|entry| entry.ts_s),
        receivers: serde_json::to_string(&receivers).unwrap_or_default(),
        signature: signature.into_iter().flat_map(u64::to_le_bytes).collect(),
        pages,
    })
}

/// The number of `receiver` among them; it is appended if it is new.
fn number(receivers: &mut Vec<String>, receiver: &str) -> u16 {
    let known = receivers.iter().rposition(|known| known == receiver);
    let at = known.unwrap_or_else(|| {
        receivers.push(receiver.to_owned());
        receivers.len() - 1
    });
    u16::try_from(at).unwrap_or(u16::MAX)
}

/// At most [`SEGMENT_PAGES`] pages of [`PAGE_BYTES`], or of more bytes where the texts have more.
fn split_into_pages(entries: &[Entry]) -> Vec<&[Entry]> {
    const WORD_BITS: usize = SEGMENT_PAGES as usize;
    if entries.is_empty() {
        return Vec::new();
    }
    let size = |entry: &Entry| ENTRY_BYTES + entry.text.len();
    let bytes: usize = entries.iter().map(size).sum();
    // Two neighbours are larger than `bytes_max` together, or they would be one.
    let surely_few = HEAD_BYTES + 2 * bytes / (WORD_BITS - 1);
    let mut bytes_max = PAGE_BYTES;
    loop {
        let mut used = HEAD_BYTES;
        let mut starts = vec![0];
        for (at, entry) in entries.iter().enumerate() {
            if used + size(entry) > bytes_max && used > HEAD_BYTES {
                starts.push(at);
                used = HEAD_BYTES;
            }
            used += size(entry);
        }
        if starts.len() <= WORD_BITS {
            let ends = starts.iter().skip(1).copied().chain([entries.len()]);
            return starts.iter().zip(ends).map(|(start, end)| &entries[*start..end]).collect();
        }
        bytes_max = if bytes_max == PAGE_BYTES { surely_few } else { 2 * bytes_max };
    }
}

/// Stores a segment, unless its block has changed since it was read.
pub(super) fn store(transaction: &Transaction<'_>, segment: &Segment) -> rusqlite::Result<()> {
    let is_stored = transaction
        .prepare_cached(
            "UPDATE segments SET ts_s_max = ?3, trigrams = ?4, receivers = ?5
             WHERE block = ?1 AND changes = ?2 AND trigrams IS NULL",
        )?
        .execute(params![
            segment.block,
            segment.changes,
            segment.ts_s_max,
            segment.signature,
            segment.receivers
        ])?;
    if is_stored == 0 {
        return Ok(());
    }
    let first = segment.block * i64::from(SEGMENT_PAGES);
    transaction
        .prepare_cached("DELETE FROM segment_pages WHERE id BETWEEN ?1 AND ?2")?
        .execute((first, first + i64::from(SEGMENT_PAGES) - 1))?;
    let mut insert =
        transaction.prepare_cached("INSERT INTO segment_pages (id, rows) VALUES (?1, ?2)")?;
    for (id, page) in (first..).zip(&segment.pages) {
        insert.execute((id, page))?;
    }
    Ok(())
}

/// Enters every block up to that of the last message, with or without a segment.
pub(super) fn register(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let (next, last): (i64, i64) = transaction
        .prepare_cached(
            "SELECT (SELECT coalesce(max(block) + 1, 0) FROM segments), last_id / ?1 FROM totals",
        )?
        .query_row([BLOCK_MESSAGES], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut insert = transaction.prepare_cached("INSERT INTO segments (block) VALUES (?1)")?;
    for block in next..=last {
        insert.execute([block])?;
    }
    Ok(())
}

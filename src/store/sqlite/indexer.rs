//! The background job: it builds the segments that searches read, one block at a time, and has each
//! one stored by the next commit. Where no more messages come, it has the tail indexed.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, OptionalExtension};

use super::{
    connection::open_for_reading,
    segments::{self, BLOCK_MESSAGES, Prepared},
};
use crate::{
    error::Error,
    store::types::{Job, Outcome},
    threads::lock,
};

/// How long the job pauses after a commit, and where there is nothing to do or the commit failed.
const PAUSE: Duration = Duration::from_millis(5);
const REST: Duration = Duration::from_millis(500);
/// How long no message must have come before the tail is indexed: a message every now and then
/// costs no more commits than before.
const QUIET: Duration = Duration::from_secs(5);
/// The indexer's page cache.
const CACHE_KIB: u32 = 2_000;

#[derive(Debug)]
pub(super) struct Indexer {
    pub(super) connection: Connection,
    prepared: Prepared,
    /// The last id, and since when it has been that.
    last: (i64, Instant),
}

impl Indexer {
    pub(super) fn open(path: &Path, prepared: Prepared) -> rusqlite::Result<Indexer> {
        let connection = open_for_reading(path, CACHE_KIB)?;
        Ok(Indexer { connection, prepared, last: (0, Instant::now()) })
    }

    /// Works for as long as the process runs. What fails is logged where it does, and tried again.
    pub(super) fn run(mut self, commit: impl Fn(Job) -> Outcome) {
        loop {
            let has_work = self.prepare() == Ok(true) || self.has_quiet_tail() == Ok(true);
            let is_done = has_work && commit(Job::Index).is_ok();
            thread::sleep(if is_done { PAUSE } else { REST });
        }
    }

    /// Whether there are messages behind the watermark, and none has come for a while.
    fn has_quiet_tail(&mut self) -> Result<bool, Error> {
        let (last_id, tail): (i64, i64) = self
            .connection
            .prepare_cached("SELECT last_id, last_id - indexed_id FROM totals")?
            .query_row((), |row| Ok((row.get(0)?, row.get(1)?)))?;
        let (seen, since) = &mut self.last;
        if last_id != *seen {
            (*seen, *since) = (last_id, Instant::now());
        }
        Ok(tail > 0 && since.elapsed() >= QUIET)
    }

    /// Builds the segment of the first full block that has none; false if each one has.
    pub(super) fn prepare(&mut self) -> Result<bool, Error> {
        let transaction = self.connection.transaction()?;
        let missing = transaction
            .prepare_cached(
                "SELECT block, changes FROM segments
                 WHERE trigrams IS NULL AND block < (SELECT (indexed_id + 1) / ?1 FROM totals)
                 ORDER BY block LIMIT 1",
            )?
            .query_row([BLOCK_MESSAGES], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((block, changes)) = missing else { return Ok(false) };
        *lock(&self.prepared) = Some(segments::build(&transaction, block, changes)?);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{layout::Layout, writer::Writer},
        *,
    };
    use crate::{message::Message, store::types::Stored, timestamp::Timestamp};

    #[test]
    fn the_tail_is_indexed_once_no_message_has_come_for_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mailslot.db");
        let prepared = Prepared::default();
        let mut writer = Writer::open_with(&path, Layout::SHIPPED, prepared.clone()).unwrap();
        let mut indexer = Indexer::open(&path, prepared).unwrap();
        assert_eq!(indexer.has_quiet_tail(), Ok(false));
        let message = Message {
            message_id: "m1".to_owned(),
            from: "+1".to_owned(),
            to: "+2".to_owned(),
            ts: "2025-01-15T10:00:00Z".to_owned(),
            text: None,
            timestamp: Timestamp::parse("2025-01-15T10:00:00Z").unwrap(),
        };
        let outcomes = writer.commit([Job::Messages(vec![message.into()])].iter());
        assert_eq!(outcomes, [Ok(vec![Stored::Created])]);
        assert_eq!(indexer.has_quiet_tail(), Ok(false), "it has just come");
        indexer.last.1 = Instant::now().checked_sub(QUIET).unwrap();
        assert_eq!(indexer.has_quiet_tail(), Ok(true));
        assert_eq!(writer.commit([Job::Index].iter()), [Ok(vec![])]);
        assert_eq!(indexer.has_quiet_tail(), Ok(false));
        let sql = "SELECT indexed_id, messages, senders FROM totals";
        let totals = writer
            .connection
            .query_row(sql, (), |row| Ok::<[i64; 3], _>([row.get(0)?, row.get(1)?, row.get(2)?]));
        assert_eq!(totals, Ok([1, 1, 1]));
    }
}

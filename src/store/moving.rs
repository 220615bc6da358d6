//! Moving all messages from one engine to another: with their cursors, the times at which they were
//! stored and the tombstones of erased ones, so that readers of the feed go on and a repeated
//! delivery stays one.
//!
//! A move goes on where it was interrupted: what the destination has is not read again until the
//! end, when both databases are read through and compared.

use sha2::{Digest, Sha256};

use super::{
    postgres, sqlite,
    types::{History, Kept, Received},
};
use crate::{
    config::Database, message::Message, metrics::Label, original::Original, timestamp::Timestamp,
};

/// Messages, and tombstones, of one transaction.
const PORTION: i64 = 500;

/// What a move has moved.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) messages: i64,
    pub(crate) tombstones: i64,
    /// Of everything, as hexadecimal digits: the same of both databases.
    pub(crate) digest: String,
}

/// What the move does at the moment, with how many messages it has done that.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Copied(i64),
    Compared(i64),
}

/// Moves everything into an empty database, or into one into which a move of the same database was
/// interrupted.
///
/// # Errors
/// A sentence for the operator. The source is never changed.
pub(crate) fn move_all(
    from: &Database,
    to: &Database,
    progress: &mut dyn FnMut(Step),
) -> Result<Moved, String> {
    let mut source = Moving::source(from)?;
    let history = source.history()?;
    let mut destination = Moving::destination(to)?;
    let last = begin(&mut destination, &history)?;
    copy(&mut source, &mut destination, last, progress)?;
    destination.finish(&history)?;
    let mut compared = 0;
    let mut count = |messages: i64| {
        compared += messages;
        progress(Step::Compared(compared));
    };
    let expected = read_through(&mut source, &mut count)?;
    let moved = read_through(&mut destination, &mut count)?;
    if source.history()? != history {
        return Err(
            "the source was changed meanwhile: stop every mailslot that stores in it, and \
             run it again"
                .to_owned(),
        );
    }
    if moved != expected {
        return Err(format!(
            "the destination has {} messages and {} tombstones, and the source {} and {}, or their \
             contents differ: messages were deleted meanwhile; empty the destination, and run it \
             again",
            moved.messages, moved.tombstones, expected.messages, expected.tombstones
        ));
    }
    Ok(moved)
}

/// Whether the destination may be written, and up to which cursor it has everything already.
fn begin(destination: &mut Moving, history: &History) -> Result<i64, String> {
    let theirs = destination.history()?;
    let is_ours = theirs.erasing_key == history.erasing_key;
    let last = destination.last_cursor()?;
    if !is_ours && (last > 0 || theirs.last_cursor() > 0 || theirs.erased > 0) {
        return Err("the destination has messages of its own: name a new database".to_owned());
    }
    if last > history.last_cursor() {
        return Err("the destination has messages that the source does not have: it is in use \
             already"
            .to_owned());
    }
    destination.adopt(history)?;
    Ok(last)
}

fn copy(
    source: &mut Moving,
    destination: &mut Moving,
    mut last: i64,
    progress: &mut dyn FnMut(Step),
) -> Result<(), String> {
    let mut copied = 0;
    loop {
        let mut portion = source.messages(last, PORTION)?;
        let Some(end) = portion.last() else { break };
        last = end.cursor;
        for kept in &mut portion {
            kept.received.created_at = stored_at(kept)?;
        }
        destination.store(&portion)?;
        copied += i64::try_from(portion.len()).unwrap_or(i64::MAX);
        progress(Step::Copied(copied));
    }
    let mut last = Vec::new();
    loop {
        let portion = source.tombstones(&last, PORTION)?;
        let Some(end) = portion.last() else { return Ok(()) };
        last.clone_from(end);
        destination.store_tombstones(&portion)?;
    }
}

/// When a message was stored, to the millisecond. mailslot writes it so; a table of an earlier
/// program may have it without a fraction or a zone.
fn stored_at(kept: &Kept) -> Result<String, String> {
    let text = &kept.received.created_at;
    let parsed = Timestamp::parse(text)
        .or_else(|| Timestamp::parse(&format!("{}Z", text.replacen(' ', "T", 1))));
    let Some(timestamp) = parsed else {
        let id = &kept.received.message.message_id;
        return Err(format!("message {id:?} was stored at {text:?}, which is no time in UTC"));
    };
    let seconds = timestamp.text();
    let milliseconds = timestamp.nanoseconds / 1_000_000;
    Ok(format!("{}.{milliseconds:03}Z", seconds.trim_end_matches('Z')))
}

/// Counts and hashes everything.
fn read_through(side: &mut Moving, count: &mut dyn FnMut(i64)) -> Result<Moved, String> {
    let (mut hash, mut messages, mut tombstones, mut last) = (Sha256::new(), 0, 0, 0);
    loop {
        let portion = side.messages(last, PORTION)?;
        let Some(end) = portion.last() else { break };
        last = end.cursor;
        for kept in &portion {
            let Message { message_id, from, to, ts, text, .. } = &kept.received.message;
            hash.update(kept.cursor.to_be_bytes());
            let stored = stored_at(kept)?;
            let Received { source, kind, original, .. } = &kept.received;
            let texts = [message_id, from, to, ts, &stored, kind].map(String::as_bytes);
            let rest =
                [text.as_deref().map(str::as_bytes), original.as_ref().map(Original::stored)];
            let source = source.value().as_bytes();
            for field in texts.into_iter().chain([source]).map(Some).chain(rest) {
                // Null has a length that no text has.
                let length = field.map_or(u64::MAX, |field| field.len() as u64);
                hash.update(length.to_be_bytes());
                hash.update(field.unwrap_or_default());
            }
        }
        let read = i64::try_from(portion.len()).unwrap_or(i64::MAX);
        messages += read;
        count(read);
    }
    let mut last = Vec::new();
    loop {
        let portion = side.tombstones(&last, PORTION)?;
        let Some(end) = portion.last() else { break };
        last.clone_from(end);
        tombstones += i64::try_from(portion.len()).unwrap_or(i64::MAX);
        for tombstone in &portion {
            hash.update(tombstone);
        }
    }
    Ok(Moved { messages, tombstones, digest: hex::encode(hash.finalize()) })
}

/// One side of a move.
#[derive(Debug)]
enum Moving {
    Sqlite(sqlite::Moving),
    Postgres(postgres::Moving),
}

impl Moving {
    /// # Errors
    /// A sentence for the operator, as for each of these functions.
    fn source(database: &Database) -> Result<Moving, String> {
        Ok(match database {
            Database::File(path) => Moving::Sqlite(sqlite::Moving::source(path)?),
            Database::Server(target) => Moving::Postgres(postgres::Moving::source(target)?),
        })
    }

    /// Creates what is not there yet.
    fn destination(database: &Database) -> Result<Moving, String> {
        Ok(match database {
            Database::File(path) => Moving::Sqlite(sqlite::Moving::destination(path)?),
            Database::Server(target) => Moving::Postgres(postgres::Moving::destination(target)?),
        })
    }

    fn history(&mut self) -> Result<History, String> {
        match self {
            Moving::Sqlite(side) => side.history(),
            Moving::Postgres(side) => side.history(),
        }
    }

    /// The cursor of the last message that is stored; 0 if there is none.
    fn last_cursor(&mut self) -> Result<i64, String> {
        match self {
            Moving::Sqlite(side) => side.last_cursor(),
            Moving::Postgres(side) => side.last_cursor(),
        }
    }

    /// The messages behind a cursor, at most `limit`, in the order of their cursors.
    fn messages(&mut self, after: i64, limit: i64) -> Result<Vec<Kept>, String> {
        match self {
            Moving::Sqlite(side) => side.messages(after, limit),
            Moving::Postgres(side) => side.messages(after, limit),
        }
    }

    /// The hashes of erased messages' ids behind one of them, at most `limit`, in ascending order.
    fn tombstones(&mut self, after: &[u8], limit: i64) -> Result<Vec<Vec<u8>>, String> {
        match self {
            Moving::Sqlite(side) => side.tombstones(after, limit),
            Moving::Postgres(side) => side.tombstones(after, limit),
        }
    }

    /// Gives a destination the history of the source.
    fn adopt(&mut self, history: &History) -> Result<(), String> {
        match self {
            Moving::Sqlite(side) => side.adopt(history),
            Moving::Postgres(side) => side.adopt(history),
        }
    }

    fn store(&mut self, messages: &[Kept]) -> Result<(), String> {
        match self {
            Moving::Sqlite(side) => side.store(messages),
            Moving::Postgres(side) => side.store(messages),
        }
    }

    fn store_tombstones(&mut self, hashes: &[Vec<u8>]) -> Result<(), String> {
        match self {
            Moving::Sqlite(side) => side.store_tombstones(hashes),
            Moving::Postgres(side) => side.store_tombstones(hashes),
        }
    }

    /// Everything is stored.
    fn finish(&mut self, history: &History) -> Result<(), String> {
        match self {
            Moving::Sqlite(side) => side.finish(history),
            Moving::Postgres(side) => side.finish(history),
        }
    }
}

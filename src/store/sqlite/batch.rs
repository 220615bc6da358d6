//! The jobs of one commit, within its transaction.

use rusqlite::{ErrorCode, Transaction, params};

use super::{
    classes::Classes, counts, erased::Erased, layout::Layout, rank_index, schema, segments,
    segments::Segment,
};
use crate::{
    error::Error,
    logging,
    message::{Delivered, Message},
    store::types::{Job, Outcome, Stored},
    timestamp::Timestamp,
};

/// Messages that one [`Job::Expire`] deletes, so that deliveries do not wait long for it.
const EXPIRED_AT_ONCE: i64 = 32;

/// Runs all jobs, and gives for each what became of it, in order. `prepared` is what a
/// [`Job::Index`] stores.
///
/// # Errors
/// What concerns the transaction, and so every job.
pub(super) fn run<'a>(
    transaction: &Transaction<'_>,
    layout: &Layout,
    jobs: impl Iterator<Item = &'a Job> + Clone,
    prepared: Option<&Segment>,
) -> rusqlite::Result<Vec<Outcome>> {
    // A newer mailslot has migrated the database beside this process, and counts in another way.
    if schema::version(transaction)? != schema::VERSION {
        let problem = Error::Unavailable("the database has another schema");
        return Ok(vec![Err(problem); jobs.count()]);
    }
    let (last_id, erased): (i64, i64) = transaction
        .prepare_cached("SELECT last_id, erased FROM totals")?
        .query_row((), |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut inserts = Inserts {
        transaction,
        // Only where messages were erased is each one compared with them.
        erased: if erased > 0 { Some(Erased::open(transaction)?) } else { None },
        now: logging::now(),
        next_id: counts::highest_id(transaction, last_id)? + 1,
        classes: Classes::limited(),
    };
    let (mut outcomes, mut is_indexing) = (Vec::new(), false);
    for job in jobs {
        outcomes.push(match job {
            Job::Messages(messages) => inserts.insert_all(messages)?,
            Job::Index => {
                is_indexing = true;
                prepared.map_or(Ok(()), |segment| segments::store(transaction, segment))?;
                Ok(Vec::new())
            }
            Job::Expire(before) => {
                expire(transaction, *before)?;
                Ok(Vec::new())
            }
            Job::Probe => {
                // It writes a page though nothing changes, so that the commit is a real one.
                transaction.pragma_update(None, "user_version", schema::VERSION)?;
                Ok(Vec::new())
            }
        });
    }
    let new_last_id = inserts.next_id - 1;
    if new_last_id != last_id {
        counts::advance(transaction, layout, new_last_id)?;
        if last_id / segments::BLOCK_MESSAGES != new_last_id / segments::BLOCK_MESSAGES {
            segments::register(transaction)?;
            rank_index::prune(transaction)?;
        }
    }
    if is_indexing {
        counts::index_tail(transaction, layout)?;
    }
    Ok(outcomes)
}

/// Deletes the oldest messages, some of those from before this moment.
fn expire(transaction: &Transaction<'_>, before: Timestamp) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "DELETE FROM messages WHERE id IN (
                 SELECT id FROM messages WHERE (ts_s, ts_ns) < (?1, ?2)
                 ORDER BY ts_s, ts_ns, message_id LIMIT ?3)",
        )?
        .execute((before.seconds, before.nanoseconds, EXPIRED_AT_ONCE))?;
    Ok(())
}

struct Inserts<'a> {
    transaction: &'a Transaction<'a>,
    erased: Option<Erased>,
    /// When these messages are stored, as text.
    now: String,
    next_id: i64,
    classes: Classes,
}

impl Inserts<'_> {
    /// Inserts all messages of a job, or none.
    fn insert_all(&mut self, messages: &[Delivered]) -> rusqlite::Result<Outcome> {
        if let [message] = messages {
            return Ok(self.insert(message)?.map(|stored| vec![stored]));
        }
        let next_id = self.next_id;
        self.transaction.execute_batch("SAVEPOINT job")?;
        let mut outcomes = Vec::with_capacity(messages.len());
        for message in messages {
            match self.insert(message)? {
                Ok(stored) => outcomes.push(stored),
                Err(error) => {
                    self.transaction.execute_batch("ROLLBACK TO job; RELEASE job")?;
                    self.next_id = next_id;
                    // New ones are undone, too.
                    self.classes = Classes::limited();
                    return Ok(Err(error));
                }
            }
        }
        self.transaction.execute_batch("RELEASE job")?;
        Ok(Ok(outcomes))
    }

    /// A constraint that the row violates undoes this statement alone.
    fn insert(&mut self, delivered: &Delivered) -> rusqlite::Result<Result<Stored, Error>> {
        let Delivered { message, source, kind, original } = delivered;
        if let Some(erased) = &self.erased
            && erased.has(self.transaction, &message.message_id)?
        {
            return Ok(Ok(Stored::Duplicate));
        }
        let mut statement = self.transaction.prepare_cached(
            "INSERT INTO messages
                 (id, message_id, from_msisdn, to_msisdn, ts, ts_s, ts_ns, text, created_at,
                  class_id)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
             ON CONFLICT (message_id) DO NOTHING",
        )?;
        let Message { message_id, from, to, ts, text, timestamp } = message;
        let Timestamp { seconds, nanoseconds } = timestamp;
        let class_id = self.classes.id(self.transaction, *source, kind)?;
        let row = params![
            self.next_id,
            message_id,
            from,
            to,
            ts,
            seconds,
            nanoseconds,
            text,
            self.now,
            class_id
        ];
        match statement.execute(row) {
            Ok(1) => {
                if let Some(original) = original {
                    self.transaction
                        .prepare_cached("INSERT INTO originals (id, stored) VALUES (?1, ?2)")?
                        .execute((self.next_id, original.stored()))?;
                }
                self.next_id += 1;
                Ok(Ok(Stored::Created))
            }
            Ok(_) => Ok(Ok(Stored::Duplicate)),
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                Ok(Err(Error::from(error)))
            }
            Err(error) => Err(error),
        }
    }
}

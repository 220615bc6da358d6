//! Totals, each sender's count and the rank index: derived from the messages up to a watermark,
//! `totals.indexed_id`. A reader adds the messages behind it, the tail (ranks.rs). The commit after
//! which the tail would be long indexes it, which costs less than indexing each message, and the
//! background job does where no more messages come (indexer.rs).

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};

use super::{classes, layout::Layout, rank_index::RankIndex, rows, scope::Scope};
use crate::store::types::Position;

/// A row that another program inserted is counted only if its id is at most this far above
/// `totals.last_id`.
const AHEAD: i64 = 100_000;

/// Returns the highest id in use: `last_id`, or a higher one (by at most [`AHEAD`]) if another
/// program has inserted rows. The next commit counts such rows.
pub(super) fn highest_id(transaction: &Transaction<'_>, last_id: i64) -> rusqlite::Result<i64> {
    let highest = transaction
        .prepare_cached(
            "SELECT id FROM messages WHERE id BETWEEN ?1 AND ?2 ORDER BY id DESC LIMIT 1",
        )?
        .query_row((last_id.saturating_add(1), last_id.saturating_add(AHEAD)), |row| row.get(0));
    Ok(highest.optional()?.unwrap_or(last_id))
}

/// The messages up to `last_id` are stored. Indexes the tail if it is long now.
pub(super) fn advance(
    transaction: &Transaction<'_>,
    layout: &Layout,
    last_id: i64,
) -> rusqlite::Result<()> {
    transaction.prepare_cached("UPDATE totals SET last_id = ?1")?.execute([last_id])?;
    let tail: i64 = transaction
        .prepare_cached("SELECT last_id - indexed_id FROM totals")?
        .query_row((), |row| row.get(0))?;
    if tail >= layout.tail { index_tail(transaction, layout) } else { Ok(()) }
}

/// Moves the watermark to the last message.
pub(super) fn index_tail(transaction: &Transaction<'_>, layout: &Layout) -> rusqlite::Result<()> {
    let mut tail: Vec<Tail> = transaction
        .prepare_cached(
            "SELECT ts_s, ts_ns, message_id, from_msisdn, class_id FROM totals
             CROSS JOIN messages ON id > indexed_id AND id <= last_id",
        )?
        .query_map((), |row| Ok((rows::position(row)?, rows::text(row, 3)?, row.get(4)?)))?
        .collect::<rusqlite::Result<_>>()?;
    tail.sort_unstable();
    RankIndex { transaction, layout, scope: Scope::All }.add(&positions(&tail))?;
    tail.sort_by_key(|(_, _, class_id)| *class_id);
    let has_index = classes::has_index(transaction)?;
    for messages in tail.chunk_by(|(_, _, a), (_, _, b)| a == b) {
        index_class(transaction, layout, has_index, messages)?;
    }
    tail.sort_by(|(a_at, a, _), (b_at, b, _)| (a, a_at).cmp(&(b, b_at)));
    let mut new_senders = 0;
    for messages in tail.chunk_by(|(_, a, _), (_, b, _)| a == b) {
        new_senders += i64::from(index_sender(transaction, layout, messages)?);
    }
    transaction
        .prepare_cached(
            "UPDATE totals SET messages = messages + ?1, senders = senders + ?2,
                 indexed_id = last_id",
        )?
        .execute((rows::length(&tail), new_senders))?;
    Ok(())
}

/// A message behind the watermark: where it is, its sender, and its class.
type Tail = (Position, String, i64);

/// Counts messages of one class, which has fences only where messages have an index by class.
fn index_class(
    transaction: &Transaction<'_>,
    layout: &Layout,
    has_index: bool,
    messages: &[Tail],
) -> rusqlite::Result<()> {
    let (id, count) = (messages[0].2, rows::length(messages));
    let known: Option<(i64, bool)> = transaction
        .prepare_cached("SELECT n, is_heavy FROM classes WHERE id = ?1")?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    // Only another program can have made a message of a class that is not there.
    let Some((before, has_fences)) = known else { return Ok(()) };
    let index = RankIndex { transaction, layout, scope: Scope::Class { id } };
    let builds = has_index && !has_fences && before + count >= layout.heavy;
    if has_fences {
        index.add(&positions(messages))?;
    } else if builds {
        index.build(&mut |_| ())?;
    }
    transaction
        .prepare_cached("UPDATE classes SET n = n + ?2, is_heavy = is_heavy OR ?3 WHERE id = ?1")?
        .execute((id, count, builds))?;
    Ok(())
}

/// Counts messages of one sender, who may be new: that is what it returns.
fn index_sender(
    transaction: &Transaction<'_>,
    layout: &Layout,
    messages: &[Tail],
) -> rusqlite::Result<bool> {
    let (msisdn, count) = (&messages[0].1, rows::length(messages));
    let known: Option<(i64, i64, bool)> = transaction
        .prepare_cached("SELECT id, n, is_heavy FROM senders WHERE msisdn = ?1")?
        .query_row([msisdn], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let (id, before, has_fences) = if let Some(known) = known {
        transaction
            .prepare_cached("UPDATE senders SET n = n + ?2 WHERE id = ?1")?
            .execute((known.0, count))?;
        known
    } else {
        transaction
            .prepare_cached("INSERT INTO senders (msisdn, n) VALUES (?1, ?2)")?
            .execute((msisdn, count))?;
        (transaction.last_insert_rowid(), 0, false)
    };
    let index = RankIndex { transaction, layout, scope: Scope::Sender { id, msisdn } };
    if has_fences {
        index.add(&positions(messages))?;
    } else if before + count >= layout.heavy {
        transaction
            .prepare_cached("UPDATE senders SET is_heavy = 1 WHERE id = ?1")?
            .execute([id])?;
        index.build(&mut |_| ())?;
    }
    Ok(known.is_none())
}

/// Counts everything from the messages, where nothing is counted yet. `progress` is called
/// in each step, with how many more messages have been read.
pub(super) fn rebuild(
    transaction: &Transaction<'_>,
    layout: &Layout,
    progress: &mut dyn FnMut(&'static str, i64),
) -> rusqlite::Result<()> {
    transaction.execute(
        "UPDATE totals SET last_id = max(last_id, (SELECT coalesce(max(id), 0) FROM messages))",
        (),
    )?;
    transaction.execute(
        "INSERT INTO senders (msisdn, n, is_heavy)
         SELECT from_msisdn, count(*), count(*) >= ?1 FROM messages GROUP BY from_msisdn",
        [layout.heavy],
    )?;
    transaction.execute(
        "UPDATE classes SET n = (SELECT count(*) FROM messages WHERE class_id = classes.id)",
        (),
    )?;
    rebuild_rank_index(transaction, layout, progress)?;
    transaction.execute(
        "UPDATE totals SET
             messages = (SELECT count(*) FROM messages),
             senders = (SELECT count(*) FROM senders),
             indexed_id = last_id",
        (),
    )?;
    Ok(())
}

/// Sets all fences again, along the messages up to `totals.last_id`.
pub(super) fn rebuild_rank_index(
    transaction: &Transaction<'_>,
    layout: &Layout,
    progress: &mut dyn FnMut(&'static str, i64),
) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM rank_index", ())?;
    let all = RankIndex { transaction, layout, scope: Scope::All };
    all.build(&mut |read| progress("counting", read))?;
    let mut heavy = transaction.prepare("SELECT id, msisdn FROM senders WHERE is_heavy")?;
    let mut senders = heavy.query(())?;
    while let Some(row) = senders.next()? {
        let msisdn: String = row.get(1)?;
        let scope = Scope::Sender { id: row.get(0)?, msisdn: &msisdn };
        let index = RankIndex { transaction, layout, scope };
        index.build(&mut |read| progress("counting by sender", read))?;
    }
    build_by_class(transaction, layout)
}

/// Sets the fences of classes that shall have some.
fn build_by_class(transaction: &Transaction<'_>, layout: &Layout) -> rusqlite::Result<()> {
    let mut heavy = transaction.prepare("SELECT id FROM classes WHERE is_heavy")?;
    let mut classes = heavy.query(())?;
    while let Some(row) = classes.next()? {
        let index = RankIndex { transaction, layout, scope: Scope::Class { id: row.get(0)? } };
        index.build(&mut |_| ())?;
    }
    Ok(())
}

/// Gives messages their index by class, and classes of many messages their fences. That takes less
/// than a second for a million messages, in which no other process can write.
pub(super) fn index_by_class(connection: &mut Connection, layout: &Layout) -> rusqlite::Result<()> {
    if classes::has_index(connection)? {
        return Ok(());
    }
    // What SQLite sorts for an index of ten million messages takes half a gigabyte.
    connection.execute_batch("PRAGMA temp_store = FILE")?;
    let indexed = sort_by_class(connection, layout);
    connection.execute_batch("PRAGMA temp_store = MEMORY")?;
    indexed
}

fn sort_by_class(connection: &mut Connection, layout: &Layout) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    index_tail(&transaction, layout)?;
    // Another process may have made it meanwhile. Fences are there if an operator has dropped it.
    transaction.execute_batch(
        "CREATE INDEX IF NOT EXISTS messages_by_class
             ON messages (class_id, ts_s, ts_ns, message_id);
         DELETE FROM rank_index WHERE sender_id < 0",
    )?;
    transaction.execute("UPDATE classes SET is_heavy = n >= ?1", [layout.heavy])?;
    build_by_class(&transaction, layout)?;
    transaction.commit()
}

fn positions(messages: &[Tail]) -> Vec<&Position> {
    messages.iter().map(|(position, ..)| position).collect()
}

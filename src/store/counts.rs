//! How many, without counting: the totals, each sender's count, and milestones along the order.
//!
//! Messages have an order, (instant, `message_id`), and each sender's messages have the same one.
//! A milestone stands at a place in it and holds how many messages lie between it and the next one
//! of its level. Those of the second level stand farther apart, each where one of the first level
//! stands. How many come before a place, and what stands at an offset, is then a sum over each
//! level and a short walk along an index. What a message adds is counted in its own transaction;
//! what a DELETE takes away, by whomever, is counted by a trigger of the schema.
//!
//! A sender with few messages has no milestones: the walk along the index is short without.

use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::reader;
use crate::message::{Instant, Message};

/// Messages that a milestone of each level holds at most. When there are more, a new one is set
/// half-way. Of larger ones a commit of any `ts` touches fewer, and a read walks farther: 2,048
/// instead of 512 save a commit 4 % and cost a read less than 0.1 ms (docs/PERFORMANCE.md).
pub(super) const SPANS: [i64; 2] = if cfg!(test) { [16, 128] } else { [2_048, 65_536] };
/// The same, where milestones are laid anew: some room for late messages. Each divides the next.
const FILLS: [i64; 2] = if cfg!(test) { [12, 96] } else { [1_536, 49_152] };
/// From how many messages on a sender gets milestones.
const HEAVY_MIN: i64 = if cfg!(test) { 40 } else { 4_096 };

/// A place in the order: at the message that has it, or where one would be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) instant: Instant,
    pub(crate) message_id: String,
}

/// Whose messages.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scope<'a> {
    All,
    Sender { id: i64, msisdn: &'a str },
}

impl Place {
    /// Before every message; the first milestone of each level stands here.
    pub(super) const START: Place =
        Place { instant: Instant { seconds: i64::MIN, nanoseconds: 0 }, message_id: String::new() };

    /// Before every message of this moment.
    pub(super) fn at(instant: Instant) -> Place {
        Place { instant, message_id: String::new() }
    }

    /// Right behind this one: no text is between one and the same with a NUL more.
    pub(super) fn next(&self) -> Place {
        Place { instant: self.instant, message_id: format!("{}\0", self.message_id) }
    }

    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Place> {
        let instant = Instant { seconds: row.get(0)?, nanoseconds: row.get(1)? };
        Ok(Place { instant, message_id: row.get(2)? })
    }
}

impl Scope<'_> {
    /// What `milestones.sender_id` is.
    fn id(self) -> i64 {
        match self {
            Scope::All => 0,
            Scope::Sender { id, .. } => id,
        }
    }

    /// The condition on `messages` in which `?1` is [`Scope::msisdn`].
    pub(super) fn condition(self) -> &'static str {
        match self {
            Scope::All => "?1 IS NULL",
            Scope::Sender { .. } => "from_msisdn = ?1",
        }
    }

    pub(super) fn msisdn(&self) -> Option<&str> {
        match self {
            Scope::All => None,
            Scope::Sender { msisdn, .. } => Some(msisdn),
        }
    }
}

/// How far ahead of [`add`] ids may be to be taken in.
const AHEAD: i64 = 100_000;

/// What a stranger has inserted, which is not how messages come in, but must stop nothing: it is
/// counted by the next commit.
pub(super) fn uncounted(
    transaction: &Transaction<'_>,
    last_id: i64,
) -> rusqlite::Result<Vec<(i64, Message)>> {
    transaction
        .prepare_cached(
            "SELECT message_id, from_msisdn, to_msisdn, ts, text, ts_s, ts_ns, id FROM messages
             WHERE id BETWEEN ?1 AND ?2 ORDER BY id",
        )?
        .query_map((last_id.saturating_add(1), last_id.saturating_add(AHEAD)), |row| {
            Ok((row.get(7)?, reader::message(row)?))
        })?
        .collect()
}

/// Counts messages that this transaction has inserted, the last of them with id `last_id`.
pub(super) fn add(
    transaction: &Transaction<'_>,
    created: &mut [&Message],
    last_id: i64,
) -> rusqlite::Result<()> {
    created.sort_unstable_by(|a, b| (a.instant, &a.message_id).cmp(&(b.instant, &b.message_id)));
    bump(transaction, Scope::All, created)?;
    created.sort_by(|a, b| a.from.cmp(&b.from));
    let mut new_senders = 0;
    for messages in created.chunk_by(|a, b| a.from == b.from) {
        let (msisdn, added) = (&*messages[0].from, length(messages));
        let known: Option<(i64, i64, bool)> = transaction
            .prepare_cached("SELECT id, n, is_heavy FROM senders WHERE msisdn = ?1")?
            .query_row([msisdn], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let (id, n, is_heavy) = if let Some((id, before, is_heavy)) = known {
            let n = before + added;
            transaction
                .prepare_cached("UPDATE senders SET n = ?2 WHERE id = ?1")?
                .execute((id, n))?;
            (id, n, is_heavy)
        } else {
            transaction
                .prepare_cached("INSERT INTO senders (msisdn, n) VALUES (?1, ?2)")?
                .execute((msisdn, added))?;
            new_senders += 1;
            (transaction.last_insert_rowid(), added, false)
        };
        let scope = Scope::Sender { id, msisdn };
        if is_heavy {
            bump(transaction, scope, messages)?;
        } else if n >= HEAVY_MIN {
            transaction
                .prepare_cached("UPDATE senders SET is_heavy = 1 WHERE id = ?1")?
                .execute([id])?;
            lay(transaction, scope, &mut |_| ())?;
        }
    }
    transaction
        .prepare_cached(
            "UPDATE totals SET messages = messages + ?1, senders = senders + ?2, last_id = ?3",
        )?
        .execute((length(created), new_senders, last_id))?;
    Ok(())
}

fn length(messages: &[&Message]) -> i64 {
    i64::try_from(messages.len()).unwrap_or(i64::MAX)
}

/// Adds messages, in their order, to the milestones that they lie behind.
fn bump(
    transaction: &Transaction<'_>,
    scope: Scope<'_>,
    messages: &[&Message],
) -> rusqlite::Result<()> {
    let behind = |level, message: &Message| {
        at_or_before(transaction, scope, level, message.instant, &message.message_id)?
            .ok_or(rusqlite::Error::QueryReturnedNoRows)
    };
    let Some(last) = messages.last() else { return Ok(()) };
    for level in [1, 2] {
        let (end, _) = behind(level, last)?;
        let mut rest = messages;
        let mut next = behind(level, messages[0])?;
        while !rest.is_empty() {
            let (place, n) = next.clone();
            // Mostly all are behind one, the last of all.
            let mut inside = if place == end { rest.len() } else { 1 };
            while inside < rest.len() {
                next = behind(level, rest[inside])?;
                if next.0 != place {
                    break;
                }
                inside += 1;
            }
            let n = n + length(&rest[..inside]);
            hold(transaction, scope, level, &place, n)?;
            split(transaction, scope, level, &place, n)?;
            rest = &rest[inside..];
        }
    }
    Ok(())
}

/// The milestone that a place lies behind, and how many it holds.
fn at_or_before(
    transaction: &Transaction<'_>,
    scope: Scope<'_>,
    level: u8,
    instant: Instant,
    message_id: &str,
) -> rusqlite::Result<Option<(Place, i64)>> {
    transaction
        .prepare_cached(
            "SELECT ts_s, ts_ns, message_id, n FROM milestones
             WHERE sender_id = ?1 AND level = ?2 AND (ts_s, ts_ns, message_id) <= (?3, ?4, ?5)
             ORDER BY ts_s DESC, ts_ns DESC, message_id DESC LIMIT 1",
        )?
        .query_row(
            params![scope.id(), level, instant.seconds, instant.nanoseconds, message_id],
            |row| Ok((Place::read(row)?, row.get(3)?)),
        )
        .optional()
}

/// Sets a new milestone about half-way behind one that holds too many, and again, until none does.
fn split(
    transaction: &Transaction<'_>,
    scope: Scope<'_>,
    level: u8,
    place: &Place,
    n: i64,
) -> rusqlite::Result<()> {
    if n <= SPANS[usize::from(level) - 1] {
        return Ok(());
    }
    let half = if level == 1 {
        message_at(transaction, scope, place, n / 2)?.map(|half| (half, n / 2))
    } else {
        half_way(transaction, scope, place, n)?
    };
    let Some((half, before)) = half else { return Ok(()) };
    hold(transaction, scope, level, place, before)?;
    set(transaction, scope, level, &half, n - before)?;
    split(transaction, scope, level, place, before)?;
    split(transaction, scope, level, &half, n - before)
}

/// Takes away the milestones at a place where no message is any more, and gives what they hold to
/// those before them.
pub(super) fn leave(
    transaction: &Transaction<'_>,
    scope: Scope<'_>,
    place: &Place,
) -> rusqlite::Result<()> {
    let mut grown = Vec::new();
    for level in [2, 1] {
        let stands = at_or_before(transaction, scope, level, place.instant, &place.message_id)?;
        let Some((_, n)) = stands.filter(|(at, _)| at == place) else { continue };
        let (sender_id, level, seconds, nanoseconds, message_id) = key(scope, level, place);
        transaction
            .prepare_cached(
                "DELETE FROM milestones
                 WHERE (sender_id, level, ts_s, ts_ns, message_id) = (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute((sender_id, level, seconds, nanoseconds, message_id))?;
        let before = at_or_before(transaction, scope, level, place.instant, &place.message_id)?;
        if let Some((before, held)) = before {
            hold(transaction, scope, level, &before, held + n)?;
            grown.push((level, before, held + n));
        }
    }
    // The first level first: of its milestones the second chooses.
    for (level, before, n) in grown.into_iter().rev() {
        split(transaction, scope, level, &before, n)?;
    }
    Ok(())
}

/// Says how many messages a milestone holds. Without RETURNING anywhere, which costs 5 µs.
fn hold(
    transaction: &Transaction<'_>,
    scope: Scope<'_>,
    level: u8,
    place: &Place,
    n: i64,
) -> rusqlite::Result<()> {
    let (sender_id, level, seconds, nanoseconds, message_id) = key(scope, level, place);
    transaction
        .prepare_cached(
            "UPDATE milestones SET n = ?6
             WHERE (sender_id, level, ts_s, ts_ns, message_id) = (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute((sender_id, level, seconds, nanoseconds, message_id, n))?;
    Ok(())
}

fn set(
    transaction: &Transaction<'_>,
    scope: Scope<'_>,
    level: u8,
    place: &Place,
    n: i64,
) -> rusqlite::Result<()> {
    let (sender_id, level, seconds, nanoseconds, message_id) = key(scope, level, place);
    transaction
        .prepare_cached(
            "INSERT INTO milestones (sender_id, level, ts_s, ts_ns, message_id, n)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute((sender_id, level, seconds, nanoseconds, message_id, n))?;
    Ok(())
}

/// The primary key of a milestone.
fn key<'a>(scope: Scope<'_>, level: u8, place: &'a Place) -> (i64, u8, i64, u32, &'a str) {
    let Place { instant, message_id } = place;
    (scope.id(), level, instant.seconds, instant.nanoseconds, message_id)
}

/// The message `offset` messages behind a place.
fn message_at(
    transaction: &Transaction<'_>,
    scope: Scope<'_>,
    place: &Place,
    offset: i64,
) -> rusqlite::Result<Option<Place>> {
    let sql = format!(
        "SELECT ts_s, ts_ns, message_id FROM messages
         WHERE {} AND (ts_s, ts_ns, message_id) >= (?2, ?3, ?4)
         ORDER BY ts_s, ts_ns, message_id LIMIT 1 OFFSET ?5",
        scope.condition()
    );
    let Place { instant, message_id } = place;
    transaction
        .prepare_cached(&sql)?
        .query_row(
            params![scope.msisdn(), instant.seconds, instant.nanoseconds, message_id, offset],
            Place::read,
        )
        .optional()
}

/// Of the `n` messages behind a milestone of the second level: the milestone of the first level in
/// their middle, and how many are before it.
fn half_way(
    transaction: &Transaction<'_>,
    scope: Scope<'_>,
    place: &Place,
    n: i64,
) -> rusqlite::Result<Option<(Place, i64)>> {
    let mut statement = transaction.prepare_cached(ALONG)?;
    let mut milestones = statement.query(key(scope, 1, place))?;
    let mut before = 0;
    while let Some(row) = milestones.next()? {
        if before >= n / 2 {
            return Ok((before < n).then_some((Place::read(row)?, before)));
        }
        before += row.get::<_, i64>(3)?;
    }
    Ok(None)
}

/// The milestones of a level from a place on.
const ALONG: &str = "SELECT ts_s, ts_ns, message_id, n FROM milestones
     WHERE sender_id = ?1 AND level = ?2 AND (ts_s, ts_ns, message_id) >= (?3, ?4, ?5)
     ORDER BY ts_s, ts_ns, message_id";

/// How many messages come before a place.
pub(super) fn rank(
    transaction: &Transaction<'_>,
    scope: Scope<'_>,
    place: &Place,
) -> rusqlite::Result<i64> {
    let Place { instant, message_id } = place;
    let (mut from, mut rank) = (Place::START, 0);
    for level in [2, 1] {
        let to = at_or_before(transaction, scope, level, *instant, message_id)?
            .map_or(Place::START, |(place, _)| place);
        rank += transaction
            .prepare_cached(
                "SELECT coalesce(sum(n), 0) FROM milestones
                 WHERE sender_id = ?1 AND level = ?2
                     AND (ts_s, ts_ns, message_id) >= (?3, ?4, ?5)
                     AND (ts_s, ts_ns, message_id) < (?6, ?7, ?8)",
            )?
            .query_row(
                params![
                    scope.id(),
                    level,
                    from.instant.seconds,
                    from.instant.nanoseconds,
                    from.message_id,
                    to.instant.seconds,
                    to.instant.nanoseconds,
                    to.message_id
                ],
                |row| row.get::<_, i64>(0),
            )?;
        from = to;
    }
    let sql = format!(
        "SELECT count(*) FROM messages
         WHERE {} AND (ts_s, ts_ns, message_id) >= (?2, ?3, ?4)
             AND (ts_s, ts_ns, message_id) < (?5, ?6, ?7)",
        scope.condition()
    );
    let walked: i64 = transaction.prepare_cached(&sql)?.query_row(
        params![
            scope.msisdn(),
            from.instant.seconds,
            from.instant.nanoseconds,
            from.message_id,
            instant.seconds,
            instant.nanoseconds,
            message_id
        ],
        |row| row.get(0),
    )?;
    Ok(rank + walked)
}

/// The milestone before the message at `offset`, and how many messages are between them.
pub(super) fn seek(
    transaction: &Transaction<'_>,
    scope: Scope<'_>,
    offset: i64,
) -> rusqlite::Result<(Place, i64)> {
    let (mut place, mut left) = (Place::START, offset);
    for level in [2, 1] {
        let mut statement = transaction.prepare_cached(ALONG)?;
        let mut milestones = statement.query(key(scope, level, &place))?;
        while let Some(row) = milestones.next()? {
            let n: i64 = row.get(3)?;
            if left < n {
                place = Place::read(row)?;
                break;
            }
            left -= n;
        }
    }
    Ok((place, left))
}

/// Forgets milestones behind which nothing is left. One of the first level stays while one of the
/// second stands at its place.
pub(super) fn prune(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("DELETE FROM milestones WHERE n = 0 AND level = 2 AND ts_s > ?1")?
        .execute([i64::MIN])?;
    transaction
        .prepare_cached(
            "DELETE FROM milestones AS lower WHERE n = 0 AND level = 1 AND ts_s > ?1
                 AND NOT EXISTS (
                     SELECT 1 FROM milestones AS upper
                     WHERE upper.sender_id = lower.sender_id AND upper.level = 2
                         AND upper.ts_s = lower.ts_s AND upper.ts_ns = lower.ts_ns
                         AND upper.message_id = lower.message_id)",
        )?
        .execute([i64::MIN])?;
    Ok(())
}

/// Counts everything anew. `progress` hears, in each step, how many more messages have been seen.
pub(super) fn rebuild(
    transaction: &Transaction<'_>,
    progress: &mut dyn FnMut(&'static str, i64),
) -> rusqlite::Result<()> {
    transaction.execute_batch("DELETE FROM milestones; DELETE FROM senders;")?;
    lay(transaction, Scope::All, &mut |seen| progress("counting", seen))?;
    transaction.execute(
        "INSERT INTO senders (msisdn, n, is_heavy)
         SELECT from_msisdn, count(*), count(*) >= ?1 FROM messages GROUP BY from_msisdn",
        [HEAVY_MIN],
    )?;
    let mut heavy = transaction.prepare("SELECT id, msisdn FROM senders WHERE is_heavy")?;
    let mut senders = heavy.query(())?;
    while let Some(row) = senders.next()? {
        let msisdn: String = row.get(1)?;
        let scope = Scope::Sender { id: row.get(0)?, msisdn: &msisdn };
        lay(transaction, scope, &mut |seen| progress("counting by sender", seen))?;
    }
    transaction.execute(
        "UPDATE totals SET
             messages = (SELECT count(*) FROM messages),
             senders = (SELECT count(*) FROM senders),
             last_id = max(last_id, (SELECT coalesce(max(id), 0) FROM messages))",
        (),
    )?;
    Ok(())
}

/// Sets all milestones along a scope's messages.
fn lay(
    transaction: &Transaction<'_>,
    scope: Scope<'_>,
    progress: &mut dyn FnMut(i64),
) -> rusqlite::Result<()> {
    let sql = format!(
        "SELECT ts_s, ts_ns, message_id FROM messages
         WHERE {} ORDER BY ts_s, ts_ns, message_id",
        scope.condition()
    );
    let mut statement = transaction.prepare(&sql)?;
    let mut messages = statement.query([scope.msisdn()])?;
    let mut standing = [(Place::START, 0), (Place::START, 0)];
    let mut seen = 0;
    while let Some(row) = messages.next()? {
        for (level, (place, n)) in (1u8..).zip(&mut standing) {
            if *n == FILLS[usize::from(level) - 1] {
                set(transaction, scope, level, place, *n)?;
                (*place, *n) = (Place::read(row)?, 0);
            }
            *n += 1;
        }
        seen += 1;
        if seen % 1_000 == 0 {
            progress(1_000);
        }
    }
    for (level, (place, n)) in (1u8..).zip(&standing) {
        set(transaction, scope, level, place, *n)?;
    }
    Ok(())
}

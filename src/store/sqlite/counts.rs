//! How many, without counting: the totals, each sender's count, and milestones along the order.
//!
//! Messages have an order, (timestamp, `message_id`), and each sender's messages have the same one.
//! A milestone stands at a place in it and holds how many messages lie between it and the next one
//! of its level. Those of the second level stand farther apart, each where one of the first level
//! stands. How many come before a place, and what stands at an offset, is then a sum over each
//! level and a short walk along an index.
//!
//! What a message adds to the totals and to its sender is counted in its own transaction. Milestones
//! come later: those who read count the newest few messages, the tail, one by one, until a commit
//! takes all of them in, which costs less than taking in each. What a DELETE takes away, by
//! whomever, is counted by triggers of the schema.
//!
//! A sender with few messages has no milestones: the walk along the index is short without.

use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::reader;
use crate::message::Message;
use crate::timestamp::Timestamp;

/// Messages that the milestones may lack. More save a commit little, and each costs every read
/// (docs/PERFORMANCE.md).
const TAIL: i64 = if cfg!(test) { 50 } else { 256 };

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
    pub(crate) timestamp: Timestamp,
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
    pub(super) const START: Place = Place {
        timestamp: Timestamp { seconds: i64::MIN, nanoseconds: 0 },
        message_id: String::new(),
    };

    /// Before every message of this moment.
    pub(super) fn at(timestamp: Timestamp) -> Place {
        Place { timestamp, message_id: String::new() }
    }

    /// Right behind this one: no text is between one and the same with a NUL more.
    pub(super) fn next(&self) -> Place {
        Place { timestamp: self.timestamp, message_id: format!("{}\0", self.message_id) }
    }

    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Place> {
        Ok(Place { timestamp: reader::timestamp(row, 0)?, message_id: reader::text(row, 2)? })
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

/// Mailslot gives ids from here on.
pub(super) const FIRST_ID: i64 = 1;
/// The condition on `messages` for those that are counted. Rows with any other id were inserted by
/// another program. The plus keeps SQLite from reading them in the order of their ids.
pub(super) const IS_COUNTED: &str = "+id BETWEEN 1 AND (SELECT last_id FROM totals)";

/// The same for walks over many messages, which take half as long again where they compare each id: they
/// do so only where another program has inserted such a row.
fn counted(transaction: &Transaction<'_>) -> rusqlite::Result<&'static str> {
    let mut others = transaction.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM messages WHERE id < 1)
             OR EXISTS (SELECT 1 FROM messages WHERE id > (SELECT last_id FROM totals))",
    )?;
    Ok(if others.query_row((), |row| row.get(0))? { IS_COUNTED } else { "TRUE" })
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
    created.sort_unstable_by(|a, b| a.from.cmp(&b.from));
    let mut new_senders = 0;
    for messages in created.chunk_by(|a, b| a.from == b.from) {
        let sender = (&messages[0].from, length(messages));
        let known = transaction
            .prepare_cached("UPDATE senders SET n = n + ?2 WHERE msisdn = ?1")?
            .execute(sender)?;
        if known == 0 {
            transaction
                .prepare_cached("INSERT INTO senders (msisdn, n) VALUES (?1, ?2)")?
                .execute(sender)?;
            new_senders += 1;
        }
    }
    transaction
        .prepare_cached(
            "UPDATE totals SET messages = messages + ?1, senders = senders + ?2, last_id = ?3",
        )?
        .execute((length(created), new_senders, last_id))?;
    let tail: i64 = transaction
        .prepare_cached("SELECT last_id - counted_id FROM totals")?
        .query_row((), |row| row.get(0))?;
    if tail >= TAIL { take_in(transaction) } else { Ok(()) }
}

/// Has the milestones count the tail.
pub(super) fn take_in(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let mut tail: Vec<(Place, String)> = transaction
        .prepare_cached(
            "SELECT ts_s, ts_ns, message_id, from_msisdn FROM totals
             CROSS JOIN messages ON id > counted_id AND id <= last_id",
        )?
        .query_map((), |row| Ok((Place::read(row)?, reader::text(row, 3)?)))?
        .collect::<rusqlite::Result<_>>()?;
    tail.sort_unstable();
    bump(transaction, Scope::All, &places(&tail))?;
    tail.sort_by(|(_, a), (_, b)| a.cmp(b));
    for messages in tail.chunk_by(|(_, a), (_, b)| a == b) {
        let msisdn = &messages[0].1;
        let sender: Option<(i64, bool, bool)> = transaction
            .prepare_cached("SELECT id, is_heavy, n >= ?2 FROM senders WHERE msisdn = ?1")?
            .query_row((msisdn, HEAVY_MIN), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let Some((id, has_milestones, is_heavy)) = sender else { continue };
        let scope = Scope::Sender { id, msisdn };
        if has_milestones {
            bump(transaction, scope, &places(messages))?;
        } else if is_heavy {
            transaction
                .prepare_cached("UPDATE senders SET is_heavy = 1 WHERE id = ?1")?
                .execute([id])?;
            lay(transaction, scope, &mut |_| ())?;
        }
    }
    transaction.prepare_cached("UPDATE totals SET counted_id = last_id")?.execute(())?;
    Ok(())
}

fn places(messages: &[(Place, String)]) -> Vec<&Place> {
    messages.iter().map(|(place, _)| place).collect()
}

fn length<T>(messages: &[T]) -> i64 {
    i64::try_from(messages.len()).unwrap_or(i64::MAX)
}

/// Adds messages, in their order, to the milestones that they lie behind.
fn bump(
    transaction: &Transaction<'_>,
    scope: Scope<'_>,
    messages: &[&Place],
) -> rusqlite::Result<()> {
    for level in [1, 2] {
        let mut rest = messages;
        while let Some(first) = rest.first() {
            let (place, n) = at_or_before(transaction, scope, level, first)?
                .ok_or(rusqlite::Error::QueryReturnedNoRows)?;
            let inside = match after(transaction, scope, level, &place)? {
                Some(end) => rest.partition_point(|message| **message < end),
                None => rest.len(),
            };
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
    place: &Place,
) -> rusqlite::Result<Option<(Place, i64)>> {
    transaction
        .prepare_cached(
            "SELECT ts_s, ts_ns, message_id, n FROM milestones
             WHERE sender_id = ?1 AND level = ?2 AND (ts_s, ts_ns, message_id) <= (?3, ?4, ?5)
             ORDER BY ts_s DESC, ts_ns DESC, message_id DESC LIMIT 1",
        )?
        .query_row(key(scope, level, place), |row| Ok((Place::read(row)?, row.get(3)?)))
        .optional()
}

/// Where the next milestone stands.
fn after(
    transaction: &Transaction<'_>,
    scope: Scope<'_>,
    level: u8,
    place: &Place,
) -> rusqlite::Result<Option<Place>> {
    transaction
        .prepare_cached(
            "SELECT ts_s, ts_ns, message_id FROM milestones
             WHERE sender_id = ?1 AND level = ?2 AND (ts_s, ts_ns, message_id) > (?3, ?4, ?5)
             ORDER BY ts_s, ts_ns, message_id LIMIT 1",
        )?
        .query_row(key(scope, level, place), Place::read)
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
        let stands = at_or_before(transaction, scope, level, place)?;
        let Some((_, n)) = stands.filter(|(at, _)| at == place) else { continue };
        let (sender_id, level, seconds, nanoseconds, message_id) = key(scope, level, place);
        transaction
            .prepare_cached(
                "DELETE FROM milestones
                 WHERE (sender_id, level, ts_s, ts_ns, message_id) = (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute((sender_id, level, seconds, nanoseconds, message_id))?;
        if let Some((before, held)) = at_or_before(transaction, scope, level, place)? {
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

/// Where one stands already, the two become one. That can be only after a stranger has brought more
/// to be counted than there is, and then it is no reason to stop.
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
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT DO UPDATE SET n = n + excluded.n",
        )?
        .execute((sender_id, level, seconds, nanoseconds, message_id, n))?;
    Ok(())
}

/// The primary key of a milestone.
fn key<'a>(scope: Scope<'_>, level: u8, place: &'a Place) -> (i64, u8, i64, u32, &'a str) {
    let Place { timestamp, message_id } = place;
    (scope.id(), level, timestamp.seconds, timestamp.nanoseconds, message_id)
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
         WHERE {} AND (ts_s, ts_ns, message_id) >= (?2, ?3, ?4) AND {IS_COUNTED}
         ORDER BY ts_s, ts_ns, message_id LIMIT 1 OFFSET ?5",
        scope.condition()
    );
    let Place { timestamp, message_id } = place;
    transaction
        .prepare_cached(&sql)?
        .query_row(
            params![scope.msisdn(), timestamp.seconds, timestamp.nanoseconds, message_id, offset],
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

/// The order of somebody's messages, at one moment.
pub(super) struct Line<'a> {
    transaction: &'a Transaction<'a>,
    pub(super) scope: Scope<'a>,
    /// The condition on `messages` for those of its scope that are counted.
    pub(super) condition: String,
    /// Where those are that the milestones lack, in order.
    tail: Vec<Place>,
}

impl<'a> Line<'a> {
    pub(super) fn open(
        transaction: &'a Transaction<'a>,
        scope: Scope<'a>,
    ) -> rusqlite::Result<Line<'a>> {
        // Not by the sender's index, which leads to all messages of theirs.
        let sql = format!(
            "SELECT ts_s, ts_ns, message_id FROM totals
             CROSS JOIN messages NOT INDEXED ON id > counted_id AND id <= last_id
             WHERE {}",
            scope.condition()
        );
        let mut tail: Vec<Place> = transaction
            .prepare_cached(&sql)?
            .query_map([scope.msisdn()], Place::read)?
            .collect::<rusqlite::Result<_>>()?;
        tail.sort_unstable();
        let condition = format!("{} AND {}", scope.condition(), counted(transaction)?);
        Ok(Line { transaction, scope, condition, tail })
    }

    /// How many messages come before a place.
    pub(super) fn rank(&self, place: &Place) -> rusqlite::Result<i64> {
        let (mut from, mut rank) = (Place::START, 0);
        for level in [2, 1] {
            let to = at_or_before(self.transaction, self.scope, level, place)?
                .map_or(Place::START, |(to, _)| to);
            rank += self.held(level, &from, &to)?;
            from = to;
        }
        let sql = format!(
            "SELECT count(*) FROM messages
             WHERE {} AND (ts_s, ts_ns, message_id) >= (?2, ?3, ?4)
                 AND (ts_s, ts_ns, message_id) < (?5, ?6, ?7)",
            self.condition
        );
        let walked: i64 = self.transaction.prepare_cached(&sql)?.query_row(
            params![
                self.scope.msisdn(),
                from.timestamp.seconds,
                from.timestamp.nanoseconds,
                from.message_id,
                place.timestamp.seconds,
                place.timestamp.nanoseconds,
                place.message_id
            ],
            |row| row.get(0),
        )?;
        Ok(rank + self.lacking(&from) + walked)
    }

    /// A milestone before the message at `offset`, and how many messages are between them.
    pub(super) fn seek(&self, offset: i64) -> rusqlite::Result<(Place, i64)> {
        let (mut place, mut held) = (Place::START, 0);
        for level in [2, 1] {
            let mut statement = self.transaction.prepare_cached(ALONG)?;
            let mut milestones = statement.query(key(self.scope, level, &place))?;
            let mut before = held;
            while let Some(row) = milestones.next()? {
                let at = Place::read(row)?;
                if before + self.lacking(&at) > offset {
                    break;
                }
                (place, held) = (at, before);
                before += row.get::<_, i64>(3)?;
            }
        }
        let left = offset - held - self.lacking(&place);
        Ok((place, left))
    }

    /// How many messages milestones of a level hold from one place to another.
    fn held(&self, level: u8, from: &Place, to: &Place) -> rusqlite::Result<i64> {
        let mut statement = self.transaction.prepare_cached(
            "SELECT coalesce(sum(n), 0) FROM milestones
             WHERE sender_id = ?1 AND level = ?2
                 AND (ts_s, ts_ns, message_id) >= (?3, ?4, ?5)
                 AND (ts_s, ts_ns, message_id) < (?6, ?7, ?8)",
        )?;
        let (sender_id, level, seconds, nanoseconds, message_id) = key(self.scope, level, from);
        let Place { timestamp: end, message_id: end_id } = to;
        let span = (
            sender_id,
            level,
            seconds,
            nanoseconds,
            message_id,
            end.seconds,
            end.nanoseconds,
            end_id,
        );
        statement.query_row(span, |row| row.get(0))
    }

    /// How many of the tail come before a place.
    fn lacking(&self, place: &Place) -> i64 {
        length(&self.tail[..self.tail.partition_point(|other| other < place)])
    }
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
    transaction.execute(
        "UPDATE totals SET last_id = max(last_id, (SELECT coalesce(max(id), 0) FROM messages))",
        (),
    )?;
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
             counted_id = last_id",
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
         WHERE {} AND {IS_COUNTED} ORDER BY ts_s, ts_ns, message_id",
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

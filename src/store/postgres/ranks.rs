//! How many messages come before a position, and which second has the message at an offset, by sums
//! of counts (counts.rs) and a short walk along an index.

use std::borrow::Cow;

use super::{
    classes::{self, Meant},
    counts::YEAR_ONE,
    failure::Failure,
    snapshot::Snapshot,
    text::encode,
    values::{Statement, Value},
};
use crate::{
    metrics::Label,
    store::types::{Filter, Position},
};

/// The condition on messages for those of a sender `$1`, a receiver `$2`, a source `$3` and a kind
/// `$4`, where they are not null. It keeps the server from finding the messages by them: an index
/// leads to all that there are, while those behind the watermark and those of one second are few.
macro_rules! is_meant {
    () => {
        "($1::text IS NULL OR from_msisdn || '' = $1) AND ($2::text IS NULL OR to_msisdn || '' = $2)
         AND ($3::text IS NULL OR source || '' = $3) AND ($4::text IS NULL OR kind || '' = $4)"
    };
}
pub(super) use is_meant;

/// The condition on messages for those of a sender `$1`, of a receiver `$2`, or for all of them. An
/// index finds them by it.
macro_rules! is_of_party {
    () => {
        "($1::text IS NULL OR from_msisdn = $1) AND ($2::text IS NULL OR to_msisdn = $2)"
    };
}

/// What a row of counts adds to those that are asked for: where all messages are among them, the
/// others are left out.
macro_rules! summand {
    ($ids:literal) => {
        concat!("CASE WHEN 0 = ANY (", $ids, ") AND group_id <> 0 THEN -n ELSE n END")
    };
}
pub(super) use summand;

/// The counts of the main receiver: all messages without those to others (schema/tables.sql).
const MAIN_RECEIVER: [i64; 2] = [0, -1];

/// The messages of a filter's sender, or of its receiver, of its classes, or all messages, at the
/// moment of a snapshot.
#[derive(Debug)]
pub(super) struct Ranks<'a> {
    from: Option<&'a str>,
    /// Where there is no sender.
    to: Option<&'a str>,
    /// The source and the kind of the classes, where they are not all that there are.
    source: Option<&'a str>,
    kind: Option<Cow<'a, str>>,
    classes: Option<Meant>,
    /// Whose counts are read: 0 stands for all messages. `None` for a party with few messages.
    counts_of: Option<Vec<i64>>,
    /// The watermark.
    counted_id: i64,
    /// How many messages there are.
    pub(super) total: i64,
}

impl<'a> Ranks<'a> {
    pub(super) fn open(
        snapshot: &mut Snapshot<'_>,
        filter: &'a Filter,
    ) -> Result<Ranks<'a>, Failure> {
        let names_class = filter.source.is_some() || filter.kind.is_some();
        if names_class && !is_search(filter) {
            return Ranks::of_classes(snapshot, filter);
        }
        let sql = concat!(
            "SELECT counted_id,
                CASE WHEN coalesce($1, $2) IS NULL THEN messages ELSE coalesce(n, 0) END
                    + (SELECT count(*) FROM mailslot.messages WHERE messages.id > counted_id AND ",
            is_meant!(),
            "), CASE WHEN coalesce($1, $2) IS NULL THEN 0 WHEN is_heavy THEN parties.id END,
                coalesce($1 IS NULL AND $2 = main_receiver, false)
            FROM mailslot.totals LEFT JOIN mailslot.parties
                ON msisdn = coalesce($1, $2) AND is_receiver = ($1 IS NULL)"
        );
        let from = filter.from.as_deref();
        let to = if from.is_none() { filter.to.as_deref() } else { None };
        let rows = snapshot.ask(sql, &[optional(from), optional(to), Value::Null, Value::Null])?;
        let row = rows.one()?;
        let (counted_id, total) = (row.integer(0)?, row.integer(1)?);
        let of_group = row.optional_integer(2)?.map(|id| vec![id]);
        let counts_of = if row.boolean(3)? { Some(MAIN_RECEIVER.to_vec()) } else { of_group };
        let (source, kind, classes) = (None, None, None);
        Ok(Ranks { from, to, source, kind, classes, counts_of, counted_id, total })
    }

    fn of_classes(snapshot: &mut Snapshot<'_>, filter: &'a Filter) -> Result<Ranks<'a>, Failure> {
        let classes::Found { counted_id, total, classes } = classes::find(snapshot, filter)?;
        let counts_of = classes.as_ref().map_or(vec![0], |meant| meant.counts_of.clone());
        let (source, kind) = match &classes {
            Some(_) => (filter.source.map(Label::value), filter.kind.as_deref().map(encode)),
            None => (None, None),
        };
        let counts_of = Some(counts_of);
        Ok(Ranks { from: None, to: None, source, kind, classes, counts_of, counted_id, total })
    }

    /// `$1` to `$4` of most statements: the sender, the receiver, the source and the kind, or null.
    pub(super) fn meant(&self) -> [Value<'_>; 4] {
        [self.from, self.to, self.source, self.kind.as_deref()].map(optional)
    }

    /// The sender or the receiver, and the column that names it.
    pub(super) fn party(&self) -> Option<(&'static str, &'a str)> {
        let sender = self.from.map(|from| ("from_msisdn", from));
        sender.or_else(|| self.to.map(|to| ("to_msisdn", to)))
    }

    pub(super) fn watermark(&self) -> Value<'_> {
        Value::Integer(self.counted_id)
    }

    /// The classes, where they are not all that there are.
    pub(super) fn classes(&self) -> Option<&Meant> {
        self.classes.as_ref()
    }

    /// Whose counts are read: 0 stands for all messages. `None` for a party with few messages.
    pub(super) fn counts_of(&self) -> Option<Value<'_>> {
        self.counts_of.as_deref().map(Value::Integers)
    }

    /// How many messages come before each of some positions.
    pub(super) fn before(
        &self,
        snapshot: &mut Snapshot<'_>,
        positions: &[&Position],
    ) -> Result<Vec<i64>, Failure> {
        if positions.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<_> = positions.iter().map(|at| encode(&at.message_id)).collect();
        let values: Vec<_> = (positions.iter().zip(&ids))
            .map(|(at, id)| {
                let [seconds, nanoseconds, id] = position_values(at, id);
                let since = at.timestamp.seconds.saturating_add(YEAR_ONE);
                let [from, to, source, kind] = self.meant();
                let Some(counts_of) = self.counts_of() else {
                    return vec![from, to, seconds, nanoseconds, id];
                };
                let (watermark, since) = (self.watermark(), Value::Integer(since));
                let at = [seconds, nanoseconds, id, watermark, counts_of, since];
                [&[from, to, source, kind], &at[..]].concat()
            })
            .collect();
        let sql = if self.counts_of.is_some() { COUNTED } else { WALKED };
        let statements: Vec<_> = values.iter().map(|values| Statement::new(sql, values)).collect();
        let rows = snapshot.run(&statements)?;
        rows.iter().map(|rows| rows.one()?.integer(0)).collect()
    }

    /// A second, and how many of its messages come before the one at `offset`; `None` where a walk
    /// from the first message is as short.
    pub(super) fn seek(
        &self,
        snapshot: &mut Snapshot<'_>,
        offset: i64,
    ) -> Result<Option<(i64, i64)>, Failure> {
        let Some(counts_of) = self.counts_of() else { return Ok(None) };
        // From the widest counts to those of a second: those of the part that has the offset.
        let sql = concat!(
            "WITH RECURSIVE tail AS MATERIALIZED (
                SELECT ts_s + 62135596800 AS second FROM mailslot.messages
                WHERE id > $5 AND ",
            is_meant!(),
            "), levels (level, seconds, parts) AS (
                VALUES (5, 5529600::bigint, 0::bigint), (4, 86400, 64), (3, 3600, 24),
                    (2, 60, 60), (1, 1, 60)
            ), walk (level, bucket, rest) AS (
                SELECT 6, 0::bigint, $7::bigint
                UNION ALL
                SELECT step.level, step.bucket, walk.rest - step.before
                FROM walk JOIN levels ON levels.level = walk.level - 1 CROSS JOIN LATERAL (
                    SELECT levels.level, bucket, n,
                        (sum(n) OVER (ORDER BY bucket) - n)::bigint AS before
                    FROM (
                        SELECT bucket, sum(n)::bigint AS n FROM (
                            SELECT bucket, ",
            summand!("$6"),
            " AS n FROM mailslot.counts
                            WHERE group_id = ANY ($6) AND counts.level = levels.level AND parts = 0
                            UNION ALL
                            SELECT bucket, ",
            summand!("$6"),
            " FROM mailslot.counts
                            WHERE group_id = ANY ($6) AND counts.level = levels.level AND parts > 0
                                AND bucket >= walk.bucket * parts
                                AND bucket < (walk.bucket + 1) * parts
                            UNION ALL
                            SELECT second / seconds, count(*) FROM tail
                            WHERE parts = 0 OR second / (seconds * parts) = walk.bucket
                            GROUP BY 1) AS summands
                        GROUP BY bucket) AS summed) AS step
                WHERE step.before <= walk.rest AND walk.rest < step.before + step.n
            )
            SELECT bucket - 62135596800, rest FROM walk WHERE level = 1"
        );
        let at = [self.watermark(), counts_of, Value::Integer(offset)];
        let rows = snapshot.ask(sql, &[&self.meant(), &at[..]].concat())?;
        let row = rows.iter().next();
        row.map(|row| Ok((row.integer(0)?, row.integer(1)?))).transpose()
    }
}

/// How many messages come before a position: `$5`, `$6` and `$7`, and `$10` are its seconds since
/// the year 1. Where there are counts: `$9` says whose, `$8` up to which id.
const COUNTED: &str = concat!(
    "SELECT (
        SELECT coalesce(sum(",
    summand!("$9"),
    "), 0)::bigint FROM mailslot.counts WHERE group_id = ANY ($9) AND (
            level = 5 AND bucket < $10 / 5529600
            OR level = 4 AND bucket >= $10 / 5529600 * 64 AND bucket < $10 / 86400
            OR level = 3 AND bucket >= $10 / 86400 * 24 AND bucket < $10 / 3600
            OR level = 2 AND bucket >= $10 / 3600 * 60 AND bucket < $10 / 60
            OR level = 1 AND bucket >= $10 / 60 * 60 AND bucket < $10)
    ) + (
        SELECT count(*) FROM mailslot.messages
        WHERE ts_s >= $5
            AND (ts_s, ts_ns, left(message_id, 256), message_id) < ($5, $6, left($7, 256), $7)
            AND ",
    is_of_party!(),
    " AND ",
    is_meant!(),
    ") + (
        SELECT count(*) FROM mailslot.messages WHERE id > $8 AND ts_s + 0 < $5 AND ",
    is_meant!(),
    ")"
);

/// The same without counts. The first part reads an index alone.
const WALKED: &str = concat!(
    "SELECT (
        SELECT count(*) FROM mailslot.messages WHERE (ts_s, ts_ns) < ($3, $4) AND ",
    is_of_party!(),
    ") + (
        SELECT count(*) FROM mailslot.messages
        WHERE (ts_s, ts_ns) >= ($3, $4)
            AND (ts_s, ts_ns, left(message_id, 256), message_id) < ($3, $4, left($5, 256), $5)
            AND ",
    is_of_party!(),
    ")"
);

/// Whether messages have to be looked at: more decides which of them match than the time and one of
/// the sender, the receiver and the class.
pub(super) fn is_search(filter: &Filter) -> bool {
    let Filter { message_id, from, from_prefix, to, q, source, kind, .. } = filter;
    let groups = [from.is_some(), to.is_some(), source.is_some() || kind.is_some()];
    [message_id, from_prefix, q].into_iter().any(Option::is_some)
        || groups.into_iter().filter(|is_named| *is_named).count() > 1
}

pub(super) fn optional(text: Option<&str>) -> Value<'_> {
    text.map_or(Value::Null, Value::Text)
}

/// The values of a position. `id` is its encoded `message_id`.
pub(super) fn position_values<'a>(position: &Position, id: &'a str) -> [Value<'a>; 3] {
    let timestamp = position.timestamp;
    [
        Value::Integer(timestamp.seconds),
        Value::Integer(i64::from(timestamp.nanoseconds)),
        Value::Text(id),
    ]
}

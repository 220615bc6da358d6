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

/// The condition on messages for those of a sender `$1`, a source `$2` and a kind `$3`, where they
/// are not null. It keeps the server from finding the messages by them: an index leads to all that
/// there are, while those behind the watermark and those of one second are few.
macro_rules! is_meant {
    () => {
        "($1::text IS NULL OR from_msisdn || '' = $1) AND ($2::text IS NULL OR source || '' = $2)
         AND ($3::text IS NULL OR kind || '' = $3)"
    };
}
pub(super) use is_meant;

/// What a row of counts adds to those that are asked for: where all messages are among them, the
/// others are classes that are left out.
macro_rules! summand {
    ($ids:literal) => {
        concat!("CASE WHEN 0 = ANY (", $ids, ") AND sender_id <> 0 THEN -n ELSE n END")
    };
}
pub(super) use summand;

/// The messages of a filter's sender, of its classes, or all messages, at the moment of a snapshot.
#[derive(Debug)]
pub(super) struct Ranks<'a> {
    msisdn: Option<&'a str>,
    /// The source and the kind of the classes, where they are not all that there are.
    source: Option<&'a str>,
    kind: Option<Cow<'a, str>>,
    classes: Option<Meant>,
    /// Whose counts are read: 0 stands for all messages. `None` for a sender with few messages.
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
        // The tail must not be found by the sender's index, which leads to all of its messages.
        let sql = "
            SELECT counted_id, CASE WHEN $1::text IS NULL THEN messages ELSE coalesce(n, 0) END
                + (SELECT count(*) FROM mailslot.messages AS tail WHERE tail.id > counted_id
                       AND ($1::text IS NULL OR from_msisdn || '' = $1)),
                CASE WHEN $1::text IS NULL THEN 0 WHEN is_heavy THEN id END
            FROM mailslot.totals LEFT JOIN mailslot.senders ON msisdn = $1";
        let msisdn = filter.from.as_deref();
        let rows = snapshot.ask(sql, &[optional(msisdn)])?;
        let row = rows.one()?;
        let (counted_id, total) = (row.integer(0)?, row.integer(1)?);
        let counts_of = row.optional_integer(2)?.map(|id| vec![id]);
        let (source, kind, classes) = (None, None, None);
        Ok(Ranks { msisdn, source, kind, classes, counts_of, counted_id, total })
    }

    fn of_classes(snapshot: &mut Snapshot<'_>, filter: &'a Filter) -> Result<Ranks<'a>, Failure> {
        let classes::Found { counted_id, total, classes } = classes::find(snapshot, filter)?;
        let counts_of = classes.as_ref().map_or(vec![0], |meant| meant.counts_of.clone());
        let (source, kind) = match &classes {
            Some(_) => (filter.source.map(Label::value), filter.kind.as_deref().map(encode)),
            None => (None, None),
        };
        let counts_of = Some(counts_of);
        Ok(Ranks { msisdn: None, source, kind, classes, counts_of, counted_id, total })
    }

    /// `$1` to `$3` of most statements: the sender, the source and the kind, or null.
    pub(super) fn meant(&self) -> [Value<'_>; 3] {
        [self.msisdn, self.source, self.kind.as_deref()].map(optional)
    }

    pub(super) fn watermark(&self) -> Value<'_> {
        Value::Integer(self.counted_id)
    }

    /// The classes, where they are not all that there are.
    pub(super) fn classes(&self) -> Option<&Meant> {
        self.classes.as_ref()
    }

    /// Whose counts are read: 0 stands for all messages. `None` for a sender with few messages.
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
                let [from, source, kind] = self.meant();
                let Some(counts_of) = self.counts_of() else {
                    return vec![from, seconds, nanoseconds, id];
                };
                let (watermark, since) = (self.watermark(), Value::Integer(since));
                let at = [seconds, nanoseconds, id, watermark, counts_of, since];
                [&[from, source, kind], &at[..]].concat()
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
                WHERE id > $4 AND ",
            is_meant!(),
            "), levels (level, seconds, parts) AS (
                VALUES (5, 5529600::bigint, 0::bigint), (4, 86400, 64), (3, 3600, 24),
                    (2, 60, 60), (1, 1, 60)
            ), walk (level, bucket, rest) AS (
                SELECT 6, 0::bigint, $6::bigint
                UNION ALL
                SELECT step.level, step.bucket, walk.rest - step.before
                FROM walk JOIN levels ON levels.level = walk.level - 1 CROSS JOIN LATERAL (
                    SELECT levels.level, bucket, n,
                        (sum(n) OVER (ORDER BY bucket) - n)::bigint AS before
                    FROM (
                        SELECT bucket, sum(n)::bigint AS n FROM (
                            SELECT bucket, ",
            summand!("$5"),
            " AS n FROM mailslot.counts
                            WHERE sender_id = ANY ($5) AND counts.level = levels.level AND parts = 0
                            UNION ALL
                            SELECT bucket, ",
            summand!("$5"),
            " FROM mailslot.counts
                            WHERE sender_id = ANY ($5) AND counts.level = levels.level AND parts > 0
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
        let [from, source, kind] = self.meant();
        let (watermark, offset) = (self.watermark(), Value::Integer(offset));
        let values = [from, source, kind, watermark, counts_of, offset];
        let rows = snapshot.ask(sql, &values)?;
        let row = rows.iter().next();
        row.map(|row| Ok((row.integer(0)?, row.integer(1)?))).transpose()
    }
}

/// How many messages come before a position: `$4`, `$5` and `$6`, and `$9` are its seconds since
/// the year 1. Where there are counts: `$8` says whose, `$7` up to which id.
const COUNTED: &str = concat!(
    "SELECT (
        SELECT coalesce(sum(",
    summand!("$8"),
    "), 0)::bigint FROM mailslot.counts WHERE sender_id = ANY ($8) AND (
            level = 5 AND bucket < $9 / 5529600
            OR level = 4 AND bucket >= $9 / 5529600 * 64 AND bucket < $9 / 86400
            OR level = 3 AND bucket >= $9 / 86400 * 24 AND bucket < $9 / 3600
            OR level = 2 AND bucket >= $9 / 3600 * 60 AND bucket < $9 / 60
            OR level = 1 AND bucket >= $9 / 60 * 60 AND bucket < $9)
    ) + (
        SELECT count(*) FROM mailslot.messages
        WHERE ($1::text IS NULL OR from_msisdn = $1) AND ts_s >= $4
            AND (ts_s, ts_ns, left(message_id, 256), message_id) < ($4, $5, left($6, 256), $6)
            AND ",
    is_meant!(),
    ") + (
        SELECT count(*) FROM mailslot.messages WHERE id > $7 AND ts_s + 0 < $4 AND ",
    is_meant!(),
    ")"
);

/// The same without counts. The first part reads an index alone.
const WALKED: &str = "
    SELECT (
        SELECT count(*) FROM mailslot.messages
        WHERE from_msisdn = $1 AND (ts_s, ts_ns) < ($2, $3)
    ) + (
        SELECT count(*) FROM mailslot.messages
        WHERE from_msisdn = $1 AND (ts_s, ts_ns) >= ($2, $3)
            AND (ts_s, ts_ns, left(message_id, 256), message_id) < ($2, $3, left($4, 256), $4)
    )";

/// Whether messages have to be looked at: more decides which of them match than the time and either
/// the sender or the class.
pub(super) fn is_search(filter: &Filter) -> bool {
    let Filter { message_id, from, from_prefix, to, q, source, kind, .. } = filter;
    let names_class = source.is_some() || kind.is_some();
    [message_id, from_prefix, to, q].into_iter().any(Option::is_some)
        || from.is_some() && names_class
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

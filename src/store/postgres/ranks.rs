//! How many messages come before a position, and which second has the message at an offset, by sums
//! of counts (counts.rs) and a short walk along an index.

use super::{
    counts::YEAR_ONE,
    failure::Failure,
    snapshot::Snapshot,
    text::encode,
    values::{Statement, Value},
};
use crate::store::types::{Filter, Position};

/// The messages of a filter's sender, or all messages, at the moment of a snapshot.
#[derive(Debug)]
pub(super) struct Ranks<'a> {
    msisdn: Option<&'a str>,
    /// Whose counts are read: 0 stands for all senders. `None` for a sender with few messages.
    counts_of: Option<i64>,
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
        Ok(Ranks { msisdn, counts_of: row.optional_integer(2)?, counted_id, total })
    }

    /// `$1` of every statement: the sender, or null.
    pub(super) fn msisdn(&self) -> Value<'a> {
        optional(self.msisdn)
    }

    /// Whose counts are read: 0 stands for all senders. `None` for a sender with few messages.
    pub(super) fn counts_of(&self) -> Option<i64> {
        self.counts_of
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
                let sender = self.counts_of.map_or(Value::Null, Value::Integer);
                let watermark = Value::Integer(self.counted_id);
                let since = Value::Integer(since);
                [self.msisdn(), seconds, nanoseconds, id, watermark, sender, since]
            })
            .collect();
        let (sql, used) = if self.counts_of.is_some() { (COUNTED, 7) } else { (WALKED, 4) };
        let statements: Vec<_> =
            values.iter().map(|values| Statement::new(sql, &values[..used])).collect();
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
        let Some(counts_of) = self.counts_of else { return Ok(None) };
        // From the widest counts to those of a second: those of the part that has the offset.
        let sql = "
            WITH RECURSIVE tail AS MATERIALIZED (
                SELECT ts_s + 62135596800 AS second FROM mailslot.messages
                WHERE id > $2 AND ($1::text IS NULL OR from_msisdn || '' = $1)
            ), levels (level, seconds, parts) AS (
                VALUES (5, 5529600::bigint, 0::bigint), (4, 86400, 64), (3, 3600, 24),
                    (2, 60, 60), (1, 1, 60)
            ), walk (level, bucket, rest) AS (
                SELECT 6, 0::bigint, $4::bigint
                UNION ALL
                SELECT step.level, step.bucket, walk.rest - step.before
                FROM walk JOIN levels ON levels.level = walk.level - 1 CROSS JOIN LATERAL (
                    SELECT levels.level, bucket, n,
                        (sum(n) OVER (ORDER BY bucket) - n)::bigint AS before
                    FROM (
                        SELECT bucket, sum(n)::bigint AS n FROM (
                            SELECT bucket, n FROM mailslot.counts
                            WHERE sender_id = $3 AND counts.level = levels.level AND parts = 0
                            UNION ALL
                            SELECT bucket, n FROM mailslot.counts
                            WHERE sender_id = $3 AND counts.level = levels.level AND parts > 0
                                AND bucket >= walk.bucket * parts
                                AND bucket < (walk.bucket + 1) * parts
                            UNION ALL
                            SELECT second / seconds, count(*) FROM tail
                            WHERE parts = 0 OR second / (seconds * parts) = walk.bucket
                            GROUP BY 1) AS summands
                        GROUP BY bucket) AS summed) AS step
                WHERE step.before <= walk.rest AND walk.rest < step.before + step.n
            )
            SELECT bucket - 62135596800, rest FROM walk WHERE level = 1";
        let watermark = Value::Integer(self.counted_id);
        let values = [self.msisdn(), watermark, Value::Integer(counts_of), Value::Integer(offset)];
        let rows = snapshot.ask(sql, &values)?;
        let row = rows.iter().next();
        row.map(|row| Ok((row.integer(0)?, row.integer(1)?))).transpose()
    }
}

/// How many messages come before a position: `$2`, `$3` and `$4`, and `$7` are its seconds since
/// the year 1. Where there are counts: `$6` says whose, `$5` up to which id.
const COUNTED: &str = "
    SELECT (
        SELECT coalesce(sum(n), 0)::bigint FROM mailslot.counts WHERE sender_id = $6 AND (
            level = 5 AND bucket < $7 / 5529600
            OR level = 4 AND bucket >= $7 / 5529600 * 64 AND bucket < $7 / 86400
            OR level = 3 AND bucket >= $7 / 86400 * 24 AND bucket < $7 / 3600
            OR level = 2 AND bucket >= $7 / 3600 * 60 AND bucket < $7 / 60
            OR level = 1 AND bucket >= $7 / 60 * 60 AND bucket < $7)
    ) + (
        SELECT count(*) FROM mailslot.messages
        WHERE ($1::text IS NULL OR from_msisdn = $1) AND ts_s >= $2
            AND (ts_s, ts_ns, left(message_id, 256), message_id) < ($2, $3, left($4, 256), $4)
    ) + (
        SELECT count(*) FROM mailslot.messages
        WHERE id > $5 AND ($1::text IS NULL OR from_msisdn || '' = $1) AND ts_s < $2
    )";

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

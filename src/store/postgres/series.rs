//! When messages were sent and stored: how many in each span of time, the earliest, and those
//! around a moment.

use std::collections::HashMap;

use super::{
    counts::YEAR_ONE,
    failure::Failure,
    ranks::{Ranks, is_meant, is_search, summand},
    reader::{FEW, Reader},
    rows,
    search::Conditions,
    snapshot::Snapshot,
    values::{Rows, Statement, Value},
};
use crate::{
    error::Error,
    store::types::{Filter, Position},
    timestamp::Timestamp,
};

/// The levels of counts that are spans of a series.
const SPANS: [(i64, i64); 3] = [(2, 60), (3, 3_600), (4, 86_400)];

impl Reader {
    pub(crate) fn oldest(&mut self) -> Result<Option<Timestamp>, Error> {
        let sql = "SELECT ts_s, ts_ns FROM mailslot.messages ORDER BY ts_s, ts_ns LIMIT 1";
        let rows = self.ask(sql, &[])?;
        Ok(rows.iter().next().map(|row| rows::timestamp(row, 0)).transpose()?)
    }

    /// Ids follow the order in which messages were stored, so half of them are ruled out in each
    /// step; where the clock was set back, what is found is one such gap of several.
    pub(crate) fn stored_around(
        &mut self,
        moment: Timestamp,
    ) -> Result<(Option<Timestamp>, Option<Timestamp>), Error> {
        let sql = "
            WITH RECURSIVE walk (before, last) AS (
                SELECT 0::bigint, coalesce((SELECT max(id) FROM mailslot.messages), 0)
                UNION ALL
                SELECT CASE WHEN found.is_before THEN found.id ELSE before END,
                    CASE WHEN found.is_before THEN last ELSE middle - 1 END
                FROM walk CROSS JOIN LATERAL (SELECT before + (last - before + 1) / 2 AS middle)
                    AS half
                LEFT JOIN LATERAL (
                    SELECT id, created_at <= to_timestamp($1) AS is_before
                    FROM mailslot.messages WHERE id >= middle ORDER BY id LIMIT 1
                ) AS found ON true
                WHERE before < last
            ), around AS (SELECT max(before) AS before FROM walk)
            SELECT (SELECT floor(extract(epoch FROM created_at))::bigint
                    FROM mailslot.messages WHERE id = before),
                (SELECT floor(extract(epoch FROM created_at))::bigint
                 FROM mailslot.messages WHERE id > before ORDER BY id LIMIT 1)
            FROM around";
        let rows = self.ask(sql, &[Value::Integer(moment.seconds)])?;
        let row = rows.one()?;
        let stored = |column| -> Result<_, Failure> {
            Ok(row.optional_integer(column)?.map(Timestamp::from))
        };
        Ok((stored(0)?, stored(1)?))
    }

    pub(crate) fn series(
        &mut self,
        filter: &Filter,
        bounds: &[Timestamp],
    ) -> Result<Vec<i64>, Error> {
        self.answer(filter, |snapshot| {
            let ranks = Ranks::open(snapshot, filter)?;
            match ranks.counts_of() {
                Some(counts_of) if !is_search(filter) => {
                    counted(snapshot, &ranks, &counts_of, bounds)
                }
                _ => read(snapshot, filter, ranks.total <= FEW, bounds),
            }
        })
    }
}

/// Reads every message that matches.
fn read(
    snapshot: &mut Snapshot<'_>,
    filter: &Filter,
    is_few: bool,
    bounds: &[Timestamp],
) -> Result<Vec<i64>, Failure> {
    let (Some(since), Some(until)) = (bounds.first(), bounds.last()) else {
        return Ok(Vec::new());
    };
    let filter = Filter { since: Some(*since), until: Some(*until), ..filter.clone() };
    let conditions = Conditions::of(&filter, is_few);
    let sql = format!(
        "SELECT width_bucket(ts_s * 1000000000::numeric + ts_ns, $12::text::numeric[]), count(*)
         FROM mailslot.messages WHERE {} GROUP BY 1",
        conditions.sql
    );
    let moments: Vec<String> = bounds
        .iter()
        .map(|at| (i128::from(at.seconds) * 1_000_000_000 + i128::from(at.nanoseconds)).to_string())
        .collect();
    let moments = format!("{{{}}}", moments.join(","));
    let mut values = conditions.values(&filter);
    values.push(Value::Text(&moments));
    let rows = conditions.run_last(snapshot, &sql, &values)?;
    let mut counts = vec![0; bounds.len() - 1];
    for row in rows.iter() {
        // The first bucket is 1.
        let at = usize::try_from(row.integer(0)? - 1).ok();
        if let Some(count) = at.and_then(|at| counts.get_mut(at)) {
            *count = row.integer(1)?;
        }
    }
    Ok(counts)
}

/// The spans within the first and the last one are counted already; at the ends messages before a
/// position are counted.
fn counted(
    snapshot: &mut Snapshot<'_>,
    ranks: &Ranks<'_>,
    counts_of: &Value<'_>,
    bounds: &[Timestamp],
) -> Result<Vec<i64>, Failure> {
    let positions: Vec<_> = bounds.iter().copied().map(Position::at).collect();
    let inner = bounds.get(1..bounds.len().saturating_sub(1)).unwrap_or_default();
    let ([first, second, .., before_last, last], Some((level, seconds))) =
        (&positions[..], span(inner))
    else {
        let before = ranks.before(snapshot, &positions.iter().collect::<Vec<_>>())?;
        return Ok(differences(&before));
    };
    let ends = ranks.before(snapshot, &[first, second, before_last, last])?;
    let bucket = |at: &Timestamp| (at.seconds + YEAR_ONE) / seconds;
    let (from, to) = (bucket(&inner[0]), bucket(&inner[inner.len() - 1]));
    let sql = concat!(
        "SELECT bucket, sum(",
        summand!("$4"),
        ")::bigint FROM mailslot.counts
         WHERE group_id = ANY ($4) AND level = $1 AND bucket >= $2 AND bucket < $3
         GROUP BY bucket"
    );
    // The tail must not be found by its time, which leads to all messages of the range.
    let tail = concat!(
        "SELECT (ts_s + 62135596800) / $5 AS bucket, count(*) FROM mailslot.messages
         WHERE id > $8 AND ts_s + 62135596800 >= $6 * $5 AND ts_s + 62135596800 < $7 * $5 AND ",
        is_meant!(),
        " GROUP BY 1"
    );
    let range = [Value::Integer(from), Value::Integer(to)];
    let counted = [Value::Integer(level), range[0], range[1], *counts_of];
    let tail_range = [Value::Integer(seconds), range[0], range[1], ranks.watermark()];
    let behind = [ranks.meant(), tail_range].concat();
    let rows =
        snapshot.run_last(&[Statement::new(sql, &counted), Statement::new(tail, &behind)])?;
    let mut counts: HashMap<i64, i64> = HashMap::new();
    for row in rows.iter().flat_map(Rows::iter) {
        *counts.entry(row.integer(0)?).or_default() += row.integer(1)?;
    }
    let spans = (from..to).map(|bucket| counts.get(&bucket).copied().unwrap_or_default());
    Ok([ends[1] - ends[0]].into_iter().chain(spans).chain([ends[3] - ends[2]]).collect())
}

/// The level of counts of which each span is one.
fn span(bounds: &[Timestamp]) -> Option<(i64, i64)> {
    let [first, second, ..] = bounds else { return None };
    let (level, seconds) =
        SPANS.into_iter().find(|(_, seconds)| second.seconds - first.seconds == *seconds)?;
    let is_regular = bounds.windows(2).all(|pair| pair[1].seconds - pair[0].seconds == seconds)
        && bounds.iter().all(|bound| bound.nanoseconds == 0)
        && (first.seconds + YEAR_ONE) % seconds == 0;
    is_regular.then_some((level, seconds))
}

fn differences(before: &[i64]) -> Vec<i64> {
    before.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

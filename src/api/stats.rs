//! `GET /stats` and `GET /stats/series`.

use serde::Serialize;

use super::{
    answer::{Answer, Context},
    query::{Filters, Parameter, Query, parameters},
};
use crate::{
    error::Error,
    http::{Request, Response},
    logging,
    store::Filter,
    timestamp::Timestamp,
};

/// Buckets of one series.
pub(crate) const SERIES_BUCKETS_MAX: i64 = 1_000;

/// 0001-01-01T00:00:00Z, the earliest `ts`.
const EARLIEST: i64 = -62_135_596_800;
const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

/// The length of a bucket.
#[derive(Debug, Clone, Copy)]
struct Length {
    name: &'static str,
    seconds: i64,
    /// The number of buckets without `since`.
    count: i64,
}

parameters! {
    Series {
        bucket: Length = choice(&[
            ("hour", Length { name: "hour", seconds: HOUR, count: 24 }),
            ("day", Length { name: "day", seconds: DAY, count: 30 }),
        ]),
    }
}

pub(super) const PARAMETERS: &[&[Parameter]] = &[Series::PARAMETERS, Filters::PARAMETERS];

#[derive(Serialize)]
struct Body {
    bucket: &'static str,
    data: Vec<Bucket>,
}

#[derive(Serialize)]
struct Bucket {
    /// The beginning of the bucket.
    ts: String,
    count: i64,
}

pub(super) fn show(context: &mut Context, _: &Request<'_>) -> Result<Answer, Error> {
    Ok(Answer::Now(Response::json(&context.reader.stats()?)))
}

/// How many of the messages that the filters match have their `ts` in each hour or day, in UTC.
pub(super) fn series(context: &mut Context, request: &Request<'_>) -> Result<Answer, Error> {
    let mut query = Query::of(request);
    let Series { bucket } = Series::read(&mut query);
    let filter: Filter = Filters::read(&mut query).into();
    let (since, until) = (filter.since, filter.until);
    let Length { name, seconds: bucket, count } = bucket;
    let until =
        until.unwrap_or_else(|| Timestamp::from(start_of(logging::now_seconds(), bucket) + bucket));
    let last = if until.nanoseconds == 0 { until.seconds - 1 } else { until.seconds };
    let since =
        since.unwrap_or_else(|| Timestamp::from(start_of(last, bucket) - (count - 1) * bucket));
    let since = since.max(Timestamp::from(EARLIEST));
    let first = start_of(since.seconds, bucket);
    let length = (last - first).div_euclid(bucket) + 1;
    if length > SERIES_BUCKETS_MAX {
        let msg = format!("Input should be at most {SERIES_BUCKETS_MAX} buckets before until");
        let asked = query.text("since").unwrap_or_default();
        query.refuse("value_error", "since", msg, &asked, None);
    }
    query.finish()?;
    let starts: Vec<i64> = (0..length.max(0)).map(|number| first + number * bucket).collect();
    let bounds: Vec<Timestamp> =
        starts.iter().map(|start| Timestamp::from(*start).max(since)).chain([until]).collect();
    let filter = Filter { since: Some(since), until: Some(until), ..filter };
    let counts = if since < until { context.reader.series(&filter, &bounds)? } else { Vec::new() };
    let ts = starts.iter().map(|start| Timestamp::from(*start).text());
    let data = ts.zip(counts).map(|(ts, count)| Bucket { ts, count }).collect();
    Ok(Answer::Now(Response::json(&Body { bucket: name, data })))
}

fn start_of(seconds: i64, bucket: i64) -> i64 {
    seconds.div_euclid(bucket) * bucket
}

//! `GET /feed`: the messages in the order in which they were committed, from a cursor on, now or
//! when there are some.

use std::time::Duration;

use serde::Serialize;

use super::{Answer, Context, query::Query};
use crate::{
    error::Error,
    http::{Request, Response},
    store::{Committed, Reader},
};

/// Messages of one answer.
pub(crate) const FEED_LIMIT_MAX: i64 = 1_000;
const LIMIT_DEFAULT: i64 = 100;
/// Seconds that a reader may wait for the next message.
pub(crate) const FEED_WAIT_S_MAX: u64 = 30;
/// Instead of a cursor: from now on.
const LATEST: &str = "latest";

/// What a reader wants to have, and how long it waits for it.
#[derive(Debug)]
pub(crate) struct Follow {
    pub(crate) after: i64,
    pub(crate) limit: i64,
    pub(crate) wait: Duration,
}

#[derive(Serialize)]
struct Body {
    data: Vec<Committed>,
    next: String,
}

pub(crate) fn follow(context: &mut Context, request: &Request<'_>) -> Result<Answer, Error> {
    let mut query = Query::of(request);
    let limit = query.integer("limit", LIMIT_DEFAULT, 1..=FEED_LIMIT_MAX);
    let wait = query.integer("wait", 0, 0..=FEED_WAIT_S_MAX.cast_signed());
    let after = match query.text("after").as_deref() {
        None => 0,
        Some(LATEST) => context.reader.last_cursor()?,
        Some(cursor) if cursor.bytes().all(|byte| byte.is_ascii_digit()) => {
            cursor.parse().unwrap_or(i64::MAX)
        }
        Some(other) => {
            let msg = "Input should be the cursor of a message, what was told as next, or latest";
            query.refuse("value_error", "after", msg, other, None);
            0
        }
    };
    let wait = Duration::from_secs(wait.unsigned_abs());
    let follow = query.finish(Follow { after, limit, wait })?;
    if follow.wait.is_zero() {
        answer(&mut context.reader, after, limit).map(|(response, _)| Answer::Now(response))
    } else {
        Ok(Answer::WhenCommitted(follow))
    }
}

/// What there is, and whether that is anything.
pub(crate) fn answer(
    reader: &mut Reader,
    after: i64,
    limit: i64,
) -> Result<(Response, bool), Error> {
    let data = reader.committed(after, limit)?;
    let is_anything = !data.is_empty();
    let next = data.last().map_or_else(|| after.to_string(), |last| last.cursor.clone());
    Ok((Response::json(&Body { data, next }), is_anything))
}

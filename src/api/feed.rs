//! `GET /feed`: the messages in the order of their commits, from a cursor on.

use std::time::Duration;

use serde::Serialize;

use super::{
    answer::{Answer, Context, FeedQuery},
    query::{Parameter, Query, parameters},
};
use crate::{
    error::Error,
    http::{Request, Response},
    store::{Committed, Reader},
};

/// Messages of one response.
pub(crate) const FEED_LIMIT_MAX: i64 = 1_000;
const LIMIT_DEFAULT: i64 = 100;
/// Seconds that a reader may wait for the next message.
pub(crate) const FEED_WAIT_S_MAX: i64 = 30;
/// The value of `after` that stands for the newest message.
const LATEST: &str = "latest";

parameters! {
    Feed {
        limit: i64 = integer(LIMIT_DEFAULT, 1..=FEED_LIMIT_MAX),
        wait: i64 = integer(0, 0..=FEED_WAIT_S_MAX),
        after: Option<String> = text(),
    }
}

pub(super) const PARAMETERS: &[&[Parameter]] = &[Feed::PARAMETERS];

#[derive(Serialize)]
struct Body {
    data: Vec<Committed>,
    next: String,
}

pub(super) fn follow(context: &mut Context, request: &Request<'_>) -> Result<Answer, Error> {
    let mut query = Query::of(request);
    let Feed { limit, wait, after } = Feed::read(&mut query);
    let after = match after.as_deref() {
        None => 0,
        Some(LATEST) => context.reader.last_cursor()?,
        Some(cursor) if cursor.bytes().all(|byte| byte.is_ascii_digit()) => {
            cursor.parse().unwrap_or(i64::MAX)
        }
        Some(other) => {
            let msg = "Input should be the cursor of a message, the next of a response, or latest";
            query.refuse("value_error", "after", msg, other, None);
            0
        }
    };
    query.finish()?;
    if wait == 0 {
        return answer(&mut context.reader, after, limit)
            .map(|(response, _)| Answer::Now(response));
    }
    let wait = Duration::from_secs(wait.unsigned_abs());
    Ok(Answer::WhenCommitted(FeedQuery { after, limit, wait }))
}

/// The messages after a cursor, and whether there are any.
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

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
        before: Option<String> = text(),
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
    let Feed { limit, wait, after, before } = Feed::read(&mut query);
    let after = read_cursor(&mut query, "after", after.as_deref());
    let before = read_cursor(&mut query, "before", before.as_deref());
    query.finish()?;
    if let Some(before) = before {
        let before = if let FeedStart::Cursor(cursor) = before { Some(cursor) } else { None };
        return list_before(&mut context.reader, before, limit);
    }
    let after = match after {
        None => 0,
        Some(FeedStart::Latest) => context.reader.last_cursor()?,
        Some(FeedStart::Cursor(cursor)) => cursor,
    };
    if wait == 0 {
        return answer(&mut context.reader, after, limit)
            .map(|(response, _)| Answer::Now(response));
    }
    let wait = Duration::from_secs(wait.unsigned_abs());
    Ok(Answer::WhenCommitted(FeedQuery { after, limit, wait }))
}

/// Where a response begins or ends.
enum FeedStart {
    Latest,
    Cursor(i64),
}

fn read_cursor(query: &mut Query<'_>, name: &str, text: Option<&str>) -> Option<FeedStart> {
    match text? {
        LATEST => Some(FeedStart::Latest),
        cursor if cursor.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(FeedStart::Cursor(cursor.parse().unwrap_or(i64::MAX)))
        }
        other => {
            let msg = "Input should be the cursor of a message, the next of a response, or latest";
            query.refuse("value_error", name, msg, other, None);
            None
        }
    }
}

/// The messages right before a cursor, or the last ones.
fn list_before(reader: &mut Reader, before: Option<i64>, limit: i64) -> Result<Answer, Error> {
    let data = reader.committed_before(before, limit)?;
    let next = match (data.last(), before) {
        (Some(last), _) => last.cursor.clone(),
        (None, Some(before)) => before.to_string(),
        (None, None) => reader.last_cursor()?.to_string(),
    };
    Ok(Answer::Now(Response::json(&Body { data, next })))
}

/// The response where there is no message after a cursor.
pub(crate) fn no_messages(after: i64) -> Response {
    Response::json(&Body { data: Vec::new(), next: after.to_string() })
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

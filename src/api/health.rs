//! `GET /health/live` and `GET /health/ready`.

use serde_json::json;

use super::answer::{Answer, Context};
use crate::{
    error::Error,
    http::{Request, Response},
    store::{Entry, Outcome},
};

#[expect(clippy::unnecessary_wraps, reason = "every handler has one type")]
pub(super) fn live(_: &mut Context, _: &Request<'_>) -> Result<Answer, Error> {
    Ok(Answer::Now(Response::json(&json!({ "status": "ok" }))))
}

/// What a restart might mend.
pub(crate) const UNREADABLE: &str = "the database does not answer";

/// Ready is what a message posted now would find: the schema, room in the queue, and a disk that
/// takes a commit. So the question goes the way of a message, down to the fsync.
pub(super) fn ready(context: &mut Context, _: &Request<'_>) -> Result<Answer, Error> {
    context.reader.check_schema().map_err(|error| match error {
        Error::NotReady(_) => error,
        _ => Error::NotReady(UNREADABLE),
    })?;
    Ok(Answer::AfterCommit(Entry::Probe, report))
}

#[expect(clippy::needless_pass_by_value, reason = "the type of every answer to an outcome")]
fn report(outcome: Outcome) -> Result<Response, Error> {
    match outcome {
        Ok(_) => Ok(Response::json(&json!({ "status": "ready" }))),
        Err(Error::Unavailable(reason)) => Err(Error::NotReady(reason)),
        Err(_) => Err(Error::NotReady("the database does not take a write")),
    }
}

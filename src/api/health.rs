//! `GET /health/live` and `GET /health/ready`.

use serde_json::json;

use super::answer::{Answer, Context, Respond};
use crate::{
    error::Error,
    http::{Request, Response},
    store::{Job, Outcome},
};

#[expect(clippy::unnecessary_wraps, reason = "every handler has one type")]
pub(super) fn live(_: &mut Context, _: &Request<'_>) -> Result<Answer, Error> {
    Ok(Answer::Now(Response::json(&json!({ "status": "ok" }))))
}

/// The reason that a restart might help against.
pub(crate) const UNREADABLE: &str = "the database does not answer";

/// Ready means that a message posted now would be stored: the database has its schema, the queue is
/// not full, and the disk takes a commit. So this request waits for a commit like a message.
pub(super) fn ready(context: &mut Context, _: &Request<'_>) -> Result<Answer, Error> {
    context.reader.check_schema().map_err(|error| match error {
        Error::NotReady(_) => error,
        _ => Error::NotReady(UNREADABLE),
    })?;
    Ok(Answer::AfterCommit(Job::Probe, Respond::by(report)))
}

#[expect(clippy::needless_pass_by_value, reason = "the type of every answer to an outcome")]
fn report(outcome: Outcome) -> Result<Response, Error> {
    match outcome {
        Ok(_) => Ok(Response::json(&json!({ "status": "ready" }))),
        Err(Error::Unavailable(reason)) => Err(Error::NotReady(reason)),
        Err(_) => Err(Error::NotReady("the database does not take a write")),
    }
}

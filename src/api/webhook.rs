//! `POST /webhook`: the signature, then JSON, then the schema, then the insert, always in this
//! order.

use serde_json::json;

use super::answer::{Answer, Context};
use crate::{
    error::Error,
    http::{Request, Response},
    message::Message,
    metrics::{KeyIndex, WebhookResult},
    store::{Job, Outcome, Stored},
};

pub(super) fn receive(context: &mut Context, request: &Request<'_>) -> Result<Answer, Error> {
    let (body, key) = context.keys.verifier.verify(request.signature(), request.body)?;
    context.metrics.keys_used.increment(KeyIndex(key));
    let message = Message::from_signed(&body)?;
    Ok(Answer::AfterCommit(Job::Messages(vec![message]), acknowledge))
}

/// The response is the same for a new and a repeated message; the log and the metrics differ.
fn acknowledge(outcome: Outcome) -> Result<Response, Error> {
    let result = match *outcome? {
        [Stored::Created] => WebhookResult::Created,
        _ => WebhookResult::Duplicate,
    };
    Ok(Response { result: Some(result), ..Response::json(&json!({ "status": "ok" })) })
}

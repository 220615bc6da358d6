//! `POST /webhook`: the signature, then JSON, then the schema, then the insert, always in this
//! order. And the endpoints of the providers that have a form of their own: the signature, then
//! what the body says, then the insert of all its messages.

use std::sync::Arc;

use serde_json::json;

use super::{
    answer::{Answer, Context, Keys, Respond},
    query::{Parameter, schema},
};
use crate::{
    error::Error,
    http::{Request, Response},
    message::Delivered,
    metrics::{Item, KeyIndex, Metrics, Source, WebhookResult},
    providers::{Configured, Reading, Whatsapp},
    store::{Job, Outcome, Stored},
};

/// What Meta asks with when the operator sets the webhook up.
pub(super) const PARAMETERS: &[&[Parameter]] = &[&[
    Parameter { name: "hub.mode", schema: schema::text },
    Parameter { name: "hub.verify_token", schema: schema::text },
    Parameter { name: "hub.challenge", schema: schema::text },
]];

pub(super) fn receive(context: &mut Context, request: &Request<'_>) -> Result<Answer, Error> {
    let Keys { verifier, providers, .. } = &*context.keys;
    let (body, key) = verifier.verify(request.header("X-Signature"), request.body)?;
    context.metrics.keys_used.increment(KeyIndex(key));
    let message = Delivered::from_signed(&body, providers.keeps_originals)?;
    let metrics = Arc::clone(&context.metrics);
    let respond = move |outcome: Outcome| {
        let result = count(&metrics, Source::Webhook, &outcome?, &[]);
        Ok(Response { result: Some(result), ..Response::json(&json!({ "status": "ok" })) })
    };
    Ok(Answer::AfterCommit(Job::Messages(vec![message]), Respond::by(respond)))
}

/// Whether the settings have what this provider's endpoint needs.
pub(super) fn is_set<P: Configured>(keys: &Keys) -> bool {
    P::keys(&keys.providers).is_some()
}

/// What is signed is acknowledged, whether it is understood or not: a provider sends again what is
/// not, for days, and then gives up on everything.
pub(super) fn receive_from<P: Configured>(
    context: &mut Context,
    request: &Request<'_>,
) -> Result<Answer, Error> {
    let providers = &context.keys.providers;
    let keys = P::keys(providers).ok_or(Error::NotFound)?;
    let (signed, key) = P::verify(keys, request)?;
    context.metrics.provider_keys_used.increment(P::SOURCE, KeyIndex(key));
    let mut reading = Reading::of(P::SOURCE, providers.keeps_originals);
    P::read(&signed, &mut reading);
    let Reading { messages, others, .. } = reading;
    let metrics = Arc::clone(&context.metrics);
    let respond = move |outcome: Outcome| {
        let result = count(&metrics, P::SOURCE, &outcome?, &others);
        Ok(Response { result: Some(result), ..P::acknowledgement() })
    };
    if messages.is_empty() {
        return respond(Ok(Vec::new())).map(Answer::Now);
    }
    Ok(Answer::AfterCommit(Job::Messages(messages), Respond::by(respond)))
}

/// Counts the parts of a delivery that is stored. The response is the same for a new and a repeated
/// message; the log and the metrics differ.
fn count(metrics: &Metrics, source: Source, stored: &[Stored], others: &[Item]) -> WebhookResult {
    let items = stored.iter().map(|stored| match stored {
        Stored::Created => Item::Created,
        Stored::Duplicate => Item::Duplicate,
    });
    for item in items.chain(others.iter().copied()) {
        metrics.items.increment(source, item);
    }
    if stored.contains(&Stored::Created) {
        WebhookResult::Created
    } else if stored.is_empty() {
        WebhookResult::Ignored
    } else {
        WebhookResult::Duplicate
    }
}

/// `GET /webhook/whatsapp`: what Meta asks when the operator sets the webhook up.
pub(super) fn confirm(context: &mut Context, request: &Request<'_>) -> Result<Answer, Error> {
    let keys = Whatsapp::keys(&context.keys.providers).ok_or(Error::NotFound)?;
    keys.confirm(request).map(Answer::Now)
}

//! One file per endpoint, each a function from a request to an [`Answer`] or an error.

pub(crate) mod health;
pub(crate) mod messages;
pub(crate) mod metrics;
pub(crate) mod stats;
pub(crate) mod webhook;

use std::sync::Arc;

use crate::{
    error::Error,
    http::{Request, Response},
    metrics::Metrics,
    signature::Verifier,
    store::{Entry, Outcome, Reader},
};

pub(crate) type Handler = fn(&mut Context, &Request<'_>) -> Result<Answer, Error>;

/// What a worker owns.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) verifier: Verifier,
    pub(crate) reader: Reader,
    pub(crate) metrics: Arc<Metrics>,
}

/// A handler never waits for a commit: it says what is to be committed, and how the outcome is
/// to be told.
#[derive(Debug)]
pub(crate) enum Answer {
    Now(Response),
    AfterCommit(Entry, fn(Outcome) -> Result<Response, Error>),
}

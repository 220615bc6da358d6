//! One file per endpoint, each a function from a request to an [`Answer`] or an error.

pub(crate) mod documents;
pub(crate) mod export;
pub(crate) mod feed;
pub(crate) mod health;
pub(crate) mod messages;
pub(crate) mod metrics;
mod query;
pub(crate) mod routes;
pub(crate) mod stats;
pub(crate) mod webhook;

use std::sync::Arc;

use crate::{
    access::{Hosts, ReadTokens},
    config::Config,
    error::Error,
    http::{Request, Response},
    metrics::Metrics,
    signature::Verifier,
    store::{Entry, Outcome, Reader},
};

pub(crate) type Handler = fn(&mut Context, &Request<'_>) -> Result<Answer, Error>;

/// What opens: the secrets that deliveries are signed with, the tokens that readers show, the host
/// names under which they may ask.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) verifier: Verifier,
    pub(crate) tokens: ReadTokens,
    pub(crate) hosts: Hosts,
}

impl Keys {
    pub(crate) fn of(config: &Config) -> Arc<Keys> {
        Arc::new(Keys {
            verifier: Verifier::new(&config.webhook_secrets),
            tokens: ReadTokens::new(&config.read_tokens),
            hosts: Hosts::new(&config.hosts),
        })
    }
}

/// What a worker owns.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) keys: Arc<Keys>,
    pub(crate) reader: Reader,
    pub(crate) metrics: Arc<Metrics>,
}

/// A handler never waits: it says what is to be committed or waited for, and how the outcome is to
/// be told.
#[derive(Debug)]
pub(crate) enum Answer {
    Now(Response),
    AfterCommit(Entry, fn(Outcome) -> Result<Response, Error>),
    /// When there is something to be told, or the wait is over.
    WhenCommitted(feed::Follow),
    /// As it is read, by a thread of its own.
    Export(export::Wanted),
}

//! What a handler is given besides the request, and what it answers.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    access::{Hosts, ReadTokens},
    config::Config,
    error::Error,
    format::Format,
    http::Response,
    metrics::Metrics,
    providers::Providers,
    signature::Verifier,
    store::{Filter, Job, Outcome, Reader},
};

/// What requests are authenticated by: the keys of deliveries, the tokens of readers, and the host
/// names under which clients may read while there is no token.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) verifier: Verifier,
    pub(crate) providers: Providers,
    pub(crate) tokens: ReadTokens,
    pub(crate) hosts: Hosts,
}

impl Keys {
    pub(crate) fn of(config: &Config) -> Arc<Keys> {
        Arc::new(Keys {
            verifier: Verifier::new(&config.webhook_secrets),
            providers: Providers::of(config),
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

/// Makes the response from what became of a job.
pub(crate) struct Respond(Box<dyn FnOnce(Outcome) -> Result<Response, Error> + Send>);

impl Respond {
    pub(crate) fn by(
        respond: impl FnOnce(Outcome) -> Result<Response, Error> + Send + 'static,
    ) -> Respond {
        Respond(Box::new(respond))
    }

    pub(crate) fn to(self, outcome: Outcome) -> Result<Response, Error> {
        (self.0)(outcome)
    }
}

impl fmt::Debug for Respond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Respond(..)")
    }
}

/// A handler never waits. It returns a response, or says what its response depends on.
#[derive(Debug)]
pub(crate) enum Answer {
    Now(Response),
    /// Once this is committed.
    AfterCommit(Job, Respond),
    /// Once there are new messages, or the time is over.
    WhenCommitted(FeedQuery),
    /// While it is read, by a thread of its own.
    Export(ExportQuery),
}

/// What a reader of the feed asks for, and how long it waits.
#[derive(Debug)]
pub(crate) struct FeedQuery {
    /// A cursor.
    pub(crate) after: i64,
    pub(crate) limit: i64,
    pub(crate) wait: Duration,
}

#[derive(Debug)]
pub(crate) struct ExportQuery {
    pub(crate) filter: Filter,
    pub(crate) format: Format,
}

//! A request's life: a worker takes it, routes it, checks what its route requires, calls the
//! handler and sends the response, or hands the request to the thread that will. A worker waits for
//! the disk only, never for a client.

use std::{
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
    time::Instant,
};

use super::{
    committing::reply_after_commit,
    exports::Exports,
    feed::Feed,
    reply::{refuse, reply},
};
use crate::{
    access::ReadTokens,
    api::{self, Answer, Authorization, Context, Keys, RateLimit, Route, session},
    error::Error,
    http::{self, Exchange, Intake, Method, Response},
    logging,
    metrics::Metrics,
    rates::Limiter,
    store::CommitQueue,
    threads::lock,
};

/// Finds the route of a method and a path. Only a test uses another function than
/// [`crate::api::find`].
pub(super) type Find = fn(&Method, &str, &Keys) -> Result<&'static Route, Error>;

/// What the workers share.
pub(super) struct Shared {
    pub(super) find: Find,
    /// Replaced as a whole by a reload.
    pub(super) keys: Mutex<Arc<Keys>>,
    pub(super) limiter: Limiter,
    pub(super) listener: http::Server,
    pub(super) feed: Arc<Feed>,
    pub(super) exports: Exports,
    pub(super) commits: CommitQueue,
    pub(super) metrics: Arc<Metrics>,
}

pub(super) struct Worker {
    pub(super) context: Context,
    pub(super) shared: Arc<Shared>,
}

impl Worker {
    /// Until the service stops.
    pub(super) fn run(&mut self) {
        let mut body = Vec::new();
        while let Some(exchange) = self.shared.listener.next() {
            // A panic of a handler is answered in `serve`. Any other panic costs its request, too,
            // which is answered 500 when it is dropped, but not this thread.
            let _ = catch_unwind(AssertUnwindSafe(|| self.take(exchange, &mut body)));
        }
    }

    fn take(&mut self, exchange: Exchange, body: &mut Vec<u8>) {
        let bytes_max = api::body_bytes_max(exchange.method(), exchange.path());
        match exchange.read_body(body, bytes_max) {
            Intake::Read(exchange) => self.serve(exchange, body),
            // The request comes again once its body is complete.
            Intake::Awaited => {}
            Intake::Refused(exchange, error) => refuse(&self.shared.metrics, exchange, &error),
        }
    }

    fn serve(&mut self, exchange: Exchange, body: &[u8]) {
        // The panic hook has logged a panic.
        let answer = catch_unwind(AssertUnwindSafe(|| self.handle(&exchange, body)));
        let unanswered = match answer.unwrap_or(Err(Error::Internal)) {
            Ok(Answer::Now(response)) => {
                reply(&self.shared.metrics, exchange, &response, None);
                return;
            }
            Ok(Answer::AfterCommit(job, respond)) => {
                let Shared { metrics, commits, .. } = &*self.shared;
                reply_after_commit(metrics, commits, exchange, job, respond);
                return;
            }
            Ok(Answer::WhenCommitted(query)) => {
                let client = self.client(&exchange);
                self.shared.feed.wait(exchange, client, query)
            }
            Ok(Answer::Export(query)) => {
                let client = self.client(&exchange);
                self.shared.exports.start(exchange, client, query)
            }
            Err(error) => Err((exchange, error)),
        };
        if let Err((exchange, error)) = unanswered {
            reply(&self.shared.metrics, exchange, &Response::from(&error), error.message_id());
        }
    }

    /// Routes the request, checks what its route requires, and calls its handler.
    fn handle(&mut self, exchange: &Exchange, body: &[u8]) -> Result<Answer, Error> {
        self.context.keys = Arc::clone(&lock(&self.shared.keys));
        let route = (self.shared.find)(exchange.method(), exchange.path(), &self.context.keys)?;
        self.limit_rate(route, exchange)?;
        authorize(route, exchange, &self.context.keys)?;
        if self.shared.listener.sheds(route.shedding) {
            self.shared.metrics.requests_shed.increment();
            return Err(Error::Unavailable("overloaded, try again later"));
        }
        (route.handler)(&mut self.context, &exchange.request(body))
    }

    fn limit_rate(&self, route: &Route, exchange: &Exchange) -> Result<(), Error> {
        let limiter = &self.shared.limiter;
        if route.rate_limit == RateLimit::Exempt || limiter.is_idle() {
            return Ok(());
        }
        let client = self.client(exchange);
        if route.rate_limit == RateLimit::ExceptLoopback && client.is_loopback() {
            return Ok(());
        }
        limiter.admit(client, Instant::now())
    }

    /// The address by which clients are limited.
    fn client(&self, exchange: &Exchange) -> IpAddr {
        self.shared.limiter.client(exchange.peer_address().ip(), exchange.forwarded())
    }
}

fn authorize(route: &Route, exchange: &Exchange, keys: &Keys) -> Result<(), Error> {
    let Keys { tokens, hosts, .. } = keys;
    if route.authorization == Authorization::None {
        return Ok(());
    }
    let is_protected = route.authorization != Authorization::Host;
    if is_protected && !tokens.admit(exchange.authorization()) && !has_session(exchange, tokens) {
        return Err(Error::NoReadToken { is_script: exchange.is_script() });
    }
    let needs_host = route.authorization != Authorization::Token && tokens.is_empty();
    if needs_host && !exchange.hosts().all(|host| hosts.admit(host)) {
        return Err(Error::ForeignHost);
    }
    Ok(())
}

fn has_session(exchange: &Exchange, tokens: &ReadTokens) -> bool {
    let now = logging::now_seconds();
    exchange.cookies(session::COOKIE).any(|session| tokens.admit_session(session, now))
}

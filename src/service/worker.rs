//! A worker: it takes a request up, lets its route answer, and answers; or parks it for the next commit
//! and takes the next one up. It waits for the disk only.

use std::{
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
    time::Instant,
};

use super::{
    access_log::record,
    committing::{Asker, Parked, Replier, Store},
    exports::Exports,
    feed::Feed,
};
use crate::{
    api::{
        Answer, Context, Keys,
        routes::{Access, Route},
    },
    error::Error,
    http::{Arrival, Exchange, Importance, Intake, Listener, Method, Response},
    rates::Limiter,
    store::Leader,
    threads::lock,
};

/// What answers a method and a path: [`routes::find`], but for the tests.
pub(super) type Find = fn(&Method, &str) -> Result<Route, Error>;

/// What the workers share.
pub(super) struct Shared {
    pub(super) find: Find,
    /// Replaced as a whole when they are read again.
    pub(super) keys: Mutex<Arc<Keys>>,
    pub(super) limiter: Limiter,
    pub(super) listener: Arc<Listener>,
    pub(super) feed: Arc<Feed>,
    pub(super) exports: Exports,
    pub(super) store: Arc<Store>,
    pub(super) replier: Replier,
}

pub(super) struct Worker {
    pub(super) context: Context,
    pub(super) shared: Arc<Shared>,
}

impl Worker {
    pub(super) fn run(&mut self) {
        let mut buffer = Vec::new();
        while let Some(arrival) = self.shared.listener.next() {
            // A handler's own panic is answered in `serve`. Any other costs its request too, which
            // is answered 500 when it is dropped, and not this thread.
            let _ = catch_unwind(AssertUnwindSafe(|| self.take_up(arrival, &mut buffer)));
        }
    }

    fn take_up(&mut self, arrival: Arrival, buffer: &mut Vec<u8>) {
        match Exchange::new(arrival).read_body(buffer) {
            Intake::Read(exchange) => self.serve(exchange, buffer),
            Intake::Awaited => {}
            Intake::Refused(exchange, error) => {
                let response = Response::from(&error);
                record(&self.shared.replier.metrics, &exchange, &response, None);
                exchange.refuse(&response);
            }
        }
    }

    fn serve(&mut self, exchange: Exchange, body: &[u8]) {
        // The panic hook has logged it; a panic costs one request.
        let answer = catch_unwind(AssertUnwindSafe(|| self.route(&exchange, body)));
        match answer.unwrap_or(Err(Error::Internal)) {
            Ok(Answer::Now(response)) => self.shared.replier.reply(exchange, &response, None),
            Ok(Answer::AfterCommit(entry, then)) => {
                self.park(Parked { entry, asker: Asker::Client(exchange, then) });
            }
            Ok(Answer::WhenCommitted(follow)) => {
                let client = self.client(&exchange);
                if let Err((exchange, error)) = self.shared.feed.wait(exchange, client, follow) {
                    self.shared.replier.reply(exchange, &Response::from(&error), None);
                }
            }
            Ok(Answer::Export(wanted)) => {
                let metrics = Arc::clone(&self.shared.replier.metrics);
                let record =
                    move |exchange: &_, response: &_| record(&metrics, exchange, response, None);
                let (client, exports) = (self.client(&exchange), &self.shared.exports);
                if let Err((exchange, error)) = exports.start(exchange, client, wanted, record) {
                    self.shared.replier.reply(exchange, &Response::from(&error), None);
                }
            }
            Err(error) => {
                let response = Response::from(&error);
                self.shared.replier.reply(exchange, &response, error.message_id());
            }
        }
    }

    /// The address that limits count by.
    fn client(&self, exchange: &Exchange) -> IpAddr {
        self.shared.limiter.client(exchange.peer(), exchange.forwarded())
    }

    fn route(&mut self, exchange: &Exchange, body: &[u8]) -> Result<Answer, Error> {
        let (handler, importance, access) = (self.shared.find)(exchange.method(), exchange.path())?;
        let limiter = &self.shared.limiter;
        if importance != Importance::Health && !limiter.is_idle() {
            let client = self.client(exchange);
            // Who watches over us must hear from us, however much is asked.
            if !(client.is_loopback() && exchange.path() == "/health/ready") {
                limiter.admit(client, Instant::now())?;
            }
        }
        self.context.keys = Arc::clone(&lock(&self.shared.keys));
        let Keys { tokens, hosts, .. } = &*self.context.keys;
        if access != Access::Anyone && !tokens.admit(exchange.authorization()) {
            return Err(Error::NoReadToken { is_script: exchange.is_script() });
        }
        let is_open = access == Access::Reader && tokens.is_empty();
        if is_open && !exchange.hosts().all(|host| hosts.admit(host)) {
            return Err(Error::ForeignHost);
        }
        if self.shared.listener.sheds(importance) {
            self.shared.replier.metrics.requests_shed.increment();
            return Err(Error::Unavailable("overloaded, try again later"));
        }
        handler(&mut self.context, &exchange.request(body))
    }

    fn park(&self, parked: Parked) {
        self.shared.replier.metrics.commit_queue_length.add(1);
        if let Err(parked) = self.shared.store.submit(parked, &self.shared.replier) {
            let error = Error::Unavailable("too much waits for the disk, try again later");
            self.shared.replier.answer(parked, Err(error));
        }
    }
}

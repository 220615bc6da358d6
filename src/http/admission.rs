//! The admission of requests to the workers, generic in where they come from.
//!
//! Owns the rule that keeps pipelined requests from deadlocking the workers: a connection has one
//! request in flight at a time, and the next ones wait here without a thread (H6 in
//! docs/TINY_HTTP.md). `tests/model` checks it under every order in which the threads can run.

use std::{collections::VecDeque, io, net::SocketAddr, sync::Arc, time::Instant};

use super::{
    connections::{Admitted, Connections, End, Released},
    sync::{Mutex, lock},
};

/// A queue of requests: tiny_http's, but for the model check.
pub(super) trait Source {
    type Request;

    /// Blocks until there is a request. `None`: [`Source::unblock`] was called, once for each
    /// `None`.
    ///
    /// # Errors
    /// When no more connections are accepted.
    fn receive(&self) -> io::Result<Option<(SocketAddr, Self::Request)>>;

    /// Makes one [`Source::receive`] return `None`, after the requests that are queued now.
    fn unblock(&self);

    /// Ends a request that gets no response.
    fn discard(request: Self::Request);
}

pub(super) struct Admission<S: Source> {
    source: Arc<S>,
    /// Held by the worker that receives. Two requests of one connection must be admitted in the
    /// order in which the source returned them: tiny_http sends responses in that order only, so a
    /// second request that was admitted first would wait for the first one for ever, and the first
    /// one for it.
    receiving: Mutex<()>,
    connections: Mutex<Connections<S::Request>>,
    /// What a worker finds here after [`Source::unblock`], in the same order.
    woken: Mutex<VecDeque<Received<S>>>,
}

/// What a worker receives.
pub(super) enum Received<S: Source> {
    /// A request in its connection's slot.
    Request(S::Request, Slot<S>),
    /// The connection has ended: these are too many pipelined requests.
    TooMany(SocketAddr, VecDeque<S::Request>),
    /// A probe of how long the queue is, and when it was sent.
    Probe(Instant),
    /// The worker is to end.
    Stop,
}

/// The slot of a connection for its one request in flight. Dropping it admits the connection's next
/// request.
pub(super) struct Slot<S: Source> {
    pub(super) peer: SocketAddr,
    admission: Arc<Admission<S>>,
}

impl<S: Source> Admission<S> {
    pub(super) fn new(source: Arc<S>) -> Arc<Admission<S>> {
        Arc::new(Admission {
            source,
            receiving: Mutex::default(),
            connections: Mutex::default(),
            woken: Mutex::new(VecDeque::new()),
        })
    }

    /// Blocks until there is something for a worker. `is_replaced` decides whether a new connection
    /// has the address of one that has ended. It runs without the table's lock, since it may take
    /// long.
    ///
    /// # Errors
    /// When no more connections are accepted. Requests may still follow.
    pub(super) fn receive(
        self: &Arc<Self>,
        is_replaced: impl Fn(End) -> bool,
    ) -> io::Result<Received<S>> {
        loop {
            let receiving = lock(&self.receiving);
            let Some((peer, request)) = self.source.receive()? else {
                let woken = lock(&self.woken).pop_front();
                drop(receiving);
                let Some(woken) = woken else { continue };
                return Ok(woken);
            };
            let admitted = self.admit(peer, request, &is_replaced);
            drop(receiving);
            match admitted {
                Admitted::InFlight(request) => {
                    return Ok(Received::Request(request, Slot::new(peer, self)));
                }
                Admitted::Queued => {}
                Admitted::TooMany(requests) => return Ok(Received::TooMany(peer, requests)),
                // This may wait for what the client still sends.
                Admitted::Ended(request) => S::discard(request),
            }
        }
    }

    fn admit(
        &self,
        peer: SocketAddr,
        request: S::Request,
        is_replaced: impl Fn(End) -> bool,
    ) -> Admitted<S::Request> {
        let mut connections = lock(&self.connections);
        let mut replaced = connections.ended(peer);
        if replaced.is_some() {
            drop(connections);
            replaced = replaced.filter(|end| is_replaced(*end));
            connections = lock(&self.connections);
        }
        connections.admit(peer, request, replaced, Instant::now())
    }

    /// Runs `change` on the table of connections, under its lock.
    pub(super) fn with<T>(&self, change: impl FnOnce(&mut Connections<S::Request>) -> T) -> T {
        change(&mut lock(&self.connections))
    }

    /// Gives this to a worker, after what was queued before.
    pub(super) fn wake(&self, with: Received<S>) {
        lock(&self.woken).push_back(with);
        self.source.unblock();
    }

    fn release(self: &Arc<Self>, peer: SocketAddr) {
        let released = self.with(|connections| connections.release(peer, Instant::now()));
        match released {
            Released::Next(request) => self.wake(Received::Request(request, Slot::new(peer, self))),
            Released::Idle => {}
            Released::Ended(requests) => requests.into_iter().for_each(S::discard),
        }
    }
}

impl<S: Source> Slot<S> {
    fn new(peer: SocketAddr, admission: &Arc<Admission<S>>) -> Slot<S> {
        Slot { peer, admission: Arc::clone(admission) }
    }
}

impl<S: Source> Drop for Slot<S> {
    fn drop(&mut self) {
        self.admission.release(self.peer);
    }
}

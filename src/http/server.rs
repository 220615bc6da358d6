//! The HTTP server: its parts put together, and what the service asks of it.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::RawFd,
    sync::{Arc, atomic::Ordering::SeqCst},
};

use super::{
    admission::{Admission, Received, Source},
    exchange::Exchange,
    incoming::{IncomingRequest, Parts},
    listener::Listener,
    poller::Poller,
    shedding::Importance,
    socket,
    tiny_http_guard::{self, Peers, Restart, Scans},
};
use crate::{
    config::Limits,
    metrics::{Disconnect, Metrics},
};

pub(crate) struct Server {
    pub(crate) restart: Arc<Restart>,
    parts: Arc<Parts>,
}

impl Server {
    /// Prepares all but tiny_http, and starts the threads of the poller and the monitor.
    pub(crate) fn new(
        socket: TcpListener,
        limits: Limits,
        metrics: Arc<Metrics>,
    ) -> io::Result<Server> {
        tiny_http_guard::watch_panics();
        let scans = Scans::of(&socket)?;
        let listener = Arc::new(Listener::of(socket)?);
        let admission = Admission::new(Arc::clone(&listener));
        let peers = Arc::new(Peers::new(admission, scans, metrics));
        let poller = Poller::start()?;
        let parts = Arc::new(Parts { listener, peers, poller });
        let (listener, peers) = (Arc::clone(&parts.listener), Arc::clone(&parts.peers));
        let restart = tiny_http_guard::start(listener, peers, limits)?;
        Ok(Server { restart, parts })
    }

    /// Starts tiny_http, which accepts connections at once: to be called when every thread has been
    /// started and every file opened, since the connections may take all descriptors that are left.
    pub(crate) fn accept(&self) -> io::Result<()> {
        self.parts.listener.accept()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.parts.listener.address()
    }

    /// Blocks until there is a request for a worker. `None`: the worker is to end.
    pub(crate) fn next(&self) -> Option<Exchange> {
        let peers = &self.parts.peers;
        loop {
            match peers.admission.receive(|end| peers.is_replaced(end)) {
                Ok(Received::Request(request, slot)) => {
                    let parts = Arc::clone(&self.parts);
                    return Some(Exchange::new(IncomingRequest::new(request, slot, parts)));
                }
                Ok(Received::TooMany(peer, requests)) => {
                    peers.disconnect(peer, Disconnect::Pipelined);
                    requests.into_iter().for_each(Listener::discard);
                }
                Ok(Received::Probe(sent)) => {
                    peers.overload.measured(sent.elapsed());
                    peers.metrics.queue_delay.observe_duration(sent.elapsed());
                }
                Ok(Received::Stop) => return None,
                Err(error) => self.restart.accept_loop_ended(&error.to_string()),
            }
        }
    }

    /// True where a request of this importance is to be answered 503 at once.
    pub(crate) fn sheds(&self, importance: Importance) -> bool {
        self.parts.peers.overload.sheds(importance)
    }

    /// Accepts no more connections. Responses from now on close theirs. With `keeps_socket`,
    /// another process goes on accepting from the socket, and connections that arrive meanwhile
    /// wait in the kernel.
    pub(crate) fn drain(&self, keeps_socket: bool) -> io::Result<()> {
        let Parts { listener, peers, poller } = &*self.parts;
        // Until the next scan it is not known how many are open.
        peers.open.store(usize::MAX, SeqCst);
        poller.drain();
        listener.drain(keeps_socket)
    }

    /// While draining: true as long as a client may wait for a response.
    pub(crate) fn is_busy(&self) -> bool {
        let Parts { listener, peers, .. } = &*self.parts;
        listener.is_accepting()
            || peers.open.load(SeqCst) > 0
            || peers.admission.with(|connections| connections.is_any_in_flight())
    }

    /// Ends `workers` threads that call [`Server::next`], each after what was queued before.
    pub(crate) fn stop(&self, workers: usize) {
        for _ in 0..workers {
            self.parts.peers.admission.wake(Received::Stop);
        }
    }

    /// The listening socket's descriptor, which from now on survives an `exec`.
    pub(crate) fn pass_on(&self) -> io::Result<RawFd> {
        socket::pass_on(&self.parts.listener.socket)
    }
}

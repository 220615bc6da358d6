//! The connections by peer: finds their sockets, and ends them.

use std::{
    net::{SocketAddr, TcpStream},
    sync::{Arc, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use log::Level;

use super::{descriptors::Socket, scan::Scans};
use crate::{
    http::{
        admission::Admission,
        connections::{End, EndKind, SocketId},
        listener::Listener,
        shedding::Overload,
        socket,
    },
    logging,
    metrics::{Disconnect, Label, Metrics},
};

/// The age of the oldest connection that a scan may have missed.
const UNSEEN_MS: u64 = 1_000;

pub(in crate::http) struct Peers {
    pub(in crate::http) admission: Arc<Admission<Listener>>,
    pub(in crate::http) overload: Overload,
    pub(in crate::http) metrics: Arc<Metrics>,
    pub(in crate::http) scans: Scans,
    /// Connections that were open at the last scan, or `usize::MAX` before the first scan while
    /// draining.
    pub(in crate::http) open: AtomicUsize,
}

impl Peers {
    pub(in crate::http) fn new(
        admission: Arc<Admission<Listener>>,
        scans: Scans,
        metrics: Arc<Metrics>,
    ) -> Peers {
        let (overload, open) = (Overload::default(), AtomicUsize::new(0));
        Peers { admission, overload, metrics, scans, open }
    }

    /// Whether a new connection has the address of one that has ended like this.
    pub(in crate::http) fn is_replaced(&self, end: End) -> bool {
        match end.socket {
            Some(socket) => self.scans.is_closed(socket),
            None => end.at.elapsed() > self.queued_time_max(),
        }
    }

    /// After this time tiny_http has no queued request any more of a connection that is closed.
    pub(super) fn queued_time_max(&self) -> Duration {
        Duration::from_millis(UNSEEN_MS) + self.overload.wait()
    }

    /// The backpressure check. False if the client does not read its responses, so that the writer
    /// of another `bytes` might block.
    pub(in crate::http) fn is_reading(&self, peer: SocketAddr, bytes: usize) -> bool {
        if !self.admission.with(|connections| connections.is_check_due(peer, bytes)) {
            return true;
        }
        let stream = self.scans.find(peer).ok().flatten();
        let is_reading = stream.is_none_or(|stream| socket::is_writable(&stream));
        if !is_reading {
            self.admission.with(|connections| connections.require_check(peer));
        }
        is_reading
    }

    /// Processes nothing more of this connection. What waits on it is discarded after the request
    /// in flight.
    pub(in crate::http) fn refuse(&self, peer: SocketAddr) {
        // Its socket was looked for when it ended first.
        if !self.admission.with(|connections| connections.is_ending(peer)) {
            self.end(peer, EndKind::Refused, self.scans.unique_socket(peer));
        }
    }

    /// Ends a connection whose client does not keep to the rules.
    pub(in crate::http) fn disconnect(&self, peer: SocketAddr, reason: Disconnect) {
        // Before the reset: the socket of a dead connection cannot be distinguished from others.
        self.end(peer, EndKind::Disconnected, self.scans.unique_socket(peer));
        self.reset(self.scans.find(peer).ok().flatten().as_ref(), Some(peer), reason);
    }

    pub(super) fn disconnect_socket(&self, socket: &Socket, reason: Disconnect) {
        if let Some(peer) = socket.peer {
            self.end(peer, EndKind::Disconnected, Some(socket.id));
        }
        self.reset(socket.open().as_ref(), socket.peer, reason);
    }

    fn end(&self, peer: SocketAddr, kind: EndKind, socket: Option<SocketId>) {
        self.admission.with(|connections| connections.end(peer, kind, socket, Instant::now()));
    }

    pub(in crate::http) fn reset(
        &self,
        stream: Option<&TcpStream>,
        peer: Option<SocketAddr>,
        reason: Disconnect,
    ) {
        if let Some(stream) = stream {
            socket::reset(stream);
        }
        self.metrics.connections_closed.increment(reason);
        // An idle client does nothing wrong.
        let level = if reason == Disconnect::Idle { Level::Debug } else { Level::Warn };
        let peer = peer.map(|peer| peer.to_string()).unwrap_or_default();
        log::log!(
            target: logging::CLIENT, level, peer, reason = reason.value();
            "connection closed by the server"
        );
    }
}

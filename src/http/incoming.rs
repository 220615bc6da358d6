//! An incoming request in its connection's slot, and what it needs until it is answered.
//!
//! Workers never wait for a client: what may block goes to the poller's thread.

use std::{
    io::{self, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::Arc,
    time::Instant,
};

use super::{
    admission::{Received, Slot},
    body::Body,
    connections::Phase,
    listener::{Listener, RawRequest, discard},
    poller::Poller,
    socket,
    tiny_http_guard::Peers,
};
use crate::{error::Error, metrics::Disconnect, rates::Reservation};

/// Responses up to this size are written by the thread that has them: they fit into the kernel's
/// buffer.
pub(super) const SMALL_RESPONSE_BYTES: usize = socket::SEND_BUFFER_BYTES / 2;
/// tiny_http has read bodies up to this size before a worker sees the request.
pub(super) const BUFFERED_BODY_BYTES: usize = 1024;

/// The parts of the server that an incoming request needs until it is answered.
pub(super) struct Parts {
    pub(super) listener: Arc<Listener>,
    pub(super) peers: Arc<Peers>,
    pub(super) poller: Arc<Poller>,
}

pub(super) struct IncomingRequest {
    pub(super) head: tiny_http::Request,
    /// A body that tiny_http had not buffered, once the poller has read it.
    pub(super) body: Option<Result<Body, Error>>,
    /// When a worker first had the request, in seconds since 1970.
    pub(super) received_s: i64,
    /// Memory for a response that does not fit into the kernel's buffer.
    buffer: Option<Reservation>,
    pub(super) parts: Arc<Parts>,
    /// Dropped after the request, which answers 500 if it is dropped unanswered.
    slot: Slot<Listener>,
}

impl IncomingRequest {
    pub(super) fn new(request: RawRequest, slot: Slot<Listener>, parts: Arc<Parts>) -> Self {
        let RawRequest { head, body, received_s } = request;
        IncomingRequest { head, body, received_s, buffer: None, parts, slot }
    }

    pub(super) fn peer(&self) -> SocketAddr {
        self.slot.peer
    }

    pub(super) fn is_draining(&self) -> bool {
        self.parts.listener.is_draining()
    }

    /// The values of a header, in order.
    pub(super) fn headers<'a>(
        &'a self,
        name: &'static str,
    ) -> impl DoubleEndedIterator<Item = &'a str> + use<'a> {
        let headers = self.head.headers().iter();
        headers.filter(move |header| header.field.equiv(name)).map(|header| header.value.as_str())
    }

    /// Tells the monitor for what the connection waits.
    pub(super) fn enter(&self, phase: Phase) {
        let (peer, now) = (self.peer(), Instant::now());
        self.parts.peers.admission.with(|connections| connections.enter(peer, phase, now));
    }

    /// Reserves memory for a response of this length. False if there is none.
    pub(super) fn reserve_buffer(&mut self, length: usize) -> bool {
        if length <= SMALL_RESPONSE_BYTES {
            return true;
        }
        let mut buffer = self.empty_reservation();
        let has_memory = buffer.grow(length);
        self.buffer = has_memory.then_some(buffer);
        has_memory
    }

    pub(super) fn empty_reservation(&self) -> Reservation {
        self.parts.poller.budget.bytes.reserve_nothing(self.peer().ip())
    }

    /// The client may have much to read: the backpressure check is due before the next response.
    pub(super) fn require_check(&self) {
        self.parts.peers.admission.with(|connections| connections.require_check(self.peer()));
    }

    /// Writes a whole response, and closes the connection where `is_last`.
    pub(super) fn write(self, bytes: &[u8], is_last: bool) {
        let IncomingRequest { head, slot, parts, .. } = self;
        let mut writer = head.into_writer();
        let written = writer.write_all(bytes).and_then(|()| writer.flush());
        // The next response on this connection waits for this drop.
        drop(writer);
        if let Err(error) = written {
            // Half a response may be out: nothing may follow it.
            parts.peers.refuse(slot.peer);
            let is_gone = [
                io::ErrorKind::BrokenPipe,
                io::ErrorKind::ConnectionReset,
                io::ErrorKind::NotConnected,
            ];
            if !is_gone.contains(&error.kind()) {
                parts.peers.disconnect(slot.peer, Disconnect::Answer);
            }
        } else if is_last && let Ok(Some(stream)) = parts.peers.scans.find(slot.peer) {
            end(&stream);
        }
    }

    /// The response has been written past tiny_http.
    pub(super) fn finish(self, stream: &TcpStream, is_last: bool) {
        drop(self.head.into_writer());
        if is_last {
            end(stream);
        }
    }

    /// Processes nothing more of the connection after this request.
    pub(super) fn refuse(&self) {
        self.parts.peers.refuse(self.peer());
    }

    /// Resets the connection, for this reason.
    pub(super) fn disconnect(self, stream: &TcpStream, reason: Disconnect) {
        self.refuse();
        self.parts.peers.reset(Some(stream), Some(self.peer()), reason);
        self.abandon(stream);
    }

    /// Closes the connection without a response.
    pub(super) fn abandon(self, stream: &TcpStream) {
        self.refuse();
        let _ = stream.shutdown(Shutdown::Both);
        discard(self.head);
    }

    /// Finds the connection's socket. Without one, the request ends here.
    pub(super) fn with_stream(self) -> Option<(IncomingRequest, TcpStream)> {
        let found = self.parts.peers.scans.find(self.peer());
        if let Ok(Some(stream)) = found {
            return Some((self, stream));
        }
        self.refuse();
        match found {
            Ok(_) => discard(self.head),
            // The connection may be alive. A drop of its request would wait for what the client
            // still sends.
            Err(_) => std::mem::forget(self.head),
        }
        None
    }

    /// Gives the request back to the workers, with its body or what to answer instead. `reason`
    /// says what the client did wrong, if it did.
    pub(super) fn resume(
        self,
        stream: &TcpStream,
        body: Result<Body, Error>,
        reason: Option<Disconnect>,
    ) {
        let _ = stream.set_nonblocking(false);
        if let Some(reason) = reason {
            self.parts.peers.metrics.connections_closed.increment(reason);
        }
        self.enter(Phase::InFlight);
        let IncomingRequest { head, slot, parts, received_s, .. } = self;
        let request = RawRequest { head, body: Some(body), received_s };
        parts.peers.admission.wake(Received::Request(request, slot));
    }
}

/// tiny_http sees the end of the stream, and closes the connection in good order.
fn end(stream: &TcpStream) {
    let _ = stream.shutdown(Shutdown::Read);
}

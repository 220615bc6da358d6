//! A request that has arrived, on its connection's turn: how its body is had, how it is answered,
//! how it ends.
//!
//! Workers never wait for a client: bodies that tiny_http has not buffered (H5b), answers that the
//! kernel may not take at once, and refusals go to the thread that waits.

use std::{
    io::{self, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::Arc,
};

use super::{
    listener::{Listener, Phase},
    poller::{Item, Reserved, Work},
    socket,
    stream::Stream,
};
use crate::metrics::Disconnect;

/// Answers up to this size are sent by whoever has them: they fit into the kernel's buffer.
const ANSWER_BUFFERED_BYTES: usize = socket::SEND_BUFFER_BYTES / 2;
/// Bodies up to this size are in memory before a worker sees the request (tiny_http's request.rs).
pub(crate) const BODY_BUFFERED_BYTES: usize = 1024;
/// tiny_http allocates the unread rest of a declared body when the request is dropped (H1). Up to
/// here that is address space only; beyond, the request is never dropped.
const DECLARED_BYTES_MAX: usize = 256 * 1024 * 1024;

/// A request whose turn it is on its connection.
pub(crate) struct Arrival {
    pub(crate) request: tiny_http::Request,
    /// What the thread that waits has made of a body that tiny_http had not buffered.
    pub(super) body: Option<Result<Body, Missing>>,
    /// Memory for an answer that does not fit into the kernel's.
    room: Option<Reserved>,
    /// Dropped after the request, which answers 500 if it is dropped unanswered.
    pub(super) turn: Turn,
}

pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    pub(super) _memory: Reserved,
}

/// Why there is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// The client ended before the declared length.
    Short,
    /// Not all of it came in time.
    Late,
    /// Too much waits in memory already.
    NoRoom,
}

/// The right to be answered, which passes to the connection's next request when it is dropped.
pub(super) struct Turn {
    pub(super) peer: SocketAddr,
    pub(super) listener: Arc<Listener>,
}

impl Turn {
    pub(super) fn new(peer: SocketAddr, listener: Arc<Listener>) -> Turn {
        Turn { peer, listener }
    }

    fn stream(&self) -> Option<TcpStream> {
        self.listener.scans.find(self.peer).ok().flatten()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.listener.release(self.peer);
    }
}

impl Arrival {
    pub(super) fn new(request: tiny_http::Request, turn: Turn) -> Arrival {
        Arrival { request, body: None, room: None, turn }
    }

    /// The client has ended the connection, or its half of it.
    pub(crate) fn is_over(&self) -> bool {
        self.turn.stream().is_none_or(|stream| socket::is_over(&stream))
    }

    pub(crate) fn peer(&self) -> SocketAddr {
        self.turn.peer
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.turn.listener.is_draining()
    }

    /// The body, if it was waited for.
    pub(crate) fn take_body(&mut self) -> Option<Result<Vec<u8>, Missing>> {
        self.body.take().map(|body| body.map(|body| body.bytes))
    }

    /// The body is not in memory: it comes back through [`Listener::next`] when it is, or is given
    /// back here when too many wait already.
    pub(crate) fn read_body(self, length: usize) -> Result<(), Arrival> {
        let listener = Arc::clone(&self.turn.listener);
        let Some((arrival, stream)) = self.with_stream() else { return Ok(()) };
        // tiny_http's own thread waits for this body to be read before it touches the socket again.
        let _ = stream.set_nonblocking(true);
        listener.enter(arrival.turn.peer, Phase::Body);
        let memory = listener.waiting.memory(arrival.turn.peer.ip());
        let work = Work::Body { bytes: Vec::new(), length, memory };
        listener.waiting.add(Item::new(arrival, stream, work)).map_err(|item| {
            let _ = item.stream.set_nonblocking(false);
            listener.enter(item.arrival.turn.peer, Phase::InHand);
            item.arrival
        })
    }

    /// Finds memory for an answer of this length; false if there is none.
    pub(crate) fn make_room(&mut self, length: usize) -> bool {
        if length <= ANSWER_BUFFERED_BYTES {
            return true;
        }
        let mut room = self.turn.listener.waiting.memory(self.turn.peer.ip());
        let found = room.grow(length);
        self.room = found.then_some(room);
        found
    }

    /// Sends the whole answer and gives the connection's turn on, or ends it where `is_last`.
    pub(crate) fn answer(mut self, bytes: Vec<u8>, is_last: bool) {
        let listener = Arc::clone(&self.turn.listener);
        if bytes.len() <= ANSWER_BUFFERED_BYTES && listener.reads(self.turn.peer, bytes.len()) {
            return self.send(&bytes, is_last);
        }
        listener.doubt(self.turn.peer);
        let memory =
            self.room.take().unwrap_or_else(|| listener.waiting.memory(self.turn.peer.ip()));
        let Some((arrival, stream)) = self.with_stream() else { return };
        let work = Work::Answer { bytes, sent: 0, is_last, _memory: memory };
        if let Err(item) = listener.waiting.add(Item::new(arrival, stream, work)) {
            item.arrival.cut(&item.stream, Disconnect::Answer);
        }
    }

    /// Begins an answer that is sent as it comes; `None` if the connection is over.
    pub(crate) fn stream(self) -> Option<Stream> {
        Stream::new(self)
    }

    fn send(self, bytes: &[u8], is_last: bool) {
        let Arrival { request, turn, .. } = self;
        let mut writer = request.into_writer();
        let sent = writer.write_all(bytes).and_then(|()| writer.flush());
        // The next answer on this connection waits for this drop.
        drop(writer);
        if let Err(error) = sent {
            // Half an answer may be out: nothing may follow it.
            turn.listener.refuse(turn.peer);
            let is_gone = [
                io::ErrorKind::BrokenPipe,
                io::ErrorKind::ConnectionReset,
                io::ErrorKind::NotConnected,
            ];
            if !is_gone.contains(&error.kind()) {
                turn.listener.cut(turn.peer, Disconnect::Answer);
            }
        } else if is_last && let Some(stream) = turn.stream() {
            end(&stream);
        }
    }

    /// The answer has been sent past tiny_http.
    pub(super) fn sent(self, stream: &TcpStream, is_last: bool) {
        drop(self.request.into_writer());
        if is_last {
            end(stream);
        }
    }

    /// Sends an answer after which this connection is over, without reading what the client sends
    /// (H8): straight to the socket, since tiny_http would first read the body to its end.
    pub(crate) fn refuse(self, bytes: &[u8]) {
        let listener = Arc::clone(&self.turn.listener);
        listener.refuse(self.turn.peer);
        let Some((arrival, stream)) = self.with_stream() else { return };
        if socket::send_now(&stream, bytes).is_err() {
            return arrival.abandon(&stream);
        }
        // Closing a socket with unread bytes resets it, and the client would never read the refusal.
        let _ = stream.shutdown(Shutdown::Write);
        if arrival.holds_back_heads() {
            listener.enter(arrival.turn.peer, Phase::Body);
        }
        let work = Work::Refusal { discarded: 0 };
        if let Err(item) = listener.waiting.add(Item::new(arrival, stream, work)) {
            item.arrival.abandon(&item.stream);
        }
    }

    /// tiny_http reads the connection's next head only when this request is done, since its body is
    /// unread.
    fn holds_back_heads(&self) -> bool {
        let header = |name: &'static str| {
            let mut headers = self.request.headers().iter();
            headers.find(|header| header.field.equiv(name)).map(|header| header.value.as_str())
        };
        let is_upgrade = |value: &str| value.to_ascii_lowercase().contains("upgrade");
        let length = self.request.body_length().unwrap_or(0);
        length > BODY_BUFFERED_BYTES
            || (length > 0 && header("Expect").is_some())
            || header("Transfer-Encoding").is_some()
            || header("Connection").is_some_and(is_upgrade)
    }

    /// Ends the connection, for this reason.
    pub(super) fn cut(self, stream: &TcpStream, reason: Disconnect) {
        self.turn.listener.refuse(self.turn.peer);
        self.turn.listener.cut_stream(Some(stream), Some(self.turn.peer), reason);
        self.abandon(stream);
    }

    /// Ends the connection without an answer.
    pub(super) fn abandon(self, stream: &TcpStream) {
        let Arrival { request, turn, .. } = self;
        turn.listener.refuse(turn.peer);
        let _ = stream.shutdown(Shutdown::Both);
        discard(request);
    }

    /// Finds the connection's socket; without one, the request ends here.
    pub(super) fn with_stream(self) -> Option<(Arrival, TcpStream)> {
        let found = self.turn.listener.scans.find(self.turn.peer);
        if let Ok(Some(stream)) = found {
            return Some((self, stream));
        }
        let Arrival { request, turn, .. } = self;
        turn.listener.refuse(turn.peer);
        match found {
            Ok(_) => discard(request),
            // The connection may be alive. Dropped, its request would make this thread wait for what
            // the client still sends.
            Err(_) => std::mem::forget(request),
        }
        None
    }

    /// Back to the workers, with a body or the reason why there is none.
    pub(super) fn come_back(mut self, stream: &TcpStream, body: Result<Body, Missing>) {
        let _ = stream.set_nonblocking(false);
        match body {
            Err(Missing::Short) => {
                self.turn.listener.metrics.connections_closed.increment(Disconnect::Short);
            }
            Err(Missing::Late) => {
                self.turn.listener.metrics.connections_closed.increment(Disconnect::Body);
            }
            Err(Missing::NoRoom) | Ok(_) => {}
        }
        self.body = Some(body);
        self.turn.listener.enter(self.turn.peer, Phase::InHand);
        let listener = Arc::clone(&self.turn.listener);
        listener.hand_over(self);
    }

    /// What has arrived of the body; an error of [`io::ErrorKind::WouldBlock`] means "not yet".
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.request.as_reader().read(buffer)
    }
}

/// tiny_http sees the end of the stream, and ends the connection in good order.
fn end(stream: &TcpStream) {
    let _ = stream.shutdown(Shutdown::Read);
}

/// Drops a request of a connection that has been shut, in whatever order: what is never written to
/// waits for nobody.
pub(super) fn discard(request: tiny_http::Request) {
    // To drop it, tiny_http would allocate the unread rest of the body (H1).
    if request.body_length().is_some_and(|length| length > DECLARED_BYTES_MAX) {
        std::mem::forget(request);
    } else {
        drop(request.into_writer());
    }
}

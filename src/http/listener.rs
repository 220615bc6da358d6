//! The listening socket and tiny_http behind it: receive, unblock, drain.

use std::{
    io,
    mem::{self, ManuallyDrop},
    net::{SocketAddr, TcpListener},
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use super::{admission::Source, body::Body, socket};
use crate::{error::Error, logging};

/// A dropped request makes tiny_http allocate the unread rest of the declared body (H1). Up to this
/// length that is address space only; beyond it, the request is never dropped.
const DECLARED_BYTES_MAX: usize = 256 * 1024 * 1024;

pub(super) struct Listener {
    /// Our handle on the socket. `server` has its own.
    pub(super) socket: TcpListener,
    address: SocketAddr,
    /// Never dropped: its drop connects to itself, blocking (H13). The process ends instead.
    server: OnceLock<ManuallyDrop<tiny_http::Server>>,
    /// When draining began.
    draining: OnceLock<Instant>,
    /// False as soon as tiny_http's accept loop is known to have ended.
    accepting: AtomicBool,
}

/// A request as tiny_http has parsed it, and its body if the poller has read it.
pub(super) struct RawRequest {
    pub(super) head: tiny_http::Request,
    pub(super) body: Option<Result<Body, Error>>,
    /// When a worker first had it, in seconds since 1970.
    pub(super) received_s: i64,
}

impl Listener {
    pub(super) fn of(socket: TcpListener) -> io::Result<Listener> {
        Ok(Listener {
            address: socket.local_addr()?,
            socket,
            server: OnceLock::new(),
            draining: OnceLock::new(),
            accepting: AtomicBool::new(true),
        })
    }

    /// Starts tiny_http, which accepts connections at once.
    pub(super) fn accept(&self) -> io::Result<()> {
        let server = tiny_http::Server::from_listener(self.socket.try_clone()?, None)
            .map_err(|error| io::Error::other(error.to_string()))?;
        let _ = self.server.set(ManuallyDrop::new(server));
        Ok(())
    }

    /// Blocks until tiny_http has been started.
    fn server(&self) -> &tiny_http::Server {
        self.server.wait()
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn is_accepting(&self) -> bool {
        self.accepting.load(SeqCst)
    }

    pub(super) fn set_not_accepting(&self) {
        self.accepting.store(false, SeqCst);
    }

    /// Accepts no more connections. Responses from now on close theirs.
    pub(super) fn drain(&self, keeps_socket: bool) -> io::Result<()> {
        let _ = self.draining.set(Instant::now());
        if keeps_socket {
            socket::stop_accepting(&self.socket)
        } else {
            socket::stop_listening(&self.socket)
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.get().is_some()
    }

    /// The time since draining began.
    pub(super) fn draining_time(&self) -> Option<Duration> {
        self.draining.get().map(Instant::elapsed)
    }
}

impl Source for Listener {
    type Request = RawRequest;

    fn receive(&self) -> io::Result<Option<(SocketAddr, RawRequest)>> {
        loop {
            let head = match self.server().recv() {
                Ok(head) => head,
                // This is how tiny_http says that it was unblocked.
                Err(error) if error.kind() == io::ErrorKind::Other => return Ok(None),
                Err(error) => return Err(error),
            };
            // Every TCP connection has a peer address.
            if let Some(peer) = head.remote_addr().copied() {
                let received_s = logging::now_seconds();
                return Ok(Some((peer, RawRequest { head, body: None, received_s })));
            }
        }
    }

    fn unblock(&self) {
        self.server().unblock();
    }

    fn discard(request: RawRequest) {
        discard(request.head);
    }
}

/// Drops a request without a response. Its connection must have been shut down, or this waits for
/// what the client still sends.
pub(super) fn discard(request: tiny_http::Request) {
    if request.body_length().is_some_and(|length| length > DECLARED_BYTES_MAX) {
        mem::forget(request);
    } else {
        // Without a write, tiny_http does not wait for the responses before this one.
        drop(request.into_writer());
    }
}

//! Scans of this process's descriptors for its connections, one at a time for all threads.
//!
//! A scan takes longer the more connections are open. A thread that needs one waits for a scan that
//! begins after its request, and every thread that waits by then shares the result.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use super::descriptors::{Descriptors, Socket};
use crate::{http::connections::SocketId, threads::lock};

pub(in crate::http) struct Scans {
    /// The result of the newest scan. Its readers never wait for a scan that is under way.
    last: Mutex<Arc<[Socket]>>,
    /// How many scans have begun.
    begun: AtomicU64,
    scanner: Mutex<Scanner>,
}

struct Scanner {
    descriptors: Descriptors,
    /// The number of the newest scan that has succeeded.
    completed: u64,
}

impl Scans {
    pub(in crate::http) fn of(listener: &TcpListener) -> io::Result<Scans> {
        let scanner = Scanner { descriptors: Descriptors::of(listener)?, completed: 0 };
        Ok(Scans {
            last: Mutex::new(Arc::new([])),
            begun: AtomicU64::new(0),
            scanner: Mutex::new(scanner),
        })
    }

    fn last(&self) -> Arc<[Socket]> {
        Arc::clone(&lock(&self.last))
    }

    /// All connections that are open now.
    ///
    /// # Errors
    /// When no descriptor is free to scan with.
    pub(super) fn scan(&self) -> io::Result<Arc<[Socket]>> {
        let before = self.begun.load(SeqCst);
        let mut scanner = lock(&self.scanner);
        if scanner.completed > before {
            return Ok(self.last());
        }
        let number = self.begun.fetch_add(1, SeqCst) + 1;
        let found: Arc<[Socket]> = scanner.descriptors.scan()?.into();
        *lock(&self.last) = Arc::clone(&found);
        scanner.completed = number;
        Ok(found)
    }

    /// The connection from `peer`, if it is alive. `None` also where a dead connection has the same
    /// address, since it is not known then to which of the two a request belongs.
    ///
    /// # Errors
    /// When no descriptor is free to scan with.
    pub(in crate::http) fn find(&self, peer: SocketAddr) -> io::Result<Option<TcpStream>> {
        let find = |sockets: &[Socket]| {
            let mut known = sockets.iter().filter(|socket| socket.peer == Some(peer));
            let (socket, other) = (known.next()?, known.next());
            if other.is_some() { None } else { socket.open_alive() }
        };
        let known = find(&self.last());
        if known.is_some() { Ok(known) } else { self.scan().map(|sockets| find(&sockets)) }
    }

    /// The socket of the request in flight from `peer`, if the request can belong to no other
    /// socket. A socket whose connection was closed before a scan found it has no address, and may
    /// have had this one.
    pub(super) fn unique_socket(&self, peer: SocketAddr) -> Option<SocketId> {
        let is_found = |one: &Socket| one.peer == Some(peer) && one.open_alive().is_some();
        let mut sockets = self.last();
        if !sockets.iter().any(is_found) {
            sockets = self.scan().ok()?;
        }
        let mut candidates = sockets.iter().filter(|one| one.peer.is_none_or(|own| own == peer));
        let (socket, other) = (candidates.next()?, candidates.next());
        (other.is_none() && socket.open_alive().is_some()).then_some(socket.id)
    }

    /// Whether the socket is closed, so that tiny_http has no request of it any more.
    pub(super) fn is_closed(&self, id: SocketId) -> bool {
        let is_open = |one: &Socket| one.id == id && one.open().is_some();
        // The descriptor that is known may be closed while the other one is open.
        !self.last().iter().any(is_open)
            && self.scan().is_ok_and(|sockets| sockets.iter().all(|one| one.id != id))
    }
}

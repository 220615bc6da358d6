//! Scans of this process's descriptors for its connections, one at a time for all threads.
//!
//! A scan takes longer the more connections are open. A thread that needs one waits for a scan that
//! begins after it has asked, and every thread that was waiting by then shares the result.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use crate::http::{
    listener::lock,
    socket::{Socket, Sockets},
};

pub(in crate::http) struct Scans {
    /// What the newest scan has found. Readers never wait for a scan that is under way.
    last: Mutex<Arc<[Socket]>>,
    /// How many scans have begun.
    begun: AtomicU64,
    scanner: Mutex<Scanner>,
}

struct Scanner {
    sockets: Sockets,
    /// The number of the newest scan that has succeeded.
    completed: u64,
}

impl Scans {
    pub(in crate::http) fn of(listener: &TcpListener) -> io::Result<Scans> {
        let scanner = Scanner { sockets: Sockets::of(listener)?, completed: 0 };
        Ok(Scans {
            last: Mutex::new(Arc::new([])),
            begun: AtomicU64::new(0),
            scanner: Mutex::new(scanner),
        })
    }

    fn last(&self) -> Arc<[Socket]> {
        Arc::clone(&lock(&self.last))
    }

    /// All connections there are now.
    ///
    /// # Errors
    /// When no descriptor is free to scan with.
    pub(in crate::http) fn scan(&self) -> io::Result<Arc<[Socket]>> {
        let before = self.begun.load(SeqCst);
        let mut scanner = lock(&self.scanner);
        if scanner.completed > before {
            return Ok(self.last());
        }
        let number = self.begun.fetch_add(1, SeqCst) + 1;
        let found: Arc<[Socket]> = scanner.sockets.scan()?.into();
        *lock(&self.last) = Arc::clone(&found);
        scanner.completed = number;
        Ok(found)
    }

    /// The connection from `peer`, if it is still alive. `None` too where a dead connection has the
    /// same address, because a request's connection cannot be told then.
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

    /// The socket of the request from `peer` that is in hand, if that request can be of no other. A
    /// socket that was dead before a scan found it has no address, and may have had this one before.
    pub(in crate::http) fn unique(&self, peer: SocketAddr) -> Option<Socket> {
        let is_found = |one: &Socket| one.peer == Some(peer) && one.open_alive().is_some();
        let mut sockets = self.last();
        if !sockets.iter().any(is_found) {
            sockets = self.scan().ok()?;
        }
        let mut candidates = sockets.iter().filter(|one| one.peer.is_none_or(|own| own == peer));
        let (socket, other) = (candidates.next()?, candidates.next());
        (other.is_none() && socket.open_alive().is_some()).then_some(*socket)
    }

    /// Whether the socket is closed, so that tiny_http has no request of it any more.
    pub(in crate::http) fn is_closed(&self, socket: &Socket) -> bool {
        // One of its descriptors may be closed before the other.
        let has_other =
            || self.scan().map_or(true, |all| all.iter().any(|one| one.inode == socket.inode));
        socket.open().is_none() && !has_other()
    }
}

//! The accepted connections of this process, found by their descriptors, since tiny_http does not
//! show them.

use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::RawFd,
};

use crate::http::{
    connections::SocketId,
    socket::{inode, open_socket, socket_inode},
};

/// The socket of an accepted connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Socket {
    /// One of its descriptors, which tiny_http may close at any time.
    number: RawFd,
    pub(super) id: SocketId,
    /// `None` if the connection was closed before the socket was found.
    pub(super) peer: Option<SocketAddr>,
}

impl Socket {
    /// A handle, if the socket is still open. It keeps the socket from being closed, not from being
    /// shut down.
    pub(super) fn open(&self) -> Option<TcpStream> {
        open_socket(self.number, self.id).ok()
    }

    /// The same, if the connection is alive. A dead one may linger beside a new one with the same
    /// address.
    pub(super) fn open_alive(&self) -> Option<TcpStream> {
        self.open().filter(|stream| stream.peer_addr().ok() == self.peer)
    }
}

/// The accepted connections of one listening port.
#[derive(Debug)]
pub(super) struct Descriptors {
    port: u16,
    /// Each socket is identified only once. `None`: it is not a connection of the port.
    known: HashMap<SocketId, Option<Socket>>,
}

impl Descriptors {
    pub(super) fn of(listener: &TcpListener) -> io::Result<Descriptors> {
        // The listener has the port, too, and looks like a connection once it listens no more.
        let known = HashMap::from([(inode(listener)?, None)]);
        Ok(Descriptors { port: listener.local_addr()?.port(), known })
    }

    /// Asks the kernel for the inode of every descriptor, by number: a walk through /proc/self/fd
    /// takes ten times as long.
    ///
    /// # Errors
    /// When no descriptor is free, and a scan could not see the connections that there are.
    pub(super) fn scan(&mut self) -> io::Result<Vec<Socket>> {
        let mut known = HashMap::with_capacity(self.known.len());
        for number in 0..table_size()? {
            let Some(id) = socket_inode(number) else { continue };
            // tiny_http has two descriptors of each socket.
            if known.contains_key(&id) {
                continue;
            }
            let socket = match self.known.get(&id) {
                Some(Some(socket)) => Ok(Some(Socket { number, ..*socket })),
                Some(None) => Ok(None),
                None => self.identify(number, id),
            };
            match socket {
                Ok(socket) => drop(known.insert(id, socket)),
                Err(error) if error.raw_os_error() == Some(libc::EMFILE) => return Err(error),
                // It was closed meanwhile. The socket's other descriptor may still be open.
                Err(_) => {}
            }
        }
        self.known = known;
        Ok(self.known.values().flatten().copied().collect())
    }

    fn identify(&self, number: RawFd, id: SocketId) -> io::Result<Option<Socket>> {
        let stream = open_socket(number, id)?;
        let is_connection = stream.local_addr()?.port() == self.port;
        Ok(is_connection.then(|| Socket { number, id, peer: stream.peer_addr().ok() }))
    }
}

/// Every descriptor's number is below this.
fn table_size() -> io::Result<RawFd> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")?.trim().parse().ok());
    size.ok_or_else(|| io::Error::other("/proc/self/status has no FDSize"))
}

//! Sockets as tiny_http does not show them: the listening one with its options, and the accepted
//! ones, found from outside.
//!
//! The one module with `unsafe`, in one line: a descriptor's number is borrowed to duplicate it.

use std::{
    collections::HashSet,
    fs, io,
    mem::{ManuallyDrop, MaybeUninit},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::{BorrowedFd, OwnedFd, RawFd},
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// Connections that the kernel holds until tiny_http accepts them.
pub(crate) const BACKLOG_MAX: i32 = 1024;
/// How long one write to a client that does not read may take. Short, since whoever answers a
/// batch waits that long; more is granted to answers that do not fit into the kernel's buffer.
pub(crate) const SEND_MS_MAX: u64 = 250;
/// What the kernel holds of answers that a client has not read. An answer of up to half of it never
/// makes its writer wait for a client that reads.
pub(crate) const SEND_BUFFER_BYTES: usize = 256 * 1024;
/// What the kernel holds of requests that nobody has read. Small, because tiny_http makes kilobytes
/// of each pipelined request of 20 bytes, and parses on after a connection has been cut (H6).
const RECEIVE_BUFFER_BYTES: usize = 16 * 1024;
/// A peer that vanished without a word is noticed after about a minute: 30 s of silence, then
/// three probes 10 s apart.
const KEEPALIVE_IDLE_MS: u64 = 30_000;
const KEEPALIVE_INTERVAL_MS: u64 = 10_000;
const KEEPALIVE_PROBES: u32 = 3;

/// A listening socket whose options every accepted connection inherits on Linux.
/// No receive timeout: that would end tiny_http's accept loop.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // Without it an answer in two segments waits 40 ms for the client's delayed ACK (H12).
    socket.set_tcp_nodelay(true)?;
    socket.set_write_timeout(Some(Duration::from_millis(SEND_MS_MAX)))?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_millis(KEEPALIVE_IDLE_MS))
        .with_interval(Duration::from_millis(KEEPALIVE_INTERVAL_MS))
        .with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG_MAX)?;
    Ok(socket.into())
}

/// Makes a blocked `accept` of ours return and refuses whoever connects from now on.
pub(crate) fn stop_listening(listener: &TcpListener) -> io::Result<()> {
    SockRef::from(listener).shutdown(Shutdown::Read)
}

/// Ends a connection at once. A plain close would leave a client that goes on sending hanging for a
/// minute: what is not read closes its window, and nothing tells it why.
pub(crate) fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
    let _ = stream.shutdown(Shutdown::Both);
}

/// Sends what the kernel takes without waiting.
pub(crate) fn send_now(stream: &TcpStream, bytes: &[u8]) {
    let _ = SockRef::from(stream).send_with_flags(bytes, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
}

/// A second handle on an accepted connection; dropping it closes nothing.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    pub(crate) peer: SocketAddr,
    /// The kernel's name for the socket, unique while it is open.
    pub(crate) inode: String,
}

impl Connection {
    /// Bytes have arrived that nobody has read.
    pub(crate) fn has_unread(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        SockRef::from(&self.stream).recv_with_flags(&mut byte, flags).is_ok_and(|length| length > 0)
    }
}

/// The open connections to our `port`.
pub(crate) fn connections(port: u16) -> impl Iterator<Item = Connection> {
    // tiny_http holds two descriptors of each socket.
    let mut seen = HashSet::new();
    fs::read_dir("/proc/self/fd").into_iter().flatten().filter_map(move |entry| {
        let entry = entry.ok()?;
        let target = fs::read_link(entry.path()).ok()?;
        let inode = target.to_str()?.strip_prefix("socket:")?.to_owned();
        if !seen.insert(inode.clone()) {
            return None;
        }
        let stream = TcpStream::from(duplicate(entry.file_name().to_str()?.parse().ok()?)?);
        let peer = stream.peer_addr().ok()?;
        (stream.local_addr().ok()?.port() == port).then_some(Connection { stream, peer, inode })
    })
}

/// A duplicate of `number`, if that is a socket.
fn duplicate(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: the number was just listed and is not -1. Should its owner have closed it meanwhile,
    // `dup` fails, or duplicates whatever has the number now; the caller looks at what it got.
    // Nothing is read, written or closed by number.
    #[expect(unsafe_code, reason = "std has no safe way to duplicate a descriptor by number")]
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    // Closing any descriptor of the database file would drop SQLite's locks on it
    // (docs/ARCHITECTURE.md), so what is not surely a socket is never closed.
    let duplicate = ManuallyDrop::new(borrowed.try_clone_to_owned().ok()?);
    let is_socket = SockRef::from(&*duplicate).r#type().is_ok();
    is_socket.then(|| ManuallyDrop::into_inner(duplicate))
}

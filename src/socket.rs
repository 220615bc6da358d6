//! A connection's socket, found from outside tiny_http, which gives no access to it.
//!
//! The one module with `unsafe`, in one line: a descriptor's number is borrowed to duplicate it.

use std::{
    fs,
    io,
    mem::ManuallyDrop,
    net::{SocketAddr, TcpStream},
    os::fd::{BorrowedFd, OwnedFd, RawFd},
};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::{net::TcpListener, time::Duration};

/// Connections that the kernel holds until tiny_http accepts them.
pub(crate) const BACKLOG_MAX: i32 = 1024;
/// How long one write to a client that does not read may take.
pub(crate) const SEND_MS_MAX: u64 = 5_000;
/// A peer that vanished without a word is noticed after about a minute: 30 s of silence, then
/// three probes 10 s apart.
const KEEPALIVE_IDLE_MS: u64 = 30_000;
const KEEPALIVE_INTERVAL_MS: u64 = 10_000;
const KEEPALIVE_PROBES: u32 = 3;

/// A listening socket whose options every accepted connection inherits (research/tiny_http.md §2).
/// No receive timeout: that would end tiny_http's accept loop.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // Without it an answer in two segments waits 40 ms for the client's delayed ACK (H12).
    socket.set_tcp_nodelay(true)?;
    socket.set_write_timeout(Some(Duration::from_millis(SEND_MS_MAX)))?;
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
    SockRef::from(listener).shutdown(std::net::Shutdown::Read)
}

/// A second handle on the connection from `peer` to our `port`, if it is still open.
pub(crate) fn connection(port: u16, peer: SocketAddr) -> Option<TcpStream> {
    let is_socket = |entry: &fs::DirEntry| {
        fs::read_link(entry.path())
            .is_ok_and(|target| target.to_str().is_some_and(|target| target.starts_with("socket:")))
    };
    fs::read_dir("/proc/self/fd")
        .ok()?
        .filter_map(Result::ok)
        .filter(is_socket)
        .filter_map(|entry| duplicate(entry.file_name().to_str()?.parse().ok()?))
        .map(TcpStream::from)
        .find(|stream| {
            stream.peer_addr().is_ok_and(|address| address == peer)
                && stream.local_addr().is_ok_and(|address| address.port() == port)
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
    // (research/storage.md §4), so what is not surely a socket is never closed.
    let duplicate = ManuallyDrop::new(borrowed.try_clone_to_owned().ok()?);
    let is_socket = SockRef::from(&*duplicate).r#type().is_ok();
    is_socket.then(|| ManuallyDrop::into_inner(duplicate))
}

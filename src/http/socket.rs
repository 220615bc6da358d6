//! Sockets below what std and tiny_http show: options, what the kernel knows of a connection, and
//! descriptors by their numbers.
//!
//! The one module with `unsafe`, in two lines: a descriptor is borrowed by its number to ask for
//! its inode or to duplicate it, and the kernel is asked how much a connection has received.

use std::{
    io::{self, ErrorKind},
    mem::{ManuallyDrop, MaybeUninit},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FileType, fstat},
    io::{FdFlags, fcntl_setfd, ioctl_fionread},
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect_unspec, listen,
        recv, send, socket_with, sockopt,
    },
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

/// Connections that the kernel holds until tiny_http accepts them.
pub(crate) const BACKLOG_MAX: i32 = 1024;
/// How long the write of a small response may block because the client does not read. The
/// backpressure check prevents that; this bounds it where the check was wrong.
pub(crate) const SEND_MS_MAX: u64 = 250;
/// Bytes of responses that the kernel holds for a client. A response of up to half of it never
/// blocks its writer, if the client reads.
pub(super) const SEND_BUFFER_BYTES: usize = 256 * 1024;
/// Bytes of requests that the kernel holds until tiny_http reads them. Small, because tiny_http
/// makes kilobytes of each pipelined request of 20 bytes (H6).
const RECEIVE_BUFFER_BYTES: usize = 16 * 1024;
/// A peer that vanished without closing the connection is noticed after about a minute: 30 s
/// without a packet, then three probes 10 s apart.
const KEEPALIVE_IDLE_MS: u64 = 30_000;
const KEEPALIVE_INTERVAL_MS: u64 = 10_000;
const KEEPALIVE_PROBES: u32 = 3;
/// How long a connection to the own listener may take: the backlog is full only under attack.
pub(crate) const CONNECT_MS_MAX: u64 = 50;

/// Binds a new listening socket to this address.
pub(crate) fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)?;
    prepare(socket)
}

/// Takes over the listening socket that systemd, or this process before it restarted in place, left
/// open.
pub(crate) fn inherit(number: RawFd) -> io::Result<TcpListener> {
    let wrong = || io::Error::other(format!("descriptor {number} is not a listening TCP socket"));
    let socket = duplicate(number).map_err(|_| wrong())?;
    let is_internet = sockopt::socket_domain(&socket)
        .is_ok_and(|domain| domain == AddressFamily::INET || domain == AddressFamily::INET6);
    let is_stream = sockopt::socket_type(&socket).is_ok_and(|kind| kind == SocketType::STREAM);
    let is_listening = sockopt::socket_acceptconn(&socket) == Ok(true);
    if is_internet && is_stream && is_listening { prepare(socket) } else { Err(wrong()) }
}

/// Sets the options that every accepted connection inherits on Linux, and listens.
/// No receive timeout: that would end tiny_http's accept loop.
fn prepare(socket: OwnedFd) -> io::Result<TcpListener> {
    // Without it a response in two segments waits 40 ms for the client's delayed ACK (H12).
    sockopt::set_tcp_nodelay(&socket, true)?;
    let send_max = Duration::from_millis(SEND_MS_MAX);
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(send_max))?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, None)?;
    sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER_BYTES)?;
    sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER_BYTES)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, Duration::from_millis(KEEPALIVE_IDLE_MS))?;
    sockopt::set_tcp_keepintvl(&socket, Duration::from_millis(KEEPALIVE_INTERVAL_MS))?;
    sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_PROBES)?;
    listen(&socket, BACKLOG_MAX)?;
    let listener = TcpListener::from(socket);
    // The process that passed it on may have changed that.
    listener.set_nonblocking(false)?;
    Ok(listener)
}

/// Refuses connections from now on, and makes a blocked `accept` of this process return.
pub(super) fn stop_listening(listener: &TcpListener) -> io::Result<()> {
    rustix::net::shutdown(listener, rustix::net::Shutdown::Read).map_err(io::Error::from)
}

/// Ends tiny_http's accept loop once it has accepted what the kernel holds. The socket goes on
/// listening, for the process that accepts on it next.
pub(super) fn stop_accepting(listener: &TcpListener) -> io::Result<()> {
    // The next `accept` that finds nothing fails, and that ends the loop...
    listener.set_nonblocking(true)?;
    // ...but an `accept` that blocks already needs a connection to return.
    connect_to_self(listener.local_addr()?).map(|_| ())
}

/// Keeps the listener open across an `exec`, under the number that this returns.
pub(super) fn pass_on(listener: &TcpListener) -> io::Result<RawFd> {
    fcntl_setfd(listener, FdFlags::empty())?;
    Ok(listener.as_raw_fd())
}

pub(super) fn connect_to_self(address: SocketAddr) -> io::Result<TcpStream> {
    TcpStream::connect_timeout(&reachable(address), Duration::from_millis(CONNECT_MS_MAX))
}

/// The address to connect to for a listener on `address`: an unspecified one becomes loopback.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}

/// Raises the limit on descriptors to the hard limit, and returns it.
pub(crate) fn raise_descriptor_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = setrlimit(Resource::Nofile, raised).map_or(limit.current, |()| limit.maximum);
    current.and_then(|current| usize::try_from(current).ok()).unwrap_or(usize::MAX)
}

/// Resets a connection, with what the kernel holds of it: after a plain shutdown tiny_http would
/// read on, and a client that goes on sending would hang for a minute.
pub(super) fn reset(stream: &TcpStream) {
    let _ = sockopt::set_socket_linger(stream, Some(Duration::ZERO));
    let _ = stream.shutdown(Shutdown::Both);
    let _ = connect_unspec(stream);
}

/// Sends what the kernel takes without blocking.
pub(super) fn send_now(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    send(stream, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).map_err(io::Error::from)
}

/// Drops up to `buffer`'s length of what has arrived. 0 is the end of the stream.
pub(super) fn discard_now(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    recv(stream, buffer, RecvFlags::DONTWAIT).map(|(_, length)| length).map_err(io::Error::from)
}

/// The backpressure check: whether the client has read most of what was sent to it.
pub(super) fn is_writable(stream: &TcpStream) -> bool {
    let mut polled = [PollFd::new(stream, PollFlags::OUT)];
    poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

/// Whether the client has closed the connection, or its half of it. POLLRDHUP would not do: it is
/// also set by this side's shutdown, and tiny_http shuts the reading half down after `Connection:
/// close`.
pub(super) fn is_closed_by_peer(stream: &TcpStream) -> bool {
    const ESTABLISHED: u8 = 1; // TCP_ESTABLISHED of the kernel's tcp_states.h
    info(stream).tcpi_state != ESTABLISHED
}

/// Bytes that the kernel holds because they have not been read.
pub(super) fn unread_bytes(stream: &TcpStream) -> u64 {
    ioctl_fionread(stream).unwrap_or(0)
}

/// Bytes that have arrived since the connection was opened.
pub(super) fn received_bytes(stream: &TcpStream) -> u64 {
    info(stream).tcpi_bytes_received
}

fn info(stream: &TcpStream) -> libc::tcp_info {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = u32::try_from(size_of::<libc::tcp_info>()).unwrap_or(0);
    // SAFETY: `info` has `length` bytes, of which the kernel fills a part. The rest stays zero,
    // which is valid, since `tcp_info` consists of integers.
    #[expect(unsafe_code, reason = "no maintained crate offers TCP_INFO")]
    unsafe {
        let (level, option) = (libc::IPPROTO_TCP, libc::TCP_INFO);
        libc::getsockopt(
            stream.as_raw_fd(),
            level,
            option,
            info.as_mut_ptr().cast(),
            &raw mut length,
        );
        info.assume_init()
    }
}

/// The inode of the socket that has this descriptor. `None`: it is not open, or not a socket.
pub(super) fn socket_inode(number: RawFd) -> Option<u64> {
    let stat = fstat(borrow(number)).ok()?;
    (FileType::from_raw_mode(stat.st_mode) == FileType::Socket).then_some(stat.st_ino)
}

/// The inode of a listening socket.
pub(super) fn inode(listener: &TcpListener) -> io::Result<u64> {
    Ok(fstat(listener)?.st_ino)
}

/// Another descriptor of the socket with this inode, if `number` is one of its descriptors.
pub(super) fn open_socket(number: RawFd, inode: u64) -> io::Result<TcpStream> {
    let descriptor = duplicate(number)?;
    let is_same = fstat(&descriptor)?.st_ino == inode;
    if is_same { Ok(descriptor.into()) } else { Err(ErrorKind::NotFound.into()) }
}

/// A duplicate of `number`, if that is a socket.
fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(ErrorKind::InvalidInput.into());
    }
    // Closing any descriptor of the database file would drop SQLite's locks on it
    // (docs/ARCHITECTURE.md), so a duplicate that is not known to be a socket is never closed.
    let duplicate = ManuallyDrop::new(borrow(number).try_clone_to_owned()?);
    sockopt::socket_type(duplicate.as_fd())?;
    Ok(ManuallyDrop::into_inner(duplicate))
}

/// A descriptor that another thread owns, by its number, which must not be negative.
fn borrow(number: RawFd) -> BorrowedFd<'static> {
    // SAFETY: the number is not -1. If its owner has closed it meanwhile, `dup` and `fstat` fail,
    // or are about what has the number now; their callers check what they got. Nothing is read,
    // written or closed by number.
    #[expect(unsafe_code, reason = "std has no safe way to borrow a descriptor by its number")]
    unsafe {
        BorrowedFd::borrow_raw(number)
    }
}

/// True for errors that mean "not now".
pub(super) fn is_not_yet(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

//! Sockets as tiny_http does not show them: the listening one with its options, and the accepted
//! ones, found from outside by their descriptors' numbers.
//!
//! The one module with `unsafe`, in two lines: a descriptor is borrowed by its number to ask for its
//! inode or to duplicate it, and the kernel is asked how much a connection has received.

use std::{
    collections::HashMap,
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
/// How long one write of whoever answers a batch may wait for a client that does not read. It never
/// does, since answers go elsewhere while a client is behind; this is for when that fails.
pub(crate) const SEND_MS_MAX: u64 = 250;
/// What the kernel holds of answers that a client has not read. An answer of up to half of it never
/// makes its writer wait for a client that reads.
pub(super) const SEND_BUFFER_BYTES: usize = 256 * 1024;
/// What the kernel holds of requests that nobody has read. Small, because tiny_http makes kilobytes
/// of each pipelined request of 20 bytes (H6).
const RECEIVE_BUFFER_BYTES: usize = 16 * 1024;
/// A peer that vanished without a word is noticed after about a minute: 30 s of silence, then
/// three probes 10 s apart.
const KEEPALIVE_IDLE_MS: u64 = 30_000;
const KEEPALIVE_INTERVAL_MS: u64 = 10_000;
const KEEPALIVE_PROBES: u32 = 3;
/// How long a connection to ourselves may take: the backlog is full only under attack.
pub(crate) const CONNECT_MS_MAX: u64 = 50;

/// A listening socket of our own.
pub(crate) fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)?;
    prepare(socket)
}

/// The listening socket that systemd, or this process before it started itself anew, left open.
pub(crate) fn inherit(number: RawFd) -> io::Result<TcpListener> {
    let wrong = || io::Error::other(format!("descriptor {number} is no listening TCP socket"));
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
    // Without it an answer in two segments waits 40 ms for the client's delayed ACK (H12).
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
    // Whoever had it before may have left it so.
    listener.set_nonblocking(false)?;
    Ok(listener)
}

/// Refuses whoever connects from now on, and makes a blocked `accept` of ours return.
pub(super) fn stop_listening(listener: &TcpListener) -> io::Result<()> {
    rustix::net::shutdown(listener, rustix::net::Shutdown::Read).map_err(io::Error::from)
}

/// Ends tiny_http's accept loop once it has taken what the kernel holds. The socket goes on taking
/// connections, for whoever accepts on it next.
pub(super) fn stop_accepting(listener: &TcpListener) -> io::Result<()> {
    // The next `accept` that finds nothing fails, and that ends the loop...
    listener.set_nonblocking(true)?;
    // ...but one that waits already needs something to find.
    connect_to_self(listener.local_addr()?).map(|_| ())
}

/// Lets a process that this one becomes by `exec` find the listener, by the number.
pub(super) fn pass_on(listener: &TcpListener) -> io::Result<RawFd> {
    fcntl_setfd(listener, FdFlags::empty())?;
    Ok(listener.as_raw_fd())
}

pub(super) fn connect_to_self(address: SocketAddr) -> io::Result<TcpStream> {
    TcpStream::connect_timeout(&reachable(address), Duration::from_millis(CONNECT_MS_MAX))
}

/// Where to connect to reach what listens on `address`.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}

/// Allows this process as many descriptors as it may have, and says how many these are.
pub(crate) fn raise_descriptor_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = setrlimit(Resource::Nofile, raised).map_or(limit.current, |()| limit.maximum);
    current.and_then(|current| usize::try_from(current).ok()).unwrap_or(usize::MAX)
}

/// Ends a connection at once, and with it what the kernel holds of it: a plain shutdown would let
/// tiny_http read on, and leave a client that goes on sending hanging for a minute.
pub(super) fn reset(stream: &TcpStream) {
    let _ = sockopt::set_socket_linger(stream, Some(Duration::ZERO));
    let _ = stream.shutdown(Shutdown::Both);
    let _ = connect_unspec(stream);
}

/// Sends what the kernel takes without waiting.
pub(super) fn send_now(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    send(stream, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).map_err(io::Error::from)
}

/// Drops up to `buffer`'s length of what has arrived; 0 is the end of the stream.
pub(super) fn discard_now(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    recv(stream, buffer, RecvFlags::DONTWAIT).map(|(_, length)| length).map_err(io::Error::from)
}

/// The client has read most of what was sent to it.
pub(super) fn has_room(stream: &TcpStream) -> bool {
    let mut polled = [PollFd::new(stream, PollFlags::OUT)];
    poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

/// The client has ended the connection, or its half of it. Not by POLLRDHUP: that also tells of our
/// own shutdown, and tiny_http shuts the reading half after `Connection: close`.
pub(super) fn is_over(stream: &TcpStream) -> bool {
    const ESTABLISHED: u8 = 1; // TCP_ESTABLISHED of the kernel's tcp_states.h
    info(stream).tcpi_state != ESTABLISHED
}

/// Bytes that have arrived and that nobody has read.
pub(super) fn unread(stream: &TcpStream) -> u64 {
    ioctl_fionread(stream).unwrap_or(0)
}

/// Bytes that have arrived since the connection was opened.
pub(super) fn received(stream: &TcpStream) -> u64 {
    info(stream).tcpi_bytes_received
}

fn info(stream: &TcpStream) -> libc::tcp_info {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = u32::try_from(size_of::<libc::tcp_info>()).unwrap_or(0);
    // SAFETY: `info` has `length` bytes, which the kernel fills in part. Zeros, which stand for what
    // it does not know, are a valid `tcp_info`: it is made of integers.
    #[expect(unsafe_code, reason = "no crate that is well kept asks for TCP_INFO")]
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

/// An accepted connection, found from outside.
#[derive(Debug, Clone, Copy)]
pub(super) struct Socket {
    /// One of its descriptors, which tiny_http may close at any time.
    number: RawFd,
    /// The kernel's name for it, unique while it is open.
    pub(super) inode: u64,
    /// `None` if the connection was over before it was found.
    pub(super) peer: Option<SocketAddr>,
}

impl Socket {
    /// A handle, if the socket is still open by this number. It keeps the connection from being
    /// closed, not from being shut.
    pub(super) fn open(&self) -> Option<TcpStream> {
        self.try_open().ok()
    }

    /// The same, if the connection is not over.
    pub(super) fn open_alive(&self) -> Option<TcpStream> {
        // A dead one may linger beside a new one with the same address.
        self.open().filter(|stream| stream.peer_addr().ok() == self.peer)
    }

    fn try_open(&self) -> io::Result<TcpStream> {
        let descriptor = duplicate(self.number)?;
        let is_same = fstat(&descriptor)?.st_ino == self.inode;
        if is_same { Ok(descriptor.into()) } else { Err(ErrorKind::NotFound.into()) }
    }
}

/// The accepted connections of one listening port, as a scan of all descriptors finds them.
#[derive(Debug)]
pub(super) struct Sockets {
    port: u16,
    /// By inode, so that a socket is asked only once whose it is: `None` is none of ours.
    known: HashMap<u64, Option<Socket>>,
}

impl Sockets {
    pub(super) fn of(listener: &TcpListener) -> io::Result<Sockets> {
        // It has the same port, and once it listens no more it looks like any other socket.
        let own = fstat(listener)?.st_ino;
        let port = listener.local_addr()?.port();
        Ok(Sockets { port, known: HashMap::from([(own, None)]) })
    }

    /// Asks the kernel for every descriptor's inode by its number, which takes a tenth of the time
    /// that a walk through /proc/self/fd takes.
    ///
    /// # Errors
    /// When no descriptor is free to scan with: that nothing was found would then mean nothing.
    pub(super) fn scan(&mut self) -> io::Result<Vec<Socket>> {
        let mut known = HashMap::with_capacity(self.known.len());
        for number in 0..descriptor_table_size()? {
            // Most of those that are not open; or it was closed meanwhile.
            let Ok(stat) = fstat(borrow(number)) else { continue };
            let is_socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
            let inode = stat.st_ino;
            // tiny_http has two descriptors of each socket.
            if !is_socket || known.contains_key(&inode) {
                continue;
            }
            let socket = match self.known.get(&inode) {
                Some(Some(socket)) => Ok(Some(Socket { number, ..*socket })),
                Some(None) => Ok(None),
                None => self.identify(number, inode),
            };
            match socket {
                Ok(socket) => drop(known.insert(inode, socket)),
                Err(error) if error.raw_os_error() == Some(libc::EMFILE) => return Err(error),
                // Closed meanwhile; its other descriptor may still be there.
                Err(_) => {}
            }
        }
        self.known = known;
        Ok(self.known.values().flatten().copied().collect())
    }

    fn identify(&self, number: RawFd, inode: u64) -> io::Result<Option<Socket>> {
        let socket = Socket { number, inode, peer: None };
        let stream = socket.try_open()?;
        let is_ours = stream.local_addr()?.port() == self.port;
        Ok(is_ours.then(|| Socket { peer: stream.peer_addr().ok(), ..socket }))
    }
}

/// No descriptor's number is as large as this.
fn descriptor_table_size() -> io::Result<RawFd> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")?.trim().parse().ok());
    size.ok_or_else(|| io::Error::other("/proc/self/status has no FDSize"))
}

/// A descriptor of another thread, by its number, which must not be negative.
fn borrow(number: RawFd) -> BorrowedFd<'static> {
    // SAFETY: the number is not -1. Should its owner have closed it meanwhile, `dup` and `fstat` fail,
    // or are about whatever has the number now; their callers look at what they got. Nothing is
    // read, written or closed by number.
    #[expect(unsafe_code, reason = "std has no safe way to ask for a descriptor by number")]
    unsafe {
        BorrowedFd::borrow_raw(number)
    }
}

/// A duplicate of `number`, if that is a socket.
fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(ErrorKind::InvalidInput.into());
    }
    // Closing any descriptor of the database file would drop SQLite's locks on it
    // (docs/ARCHITECTURE.md), so what is not surely a socket is never closed.
    let duplicate = ManuallyDrop::new(borrow(number).try_clone_to_owned()?);
    sockopt::socket_type(duplicate.as_fd())?;
    Ok(ManuallyDrop::into_inner(duplicate))
}

/// True for errors that say no more than "not now".
pub(super) fn is_not_yet(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

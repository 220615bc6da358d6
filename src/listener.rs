//! The listening socket and tiny_http behind it.
//!
//! Owns the rule that keeps tiny_http's pipelining from deadlocking the workers: a connection has
//! one request in hand at a time, the next ones wait here without a thread (H6). And the rule that
//! workers never wait for a client: bodies that tiny_http has not buffered are read by a few body
//! readers (H5b). The hazards H1 to H14 are those of docs/TINY_HTTP.md.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, Read, Write},
    mem::ManuallyDrop,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use crate::socket;

/// Pipelined requests that wait on one connection; with one more it is cut off.
pub(crate) const PIPELINED_MAX: usize = 16;
/// Threads that wait for clients: for bodies to arrive, for large answers to be read.
pub(crate) const BODY_READERS: usize = 8;
/// What waits for a body reader; with one more body the client is told 503, with one more answer
/// it is cut off.
pub(crate) const BODIES_WAITING_MAX: usize = 64;
/// How long one write of a larger answer may take.
const LARGE_SEND_MS_MAX: u64 = 5_000;
/// Answers up to this size are sent by whoever has them: they fit into the kernel's buffer. Larger
/// ones wait for slow clients in a body reader.
pub(crate) const ANSWER_BUFFERED_BYTES: usize = socket::SEND_BUFFER_BYTES / 2;
/// Bodies up to this size are in memory before a worker sees the request (tiny_http's request.rs).
pub(crate) const BODY_BUFFERED_BYTES: usize = 1024;
/// How long a connection is remembered after its socket is gone, since tiny_http may have queued
/// requests of it: longer if it was refused.
const MEMORY_MS: u64 = 1_000;
const REFUSED_MEMORY_MS: u64 = 10_000;
/// How long a client may go on sending what was refused, so that it reads the refusal: with a
/// pause, and in all.
const LINGER_PAUSE_MS_MAX: u64 = 1_000;
const LINGER_MS_MAX: u64 = 10_000;
/// How much of it is read, at most.
const LINGER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// tiny_http allocates the unread rest of a declared body when the request is dropped (H1). Up to
/// here that is address space only; beyond, the request is never dropped.
const DECLARED_BYTES_MAX: usize = 256 * 1024 * 1024;

pub(crate) struct Listener {
    /// Our handle on the socket. `server` has its own.
    socket: TcpListener,
    address: SocketAddr,
    /// Never dropped: its drop connects to itself, blocking (H13). The process ends instead.
    server: ManuallyDrop<tiny_http::Server>,
    connections: Mutex<HashMap<SocketAddr, Connection>>,
    /// Held by the one worker that receives. Two requests of one connection must be admitted in
    /// the order in which tiny_http queued them: it answers in that order only, so that the second,
    /// taken in hand first, would wait for the first for ever, and the first for it.
    receiving: Mutex<()>,
    /// What a worker takes up after [`tiny_http::Server::unblock`].
    ready: Mutex<VecDeque<Arrival>>,
    bodies: SyncSender<Slow>,
    draining: AtomicBool,
    stopping: AtomicBool,
    failed: AtomicBool,
}

/// One that has sent a request. It is forgotten when its socket has been gone for a while.
struct Connection {
    phase: Phase,
    /// When this phase began.
    since: Instant,
    /// Requests behind the one in hand, in order.
    waiting: VecDeque<tiny_http::Request>,
    /// Refused for good: nothing more of it is ever processed, not even what tiny_http had read
    /// before the socket was shut.
    refused: bool,
}

/// Whom a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Phase {
    /// The client, for the next request.
    Idle,
    /// The client, for a body.
    Body,
    /// Us.
    InHand,
    /// The client, to read an answer.
    Answer,
}

/// A request whose turn it is on its connection.
pub(crate) struct Arrival {
    pub(crate) request: tiny_http::Request,
    /// Read already, because tiny_http had not buffered it.
    pub(crate) body: Option<Vec<u8>>,
    /// Dropped after the request, which answers 500 if it is dropped unanswered.
    turn: Turn,
}

/// The right to be answered, which passes to the connection's next request when it is dropped.
struct Turn {
    peer: SocketAddr,
    listener: Arc<Listener>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.listener.release(self.peer);
    }
}

/// What becomes of a request that tiny_http hands out.
enum Admitted {
    InHand(Arrival),
    /// For its connection's turn.
    Waits,
    /// The same, and its connection is to be cut off.
    TooMany(SocketAddr),
    /// Its connection has been refused.
    Refused(tiny_http::Request),
}

/// What the body readers do.
enum Slow {
    Body(Arrival, usize),
    Answer(Arrival, Vec<u8>, bool),
    Refusal(Arrival, Vec<u8>),
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Listener({})", self.address)
    }
}

impl Listener {
    /// Listens, and starts tiny_http and the body readers on it.
    pub(crate) fn start(socket: TcpListener) -> io::Result<Arc<Listener>> {
        let (bodies, slow) = sync_channel(BODIES_WAITING_MAX);
        let server = tiny_http::Server::from_listener(socket.try_clone()?, None)
            .map_err(|error| io::Error::other(error.to_string()))?;
        let listener = Arc::new(Listener {
            address: socket.local_addr()?,
            socket,
            server: ManuallyDrop::new(server),
            connections: Mutex::default(),
            receiving: Mutex::default(),
            ready: Mutex::default(),
            bodies,
            draining: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        });
        let slow = Arc::new(Mutex::new(slow));
        for number in 0..BODY_READERS {
            let slow = Arc::clone(&slow);
            thread::Builder::new()
                .name(format!("body-{number}"))
                .spawn(move || read_slowly(&slow))?;
        }
        Ok(listener)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Blocks until there is a request for a worker; `None` means that the worker may go.
    pub(crate) fn next(self: &Arc<Self>) -> Option<Arrival> {
        loop {
            let receiving = lock(&self.receiving);
            let admitted = match self.server.recv() {
                Ok(request) => self.admit(request),
                Err(error) => {
                    if let Some(arrival) = lock(&self.ready).pop_front() {
                        return Some(arrival);
                    }
                    if self.stopping.load(SeqCst) {
                        return None;
                    }
                    // `Other` is how tiny_http says "unblocked".
                    if error.kind() != io::ErrorKind::Other && !self.is_draining() {
                        self.end_process(&error.to_string());
                    }
                    continue;
                }
            };
            drop(receiving);
            match admitted {
                Admitted::InHand(arrival) => return Some(arrival),
                Admitted::Waits => {}
                Admitted::TooMany(peer) => self.reset(peer),
                Admitted::Refused(request) => discard(request),
            }
        }
    }

    /// tiny_http has ended its accept loop and will never start it again (H3). A process that
    /// listens no more must not look alive: what is in hand is answered, and whoever watches over
    /// mailslot starts it anew.
    pub(crate) fn end_process(&self, error: &str) {
        if self.failed.swap(true, SeqCst) {
            return;
        }
        log::error!(error = error; "no connection can be accepted any more: stopping");
        let _ = signal_hook::low_level::raise(signal_hook::consts::SIGTERM);
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(SeqCst)
    }

    /// Takes no more connections; answers from now on say that they are the last.
    pub(crate) fn drain(&self) -> io::Result<()> {
        self.draining.store(true, SeqCst);
        socket::stop_listening(&self.socket)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(SeqCst)
    }

    /// What the connection from `peer` waits for, and since when, if it has sent a request yet.
    pub(crate) fn phase(&self, peer: SocketAddr) -> Option<(Phase, Instant)> {
        lock(&self.connections).get(&peer).map(|connection| (connection.phase, connection.since))
    }

    /// Forgets connections whose socket is gone.
    pub(crate) fn forget_all_but(&self, is_open: impl Fn(SocketAddr) -> bool) {
        lock(&self.connections).retain(|peer, connection| {
            let memory_ms = if connection.refused { REFUSED_MEMORY_MS } else { MEMORY_MS };
            connection.phase != Phase::Idle
                || is_open(*peer)
                || connection.since.elapsed() < Duration::from_millis(memory_ms)
        });
    }

    /// A socket that was opened after `opened` has this address: what an older one has done is not
    /// held against it. What it has done itself is.
    pub(crate) fn welcome(&self, peer: SocketAddr, opened: Instant) {
        let is_older =
            |connection: &Connection| connection.phase == Phase::Idle && connection.since < opened;
        let mut connections = lock(&self.connections);
        if connections.get(&peer).is_some_and(|old| old.refused && is_older(old)) {
            connections.remove(&peer);
        }
    }

    /// True while a request is in hand, waiting or being answered.
    pub(crate) fn is_busy(&self) -> bool {
        lock(&self.connections).values().any(|connection| connection.phase != Phase::Idle)
    }

    /// Lets `workers` threads out of [`Listener::next`], each after what was queued before.
    pub(crate) fn stop(&self, workers: usize) {
        self.stopping.store(true, SeqCst);
        for _ in 0..workers {
            self.server.unblock();
        }
    }

    fn admit(self: &Arc<Self>, request: tiny_http::Request) -> Admitted {
        // Always there for TCP.
        let Some(peer) = request.remote_addr().copied() else { return Admitted::Refused(request) };
        let mut connections = lock(&self.connections);
        let connection = connections.entry(peer).or_insert_with(Connection::new);
        if connection.phase != Phase::Idle {
            connection.waiting.push_back(request);
            let is_one_too_many = connection.waiting.len() == PIPELINED_MAX + 1;
            connection.refused |= is_one_too_many;
            return if is_one_too_many { Admitted::TooMany(peer) } else { Admitted::Waits };
        }
        if connection.refused {
            return Admitted::Refused(request);
        }
        connection.enter(Phase::InHand);
        Admitted::InHand(self.arrival(request, peer))
    }

    fn arrival(self: &Arc<Self>, request: tiny_http::Request, peer: SocketAddr) -> Arrival {
        Arrival { request, body: None, turn: Turn { peer, listener: Arc::clone(self) } }
    }

    /// The connection's turn passes to its next request, or the connection is idle.
    fn release(self: &Arc<Self>, peer: SocketAddr) {
        loop {
            let mut connections = lock(&self.connections);
            let Some(connection) = connections.get_mut(&peer) else { return };
            let refused = connection.refused;
            let Some(request) = connection.waiting.pop_front() else {
                connection.enter(Phase::Idle);
                return;
            };
            connection.enter(Phase::InHand);
            drop(connections);
            if refused {
                discard(request);
                continue;
            }
            self.hand_over(self.arrival(request, peer));
            return;
        }
    }

    /// To the next worker that is free.
    fn hand_over(&self, arrival: Arrival) {
        lock(&self.ready).push_back(arrival);
        self.server.unblock();
    }

    fn enter(&self, peer: SocketAddr, phase: Phase) {
        if let Some(connection) = lock(&self.connections).get_mut(&peer) {
            connection.enter(phase);
        }
    }

    fn refuse(&self, peer: SocketAddr) {
        if let Some(connection) = lock(&self.connections).get_mut(&peer) {
            connection.refused = true;
        }
    }

    fn stream(&self, peer: SocketAddr) -> Option<TcpStream> {
        let mut connections = socket::connections(self.address.port());
        connections.find(|connection| connection.peer == peer).map(|connection| connection.stream)
    }

    /// Ends a connection whose client does not listen.
    fn reset(&self, peer: SocketAddr) {
        if let Some(stream) = self.stream(peer) {
            socket::reset(&stream);
        }
    }
}

impl Connection {
    fn new() -> Connection {
        Connection {
            phase: Phase::Idle,
            since: Instant::now(),
            waiting: VecDeque::new(),
            refused: false,
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.since = Instant::now();
    }
}

impl Arrival {
    pub(crate) fn is_draining(&self) -> bool {
        self.turn.listener.is_draining()
    }

    /// Sends the whole answer and gives the connection's turn on, or ends it where `is_last`.
    pub(crate) fn answer(self, bytes: Vec<u8>, is_last: bool) {
        self.turn.listener.enter(self.turn.peer, Phase::Answer);
        if bytes.len() <= ANSWER_BUFFERED_BYTES {
            return self.send(&bytes, is_last);
        }
        let bodies = self.turn.listener.bodies.clone();
        if let Err(error) = bodies.try_send(Slow::Answer(self, bytes, is_last)) {
            unsent(error).abandon();
        }
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
            let is_gone = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
            if !is_gone.contains(&error.kind()) {
                turn.listener.reset(turn.peer);
            }
        } else if is_last && let Some(stream) = turn.listener.stream(turn.peer) {
            // tiny_http sees the end of the stream, and ends the connection in good order.
            let _ = stream.shutdown(Shutdown::Read);
        }
    }

    /// The body is not in memory: it comes back through [`Listener::next`] when it is, or is given
    /// back here when too many wait already.
    pub(crate) fn read_body(self, length: usize) -> Result<(), Arrival> {
        let bodies = self.turn.listener.bodies.clone();
        self.turn.listener.enter(self.turn.peer, Phase::Body);
        bodies.try_send(Slow::Body(self, length)).map_err(unsent)
    }

    /// Sends an answer after which this connection is over, without reading what the client sends
    /// (H8): straight to the socket, since tiny_http would first read the body to its end.
    pub(crate) fn refuse(self, bytes: Vec<u8>) {
        self.turn.listener.refuse(self.turn.peer);
        let bodies = self.turn.listener.bodies.clone();
        if let Err(error) = bodies.try_send(Slow::Refusal(self, bytes)) {
            let (TrySendError::Full(slow) | TrySendError::Disconnected(slow)) = error;
            if let Slow::Refusal(arrival, bytes) = slow {
                // No time to linger: whatever the client sends next may cost it the answer.
                if let Some(stream) = arrival.turn.listener.stream(arrival.turn.peer) {
                    socket::send_now(&stream, &bytes);
                }
                arrival.abandon();
            }
        }
    }

    fn send_refusal(self, bytes: &[u8]) {
        if let Some(mut stream) = self.turn.listener.stream(self.turn.peer)
            && stream.write_all(bytes).is_ok()
        {
            linger(&mut stream);
        }
        self.abandon();
    }

    /// Ends the connection without an answer.
    fn abandon(self) {
        let Arrival { request, turn, .. } = self;
        turn.end_connection();
        discard(request);
        // Only now: the next request's answer would wait for this one's.
        drop(turn);
    }

    fn receive_body(mut self, length: usize) {
        let mut body = Vec::with_capacity(length);
        let read = self.request.as_reader().take(length as u64).read_to_end(&mut body);
        if read.is_ok() && body.len() == length {
            self.body = Some(body);
            self.turn.listener.enter(self.turn.peer, Phase::InHand);
            let listener = Arc::clone(&self.turn.listener);
            listener.hand_over(self);
        } else {
            self.abandon();
        }
    }
}

impl Turn {
    /// Nothing more is read from the connection, written to it, or processed of it.
    fn end_connection(&self) {
        self.listener.refuse(self.peer);
        if let Some(stream) = self.listener.stream(self.peer) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Drops a request of a connection that has been shut: its answer, 500, reaches nobody.
fn discard(request: tiny_http::Request) {
    // To drop it, tiny_http would allocate the unread rest of the body (H1).
    if request.body_length().is_some_and(|length| length > DECLARED_BYTES_MAX) {
        log::warn!("absurd Content-Length: a thread of tiny_http is lost");
        std::mem::forget(request);
    }
}

/// The request that found no body reader.
fn unsent(error: TrySendError<Slow>) -> Arrival {
    let (TrySendError::Full(slow) | TrySendError::Disconnected(slow)) = error;
    match slow {
        Slow::Body(arrival, _) | Slow::Answer(arrival, ..) | Slow::Refusal(arrival, _) => arrival,
    }
}

fn read_slowly(slow: &Mutex<Receiver<Slow>>) {
    loop {
        let next = lock(slow).recv();
        match next {
            Ok(Slow::Body(arrival, length)) => arrival.receive_body(length),
            Ok(Slow::Answer(arrival, bytes, is_last)) => {
                if let Some(stream) = arrival.turn.listener.stream(arrival.turn.peer) {
                    let patience = Duration::from_millis(LARGE_SEND_MS_MAX);
                    let _ = stream.set_write_timeout(Some(patience));
                }
                arrival.send(&bytes, is_last);
            }
            Ok(Slow::Refusal(arrival, bytes)) => arrival.send_refusal(&bytes),
            Err(_) => return,
        }
    }
}

/// Closing a socket with unread bytes resets it, and the client would never read the refusal.
fn linger(stream: &mut TcpStream) {
    let _ = stream.shutdown(Shutdown::Write);
    let end = Instant::now() + Duration::from_millis(LINGER_MS_MAX);
    let pause = Duration::from_millis(LINGER_PAUSE_MS_MAX);
    let (mut buffer, mut total) = ([0; 16 * 1024], 0);
    while total < LINGER_BYTES_MAX && Instant::now() < end {
        match stream.set_read_timeout(Some(pause)).and_then(|()| stream.read(&mut buffer)) {
            Ok(0) => return,
            Ok(length) => total += length,
            Err(_) => break,
        }
    }
    socket::reset(stream);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

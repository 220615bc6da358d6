//! The listening socket and tiny_http behind it.
//!
//! Owns the rule that keeps tiny_http's pipelining from deadlocking the workers: a connection has
//! one request in hand at a time, the next ones wait here without a thread (H6).

use std::{
    collections::{HashMap, VecDeque},
    io,
    mem::ManuallyDrop,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::RawFd,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use log::Level;

use super::{
    incoming::{Arrival, Turn, discard},
    poller::Waiting,
    shedding::{Importance, Overload},
    socket::{self, Socket},
    tiny_http_guard::scan::Scans,
};
use crate::{
    logging,
    metrics::{Disconnect, Label, Metrics},
};

/// Pipelined requests that wait on one connection; with one more it is cut off.
pub(crate) const PIPELINED_MAX: usize = 16;
/// How much is sent on a connection before it is asked whether the client reads.
const UNASKED_BYTES: usize = 64 * 1024;
/// How long a connection that is over is given to be closed.
const CLOSING_MS: u64 = 100;
/// How long the guard waits before it asks again for a restart that the process has refused.
const RESTART_AGAIN_MS: u64 = 1_000;
/// How old a connection is at most that the guard has not seen yet.
const UNSEEN_MS: u64 = 1_000;

pub(crate) struct Listener {
    /// Our handle on the socket. `server` has its own.
    socket: TcpListener,
    address: SocketAddr,
    /// Never dropped: its drop connects to itself, blocking (H13). The process ends instead.
    server: OnceLock<ManuallyDrop<tiny_http::Server>>,
    connections: Mutex<HashMap<SocketAddr, Connection>>,
    /// Held by the one worker that receives. Two requests of one connection must be admitted in
    /// the order in which tiny_http queued them: it answers in that order only, so that the second,
    /// taken in hand first, would wait for the first for ever, and the first for it.
    receiving: Mutex<()>,
    /// What a worker finds after [`tiny_http::Server::unblock`], in the same order.
    wakes: Mutex<VecDeque<Wake>>,
    pub(super) scans: Scans,
    overload: Overload,
    pub(super) waiting: Arc<Waiting>,
    pub(super) metrics: Arc<Metrics>,
    /// Since when.
    draining: OnceLock<Instant>,
    stopping: AtomicBool,
    restart: Mutex<Restart>,
    hasty: AtomicBool,
    /// tiny_http's accept loop has not said that it has ended.
    accepting: AtomicBool,
    open: AtomicUsize,
}

/// A restart of the process that tiny_http needs.
#[derive(Default)]
struct Restart {
    /// Why it is needed, until the process has decided.
    reason: Option<String>,
    /// When the process was last asked for it.
    asked: Option<Instant>,
}

/// What becomes of the listening socket when the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It ends too.
    Close,
    /// Somebody else goes on accepting from it: what arrives meanwhile waits in the kernel.
    Keep,
}

/// One that has sent a request. It is forgotten when its socket is gone: a request that tiny_http has
/// queued keeps it open.
struct Connection {
    phase: Phase,
    /// When this phase began.
    since: Instant,
    /// Requests behind the one in hand, in order.
    pipelined: VecDeque<tiny_http::Request>,
    standing: Standing,
    /// Since when that is not good.
    ended: Instant,
    /// Which socket that is about, if that is certain: another may get the same address.
    socket: Option<Socket>,
    /// Bytes sent since the client was last seen to read.
    unasked: usize,
}

/// Whom a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Phase {
    /// The client, for the next request.
    Idle,
    /// The client, for a body, or for what it still sends of one that was refused. tiny_http reads no
    /// head meanwhile.
    Body,
    /// Us, or the client to read an answer.
    InHand,
}

/// Nothing more is ever processed of a connection that is not in good standing, not even what
/// tiny_http had read before the socket was shut.
#[derive(Clone, Copy, PartialEq)]
enum Standing {
    Good,
    /// The client may still send, so that it reads the refusal.
    Refused,
    /// The socket is dead.
    Cut,
}

enum Wake {
    Arrival(Arrival),
    /// Measures how long what is queued now waits for a worker.
    Probe(Instant),
}

/// What becomes of a request that tiny_http hands out.
enum Admitted {
    InHand(Arrival),
    /// For its connection's turn.
    Waits,
    /// One too many of its connection, with all that waited there.
    TooMany(SocketAddr, VecDeque<tiny_http::Request>),
    /// Its connection is over.
    Over(tiny_http::Request),
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Listener({})", self.address)
    }
}

impl Listener {
    /// Prepares all but tiny_http, and starts the thread that waits for slow clients.
    pub(crate) fn new(socket: TcpListener, metrics: Arc<Metrics>) -> io::Result<Arc<Listener>> {
        listen_for_panics();
        let scans = Scans::of(&socket)?;
        Ok(Arc::new(Listener {
            address: socket.local_addr()?,
            socket,
            server: OnceLock::new(),
            connections: Mutex::default(),
            receiving: Mutex::default(),
            wakes: Mutex::default(),
            scans,
            overload: Overload::default(),
            waiting: Waiting::start()?,
            metrics,
            draining: OnceLock::new(),
            stopping: AtomicBool::new(false),
            restart: Mutex::default(),
            hasty: AtomicBool::new(false),
            accepting: AtomicBool::new(true),
            open: AtomicUsize::new(0),
        }))
    }

    /// Starts tiny_http, which accepts connections at once: to be called when every thread has been
    /// started and every file opened, since the connections may take all descriptors that are left.
    pub(crate) fn accept(&self) -> io::Result<()> {
        let server = tiny_http::Server::from_listener(self.socket.try_clone()?, None)
            .map_err(|error| io::Error::other(error.to_string()))?;
        let _ = self.server.set(ManuallyDrop::new(server));
        Ok(())
    }

    /// Waits until tiny_http has been started.
    fn server(&self) -> &tiny_http::Server {
        self.server.wait()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Blocks until there is a request for a worker; `None` means that the worker may go.
    pub(crate) fn next(self: &Arc<Self>) -> Option<Arrival> {
        loop {
            let receiving = lock(&self.receiving);
            let received = self.server().recv().map(|request| self.admit(request));
            drop(receiving);
            match received {
                Ok(Admitted::InHand(arrival)) => return Some(arrival),
                Ok(Admitted::Waits) => {}
                Ok(Admitted::TooMany(peer, requests)) => {
                    self.cut(peer, Disconnect::Pipelined);
                    requests.into_iter().for_each(discard);
                }
                Ok(Admitted::Over(request)) => discard(request),
                Err(error) => {
                    // `Other` is how tiny_http says "unblocked"; all else ends its accept loop.
                    if error.kind() != io::ErrorKind::Other {
                        self.accepts_no_more(&error.to_string());
                    }
                    let wake = lock(&self.wakes).pop_front();
                    match wake {
                        Some(Wake::Arrival(arrival)) => return Some(arrival),
                        Some(Wake::Probe(sent)) => {
                            self.overload.measured(sent.elapsed());
                            self.metrics.queue_delay.observe_duration(sent.elapsed());
                        }
                        None if self.stopping.load(SeqCst) => return None,
                        None => {}
                    }
                }
            }
        }
    }

    /// True where a request of this importance is to be told 503 at once.
    pub(crate) fn sheds(&self, importance: Importance) -> bool {
        self.overload.sheds(importance)
    }

    /// How long a request that is queued now has to wait for a worker, as far as is known.
    pub(super) fn queue_wait(&self) -> Duration {
        self.overload.wait()
    }

    /// To be called at regular intervals.
    pub(super) fn measure_queue(&self) {
        if self.overload.adjust() {
            self.wake(Wake::Probe(Instant::now()));
        }
    }

    /// tiny_http's accept loop has ended, as it must while draining.
    pub(super) fn accepts_no_more(&self, reason: &str) {
        self.accepting.store(false, SeqCst);
        if !self.is_draining() {
            self.end_process(reason);
        }
    }

    /// tiny_http is beyond help: it has ended its accept loop (H3), or leaked too much (H1, H2). Asks
    /// the process to restart: requests in hand are answered first, and new connections wait in the
    /// kernel. The guard asks again after [`RESTART_AGAIN_MS`] if the process has not restarted.
    pub(super) fn end_process(&self, reason: &str) {
        let mut restart = lock(&self.restart);
        let again = Duration::from_millis(RESTART_AGAIN_MS);
        if self.is_draining() || restart.asked.is_some_and(|asked| asked.elapsed() < again) {
            return;
        }
        *restart = Restart { reason: Some(reason.to_owned()), asked: Some(Instant::now()) };
        drop(restart);
        // Not the operator's SIGUSR2, which asks for a new program.
        let _ = signal_hook::low_level::raise(signal_hook::consts::SIGUSR1);
    }

    /// Why the process is to restart, if it is.
    pub(crate) fn restart_reason(&self) -> Option<String> {
        lock(&self.restart).reason.clone()
    }

    /// The process cannot restart now.
    pub(crate) fn refuse_restart(&self) {
        lock(&self.restart).reason = None;
        self.hasty.store(false, SeqCst);
    }

    /// The same, with no time to lose: memory runs out.
    pub(super) fn end_process_now(&self, reason: &str) {
        self.hasty.store(true, SeqCst);
        self.end_process(reason);
    }

    /// Whether to wait for no client.
    pub(crate) fn is_hasty(&self) -> bool {
        self.hasty.load(SeqCst)
    }

    /// Accepts no more connections; answers from now on say that they are the last.
    pub(crate) fn drain(&self, ending: Ending) -> io::Result<()> {
        // Not zero until the guard has looked again.
        self.set_open(usize::MAX);
        let _ = self.draining.set(Instant::now());
        match ending {
            Ending::Close => socket::stop_listening(&self.socket),
            Ending::Keep => socket::stop_accepting(&self.socket),
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get().is_some()
    }

    /// How long it has been.
    pub(super) fn draining(&self) -> Option<Duration> {
        self.draining.get().map(Instant::elapsed)
    }

    /// The listening socket's number, which from now on survives an `exec`.
    pub(crate) fn pass_on(&self) -> io::Result<RawFd> {
        socket::pass_on(&self.socket)
    }

    /// While draining: true as long as somebody could still be waiting for an answer.
    pub(crate) fn is_busy(&self) -> bool {
        self.accepting.load(SeqCst)
            || self.open.load(SeqCst) > 0
            || lock(&self.connections).values().any(|connection| connection.phase != Phase::Idle)
    }

    /// tiny_http accepts connections, as far as is known.
    pub(super) fn is_accepting(&self) -> bool {
        self.accepting.load(SeqCst)
    }

    /// How many connections the guard has seen that tiny_http has not given up.
    pub(super) fn set_open(&self, open: usize) {
        self.open.store(open, SeqCst);
    }

    /// Lets `workers` threads out of [`Listener::next`], each after what was queued before.
    pub(crate) fn stop(&self, workers: usize) {
        self.stopping.store(true, SeqCst);
        for _ in 0..workers {
            self.server().unblock();
        }
    }

    /// What the connection from `peer` waits for, and since when, if it has sent a request yet.
    pub(super) fn phase(&self, peer: SocketAddr) -> Option<(Phase, Instant)> {
        lock(&self.connections).get(&peer).map(|connection| (connection.phase, connection.since))
    }

    /// Nothing more is processed of what comes from `peer`, and nobody is busy with it any more.
    pub(super) fn has_ended(&self, peer: SocketAddr) -> bool {
        lock(&self.connections).get(&peer).is_some_and(|connection| {
            connection.has_ended() && connection.since.elapsed() > Duration::from_millis(CLOSING_MS)
        })
    }

    /// No request of this socket, which tiny_http never closes, is queued any more: what it has done is
    /// not held against the next one with its address.
    pub(super) fn acquit(&self, socket: &Socket) {
        let Some(peer) = socket.peer else { return };
        let mut connections = lock(&self.connections);
        let is_its = |ended: Socket| ended.inode == socket.inode;
        if connections.get(&peer).is_some_and(|old| old.socket.is_some_and(is_its)) {
            connections.remove(&peer);
        }
    }

    pub(super) fn enter(&self, peer: SocketAddr, phase: Phase) {
        if let Some(connection) = lock(&self.connections).get_mut(&peer) {
            connection.enter(phase);
        }
    }

    /// Forgets connections whose socket is gone.
    pub(super) fn forget_all_but(&self, is_open: impl Fn(SocketAddr) -> bool) {
        let memory = self.memory();
        lock(&self.connections).retain(|peer, connection| {
            // One that has just been heard of may be younger than the look.
            let is_young = connection.since.max(connection.ended).elapsed() < memory;
            connection.phase != Phase::Idle || is_young || is_open(*peer)
        });
    }

    /// After this time tiny_http has no request any more of a connection that is dead.
    fn memory(&self) -> Duration {
        Duration::from_millis(UNSEEN_MS) + self.queue_wait()
    }

    fn admit(self: &Arc<Self>, request: tiny_http::Request) -> Admitted {
        // Always there for TCP.
        let Some(peer) = request.remote_addr().copied() else { return Admitted::Over(request) };
        let mut connections = lock(&self.connections);
        let mut is_closed = false;
        if let Some(socket) = connections.get(&peer).and_then(Connection::ended_socket) {
            // This may take a scan, which no other connection's request must wait for.
            drop(connections);
            is_closed = self.scans.is_closed(&socket);
            connections = lock(&self.connections);
        }
        let connection = connections.entry(peer).or_insert_with(Connection::new);
        if connection.standing == Standing::Cut && connection.phase != Phase::Idle {
            return Admitted::Over(request);
        }
        if connection.has_ended() {
            let is_another = match connection.socket {
                Some(_) => is_closed,
                None => connection.ended.elapsed() > self.memory(),
            };
            if !is_another {
                // Nobody has looked at this one: it may be another's, and what follows it too.
                (connection.ended, connection.socket) = (Instant::now(), None);
                return Admitted::Over(request);
            }
            *connection = Connection::new();
        }
        if connection.phase != Phase::Idle {
            connection.pipelined.push_back(request);
            if connection.pipelined.len() <= PIPELINED_MAX {
                return Admitted::Waits;
            }
            (connection.standing, connection.ended) = (Standing::Cut, Instant::now());
            return Admitted::TooMany(peer, std::mem::take(&mut connection.pipelined));
        }
        connection.enter(Phase::InHand);
        Admitted::InHand(Arrival::new(request, Turn::new(peer, Arc::clone(self))))
    }

    /// The connection's turn passes to its next request, or the connection is idle.
    pub(super) fn release(self: &Arc<Self>, peer: SocketAddr) {
        let mut connections = lock(&self.connections);
        let Some(connection) = connections.get_mut(&peer) else { return };
        if connection.standing != Standing::Good {
            connection.enter(Phase::Idle);
            let requests = std::mem::take(&mut connection.pipelined);
            drop(connections);
            return requests.into_iter().for_each(discard);
        }
        let next = connection.pipelined.pop_front();
        connection.enter(if next.is_some() { Phase::InHand } else { Phase::Idle });
        drop(connections);
        if let Some(request) = next {
            self.hand_over(Arrival::new(request, Turn::new(peer, Arc::clone(self))));
        }
    }

    /// To the next worker that is free.
    pub(super) fn hand_over(&self, arrival: Arrival) {
        self.wake(Wake::Arrival(arrival));
    }

    fn wake(&self, wake: Wake) {
        lock(&self.wakes).push_back(wake);
        self.server().unblock();
    }

    /// Nothing more of this connection is processed. What of it waits is dropped when its turn is.
    pub(super) fn refuse(&self, peer: SocketAddr) {
        let has_ended = lock(&self.connections)
            .get(&peer)
            .is_some_and(|connection| connection.standing != Standing::Good);
        // Its socket was looked for when it ended.
        if !has_ended {
            self.end(peer, Standing::Refused, self.scans.unique(peer));
        }
    }

    fn end(&self, peer: SocketAddr, standing: Standing, socket: Option<Socket>) {
        let mut connections = lock(&self.connections);
        let connection = connections.entry(peer).or_insert_with(Connection::new);
        if connection.standing == Standing::Good {
            connection.ended = Instant::now();
        }
        connection.socket = connection.socket.or(socket);
        if connection.standing != Standing::Cut {
            connection.standing = standing;
        }
    }

    /// False where the client does not read what it has been sent, so that who writes another
    /// `length` bytes might have to wait.
    pub(super) fn reads(&self, peer: SocketAddr, length: usize) -> bool {
        let mut connections = lock(&self.connections);
        let Some(connection) = connections.get_mut(&peer) else { return true };
        connection.unasked += length;
        if connection.unasked < UNASKED_BYTES {
            return true;
        }
        connection.unasked = 0;
        drop(connections);
        let stream = self.scans.find(peer).ok().flatten();
        let reads = stream.is_none_or(|stream| socket::has_room(&stream));
        if !reads && let Some(connection) = lock(&self.connections).get_mut(&peer) {
            // To be asked again next time.
            connection.unasked = UNASKED_BYTES;
        }
        reads
    }

    /// The client may have much to read: it is to be asked before the next answer.
    pub(super) fn doubt(&self, peer: SocketAddr) {
        if let Some(connection) = lock(&self.connections).get_mut(&peer) {
            connection.unasked = UNASKED_BYTES;
        }
    }

    /// Ends a connection whose client does not keep to the rules.
    pub(super) fn cut(&self, peer: SocketAddr, reason: Disconnect) {
        // Before the reset: which one is dead cannot be told.
        self.end(peer, Standing::Cut, self.scans.unique(peer));
        self.cut_stream(self.scans.find(peer).ok().flatten().as_ref(), Some(peer), reason);
    }

    pub(super) fn cut_socket(&self, socket: &Socket, reason: Disconnect) {
        if let Some(peer) = socket.peer {
            self.end(peer, Standing::Cut, Some(*socket));
        }
        self.cut_stream(socket.open().as_ref(), socket.peer, reason);
    }

    pub(super) fn cut_stream(
        &self,
        stream: Option<&TcpStream>,
        peer: Option<SocketAddr>,
        reason: Disconnect,
    ) {
        if let Some(stream) = stream {
            socket::reset(stream);
        }
        self.metrics.connections_closed.increment(reason);
        // That a client has nothing to say is nothing to warn of.
        let level = if reason == Disconnect::Idle { Level::Debug } else { Level::Warn };
        let peer = peer.map(|peer| peer.to_string()).unwrap_or_default();
        log::log!(target: logging::CLIENT, level, peer, reason = reason.value(); "connection cut");
    }
}

impl Connection {
    fn new() -> Connection {
        Connection {
            phase: Phase::Idle,
            since: Instant::now(),
            pipelined: VecDeque::new(),
            standing: Standing::Good,
            ended: Instant::now(),
            socket: None,
            unasked: 0,
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.since = Instant::now();
    }

    /// Nothing more of it is processed, and no thread has a request of it in hand.
    fn has_ended(&self) -> bool {
        self.standing != Standing::Good && self.phase == Phase::Idle
    }

    fn ended_socket(&self) -> Option<Socket> {
        self.socket.filter(|_| self.has_ended())
    }
}

/// tiny_http's accept loop has panicked: it duplicates the descriptor of each new connection, and
/// does not expect that to fail (H3).
static ACCEPT_LOOP_PANICKED: AtomicBool = AtomicBool::new(false);

fn listen_for_panics() {
    let next = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let file = panic.location().map(std::panic::Location::file).unwrap_or_default();
        if file.contains("tiny_http") && file.ends_with("refined_tcp_stream.rs") {
            ACCEPT_LOOP_PANICKED.store(true, SeqCst);
        }
        next(panic);
    }));
}

pub(super) fn accept_loop_has_panicked() -> bool {
    ACCEPT_LOOP_PANICKED.load(SeqCst)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! A thread that looks at the connections from outside and does what tiny_http does not: it has no
//! deadlines (H5), no cap on connections, and of a burst it may leave some without a thread until
//! another connection ends (H4 in docs/TINY_HTTP.md).
//!
//! Deadlines are total, for the whole of a phase: one byte now and then gains nothing.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    ops::RangeInclusive,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crate::{
    listener::{Listener, Phase},
    metrics::{Cut, Metrics},
    socket::{self, Connection},
};

/// How often it looks.
const TICK_MS: u64 = 100;
/// From the end of an answer, or from the start of a connection, to the end of the next head.
const IDLE_MS_MAX: u64 = 30_000;
/// From the end of a head to the end of its body.
const BODY_MS_MAX: u64 = 10_000;
/// From the first byte of an answer to its last.
const ANSWER_MS_MAX: u64 = 5_000;
/// Open connections; beyond, those that have been idle longest are cut.
const CONNECTIONS_MAX: usize = 1024;
/// How often it tries whether connections are still accepted, and how long that may take.
const PROBE_EVERY_MS: u64 = 2_000;
const ACCEPT_MS_MAX: u64 = 5_000;
/// The looks in which a connection counts as starved. Not the first: tiny_http reads at once what
/// arrives, if it reads at all. And not for ever: some that it has given up cannot be helped (H2).
const STARVED_LOOKS: RangeInclusive<u32> = 2..=20;
/// Connections to ourselves in one look.
const NUDGES_MAX: usize = 64;
/// How long one may take: the backlog is full only under attack, and then the next look is soon.
const NUDGE_MS_MAX: u64 = 50;

pub(crate) fn start(listener: Arc<Listener>, metrics: Arc<Metrics>) -> io::Result<()> {
    let probe = Err(Instant::now());
    let mut guard =
        Guard { listener, metrics, probe, seen: HashMap::new(), looked: Instant::now() };
    let watch = move || {
        while !guard.listener.is_draining() {
            thread::sleep(Duration::from_millis(TICK_MS));
            guard.look();
        }
    };
    thread::Builder::new().name("guard".into()).spawn(watch).map(|_| ())
}

struct Guard {
    listener: Arc<Listener>,
    metrics: Arc<Metrics>,
    /// A connection of our own that tiny_http has yet to accept, or when it last did.
    probe: Result<(TcpStream, Instant), Instant>,
    /// What the last look found, by the socket's inode.
    seen: HashMap<String, Seen>,
    /// When that look began.
    looked: Instant,
}

struct Seen {
    first: Instant,
    /// Looks in a row in which it had unread bytes, and nobody at them.
    starved_looks: u32,
}

impl Guard {
    fn look(&mut self) {
        let looking = Instant::now();
        let open: Vec<Connection> = socket::connections(self.listener.address().port()).collect();
        let mut seen = HashMap::with_capacity(open.len());
        let (mut idle, mut starved) = (Vec::new(), 0);
        for connection in &open {
            let last = self.seen.remove(&connection.inode);
            if last.is_none() {
                self.listener.welcome(connection.peer, self.looked);
            }
            let first = last.as_ref().map_or_else(Instant::now, |last| last.first);
            let (phase, since) =
                self.listener.phase(connection.peer).unwrap_or((Phase::Idle, first));
            // A new connection may have an old one's address.
            let elapsed = since.max(first).elapsed();
            let is_starved = phase == Phase::Idle && connection.has_unread();
            match phase {
                Phase::Idle if elapsed > Duration::from_millis(IDLE_MS_MAX) => {
                    self.cut(connection, Cut::Idle);
                }
                Phase::Body if elapsed > Duration::from_millis(BODY_MS_MAX) => {
                    self.cut(connection, Cut::Body);
                }
                Phase::Answer if elapsed > Duration::from_millis(ANSWER_MS_MAX) => {
                    self.cut(connection, Cut::Answer);
                }
                Phase::Idle => idle.push((elapsed, connection)),
                Phase::Body | Phase::InHand | Phase::Answer => {}
            }
            let looks = last.map_or(0, |last| last.starved_looks);
            let starved_looks = if is_starved { looks + 1 } else { 0 };
            starved += usize::from(STARVED_LOOKS.contains(&starved_looks));
            seen.insert(connection.inode.clone(), Seen { first, starved_looks });
        }
        self.seen = seen;
        self.looked = looking;
        self.cap(open.len(), idle);
        self.nudge(starved);
        self.probe(&open);
        self.metrics.connections(open.len());
        let peers: HashSet<SocketAddr> = open.iter().map(|connection| connection.peer).collect();
        self.listener.forget_all_but(|peer| peers.contains(&peer));
    }

    fn cap(&self, open: usize, mut idle: Vec<(Duration, &Connection)>) {
        let excess = open.saturating_sub(CONNECTIONS_MAX);
        if excess > 0 {
            idle.sort_unstable_by_key(|(elapsed, _)| std::cmp::Reverse(*elapsed));
            for (_, connection) in idle.into_iter().take(excess) {
                self.cut(connection, Cut::Cap);
            }
        }
    }

    /// One more connection makes tiny_http start one more thread, which then finds a starved one.
    fn nudge(&self, starved: usize) {
        let address = reachable(self.listener.address());
        for _ in 0..starved.min(NUDGES_MAX) {
            let _ = TcpStream::connect_timeout(&address, Duration::from_millis(NUDGE_MS_MAX));
        }
    }

    /// Half of the deaths of tiny_http's accept loop are silent (H3): the kernel still takes
    /// connections, and nobody ever accepts them.
    fn probe(&mut self, open: &[Connection]) {
        match &self.probe {
            Ok((stream, since)) => {
                let own = stream.local_addr();
                if own.is_ok_and(|own| open.iter().any(|connection| connection.peer == own)) {
                    self.probe = Err(Instant::now());
                } else if since.elapsed() > Duration::from_millis(ACCEPT_MS_MAX) {
                    self.listener.end_process("nobody accepts");
                }
            }
            Err(last) if last.elapsed() > Duration::from_millis(PROBE_EVERY_MS) => {
                let wait = Duration::from_millis(NUDGE_MS_MAX);
                if let Ok(stream) =
                    TcpStream::connect_timeout(&reachable(self.listener.address()), wait)
                {
                    self.probe = Ok((stream, Instant::now()));
                }
            }
            Err(_) => {}
        }
    }

    fn cut(&self, connection: &Connection, reason: Cut) {
        socket::reset(&connection.stream);
        self.metrics.cut(reason);
    }
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

//! A thread that looks at the connections from outside and does what tiny_http does not: it has no
//! deadlines (H5), no bounds (H6, H9b), it may leave some of a burst without a thread until another
//! connection ends (H4), it leaks (H1, H2), and it may stop accepting without a word (H3).
//!
//! It finds what is wrong by the sockets alone. Deadlines are total: one byte now and then gains
//! nothing.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    net::{IpAddr, Shutdown, TcpStream},
    ops::RangeInclusive,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crate::http::{
    listener::{Listener, Phase, accept_loop_has_panicked},
    socket::{self, Socket},
};
use crate::{config::Limits, metrics::Disconnect};

/// How often it looks. Where a look takes long, it rests this many times longer, but not for ever.
const LOOK_EVERY_MS: u64 = 100;
const REST_FACTOR: u32 = 10;
const REST_MS_MAX: u64 = 300;
/// How soon it looks again where a connection may be starved, as after a restart, when all come back
/// at once.
const LOOK_AGAIN_MS: u64 = 20;
/// How often it asks how much memory the process has, while there are connections.
const MEMORY_EVERY_MS: u64 = 10;
/// How often each connection is asked how much it has received. Each time it asks if the memory has
/// grown by this much since, or if requests wait this long for a worker.
const ASK_EVERY_MS: u64 = 1_000;
const GROWTH_BYTES: u64 = 8 * 1024 * 1024;
const PRESSING_WAIT_MS: u64 = 200;
/// Bytes of one head, as far as can be told from outside: of a connection that sends no body now, since
/// its last request or answer.
const HEAD_BYTES_MAX: u64 = 65_536;
/// What a client has sent ahead, at the least, to be cut under pressure, if tiny_http goes on making
/// requests of it: they would cost 250 times as much memory.
const AHEAD_BYTES: u64 = 4 * 1024;
/// Memory of the whole process. tiny_http makes requests of what clients send ahead faster than they
/// can be refused, if enough clients do and come again: beyond, the process starts itself anew.
const MEMORY_BYTES_MAX: u64 = 402_653_184;
/// How often it tries whether connections are still accepted, and how many looks that may take: no
/// time, since the whole process may have been stopped meanwhile.
const PROBE_EVERY_MS: u64 = 1_000;
const ACCEPT_LOOKS_MAX: u32 = 50;
/// The looks in which a connection counts as starved. Not the first: tiny_http reads at once what
/// arrives, if it reads at all. And not for ever: some that it has given up cannot be helped (H2).
const STARVED_LOOKS: RangeInclusive<u32> = 2..=20;
/// Connections to ourselves in one look.
const NUDGES_MAX: usize = 64;
/// A connection that has been cut is closed by tiny_http within this time, and that in which its last
/// request leaves the queue, or never (H1, H2).
const CLOSE_MS_MAX: u64 = 2_000;
/// Connections that tiny_http never closes: with one more, the process starts itself anew.
const LEAKED_MAX: usize = 512;
/// While draining: how often it looks, and how long a connection must have been idle to be closed.
/// One that is in use is told with its next answer that this was the last.
const DRAIN_LOOK_EVERY_MS: u64 = 20;
const DRAIN_IDLE_MS: u64 = 250;
/// From when on also those are closed whose bytes nobody reads; how long closing is waited for.
const DRAIN_UNREAD_MS: u64 = 1_000;
const DRAIN_CLOSE_MS: u64 = 250;

pub(crate) fn start(listener: Arc<Listener>, limits: Limits) -> io::Result<()> {
    let now = Instant::now();
    let mut guard = Guard {
        listener,
        limits,
        probe: None,
        accepted: now,
        seen: HashMap::new(),
        asked: now,
        measured: now,
        took: Duration::ZERO,
        memory_bytes: memory_bytes(),
    };
    thread::Builder::new().name("guard".into()).spawn(move || guard.run()).map(|_| ())
}

struct Guard {
    listener: Arc<Listener>,
    limits: Limits,
    /// A connection of our own that tiny_http has yet to accept, and the looks since.
    probe: Option<(TcpStream, u32)>,
    /// When a connection was last seen that had not been there before.
    accepted: Instant,
    /// What the last look found, by the socket's inode.
    seen: HashMap<u64, Seen>,
    /// How long that look took.
    took: Duration,
    /// When the queue was last measured.
    measured: Instant,
    /// When every connection was last asked what it has received, and the least memory since.
    asked: Instant,
    memory_bytes: u64,
}

/// What is remembered of a connection.
struct Seen {
    first: Instant,
    /// Looks in a row in which it had unread bytes, and nobody at them.
    starved_looks: u32,
    /// Since when it has been as it is, and what it had received by then.
    mark: Option<(Instant, u64)>,
    /// What tiny_http had read of it, in the same phase, when it was first seen to have more to read.
    read: Option<(Instant, u64)>,
    /// When it was cut.
    cut: Option<Instant>,
}

/// A connection, at one look.
struct Look {
    socket: Socket,
    /// Of what is not idle others keep the deadlines: whoever answers, or waits for the body.
    phase: Phase,
    /// When this phase began, or the connection.
    since: Instant,
    /// It has not sent a request yet.
    is_new: bool,
}

impl Guard {
    fn run(&mut self) {
        loop {
            // Without the guard there are no deadlines: a panic costs one look.
            let _ = catch_unwind(AssertUnwindSafe(|| self.round()));
        }
    }

    fn round(&mut self) {
        let draining = self.listener.is_draining();
        let every_ms = if draining {
            DRAIN_LOOK_EVERY_MS
        } else if self.seen.values().any(|seen| seen.starved_looks == 1) {
            LOOK_AGAIN_MS
        } else {
            LOOK_EVERY_MS
        };
        let rest = (self.took * REST_FACTOR).min(Duration::from_millis(REST_MS_MAX));
        let has_grown = self.rest(rest.max(Duration::from_millis(every_ms)));
        let started = Instant::now();
        if memory_bytes() > MEMORY_BYTES_MAX {
            self.listener.end_process_now("too much memory is in use");
        }
        let is_queue_long = self.listener.queue_wait() > Duration::from_millis(PRESSING_WAIT_MS);
        // Without a free descriptor nothing is seen; that ends by itself or by H3's rule.
        let seen = self.look(has_grown || is_queue_long);
        if !draining && self.measured.elapsed() >= Duration::from_millis(LOOK_EVERY_MS) {
            self.measured = started;
            self.listener.measure_queue();
            if let Some(reason) = self.dead_accept_loop() {
                self.listener.accepts_no_more(reason);
            } else if seen.is_ok() {
                self.probe();
            }
        }
        self.took = started.elapsed();
    }

    /// Until the next look is due, or the memory grows: true if it does.
    fn rest(&mut self, at_most: Duration) -> bool {
        let until = Instant::now() + at_most;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let nap = Duration::from_millis(MEMORY_EVERY_MS);
            thread::sleep(if self.seen.is_empty() { left } else { left.min(nap) });
            let memory_bytes = memory_bytes();
            // Measured from the least, or memory given back would hide as much growth.
            self.memory_bytes = self.memory_bytes.min(memory_bytes);
            let has_grown = memory_bytes > self.memory_bytes + GROWTH_BYTES;
            if has_grown || Instant::now() >= until {
                return has_grown;
            }
        }
    }

    fn look(&mut self, is_pressed: bool) -> io::Result<()> {
        let looking = Instant::now();
        let sockets = self.listener.scans.scan()?;
        let asks = is_pressed || self.asked.elapsed() > Duration::from_millis(ASK_EVERY_MS);
        let mut looks = Vec::with_capacity(sockets.len());
        let mut seen = HashMap::with_capacity(sockets.len());
        for socket in sockets.iter().copied() {
            let known = self.seen.remove(&socket.inode);
            if known.is_none() {
                self.accepted = looking;
            }
            let known = known.unwrap_or_else(Seen::new);
            let heard = socket.peer.and_then(|peer| self.listener.phase(peer));
            let (phase, since) = heard.unwrap_or((Phase::Idle, known.first));
            // A new connection may have an old one's address.
            let since = since.max(known.first);
            looks.push(Look { socket, phase, since, is_new: heard.is_none() });
            seen.insert(socket.inode, known);
        }
        self.seen = seen;
        self.part_twins(&looks);
        if asks {
            self.asked = looking;
            let mut has_cut = false;
            for look in &looks {
                has_cut |= self.ask(look, is_pressed);
            }
            // Those that were cut are about to give memory back, which would hide as much growth.
            if !has_cut {
                self.memory_bytes = memory_bytes();
            }
        } else {
            for look in &looks {
                if self.is_unmarked(look) {
                    self.mark(look);
                }
            }
        }
        self.rule(&looks);
        let peers: HashSet<_> = looks.iter().filter_map(|look| look.socket.peer).collect();
        self.listener.forget_all_but(|peer| peers.contains(&peer));
        Ok(())
    }

    /// What can be told by the clock and by numbers.
    fn rule(&mut self, looks: &[Look]) {
        let drained = self.listener.draining();
        let draining = drained.is_some();
        let is_impatient =
            drained.is_some_and(|since| since > Duration::from_millis(DRAIN_UNREAD_MS));
        let idle_max =
            if draining { Duration::from_millis(DRAIN_IDLE_MS) } else { self.limits.idle };
        let wait = self.listener.queue_wait();
        let (mut open, mut idle, mut starved, mut leaked) = (Vec::new(), Vec::new(), 0, 0);
        for look in looks {
            let Some(seen) = self.seen.get_mut(&look.socket.inode) else { continue };
            if let Some(cut) = seen.cut {
                let is_late = cut.elapsed() > Duration::from_millis(CLOSE_MS_MAX) + wait;
                if is_late && look.phase == Phase::Idle {
                    leaked += 1;
                    self.listener.acquit(&look.socket);
                }
                // What has been shut to drain may still be closing.
                if draining && cut.elapsed() < Duration::from_millis(DRAIN_CLOSE_MS) {
                    open.push(look);
                }
                continue;
            }
            open.push(look);
            let is_starved =
                look.is_new && look.socket.open().is_some_and(|stream| socket::unread(&stream) > 0);
            seen.starved_looks = if is_starved { seen.starved_looks + 1 } else { 0 };
            starved += nudges(seen.starved_looks);
            if look.phase != Phase::Idle {
                continue;
            }
            // A request that waits for a worker leaves its connection idle until then.
            if look.since.elapsed() <= idle_max + wait {
                idle.push(look);
            } else if !draining {
                self.cut(look, Disconnect::Idle);
            } else if let Some(stream) = look.socket.open()
                && (socket::unread(&stream) == 0 || is_impatient)
            {
                // tiny_http closes it. Had the client just sent something, it would be answered.
                let _ = stream.shutdown(Shutdown::Read);
                seen.cut = Some(Instant::now());
            }
        }
        self.listener.set_open(open.len());
        self.listener.metrics.connections.set(open.len());
        self.listener.metrics.connections_leaked.set(leaked);
        self.cap(&open, idle, leaked);
        self.nudge(starved);
        if leaked > LEAKED_MAX {
            self.listener.end_process("tiny_http never closes some connections");
        }
    }

    /// Two connections with one client address cannot be told apart in tiny_http's requests. They are
    /// possible: to two addresses of this machine; or the client has given one up and we have not. Of
    /// what comes from an address that is over nothing is processed, whoever has it now.
    fn part_twins(&mut self, looks: &[Look]) {
        let mut alive = HashMap::with_capacity(looks.len());
        for look in looks {
            let Some(peer) = look.socket.peer else { continue };
            let Some(seen) = self.seen.get_mut(&look.socket.inode) else { continue };
            let twin = alive.insert(peer, look);
            let has_ended = self.listener.has_ended(peer);
            if (twin.is_none() && !has_ended) || seen.cut.is_some() {
                continue;
            }
            if look.socket.open_alive().is_none() {
                seen.cut = Some(Instant::now());
            } else if has_ended {
                self.cut(look, Disconnect::DuplicateAddress);
            } else if let Some(twin) = twin.filter(|twin| twin.socket.open_alive().is_some()) {
                self.cut(look, Disconnect::DuplicateAddress);
                self.cut(twin, Disconnect::DuplicateAddress);
            }
        }
    }

    /// Its phase has changed since it was last asked how much it has received. The sooner it is asked,
    /// the less of a head without end is missed.
    fn is_unmarked(&self, look: &Look) -> bool {
        let mark = self.seen.get(&look.socket.inode).and_then(|seen| seen.mark);
        let is_known = mark.is_some_and(|(since, _)| since == look.since);
        look.phase != Phase::Body && !look.is_new && !is_known
    }

    fn mark(&mut self, look: &Look) {
        let Some(seen) = self.seen.get_mut(&look.socket.inode) else { return };
        let Some(stream) = look.socket.open() else { return };
        seen.received_before(look, socket::received(&stream));
    }

    /// What must be asked of a connection: how much it has received. True if it is cut for that.
    fn ask(&mut self, look: &Look, is_pressed: bool) -> bool {
        let Some(seen) = self.seen.get_mut(&look.socket.inode) else { return false };
        let Some(stream) = look.socket.open().filter(|_| seen.cut.is_none()) else { return false };
        let (received, unread) = (socket::received(&stream), socket::unread(&stream));
        let before = seen.received_before(look, received);
        // A body that waits for a worker is not being read; a body that is waited for is.
        let read = received.saturating_sub(unread);
        let is_ahead = unread > AHEAD_BYTES && look.phase != Phase::Body;
        seen.read = match seen.read.filter(|(since, _)| is_ahead && *since == look.since) {
            None => is_ahead.then_some((look.since, read)),
            known => known,
        };
        // More than one head, and what tiny_http reads ahead of a body.
        let is_growing = seen.read.is_some_and(|(_, before)| read > before + AHEAD_BYTES);
        if look.phase != Phase::Body && received.saturating_sub(before) > HEAD_BYTES_MAX {
            self.cut(look, Disconnect::Head);
        } else if is_pressed && is_ahead && is_growing {
            self.cut(look, Disconnect::Flood);
        } else {
            return false;
        }
        true
    }

    /// Those that have been idle longest are cut, and before them those that have never sent anything:
    /// first of each address that has too many, then of all.
    fn cap(&mut self, open: &[&Look], mut idle: Vec<&Look>, leaked: usize) {
        let mut by_address: HashMap<IpAddr, usize> = HashMap::new();
        for address in open.iter().filter_map(|look| look.address()) {
            *by_address.entry(address).or_default() += 1;
        }
        // A proxy on this machine speaks for everybody.
        by_address.retain(|address, count| {
            !address.is_loopback() && *count > self.limits.connections_per_address
        });
        let mut excess = (open.len() + leaked).saturating_sub(self.limits.connections);
        if excess == 0 && by_address.is_empty() {
            return;
        }
        idle.sort_by_cached_key(|look| (look.has_sent(), look.since));
        idle.retain(|look| {
            let Some(address) = look.address() else { return true };
            let Some(count) = by_address.get_mut(&address) else { return true };
            let is_one_too_many = *count > self.limits.connections_per_address;
            if is_one_too_many {
                *count -= 1;
                excess = excess.saturating_sub(1);
                self.cut(look, Disconnect::Address);
            }
            !is_one_too_many
        });
        for look in idle.into_iter().take(excess) {
            self.cut(look, Disconnect::Cap);
        }
    }

    /// One more connection makes tiny_http start one more thread, which then takes the first connection
    /// that has none.
    fn nudge(&self, starved: usize) {
        for _ in 0..starved.min(NUDGES_MAX) {
            if socket::connect_to_self(self.listener.address()).is_err() {
                return;
            }
        }
    }

    /// Why tiny_http's accept loop has ended, if it is known to have. Finding out takes no descriptor.
    fn dead_accept_loop(&self) -> Option<&'static str> {
        if accept_loop_has_panicked() {
            Some("no descriptor was free for a connection")
        } else if self.listener.is_accepting() {
            None
        } else {
            Some("tiny_http accepts no connections")
        }
    }

    /// Half of the deaths of tiny_http's accept loop are silent (H3): the kernel still takes
    /// connections, and nobody ever accepts them. Any new connection is proof of life.
    fn probe(&mut self) {
        if self.accepted.elapsed() < Duration::from_millis(PROBE_EVERY_MS) {
            self.probe = None;
            return;
        }
        let Some((_, looks)) = &mut self.probe else {
            let own = socket::connect_to_self(self.listener.address());
            self.probe = own.ok().map(|stream| (stream, 0));
            return;
        };
        *looks += 1;
        if *looks > ACCEPT_LOOKS_MAX {
            self.listener.accepts_no_more("nobody accepts");
        }
    }

    fn cut(&mut self, look: &Look, reason: Disconnect) {
        if let Some(seen) = self.seen.get_mut(&look.socket.inode) {
            seen.cut = Some(Instant::now());
        }
        self.listener.cut_socket(&look.socket, reason);
    }
}

impl Look {
    fn address(&self) -> Option<IpAddr> {
        self.socket.peer.map(|peer| peer.ip().to_canonical())
    }

    /// The client has sent at least a part of a request.
    fn has_sent(&self) -> bool {
        !self.is_new || self.socket.open().is_some_and(|stream| socket::received(&stream) > 0)
    }
}

impl Seen {
    fn new() -> Seen {
        Seen { first: Instant::now(), starved_looks: 0, mark: None, read: None, cut: None }
    }

    /// What the connection had received when its phase was first asked about.
    fn received_before(&mut self, look: &Look, received: u64) -> u64 {
        let before = match self.mark {
            Some((since, before)) if since == look.since => before,
            _ if look.is_new => 0,
            _ => received,
        };
        self.mark = Some((look.since, before));
        before
    }
}

/// Connections to ourselves for one that has been starved for so many looks: twice as many at each,
/// since connections that send nothing may stand before it in tiny_http's queue.
fn nudges(starved_looks: u32) -> usize {
    if !STARVED_LOOKS.contains(&starved_looks) {
        return 0;
    }
    1_usize
        .checked_shl(starved_looks - STARVED_LOOKS.start())
        .map_or(NUDGES_MAX, |twice| twice.min(NUDGES_MAX))
}

/// What the process has in memory, without files (proc(5): resident less shared, in pages).
fn memory_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let mut pages = text.split(' ').skip(1).map(|pages| pages.parse::<u64>().unwrap_or(0));
    let (resident, shared) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
    resident.saturating_sub(shared) * rustix::param::page_size() as u64
}

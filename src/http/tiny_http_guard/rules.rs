//! What tiny_http does not do: it has no deadlines (H5), no bounds (H6, H9b), it may leave some
//! connections of a burst without a thread until another connection ends (H4), and it leaks (H1,
//! H2).
//!
//! The rules see the sockets only. Deadlines are total: one byte now and then extends nothing.

use std::{
    collections::{HashMap, HashSet},
    net::Shutdown,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};

use super::{
    descriptors::Socket,
    excess::{Candidate, excess},
    history::{History, Observation},
    peers::Peers,
    reception::State,
    restart::Restart,
    starvation::wake,
};
use crate::{
    config::Limits,
    http::{
        connections::{Phase, SocketId},
        listener::Listener,
        socket,
    },
    metrics::Disconnect,
};

/// How often it is checked how much each connection has received: under pressure, after every scan.
const RECEPTION_EVERY_MS: u64 = 1_000;
/// How long tiny_http may take to close a socket after mailslot has shut the connection down and
/// its last request has left the queue. Later, the connection counts as leaked (H1, H2).
const CLOSE_MS_MAX: u64 = 2_000;
/// Connections that tiny_http never closes. With one more, the process restarts in place.
const LEAKED_MAX: usize = 512;
/// How long the connection of an address may be closing before it counts as ended.
const CLOSING_MS: u64 = 100;
/// While draining: how long a connection must have been idle to be closed. One that is in use is
/// closed after its next response.
const DRAIN_IDLE_MS: u64 = 250;
/// From when on idle connections with unread bytes are closed, too; and how long their closing is
/// waited for.
const DRAIN_UNREAD_MS: u64 = 1_000;
const DRAIN_CLOSE_MS: u64 = 250;

pub(super) struct Rules {
    pub(super) listener: Arc<Listener>,
    pub(super) peers: Arc<Peers>,
    pub(super) restart: Arc<Restart>,
    limits: Limits,
    /// Of the connections that the last scan has found.
    histories: HashMap<SocketId, History>,
    reception_checked: Instant,
}

pub(super) struct Findings {
    /// There is a connection that the scan before has not found.
    pub(super) has_new: bool,
    /// Every connection was checked for what it has received, and none was closed for that.
    pub(super) is_calm: bool,
}

impl Rules {
    pub(super) fn new(
        listener: Arc<Listener>,
        peers: Arc<Peers>,
        restart: Arc<Restart>,
        limits: Limits,
    ) -> Rules {
        let (histories, reception_checked) = (HashMap::new(), Instant::now());
        Rules { listener, peers, restart, limits, histories, reception_checked }
    }

    /// Some connection may be starved: the next scan decides.
    pub(super) fn may_be_starved(&self) -> bool {
        self.histories.values().any(|history| history.starvation.is_first())
    }

    /// The last scan has found no connection.
    pub(super) fn sees_nothing(&self) -> bool {
        self.histories.is_empty()
    }

    /// Applies all rules to what a scan has found. `is_pressed`: memory grows, or requests wait.
    pub(super) fn apply(&mut self, sockets: &[Socket], is_pressed: bool) -> Findings {
        let (observations, has_new) = self.observe(sockets);
        self.close_duplicates(&observations);
        let is_calm = self.check_receptions(&observations, is_pressed);
        self.enforce(&observations);
        let open: HashSet<_> = sockets.iter().filter_map(|socket| socket.peer).collect();
        let age = self.peers.queued_time_max();
        self.peers.admission.with(|connections| {
            connections.retain_open(|peer| open.contains(&peer), age, Instant::now());
        });
        Findings { has_new, is_calm }
    }

    fn observe(&mut self, sockets: &[Socket]) -> (Vec<Observation>, bool) {
        let mut has_new = false;
        let mut observations = Vec::with_capacity(sockets.len());
        let mut histories = HashMap::with_capacity(sockets.len());
        for socket in sockets.iter().copied() {
            let known = self.histories.remove(&socket.id);
            has_new |= known.is_none();
            let history = known.unwrap_or_else(History::new);
            let admission = &self.peers.admission;
            let known =
                socket.peer.and_then(|peer| admission.with(|connections| connections.phase(peer)));
            let (phase, since) = known.unwrap_or((Phase::Idle, history.first));
            // A new connection may have an old one's address.
            let since = since.max(history.first);
            let state = State { phase, since, is_new: known.is_none() };
            observations.push(Observation { socket, state });
            histories.insert(socket.id, history);
        }
        self.histories = histories;
        (observations, has_new)
    }

    /// Two connections with one peer address cannot be distinguished in tiny_http's requests. They
    /// occur where one client connects to two addresses of this machine, or where the client has
    /// given one up and the server has not. Of an address whose connection has ended nothing is
    /// processed, so a new connection with it is closed, too.
    fn close_duplicates(&mut self, observations: &[Observation]) {
        let mut by_peer = HashMap::with_capacity(observations.len());
        for observation in observations {
            let Some(peer) = observation.socket.peer else { continue };
            let duplicate = by_peer.insert(peer, observation);
            let has_ended = self.peers.admission.with(|connections| {
                connections.has_ended_for(peer, Duration::from_millis(CLOSING_MS), Instant::now())
            });
            if duplicate.is_none() && !has_ended {
                continue;
            }
            let Some(history) = self.histories.get_mut(&observation.socket.id) else { continue };
            if history.closed.is_some() {
                continue;
            }
            let is_alive = |one: &&Observation| one.socket.open_alive().is_some();
            if !is_alive(&observation) {
                history.closed = Some(Instant::now());
            } else if has_ended {
                self.close(observation, Disconnect::DuplicateAddress);
            } else if let Some(duplicate) = duplicate.filter(is_alive) {
                self.close(observation, Disconnect::DuplicateAddress);
                self.close(duplicate, Disconnect::DuplicateAddress);
            }
        }
    }

    /// Closes connections that send heads without end or too many requests ahead. True if every
    /// connection was checked and none closed: closed connections are about to give memory back,
    /// which would hide as much growth.
    fn check_receptions(&mut self, observations: &[Observation], is_pressed: bool) -> bool {
        let every = Duration::from_millis(RECEPTION_EVERY_MS);
        let checks_all = is_pressed || self.reception_checked.elapsed() > every;
        let mut is_calm = checks_all;
        for observation in observations {
            let Observation { socket, state } = observation;
            let Some(history) = self.histories.get_mut(&socket.id) else { continue };
            let is_due = if checks_all {
                history.closed.is_none()
            } else {
                history.reception.is_unmarked(*state)
            };
            if !is_due {
                continue;
            }
            let Some(stream) = socket.open() else { continue };
            let received = socket::received_bytes(&stream);
            if !checks_all {
                history.reception.mark(*state, received);
                continue;
            }
            let unread = socket::unread_bytes(&stream);
            if let Some(reason) = history.reception.check(*state, received, unread, is_pressed) {
                self.close(observation, reason);
                is_calm = false;
            }
        }
        if checks_all {
            self.reception_checked = Instant::now();
        }
        is_calm
    }

    /// Closes what is idle for too long or too many, wakes what is starved, and counts what is
    /// open.
    fn enforce(&mut self, observations: &[Observation]) {
        let is_draining = self.listener.is_draining();
        let idle_max =
            if is_draining { Duration::from_millis(DRAIN_IDLE_MS) } else { self.limits.idle };
        // A request that waits for a worker leaves its connection idle until then.
        let wait = self.peers.overload.wait();
        let (mut open, mut idle, mut wakes, mut leaked) = (Vec::new(), Vec::new(), 0, 0);
        for (index, observation) in observations.iter().enumerate() {
            let Some(history) = self.histories.get_mut(&observation.socket.id) else { continue };
            let is_idle = observation.state.phase == Phase::Idle;
            if let Some(closed) = history.closed {
                if is_idle && closed.elapsed() > Duration::from_millis(CLOSE_MS_MAX) + wait {
                    leaked += 1;
                    self.clear_peer(&observation.socket);
                }
                // What has been shut down to drain may still be closing.
                if is_draining && closed.elapsed() < Duration::from_millis(DRAIN_CLOSE_MS) {
                    open.push(observation.address());
                }
                continue;
            }
            open.push(observation.address());
            let (has_sent, is_starved) = observation.first_request();
            wakes += history.starvation.wakes(is_starved);
            if !is_idle {
                continue;
            }
            if observation.state.since.elapsed() <= idle_max + wait {
                let (address, since) = (observation.address(), observation.state.since);
                idle.push(Candidate { index, address, has_sent, since });
            } else if is_draining {
                self.close_drained(observation);
            } else {
                self.close(observation, Disconnect::Idle);
            }
        }
        self.peers.open.store(open.len(), SeqCst);
        self.peers.metrics.connections.set(open.len());
        self.peers.metrics.connections_leaked.set(leaked);
        for (index, reason) in excess(&open, leaked, idle, &self.limits) {
            self.close(&observations[index], reason);
        }
        wake(self.listener.address(), wakes);
        if leaked > LEAKED_MAX {
            self.restart.request("tiny_http never closes some connections");
        }
    }

    /// No request of this socket, which tiny_http never closes, is queued any more: the next
    /// connection with its address is served.
    fn clear_peer(&self, socket: &Socket) {
        if let Some(peer) = socket.peer {
            self.peers.admission.with(|connections| connections.clear_peer(peer, socket.id));
        }
    }

    /// Lets tiny_http close an idle connection. If the client has just sent a request, it is
    /// answered.
    fn close_drained(&mut self, observation: &Observation) {
        let unread = Duration::from_millis(DRAIN_UNREAD_MS);
        let closes_unread = self.listener.draining_time().is_some_and(|time| time > unread);
        let Some(stream) = observation.socket.open() else { return };
        if closes_unread || socket::unread_bytes(&stream) == 0 {
            let _ = stream.shutdown(Shutdown::Read);
            self.set_closed(observation);
        } else if let Some(history) = self.histories.get_mut(&observation.socket.id) {
            // It is not idle before a worker has had the time to receive what is read from it next.
            history.first = Instant::now();
        }
    }

    fn close(&mut self, observation: &Observation, reason: Disconnect) {
        self.set_closed(observation);
        self.peers.disconnect_socket(&observation.socket, reason);
    }

    fn set_closed(&mut self, observation: &Observation) {
        if let Some(history) = self.histories.get_mut(&observation.socket.id) {
            history.closed = Some(Instant::now());
        }
    }
}

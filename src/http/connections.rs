//! The table of connections, as a state machine without locks, sockets and clocks.
//!
//! Each connection has one request in flight at a time, and the requests behind it wait in order.
//! It is generic in the request type, so that its tests need neither sockets nor tiny_http.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Pipelined requests that wait on one connection. One more closes the connection.
pub(crate) const PIPELINED_MAX: usize = 16;
/// Bytes that are sent on a connection before the backpressure check: whether the client reads
/// them.
const UNCHECKED_BYTES: usize = 64 * 1024;

/// The inode of a socket, which is unique among the open sockets.
pub(super) type SocketId = u64;

#[derive(Debug)]
pub(super) struct Connections<R> {
    by_peer: HashMap<SocketAddr, Connection<R>>,
}

/// A connection that has sent a request.
#[derive(Debug)]
struct Connection<R> {
    phase: Phase,
    /// The start of this phase.
    since: Instant,
    /// Requests behind the one in flight, in the order of their responses.
    pipelined: VecDeque<R>,
    end: Option<End>,
    /// Bytes sent since the last backpressure check.
    unchecked_bytes: usize,
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The next request.
    Idle,
    /// The client, which sends a body, or what remains of a refused request. tiny_http reads no
    /// head meanwhile.
    Body,
    /// A request is being handled, or its response is being sent.
    InFlight,
}

/// Nothing more of a connection that has ended is processed, not even what tiny_http had read
/// before the socket was shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    pub(super) at: Instant,
    /// The connection's socket where it is known for certain. Another connection may later have the
    /// same address.
    pub(super) socket: Option<SocketId>,
    kind: EndKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndKind {
    /// The client may still send, so that it reads the response that refuses its request.
    Refused,
    /// The socket is shut down.
    Disconnected,
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admitted<R> {
    /// It is its connection's request in flight until [`Connections::release`].
    InFlight(R),
    /// It waits behind its connection's request in flight.
    Queued,
    /// Its connection has more than [`PIPELINED_MAX`] requests waiting, and has ended. These are
    /// all of them.
    TooMany(VecDeque<R>),
    /// Its connection has ended.
    Ended(R),
}

/// What follows the request in flight.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Released<R> {
    /// The next request, which is in flight now.
    Next(R),
    Idle,
    /// The connection has ended. These requests get no response.
    Ended(VecDeque<R>),
}

impl<R> Default for Connections<R> {
    fn default() -> Connections<R> {
        Connections { by_peer: HashMap::new() }
    }
}

impl<R> Connections<R> {
    /// How the connection from `peer` ended, if it has ended and no request of it is in flight.
    pub(super) fn ended(&self, peer: SocketAddr) -> Option<End> {
        self.by_peer.get(&peer).and_then(Connection::ended)
    }

    /// Admits a request from `peer`. `replaced` is what [`Connections::ended`] returned, if the
    /// caller knows that a new connection has the address since then.
    pub(super) fn admit(
        &mut self,
        peer: SocketAddr,
        request: R,
        replaced: Option<End>,
        now: Instant,
    ) -> Admitted<R> {
        let connection = self.by_peer.entry(peer).or_insert_with(|| Connection::new(now));
        if let Some(ended) = connection.ended() {
            if replaced != Some(ended) {
                // The request may be a new connection's, and so may those that follow it: from now
                // on the socket is not known, and only time tells that none of them is left.
                connection.end = Some(End { at: now, socket: None, ..ended });
                return Admitted::Ended(request);
            }
            *connection = Connection::new(now);
        }
        if connection.phase == Phase::Idle {
            connection.enter(Phase::InFlight, now);
            return Admitted::InFlight(request);
        }
        if connection.end.is_some_and(|end| end.kind == EndKind::Disconnected) {
            return Admitted::Ended(request);
        }
        connection.pipelined.push_back(request);
        if connection.pipelined.len() <= PIPELINED_MAX {
            return Admitted::Queued;
        }
        let socket = connection.end.and_then(|end| end.socket);
        connection.end = Some(End { at: now, socket, kind: EndKind::Disconnected });
        Admitted::TooMany(mem::take(&mut connection.pipelined))
    }

    /// The request in flight is done.
    pub(super) fn release(&mut self, peer: SocketAddr, now: Instant) -> Released<R> {
        let Some(connection) = self.by_peer.get_mut(&peer) else { return Released::Idle };
        if connection.end.is_some() {
            connection.enter(Phase::Idle, now);
            return Released::Ended(mem::take(&mut connection.pipelined));
        }
        let next = connection.pipelined.pop_front();
        connection.enter(if next.is_some() { Phase::InFlight } else { Phase::Idle }, now);
        next.map_or(Released::Idle, Released::Next)
    }

    /// Ends the connection. What waits on it is given back by the next [`Connections::release`].
    pub(super) fn end(
        &mut self,
        peer: SocketAddr,
        kind: EndKind,
        socket: Option<SocketId>,
        now: Instant,
    ) {
        let connection = self.by_peer.entry(peer).or_insert_with(|| Connection::new(now));
        let end = connection.end.get_or_insert(End { at: now, socket: None, kind });
        end.socket = end.socket.or(socket);
        if kind == EndKind::Disconnected {
            end.kind = kind;
        }
    }

    /// True as soon as the connection has ended, also while its last request is in flight.
    pub(super) fn is_ending(&self, peer: SocketAddr) -> bool {
        self.by_peer.get(&peer).is_some_and(|connection| connection.end.is_some())
    }

    /// True if the connection has ended, and its last request was done this long ago.
    pub(super) fn has_ended_for(&self, peer: SocketAddr, time: Duration, now: Instant) -> bool {
        self.by_peer.get(&peer).is_some_and(|connection| {
            connection.ended().is_some() && now.saturating_duration_since(connection.since) > time
        })
    }

    /// Forgets how the connection from `peer` ended, if that was about this socket.
    pub(super) fn clear_peer(&mut self, peer: SocketAddr, socket: SocketId) {
        let end = self.by_peer.get(&peer).and_then(|connection| connection.end);
        if end.is_some_and(|end| end.socket == Some(socket)) {
            self.by_peer.remove(&peer);
        }
    }

    /// Forgets connections whose socket is closed: idle ones that are not open, and that have not
    /// changed for `age`. A younger one may have opened after the sockets were scanned.
    pub(super) fn retain_open(
        &mut self,
        is_open: impl Fn(SocketAddr) -> bool,
        age: Duration,
        now: Instant,
    ) {
        self.by_peer.retain(|peer, connection| {
            let changed =
                connection.end.map_or(connection.since, |end| end.at.max(connection.since));
            let is_young = now.saturating_duration_since(changed) < age;
            connection.phase != Phase::Idle || is_young || is_open(*peer)
        });
    }

    /// The phase of the connection and its start. `None`: it has not sent a request yet.
    pub(super) fn phase(&self, peer: SocketAddr) -> Option<(Phase, Instant)> {
        self.by_peer.get(&peer).map(|connection| (connection.phase, connection.since))
    }

    pub(super) fn enter(&mut self, peer: SocketAddr, phase: Phase, now: Instant) {
        if let Some(connection) = self.by_peer.get_mut(&peer) {
            connection.enter(phase, now);
        }
    }

    pub(super) fn is_any_in_flight(&self) -> bool {
        self.by_peer.values().any(|connection| connection.phase != Phase::Idle)
    }

    /// Counts `bytes` that are about to be sent. True if the backpressure check is due before that.
    pub(super) fn is_check_due(&mut self, peer: SocketAddr, bytes: usize) -> bool {
        let Some(connection) = self.by_peer.get_mut(&peer) else { return false };
        connection.unchecked_bytes += bytes;
        let is_due = connection.unchecked_bytes >= UNCHECKED_BYTES;
        if is_due {
            connection.unchecked_bytes = 0;
        }
        is_due
    }

    /// Makes the backpressure check due before the next response.
    pub(super) fn require_check(&mut self, peer: SocketAddr) {
        if let Some(connection) = self.by_peer.get_mut(&peer) {
            connection.unchecked_bytes = UNCHECKED_BYTES;
        }
    }
}

impl<R> Connection<R> {
    fn new(now: Instant) -> Connection<R> {
        Connection {
            phase: Phase::Idle,
            since: now,
            pipelined: VecDeque::new(),
            end: None,
            unchecked_bytes: 0,
        }
    }

    fn enter(&mut self, phase: Phase, now: Instant) {
        (self.phase, self.since) = (phase, now);
    }

    /// The time of the end is not before that of the last request in flight: only then tiny_http
    /// reads the head behind it.
    fn ended(&self) -> Option<End> {
        let end = self.end.filter(|_| self.phase == Phase::Idle)?;
        Some(End { at: end.at.max(self.since), ..end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn peer(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    /// A table in which requests are numbers, with a clock that the test sets.
    struct Table(Connections<u32>, Instant);

    impl Table {
        fn new() -> Table {
            Table(Connections::default(), Instant::now())
        }

        fn admit(&mut self, port: u16, request: u32) -> Admitted<u32> {
            self.0.admit(peer(port), request, None, self.1)
        }

        fn release(&mut self, port: u16) -> Released<u32> {
            self.0.release(peer(port), self.1)
        }

        fn end(&mut self, port: u16, kind: EndKind, socket: Option<SocketId>) {
            self.0.end(peer(port), kind, socket, self.1);
        }

        fn phase(&self, port: u16) -> Option<Phase> {
            self.0.phase(peer(port)).map(|(phase, _)| phase)
        }
    }

    #[test]
    fn a_connection_has_one_request_in_flight_and_the_others_follow_in_order() {
        let mut table = Table::new();
        assert_eq!(table.admit(1, 10), Admitted::InFlight(10));
        assert_eq!(table.admit(1, 11), Admitted::Queued);
        assert_eq!(table.admit(1, 12), Admitted::Queued);
        assert_eq!(table.admit(2, 20), Admitted::InFlight(20), "another connection");
        assert_eq!(table.release(1), Released::Next(11));
        assert_eq!(table.admit(1, 13), Admitted::Queued);
        assert_eq!(table.release(1), Released::Next(12));
        assert_eq!(table.release(1), Released::Next(13));
        assert_eq!(table.phase(1), Some(Phase::InFlight));
        assert_eq!(table.release(1), Released::Idle);
        assert_eq!((table.phase(1), table.phase(3)), (Some(Phase::Idle), None));
        assert!(table.0.is_any_in_flight(), "the other connection's request");
        assert_eq!(table.release(2), Released::Idle);
        assert!(!table.0.is_any_in_flight());
        assert_eq!(table.admit(1, 14), Admitted::InFlight(14));
    }

    #[test]
    fn the_time_of_an_end_is_not_before_that_of_the_last_request_in_flight() {
        let mut table = Table::new();
        assert_eq!(table.admit(1, 10), Admitted::InFlight(10));
        table.end(1, EndKind::Refused, None);
        assert_eq!(table.0.ended(peer(1)), None, "while a request is in flight");
        table.1 += SECOND;
        assert_eq!(table.release(1), Released::Ended(VecDeque::new()));
        assert_eq!(table.0.ended(peer(1)).map(|end| end.at), Some(table.1));
    }

    #[test]
    fn too_many_pipelined_requests_end_the_connection() {
        let mut table = Table::new();
        assert_eq!(table.admit(1, 0), Admitted::InFlight(0));
        for request in 1..=16 {
            assert_eq!(table.admit(1, request), Admitted::Queued);
        }
        assert_eq!(table.admit(1, 17), Admitted::TooMany((1..=17).collect()));
        assert_eq!(table.admit(1, 18), Admitted::Ended(18), "while a request is in flight");
        assert_eq!(table.0.ended(peer(1)), None);
        assert_eq!(table.release(1), Released::Ended(VecDeque::new()));
        assert!(table.0.ended(peer(1)).is_some());
        assert_eq!(table.admit(1, 19), Admitted::Ended(19));
    }

    #[test]
    fn what_waits_behind_a_refused_request_gets_no_response() {
        let mut table = Table::new();
        assert_eq!(table.admit(1, 0), Admitted::InFlight(0));
        assert_eq!(table.admit(1, 1), Admitted::Queued);
        table.end(1, EndKind::Refused, Some(7));
        assert!(table.0.is_ending(peer(1)));
        assert_eq!(table.admit(1, 2), Admitted::Queued, "tiny_http answers in order");
        assert_eq!(table.release(1), Released::Ended([1, 2].into()));
        assert_eq!(table.admit(1, 3), Admitted::Ended(3));
        assert_eq!(table.release(1), Released::Ended(VecDeque::new()));
    }

    #[test]
    fn an_address_serves_again_once_its_ended_connection_is_known_to_be_replaced() {
        let mut table = Table::new();
        table.admit(1, 0);
        table.end(1, EndKind::Refused, Some(7));
        table.end(1, EndKind::Disconnected, Some(8));
        table.release(1);
        let first = table.0.ended(peer(1)).unwrap();
        assert_eq!((first.socket, first.kind), (Some(7), EndKind::Disconnected));
        table.1 += SECOND;
        assert_eq!(table.admit(1, 1), Admitted::Ended(1), "not known to be another connection's");
        let second = table.0.ended(peer(1)).unwrap();
        assert_eq!(
            (second.socket, second.at),
            (None, table.1),
            "whose request that was is not known"
        );
        let mut admit = |request, replaced| table.0.admit(peer(1), request, replaced, table.1);
        assert_eq!(admit(2, Some(first)), Admitted::Ended(2), "the end has changed since");
        assert_eq!(admit(3, Some(second)), Admitted::InFlight(3));
        assert!(!table.0.is_ending(peer(1)));
    }

    #[test]
    fn a_closed_socket_clears_the_end_that_is_about_it_only() {
        let mut table = Table::new();
        table.end(1, EndKind::Disconnected, Some(7));
        table.0.clear_peer(peer(1), 8);
        assert_eq!(table.admit(1, 0), Admitted::Ended(0));
        table.0.clear_peer(peer(1), 7);
        assert_eq!(table.admit(1, 1), Admitted::Ended(1), "the socket is not known any more");
        table.end(2, EndKind::Disconnected, Some(7));
        table.0.clear_peer(peer(2), 7);
        assert_eq!(table.admit(2, 2), Admitted::InFlight(2));
    }

    #[test]
    fn a_connection_is_forgotten_when_it_is_idle_closed_and_old() {
        let mut table = Table::new();
        for port in 1..=4 {
            table.admit(port, 0);
        }
        for port in 1..=3 {
            table.release(port);
        }
        let retain = |table: &mut Table| {
            let open = peer(1);
            table.0.retain_open(|peer| peer == open, SECOND, table.1);
            (1..=4).map(|port| table.phase(port).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(retain(&mut table), [true; 4], "all are young");
        table.1 += SECOND;
        table.end(3, EndKind::Refused, None);
        assert_eq!(retain(&mut table), [true, false, true, true]);
        assert!(!table.0.has_ended_for(peer(3), 2 * SECOND, table.1));
        table.1 += 2 * SECOND;
        assert!(table.0.has_ended_for(peer(3), 2 * SECOND, table.1));
        assert!(!table.0.has_ended_for(peer(1), 2 * SECOND, table.1), "it has not ended");
        assert_eq!(retain(&mut table), [true, false, false, true]);
    }

    #[test]
    fn the_backpressure_check_is_due_after_so_many_bytes_or_when_it_is_required() {
        let mut table = Table::new();
        assert!(!table.0.is_check_due(peer(1), 1 << 20), "the connection has sent no request");
        table.admit(1, 0);
        assert!(!table.0.is_check_due(peer(1), UNCHECKED_BYTES - 1));
        assert!(table.0.is_check_due(peer(1), 1));
        assert!(!table.0.is_check_due(peer(1), 1));
        table.0.require_check(peer(1));
        assert!(table.0.is_check_due(peer(1), 0));
    }
}

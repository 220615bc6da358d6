//! What a connection has received, as far as it shows a head without end (H9b), or requests sent
//! ahead faster than they can be refused (H6).

use std::time::Instant;

use crate::{http::connections::Phase, metrics::Disconnect};

/// Bytes of one head, as far as the socket tells: of a connection that sends no body, since its
/// last request or response.
pub(crate) const HEAD_BYTES_MAX: u64 = 65_536;
/// Bytes that a client must have sent ahead to be disconnected under pressure, if tiny_http goes on
/// making requests of them, which would take 250 times as much memory. It is more than one head,
/// and more than tiny_http reads ahead of a body.
const AHEAD_BYTES: u64 = 4 * 1024;

/// The state of a connection at one scan.
#[derive(Debug, Clone, Copy)]
pub(super) struct State {
    pub(super) phase: Phase,
    /// The start of the phase, or of the connection.
    pub(super) since: Instant,
    /// It has not sent a request yet.
    pub(super) is_new: bool,
}

#[derive(Debug, Default)]
pub(super) struct Reception {
    /// The start of the current phase, and the bytes received when it was first checked.
    mark: Option<(Instant, u64)>,
    /// The start of the phase in which tiny_http had bytes ahead of it, and the bytes that it had
    /// read by then.
    ahead: Option<(Instant, u64)>,
}

impl Reception {
    /// The phase has changed since it was last marked. The sooner it is marked, the less of a head
    /// without end is missed.
    pub(super) fn is_unmarked(&self, state: State) -> bool {
        let is_known = self.mark.is_some_and(|(since, _)| since == state.since);
        state.phase != Phase::Body && !state.is_new && !is_known
    }

    /// Returns the bytes that had been received when the phase was first marked.
    pub(super) fn mark(&mut self, state: State, received_bytes: u64) -> u64 {
        let before = match self.mark {
            Some((since, before)) if since == state.since => before,
            _ if state.is_new => 0,
            _ => received_bytes,
        };
        self.mark = Some((state.since, before));
        before
    }

    /// Why the connection is to be closed, if it is. `is_pressed`: memory grows, or requests wait.
    pub(super) fn check(
        &mut self,
        state: State,
        received_bytes: u64,
        unread_bytes: u64,
        is_pressed: bool,
    ) -> Option<Disconnect> {
        let before = self.mark(state, received_bytes);
        let read = received_bytes.saturating_sub(unread_bytes);
        // A body that waits for a worker is not being read; a body that the poller waits for is.
        let is_body = state.phase == Phase::Body;
        let is_ahead = unread_bytes > AHEAD_BYTES && !is_body;
        let ahead = self.ahead.filter(|(since, _)| is_ahead && *since == state.since);
        self.ahead = ahead.or(is_ahead.then_some((state.since, read)));
        let is_growing = self.ahead.is_some_and(|(_, before)| read > before + AHEAD_BYTES);
        if !is_body && received_bytes.saturating_sub(before) > HEAD_BYTES_MAX {
            Some(Disconnect::Head)
        } else {
            (is_pressed && is_ahead && is_growing).then_some(Disconnect::Flood)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const KIB: u64 = 1024;

    fn state(phase: Phase, since: Instant) -> State {
        State { phase, since, is_new: false }
    }

    #[test]
    fn a_head_without_end_is_noticed_in_each_phase_but_a_bodys() {
        let start = Instant::now();
        let check = |state, first, later| {
            let mut reception = Reception::default();
            assert_eq!(reception.check(state, first, 0, false), None);
            reception.check(state, later, 0, false)
        };
        let head = Some(Disconnect::Head);
        for phase in [Phase::Idle, Phase::InFlight] {
            assert_eq!(check(state(phase, start), 10 * KIB, 74 * KIB), None);
            assert_eq!(
                check(state(phase, start), 10 * KIB, 75 * KIB),
                head,
                "since the first check"
            );
        }
        assert_eq!(check(state(Phase::Body, start), 0, 1024 * KIB), None);
        let new = State { is_new: true, ..state(Phase::Idle, start) };
        assert_eq!(check(new, 10 * KIB, 65 * KIB), head, "since the connection's start");
        let mut reception = Reception::default();
        for second in 0..10 {
            let state = state(Phase::Idle, start + Duration::from_secs(second));
            assert_eq!(
                reception.check(state, second * 60 * KIB, 0, false),
                None,
                "another request"
            );
        }
    }

    #[test]
    fn requests_sent_ahead_are_a_flood_only_under_pressure_and_while_they_are_read() {
        let state = state(Phase::InFlight, Instant::now());
        let (ahead, read) = (5 * KIB, 10 * KIB);
        let check = |first_read, read, unread, is_pressed| {
            let mut reception = Reception::default();
            assert_eq!(reception.check(state, first_read + unread, unread, is_pressed), None);
            reception.check(state, read + unread, unread, is_pressed)
        };
        assert_eq!(check(0, read, ahead, true), Some(Disconnect::Flood));
        assert_eq!(check(0, read, ahead, false), None, "no pressure");
        assert_eq!(check(read, read, ahead, true), None, "tiny_http reads none of it");
        assert_eq!(check(0, read, 3 * KIB, true), None, "no more than a head");
    }

    #[test]
    fn a_phase_is_unmarked_until_it_is_marked() {
        let mut reception = Reception::default();
        let first = state(Phase::Idle, Instant::now());
        assert!(reception.is_unmarked(first));
        reception.mark(first, 7);
        assert!(!reception.is_unmarked(first));
        let next = State { since: first.since + Duration::from_secs(1), ..first };
        assert!(reception.is_unmarked(next));
        assert!(!reception.is_unmarked(State { phase: Phase::Body, ..next }));
        assert!(!reception.is_unmarked(State { is_new: true, ..next }), "marked as it is checked");
    }
}

//! What the monitor sees of a connection at one scan, and what it remembers from scan to scan.

use std::{net::IpAddr, time::Instant};

use super::{
    descriptors::Socket,
    reception::{Reception, State},
    starvation::Starvation,
};
use crate::http::socket;

/// A connection at one scan.
#[derive(Debug)]
pub(super) struct Observation {
    pub(super) socket: Socket,
    /// The monitor keeps the deadline of the phase `Idle` only. The poller keeps the others.
    pub(super) state: State,
}

/// A connection from scan to scan.
#[derive(Debug)]
pub(super) struct History {
    /// When it was first seen; or, while draining, when it was last seen with unread bytes.
    pub(super) first: Instant,
    pub(super) starvation: Starvation,
    pub(super) reception: Reception,
    /// When the server closed it, or found it dead.
    pub(super) closed: Option<Instant>,
}

impl Observation {
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.socket.peer.map(|peer| peer.ip().to_canonical())
    }

    /// Whether the client has sent at least a part of a request, and whether a part of its first
    /// one is unread.
    pub(super) fn first_request(&self) -> (bool, bool) {
        if !self.state.is_new {
            return (true, false);
        }
        let stream = self.socket.open().filter(|stream| socket::received_bytes(stream) > 0);
        stream.map_or((false, false), |stream| (true, socket::unread_bytes(&stream) > 0))
    }
}

impl History {
    pub(super) fn new() -> History {
        History {
            first: Instant::now(),
            starvation: Starvation::default(),
            reception: Reception::default(),
            closed: None,
        }
    }
}

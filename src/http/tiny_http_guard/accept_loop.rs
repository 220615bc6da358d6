//! Notices that tiny_http's accept loop has ended (H3).
//!
//! Any error of `accept` ends the loop, and tiny_http passes that error on. It also ends by a
//! panic, where no descriptor is free to duplicate a new connection's, and then nothing is passed
//! on: the kernel still takes connections, and they wait for ever.

use std::{
    net::{SocketAddr, TcpStream},
    panic,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::{Duration, Instant},
};

use crate::http::socket;

/// How often the monitor connects to the own listener, and in how many scans that connection must
/// appear. Scans are counted instead of time, since the whole process may have been stopped
/// meanwhile.
const PROBE_EVERY_MS: u64 = 1_000;
pub(crate) const PROBE_SCANS_MAX: u32 = 50;

static PANICKED: AtomicBool = AtomicBool::new(false);

/// Notices panics of the accept loop from now on.
pub(in crate::http) fn watch_panics() {
    let next = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let file = info.location().map(panic::Location::file).unwrap_or_default();
        if file.contains("tiny_http") && file.ends_with("refined_tcp_stream.rs") {
            PANICKED.store(true, SeqCst);
        }
        next(info);
    }));
}

pub(super) struct AcceptLoop {
    address: SocketAddr,
    /// A connection of our own that is to be accepted, and the scans since.
    probe: Option<(TcpStream, u32)>,
    /// When a scan last found a connection that had not been there before.
    accepted: Instant,
}

impl AcceptLoop {
    pub(super) fn new(address: SocketAddr) -> AcceptLoop {
        AcceptLoop { address, probe: None, accepted: Instant::now() }
    }

    /// A scan has found a new connection.
    pub(super) fn has_accepted(&mut self, at: Instant) {
        self.accepted = at;
    }

    /// Why the loop has ended, if that is known. Needs no descriptor.
    pub(super) fn end_reason(is_accepting: bool) -> Option<&'static str> {
        if PANICKED.load(SeqCst) {
            Some("no descriptor was free for a connection")
        } else {
            (!is_accepting).then_some("tiny_http accepts no connections")
        }
    }

    /// To be called after every scan: true if the loop has accepted nothing for so long that it
    /// must have ended.
    pub(super) fn probe(&mut self) -> bool {
        if self.accepted.elapsed() < Duration::from_millis(PROBE_EVERY_MS) {
            self.probe = None;
            return false;
        }
        let Some((_, scans)) = &mut self.probe else {
            self.probe = socket::connect_to_self(self.address).ok().map(|stream| (stream, 0));
            return false;
        };
        *scans += 1;
        *scans > PROBE_SCANS_MAX
    }
}

//! A restart of the process in place, which tiny_http needs where it cannot go on: its accept loop
//! has ended (H3), it has leaked too much (H1, H2), or it takes too much memory (H6).

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::{http::listener::Listener, threads::lock};

/// A restart that the process has declined is requested again after this time.
const AGAIN_MS: u64 = 1_000;

pub(crate) struct Restart {
    listener: Arc<Listener>,
    request: Mutex<Request>,
}

#[derive(Default)]
struct Request {
    /// Why the restart is needed, until the process has decided.
    reason: Option<String>,
    /// When it was last requested.
    at: Option<Instant>,
    is_urgent: bool,
}

impl Restart {
    pub(super) fn new(listener: Arc<Listener>) -> Restart {
        Restart { listener, request: Mutex::default() }
    }

    /// Requests a restart from the process, by SIGUSR1. Requests in flight are answered before it,
    /// and new connections wait in the kernel.
    pub(super) fn request(&self, reason: &str) {
        let mut request = lock(&self.request);
        let again = Duration::from_millis(AGAIN_MS);
        if self.listener.is_draining() || request.at.is_some_and(|at| at.elapsed() < again) {
            return;
        }
        (request.reason, request.at) = (Some(reason.to_owned()), Some(Instant::now()));
        drop(request);
        // SIGUSR2 is the operator's, and starts a new program.
        let _ = signal_hook::low_level::raise(signal_hook::consts::SIGUSR1);
    }

    /// Requests a restart that waits for no client, since memory runs out.
    pub(super) fn request_urgently(&self, reason: &str) {
        lock(&self.request).is_urgent = true;
        self.request(reason);
    }

    /// tiny_http's accept loop has ended, as it must while draining.
    pub(in crate::http) fn accept_loop_ended(&self, reason: &str) {
        self.listener.set_not_accepting();
        self.request(reason);
    }

    /// Why the process is to restart, if it is. SIGUSR1 is raised when that changes.
    pub(crate) fn reason(&self) -> Option<String> {
        lock(&self.request).reason.clone()
    }

    /// The process cannot restart now. It is asked again after a second, if the reason remains.
    pub(crate) fn decline(&self) {
        let mut request = lock(&self.request);
        (request.reason, request.is_urgent) = (None, false);
    }

    /// Whether memory runs out, so that the restart is to wait for no client.
    pub(crate) fn is_urgent(&self) -> bool {
        lock(&self.request).is_urgent
    }
}

//! A restart of the process in place, which tiny_http needs where it cannot go on: its accept loop
//! has ended (H3), it has leaked too much (H1, H2), or it takes too much memory (H6).

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use crate::{http::listener::Listener, threads::lock};

/// A restart that the process has declined is requested again after this time.
const AGAIN_MS: u64 = 1_000;

pub(in crate::http) struct Restart {
    listener: Arc<Listener>,
    request: Mutex<Request>,
    urgent: AtomicBool,
}

#[derive(Default)]
struct Request {
    /// Why the restart is needed, until the process has decided.
    reason: Option<String>,
    /// When it was last requested.
    at: Option<Instant>,
}

impl Restart {
    pub(in crate::http) fn new(listener: Arc<Listener>) -> Restart {
        Restart { listener, request: Mutex::default(), urgent: AtomicBool::new(false) }
    }

    /// Requests a restart from the process, by SIGUSR1. Requests in flight are answered before it,
    /// and new connections wait in the kernel.
    pub(in crate::http) fn request(&self, reason: &str) {
        let mut request = lock(&self.request);
        let again = Duration::from_millis(AGAIN_MS);
        if self.listener.is_draining() || request.at.is_some_and(|at| at.elapsed() < again) {
            return;
        }
        *request = Request { reason: Some(reason.to_owned()), at: Some(Instant::now()) };
        drop(request);
        // SIGUSR2 is the operator's, and starts a new program.
        let _ = signal_hook::low_level::raise(signal_hook::consts::SIGUSR1);
    }

    /// Requests a restart that waits for no client, since memory runs out.
    pub(super) fn request_urgently(&self, reason: &str) {
        self.urgent.store(true, SeqCst);
        self.request(reason);
    }

    /// tiny_http's accept loop has ended, as it must while draining.
    pub(in crate::http) fn accept_loop_ended(&self, reason: &str) {
        self.listener.set_not_accepting();
        self.request(reason);
    }

    pub(in crate::http) fn reason(&self) -> Option<String> {
        lock(&self.request).reason.clone()
    }

    /// The process cannot restart now.
    pub(in crate::http) fn decline(&self) {
        lock(&self.request).reason = None;
        self.urgent.store(false, SeqCst);
    }

    pub(in crate::http) fn is_urgent(&self) -> bool {
        self.urgent.load(SeqCst)
    }
}

//! The connection monitor: a thread that scans the connections ten times a second, and applies the
//! rules.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::{
    accept_loop::AcceptLoop,
    memory::{self, Growth},
    peers::Peers,
    restart::Restart,
    rules::Rules,
};
use crate::{
    config::Limits,
    http::{admission::Received, listener::Listener},
    threads::spawn,
};

/// The time between two scans. After a scan that took long, it is this many times longer, up to a
/// bound.
const SCAN_EVERY_MS: u64 = 100;
const REST_FACTOR: u32 = 10;
const REST_MS_MAX: u64 = 300;
/// The same where a connection may be starved, as after a restart, when all clients connect at
/// once.
const SCAN_STARVED_EVERY_MS: u64 = 20;
/// The same while draining.
const SCAN_DRAINING_EVERY_MS: u64 = 20;
/// How often the memory of the process is measured, while there are connections.
const MEMORY_EVERY_MS: u64 = 10;
/// Memory of the whole process. tiny_http makes requests of what clients send ahead faster than
/// they can be refused, if enough clients do and come again. Beyond this, the process restarts in
/// place.
const MEMORY_BYTES_MAX: u64 = 402_653_184;
/// Requests that wait this long for a worker are pressure, as growing memory is.
const PRESSING_WAIT_MS: u64 = 200;

/// Starts the thread. It requests restarts of the process by what this returns.
pub(in crate::http) fn start(
    listener: Arc<Listener>,
    peers: Arc<Peers>,
    limits: Limits,
) -> io::Result<Arc<Restart>> {
    let restart = Arc::new(Restart::new(Arc::clone(&listener)));
    let mut monitor = Monitor {
        accept_loop: AcceptLoop::new(listener.address()),
        growth: Growth::start(),
        scan_time: Duration::ZERO,
        queue_measured: Instant::now(),
        rules: Rules::new(listener, peers, Arc::clone(&restart), limits),
    };
    spawn("monitor", move || monitor.run())?;
    Ok(restart)
}

struct Monitor {
    rules: Rules,
    accept_loop: AcceptLoop,
    growth: Growth,
    /// How long the last scan took, with what followed it.
    scan_time: Duration,
    queue_measured: Instant,
}

impl Monitor {
    fn run(&mut self) {
        loop {
            // Without the monitor there are no deadlines: a panic costs one round.
            let _ = catch_unwind(AssertUnwindSafe(|| self.round()));
        }
    }

    fn round(&mut self) {
        let is_draining = self.rules.listener.is_draining();
        let has_grown = self.rest(self.interval(is_draining));
        let started = Instant::now();
        if memory::used_bytes() > MEMORY_BYTES_MAX {
            self.rules.restart.request_urgently("too much memory is in use");
        }
        let pressing = Duration::from_millis(PRESSING_WAIT_MS);
        let is_pressed = has_grown || self.rules.peers.overload.wait() > pressing;
        let has_scanned = self.scan(is_pressed).is_ok();
        let is_due = self.queue_measured.elapsed() >= Duration::from_millis(SCAN_EVERY_MS);
        if is_due && !is_draining {
            self.queue_measured = started;
            if self.rules.peers.overload.adjust() {
                self.rules.peers.admission.wake(Received::Probe(Instant::now()));
            }
            self.check_accept_loop(has_scanned);
        }
        self.scan_time = started.elapsed();
    }

    fn interval(&self, is_draining: bool) -> Duration {
        let every_ms = if is_draining {
            SCAN_DRAINING_EVERY_MS
        } else if self.rules.may_be_starved() {
            SCAN_STARVED_EVERY_MS
        } else {
            SCAN_EVERY_MS
        };
        let rest = (self.scan_time * REST_FACTOR).min(Duration::from_millis(REST_MS_MAX));
        rest.max(Duration::from_millis(every_ms))
    }

    /// Sleeps for `interval`, or until memory grows: true if it does.
    fn rest(&mut self, interval: Duration) -> bool {
        let until = Instant::now() + interval;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let nap = Duration::from_millis(MEMORY_EVERY_MS);
            thread::sleep(if self.rules.sees_nothing() { left } else { left.min(nap) });
            let has_grown = self.growth.has_grown();
            if has_grown || Instant::now() >= until {
                return has_grown;
            }
        }
    }

    fn check_accept_loop(&mut self, has_scanned: bool) {
        if let Some(reason) = AcceptLoop::end_reason(self.rules.listener.is_accepting()) {
            self.rules.restart.accept_loop_ended(reason);
        } else if has_scanned && self.accept_loop.probe() {
            self.rules.restart.accept_loop_ended("new connections are not accepted");
        }
    }

    /// # Errors
    /// When no descriptor is free to scan with. That ends by itself, or by the restart of H3.
    fn scan(&mut self, is_pressed: bool) -> io::Result<()> {
        let sockets = self.rules.peers.scans.scan()?;
        let findings = self.rules.apply(&sockets, is_pressed);
        if findings.has_new {
            self.accept_loop.has_accepted(Instant::now());
        }
        if findings.is_calm {
            self.growth.restart();
        }
        Ok(())
    }
}

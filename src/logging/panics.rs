//! Panics, which are contained in their threads, are logged and counted.

use std::{
    panic,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
};

use super::logger::{CLIENT, ERRORS};

static PANICS: AtomicU64 = AtomicU64::new(0);
static TINY_HTTP_PANICS: AtomicU64 = AtomicU64::new(0);

/// Panics in any thread, except those of tiny_http.
pub(crate) fn panics() -> u64 {
    PANICS.load(Relaxed)
}

/// Panics of tiny_http, which clients can cause (H7 in docs/TINY_HTTP.md).
pub(crate) fn tiny_http_panics() -> u64 {
    TINY_HTTP_PANICS.load(Relaxed)
}

pub(super) fn install_hook() {
    panic::set_hook(Box::new(|panic| {
        let thread = thread::current();
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("");
        let is_main = thread.name() == Some("main");
        let is_ours = !location.contains("tiny_http");
        let (target, count) = if is_ours { (ERRORS, &PANICS) } else { (CLIENT, &TINY_HTTP_PANICS) };
        count.fetch_add(1, Relaxed);
        let (thread, location) = (thread.name().unwrap_or(""), location.as_str());
        log::error!(target: target, thread, location, panic = message; "panic");
        if is_main {
            // The process ends with this thread.
            log::logger().flush();
        }
    }));
}

//! The lines that wait for stdout, and the thread that writes them.
//!
//! A reader of the log that stops reading (a paused terminal, a stuck log driver) must not stop a
//! worker. So lines wait in a bounded buffer, and are dropped and counted when it is full.

use std::{
    io::{self, Write},
    mem,
    sync::{Condvar, Mutex, PoisonError},
    thread,
    time::Duration,
};

use crate::threads::{lock, spawn};

/// Bytes of log lines that may wait for a slow reader of stdout.
const QUEUE_BYTES_MAX: usize = 1024 * 1024;
/// How long a line waits for others, so that a busy log costs few system calls.
const GATHER_MS: u64 = 5;
/// How long the end of the process waits for a slow reader of stdout.
const FLUSH_MS_MAX: u64 = 1000;

/// The lines of this process: `log` has one logger, too.
pub(super) static QUEUE: Queue = Queue {
    state: Mutex::new(State { lines: Vec::new(), dropped: 0, is_writing: false }),
    changed: Condvar::new(),
};

pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    lines: Vec<u8>,
    dropped: u64,
    is_writing: bool,
}

impl Queue {
    /// Starts the thread that writes.
    pub(super) fn start(&'static self) -> io::Result<()> {
        spawn("log", || self.write_forever()).map(drop)
    }

    pub(super) fn push(&self, line: &[u8]) {
        let mut state = lock(&self.state);
        if state.lines.len() + line.len() > QUEUE_BYTES_MAX {
            state.dropped += 1;
            return;
        }
        let was_empty = state.lines.is_empty();
        state.lines.extend_from_slice(line);
        // While lines wait, the writing thread is awake already.
        if was_empty && !state.is_writing {
            self.changed.notify_all();
        }
    }

    fn write_forever(&self) {
        let mut lines = Vec::new();
        loop {
            let mut state = lock(&self.state);
            state.is_writing = false;
            self.changed.notify_all();
            while state.lines.is_empty() {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            drop(state);
            thread::sleep(Duration::from_millis(GATHER_MS));
            let mut state = lock(&self.state);
            mem::swap(&mut lines, &mut state.lines);
            let dropped = mem::take(&mut state.dropped);
            state.is_writing = true;
            drop(state);
            // There is no other way to report that stdout is closed, and the service goes on
            // without it.
            let _ = io::stdout().write_all(&lines);
            lines.clear();
            if dropped > 0 {
                log::warn!(dropped; "log lines dropped: stdout is read too slowly");
            }
        }
    }

    /// Returns when every line is written, or after [`FLUSH_MS_MAX`].
    pub(super) fn flush(&self) {
        let state = lock(&self.state);
        let limit = Duration::from_millis(FLUSH_MS_MAX);
        let is_unwritten = |state: &mut State| state.is_writing || !state.lines.is_empty();
        let _ = self.changed.wait_timeout_while(state, limit, is_unwritten);
    }
}

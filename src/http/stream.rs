//! An answer whose length nobody knows when it begins: sent piece by piece, past tiny_http, by a
//! thread of its own that may wait for the client.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    incoming::Arrival,
    socket::{is_not_yet, is_over, send_now},
};
use crate::metrics::Disconnect;

/// How long the client may take nothing at all.
pub(crate) const STREAM_STALL_MS_MAX: u64 = 10_000;
/// What it must have taken for each second that was waited for it, once those are more than a stall's.
const STREAM_BYTES_PER_SECOND: u64 = 16 * 1024;
/// How often it is looked at whether the process is to end.
const TICK_MS: i64 = 100;

pub(crate) struct Stream {
    arrival: Arrival,
    socket: TcpStream,
    sent_bytes: u64,
    waited: Duration,
}

/// Why an answer cannot be whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The client has ended the connection.
    Gone,
    /// It takes too little.
    Slow,
    /// The process is about to end, or what is to be sent cannot be had.
    Stopped,
}

impl Stream {
    /// `None` if the connection is over.
    pub(super) fn new(arrival: Arrival) -> Option<Stream> {
        let (arrival, socket) = arrival.with_stream()?;
        Some(Stream { arrival, socket, sent_bytes: 0, waited: Duration::ZERO })
    }

    pub(crate) fn send(&mut self, mut bytes: &[u8]) -> Result<(), Ended> {
        let mut moved = Instant::now();
        while !bytes.is_empty() {
            match send_now(&self.socket, bytes) {
                Ok(length) => {
                    bytes = &bytes[length..];
                    self.sent_bytes += length as u64;
                    moved = Instant::now();
                }
                Err(error) if is_not_yet(&error) => self.wait(moved)?,
                Err(_) => return Err(Ended::Gone),
            }
        }
        Ok(())
    }

    fn wait(&mut self, moved: Instant) -> Result<(), Ended> {
        let started = Instant::now();
        let tick = Timespec { tv_sec: 0, tv_nsec: TICK_MS * 1_000_000 };
        let _ = poll(&mut [PollFd::new(&self.socket, PollFlags::OUT)], Some(&tick));
        self.waited += started.elapsed();
        let stall = Duration::from_millis(STREAM_STALL_MS_MAX);
        let is_slow = self.waited > stall
            && self.sent_bytes < self.waited.as_secs() * STREAM_BYTES_PER_SECOND;
        if self.arrival.is_draining() {
            return Err(Ended::Stopped);
        }
        if moved.elapsed() > stall || is_slow { Err(Ended::Slow) } else { Ok(()) }
    }

    /// Whether it is worth going on, while there is nothing to send.
    pub(crate) fn check(&self) -> Result<(), Ended> {
        if self.arrival.is_draining() {
            return Err(Ended::Stopped);
        }
        if is_over(&self.socket) { Err(Ended::Gone) } else { Ok(()) }
    }

    /// The connection goes on, unless this was its last answer.
    pub(crate) fn finish(self, is_last: bool) {
        self.arrival.sent(&self.socket, is_last);
    }

    /// The client is to see that something is missing.
    pub(crate) fn cut(self, why: Ended) {
        match why {
            Ended::Slow => self.arrival.cut(&self.socket, Disconnect::Answer),
            Ended::Gone | Ended::Stopped => self.arrival.abandon(&self.socket),
        }
    }
}

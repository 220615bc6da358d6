//! A response that is sent as it is produced (RFC 9112 §7.1): past tiny_http, by a thread of its
//! own that may wait for the client.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    incoming::IncomingRequest,
    socket::{is_closed_by_peer, is_not_yet, send_now},
};
use crate::metrics::Disconnect;

/// How long the client may read nothing.
pub(crate) const STREAM_STALL_MS_MAX: u64 = 10_000;
/// What the client must have read for each second in which the kernel's buffer was full, once those
/// are more than a stall's.
const STREAM_BYTES_PER_SECOND: u64 = 16 * 1024;
/// How often it is checked whether the process is draining.
const TICK_MS: i64 = 100;

/// A chunked response whose head has been sent.
pub(crate) struct ChunkedResponse {
    request: IncomingRequest,
    stream: TcpStream,
    is_last: bool,
    sent_bytes: u64,
    /// How long the kernel's buffer was full.
    waited: Duration,
}

/// Why a response stays incomplete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Incomplete {
    /// The client reads too little.
    Slow,
    /// The client has closed the connection, the process is draining, or the rest of the response
    /// cannot be produced.
    Stopped,
}

impl ChunkedResponse {
    /// Sends the head. `None` if the connection is closed. `is_last`: the connection is closed
    /// afterwards.
    pub(super) fn start(request: IncomingRequest, head: &[u8], is_last: bool) -> Option<Self> {
        let (request, stream) = request.with_stream()?;
        let waited = Duration::ZERO;
        let mut response = ChunkedResponse { request, stream, is_last, sent_bytes: 0, waited };
        match response.write(head) {
            Ok(()) => Some(response),
            Err(why) => {
                response.abort(why);
                None
            }
        }
    }

    /// Sends a chunk. Without bytes, checks whether it is worth going on.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<(), Incomplete> {
        if self.request.is_draining() {
            return Err(Incomplete::Stopped);
        }
        // An empty chunk would be the last one.
        if bytes.is_empty() {
            let is_over = is_closed_by_peer(&self.stream);
            return if is_over { Err(Incomplete::Stopped) } else { Ok(()) };
        }
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend_from_slice(bytes);
        chunk.extend_from_slice(b"\r\n");
        self.write(&chunk)
    }

    /// Sends the end of the body.
    pub(crate) fn finish(mut self) {
        match self.write(b"0\r\n\r\n") {
            Ok(()) => self.finish_head(),
            Err(why) => self.abort(why),
        }
    }

    /// Ends a response to HEAD, which has no body.
    pub(super) fn finish_head(self) {
        self.request.finish(&self.stream, self.is_last);
    }

    /// Closes the connection without the end of the body, which shows the client that it is
    /// incomplete.
    pub(crate) fn abort(self, why: Incomplete) {
        match why {
            Incomplete::Slow => self.request.disconnect(&self.stream, Disconnect::Answer),
            Incomplete::Stopped => self.request.abandon(&self.stream),
        }
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), Incomplete> {
        let mut moved = Instant::now();
        while !bytes.is_empty() {
            match send_now(&self.stream, bytes) {
                Ok(length) => {
                    bytes = &bytes[length..];
                    self.sent_bytes += length as u64;
                    moved = Instant::now();
                }
                Err(error) if is_not_yet(&error) => self.wait(moved)?,
                Err(_) => return Err(Incomplete::Stopped),
            }
        }
        Ok(())
    }

    fn wait(&mut self, moved: Instant) -> Result<(), Incomplete> {
        let started = Instant::now();
        let tick = Timespec { tv_sec: 0, tv_nsec: TICK_MS * 1_000_000 };
        let _ = poll(&mut [PollFd::new(&self.stream, PollFlags::OUT)], Some(&tick));
        self.waited += started.elapsed();
        let stall = Duration::from_millis(STREAM_STALL_MS_MAX);
        let is_slow = self.waited > stall
            && self.sent_bytes < self.waited.as_secs() * STREAM_BYTES_PER_SECOND;
        if self.request.is_draining() {
            return Err(Incomplete::Stopped);
        }
        if moved.elapsed() > stall || is_slow { Err(Incomplete::Slow) } else { Ok(()) }
    }
}

//! What may wait for a client, as jobs of the poller: bodies that tiny_http has not buffered (H5b),
//! responses that the kernel may not take at once, and clients that still send what was refused.

use std::{net::Shutdown, sync::Arc};

use rustix::event::PollFlags;

use super::{
    body::{Body, NO_MEMORY},
    connections::Phase,
    framing::names,
    incoming::{BUFFERED_BODY_BYTES, IncomingRequest},
    poller::{Job, Late, Progress, Round, Wait},
    socket::{discard_now, is_not_yet, reset, send_now},
};
use crate::{error::Error, metrics::Disconnect};

/// From the end of a head to the end of its body.
const BODY_MS_MAX: u64 = 10_000;
/// From the first byte of a large response to its last.
const ANSWER_MS_MAX: u64 = 10_000;
/// How long a client may go on sending what was refused, so that it reads the response: without a
/// byte, and in all.
const LINGER_PAUSE_MS_MAX: u64 = 1_000;
const LINGER_MS_MAX: u64 = 10_000;
/// Bytes of it that are read.
const LINGER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Reads the body of a request, which then goes to a worker again.
///
/// # Errors
/// Gives the request back when there are too many slow clients.
pub(super) fn read_body(request: IncomingRequest, length: usize) -> Result<(), IncomingRequest> {
    let poller = Arc::clone(&request.parts.poller);
    let Some(client) = poller.budget.clients.take(request.peer().ip()) else {
        return Err(request);
    };
    let Some((request, stream)) = request.with_stream() else { return Ok(()) };
    // tiny_http's own thread waits until this body has been read before it touches the socket
    // again.
    let _ = stream.set_nonblocking(true);
    request.enter(Phase::Body);
    let body = Body { bytes: Vec::new(), reservation: request.empty_reservation() };
    let wait = Wait::total(stream, PollFlags::IN, BODY_MS_MAX);
    poller.submit(client, wait, ReadBody { request, body, length });
    Ok(())
}

/// Sends a response without blocking, and closes the connection where `is_last`.
pub(super) fn send_response(request: IncomingRequest, bytes: Vec<u8>, is_last: bool) {
    let poller = Arc::clone(&request.parts.poller);
    request.require_check();
    let Some((request, stream)) = request.with_stream() else { return };
    let Some(client) = poller.budget.clients.take(request.peer().ip()) else {
        return request.disconnect(&stream, Disconnect::Answer);
    };
    let wait = Wait::total(stream, PollFlags::OUT, ANSWER_MS_MAX);
    poller.submit(client, wait, SendResponse { request, bytes, sent: 0, is_last });
}

/// Sends a response, and closes the connection without reading what the client sends (H8): past
/// tiny_http, which would first read the body to its end.
pub(super) fn refuse(request: IncomingRequest, bytes: &[u8]) {
    let poller = Arc::clone(&request.parts.poller);
    request.refuse();
    let Some((request, stream)) = request.with_stream() else { return };
    if send_now(&stream, bytes).is_err() {
        return request.abandon(&stream);
    }
    // Closing a socket with unread bytes resets it, and the client would never read the response.
    let _ = stream.shutdown(Shutdown::Write);
    if has_unread_body(&request) {
        // tiny_http reads the connection's next head only when this request is done.
        request.enter(Phase::Body);
    }
    let Some(client) = poller.budget.clients.take(request.peer().ip()) else {
        return request.abandon(&stream);
    };
    let wait = Wait {
        pause_ms: LINGER_PAUSE_MS_MAX,
        is_answered: true,
        ..Wait::total(stream, PollFlags::IN, LINGER_MS_MAX)
    };
    poller.submit(client, wait, Linger { request, discarded: 0 });
}

fn has_unread_body(request: &IncomingRequest) -> bool {
    let header = |name| request.headers(name).next();
    let length = request.head.body_length().unwrap_or(0);
    length > BUFFERED_BODY_BYTES
        || (length > 0 && header("Expect").is_some())
        || header("Transfer-Encoding").is_some()
        || header("Connection").is_some_and(|value| names(value, "upgrade"))
}

const SHORT: Error = Error::Framing("the body is shorter than its Content-Length");
const LATE: Error = Error::Framing("the body did not arrive in time");

struct ReadBody {
    request: IncomingRequest,
    body: Body,
    length: usize,
}

impl Job for ReadBody {
    fn run(mut self: Box<Self>, round: Round<'_>) -> Progress {
        let Round { stream, buffer, lateness } = round;
        let round = buffer.len().min(self.length - self.body.bytes.len());
        let (body, reason) = match self.request.head.as_reader().read(&mut buffer[..round]) {
            Ok(0) => (Err(SHORT), Some(Disconnect::Short)),
            Ok(read) if !self.body.append(&buffer[..read]) => (Err(NO_MEMORY), None),
            Ok(_) if self.body.bytes.len() == self.length => (Ok(self.body), None),
            Err(error) if !is_not_yet(&error) => {
                self.request.abandon(stream);
                return Progress::Done;
            }
            read => match lateness {
                None => return Progress::Moved(self, read.unwrap_or(0)),
                Some(Late::Deadline) => (Err(LATE), Some(Disconnect::Body)),
                // The sender did nothing wrong, and is to send the request again.
                Some(Late::Evicted) => (Err(NO_MEMORY), None),
            },
        };
        self.request.resume(stream, body, reason);
        Progress::Done
    }
}

struct SendResponse {
    request: IncomingRequest,
    bytes: Vec<u8>,
    sent: usize,
    is_last: bool,
}

impl Job for SendResponse {
    fn run(mut self: Box<Self>, round: Round<'_>) -> Progress {
        let Round { stream, buffer, lateness } = round;
        let end = self.bytes.len().min(self.sent + buffer.len());
        let sent = match send_now(stream, &self.bytes[self.sent..end]) {
            Ok(sent) => sent,
            Err(error) if is_not_yet(&error) => 0,
            Err(_) => {
                self.request.abandon(stream);
                return Progress::Done;
            }
        };
        self.sent += sent;
        if self.sent == self.bytes.len() {
            self.request.finish(stream, self.is_last);
        } else if lateness.is_some() {
            self.request.disconnect(stream, Disconnect::Answer);
        } else {
            return Progress::Moved(self, sent);
        }
        Progress::Done
    }
}

/// Reads on after a refusal, so that the client gets to read the response.
struct Linger {
    request: IncomingRequest,
    discarded: usize,
}

impl Job for Linger {
    fn run(mut self: Box<Self>, round: Round<'_>) -> Progress {
        let Round { stream, buffer, lateness } = round;
        match discard_now(stream, buffer) {
            Ok(0) => {}
            Ok(read) if lateness.is_none() && self.discarded + read < LINGER_BYTES_MAX => {
                self.discarded += read;
                return Progress::Moved(self, read);
            }
            Err(error) if lateness.is_none() && is_not_yet(&error) => {
                return Progress::Moved(self, 0);
            }
            _ => reset(stream),
        }
        self.request.abandon(stream);
        Progress::Done
    }
}

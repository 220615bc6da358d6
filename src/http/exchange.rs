//! A request and its one response. Above this file nothing names tiny_http.

use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

pub(crate) use tiny_http::Method;

use super::{
    body::NO_MEMORY,
    framing::{authority, content_length, is_request_id, names, path_and_query},
    incoming::{BUFFERED_BODY_BYTES, IncomingRequest, SMALL_RESPONSE_BYTES},
    response::{Context, Response},
    slow_client,
    socket::is_closed_by_peer,
    stream::ChunkedResponse,
};
use crate::error::Error;

/// Bytes of a body, where a route does not allow more. A message needs at most 57 KiB, every
/// character escaped. The rest is for fields that mailslot ignores.
pub(crate) const BODY_BYTES_MAX: usize = 1024 * 1024;

/// What a handler sees of a request.
pub(crate) struct Request<'a> {
    pub(crate) body: &'a [u8],
    /// As the client sent them.
    pub(crate) path: &'a str,
    query: &'a str,
    headers: &'a dyn Headers,
    /// When the head had been received, in seconds since 1970: before the body was awaited.
    pub(crate) received_s: i64,
}

/// Where the headers of a request are found.
pub(crate) trait Headers {
    /// The values of the headers with this name, in order.
    fn values(&self, name: &'static str) -> Vec<&str>;
}

/// The value of a header, if there is exactly one with this name.
fn only<'a>(headers: &'a dyn Headers, name: &'static str) -> Option<&'a str> {
    match *headers.values(name) {
        [value] => Some(value),
        _ => None,
    }
}

/// For requests that are not received from a client.
impl Headers for &[(&str, &str)] {
    fn values(&self, name: &'static str) -> Vec<&str> {
        let values = self.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        values.map(|(_, value)| *value).collect()
    }
}

impl<'a> Request<'a> {
    /// `target` is path and query.
    pub(crate) fn new(
        body: &'a [u8],
        target: &'a str,
        headers: &'a dyn Headers,
        received_s: i64,
    ) -> Request<'a> {
        let (path, query) = path_and_query(target);
        Request { body, path, query, headers, received_s }
    }

    /// The values of a header, in order.
    pub(crate) fn headers(&self, name: &'static str) -> impl Iterator<Item = &'a str> {
        self.headers.values(name).into_iter()
    }

    /// The value of a header, if there is exactly one with this name.
    pub(crate) fn header(&self, name: &'static str) -> Option<&'a str> {
        only(self.headers, name)
    }

    /// Path and query as one text.
    pub(crate) fn target(&self) -> String {
        let separator = if self.query.is_empty() { "" } else { "?" };
        format!("{}{separator}{}", self.path, self.query)
    }

    /// Names and values in order, percent-decoded. Invalid UTF-8 becomes U+FFFD.
    pub(crate) fn query(&self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> {
        form_urlencoded::parse(self.query.as_bytes())
    }
}

/// A request until it is answered. Dropped unanswered, it is answered 500.
pub(crate) struct Exchange {
    request: IncomingRequest,
    pub(crate) request_id: String,
    started: Instant,
}

/// What became of a request's body.
pub(crate) enum Intake {
    Read(Exchange),
    /// It has not arrived yet. The request comes back to a worker with it.
    Awaited,
    /// It is not read.
    Refused(Exchange, Error),
}

impl Exchange {
    pub(super) fn new(request: IncomingRequest) -> Exchange {
        let request_id = request_id(&request);
        Exchange { request, request_id, started: Instant::now() }
    }

    pub(crate) fn method(&self) -> &Method {
        self.request.head.method()
    }

    /// The path as the client sent it, without the query.
    pub(crate) fn path(&self) -> &str {
        path_and_query(self.request.head.url()).0
    }

    /// The time since a worker took the request, with its body.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn request<'a>(&'a self, body: &'a [u8]) -> Request<'a> {
        Request::new(body, self.request.head.url(), self, self.request.received_s)
    }

    /// The value of `Authorization`, if there is exactly one.
    pub(crate) fn authorization(&self) -> Option<&str> {
        only(self, "Authorization")
    }

    /// The values of the cookies with this name: a browser that has several for the path sends them
    /// all.
    pub(crate) fn cookies<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let pairs = self.request.headers("Cookie").flat_map(|header| header.split(';'));
        let pairs = pairs.filter_map(|pair| pair.trim().split_once('='));
        pairs.filter(move |(other, _)| *other == name).map(|(_, value)| value)
    }

    /// Every host that the request names: in a target in absolute form, which counts alone (RFC
    /// 9112 §3.2.2), else in `Host`. Some tools name none with HTTP/1.0; a browser always names
    /// one.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &str> {
        let authority = authority(self.request.head.url());
        let headers = self.request.headers("Host").filter(move |_| authority.is_none());
        authority.into_iter().chain(headers)
    }

    /// The client has closed the connection, or its half of it.
    pub(crate) fn is_closed_by_peer(&self) -> bool {
        let found = self.request.parts.peers.scans.find(self.peer_address()).ok().flatten();
        found.is_none_or(|stream| is_closed_by_peer(&stream))
    }

    /// The client's address and port, which no two open connections share.
    pub(crate) fn peer_address(&self) -> SocketAddr {
        self.request.peer()
    }

    /// The values of `X-Forwarded-For`, in order.
    pub(crate) fn forwarded(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.request.headers("X-Forwarded-For")
    }

    /// Whether a page's own script sent the request: a browser sends this header in no other case.
    pub(crate) fn is_script(&self) -> bool {
        self.request.headers("X-Requested-With").next().is_some()
    }

    fn is_http_1_0(&self) -> bool {
        *self.request.head.http_version() < (1, 1)
    }

    /// Checks the framing, and reads a body of at most `bytes_max` into `buffer`.
    pub(crate) fn read_body(mut self, buffer: &mut Vec<u8>, bytes_max: usize) -> Intake {
        buffer.clear();
        match self.request.body.take() {
            Some(Ok(body)) => {
                *buffer = body.bytes;
                return Intake::Read(self);
            }
            Some(Err(error)) => return Intake::Refused(self, error),
            None => {}
        }
        let length = match self.content_length() {
            Err(reason) => return Intake::Refused(self, Error::Framing(reason)),
            Ok(0) => return Intake::Read(self),
            Ok(length) if length > bytes_max => {
                return Intake::Refused(self, Error::TooLarge { limit_bytes: bytes_max });
            }
            Ok(length) => length,
        };
        if length > BUFFERED_BODY_BYTES || self.request.headers("Expect").next().is_some() {
            let Exchange { request, request_id, started } = self;
            return match slow_client::read_body(request, length) {
                Ok(()) => Intake::Awaited,
                Err(request) => {
                    Intake::Refused(Exchange { request, request_id, started }, NO_MEMORY)
                }
            };
        }
        // It cannot fail: tiny_http has buffered the whole body.
        let _ = self.request.head.as_reader().read_to_end(buffer);
        Intake::Read(self)
    }

    fn content_length(&self) -> Result<usize, &'static str> {
        let head = &self.request.head;
        let headers = head.headers().iter();
        let headers = headers.map(|header| (header.field.as_str().as_str(), header.value.as_str()));
        content_length(head.method().as_str(), head.url(), headers)
    }

    /// Sends the response. The connection stays open, unless the client or the process ends it.
    pub(crate) fn answer(self, response: &Response) {
        let is_last = self.is_last();
        let bytes = self.bytes(response, is_last);
        // tiny_http looks at the first `Connection` header, and closes the connection by itself
        // then.
        let is_closed_by_tiny_http = match self.request.headers("Connection").next() {
            Some(value) => names(value, "close"),
            None => self.is_http_1_0(),
        };
        let closes = is_last && !is_closed_by_tiny_http;
        let is_small = bytes.len() <= SMALL_RESPONSE_BYTES;
        if is_small && self.request.parts.peers.is_reading(self.peer_address(), bytes.len()) {
            self.request.write(&bytes, closes);
        } else {
            slow_client::send_response(self.request, bytes, closes);
        }
    }

    /// # Errors
    /// HTTP/1.0 has no chunked responses.
    pub(crate) fn check_chunked(&self) -> Result<(), Error> {
        if self.is_http_1_0() {
            return Err(Error::Framing("this response needs HTTP/1.1"));
        }
        Ok(())
    }

    /// Begins a chunked response with `response`'s head. `None` if it has no body, or the
    /// connection is closed.
    pub(crate) fn stream(self, response: &Response) -> Option<ChunkedResponse> {
        let is_last = self.is_last();
        let is_head = *self.method() == Method::Head;
        let head = response.head(&self.context(is_last), None);
        let started = ChunkedResponse::start(self.request, head.as_bytes(), is_last)?;
        if is_head {
            started.finish_head();
            return None;
        }
        Some(started)
    }

    /// Sends the response without reading what the client is still sending, and closes the
    /// connection.
    pub(crate) fn refuse(self, response: &Response) {
        let bytes = self.bytes(response, true);
        slow_client::refuse(self.request, &bytes);
    }

    /// Reserves memory for a response that a slow client may keep waiting.
    ///
    /// # Errors
    /// What to answer instead.
    pub(crate) fn reserve_buffer(&mut self, response: &Response) -> Result<(), Error> {
        let has_memory = self.request.reserve_buffer(response.length());
        if has_memory { Ok(()) } else { Err(NO_MEMORY) }
    }

    /// Whether the connection is closed after this response, by tiny_http or by this side.
    fn is_last(&self) -> bool {
        let has = |option| self.request.headers("Connection").any(|value| names(value, option));
        self.request.is_draining() || has("close") || (self.is_http_1_0() && !has("keep-alive"))
    }

    fn bytes(&self, response: &Response, is_last: bool) -> Vec<u8> {
        response.bytes(&self.context(is_last), *self.method() == Method::Head)
    }

    fn context(&self, is_last: bool) -> Context<'_> {
        Context { request_id: &self.request_id, is_http_1_0: self.is_http_1_0(), is_last }
    }
}

impl Headers for Exchange {
    fn values(&self, name: &'static str) -> Vec<&str> {
        self.request.headers(name).collect()
    }
}

/// The client's own, if it sent exactly one that is fit for a log, or a new one: unique among all
/// processes on this machine's clock. It is for finding a line in a log, not a secret.
fn request_id(request: &IncomingRequest) -> String {
    static STARTED_NS: LazyLock<u128> = LazyLock::new(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos())
    });
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut sent = request.headers("X-Request-ID");
    if let (Some(id), None) = (sent.next(), sent.next())
        && is_request_id(id)
    {
        return id.to_owned();
    }
    format!("{:x}-{:x}", *STARTED_NS, COUNT.fetch_add(1, Relaxed))
}

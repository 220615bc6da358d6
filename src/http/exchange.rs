//! Our own Request and Response, and the Exchange that is between them. Above this file nobody
//! knows tiny_http.
//!
//! Owns strict framing: what two HTTP parsers could read in two ways is refused, and nothing more
//! is processed on that connection (H9a in docs/TINY_HTTP.md).

use std::{
    borrow::Cow,
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
pub(crate) use tiny_http::Method;

use crate::{
    error::{Error, Refusal},
    http::{
        incoming::{Arrival, BODY_BUFFERED_BYTES, Missing},
        stream::{Ended, Stream},
    },
    metrics::WebhookResult,
};

/// Bytes of a body. A message needs at most 57 KiB, every character escaped; the rest is room
/// for fields that mailslot ignores.
pub(crate) const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Headers of a request.
pub(crate) const HEADERS_MAX: usize = 100;
/// Characters of an incoming `X-Request-ID` that is kept.
const REQUEST_ID_CHARS_MAX: usize = 128;

/// About what the head of an answer takes.
const HEAD_BYTES: usize = 384;

/// Headers of every answer, since each is of its moment and most are private: no cache keeps it, no
/// browser takes it for another type, and no page of another site loads it.
const EVERY_ANSWER: &str = "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
    Cross-Origin-Resource-Policy: same-origin\r\n";

const JSON: &str = "application/json";

/// What a handler sees of a request.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) body: &'a [u8],
    query: &'a str,
    signature: Option<&'a str>,
}

impl<'a> Request<'a> {
    #[cfg(test)]
    pub(crate) fn new(body: &'a [u8], query: &'a str, signature: Option<&'a str>) -> Request<'a> {
        Request { body, query, signature }
    }

    /// The value of `X-Signature`, if there is exactly one.
    pub(crate) fn signature(&self) -> Option<&'a str> {
        self.signature
    }

    /// Names and values in order, percent-decoded; broken UTF-8 becomes U+FFFD.
    pub(crate) fn query(&self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> {
        form_urlencoded::parse(self.query.as_bytes())
    }
}

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) body: Vec<u8>,
    pub(crate) headers: Vec<(&'static str, String)>,
    /// How a delivery to /webhook ended, for its metric and its log line.
    pub(crate) result: Option<WebhookResult>,
}

impl Response {
    pub(crate) fn json(value: &impl Serialize) -> Response {
        Response::new(200, JSON, serde_json::to_vec(value).unwrap_or_default())
    }

    pub(crate) fn text(content_type: &'static str, body: String) -> Response {
        Response::new(200, content_type, body.into_bytes())
    }

    fn new(status: u16, content_type: &'static str, body: Vec<u8>) -> Response {
        Response { status, content_type, body, headers: Vec::new(), result: None }
    }

    pub(crate) fn with(
        mut self,
        headers: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Response {
        self.headers.extend(headers);
        self
    }
}

impl From<&Error> for Response {
    fn from(error: &Error) -> Response {
        let Refusal { status, result, body, headers } = error.refusal();
        Response { status, content_type: JSON, body, headers, result: Some(result) }
    }
}

impl From<Missing> for Error {
    fn from(missing: Missing) -> Error {
        match missing {
            Missing::Short => Error::Framing("the body is shorter than its Content-Length"),
            Missing::Late => Error::Framing("the body did not arrive in time"),
            Missing::NoRoom => Error::Unavailable("too much is on its way, try again later"),
        }
    }
}

/// One request on its way to its one answer.
pub(crate) struct Exchange {
    arrival: Arrival,
    pub(crate) request_id: String,
    started: Instant,
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Exchange({} {})", self.request_id, self.path())
    }
}

/// What became of a request's body.
#[derive(Debug)]
pub(crate) enum Intake {
    Read(Exchange),
    /// Still on its way: the request comes back as a new arrival.
    Awaited,
    /// Not to be read at all.
    Refused(Exchange, Error),
}

impl Exchange {
    pub(crate) fn new(arrival: Arrival) -> Exchange {
        let request_id = request_id(&arrival.request);
        Exchange { arrival, request_id, started: Instant::now() }
    }

    pub(crate) fn method(&self) -> &Method {
        self.arrival.request.method()
    }

    /// As it came, without the query.
    pub(crate) fn path(&self) -> &str {
        self.url().0
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn url(&self) -> (&str, &str) {
        path_and_query(self.arrival.request.url())
    }

    pub(crate) fn request<'a>(&'a self, body: &'a [u8]) -> Request<'a> {
        Request { body, query: self.url().1, signature: self.only_header("X-Signature") }
    }

    /// The value of `Authorization`, if there is exactly one.
    pub(crate) fn authorization(&self) -> Option<&str> {
        self.only_header("Authorization")
    }

    /// The host that the client asks for, each time that the request names one: in a target in
    /// absolute form, which counts alone (RFC 9112 §3.2.2), else in `Host`. None at all is what some
    /// tools do with HTTP/1.0; a browser always names one.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &str> {
        let authority = authority(self.arrival.request.url());
        let headers = self.headers("Host").filter(move |_| authority.is_none());
        authority.into_iter().chain(headers)
    }

    fn headers<'a>(&'a self, name: &'static str) -> impl DoubleEndedIterator<Item = &'a str> {
        headers(&self.arrival.request, name)
    }

    /// The client waits no longer, or has at least said all that it will.
    pub(crate) fn is_over(&self) -> bool {
        self.arrival.is_over()
    }

    pub(crate) fn peer(&self) -> IpAddr {
        self.arrival.peer().ip()
    }

    /// Which connection it came on, among those that are open.
    pub(crate) fn peer_address(&self) -> SocketAddr {
        self.arrival.peer()
    }

    /// Every `X-Forwarded-For`, in order.
    pub(crate) fn forwarded(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.headers("X-Forwarded-For")
    }

    /// Whether a page's own script asks, which the browser would not say of anything else.
    pub(crate) fn is_script(&self) -> bool {
        self.headers("X-Requested-With").next().is_some()
    }

    /// What this header says, if there is exactly one.
    fn only_header(&self, name: &'static str) -> Option<&str> {
        let mut values = self.headers(name);
        values.next().filter(|_| values.next().is_none())
    }

    /// Checks the framing and reads the body into `buffer`.
    pub(crate) fn read_body(mut self, buffer: &mut Vec<u8>) -> Intake {
        buffer.clear();
        match self.arrival.take_body() {
            Some(Ok(body)) => {
                *buffer = body;
                return Intake::Read(self);
            }
            Some(Err(missing)) => return Intake::Refused(self, Error::from(missing)),
            None => {}
        }
        let length = match content_length(&self.arrival.request) {
            Err(error) => return Intake::Refused(self, error),
            Ok(0) => return Intake::Read(self),
            Ok(length) if length > BODY_BYTES_MAX => {
                return Intake::Refused(self, Error::TooLarge { limit_bytes: BODY_BYTES_MAX });
            }
            Ok(length) => length,
        };
        if length > BODY_BUFFERED_BYTES || self.headers("Expect").next().is_some() {
            let Exchange { arrival, request_id, started } = self;
            return match arrival.read_body(length) {
                Ok(()) => Intake::Awaited,
                Err(arrival) => Intake::Refused(
                    Exchange { arrival, request_id, started },
                    Error::from(Missing::NoRoom),
                ),
            };
        }
        // In memory: tiny_http has it whole, or the request would not be here.
        let _ = self.arrival.request.as_reader().read_to_end(buffer);
        Intake::Read(self)
    }

    /// Sends the answer; the connection goes on.
    pub(crate) fn answer(self, response: &Response) {
        let is_last = self.is_last();
        let bytes = self.bytes(response, is_last);
        // Where the client asked for it in a way that tiny_http understands, it ends by itself.
        let is_ended_by_tiny_http = match self.headers("Connection").next() {
            Some(value) => is_close(value),
            None => *self.arrival.request.http_version() < (1, 1),
        };
        self.arrival.answer(bytes, is_last && !is_ended_by_tiny_http);
    }

    /// # Errors
    /// Where no answer can be sent as it comes: nothing is chunked in HTTP/1.0.
    pub(crate) fn check_chunked(&self) -> Result<(), Error> {
        if *self.arrival.request.http_version() < (1, 1) {
            return Err(Error::Framing("this answer needs HTTP/1.1"));
        }
        Ok(())
    }

    /// Begins an answer that is sent as it comes, with `response`'s head: chunked, so that the client
    /// sees whether it is whole. `None` if that was all, or the connection is over.
    pub(crate) fn stream(self, response: &Response) -> Option<Body> {
        let is_last = self.is_last();
        let is_head = *self.method() == Method::Head;
        let head = self.head(response, None, is_last);
        let mut stream = self.arrival.stream()?;
        match stream.send(head.as_bytes()) {
            Ok(()) if is_head => stream.finish(is_last),
            Ok(()) => return Some(Body { stream, is_last }),
            Err(ended) => stream.cut(ended),
        }
        None
    }

    /// Sends the answer without reading what the client is still sending, and ends the connection.
    pub(crate) fn refuse(self, response: &Response) {
        let bytes = self.bytes(response, true);
        self.arrival.refuse(&bytes);
    }

    /// Finds memory for an answer that a slow client may let wait.
    ///
    /// # Errors
    /// What to answer instead.
    pub(crate) fn make_room(&mut self, response: &Response) -> Result<(), Error> {
        let headers: usize = response.headers.iter().map(|(_, value)| value.len()).sum();
        let found = self.arrival.make_room(HEAD_BYTES + headers + response.body.len());
        if found { Ok(()) } else { Err(Error::from(Missing::NoRoom)) }
    }

    /// Whether tiny_http will end the connection after this answer, or we want the client to.
    fn is_last(&self) -> bool {
        let asked = |word: &str| {
            self.headers("Connection").any(|value| value.to_ascii_lowercase().contains(word))
        };
        self.arrival.is_draining()
            || asked("close")
            || (*self.arrival.request.http_version() < (1, 1) && !asked("keep-alive"))
    }

    /// Head and body as one write (H12).
    fn bytes(&self, response: &Response, is_last: bool) -> Vec<u8> {
        let head = self.head(response, Some(response.body.len()), is_last);
        let mut bytes = head.into_bytes();
        if *self.method() != Method::Head {
            bytes.extend_from_slice(&response.body);
        }
        bytes
    }

    fn head(&self, response: &Response, length: Option<usize>, is_last: bool) -> String {
        let Response { status, content_type, headers, .. } = response;
        let mut head = String::with_capacity(HEAD_BYTES + length.unwrap_or_default());
        let _ = write!(
            head,
            "HTTP/1.1 {status} {}\r\nDate: {}\r\nContent-Type: {content_type}\r\nX-Request-ID: {}\r\n{EVERY_ANSWER}",
            reason(*status),
            httpdate::HttpDate::from(SystemTime::now()),
            self.request_id,
        );
        let _ = match length {
            Some(length) => write!(head, "Content-Length: {length}\r\n"),
            None => write!(head, "Transfer-Encoding: chunked\r\n"),
        };
        for (name, value) in headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        if is_last {
            head.push_str("Connection: close\r\n");
        } else if *self.arrival.request.http_version() < (1, 1) {
            head.push_str("Connection: keep-alive\r\n");
        }
        head.push_str("\r\n");
        head
    }
}

/// The body of an answer that is sent as it comes (RFC 9112 §7.1).
pub(crate) struct Body {
    stream: Stream,
    is_last: bool,
}

impl Body {
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        if bytes.is_empty() {
            return self.stream.check(); // an empty chunk is the last one
        }
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend_from_slice(bytes);
        chunk.extend_from_slice(b"\r\n");
        self.stream.send(&chunk)
    }

    /// The body is whole.
    pub(crate) fn finish(mut self) {
        match self.stream.send(b"0\r\n\r\n") {
            Ok(()) => self.stream.finish(self.is_last),
            Err(ended) => self.stream.cut(ended),
        }
    }

    /// It is not, and never will be: the client is to see that.
    pub(crate) fn cut(self, why: Ended) {
        self.stream.cut(why);
    }
}

fn headers<'a>(
    request: &'a tiny_http::Request,
    name: &'static str,
) -> impl DoubleEndedIterator<Item = &'a str> {
    let headers = request.headers().iter();
    headers.filter(move |header| header.field.equiv(name)).map(|header| header.value.as_str())
}

/// RFC 9112 §6 in a head that RFC 9112 allows, without what a webhook does not need: no
/// Transfer-Encoding at all, at most one Content-Length, in plain digits.
pub(crate) fn content_length(request: &tiny_http::Request) -> Result<usize, Error> {
    check_head(request)?;
    if headers(request, "Transfer-Encoding").next().is_some() {
        return Err(Error::Framing("Transfer-Encoding is not supported, send Content-Length"));
    }
    if headers(request, "Connection").any(|value| value.to_ascii_lowercase().contains("upgrade")) {
        return Err(Error::Framing("Connection: upgrade is not supported"));
    }
    let mut lengths = headers(request, "Content-Length");
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(0),
        (Some(_), Some(_)) => Err(Error::Framing("more than one Content-Length")),
        (Some(digits), None) if is_digits(digits) => {
            // More digits than a usize holds are more bytes than any limit.
            Ok(digits.parse().unwrap_or(usize::MAX))
        }
        _ => Err(Error::Framing("Content-Length is not a number")),
    }
}

/// Refuses heads that another HTTP parser could read in another way, as far as tiny_http shows them:
/// it removes white space around each line before it looks at it (H9d in docs/TINY_HTTP.md).
fn check_head(request: &tiny_http::Request) -> Result<(), Error> {
    let is_target =
        |target: &str| !target.is_empty() && target.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_token(request.method().as_str()) || !is_target(request.url()) {
        return Err(Error::Framing("the request line has a character that HTTP does not allow"));
    }
    if request.headers().len() > HEADERS_MAX {
        return Err(Error::Framing("too many headers"));
    }
    let mut hosts = 0;
    for header in request.headers() {
        if !is_token(header.field.as_str().as_str()) {
            return Err(Error::Framing("a header name has a character that HTTP does not allow"));
        }
        if !is_field_value(header.value.as_str()) {
            return Err(Error::Framing("a header value has a control character"));
        }
        hosts += usize::from(header.field.equiv("Host"));
    }
    if hosts > 1 {
        return Err(Error::Framing("more than one Host"));
    }
    Ok(())
}

/// True for RFC 9110's `token` (§5.6.2).
fn is_token(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_allowed)
}

/// True for RFC 9110's `field-value` (§5.5), which may be empty.
fn is_field_value(text: &str) -> bool {
    text.bytes().all(|byte| byte == b'\t' || !byte.is_ascii_control())
}

/// Also of a target in absolute form (RFC 9112 §3.2.2). A fragment is no part of a target: nginx
/// removes it too, and must not see another path than mailslot does.
pub(crate) fn path_and_query(target: &str) -> (&str, &str) {
    let target = target.split_once('#').map_or(target, |(target, _)| target);
    let (mut path, query) = target.split_once('?').unwrap_or((target, ""));
    if let Some((scheme, rest)) = path.split_once("://")
        && (scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https"))
    {
        path = rest.find('/').map_or("/", |slash| &rest[slash..]);
    }
    (path, query)
}

/// Host and port of a target in absolute form.
fn authority(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_once("://")?;
    let is_http = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    is_http.then(|| rest.split(['/', '?', '#']).next().unwrap_or_default())
}

fn is_close(value: &str) -> bool {
    value.to_ascii_lowercase().contains("close")
}

/// True for RFC 9110's `1*DIGIT`.
fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The reason phrases of the statuses that error.rs knows.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        413 => "Content Too Large",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    }
}

/// The client's own, if it is one sane header, or a new one: unique among all processes on this
/// machine's clock. It is for finding a line in a log, not a secret.
fn request_id(request: &tiny_http::Request) -> String {
    static STARTED_NS: LazyLock<u128> = LazyLock::new(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos())
    });
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut given = request.headers().iter().filter(|header| header.field.equiv("X-Request-ID"));
    if let (Some(header), None) = (given.next(), given.next()) {
        let id = header.value.as_str();
        let is_sane = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(&byte);
        if (1..=REQUEST_ID_CHARS_MAX).contains(&id.len()) && id.bytes().all(is_sane) {
            return id.to_owned();
        }
    }
    format!("{:x}-{:x}", *STARTED_NS, COUNT.fetch_add(1, Relaxed))
}

//! A response, and its bytes: head and body in one write (H12).

use std::{fmt::Write as _, time::SystemTime};

use serde::Serialize;

use crate::{
    error::{Error, Refusal},
    metrics::WebhookResult,
};

/// About the length of a head.
pub(super) const HEAD_BYTES: usize = 384;

/// Headers of every response: no browser may guess its type, and no page of another site may load
/// it.
const COMMON_HEADERS: &str =
    "X-Content-Type-Options: nosniff\r\nCross-Origin-Resource-Policy: same-origin\r\n";

const JSON: &str = "application/json";

const NOT_MODIFIED: u16 = 304;

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) body: Vec<u8>,
    pub(crate) headers: Vec<(&'static str, String)>,
    /// How a delivery to /webhook ended, for its metric and its log line.
    pub(crate) result: Option<WebhookResult>,
    /// Why the request was refused, for its log line, where the status has several causes.
    pub(crate) reason: Option<&'static str>,
    /// Whether a browser may store it and ask with its `ETag` whether it is still the same. Most
    /// responses change from moment to moment and are private, so no cache may store them.
    pub(crate) is_stored: bool,
}

impl Response {
    pub(crate) fn json(value: &impl Serialize) -> Response {
        Response::new(200, JSON, serde_json::to_vec(value).unwrap_or_default())
    }

    pub(crate) fn text(content_type: &'static str, body: String) -> Response {
        Response::new(200, content_type, body.into_bytes())
    }

    /// A document that a browser may store; `None`: the one that the browser has stored.
    pub(crate) fn document(content_type: &'static str, body: Option<Vec<u8>>) -> Response {
        let status = if body.is_some() { 200 } else { NOT_MODIFIED };
        let response = Response::new(status, content_type, body.unwrap_or_default());
        Response { is_stored: true, ..response }
    }

    fn new(status: u16, content_type: &'static str, body: Vec<u8>) -> Response {
        Response {
            status,
            content_type,
            body,
            headers: Vec::new(),
            result: None,
            reason: None,
            is_stored: false,
        }
    }

    pub(crate) fn with(
        mut self,
        headers: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Response {
        self.headers.extend(headers);
        self
    }

    /// At least as many bytes as [`Response::bytes`] returns.
    pub(super) fn length(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(_, value)| value.len()).sum();
        HEAD_BYTES + headers + self.body.len()
    }

    /// Head and body. A response to HEAD has the head only.
    pub(super) fn bytes(&self, context: &Context<'_>, is_head: bool) -> Vec<u8> {
        let mut bytes = self.head(context, Some(self.body.len())).into_bytes();
        if !is_head {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }

    /// The head. Without a length, the body is chunked.
    pub(super) fn head(&self, context: &Context<'_>, length: Option<usize>) -> String {
        let Response { status, content_type, headers, is_stored, .. } = self;
        let Context { request_id, is_http_1_0, is_last } = context;
        let mut head = String::with_capacity(HEAD_BYTES + length.unwrap_or_default());
        let _ = write!(
            head,
            "HTTP/1.1 {status} {}\r\nDate: {}\r\nContent-Type: {content_type}\r\n\
             X-Request-ID: {request_id}\r\n{COMMON_HEADERS}",
            reason(*status),
            httpdate::HttpDate::from(SystemTime::now()),
        );
        let cache = if *is_stored { "private, no-cache" } else { "no-store" };
        let _ = write!(head, "Cache-Control: {cache}\r\n");
        let _ = match length {
            // It would be the length of the document that the client has.
            Some(_) if *status == NOT_MODIFIED => Ok(()),
            Some(length) => write!(head, "Content-Length: {length}\r\n"),
            None => write!(head, "Transfer-Encoding: chunked\r\n"),
        };
        for (name, value) in headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        if *is_last {
            head.push_str("Connection: close\r\n");
        } else if *is_http_1_0 {
            head.push_str("Connection: keep-alive\r\n");
        }
        head.push_str("\r\n");
        head
    }
}

/// What the head of a response says of its request and its connection.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) request_id: &'a str,
    pub(super) is_http_1_0: bool,
    /// The connection is closed after this response.
    pub(super) is_last: bool,
}

impl From<&Error> for Response {
    fn from(error: &Error) -> Response {
        let Refusal { status, result, body, headers, reason } = error.refusal();
        let result = Some(result);
        Response { headers, result, reason, ..Response::new(status, JSON, body) }
    }
}

/// The reason phrases of the statuses that there are.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        NOT_MODIFIED => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
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

#[cfg(test)]
mod tests {
    use super::*;

    fn context(is_http_1_0: bool, is_last: bool) -> Context<'static> {
        Context { request_id: "id-1", is_http_1_0, is_last }
    }

    #[test]
    fn head_and_body_are_one_piece_of_bytes() {
        let response = Response::json(&[1, 2]).with([("Allow", "GET".to_owned())]);
        let text = |is_head| {
            let bytes = response.bytes(&context(false, false), is_head);
            assert!(bytes.len() <= response.length());
            String::from_utf8(bytes).unwrap()
        };
        let (head, whole) = (text(true), text(false));
        assert_eq!(whole, format!("{head}[1,2]"));
        assert!(head.starts_with("HTTP/1.1 200 OK\r\nDate: "), "{head}");
        for line in
            ["Content-Length: 5", "Allow: GET", "X-Request-ID: id-1", "Cache-Control: no-store"]
        {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{head}");
        }
        assert!(!head.contains("Connection:") && head.ends_with("\r\n\r\n"), "{head}");
    }

    #[test]
    fn the_head_says_how_long_the_body_is_and_whether_the_connection_stays() {
        let response = Response::from(&Error::Internal);
        let head =
            |is_http_1_0, is_last, length| response.head(&context(is_http_1_0, is_last), length);
        assert!(head(false, false, None).contains("\r\nTransfer-Encoding: chunked\r\n"));
        assert!(head(true, false, Some(0)).contains("\r\nConnection: keep-alive\r\n"));
        for is_http_1_0 in [false, true] {
            assert!(head(is_http_1_0, true, Some(0)).contains("\r\nConnection: close\r\n"));
        }
        assert!(head(false, false, Some(0)).starts_with("HTTP/1.1 500 Internal Server Error\r\n"));
        let unchanged = Response::document("text/html", None);
        let head = unchanged.head(&context(false, false), Some(0));
        assert!(head.starts_with("HTTP/1.1 304 Not Modified\r\n"), "{head}");
        assert!(head.contains("\r\nCache-Control: private, no-cache\r\n"), "{head}");
        assert!(!head.contains("Content-Length"), "{head}");
    }
}

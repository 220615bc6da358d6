//! Strict framing, on text: what two HTTP parsers could read in two ways is refused, and nothing
//! more is processed on that connection (H9a and H9d in docs/TINY_HTTP.md).

/// Headers of a request.
pub(crate) const HEADERS_MAX: usize = 100;
/// Characters of an incoming `X-Request-ID` that is kept.
const REQUEST_ID_CHARS_MAX: usize = 128;

/// The length of a request's body, from its request line and its headers (name and value, in
/// order). This is RFC 9112 §6 without what a webhook does not need: no Transfer-Encoding at all,
/// at most one Content-Length, in plain digits. The head is checked as far as tiny_http shows it:
/// it removes white space around each line before it parses the line.
///
/// # Errors
/// Why the request is refused, in words for the client.
pub(crate) fn content_length<'a>(
    method: &str,
    target: &str,
    headers: impl ExactSizeIterator<Item = (&'a str, &'a str)>,
) -> Result<usize, &'static str> {
    if !is_token(method) || !is_target(target) {
        return Err("the request line has a character that HTTP does not allow");
    }
    if headers.len() > HEADERS_MAX {
        return Err("too many headers");
    }
    let (mut hosts, mut has_transfer_encoding, mut is_upgrade) = (0, false, false);
    let (mut length, mut lengths) = ("0", 0);
    for (name, value) in headers {
        if !is_token(name) {
            return Err("a header name has a character that HTTP does not allow");
        }
        if !is_field_value(value) {
            return Err("a header value has a control character");
        }
        if name.eq_ignore_ascii_case("Host") {
            hosts += 1;
        } else if name.eq_ignore_ascii_case("Content-Length") {
            (length, lengths) = (value, lengths + 1);
        } else if name.eq_ignore_ascii_case("Transfer-Encoding") {
            has_transfer_encoding = true;
        } else if name.eq_ignore_ascii_case("Connection") {
            is_upgrade |= names(value, "upgrade");
        }
    }
    if hosts > 1 {
        return Err("more than one Host");
    }
    if has_transfer_encoding {
        return Err("Transfer-Encoding is not supported, send Content-Length");
    }
    if is_upgrade {
        return Err("Connection: upgrade is not supported");
    }
    if lengths > 1 {
        return Err("more than one Content-Length");
    }
    if !is_digits(length) {
        return Err("Content-Length is not a number");
    }
    // More digits than a usize holds are more bytes than any limit.
    Ok(length.parse().unwrap_or(usize::MAX))
}

/// Path and query of a target, also of one in absolute form (RFC 9112 §3.2.2). A fragment is no
/// part of a target: nginx removes it too, and must not see another path than mailslot does.
pub(crate) fn path_and_query(target: &str) -> (&str, &str) {
    let target = target.split_once('#').map_or(target, |(target, _)| target);
    let (mut path, query) = target.split_once('?').unwrap_or((target, ""));
    if let Some(rest) = after_scheme(path) {
        path = rest.find('/').map_or("/", |slash| &rest[slash..]);
    }
    (path, query)
}

/// Host and port of a target in absolute form.
pub(super) fn authority(target: &str) -> Option<&str> {
    after_scheme(target).map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default())
}

fn after_scheme(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_once("://")?;
    let is_http = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    is_http.then_some(rest)
}

/// A client's `X-Request-ID`, if it is short and has only characters that no log or header
/// misreads.
pub(super) fn is_request_id(value: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(&byte);
    (1..=REQUEST_ID_CHARS_MAX).contains(&value.len()) && value.bytes().all(is_allowed)
}

/// Whether a `Connection` header has this option, as tiny_http decides it.
pub(super) fn names(connection: &str, option: &str) -> bool {
    connection.to_ascii_lowercase().contains(option)
}

/// True for RFC 9110's `token` (§5.6.2).
fn is_token(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_allowed)
}

fn is_target(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// True for RFC 9110's `field-value` (§5.5), which may be empty.
fn is_field_value(text: &str) -> bool {
    text.bytes().all(|byte| byte == b'\t' || !byte.is_ascii_control())
}

/// True for RFC 9110's `1*DIGIT`.
fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length(headers: &[(&str, &str)]) -> Result<usize, &'static str> {
        content_length("POST", "/webhook", headers.iter().copied())
    }

    #[test]
    fn the_length_is_plain_digits_in_one_header_or_nothing() {
        assert_eq!(length(&[("Host", "x")]), Ok(0));
        assert_eq!(length(&[("content-LENGTH", "0012")]), Ok(12));
        assert_eq!(length(&[("Content-Length", "99999999999999999999999")]), Ok(usize::MAX));
        for value in ["", "+5", "-1", "0x5", "5, 5", "5 ", "٥"] {
            let refused = length(&[("Content-Length", value)]);
            assert_eq!(refused, Err("Content-Length is not a number"), "{value}");
        }
        let twice = [("Content-Length", "5"), ("content-length", "5")];
        assert_eq!(length(&twice), Err("more than one Content-Length"));
    }

    #[test]
    fn other_framings_are_refused_whatever_else_the_head_says() {
        for (name, value) in [
            ("Transfer-Encoding", "chunked"),
            ("transfer-encoding", ""),
            ("Connection", "keep-alive, Upgrade"),
            ("Host", "y"),
        ] {
            let headers = [("Host", "x"), (name, value), ("Content-Length", "5")];
            assert!(length(&headers).is_err(), "{name}: {value}");
        }
        assert!(length(&[("X", "x"); HEADERS_MAX]).is_ok());
        assert_eq!(length(&[("X", "x"); HEADERS_MAX + 1]), Err("too many headers"));
    }

    #[test]
    fn a_head_has_only_the_characters_that_http_allows() {
        for name in ["", "Bad Name", "Bad:Name", "Bad\0Name", "Bad(Name)", "Bäd"] {
            assert!(length(&[(name, "x")]).is_err(), "{name:?}");
        }
        for value in ["a\nb", "a\rb", "\0", "a\x7fb", "a\x0bc"] {
            assert!(length(&[("A", value)]).is_err(), "{value:?}");
        }
        assert_eq!(length(&[("!#$%&'*+-.^_`|~9", "a\tb \"(,;\\ä")]), Ok(0));
        for (method, target) in
            [("G(T", "/"), ("", "/"), ("GET", ""), ("GET", "/a\tb"), ("GET", "/ä")]
        {
            assert!(content_length(method, target, [].into_iter()).is_err(), "{method} {target}");
        }
    }

    #[test]
    fn the_path_ends_before_query_and_fragment_in_either_form() {
        for (target, expected) in [
            ("/a/b", ("/a/b", "")),
            ("/a?b=c?d", ("/a", "b=c?d")),
            ("/a#b?c", ("/a", "")),
            ("/a?b#c", ("/a", "b")),
            ("http://host:80/a?b", ("/a", "b")),
            ("HTTPS://host", ("/", "")),
            ("http://host?/a", ("/", "/a")),
            ("http://host#/a", ("/", "")),
            ("/a?http://host/b", ("/a", "http://host/b")),
            ("ftp://host/a", ("ftp://host/a", "")),
            ("*", ("*", "")),
        ] {
            assert_eq!(path_and_query(target), expected, "{target}");
        }
    }

    #[test]
    fn the_authority_is_that_of_the_absolute_form_only() {
        for (target, expected) in [
            ("http://host:80/a", Some("host:80")),
            ("http://host?a/b", Some("host")),
            ("HTTPS://host#a", Some("host")),
            ("http://", Some("")),
            ("/a", None),
            ("//host/a", None),
            ("ftp://host/a", None),
        ] {
            assert_eq!(authority(target), expected, "{target}");
        }
    }

    #[test]
    fn a_request_id_is_short_and_plain() {
        for good in ["a", "0-9_A.z:/+=@", &"x".repeat(REQUEST_ID_CHARS_MAX)] {
            assert!(is_request_id(good), "{good}");
        }
        for bad in ["", "a b", "a\"b", "a,b", "ä", &"x".repeat(REQUEST_ID_CHARS_MAX + 1)] {
            assert!(!is_request_id(bad), "{bad}");
        }
    }
}

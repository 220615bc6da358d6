//! `GET /`, `GET /docs` and `GET /openapi.json`: the same bytes for every reader.
//!
//! A page may run its own script and nothing else, whatever a message contains: its
//! Content-Security-Policy has the hashes of its script and of its style. Both stand in files of
//! their own and are put into the page at its first use, so that a browser needs one request.

use std::{io::Write, sync::LazyLock};

use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::{Compression, write::GzEncoder};
use sha2::{Digest, Sha256};

use super::answer::{Answer, Context};
use crate::{
    error::Error,
    http::{Request, Response},
};

const HTML: &str = "text/html; charset=utf-8";

static PAGE: LazyLock<Document> = LazyLock::new(|| {
    let script = [
        include_str!("../../assets/shared.js"),
        include_str!("../../assets/page/server.js"),
        include_str!("../../assets/page/time.js"),
        include_str!("../../assets/page/filters.js"),
        include_str!("../../assets/page/list.js"),
        include_str!("../../assets/page/feed.js"),
        include_str!("../../assets/page/overview.js"),
        include_str!("../../assets/page/message.js"),
        include_str!("../../assets/page/start.js"),
    ];
    Document::page(PAGE_HTML, PAGE_CSS, &script.concat())
});
static DOCS: LazyLock<Document> = LazyLock::new(|| {
    let script = [include_str!("../../assets/shared.js"), include_str!("../../assets/docs.js")];
    Document::page(DOCS_HTML, DOCS_CSS, &script.concat())
});
static OPENAPI: LazyLock<Document> = LazyLock::new(|| {
    Document::new("application/json", include_str!("../../assets/openapi.json").to_owned())
});

const PAGE_HTML: &str = include_str!("../../assets/page.html");
const PAGE_CSS: &str =
    concat!(include_str!("../../assets/tokens.css"), include_str!("../../assets/page.css"));
const DOCS_HTML: &str = include_str!("../../assets/docs.html");
const DOCS_CSS: &str =
    concat!(include_str!("../../assets/tokens.css"), include_str!("../../assets/docs.css"));

#[expect(clippy::unnecessary_wraps, reason = "every handler has one type")]
pub(super) fn page(_: &mut Context, request: &Request<'_>) -> Result<Answer, Error> {
    Ok(Answer::Now(PAGE.response(request)))
}

#[expect(clippy::unnecessary_wraps, reason = "every handler has one type")]
pub(super) fn docs(_: &mut Context, request: &Request<'_>) -> Result<Answer, Error> {
    Ok(Answer::Now(DOCS.response(request)))
}

#[expect(clippy::unnecessary_wraps, reason = "every handler has one type")]
pub(super) fn openapi(_: &mut Context, request: &Request<'_>) -> Result<Answer, Error> {
    Ok(Answer::Now(OPENAPI.response(request)))
}

/// A text, and what is sent with it.
struct Document {
    content_type: &'static str,
    text: String,
    gzip: Vec<u8>,
    /// Weak (RFC 9110 §8.8.1): both encodings have the same one.
    etag: String,
    policy: Option<String>,
}

impl Document {
    fn new(content_type: &'static str, text: String) -> Document {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        let compressed = gzip.write_all(text.as_bytes()).and_then(|()| gzip.finish());
        let digest = Sha256::digest(&text);
        let etag = format!("W/\"{}\"", hex::encode(&digest[..12]));
        let gzip = compressed.unwrap_or_default();
        Document { content_type, text, gzip, etag, policy: None }
    }

    fn page(html: &str, style: &str, script: &str) -> Document {
        let (style, script) = (squeeze(style), squeeze(script));
        let text = squeeze(html)
            .replacen("<style></style>", &format!("<style>{style}</style>"), 1)
            .replacen("<script></script>", &format!("<script>{script}</script>"), 1);
        let policy = Some(policy(&style, &script));
        Document { policy, ..Document::new(HTML, text) }
    }

    fn response(&self, request: &Request<'_>) -> Response {
        let is_known = request.headers("If-None-Match").any(|tags| names_tag(tags, &self.etag));
        let is_gzip = !is_known && request.headers("Accept-Encoding").any(accepts_gzip);
        let bytes = if is_gzip { &self.gzip } else { self.text.as_bytes() };
        let body = (!is_known).then(|| bytes.to_vec());
        let policy = self.policy.iter().map(|policy| ("Content-Security-Policy", policy.clone()));
        let encoding = is_gzip.then(|| ("Content-Encoding", "gzip".to_owned()));
        Response::document(self.content_type, body).with(policy.chain(encoding).chain([
            ("ETag", self.etag.clone()),
            ("Vary", "Accept-Encoding".to_owned()),
            ("Referrer-Policy", "no-referrer".to_owned()),
        ]))
    }
}

/// A page, a style or a script without its indentation and without the lines that are comments
/// only: a seventh of what a browser would be sent.
fn squeeze(source: &str) -> String {
    let mut is_comment = false;
    let is_code = |line: &&str| {
        let starts = !is_comment && line.starts_with("/*");
        let was_comment = is_comment || starts;
        is_comment = was_comment && !line.ends_with("*/");
        !was_comment && !line.is_empty() && !line.starts_with("//")
    };
    source.lines().map(str::trim).filter(is_code).collect::<Vec<_>>().join("\n")
}

/// Whether an `If-None-Match` header has this tag.
fn names_tag(tags: &str, etag: &str) -> bool {
    let strong = etag.trim_start_matches("W/");
    tags.split(',').map(str::trim).any(|tag| tag == "*" || tag.trim_start_matches("W/") == strong)
}

/// Whether an `Accept-Encoding` header allows gzip: `q=0` forbids it.
fn accepts_gzip(encodings: &str) -> bool {
    encodings.split(',').any(|encoding| {
        let mut parts = encoding.split(';').map(str::trim);
        let is_gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let weight = parts.find_map(|part| part.strip_prefix("q="));
        is_gzip && weight.is_none_or(|weight| weight.parse::<f32>().is_ok_and(|q| q > 0.0))
    })
}

fn policy(style: &str, script: &str) -> String {
    let hash = |text: &str| STANDARD.encode(Sha256::digest(text));
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(script),
        hash(style)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of a page as a browser gets it.
    const COMPRESSED_BYTES: usize = 25 * 1024;

    #[test]
    fn a_page_has_one_script_and_one_style_and_fits_its_size() {
        for document in [&*PAGE, &*DOCS] {
            let html = &document.text;
            assert!(document.gzip.len() <= COMPRESSED_BYTES, "{}", document.gzip.len());
            for tag in ["script", "style"] {
                assert_eq!(html.matches(&format!("<{tag}")).count(), 1, "{tag}");
                assert_eq!(html.matches(&format!("<{tag}>")).count(), 1, "{tag}");
                assert_eq!(html.matches(&format!("</{tag}>")).count(), 1, "{tag}");
                assert!(!html.contains(&format!("<{tag}></{tag}>")), "{tag} is empty");
            }
            for word in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "style=\"", "http-equiv"]
            {
                assert!(!html.contains(word), "{word}");
            }
        }
    }

    #[test]
    fn only_comments_and_indentation_are_left_out() {
        let source = "/* a */\na {\n  b: c; /* d */\n\n}\n/**\n * e\n */\n// f\ng(); // h\n";
        assert_eq!(squeeze(source), "a {\nb: c; /* d */\n}\ng(); // h");
    }

    #[test]
    fn gzip_is_sent_where_the_client_accepts_it_and_a_tag_is_known_in_either_form() {
        for right in ["gzip", "deflate, GZIP", "br;q=1.0, gzip;q=0.8", "gzip; q=0.001"] {
            assert!(accepts_gzip(right), "{right}");
        }
        for wrong in ["", "br", "gzip;q=0", "gzip; q=0.000", "xgzip", "identity, gzip;q=x"] {
            assert!(!accepts_gzip(wrong), "{wrong}");
        }
        for right in ["W/\"abc\"", "\"abc\"", "\"x\", W/\"abc\"", "*"] {
            assert!(names_tag(right, "W/\"abc\""), "{right}");
        }
        for wrong in ["", "\"\"", "\"ab\"", "abc", "bc\"", "\"", "W/"] {
            assert!(!names_tag(wrong, "W/\"abc\""), "{wrong}");
        }
    }
}

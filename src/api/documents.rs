//! `GET /`, `GET /docs` and `GET /openapi.json`: static documents.
//!
//! A page may run its own script and nothing else, whatever a message contains: its
//! Content-Security-Policy has the hashes of its script and of its style.

use std::sync::LazyLock;

use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

use super::answer::{Answer, Context};
use crate::{
    error::Error,
    http::{Request, Response},
};

const PAGE: &str = include_str!("../../assets/page.html");
const DOCS: &str = include_str!("../../assets/docs.html");
const OPENAPI: &str = include_str!("../../assets/openapi.json");

#[expect(clippy::unnecessary_wraps, reason = "every handler has one type")]
pub(super) fn page(_: &mut Context, _: &Request<'_>) -> Result<Answer, Error> {
    static POLICY: LazyLock<String> = LazyLock::new(|| policy(PAGE));
    Ok(Answer::Now(html(PAGE, &POLICY)))
}

#[expect(clippy::unnecessary_wraps, reason = "every handler has one type")]
pub(super) fn docs(_: &mut Context, _: &Request<'_>) -> Result<Answer, Error> {
    static POLICY: LazyLock<String> = LazyLock::new(|| policy(DOCS));
    Ok(Answer::Now(html(DOCS, &POLICY)))
}

#[expect(clippy::unnecessary_wraps, reason = "every handler has one type")]
pub(super) fn openapi(_: &mut Context, _: &Request<'_>) -> Result<Answer, Error> {
    Ok(Answer::Now(Response::text("application/json", OPENAPI.to_owned())))
}

fn html(text: &str, policy: &str) -> Response {
    Response::text("text/html; charset=utf-8", text.to_owned()).with([
        ("Content-Security-Policy", policy.to_owned()),
        ("Referrer-Policy", "no-referrer".to_owned()),
    ])
}

fn policy(html: &str) -> String {
    let hash = |tag: &str| {
        let start = html.find(&format!("<{tag}>")).map_or(0, |at| at + tag.len() + 2);
        let end = html.rfind(&format!("</{tag}>")).unwrap_or(start);
        STANDARD.encode(Sha256::digest(&html[start..end]))
    };
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash("script"),
        hash("style")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_one_script_and_one_style_and_fits_its_size() {
        for (html, bytes_max) in [(PAGE, 60 * 1024), (DOCS, 30 * 1024)] {
            assert!(html.len() < bytes_max, "{}", html.len());
            for tag in ["script", "style"] {
                assert_eq!(html.matches(&format!("<{tag}")).count(), 1, "{tag}");
                assert_eq!(html.matches(&format!("<{tag}>")).count(), 1, "{tag}");
                assert_eq!(html.matches(&format!("</{tag}>")).count(), 1, "{tag}");
            }
            for word in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "style=\"", "http-equiv"]
            {
                assert!(!html.contains(word), "{word}");
            }
        }
    }
}

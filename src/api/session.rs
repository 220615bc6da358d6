//! `POST /session` and `DELETE /session`: a browser signs in with a read token, and out.
//!
//! The session is a cookie that scripts cannot read and that no other site's page can have sent. It
//! is for reading only, and nothing is stored of it ([`crate::access`]).

use serde_json::json;

use super::answer::{Answer, Context};
use crate::{
    access::SESSION_S_MAX,
    error::Error,
    http::{Request, Response},
    logging,
};

pub(crate) const COOKIE: &str = "mailslot_session";

/// The token itself is needed, and not a session, which could be prolonged for ever. A page of
/// another site cannot send the header.
pub(super) fn sign_in(context: &mut Context, request: &Request<'_>) -> Result<Answer, Error> {
    let tokens = &context.keys.tokens;
    let response = Response::json(&json!({ "status": "ok" }));
    if tokens.is_empty() {
        return Ok(Answer::Now(response));
    }
    let authorization = request.headers("Authorization").next();
    let session = tokens.open_session(authorization, logging::now_seconds());
    let session = session.ok_or(Error::NoReadToken { is_script: true })?;
    Ok(Answer::Now(response.with([cookie(request, &session, SESSION_S_MAX)])))
}

/// Has the browser forget its session.
#[expect(clippy::unnecessary_wraps, reason = "every handler has one type")]
pub(super) fn sign_out(_: &mut Context, request: &Request<'_>) -> Result<Answer, Error> {
    let response = Response::json(&json!({ "status": "ok" }));
    Ok(Answer::Now(response.with([cookie(request, "", 0)])))
}

fn cookie(request: &Request<'_>, session: &str, age_s: i64) -> (&'static str, String) {
    // mailslot itself speaks plain HTTP. A browser says in `Origin` how it has loaded the page.
    let mut origins = request.headers("Origin");
    let is_tls = origins.next().is_some_and(|origin| origin.starts_with("https://"));
    let secure = if is_tls { "; Secure" } else { "" };
    let attributes = format!("Path=/; Max-Age={age_s}; HttpOnly; SameSite=Strict{secure}");
    ("Set-Cookie", format!("{COOKIE}={session}; {attributes}"))
}

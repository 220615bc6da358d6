//! `GET /metrics`.

use super::answer::{Answer, Context};
use crate::{
    error::Error,
    http::{Request, Response},
};

#[expect(clippy::unnecessary_wraps, reason = "every handler has one type")]
pub(super) fn show(context: &mut Context, _: &Request<'_>) -> Result<Answer, Error> {
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    Ok(Answer::Now(Response::text(content_type, context.metrics.render())))
}

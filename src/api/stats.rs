//! `GET /stats`.

use super::{Answer, Context};
use crate::{
    error::Error,
    http::{Request, Response},
};

pub(crate) fn show(context: &mut Context, _: &Request<'_>) -> Result<Answer, Error> {
    Ok(Answer::Now(Response::json(&context.reader.stats()?)))
}

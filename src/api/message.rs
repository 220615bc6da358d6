//! `GET /messages/{message_id}`: one message, with all that is known of it.

use percent_encoding::percent_decode_str;

use super::answer::{Answer, Context};
use crate::{
    error::Error,
    http::{Request, Response},
};

/// What the path begins with; the percent-encoded id follows.
const START: &str = "/messages/";

pub(super) fn show(context: &mut Context, request: &Request<'_>) -> Result<Answer, Error> {
    let encoded = request.path.strip_prefix(START).unwrap_or_default();
    let message_id = percent_decode_str(encoded).decode_utf8().map_err(|_| Error::NotFound)?;
    let found = context.reader.find(&message_id)?.ok_or(Error::NotFound)?;
    Ok(Answer::Now(Response::json(&found)))
}

//! Sends responses: each is counted, logged and sent, in this order, so that a client that has the
//! response finds it counted.

use super::access_log::record;
use crate::{
    error::Error,
    http::{Exchange, Response},
    metrics::Metrics,
};

/// `message_id` is that of a delivery, for its log line.
pub(super) fn reply(
    metrics: &Metrics,
    mut exchange: Exchange,
    response: &Response,
    message_id: Option<&str>,
) {
    let no_memory = exchange.reserve_buffer(response).map_err(|error| Response::from(&error)).err();
    let response = no_memory.as_ref().unwrap_or(response);
    record(metrics, &exchange, response, message_id);
    exchange.answer(response);
}

/// Sends the response without reading the rest of the request, and closes the connection.
pub(super) fn refuse(metrics: &Metrics, exchange: Exchange, error: &Error) {
    let response = Response::from(error);
    record(metrics, &exchange, &response, None);
    exchange.refuse(&response);
}

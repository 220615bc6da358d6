//! The log line and the metrics of a request.

use std::{net::SocketAddr, sync::Mutex};

use log::{Level, Record, kv::Value};

use crate::{
    api,
    http::{Exchange, Response},
    logging,
    metrics::{Label, Metrics, WebhookResult, milliseconds},
    threads::lock,
};

/// Bytes of a client's path, method or message_id in a log line.
const LOGGED_BYTES_MAX: usize = 512;

pub(super) fn record(
    metrics: &Metrics,
    exchange: &Exchange,
    response: &Response,
    message_id: Option<&str>,
) {
    let (method, path, status) = (exchange.method(), exchange.path(), response.status);
    let is_delivery = api::is_delivery(method, path);
    let result = response.result.filter(|_| is_delivery);
    let latency = exchange.elapsed();
    metrics.responses.increment(api::route_path(path), status);
    metrics.request_latency.observe_duration(latency);
    // A browser gets 401 before it asks the user for a token. A provider never should get it.
    let is_refused = status == 401 && is_delivery;
    let level = if is_refused || status >= 500 {
        Level::Error
    } else if is_watchdog(exchange) {
        Level::Debug
    } else {
        Level::Info
    };
    if let Some(result) = result {
        metrics.deliveries.increment(result);
    }
    if level > log::max_level() {
        return;
    }
    let mut fields: Vec<(&str, Value<'_>)> = vec![
        ("request_id", Value::from(exchange.request_id.as_str())),
        ("method", Value::from(truncated(method.as_str()))),
        ("path", Value::from(truncated(path))),
        ("status", Value::from(status)),
        ("latency_ms", Value::from(rounded(milliseconds(latency)))),
    ];
    if let Some(result) = result {
        fields.extend(message_id.map(|id| ("message_id", Value::from(truncated(id)))));
        fields.push(("dup", Value::from(result == WebhookResult::Duplicate)));
        fields.push(("result", Value::from(result.value())));
    }
    fields.extend(response.reason.map(|reason| ("reason", Value::from(reason))));
    // Lines that clients without a key can cause are limited in number.
    let is_signed = result.is_some_and(WebhookResult::is_signed);
    let mut record = Record::builder();
    let target = if is_signed { module_path!() } else { logging::CLIENT };
    let record = record.level(level).target(target).key_values(&fields);
    log::logger().log(&record.args(format_args!("request")).build());
}

/// A client's text in a log line, which must not be long.
fn truncated(text: &str) -> &str {
    &text[..text.floor_char_boundary(LOGGED_BYTES_MAX)]
}

/// Rounded to microseconds.
pub(super) fn rounded(milliseconds: f64) -> f64 {
    (milliseconds * 1e3).round() / 1e3
}

/// The watchdog's own address and port while it waits for an answer. No other client can have them
/// at the same time, so no other client's requests are logged at DEBUG. A response for which the
/// watchdog no longer waits is logged like any other.
static WATCHDOG: Mutex<Option<SocketAddr>> = Mutex::new(None);

pub(super) fn set_watchdog(address: Option<SocketAddr>) {
    *lock(&WATCHDOG) = address;
}

fn is_watchdog(exchange: &Exchange) -> bool {
    let canonical = |address: SocketAddr| (address.ip().to_canonical(), address.port());
    let watchdog = *lock(&WATCHDOG);
    watchdog.map(canonical) == Some(canonical(exchange.peer_address()))
}

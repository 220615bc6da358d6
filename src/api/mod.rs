//! The endpoints: a table of them, and a file for each, a function from a request to an answer or
//! an error.

mod routes; // the table of endpoints
mod webhook; // POST /webhook, and the endpoints of the providers below it
pub(crate) mod messages; // GET /messages
mod message; // GET /messages/{message_id}
pub(crate) mod feed; // GET /feed
mod export; // GET /export
mod stats; // GET /stats and GET /stats/series
pub(crate) mod health; // GET /health/live and GET /health/ready
mod metrics; // GET /metrics
pub(crate) mod session; // POST /session and DELETE /session
mod documents; // GET /, GET /docs and GET /openapi.json
mod query; // the query parameters of an endpoint
mod answer; // what a handler is given, and what it answers

pub(crate) use answer::{Answer, Context, ExportQuery, FeedQuery, Keys, Respond};
pub use query::Parameter;
#[cfg(test)]
pub(crate) use routes::MONITORING;
pub use routes::{Authorization, ROUTES, Route};
pub(crate) use routes::{RateLimit, body_bytes_max, find, has_providers, is_delivery, route_path};

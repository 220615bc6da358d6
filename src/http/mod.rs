//! HTTP: from the listening socket to a [`Request`] and back from a [`Response`].
//!
//! The rest of the program sees requests that have arrived, one at a time for each connection, and
//! answers them. tiny_http cannot face a network by itself; its hazards, H1 to H14, and the rule that
//! meets each are in docs/TINY_HTTP.md. What exists only because of them is in `tiny_http_guard`.

mod exchange; // Request, Response, Exchange: strict framing, one write per answer
mod incoming; // a request that has arrived: its body, its answer, its end
mod tiny_http_guard; // scans the connections from outside: deadlines, bounds, starvation, leaks
mod stream; // an answer that is sent as it comes
mod poller; // one thread that waits for slow clients
mod listener; // the socket, tiny_http, one request in hand per connection
mod shedding; // sheds what is too much, in proportion
mod socket; // options, and finding a connection's socket from outside tiny_http

pub(crate) use exchange::{BODY_BYTES_MAX, Body, Exchange, Intake, Method, Request, Response};
#[cfg(any(test, fuzzing))]
pub(crate) use exchange::{HEADERS_MAX, content_length, path_and_query};
pub(crate) use incoming::Arrival;
pub(crate) use listener::{Ending, Listener};
pub(crate) use shedding::Importance;
pub(crate) use socket::{inherit, listen_on, raise_descriptor_limit, reachable};
pub(crate) use stream::Ended;
pub(crate) use tiny_http_guard::start as start_guard;

//! HTTP: from the listening socket to a [`Request`] and back from a [`Response`].
//!
//! The rest of the program takes one request at a time of each connection from the [`Server`], and
//! answers it. tiny_http cannot face a network by itself. Its hazards, H1 to H14, and the rule that
//! meets each are in docs/TINY_HTTP.md; what exists only because of them is in `tiny_http_guard`.

mod server; // the parts put together: what the service sees of the room
mod exchange; // Request, Exchange: a request and its one response
mod stream; // a response that is sent as it is produced
mod slow_client; // bodies, large responses and refusals, as jobs of the poller
mod incoming; // an incoming request in its connection's slot
mod tiny_http_guard; // the connection monitor, and all else that makes up for tiny_http
mod listener; // the listening socket and tiny_http: receive, unblock, drain
mod admission; // one request in flight for each connection: the locks and the queue
mod connections; // the same rule as a state machine without locks and sockets
mod shedding; // which requests are answered 503 under overload
mod body; // a body that the poller has read
mod poller; // one thread that runs jobs for slow clients
mod budget; // how many slow clients there may be, and how many bytes they hold
mod response; // a response and its bytes
mod framing; // strict framing, on text
mod socket; // socket options, and sockets by descriptor
mod sync; // the locks of admission

pub(crate) use exchange::{BODY_BYTES_MAX, Exchange, Intake, Method, Request};
#[cfg(any(test, fuzzing))]
pub(crate) use framing::{HEADERS_MAX, content_length, path_and_query};
pub(crate) use response::Response;
pub(crate) use server::Server;
pub(crate) use shedding::Importance;
pub(crate) use socket::{inherit, listen_on, raise_descriptor_limit, reachable};
pub(crate) use stream::{ChunkedResponse, Incomplete};
pub(crate) use tiny_http_guard::Restart;

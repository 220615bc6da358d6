//! mailslot: a webhook inbox. Signed messages in, stored exactly once, read back.
//!
//! The modules, outermost first: each uses only what stands below it, and
//! `tests/it/tidy.rs` holds them to it. docs/ARCHITECTURE.md is the map.

pub mod cli; // the verbs of the command line
pub mod server; // threads: who they are, how they start and stop, a request's life
mod chores; // packing and expiring, beside requests
mod export; // the threads that send exports
mod feed; // the thread that answers readers who wait
mod routes; // the table of endpoints
mod api; // one file per endpoint
mod http; // Request, Response, Exchange: strict framing, one write per answer
mod front; // between the network and http: the listener and its guard
mod store; // every line of SQL, and the group commit
mod message; // the domain: a Message that exists is valid
mod rates; // how often a client may ask
mod access; // who may read
mod signature; // HMAC: a SignedBody that exists is verified
mod metrics; // counters and histograms as Prometheus text
mod error; // every refusal, its status and its body
pub mod config; // what the operator decides, read once
pub mod logging; // one JSON object a line

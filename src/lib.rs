//! mailslot: a webhook inbox. Signed messages in, stored exactly once, read back.
//!
//! The modules, outermost first: each uses only what stands below it, and
//! `tests/it/tidy.rs` holds them to it. docs/ARCHITECTURE.md is the map.

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod properties; // what holds for every input: fuzz targets, and a test
pub mod cli; // the commands of the command line
pub mod service; // the process that serves: its threads, its signals, a request's life
pub mod api; // the table of routes, and one file per endpoint
mod providers; // how WhatsApp, Twilio and Standard Webhooks sign, and what they say
mod http; // the listener, and Request, Response, Exchange
mod format; // the formats of exports
mod client; // a small HTTP client, for the command line and the watchdog
mod store; // what a store gives and takes, the group commit, and the engine
mod message; // the domain: a Message that exists is valid
mod original; // what a provider sent of a message, compressed
mod timestamp; // a moment, to the nanosecond
mod rates; // how often a client may ask
mod access; // who may read
mod signature; // HMAC: a SignedBody that exists is verified
mod error; // every refusal: its status, its body, its result in the metrics
pub mod metrics; // the table of metrics, as Prometheus text
pub mod config; // what the operator decides
pub mod logging; // one JSON object a line
mod threads; // one way to start a thread, one way to take a lock

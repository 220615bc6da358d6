//! Every test starts the real binary on a port of its own and talks to it as a client would.

#![allow(clippy::unwrap_used, unreachable_pub, missing_debug_implementations)]
#![allow(dead_code)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::too_many_lines)]

mod harness;
mod numbers;
mod client;
mod webhook;
mod providers;
mod access;
mod docs;
mod documents;
mod feed;
mod export;
mod messages;
mod stats;
mod service;
mod commit;
mod power;
mod files;
mod lifecycle;
mod operating;
mod packaging;
mod framing;
mod restart;
mod search;
mod shedding;
mod cli;
mod shells;
mod source;
mod properties;
mod snapshots;
mod tidy;

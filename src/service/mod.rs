//! The process that serves: its signals, its threads, and a request's life.

mod process; // signals, reading the settings again, the end and the restart
mod restart; // restarting in place
mod systemd; // messages to systemd
mod start; // threads: how they start and how they stop; and the life of a request
mod maintenance; // packing and expiring, beside requests
mod exports; // the threads that send exports
mod feed; // the thread that answers readers who wait

pub use process::{Failure, serve};
pub(crate) use start::{DESCRIPTORS_PER_CONNECTION, ask_ready};

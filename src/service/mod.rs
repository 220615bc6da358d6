//! The process that serves: its signals, its threads, and a request's life.

mod process; // signals, reading the settings again, the end and the restart
mod restart; // restarting in place
mod systemd; // notifications to systemd, and its watchdog
mod start; // the threads: how they start and how they stop
mod worker; // a request's life
mod committing; // between requests and the commit queue
mod maintenance; // retries a failed start, deletes expired messages
mod exports; // the threads that send exports
mod feed; // the thread that answers readers who wait
mod reply; // counts, logs and sends a response
mod access_log; // the one log line and the metrics of each request

pub use process::serve;
pub(crate) use start::DESCRIPTORS_PER_CONNECTION;
pub use start::Failure;

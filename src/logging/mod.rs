//! The log: one JSON object per line on stdout, whichever library wrote the record, and nothing
//! else.

mod panics; // the hook that logs and counts panics
mod logger; // which records become lines
mod line; // a record as a line of JSON
mod terminal; // what a terminal would obey is escaped
mod limit; // how many lines clients can cause
mod queue; // the lines that wait for stdout, and the thread that writes them
mod clock; // the time

use std::io;

use log::{LevelFilter, Record};
use simplelog::{CombinedLogger, SharedLogger};

pub(crate) use clock::{now, now_ms, now_seconds};
pub(crate) use limit::suppressed;
pub(crate) use logger::{CLIENT, ERRORS};
pub(crate) use panics::{panics, tiny_http_panics};
pub(crate) use terminal::escaped;

use logger::JsonLines;
use queue::QUEUE;

/// Installs the logger and the panic hook. Later calls of [`log`] and all panics become lines.
///
/// # Errors
/// When the thread that writes cannot be started.
pub fn init(level: LevelFilter) -> io::Result<()> {
    QUEUE.start()?;
    let loggers = JsonLines::all().map(|logger| Box::new(logger) as Box<dyn SharedLogger>);
    // Fails only if a logger is installed already, which then stays.
    let _ = CombinedLogger::init(loggers.into());
    log::set_max_level(level);
    panics::install_hook();
    Ok(())
}

/// Writes a record whatever the level is.
pub(crate) fn announce(record: &Record<'_>) {
    QUEUE.push(&line::of(record));
}

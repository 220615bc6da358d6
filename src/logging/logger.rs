//! The loggers to which simplelog dispatches every record. Each takes the records of its own
//! targets.

use std::{sync::Mutex, time::Instant};

use log::{LevelFilter, Log, Metadata, Record};
use simplelog::SharedLogger;

use super::{
    limit::RateLimit,
    line::{self, level_of},
    queue::QUEUE,
};
use crate::threads::lock;

/// The targets whose lines are limited in number, since clients can cause them without a signature:
/// what is about clients, and errors of the machine. Each has a limit of its own, so that clients
/// cannot hide errors.
pub(crate) const CLIENT: &str = "mailslot::client";
pub(crate) const ERRORS: &str = "mailslot::errors";

pub(super) struct JsonLines {
    /// The one target of this logger, and its limit. `None` stands for all other targets.
    limited: Option<(&'static str, Mutex<RateLimit>)>,
}

impl JsonLines {
    pub(super) fn all() -> [JsonLines; 3] {
        [None, Some(CLIENT), Some(ERRORS)].map(|target| JsonLines {
            limited: target.map(|target| (target, Mutex::new(RateLimit::new()))),
        })
    }

    fn takes(&self, target: &str) -> bool {
        match &self.limited {
            Some((own, _)) => target == *own,
            None => target != CLIENT && target != ERRORS,
        }
    }
}

impl Log for JsonLines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.takes(metadata.target()) && level_of(metadata) <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        if let Some((target, limit)) = &self.limited {
            let Some(suppressed) = lock(limit).take(Instant::now()) else { return };
            if suppressed > 0 {
                let about = *target;
                log::warn!(lines = suppressed, about; "log lines suppressed: too many at once");
            }
        }
        QUEUE.push(&line::of(record));
    }

    fn flush(&self) {
        // All loggers have the same lines to wait for.
        if self.limited.is_none() {
            QUEUE.flush();
        }
    }
}

impl SharedLogger for JsonLines {
    /// simplelog's levels are fixed at the start, and a reload changes [`log::max_level`].
    fn level(&self) -> LevelFilter {
        LevelFilter::Trace
    }

    fn config(&self) -> Option<&simplelog::Config> {
        None
    }

    fn as_log(self: Box<Self>) -> Box<dyn Log> {
        self
    }
}

//! A store that is open for the service, and its background job.

use std::{sync::Arc, thread, time::Duration};

use super::{
    connection::Connection, counts, failure::Failure, reader::Reader, search::SearchIndex,
    writer::Writer,
};
use crate::{
    config::Target,
    logging,
    store::{
        search_slots::SearchSlots,
        types::{Job, Outcome, Unopened},
    },
    threads::spawn,
};

/// How often messages are counted, and how long a failure of that lasts at least.
const COUNT_EVERY: Duration = Duration::from_millis(100);
const RETRY_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub(crate) struct Store {
    target: Target,
    slots: Arc<SearchSlots>,
    index: SearchIndex,
}

impl Store {
    pub(crate) fn open(
        target: &Target,
        workers: usize,
        has_index: bool,
    ) -> Result<(Store, Writer), Unopened> {
        let named = |failure: Failure| Unopened {
            is_of_settings: failure.is_of_settings(),
            sentence: format!("database {target}: {failure}"),
        };
        let writer = Writer::open_for_service(target).map_err(named)?;
        let slots = Arc::new(SearchSlots::new(workers));
        let index = if has_index { SearchIndex::On } else { SearchIndex::Off };
        Ok((Store { target: target.clone(), slots, index }, writer))
    }

    pub(crate) fn reader(&self) -> Reader {
        Reader::new(&self.target, &self.slots)
    }

    pub(crate) fn start_indexing(
        &self,
        _: impl Fn(Job) -> Outcome + Send + 'static,
    ) -> Result<(), String> {
        let (target, index) = (self.target.clone(), self.index);
        let make = move || {
            while !index.make(&target) {
                thread::sleep(RETRY_EVERY);
            }
        };
        let target = self.target.clone();
        let count = move || count(&target);
        let spawned = spawn("search-index", make).and_then(|_| spawn("counter", count));
        spawned.map(drop).map_err(|error| error.to_string())
    }
}

/// Counts what has been stored, again and again, beside the commits.
fn count(target: &Target) {
    let mut connection = None;
    loop {
        let connected = match connection.take() {
            Some(connection) => Ok(connection),
            None => Connection::connect(target),
        };
        let counted = connected.and_then(|mut connected| {
            let counted = counts::count_tail(&mut connected);
            if !counted.as_ref().is_err_and(Failure::needs_connection) {
                connection = Some(connected);
            }
            counted
        });
        if let Err(error) = &counted {
            log::warn!(target: logging::ERRORS, error:% = error; "messages are not counted");
        }
        thread::sleep(if counted.is_ok() { COUNT_EVERY } else { RETRY_EVERY });
    }
}

//! Between requests and the group commit: what is parked, and how its outcome becomes an answer.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Sender, channel},
    },
    thread,
    time::Instant,
};

use super::{feed::Feed, reply::reply};
use crate::{
    error::Error,
    http::{Exchange, Response},
    metrics::Metrics,
    store::{Entry, GroupCommit, Leader, Outcome, Stored, Writer, answer_all},
};

pub(super) type Store = GroupCommit<Writer, Parked>;

/// What waits for its commit, and who wants to know.
pub(super) struct Parked {
    pub(super) entry: Entry,
    pub(super) asker: Asker,
}

pub(super) enum Asker {
    /// A request, and how to tell it.
    Client(Exchange, fn(Outcome) -> Result<Response, Error>),
    /// A thread of this program.
    Thread(Sender<Outcome>),
}

/// A way to the group commit for a thread of this program, which waits for the outcome. `None` if
/// there is no room for it now.
pub(super) fn submission(
    store: &Arc<Store>,
    replier: &Replier,
) -> impl Fn(Entry) -> Option<Outcome> + Send + use<> {
    let (store, replier) = (Arc::clone(store), replier.clone());
    move |entry| {
        let (told, outcome) = channel();
        replier.metrics.commit_queue_length.add(1);
        if store.submit_aside(Parked { entry, asker: Asker::Thread(told) }, &replier).is_err() {
            replier.metrics.commit_queue_length.add(-1);
            return None;
        }
        outcome.recv().ok()
    }
}

/// Who tells requests what became of them: the worker that leads, or a thread beside it.
#[derive(Clone)]
pub(super) struct Replier {
    metrics: Arc<Metrics>,
    feed: Arc<Feed>,
    /// To that thread.
    answers: Sender<Vec<(Parked, Outcome)>>,
}

impl Replier {
    pub(super) fn start(metrics: &Arc<Metrics>, feed: &Arc<Feed>) -> io::Result<Replier> {
        let (answers, handed_over) = channel();
        let replier = Replier { metrics: Arc::clone(metrics), feed: Arc::clone(feed), answers };
        let own = replier.clone();
        let run = move || {
            while let Ok(answers) = handed_over.recv() {
                answer_all(&own, answers);
            }
        };
        thread::Builder::new().name("replier".into()).spawn(run).map(|_| replier)
    }
}

impl Leader<Writer, Parked> for Replier {
    fn commit(&self, writer: &mut Writer, batch: &[Parked]) -> Vec<Outcome> {
        let started = Instant::now();
        let outcomes = writer.commit(batch.iter().map(|parked| &parked.entry));
        self.metrics.commit_duration.observe_duration(started.elapsed());
        self.metrics.commit_batch_size.observe(batch.len() as u64);
        if outcomes.iter().all(Result::is_err) {
            self.metrics.commit_failures.increment();
        }
        let created = outcomes.iter().filter(|outcome| **outcome == Ok(Stored::Created)).count();
        self.feed.committed(created as u64);
        outcomes
    }

    fn answer(&self, Parked { entry, asker }: Parked, outcome: Outcome) {
        self.metrics.commit_queue_length.add(-1);
        let (exchange, then) = match asker {
            Asker::Client(exchange, then) => (exchange, then),
            Asker::Thread(told) => {
                let _ = told.send(outcome);
                return;
            }
        };
        let response = then(outcome).unwrap_or_else(|error| Response::from(&error));
        let message_id = match &entry {
            Entry::Message(message) => Some(message.message_id.as_str()),
            Entry::Pack(_) | Entry::Expire(_) | Entry::Probe => None,
        };
        reply(&self.metrics, exchange, &response, message_id);
    }

    fn hand_over(&self, answers: Vec<(Parked, Outcome)>) {
        // That thread ends with the process only.
        let _ = self.answers.send(answers);
    }
}

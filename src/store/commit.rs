//! The group commit: many requests, one fsync, and no thread that sleeps waiting for another's.
//!
//! Whoever has something to store parks it here. The writer is here too while nobody commits: who
//! finds it takes it and so leads, commits what is parked, answers, and looks whether more has
//! come. Leadership is holding the writer; there can be no two.
//!
//! Deliberately absent: waiting for a fuller batch. Answering before looking again fills batches
//! just as well, and costs a lone sender nothing (research/storage.md §2).

use std::{
    any::Any,
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::Outcome;
use crate::error::Error;

/// Requests that may wait for a commit; with one more the sender is told 503.
pub(crate) const PARKED_MAX: usize = 2048;
/// Requests that one commit carries, so that it stays short.
pub(crate) const BATCH_MAX: usize = 512;

/// `W` commits, `J` is a job: what to store and whom to tell.
#[derive(Debug)]
pub(crate) struct GroupCommit<W, J> {
    state: Mutex<State<W, J>>,
}

#[derive(Debug)]
struct State<W, J> {
    parked: VecDeque<J>,
    /// `None` while somebody leads.
    writer: Option<W>,
}

impl<W, J> GroupCommit<W, J> {
    pub(crate) fn new(writer: W) -> GroupCommit<W, J> {
        GroupCommit { state: Mutex::new(State { parked: VecDeque::new(), writer: Some(writer) }) }
    }

    /// Parks `job`. If nobody leads, leads until nothing is parked: `commit` makes a batch durable
    /// and says what became of each job, in order; `answer` tells one job its outcome.
    ///
    /// A panic in either is contained: in `commit` it fails the batch, in `answer` the one job,
    /// and leading goes on, so that nobody who parked meanwhile is forgotten.
    ///
    /// # Errors
    /// Gives the job back when [`PARKED_MAX`] are waiting.
    pub(crate) fn submit(
        &self,
        job: J,
        mut commit: impl FnMut(&mut W, &[J]) -> Vec<Outcome>,
        mut answer: impl FnMut(J, Outcome),
        mut panicked: impl FnMut(&(dyn Any + Send)),
    ) -> Result<(), J> {
        let Some(mut writer) = self.park(job)? else { return Ok(()) };
        loop {
            let batch = match self.take(writer) {
                Ok((batch, still)) => {
                    writer = still;
                    batch
                }
                Err(()) => return Ok(()),
            };
            let outcomes = catch_unwind(AssertUnwindSafe(|| commit(&mut writer, &batch)));
            let mut outcomes = outcomes.unwrap_or_else(|panic| {
                panicked(&*panic);
                Vec::new()
            });
            outcomes.resize(batch.len(), Err(Error::Internal));
            for (job, outcome) in batch.into_iter().zip(outcomes) {
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| answer(job, outcome))) {
                    panicked(&*panic);
                }
            }
        }
    }

    /// Requests that wait for a commit now.
    pub(crate) fn parked(&self) -> usize {
        self.lock().parked.len()
    }

    /// The writer, if nobody leads and nothing is parked: the end of the store.
    pub(crate) fn close(&self) -> Option<W> {
        let mut state = self.lock();
        if state.parked.is_empty() { state.writer.take() } else { None }
    }

    fn park(&self, job: J) -> Result<Option<W>, J> {
        let mut state = self.lock();
        if state.parked.len() >= PARKED_MAX {
            return Err(job);
        }
        state.parked.push_back(job);
        Ok(state.writer.take())
    }

    /// The next batch, or nothing is parked and the writer is back for the next leader.
    fn take(&self, writer: W) -> Result<(Vec<J>, W), ()> {
        let mut state = self.lock();
        if state.parked.is_empty() {
            state.writer = Some(writer);
            return Err(());
        }
        let length = state.parked.len().min(BATCH_MAX);
        Ok((state.parked.drain(..length).collect(), writer))
    }

    fn lock(&self) -> MutexGuard<'_, State<W, J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! The group commit: many requests, one fsync, and no thread that sleeps waiting for another's.
//!
//! Whoever has something to store parks it here. The writer is here too while nobody commits: who
//! finds it takes it and so leads, commits what is parked, has it answered, and looks whether more
//! has come. Leadership is holding the writer; there can be no two.
//!
//! Deliberately absent: waiting for a fuller batch. Answering before looking again fills batches
//! just as well, and costs a lone sender nothing (docs/PERFORMANCE.md).

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::Outcome;
use crate::error::Error;

/// Requests that may wait for a commit; with one more the sender is told 503.
pub(crate) const PARKED_MAX: usize = 2048;
/// How long the first of them may have waited: beyond, the disk hangs, and who comes is told 503.
pub(crate) const PARKED_MS_MAX: u64 = 2_000;
/// Requests that one commit carries, so that it stays short.
pub(crate) const BATCH_MAX: usize = 512;

/// How long [`GroupCommit::submit_aside`] leaves the lead to others before it leads again.
const ASIDE_US: u64 = 200;

/// `W` commits; `J` is a job: what to store and whom to tell.
#[derive(Debug)]
pub(crate) struct GroupCommit<W, J> {
    state: Mutex<State<W, J>>,
}

#[derive(Debug)]
struct State<W, J> {
    parked: VecDeque<(Instant, J)>,
    /// `None` while somebody leads.
    writer: Option<W>,
}

/// What a leader can do.
pub(crate) trait Leader<W, J> {
    /// Makes a batch durable, and says what became of each job, in order.
    fn commit(&self, writer: &mut W, batch: &[J]) -> Vec<Outcome>;
    /// Tells one job what became of it.
    fn answer(&self, job: J, outcome: Outcome);
    /// Lets another thread call [`Leader::answer`] for each.
    fn hand_over(&self, answers: Vec<(J, Outcome)>);
}

impl<W, J> GroupCommit<W, J> {
    pub(crate) fn new(writer: W) -> GroupCommit<W, J> {
        GroupCommit { state: Mutex::new(State { parked: VecDeque::new(), writer: Some(writer) }) }
    }

    /// Parks `job`; if nobody leads, leads until nothing is parked.
    ///
    /// A batch is answered before the next is taken, so that those senders' next requests are in
    /// it. But where half as many wait already, committing them is worth more, and another thread
    /// answers (docs/PERFORMANCE.md).
    ///
    /// # Errors
    /// Gives the job back when [`PARKED_MAX`] are waiting, or one for longer than [`PARKED_MS_MAX`].
    pub(crate) fn submit(&self, job: J, leader: &impl Leader<W, J>) -> Result<(), J> {
        let mut leading = self.park(job)?;
        while let Some((writer, batch)) = leading.and_then(|writer| self.take(writer)) {
            leading = Some(self.lead(writer, batch, leader));
        }
        Ok(())
    }

    /// As [`GroupCommit::submit`], for a thread that has other work than to lead: after each batch
    /// it lets whoever comes next take the lead.
    ///
    /// # Errors
    /// The same.
    pub(crate) fn submit_aside(&self, job: J, leader: &impl Leader<W, J>) -> Result<(), J> {
        let mut leading = self.park(job)?;
        while let Some((writer, batch)) = leading.and_then(|writer| self.take(writer)) {
            let writer = self.lead(writer, batch, leader);
            self.lock().writer = Some(writer);
            thread::sleep(Duration::from_micros(ASIDE_US));
            let mut state = self.lock();
            leading = if state.parked.is_empty() { None } else { state.writer.take() };
        }
        Ok(())
    }

    fn lead(&self, mut writer: W, batch: Vec<J>, leader: &impl Leader<W, J>) -> W {
        let outcomes = outcomes(leader, &mut writer, &batch);
        let is_crowded = 2 * self.parked() >= batch.len();
        let answers = batch.into_iter().zip(outcomes).collect();
        if is_crowded {
            leader.hand_over(answers);
        } else {
            answer_all(leader, answers);
        }
        writer
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
        let now = Instant::now();
        let oldest = state.parked.front().map(|(since, _)| now.duration_since(*since));
        if state.parked.len() >= PARKED_MAX
            || oldest.is_some_and(|waited| waited > Duration::from_millis(PARKED_MS_MAX))
        {
            return Err(job);
        }
        state.parked.push_back((now, job));
        Ok(state.writer.take())
    }

    /// The next batch; or nothing is parked, and the writer is back for the next leader.
    fn take(&self, writer: W) -> Option<(W, Vec<J>)> {
        let mut state = self.lock();
        if state.parked.is_empty() {
            state.writer = Some(writer);
            return None;
        }
        let length = state.parked.len().min(BATCH_MAX);
        Some((writer, state.parked.drain(..length).map(|(_, job)| job).collect()))
    }

    fn lock(&self) -> MutexGuard<'_, State<W, J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One for each job. A commit that panics has failed, and leading goes on: nobody who parked
/// meanwhile is forgotten.
fn outcomes<W, J>(leader: &impl Leader<W, J>, writer: &mut W, batch: &[J]) -> Vec<Outcome> {
    let committed = catch_unwind(AssertUnwindSafe(|| leader.commit(writer, batch)));
    let mut outcomes = committed.unwrap_or_default();
    outcomes.resize(batch.len(), Err(Error::Internal));
    outcomes
}

/// An answer that panics costs its own request only.
pub(crate) fn answer_all<W, J>(leader: &impl Leader<W, J>, answers: Vec<(J, Outcome)>) {
    for (job, outcome) in answers {
        let _ = catch_unwind(AssertUnwindSafe(|| leader.answer(job, outcome)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    };

    use super::*;
    use crate::store::Stored;

    /// Commits numbers: the writer is a list. 13 panics in its commit, 5000 in its answer.
    #[derive(Default)]
    struct Numbers {
        answered: Mutex<Vec<(u32, Outcome)>>,
        handed_over: AtomicUsize,
        committing: AtomicBool,
    }

    impl Leader<Vec<u32>, u32> for Numbers {
        fn commit(&self, writer: &mut Vec<u32>, batch: &[u32]) -> Vec<Outcome> {
            assert!(!self.committing.swap(true, SeqCst), "two lead at once");
            thread::sleep(Duration::from_micros(300));
            self.committing.store(false, SeqCst);
            assert!(!batch.contains(&13), "a commit that panics");
            writer.extend(batch);
            vec![Ok(Stored::Created); batch.len()]
        }

        fn answer(&self, job: u32, outcome: Outcome) {
            self.answered.lock().unwrap().push((job, outcome));
            assert!(job != 5000, "an answer that panics");
        }

        fn hand_over(&self, answers: Vec<(u32, Outcome)>) {
            self.handed_over.fetch_add(1, SeqCst);
            answer_all(self, answers);
        }
    }

    #[test]
    fn every_job_is_answered_once_by_what_became_of_it() {
        const THREADS: u32 = 8;
        let commit = Arc::new(GroupCommit::new(Vec::new()));
        let numbers = Numbers::default();
        let start = Barrier::new(THREADS as usize);
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let (commit, numbers, start) = (&commit, &numbers, &start);
                scope.spawn(move || {
                    start.wait();
                    for number in 0..200 {
                        commit.submit(number * THREADS + thread, numbers).unwrap();
                    }
                });
            }
        });
        commit.submit(5000, &numbers).unwrap();
        let mut answered = numbers.answered.into_inner().unwrap();
        answered.sort_by_key(|(job, _)| *job);
        let jobs: Vec<_> = answered.iter().map(|(job, _)| *job).collect();
        assert_eq!(jobs, (0..200 * THREADS).chain([5000]).collect::<Vec<_>>());
        let mut written = commit.close().unwrap();
        written.sort_unstable();
        let created = answered.iter().filter(|(_, outcome)| *outcome == Ok(Stored::Created));
        assert_eq!(created.map(|(job, _)| *job).collect::<Vec<_>>(), written);
        assert!(!written.contains(&13), "its batch failed as one");
        assert!(written.contains(&5000), "its answer's panic is not the commit's");
        assert!(numbers.handed_over.into_inner() > 0);
    }

    #[test]
    fn one_more_than_fits_is_given_back() {
        let commit: GroupCommit<u8, u32> = GroupCommit::new(1);
        let writer = commit.lock().writer.take();
        for number in 0..PARKED_MAX {
            assert!(commit.park(u32::try_from(number).unwrap()).is_ok());
        }
        assert_eq!(commit.park(7), Err(7));
        assert!(commit.close().is_none(), "nobody closes what is still parked");
        let (_, batch) = commit.take(writer.unwrap()).unwrap();
        let long_ago = Instant::now().checked_sub(Duration::from_millis(PARKED_MS_MAX + 1));
        commit.lock().parked[0].0 = long_ago.unwrap();
        assert_eq!(commit.park(7), Err(7), "the disk hangs");
        assert_eq!((batch.len(), commit.parked()), (BATCH_MAX, PARKED_MAX - BATCH_MAX));
    }
}

//! A bounded queue from many threads to one, which takes what is there in batches. `tests/model`
//! checks it under every order in which the threads can meet.

use std::{
    collections::VecDeque,
    sync::PoisonError,
    time::{Duration, Instant},
};

use super::sync::{Condvar, Mutex, MutexGuard, lock};

#[derive(Debug)]
pub(crate) struct Queue<J> {
    length_max: usize,
    weight_max: usize,
    wait_max: Duration,
    /// What a job counts for, at least 1.
    weigh: fn(&J) -> usize,
    state: Mutex<State<J>>,
    /// There are jobs, or the queue is closed.
    changed: Condvar,
}

#[derive(Debug)]
struct State<J> {
    /// Each with the moment at which it was submitted.
    jobs: VecDeque<(Instant, J)>,
    /// Of all of them.
    weight: usize,
    is_closed: bool,
    /// The taking thread sleeps. Waking it where it does not would cost a system call.
    is_idle: bool,
}

impl<J> Queue<J> {
    /// At most `length_max` jobs wait, and none is added to jobs of `weight_max` and more.
    pub(crate) fn new(
        length_max: usize,
        weight_max: usize,
        wait_max: Duration,
        weigh: fn(&J) -> usize,
    ) -> Queue<J> {
        let state = State { jobs: VecDeque::new(), weight: 0, is_closed: false, is_idle: false };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        Queue { length_max, weight_max, wait_max, weigh, state, changed }
    }

    /// Appends a job, whatever its own weight is.
    ///
    /// # Errors
    /// Gives the job back where the queue is full or closed, or its first job has waited for too
    /// long.
    pub(crate) fn submit(&self, job: J) -> Result<(), J> {
        let now = Instant::now();
        let mut state = self.lock();
        let oldest = state.jobs.front().map(|(since, _)| now.saturating_duration_since(*since));
        if state.is_closed
            || state.jobs.len() >= self.length_max
            || state.weight >= self.weight_max
            || oldest.is_some_and(|waited| waited > self.wait_max)
        {
            return Err(job);
        }
        state.weight += (self.weigh)(&job);
        state.jobs.push_back((now, job));
        let is_idle = std::mem::take(&mut state.is_idle);
        drop(state);
        if is_idle {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Waits for jobs and takes them, the oldest first, until they have this weight. `None` once
    /// the queue is closed and empty. One thread may do this at a time.
    pub(crate) fn take(&self, weight_max: usize) -> Option<Vec<J>> {
        let mut state = self.lock();
        while state.jobs.is_empty() && !state.is_closed {
            state.is_idle = true;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let (mut jobs, mut weight) = (Vec::new(), 0);
        while weight < weight_max
            && let Some((_, job)) = state.jobs.pop_front()
        {
            weight += (self.weigh)(&job);
            jobs.push(job);
        }
        state.weight -= weight;
        (!jobs.is_empty()).then_some(jobs)
    }

    /// Jobs that wait.
    pub(crate) fn length(&self) -> usize {
        self.lock().jobs.len()
    }

    /// From now on jobs are given back. Those that wait are still taken.
    pub(crate) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State<J>> {
        lock(&self.state)
    }
}

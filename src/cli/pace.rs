//! How fast a command writes beside the service: at full speed while no other process commits, and
//! for a small share of the time otherwise, so that deliveries come first.
//!
//! SQLite has one lock for all writers and no queue for it. A process that finds it taken sleeps
//! and tries again, longer each time, so a process that releases it and takes it again at once
//! always wins against the service. Hence this one holds the lock briefly and then leaves it free
//! for much longer.
//!
//! PostgreSQL gives its lock to those who wait in their order, but each delivery would wait for one
//! full batch of this process.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::store::BATCH_MAX;

/// Messages of one commit while other processes commit: enough to be worth an fsync, and stored
/// within a few milliseconds.
const BATCH_BESIDE: usize = 32;
/// After this long without a commit of another process, no other process is assumed to write.
const ALONE_AFTER: Duration = Duration::from_secs(1);
/// The pause after each commit then, in which the commit of a service that begins to write is
/// noticed.
const PAUSE_ALONE: Duration = Duration::from_millis(3);
/// While other processes commit, a pause lasts until none has committed for this long, or for the
/// duration of our last commit if that is longer: a waiting process may sleep that long.
const QUIET: Duration = Duration::from_millis(10);
/// But a pause is not longer than this many times the commit, and not longer than this.
const PAUSE_FACTOR: u32 = 12;
const PAUSE_LONGEST: Duration = Duration::from_secs(1);
/// How often a pause looks for commits of other processes.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub(super) struct Pace {
    batch: usize,
    /// The time of the last commit of another process. At the start there may have been one.
    others: Instant,
}

impl Pace {
    pub(super) fn new() -> Pace {
        Pace { batch: BATCH_BESIDE, others: Instant::now() }
    }

    /// The number of messages for the next commit.
    pub(super) fn batch(&self) -> usize {
        self.batch
    }

    /// Pauses after a commit that took this long. `others_committed` says whether another process
    /// has committed since its last call.
    pub(super) fn pause(&mut self, commit: Duration, mut others_committed: impl FnMut() -> bool) {
        let begun = Instant::now();
        let mut is_beside = false;
        loop {
            if others_committed() {
                self.others = Instant::now();
                is_beside = true;
            }
            let quiet = self.others.elapsed();
            let (least, longest) = if quiet > ALONE_AFTER {
                (PAUSE_ALONE, PAUSE_ALONE)
            } else {
                let least = QUIET.max(commit);
                (least, least.max(commit * PAUSE_FACTOR).min(PAUSE_LONGEST))
            };
            let paused = begun.elapsed();
            if paused >= longest || quiet.min(paused) >= least {
                break;
            }
            thread::sleep(POLL_INTERVAL.min(longest.saturating_sub(paused)));
        }
        self.batch = if is_beside { BATCH_BESIDE } else { BATCH_MAX.min(self.batch * 2) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: Duration = Duration::from_millis(4);

    fn pause(pace: &mut Pace, is_beside: bool) -> Duration {
        let begun = Instant::now();
        pace.pause(COMMIT, || is_beside);
        begun.elapsed()
    }

    #[test]
    fn while_others_commit_the_pauses_are_many_times_as_long_as_the_commits() {
        let mut pace = Pace::new();
        for _ in 0..3 {
            assert!(pause(&mut pace, true) >= COMMIT * PAUSE_FACTOR);
            assert_eq!(pace.batch(), BATCH_BESIDE);
        }
    }

    #[test]
    fn while_no_other_process_commits_the_batches_grow_to_the_largest() {
        let mut pace = Pace::new();
        assert!(pause(&mut pace, false) >= QUIET, "another process may be waiting");
        while pace.batch() < BATCH_MAX {
            let before = pace.batch();
            pause(&mut pace, false);
            assert!(pace.batch() > before);
        }
        pace.others = pace.others.checked_sub(ALONE_AFTER).unwrap();
        assert!(pause(&mut pace, false) >= PAUSE_ALONE);
        pause(&mut pace, true);
        assert_eq!(pace.batch(), BATCH_BESIDE, "another process commits again");
    }

    #[test]
    fn every_pause_ends() {
        let mut pace = Pace::new();
        let begun = Instant::now();
        pace.pause(Duration::from_mins(1), || true);
        assert!(begun.elapsed() >= PAUSE_LONGEST);
    }
}

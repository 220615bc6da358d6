//! How fast a verb may write beside the service: at full speed while nobody else commits, and a small
//! share of the time while somebody does, so that deliveries come first.
//!
//! SQLite has one lock for all writers and no queue for it. Whoever finds it taken sleeps and tries
//! again, longer each time, so the process that gives it back and takes it again at once always wins
//! against the service. What helps is to hold it briefly and to leave it alone for much longer.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::store::BATCH_MAX;

/// Messages of one commit while others commit too: enough to be worth its fsync, and stored within a
/// few milliseconds.
const BATCH_BESIDE: usize = 32;
/// After this long without a commit of anybody else's there is nobody to step back behind.
const ALONE_AFTER: Duration = Duration::from_secs(1);
/// The pause after each commit then, in which a service that begins to write can be noticed.
const PAUSE_ALONE: Duration = Duration::from_millis(3);
/// Until then a pause lasts until nobody else has committed for this long, or for as long as the
/// commit took, since whoever waited for its end may sleep about as long again before it tries...
const QUIET: Duration = Duration::from_millis(10);
/// ...but no longer than this many times the commit, nor than this, so that it always goes on.
const PAUSE_FACTOR: u32 = 12;
const PAUSE_LONGEST: Duration = Duration::from_secs(1);
/// How often a pause looks for commits.
const LOOK_EVERY: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub(super) struct Pace {
    batch: usize,
    /// When somebody else's commit was last seen. At first it is not known that there is none.
    others: Instant,
}

impl Pace {
    pub(super) fn new() -> Pace {
        Pace { batch: BATCH_BESIDE, others: Instant::now() }
    }

    /// How many messages the next commit should carry.
    pub(super) fn batch(&self) -> usize {
        self.batch
    }

    /// Pauses after a commit that took this long. `others_committed` says whether anybody else has
    /// committed since it was last asked.
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
            thread::sleep(LOOK_EVERY.min(longest.saturating_sub(paused)));
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
    fn while_nobody_else_commits_the_batches_grow_to_the_largest() {
        let mut pace = Pace::new();
        assert!(pause(&mut pace, false) >= QUIET, "somebody may have been kept out");
        while pace.batch() < BATCH_MAX {
            let before = pace.batch();
            pause(&mut pace, false);
            assert!(pace.batch() > before);
        }
        pace.others = pace.others.checked_sub(ALONE_AFTER).unwrap();
        assert!(pause(&mut pace, false) >= PAUSE_ALONE);
        pause(&mut pace, true);
        assert_eq!(pace.batch(), BATCH_BESIDE, "somebody commits again");
    }

    #[test]
    fn no_pause_lasts_for_ever() {
        let mut pace = Pace::new();
        let begun = Instant::now();
        pace.pause(Duration::from_mins(1), || true);
        assert!(begun.elapsed() >= PAUSE_LONGEST);
    }
}

//! A rate limit on log lines, so that clients cannot fill a disk with them. What is suppressed is
//! counted.

use std::{
    mem,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Lines of one target that may be written at once, and then each second.
const CLIENT_LINES_MAX: u32 = 1000;
const CLIENT_LINES_PER_SECOND: f64 = 50.0;

static SUPPRESSED: AtomicU64 = AtomicU64::new(0);

/// Lines suppressed since the start.
pub(crate) fn suppressed() -> u64 {
    SUPPRESSED.load(Relaxed)
}

/// A token bucket.
#[derive(Debug)]
pub(super) struct RateLimit {
    tokens: f64,
    since: Instant,
    suppressed: u64,
    /// When the number of suppressed lines was last reported.
    reported: Instant,
}

impl RateLimit {
    pub(super) fn new() -> RateLimit {
        let now = Instant::now();
        let tokens = f64::from(CLIENT_LINES_MAX);
        RateLimit { tokens, since: now, suppressed: 0, reported: now }
    }

    /// `None` if the line is to be suppressed. Else how many lines were suppressed before it: this
    /// is reported once a second, and 0 in between.
    pub(super) fn take(&mut self, now: Instant) -> Option<u64> {
        let earned = now.duration_since(self.since).as_secs_f64() * CLIENT_LINES_PER_SECOND;
        self.tokens = (self.tokens + earned).min(f64::from(CLIENT_LINES_MAX));
        self.since = now;
        if self.tokens < 1.0 {
            self.suppressed += 1;
            SUPPRESSED.fetch_add(1, Relaxed);
            return None;
        }
        self.tokens -= 1.0;
        if now.duration_since(self.reported) < Duration::from_secs(1) {
            return Some(0);
        }
        self.reported = now;
        Some(mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_clients_cause_are_bounded_and_the_rest_is_counted() {
        let mut limit = RateLimit::new();
        let start = limit.since;
        let written = (0..5000).filter(|_| limit.take(start).is_some()).count();
        assert_eq!(written, 1000);
        let later = start + Duration::from_secs(2);
        assert_eq!(limit.take(later), Some(4000));
        let written = (0..5000).filter(|_| limit.take(later).is_some()).count();
        assert_eq!(written, 99);
    }
}

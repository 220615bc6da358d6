//! Maintenance beside requests: threads that delete expired messages, and that wait for a disk that
//! could not be written at the start. Both go through the commit queue, a little at a time.

use std::{
    io, thread,
    time::{self, Duration},
};

use crate::{
    error::Error,
    logging,
    store::{Job, Outcome, Reader},
    threads::spawn,
    timestamp::Timestamp,
};

/// How often a commit is tried on a disk that could not be written at the start.
const BEGIN_EVERY_MS: u64 = 1_000;
/// How long expiring pauses: after a deletion, and if there is nothing to delete or it failed.
const EXPIRE_PAUSE_MS: u64 = 30;
const EXPIRE_REST_MS: u64 = 60_000;
/// A clock that is further ahead of the last stored message than this may be wrong. It is believed
/// once this process has run this long with it, or messages were stored this long ago by it, so
/// that an operator who reads the log on Monday can still set it. Shorter gaps are usual, for
/// example over a weekend.
const CLOCK_GAP: Duration = Duration::from_hours(72);
/// How often this is logged.
const CLOCK_GAP_LOG: Duration = Duration::from_hours(1);

/// Starts the thread that tries a commit every second until one succeeds, so that a disk that was
/// full at the start needs no restart once it has space.
pub(crate) fn start_beginning(commit: impl Fn(Job) -> Outcome + Send + 'static) -> io::Result<()> {
    let run = move || {
        while commit(Job::Probe).is_err() {
            thread::sleep(Duration::from_millis(BEGIN_EVERY_MS));
        }
        log::info!("the database accepts commits: deliveries are stored from now on");
    };
    spawn("commit-retry", run).map(drop)
}

/// Starts the thread that deletes messages whose `ts` is older than `retention`.
pub(crate) fn start_expiring(
    mut reader: Reader,
    retention: Duration,
    commit: impl Fn(Job) -> Outcome + Send + 'static,
) -> io::Result<()> {
    let run = move || {
        let mut clock = Clock::start(logging::now_seconds());
        let mut expired: Option<Timestamp> = None;
        loop {
            let before = clock.expiry(&mut reader, retention);
            if before.is_none()
                && let Some(before) = expired.take()
            {
                let before = before.text();
                log::info!(before; "messages have expired");
            }
            let is_more = before.is_some_and(|before| commit(Job::Expire(before)).is_ok());
            if is_more {
                expired = before;
            }
            let pause = if is_more { EXPIRE_PAUSE_MS } else { EXPIRE_REST_MS };
            thread::sleep(Duration::from_millis(pause));
        }
    };
    spawn("expirer", run).map(drop)
}

/// Decides whether the system clock is to be believed before messages expire by it: compares it
/// with the time for which this process has run, and with the times at which messages were stored.
#[derive(Debug)]
struct Clock {
    running: time::Instant,
    /// The clock's time and this process's uptime when the clock was last set, or first read.
    since: (i64, Duration),
    logged: Option<time::Instant>,
}

impl Clock {
    fn start(now: i64) -> Clock {
        Clock { running: time::Instant::now(), since: (now, Duration::ZERO), logged: None }
    }

    /// The time before which messages are too old, if there are such messages.
    fn expiry(&mut self, reader: &mut Reader, retention: Duration) -> Option<Timestamp> {
        let ago = |seconds: i64| Timestamp::from(seconds - retention.as_secs().cast_signed());
        let now = logging::now_seconds();
        let oldest = reader.oldest().ok()?.filter(|oldest| *oldest < ago(now))?;
        let uptime = self.running.elapsed();
        let believed = self.believed(now, uptime, |moment| reader.stored_around(moment)).ok()?;
        if oldest < ago(believed) {
            return Some(ago(believed));
        }
        if self.logged.is_none_or(|logged| logged.elapsed() >= CLOCK_GAP_LOG) {
            self.logged = Some(time::Instant::now());
            let (clock, stored) = (Timestamp::from(now).text(), Timestamp::from(believed).text());
            log::error!(
                clock, stored;
                "messages do not expire: the clock is wrong, or nothing was stored for three days"
            );
        }
        None
    }

    /// The clock's time; or, if there is a gap, the time of the last message that was stored before
    /// the gap. `around` gives the times of the messages that were stored before and after a time.
    fn believed(
        &mut self,
        now: i64,
        uptime: Duration,
        around: impl FnOnce(Timestamp) -> Result<(Option<Timestamp>, Option<Timestamp>), Error>,
    ) -> Result<i64, Error> {
        let gap = CLOCK_GAP.as_secs().cast_signed();
        let (clock, up) = self.since;
        let elapsed = uptime.saturating_sub(up);
        if (now - clock - elapsed.as_secs().cast_signed()).abs() > gap {
            self.since = (now, uptime);
        } else if elapsed >= CLOCK_GAP {
            return Ok(now);
        }
        let (before, after) = around(Timestamp::from(now - gap))?;
        let Some(before) = before else { return Ok(now) };
        let after = after.map_or(now, |after| after.seconds);
        Ok(if after - before.seconds > gap { before.seconds } else { now })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;
    const NOW: i64 = 1_000 * DAY;

    /// `stored` are the times at which messages were stored, in order.
    fn believed(clock: &mut Clock, now: i64, uptime: i64, stored: &[i64]) -> i64 {
        let uptime = Duration::from_secs(uptime.unsigned_abs());
        let around = |moment: Timestamp| {
            let at = stored.partition_point(|stored| *stored <= moment.seconds);
            let time = |at: Option<usize>| at.and_then(|at| stored.get(at)).copied();
            Ok((time(at.checked_sub(1)).map(Timestamp::from), time(Some(at)).map(Timestamp::from)))
        };
        clock.believed(now, uptime, around).unwrap()
    }

    #[test]
    fn a_clock_that_jumped_ahead_is_accepted_after_three_days() {
        let daily: Vec<i64> = (900..1_000).map(|day| day * DAY).collect();
        let last = 999 * DAY;
        assert_eq!(believed(&mut Clock::start(NOW), NOW, 0, &daily), NOW);
        assert_eq!(believed(&mut Clock::start(NOW), NOW, 0, &[]), NOW);
        assert_eq!(believed(&mut Clock::start(NOW), NOW, 0, &[NOW - 60]), NOW, "a new inbox");
        // A start with the clock a year ahead; then messages are stored, and it is started again.
        let leapt = NOW + 365 * DAY;
        let mut clock = Clock::start(leapt);
        assert_eq!(believed(&mut clock, leapt, 0, &daily), last);
        let mut stored = daily.clone();
        stored.extend([leapt + 60, leapt + DAY]);
        assert_eq!(believed(&mut clock, leapt + DAY, DAY, &stored), last);
        let (later, end) = (leapt + 2 * DAY, leapt + 4 * DAY);
        assert_eq!(believed(&mut Clock::start(later), later, 0, &stored), last);
        // It was right: the inbox had been off for a year.
        assert_eq!(believed(&mut clock, end, 4 * DAY, &daily), end, "without any message");
        stored.extend([leapt + 2 * DAY, leapt + 3 * DAY]);
        assert_eq!(believed(&mut Clock::start(end), end, 0, &stored), end, "by its messages");
    }

    #[test]
    fn a_clock_that_jumps_while_the_process_runs_is_not_accepted() {
        let daily: Vec<i64> = (900..1_000).map(|day| day * DAY).collect();
        let mut clock = Clock::start(NOW - 10 * DAY);
        assert_eq!(believed(&mut clock, NOW, 10 * DAY, &[]), NOW);
        let leapt = NOW + 365 * DAY;
        assert_eq!(believed(&mut clock, leapt, 10 * DAY + 60, &daily), 999 * DAY);
        assert_eq!(believed(&mut clock, NOW + 120, 10 * DAY + 120, &daily), NOW + 120, "set back");
        assert_eq!(believed(&mut clock, leapt, 10 * DAY + 180, &daily), 999 * DAY, "once more");
        assert_eq!(believed(&mut clock, leapt + 4 * DAY, 14 * DAY + 180, &daily), leapt + 4 * DAY);
    }
}

//! Load shedding: under overload, a share of the requests is answered 503 at once.
//!
//! Measured is how long a request waits for a worker. Controlled is the share of requests that are
//! shed, so that the wait of the others stays near a target. The controller is PIE's (RFC 8033): it
//! changes the share by how far the wait is from the target and by how fast it grows, so that the
//! share settles where the rest is just what the workers can serve. Shedding everything or nothing
//! would lose most of that.
//!
//! Reads go first. Deliveries are shed only when shedding every read is not enough.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::threads::lock;

/// The target of the wait.
const TARGET_MS: f64 = 100.0;
/// Consecutive measurements over the target before anything is shed: a stall is not an overload.
const PATIENCE: u32 = 3;
/// What each measurement adds to the share: for each second over the target, and for each second by
/// which the wait has grown since the last measurement.
const GAIN: f64 = 0.05;
const GAIN_OF_GROWTH: f64 = 0.5;
/// The factor of the share at each measurement of a wait below a tenth of the target.
const DECAY: f64 = 0.5;
/// Some deliveries always get through: shedding all of them would not reduce the requests that are
/// not shed.
const LARGEST_SHARE: f64 = 1.9;
/// A share of 1 as it is stored: in thousandths.
const ALL: u32 = 1000;

/// How soon a request is shed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Importance {
    /// Shed first: a reader can read later.
    Read,
    /// Shed when every read is shed: the sender has to send again.
    Delivery,
    /// Never shed: cheap, and needed when something is wrong.
    Health,
}

#[derive(Debug, Default)]
pub(crate) struct Overload {
    /// In thousandths, from 0 to 1900: of the reads up to 1000, and the rest of the deliveries.
    share: AtomicU32,
    /// The share added up over the requests, of reads and of deliveries: at each multiple of 1000
    /// one is shed.
    due: [AtomicU32; 2],
    controller: Mutex<Controller>,
}

#[derive(Debug, Default)]
struct Controller {
    share: f64,
    /// The wait at the last measurement, in seconds.
    wait: f64,
    /// Consecutive measurements over the target.
    over: u32,
    /// When the probe that is in the queue now was sent; and what the last one has measured, once.
    pending: Option<Instant>,
    measured: Option<Duration>,
    last: Duration,
}

impl Overload {
    /// True where this request is to be shed.
    pub(crate) fn sheds(&self, importance: Importance) -> bool {
        let share = self.share.load(Relaxed);
        let (due, share) = match importance {
            Importance::Read => (&self.due[0], share.min(ALL)),
            Importance::Delivery => (&self.due[1], share.saturating_sub(ALL)),
            Importance::Health => return false,
        };
        let before = due.fetch_add(share, Relaxed);
        share > 0 && before.wrapping_add(share) / ALL != before / ALL
    }

    /// A probe has taken this long through the queue.
    pub(super) fn measured(&self, wait: Duration) {
        let mut controller = lock(&self.controller);
        (controller.measured, controller.last) = (Some(wait), wait);
        controller.pending = None;
    }

    /// How long a request that is queued now waits for a worker: by the last probe, or by the one
    /// in the queue if that takes longer already.
    pub(super) fn wait(&self) -> Duration {
        let controller = lock(&self.controller);
        controller.last.max(controller.pending.map_or(Duration::ZERO, |since| since.elapsed()))
    }

    /// To be called at regular intervals. True if a probe is to be sent through the queue.
    pub(super) fn adjust(&self) -> bool {
        let mut controller = lock(&self.controller);
        // A probe that is in the queue has waited for at least as long as it is there.
        let pending = controller.pending.map(|since| since.elapsed());
        if let Some(wait) = controller.measured.take().max(pending) {
            controller.adjust(wait.as_secs_f64());
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "0 to 1900"
            )]
            self.share.store((controller.share * f64::from(ALL)) as u32, Relaxed);
        }
        let is_next = controller.pending.is_none();
        if is_next {
            controller.pending = Some(Instant::now());
        }
        is_next
    }
}

impl Controller {
    fn adjust(&mut self, wait: f64) {
        let target = TARGET_MS / 1e3;
        self.over = if wait > target { self.over + 1 } else { 0 };
        if self.share == 0.0 && self.over < PATIENCE {
            return;
        }
        let change = GAIN * (wait - target) + GAIN_OF_GROWTH * (wait - self.wait);
        self.wait = wait;
        self.share = (self.share + change).clamp(0.0, LARGEST_SHARE);
        if wait < target / 10.0 {
            self.share *= DECAY;
            if self.share < 1e-3 {
                (self.share, self.wait) = (0.0, 0.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Simulates a queue that gets `load` times what it can serve, for a minute in steps of a tenth
    /// of a second. Returns the longest wait after the first ten seconds, and the share of the
    /// capacity that was used.
    fn run(load: f64) -> (f64, f64) {
        let mut controller = Controller::default();
        let (mut queue, mut longest, mut served): (f64, f64, f64) = (0.0, 0.0, 0.0);
        for tick in 0..600 {
            queue += load * (1.0 - controller.share.min(1.0)) * 0.1;
            let done = queue.min(0.1);
            queue -= done;
            served += done;
            controller.adjust(queue);
            if tick >= 100 {
                longest = longest.max(queue);
            }
        }
        (longest, served / 60.0)
    }

    #[test]
    fn the_wait_stays_bounded_and_the_workers_stay_busy() {
        for load in [0.5, 1.2, 2.0, 4.0, 10.0, 20.0] {
            let (wait, used) = run(load);
            assert!(wait < 0.5, "{load}: {wait} s");
            assert!(used > 0.9 * load.min(1.0), "{load}: {used}");
        }
    }

    #[test]
    fn a_short_stall_sheds_nothing_and_a_long_one_is_soon_forgotten() {
        let mut controller = Controller::default();
        for wait in [0.0, 0.2, 0.25, 0.0, 0.0] {
            controller.adjust(wait);
            assert!(controller.share < 1e-9);
        }
        for wait in [1.0, 1.0, 1.0, 1.0] {
            controller.adjust(wait);
        }
        assert!(controller.share > 0.3);
        for _ in 0..20 {
            controller.adjust(0.0);
        }
        assert!(controller.share < 1e-9);
    }

    #[test]
    fn the_share_is_exact_and_takes_reads_first() {
        let overload = Overload::default();
        let shed = |importance| (0..10_000).filter(|_| overload.sheds(importance)).count();
        overload.share.store(250, Relaxed);
        assert_eq!((shed(Importance::Read), shed(Importance::Delivery)), (2500, 0));
        overload.share.store(1250, Relaxed);
        assert_eq!((shed(Importance::Read), shed(Importance::Delivery)), (10_000, 2500));
        assert_eq!(shed(Importance::Health), 0);
    }
}

//! Overload is shed early and in proportion.
//!
//! What is measured is how long a request waits for a worker; what is controlled is the share of
//! requests that are told 503 at once, so that the wait of the others stays near a target. The
//! controller is PIE's (RFC 8033): it adds to the share by how far the wait is from the target and
//! by how fast it grows, so that the share settles where the rest is just what the workers can do.
//! Shedding all or nothing would throw away most of that.
//!
//! Reads go first. Deliveries are shed only when every read is and that is not enough.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// The wait that is aimed at.
const TARGET_MS: f64 = 100.0;
/// Measurements in a row over the target before anything is shed: a stall is not an overload.
const PATIENCE: u32 = 3;
/// What the share gains, at each measurement, for each second over the target, and for each second
/// by which the wait has grown since the last one.
const GAIN: f64 = 0.05;
const GAIN_OF_GROWTH: f64 = 0.5;
/// What remains of the share at each measurement that finds no queue worth the name.
const DECAY: f64 = 0.5;
/// Some deliveries get through whatever happens: shedding all would not make requests fewer that cost
/// little to answer and are not shed.
const LARGEST_SHARE: f64 = 1.9;
/// A share of 1, as it is stored: in thousandths.
const ALL: u32 = 1000;

/// How soon a request is shed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Importance {
    /// Shed first: who reads can read later.
    Read,
    /// Shed when no read is left to shed: the sender has to send again.
    Delivery,
    /// Never shed: cheap, and asked for when something is wrong.
    Health,
}

#[derive(Debug, Default)]
pub(crate) struct Overload {
    /// In thousandths, from 0 to 1900: up to 1000 of the reads, what is beyond of the deliveries.
    share: AtomicU32,
    /// What has added up of the share since the last request that was shed, of each kind.
    due: [AtomicU32; 2],
    controller: Mutex<Controller>,
}

#[derive(Debug, Default)]
struct Controller {
    share: f64,
    /// Seconds that a request had to wait, when this was last acted on.
    wait: f64,
    over: u32,
    /// A measurement on its way through the queue, since then; and one that has arrived.
    pending: Option<Instant>,
    measured: Option<Duration>,
    last: Duration,
}

impl Overload {
    /// True where this request has to go, so that the others do not wait too long.
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

    /// What goes through the queue with the requests has taken this long.
    pub(super) fn measured(&self, wait: Duration) {
        let mut controller = self.controller();
        (controller.measured, controller.last) = (Some(wait), wait);
        controller.pending = None;
    }

    /// The last measurement, or the one on its way if that takes longer already.
    pub(super) fn wait(&self) -> Duration {
        let controller = self.controller();
        controller.last.max(controller.pending.map_or(Duration::ZERO, |since| since.elapsed()))
    }

    /// To be called at regular intervals. True if a measurement is to be sent through the queue.
    pub(super) fn adjust(&self) -> bool {
        let mut controller = self.controller();
        // One that has not come through yet has waited at least as long as it is on its way.
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

    fn controller(&self) -> std::sync::MutexGuard<'_, Controller> {
        self.controller.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// A queue that gets `load` times what it can serve, for a minute of tenths of a second: the
    /// longest wait after the first ten seconds, and the share of the capacity that was used.
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

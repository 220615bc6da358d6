//! Slots for searches that take long. There are half as many slots as workers, so that long
//! searches never hold all workers.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// A search that takes longer needs a slot.
pub(crate) const SHORT_SEARCH_MS_MAX: u64 = 20;

#[derive(Debug)]
pub(super) struct SearchSlots(AtomicUsize);

impl SearchSlots {
    pub(super) fn new(workers: usize) -> SearchSlots {
        SearchSlots(AtomicUsize::new(workers.div_ceil(2)))
    }

    pub(super) fn take(&self) -> Option<SearchSlot<'_>> {
        let taken = self.0.fetch_update(Relaxed, Relaxed, |free| free.checked_sub(1));
        taken.is_ok().then(|| SearchSlot(self))
    }
}

/// A slot, given back when it is dropped.
pub(super) struct SearchSlot<'a>(&'a SearchSlots);

impl Drop for SearchSlot<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_searches_hold_half_of_the_workers_at_most() {
        for workers in [3, 4] {
            let slots = SearchSlots::new(workers);
            let taken = [slots.take(), slots.take()];
            assert!(taken.iter().all(Option::is_some) && slots.take().is_none());
            drop(taken);
            assert!(slots.take().is_some(), "given back");
        }
    }
}

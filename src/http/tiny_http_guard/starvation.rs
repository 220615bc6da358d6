//! Connections of a burst that tiny_http leaves without a thread until another connection ends
//! (H4).

use std::{net::SocketAddr, ops::RangeInclusive};

use crate::http::socket;

/// In which of its starved scans a connection is helped. Not in the first one, since tiny_http
/// reads at once what arrives, if it reads at all; and not for ever, since some connections cannot
/// be helped (H2).
const STARVED_SCANS: RangeInclusive<u32> = 2..=20;
/// Connections that are opened to help after one scan.
pub(crate) const WAKES_MAX: usize = 64;

/// Consecutive scans in which a connection had unread bytes of a first request that no thread was
/// reading.
#[derive(Debug, Default)]
pub(super) struct Starvation(u32);

impl Starvation {
    /// To be called once for each scan. Returns how many new connections help this one: twice as
    /// many after each scan, since connections that send nothing may stand before it in tiny_http's
    /// queue.
    pub(super) fn wakes(&mut self, is_starved: bool) -> usize {
        self.0 = if is_starved { self.0 + 1 } else { 0 };
        if !STARVED_SCANS.contains(&self.0) {
            return 0;
        }
        let wakes = 1_usize.checked_shl(self.0 - STARVED_SCANS.start());
        wakes.unwrap_or(WAKES_MAX).min(WAKES_MAX)
    }

    /// The next scan decides whether it is helped.
    pub(super) fn is_first(&self) -> bool {
        self.0 == 1
    }
}

/// Opens connections to the own listener. Each makes tiny_http start a thread, which reads the
/// first connection that has none.
pub(super) fn wake(address: SocketAddr, count: usize) {
    for _ in 0..count.min(WAKES_MAX) {
        if socket::connect_to_self(address).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_starved_connection_is_helped_from_its_second_scan_on_but_not_for_ever() {
        let mut starvation = Starvation::default();
        let wakes: Vec<_> = (0..21).map(|_| starvation.wakes(true)).collect();
        assert_eq!(wakes[..9], [0, 1, 2, 4, 8, 16, 32, 64, 64]);
        assert_eq!(wakes[18..], [64, 64, 0]);
        assert_eq!(starvation.wakes(false), 0);
        assert!(!starvation.is_first());
        assert_eq!(starvation.wakes(true), 0);
        assert!(starvation.is_first());
        assert_eq!(starvation.wakes(true), 1);
    }
}

//! The memory of the process, and whether it grows.

use std::fs;

/// Memory that has grown by this much since its least is under pressure.
const GROWTH_BYTES: u64 = 8 * 1024 * 1024;

/// Growth since the least memory that was measured: measured from the last value, growth would be
/// hidden by memory that was given back.
pub(super) struct Growth {
    least_bytes: u64,
}

impl Growth {
    pub(super) fn start() -> Growth {
        Growth { least_bytes: used_bytes() }
    }

    /// Measures growth from now on.
    pub(super) fn restart(&mut self) {
        self.least_bytes = used_bytes();
    }

    pub(super) fn has_grown(&mut self) -> bool {
        let used = used_bytes();
        self.least_bytes = self.least_bytes.min(used);
        used > self.least_bytes + GROWTH_BYTES
    }
}

/// The process's memory without files: resident less shared of proc(5), in bytes.
pub(super) fn used_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let mut pages = text.split(' ').skip(1).map(|pages| pages.parse::<u64>().unwrap_or(0));
    let (resident, shared) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
    resident.saturating_sub(shared) * rustix::param::page_size() as u64
}

//! The sizes of what is derived from the messages. Tests use small ones, so that a few hundred
//! messages reach every case, and once the shipped ones.

/// Which sizes a writer and its readers use. They must be the same for all of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    /// Messages that the rank index may lack. More save a commit little, and each costs every read
    /// (docs/PERFORMANCE.md).
    pub(super) tail: i64,
    /// Messages that a fence of each level holds at most; one that holds more is split. With larger
    /// ones a commit touches fewer fences, and a read walks farther: 2,048 instead of 512 save a
    /// commit 4 % and cost a read less than 0.1 ms (docs/PERFORMANCE.md).
    ///
    /// The first divides the second, also where the index is rebuilt, which fills three quarters to
    /// leave room for late messages.
    pub(super) spans: [i64; 2],
    /// From how many messages on a sender has fences of its own. Below it, the walk along the
    /// messages of the sender is short.
    pub(super) heavy: i64,
    /// Messages that a search reads one by one instead of reading segments.
    pub(super) few: i64,
}

impl Layout {
    pub(super) const SHIPPED: Layout =
        Layout { tail: 256, spans: [2_048, 65_536], heavy: 4_096, few: 1_024 };

    #[cfg(test)]
    pub(super) const SMALL: Layout = Layout { tail: 50, spans: [16, 128], heavy: 40, few: 60 };
}

//! A body that the poller has read, because tiny_http had not buffered it.

use crate::{error::Error, rates::Reservation};

/// The memory for slow clients is in use.
pub(super) const NO_MEMORY: Error =
    Error::Unavailable("the request buffers are full, try again later");

#[derive(Debug)]
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    /// The memory of the bytes.
    pub(super) reservation: Reservation,
}

impl Body {
    /// Appends bytes. False if there is no memory for them.
    pub(super) fn append(&mut self, bytes: &[u8]) -> bool {
        let has_memory = self.reservation.grow(bytes.len());
        if has_memory {
            self.bytes.reserve_exact(bytes.len());
            self.bytes.extend_from_slice(bytes);
        }
        has_memory
    }
}

//! A body that the poller has read, because tiny_http had not buffered it.

use crate::{error::Error, rates::Reservation};

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

/// Why there is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MissingBody {
    /// The client closed the connection before the declared length.
    Short,
    /// Not all of it arrived in time.
    Late,
    /// The memory for slow clients is in use.
    NoMemory,
}

impl From<MissingBody> for Error {
    fn from(missing: MissingBody) -> Error {
        match missing {
            MissingBody::Short => Error::Framing("the body is shorter than its Content-Length"),
            MissingBody::Late => Error::Framing("the body did not arrive in time"),
            MissingBody::NoMemory => {
                Error::Unavailable("the request buffers are full, try again later")
            }
        }
    }
}

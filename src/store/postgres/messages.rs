//! The messages that a server sends, one after the other.

use std::io::{ErrorKind, Read};

use bytes::BytesMut;
use postgres_protocol::message::backend::{Header, Message};

use super::{failure::Failure, stream::Stream};

/// Bytes of a message of the server, such as a row. Another service at that port would send a text,
/// of which four characters look like a length of a gigabyte.
const SERVER_MESSAGE_BYTES_MAX: usize = 67_108_864;
/// Bytes that are read at once.
const CHUNK_BYTES: usize = 16_384;

#[derive(Debug)]
pub(super) struct Messages {
    /// What was received and not taken yet.
    received: BytesMut,
    chunk: Box<[u8]>,
}

impl Messages {
    pub(super) fn new() -> Messages {
        Messages { received: BytesMut::new(), chunk: vec![0; CHUNK_BYTES].into_boxed_slice() }
    }

    /// Waits for the next message.
    pub(super) fn next(&mut self, stream: &mut Stream) -> Result<Message, Failure> {
        loop {
            if let Some(header) = Header::parse(&self.received)?
                && usize::try_from(header.len())
                    .is_ok_and(|length| length > SERVER_MESSAGE_BYTES_MAX)
            {
                return Err(Failure::Lost("what answers there is no PostgreSQL server".to_owned()));
            }
            if let Some(message) = Message::parse(&mut self.received)? {
                return Ok(message);
            }
            let read = stream.read(&mut self.chunk);
            // A signal such as SIGTERM at the start must not look like a lost connection.
            if read.as_ref().is_err_and(|error| error.kind() == ErrorKind::Interrupted) {
                continue;
            }
            match read? {
                0 => return Err(Failure::Lost("it closed the connection".to_owned())),
                length => {
                    self.received.extend_from_slice(self.chunk.get(..length).unwrap_or_default());
                }
            }
        }
    }
}

//! What a store gives and takes, whichever engine keeps the messages, and the group commit in front of
//! it. Only `sqlite` knows SQL.

mod commit;
mod sqlite;

use crate::{error::Error, message::Message, timestamp::Timestamp};

pub(crate) use commit::{BATCH_MAX, GroupCommit, Leader, answer_all};
pub(crate) use sqlite::*;

/// What a commit can be asked to carry.
#[derive(Debug)]
pub(crate) enum Entry {
    Message(Message),
    /// Texts of a block of messages, packed for searching.
    Pack(Pack),
    /// The oldest messages go, some of them, if they are older than this.
    Expire(Timestamp),
    /// Nothing but the commit itself: would a message be taken?
    Probe,
}

/// What became of it, once it is on disk.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Stored {
    Created,
    /// The id was there before; the first version stays.
    Duplicate,
    /// What is no message is done.
    Done,
}

pub(crate) type Outcome = Result<Stored, Error>;

//! The store: messages in, once each and durable; pages, counts, searches, the feed and exports
//! out.
//!
//! [`types`] and [`engine`] are its face: what every engine is given, what it gives back, and which
//! functions it has. Only the engines, `sqlite` and `postgres`, know SQL and how counts and
//! searches are kept.

mod commit; // the group commit: the thread that owns the writer
mod queue; // from many threads to that one
mod sync; // the queue's locks
mod moving; // all messages from one engine to another
mod commands; // what commands do with a database beside the service
mod engine; // which engine, and the functions that each one has
mod postgres; // PostgreSQL: one server for several mailslots
mod sqlite; // SQLite: one connection that writes, and one that reads for each thread
mod search_slots; // how many searches may take long at once
mod types; // what every engine is given and gives back

pub(crate) use commands::{
    CommitWatch, backup, check_structure, count_selected, examine, is_erasure_unfinished, recount,
};
pub(crate) use commit::{BATCH_MAX, CommitQueue, CommitThread};
pub(crate) use engine::{Export, Reader, Store, Writer};
pub(crate) use moving::{Step, move_all};
#[cfg(any(test, fuzzing))]
pub(crate) use sqlite::Page;
pub(crate) use sqlite::{READ_ONLY, beside, device_and_inode, folder_of};
pub(crate) use types::{
    Committed, Count, Filter, Finding, Job, Level, Listing, Order, Outcome, Paging, Position,
    Received, Selection, Start, Stored, parts,
};

//! The store: messages in, once each and durable; pages, counts, searches, the feed and exports
//! out.
//!
//! [`types`] and [`engine`] are its face: what every engine is given, what it gives back, and which
//! functions it has. Only `sqlite` knows SQL, files and how counts and searches are kept.

mod commit; // the group commit: the thread that owns the writer
mod queue; // from many threads to that one
mod sync; // the queue's locks
mod engine; // which engine, and the functions that each one has
mod sqlite; // SQLite: one connection that writes, and one that reads for each thread
mod types; // what every engine is given and gives back

pub(crate) use commit::{BATCH_MAX, CommitQueue, CommitThread};
pub(crate) use engine::{
    CommitWatch, Export, Reader, Store, Writer, backup, check_structure, count_selected,
    is_erasure_unfinished, recount,
};
#[cfg(any(test, fuzzing))]
pub(crate) use sqlite::Page;
pub(crate) use sqlite::{READ_ONLY, beside, device_and_inode, folder_of};
pub(crate) use types::{
    Committed, Count, Filter, Job, Listing, Order, Outcome, Paging, Position, Received, Selection,
    Start, Stored, parts,
};

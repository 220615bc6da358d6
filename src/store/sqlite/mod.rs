//! The SQLite engine: one connection that writes, and one that reads for each thread.
//!
//! This process touches the database and its -shm through SQLite alone. One other `File::open` and
//! close of them would drop SQLite's locks, and the next `sqlite3` to come and go would then delete
//! the live WAL with acknowledged messages in it. SQLite holds no lock on the -wal itself (wal.rs).
//!
//! Outermost first: each file uses only those below it.

#[cfg(test)]
mod migration_test; // stored databases of earlier versions
#[cfg(test)]
mod model_test; // every answer compared with that of plain SQL

// What a process does with a database.
mod backup; // a copy beside the running service
mod check; // is the file sound, and are the counters right?
mod erase; // erases messages for good, also from the file
mod export; // all messages that a filter means
mod moving; // one side of a move to another engine
mod feed; // what was committed after a cursor, and one message with all that is known of it
mod series; // how many in each span of time
mod stats; // totals, and the senders of most messages
mod store; // opened for the service: what readers share, the background job

// The connections.
mod indexer; // the background job, which builds segments and keeps the tail short
mod reader; // pages and totals
mod writer; // commits
mod batch; // the jobs of one commit
mod migrate; // the newest version of the schema

// What is derived from the messages.
mod subset; // what a filter means, counted and paged
mod search; // which messages match, by segments and row by row
mod matches; // what a search has found
mod segments; // the texts, arranged for searching
mod counts; // totals, senders and the rank index, up to the watermark
mod ranks; // how many come before a position, and where an offset is
mod rank_index; // the fences that answer it
mod erased; // ids of erased messages, as hashes
mod epochs; // which history a cursor belongs to

// Files, connections, the schema, and conversions of rows.
mod wal; // the log, made durable at the start
mod schema; // tables, versions, whose file it is
mod connection; // every PRAGMA, every error
mod files; // the files of a database, and whether they are still the ones that are open
mod scope; // whose messages
mod classes; // sources and kinds, by their numbers
mod rows; // columns as values
mod layout; // the sizes of what is derived

pub(crate) use backup::backup;
pub(crate) use check::{CommitWatch, check_structure, recount};
pub(crate) use connection::READ_ONLY;
pub(crate) use erase::{count_selected, is_erasure_unfinished};
pub(crate) use export::Export;
pub(crate) use feed::POLL_INTERVAL;
pub(crate) use files::{beside, device_and_inode, folder_of};
pub(crate) use moving::Moving;
pub(crate) use reader::Reader;
#[cfg(any(test, fuzzing))]
pub(crate) use segments::Page;
pub(crate) use store::Store;
pub(crate) use writer::Writer;

//! The PostgreSQL engine: several mailslots share one server, and each of them is stateless.
//!
//! Every transaction that stores messages locks the one row of `sequencer` first, and keeps it
//! until its commit is durable. So ids are committed in their order on all nodes, and a reader of
//! the feed misses none. All values are with the server before the lock is taken, so a machine that
//! fails while it sends holds no lock; a commit of all requests that wait is one round trip.
//!
//! A message that the server did not insert is acknowledged once it was found as stored or erased.
//! A commit whose answer is lost is tried again, and a warning beside a commit is a failure. When
//! the server was restarted, promoted or restored, an epoch begins: ids jump beyond all earlier
//! ones.
//!
//! Deliberately absent: LISTEN and NOTIFY, prepared statements and locks of a session, since a
//! pooler may give each transaction another connection; and ids without the lock, which would be
//! cheaper by a seventh, and become visible out of order.
//!
//! Outermost first: each file uses only those below it.

// What a process does with a database.
mod check; // is the server safe, and are the counters right?
mod moving; // one side of a move to another engine
mod export; // all messages that a filter means
mod feed; // what was committed after a cursor
mod series; // how many in each span of time
mod stats; // totals, and the senders of most messages
mod store; // opened for the service
mod reader; // pages and totals
mod erase; // erases messages for good
mod writer; // commits

// What a commit needs.
mod proofs; // what the server has to do, proved at the start
mod epochs; // which history a cursor belongs to
mod insert; // the statement that stores messages
mod migrate; // the newest version of the schema

// What is derived from the messages.
mod search; // which messages match, and the index that finds them
mod ranks; // how many come before a position, and where an offset is
mod classes; // the pairs of source and kind
mod counts; // totals, parties and counts by time, up to the watermark
mod snapshot; // several statements of one moment
mod rows; // columns as values
mod sequencer; // the lock that orders all commits

// The driver: the crate postgres-protocol knows the messages, and the rest is here.
mod connection; // round trips, and which host is the primary
mod login; // SCRAM-SHA-256
mod messages; // the messages that a server sends
mod stream; // sockets
#[cfg(feature = "tls")]
mod tls; // encrypted sockets
mod values; // values of statements, rows of answers
mod text; // texts without U+0000
mod failure; // what a failure means

pub(crate) use check::{CommitWatch, check_structure, examine, recount};
pub(crate) use erase::count_selected;
pub(crate) use export::Export;
pub(crate) use feed::POLL_INTERVAL;
pub(crate) use moving::Moving;
pub(crate) use reader::Reader;
pub(crate) use store::Store;
pub(crate) use writer::Writer;

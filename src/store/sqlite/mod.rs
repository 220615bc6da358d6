//! The SQLite engine: one connection that writes, a connection that reads for each worker.
//!
//! This process touches the database and its -shm through SQLite alone. One other `File::open` and
//! close of them would drop SQLite's locks, and a passing `sqlite3` would then delete the live WAL
//! with acknowledged messages in it. SQLite holds no lock on the -wal itself (wal.rs).

pub(crate) mod backup;
pub(crate) mod check;
mod connection;
mod counts;
mod epochs;
pub(crate) mod erase;
#[cfg(test)]
mod exactness;
mod export;
mod feed;
mod matches;
mod packs;
mod reader;
mod schema;
mod search;
mod series;
mod visit;
mod wal;
mod writer;

pub(crate) use connection::{READ_ONLY, device_and_inode};
pub(crate) use counts::Place;
pub(crate) use export::Export;
pub(crate) use feed::Committed;
#[cfg(any(test, fuzzing))]
pub(crate) use packs::Piece;
pub(crate) use packs::{Pack, Packer};
pub(crate) use reader::{Filter, Listing, Order, Paging, Reader, Received, Start};
pub(crate) use search::Searches;
pub(crate) use visit::visit;
pub(crate) use writer::Writer;

use super::{Entry, Outcome, Stored};
use connection::{
    BUSY_MS_MAX, CHECKPOINT_PAGES, Identity, LOG_END, beside, cannot_open, configure,
    is_on_read_only, open,
};

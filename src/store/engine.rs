//! The functions that an engine has: each enum has a variant for every engine, so the compiler
//! names every function that one of them lacks.
//!
//! Sentences for the operator are `String`s, and what a client gets instead of an answer is an
//! [`Error`].

use std::time::Duration;

use super::{
    postgres, sqlite,
    types::{
        Committed, Filter, Found, Job, Listing, Outcome, Paging, Position, Selection, Stats,
        Unopened,
    },
};
use crate::{config::Database, error::Error, timestamp::Timestamp};

/// A store that is open for the service. Clones are the same store.
#[derive(Debug, Clone)]
pub(crate) enum Store {
    Sqlite(sqlite::Store),
    Postgres(postgres::Store),
}

impl Store {
    /// Opens the database, or creates it, brings its schema up to date, and gives its one writer
    /// away. `workers` bounds how many searches may take long at once; `search_index` says whether
    /// a server has an index for them, and `has_providers` whether messages may come that have
    /// another source than /webhook.
    ///
    /// # Errors
    /// A sentence for the operator, and whether the settings are wrong.
    pub(crate) fn open(
        database: &Database,
        workers: usize,
        search_index: bool,
        has_providers: bool,
    ) -> Result<(Store, Writer), Unopened> {
        match database {
            Database::File(path) => {
                let (store, writer) = sqlite::Store::open(path, workers, has_providers)?;
                Ok((Store::Sqlite(store), Writer::Sqlite(writer)))
            }
            Database::Server(target) => {
                let (store, writer) = postgres::Store::open(target, workers, search_index)?;
                Ok((Store::Postgres(store), Writer::Postgres(writer)))
            }
        }
    }

    /// A reader for one thread.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where the database cannot be opened now.
    pub(crate) fn reader(&self) -> Result<Reader, Error> {
        match self {
            Store::Sqlite(store) => Ok(Reader::Sqlite(store.reader()?)),
            Store::Postgres(store) => Ok(Reader::Postgres(store.reader())),
        }
    }

    /// Starts the engine's background job, which derives what searches need from the messages. It
    /// has each part committed by a [`Job::Index`], with `commit`.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub(crate) fn start_indexing(
        &self,
        commit: impl Fn(Job) -> Outcome + Send + 'static,
    ) -> Result<(), String> {
        match self {
            Store::Sqlite(store) => store.start_indexing(commit),
            Store::Postgres(store) => store.start_indexing(commit),
        }
    }
}

/// The one writer of a process.
#[derive(Debug)]
pub(crate) enum Writer {
    Sqlite(sqlite::Writer),
    Postgres(postgres::Writer),
}

impl Writer {
    /// Opens the database for a process that writes beside the service: as [`Store::open`] does,
    /// but it waits longer for its turn.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub(crate) fn open(database: &Database) -> Result<Writer, String> {
        match database {
            Database::File(path) => Ok(Writer::Sqlite(sqlite::Writer::open(path)?.patient())),
            Database::Server(target) => Ok(Writer::Postgres(postgres::Writer::open(target)?)),
        }
    }

    /// Why nothing can be stored yet, if that is so. Each commit tries to change it.
    pub(crate) fn not_ready(&self) -> Option<&'static str> {
        match self {
            Writer::Sqlite(writer) => writer.not_ready(),
            // One that was opened has stored messages, in the proofs.
            Writer::Postgres(_) => None,
        }
    }

    /// Makes a batch durable, and gives for each job what became of it, in order.
    pub(crate) fn commit<'a>(
        &mut self,
        batch: impl Iterator<Item = &'a Job> + Clone,
    ) -> Vec<Outcome> {
        match self {
            Writer::Sqlite(writer) => writer.commit(batch),
            Writer::Postgres(writer) => writer.commit(batch),
        }
    }

    /// Whether another process has committed since this was last asked, or may have.
    pub(crate) fn others_committed(&mut self) -> bool {
        match self {
            Writer::Sqlite(writer) => writer.others_committed(),
            Writer::Postgres(writer) => writer.others_committed(),
        }
    }

    /// The end of the service: leaves the database as one file, if that can be done.
    pub(crate) fn checkpoint(&mut self) {
        match self {
            Writer::Sqlite(writer) => writer.checkpoint(),
            Writer::Postgres(_) => {}
        }
    }

    /// Erases messages, so that a repeated delivery of one is acknowledged and not stored.
    /// Calls `progress` with the number of messages erased so far. Returns how many there were.
    ///
    /// # Errors
    /// A sentence for the operator. Messages erased by then stay erased; running it again erases
    /// the rest.
    pub(crate) fn erase(
        self,
        selection: &Selection,
        progress: &mut dyn FnMut(i64),
    ) -> Result<i64, String> {
        match self {
            Writer::Sqlite(writer) => writer.erase(selection, progress),
            Writer::Postgres(writer) => writer.erase(selection, progress),
        }
    }
}

/// A connection that reads, for one thread.
#[derive(Debug)]
pub(crate) enum Reader {
    Sqlite(sqlite::Reader),
    Postgres(postgres::Reader),
}

impl Reader {
    /// Opens the database beside the service: nothing is created, migrated or changed.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub(crate) fn open(database: &Database) -> Result<Reader, String> {
        match database {
            Database::File(path) => Ok(Reader::Sqlite(sqlite::Reader::open_read_only(path)?)),
            Database::Server(target) => {
                Ok(Reader::Postgres(postgres::Reader::open_read_only(target)?))
            }
        }
    }

    /// The database answers, and with the schema that this program knows.
    pub(crate) fn check_schema(&mut self) -> Result<(), Error> {
        match self {
            Reader::Sqlite(reader) => reader.check_schema(),
            Reader::Postgres(reader) => reader.check_schema(),
        }
    }

    /// A page in the order of positions, and how many messages match in all, both of one moment.
    pub(crate) fn list(&mut self, filter: &Filter, paging: &Paging) -> Result<Listing, Error> {
        match self {
            Reader::Sqlite(reader) => reader.list(filter, paging),
            Reader::Postgres(reader) => reader.list(filter, paging),
        }
    }

    /// The message with this id, with all that is known of it.
    pub(crate) fn find(&mut self, message_id: &str) -> Result<Option<Found>, Error> {
        match self {
            Reader::Sqlite(reader) => reader.find(message_id),
            Reader::Postgres(reader) => reader.find(message_id),
        }
    }

    /// The number of the row that has the message with this id.
    pub(crate) fn row(&mut self, message_id: &str) -> Option<i64> {
        match self {
            Reader::Sqlite(reader) => reader.row(message_id),
            Reader::Postgres(reader) => reader.row(message_id),
        }
    }

    /// The position of the message in this row.
    pub(crate) fn position(&mut self, row: i64) -> Option<Position> {
        match self {
            Reader::Sqlite(reader) => reader.position(row),
            Reader::Postgres(reader) => reader.position(row),
        }
    }

    pub(crate) fn stats(&mut self) -> Result<Stats, Error> {
        match self {
            Reader::Sqlite(reader) => reader.stats(),
            Reader::Postgres(reader) => reader.stats(),
        }
    }

    /// How many of the messages that a filter means have their `ts` between each of these moments
    /// and the next one, all of them counted at one moment. The filter's own range of time begins
    /// and ends with the moments.
    pub(crate) fn series(
        &mut self,
        filter: &Filter,
        bounds: &[Timestamp],
    ) -> Result<Vec<i64>, Error> {
        match self {
            Reader::Sqlite(reader) => reader.series(filter, bounds),
            Reader::Postgres(reader) => reader.series(filter, bounds),
        }
    }

    /// The earliest `ts`.
    pub(crate) fn oldest(&mut self) -> Result<Option<Timestamp>, Error> {
        match self {
            Reader::Sqlite(reader) => reader.oldest(),
            Reader::Postgres(reader) => reader.oldest(),
        }
    }

    /// When the last message before a moment and the first one after it were stored, by the clock
    /// of then.
    pub(crate) fn stored_around(
        &mut self,
        moment: Timestamp,
    ) -> Result<(Option<Timestamp>, Option<Timestamp>), Error> {
        match self {
            Reader::Sqlite(reader) => reader.stored_around(moment),
            Reader::Postgres(reader) => reader.stored_around(moment),
        }
    }

    /// How often the feed looks for what other processes have committed, while readers wait.
    pub(crate) fn poll_interval(&self) -> Duration {
        match self {
            Reader::Sqlite(_) => sqlite::POLL_INTERVAL,
            Reader::Postgres(_) => postgres::POLL_INTERVAL,
        }
    }

    /// The cursor of the last message that was ever committed; 0 if there has been none.
    pub(crate) fn last_cursor(&mut self) -> Result<i64, Error> {
        match self {
            Reader::Sqlite(reader) => reader.last_cursor(),
            Reader::Postgres(reader) => reader.last_cursor(),
        }
    }

    /// The cursor after which the last `count` messages follow.
    pub(crate) fn cursor_before_last(&mut self, count: i64) -> Result<i64, Error> {
        match self {
            Reader::Sqlite(reader) => reader.cursor_before_last(count),
            Reader::Postgres(reader) => reader.cursor_before_last(count),
        }
    }

    /// The messages that were committed after the cursor `after`, in the order of their commits: at
    /// most `limit`, and fewer where they have more than [`super::types::FEED_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// [`Error::CursorAhead`] where this database has never given such a cursor.
    pub(crate) fn committed(&mut self, after: i64, limit: i64) -> Result<Vec<Committed>, Error> {
        match self {
            Reader::Sqlite(reader) => reader.committed(after, limit),
            Reader::Postgres(reader) => reader.committed(after, limit),
        }
    }

    /// The last messages that were committed before the message of a cursor, or the last of all, in
    /// the order of their commits and with the same bounds as [`Reader::committed`].
    ///
    /// # Errors
    /// [`Error::CursorAhead`] where this database has never given such a cursor.
    pub(crate) fn committed_before(
        &mut self,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<Committed>, Error> {
        match self {
            Reader::Sqlite(reader) => reader.committed_before(before, limit),
            Reader::Postgres(reader) => reader.committed_before(before, limit),
        }
    }

    /// All messages that a filter means, of this moment, a portion at a time; with their originals
    /// if `has_originals`.
    ///
    /// # Errors
    /// Where the moment cannot be read.
    pub(crate) fn export(self, filter: Filter, has_originals: bool) -> Result<Export, Error> {
        match self {
            Reader::Sqlite(reader) => Ok(Export::Sqlite(reader.export(filter, has_originals)?)),
            Reader::Postgres(reader) => Ok(Export::Postgres(reader.export(filter, has_originals)?)),
        }
    }
}

/// All messages that a filter means, a portion at a time. Messages that are deleted before their
/// portion is read are not in it.
#[derive(Debug)]
pub(crate) enum Export {
    Sqlite(sqlite::Export),
    Postgres(postgres::Export),
}

impl Export {
    /// The next portion, which may be empty; `None` in the end.
    pub(crate) fn next(&mut self) -> Result<Option<Vec<super::Received>>, Error> {
        match self {
            Export::Sqlite(export) => export.next(),
            Export::Postgres(export) => export.next(),
        }
    }
}

//! The functions that an engine has. There is one engine so far; a second one is a second variant
//! of each of these enums, and the compiler then names every function that it lacks.
//!
//! Sentences for the operator are `String`s, and what a client gets instead of an answer is an
//! [`Error`].

use std::path::Path;

use super::{
    sqlite,
    types::{
        Committed, Filter, Found, Job, Listing, Outcome, Paging, Position, Recount, Selection,
        Stats,
    },
};
use crate::{error::Error, timestamp::Timestamp};

/// A store that is open for the service. Clones are the same store.
#[derive(Debug, Clone)]
pub(crate) enum Store {
    Sqlite(sqlite::Store),
}

impl Store {
    /// Opens the database, or creates it, brings its schema up to date, and gives its one writer
    /// away. `workers` bounds how many searches may take long at once.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub(crate) fn open(database: &Path, workers: usize) -> Result<(Store, Writer), String> {
        let (store, writer) = sqlite::Store::open(database, workers)?;
        Ok((Store::Sqlite(store), Writer::Sqlite(writer)))
    }

    /// A reader for one thread.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where the database cannot be opened now.
    pub(crate) fn reader(&self) -> Result<Reader, Error> {
        let Store::Sqlite(store) = self;
        Ok(Reader::Sqlite(store.reader()?))
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
        let Store::Sqlite(store) = self;
        store.start_indexing(commit)
    }
}

/// The one writer of a process.
#[derive(Debug)]
pub(crate) enum Writer {
    Sqlite(sqlite::Writer),
}

impl Writer {
    /// Opens the database for a process that writes beside the service: as [`Store::open`] does,
    /// but it waits longer for its turn.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub(crate) fn open(database: &Path) -> Result<Writer, String> {
        Ok(Writer::Sqlite(sqlite::Writer::open(database)?.patient()))
    }

    /// Why nothing can be stored yet, if that is so. Each commit tries to change it.
    pub(crate) fn not_ready(&self) -> Option<&'static str> {
        let Writer::Sqlite(writer) = self;
        writer.not_ready()
    }

    /// Makes a batch durable, and gives for each job what became of it, in order.
    pub(crate) fn commit<'a>(
        &mut self,
        batch: impl Iterator<Item = &'a Job> + Clone,
    ) -> Vec<Outcome> {
        let Writer::Sqlite(writer) = self;
        writer.commit(batch)
    }

    /// Whether another process has committed since this was last asked, or may have.
    pub(crate) fn others_committed(&mut self) -> bool {
        let Writer::Sqlite(writer) = self;
        writer.others_committed()
    }

    /// The end of the service: leaves the database as one file, if that can be done.
    pub(crate) fn checkpoint(&mut self) {
        let Writer::Sqlite(writer) = self;
        writer.checkpoint();
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
        let Writer::Sqlite(writer) = self;
        writer.erase(selection, progress)
    }
}

/// A connection that reads, for one thread.
#[derive(Debug)]
pub(crate) enum Reader {
    Sqlite(sqlite::Reader),
}

impl Reader {
    /// Opens the database beside the service: nothing is created, migrated or changed.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub(crate) fn open(database: &Path) -> Result<Reader, String> {
        Ok(Reader::Sqlite(sqlite::Reader::open_read_only(database)?))
    }

    /// The database answers, and with the schema that this program knows.
    pub(crate) fn check_schema(&self) -> Result<(), Error> {
        let Reader::Sqlite(reader) = self;
        reader.check_schema()
    }

    /// A page in the order of positions, and how many messages match in all, both of one moment.
    pub(crate) fn list(&mut self, filter: &Filter, paging: &Paging) -> Result<Listing, Error> {
        let Reader::Sqlite(reader) = self;
        reader.list(filter, paging)
    }

    /// The message with this id, with all that is known of it.
    pub(crate) fn find(&mut self, message_id: &str) -> Result<Option<Found>, Error> {
        let Reader::Sqlite(reader) = self;
        reader.find(message_id)
    }

    /// The number of the row that has the message with this id.
    pub(crate) fn row(&self, message_id: &str) -> Option<i64> {
        let Reader::Sqlite(reader) = self;
        reader.row(message_id)
    }

    /// The position of the message in this row.
    pub(crate) fn position(&self, row: i64) -> Option<Position> {
        let Reader::Sqlite(reader) = self;
        reader.position(row)
    }

    pub(crate) fn stats(&mut self) -> Result<Stats, Error> {
        let Reader::Sqlite(reader) = self;
        reader.stats()
    }

    /// How many messages have their `ts` between each of these moments and the next one, all of
    /// them counted at one moment.
    pub(crate) fn series(&mut self, bounds: &[Timestamp]) -> Result<Vec<i64>, Error> {
        let Reader::Sqlite(reader) = self;
        reader.series(bounds)
    }

    /// The earliest `ts`.
    pub(crate) fn oldest(&mut self) -> Result<Option<Timestamp>, Error> {
        let Reader::Sqlite(reader) = self;
        reader.oldest()
    }

    /// When the last message before a moment and the first one after it were stored, by the clock
    /// of then.
    pub(crate) fn stored_around(
        &mut self,
        moment: Timestamp,
    ) -> Result<(Option<Timestamp>, Option<Timestamp>), Error> {
        let Reader::Sqlite(reader) = self;
        reader.stored_around(moment)
    }

    /// The cursor of the last message that was ever committed; 0 if there has been none.
    pub(crate) fn last_cursor(&self) -> Result<i64, Error> {
        let Reader::Sqlite(reader) = self;
        reader.last_cursor()
    }

    /// The cursor after which the last `count` messages follow.
    pub(crate) fn cursor_before_last(&self, count: i64) -> Result<i64, Error> {
        let Reader::Sqlite(reader) = self;
        reader.cursor_before_last(count)
    }

    /// The messages that were committed after the cursor `after`, in the order of their commits: at
    /// most `limit`, and fewer where they have more than [`super::types::FEED_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// [`Error::CursorAhead`] where this database has never given such a cursor.
    pub(crate) fn committed(&mut self, after: i64, limit: i64) -> Result<Vec<Committed>, Error> {
        let Reader::Sqlite(reader) = self;
        reader.committed(after, limit)
    }

    /// All messages that a filter means, of this moment, a portion at a time; with their originals
    /// if `has_originals`.
    ///
    /// # Errors
    /// Where the moment cannot be read.
    pub(crate) fn export(self, filter: Filter, has_originals: bool) -> Result<Export, Error> {
        let Reader::Sqlite(reader) = self;
        Ok(Export::Sqlite(reader.export(filter, has_originals)?))
    }
}

/// All messages that a filter means, a portion at a time. Messages that are deleted before their
/// portion is read are not in it.
#[derive(Debug)]
pub(crate) enum Export {
    Sqlite(sqlite::Export),
}

impl Export {
    /// The next portion, which may be empty; `None` in the end.
    pub(crate) fn next(&mut self) -> Result<Option<Vec<super::Received>>, Error> {
        let Export::Sqlite(export) = self;
        export.next()
    }
}

/// Copies the database into an empty file beside the running service, and reads the copy through.
/// Calls `progress` with the number of pages that are left, and of all pages.
///
/// # Errors
/// A sentence for the operator; the file is then worth nothing.
pub(crate) fn backup(
    database: &Path,
    file: &Path,
    progress: &mut dyn FnMut(i32, i32),
) -> Result<(), String> {
    sqlite::backup(database, file, progress)
}

/// Checks the structure of the database; `is_full` compares every index with its table, too. Gives
/// what is wrong with it.
///
/// # Errors
/// A sentence for the operator, where it cannot be read at all.
pub(crate) fn check_structure(database: &Path, is_full: bool) -> Result<Vec<String>, String> {
    sqlite::check_structure(database, is_full)
}

/// Counts everything, at one moment.
///
/// # Errors
/// A sentence for the operator.
pub(crate) fn recount(database: &Path) -> Result<Recount, String> {
    sqlite::recount(database)
}

/// How many messages [`Writer::erase`] would erase.
///
/// # Errors
/// A sentence for the operator.
pub(crate) fn count_selected(database: &Path, selection: &Selection) -> Result<i64, String> {
    sqlite::count_selected(database, selection)
}

/// Whether an erasure was interrupted, so that bytes of erased messages may be left in the
/// database.
///
/// # Errors
/// A sentence for the operator.
pub(crate) fn is_erasure_unfinished(database: &Path) -> Result<bool, String> {
    sqlite::is_erasure_unfinished(database)
}

/// Notices what other processes commit to this database.
#[derive(Debug)]
pub(crate) enum CommitWatch {
    Sqlite(sqlite::CommitWatch),
}

impl CommitWatch {
    /// # Errors
    /// A sentence for the operator.
    pub(crate) fn start(database: &Path) -> Result<CommitWatch, String> {
        sqlite::CommitWatch::start(database).map(CommitWatch::Sqlite)
    }

    /// Whether anything was committed since the start.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub(crate) fn has_seen_one(&self) -> Result<bool, String> {
        let CommitWatch::Sqlite(watch) = self;
        watch.has_seen_one()
    }
}

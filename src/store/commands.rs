//! What commands of the operator do with a database beside the service: a backup, a check, and what
//! an erasure would erase.

use std::path::Path;

use super::{
    postgres, sqlite,
    types::{Finding, Recount, Selection},
};
use crate::config::Database;

/// Copies a database of SQLite into an empty file beside the running service, and reads the copy
/// through. Calls `progress` with the number of pages that are left, and of all pages.
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
pub(crate) fn check_structure(database: &Database, is_full: bool) -> Result<Vec<String>, String> {
    match database {
        Database::File(path) => sqlite::check_structure(path, is_full),
        Database::Server(target) => postgres::check_structure(target, is_full),
    }
}

/// Looks at a server's settings and at this user's rights. Of a file there is nothing to find.
///
/// # Errors
/// A sentence for the operator.
pub(crate) fn examine(database: &Database, workers: usize) -> Result<Vec<Finding>, String> {
    match database {
        Database::File(_) => Ok(Vec::new()),
        Database::Server(target) => postgres::examine(target, workers),
    }
}

/// Counts everything, at one moment.
///
/// # Errors
/// A sentence for the operator.
pub(crate) fn recount(database: &Database) -> Result<Recount, String> {
    match database {
        Database::File(path) => sqlite::recount(path),
        Database::Server(target) => postgres::recount(target),
    }
}

/// How many messages [`Writer::erase`] would erase.
///
/// # Errors
/// A sentence for the operator.
pub(crate) fn count_selected(database: &Database, selection: &Selection) -> Result<i64, String> {
    match database {
        Database::File(path) => sqlite::count_selected(path, selection),
        Database::Server(target) => postgres::count_selected(target, selection),
    }
}

/// Whether an erasure was interrupted, so that bytes of erased messages may be left in the
/// database.
///
/// # Errors
/// A sentence for the operator.
pub(crate) fn is_erasure_unfinished(database: &Database) -> Result<bool, String> {
    match database {
        Database::File(path) => sqlite::is_erasure_unfinished(path),
        // There is no file to rebuild.
        Database::Server(_) => Ok(false),
    }
}

/// Notices what other processes commit to this database.
#[derive(Debug)]
pub(crate) enum CommitWatch {
    Sqlite(sqlite::CommitWatch),
    Postgres(postgres::CommitWatch),
}

impl CommitWatch {
    /// # Errors
    /// A sentence for the operator.
    pub(crate) fn start(database: &Database) -> Result<CommitWatch, String> {
        match database {
            Database::File(path) => sqlite::CommitWatch::start(path).map(CommitWatch::Sqlite),
            Database::Server(target) => {
                postgres::CommitWatch::start(target).map(CommitWatch::Postgres)
            }
        }
    }

    /// Whether anything was committed since the start.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub(crate) fn has_seen_one(&mut self) -> Result<bool, String> {
        match self {
            CommitWatch::Sqlite(watch) => watch.has_seen_one(),
            CommitWatch::Postgres(watch) => watch.has_seen_one(),
        }
    }
}

//! Opening a database: every PRAGMA, the mapping of SQLite's errors, and the files that belong to it.

use std::{
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig};
use rustix::fs::{StatVfsMountFlags, statvfs};

use super::schema;
use crate::{error::Error, logging};

/// How long SQLite waits for another process's lock.
pub(super) const BUSY_MS_MAX: u32 = 5_000;
/// Pages of the write-ahead log after which a commit is followed by a checkpoint. More pages make a
/// commit cheaper, and the slowest one slower (docs/PERFORMANCE.md).
pub(super) const CHECKPOINT_PAGES: u32 = 4_000;
/// Prepared statements that a connection keeps.
pub(super) const STATEMENTS_MAX: usize = 64;

/// Trouble of the disk or of another process is the sender's to retry; the rest is ours.
impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Error {
        log::error!(target: logging::ERRORS, error:% = error; "the database failed");
        match error.sqlite_error_code() {
            Some(
                ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::NotADatabase
                | ErrorCode::OutOfMemory
                | ErrorCode::PermissionDenied
                | ErrorCode::ReadOnly
                | ErrorCode::SchemaChanged,
            ) => Error::Unavailable("storage is unavailable, try again later"),
            _ => Error::Internal,
        }
    }
}

pub(super) fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    // Or a statement that might use a partial index is prepared anew with every value bound to it.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.execute_batch(&format!("PRAGMA busy_timeout = {BUSY_MS_MAX}"))?;
    Ok(connection)
}

/// Every PRAGMA that a connection depends on, written out, defaults too.
pub(super) fn configure(connection: &Connection, cache_kib: u32) -> rusqlite::Result<()> {
    connection.execute_batch(&format!("PRAGMA cache_size = -{cache_kib}"))?;
    connection.execute_batch(&format!("PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}"))?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;          -- a commit is on disk when it returns
         PRAGMA journal_size_limit = 67108864;
         PRAGMA mmap_size = 0;
         PRAGMA temp_store = MEMORY;
         PRAGMA secure_delete = ON;          -- what is deleted is overwritten
         PRAGMA foreign_keys = OFF;          -- the schema has none
         PRAGMA trusted_schema = OFF;
         PRAGMA cell_size_check = ON;
         PRAGMA locking_mode = NORMAL;       -- sqlite3 may read meanwhile",
    )
}

/// What the operator should do about an error while this path is opened. SQLite does not say that the
/// path is a folder, nor that its file system is read-only.
pub(super) fn cannot_open(path: &Path, error: &rusqlite::Error) -> String {
    use ErrorCode::{CannotOpen, PermissionDenied, ReadOnly};
    match error.sqlite_error_code() {
        Some(CannotOpen | PermissionDenied | ReadOnly) if path.is_dir() => {
            "it is a folder: name a file in it".to_owned()
        }
        Some(CannotOpen | PermissionDenied | ReadOnly) if is_on_read_only(path) => {
            READ_ONLY.to_owned()
        }
        _ => schema::sentence(error),
    }
}

pub(crate) const READ_ONLY: &str =
    "it is on a read-only file system: mount that writable, or choose another path";

/// Whether the file, or the folder in which it would be, is on a file system that is mounted read-only.
pub(super) fn is_on_read_only(path: &Path) -> bool {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let found = statvfs(path).or_else(|_| statvfs(folder.unwrap_or(Path::new("."))));
    found.is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// How the names of the write-ahead log and of SQLite's index of it end.
pub(super) const LOG_END: &str = "-wal";
pub(super) const INDEX_END: &str = "-shm";

/// Which files are open, so that deleted or replaced ones are noticed: SQLite would go on writing to
/// the old ones, and the next start would not find what was acknowledged. Only their metadata is
/// asked for, so that no lock is lost.
#[derive(Debug)]
pub(super) struct Identity(Vec<(PathBuf, Option<(u64, u64)>)>);

impl Identity {
    /// Of the database, its index of the log (-shm) and its log, which all exist as long as it is
    /// open. SQLite follows symbolic links, so the last two stand beside `file`, where a link ends.
    /// The path as it was given is watched too, since the next start follows it again.
    pub(super) fn of(given: &Path, file: &Path) -> Identity {
        let paths = [given, file, &beside(file, INDEX_END), &beside(file, LOG_END)];
        Identity(paths.map(|path| (path.to_owned(), device_and_inode(path))).into())
    }

    /// Whether other processes coordinate through another index than this one: nothing that this
    /// process knows of the log is then certain.
    pub(super) fn has_other_index(&self) -> bool {
        let is_index = |path: &Path| path.as_os_str().as_bytes().ends_with(INDEX_END.as_bytes());
        self.changed().any(is_index)
    }

    pub(super) fn missing(&self) -> Option<&Path> {
        self.changed().next()
    }

    fn changed(&self) -> impl Iterator<Item = &Path> {
        let changed = self.0.iter().filter(|(path, file)| device_and_inode(path) != *file);
        changed.map(|(path, _)| path.as_path())
    }
}

/// A file that belongs to a database.
pub(super) fn beside(database: &Path, end: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}

/// Which file a path means now.
pub(crate) fn device_and_inode(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok()
}

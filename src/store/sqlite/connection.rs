//! Opening a database: every PRAGMA, and what SQLite's errors mean for clients and for the
//! operator.

use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig};
use rustix::fs::{StatVfsMountFlags, statvfs};

use super::files::folder_of;
use crate::{
    error::{Error, STORAGE_UNAVAILABLE},
    logging,
};

/// How long SQLite waits for another process's lock.
pub(super) const BUSY_MS_MAX: u32 = 5_000;
/// Pages of the write-ahead log after which a commit is followed by a checkpoint. More pages make a
/// commit cheaper, and the slowest one slower (docs/PERFORMANCE.md).
pub(super) const CHECKPOINT_PAGES: u32 = 4_000;
/// Prepared statements that a connection keeps.
pub(super) const STATEMENTS_MAX: usize = 64;

/// Errors that may be gone when the client retries, or once the operator has repaired the database,
/// become 503. All others are bugs of mailslot and become 500.
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
            ) => STORAGE_UNAVAILABLE,
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
    // Without this, SQLite prepares a statement that may use a partial index again for each value.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.execute_batch(&format!("PRAGMA busy_timeout = {BUSY_MS_MAX}"))?;
    Ok(connection)
}

/// A connection that cannot write, with a page cache of this size. Closing it leaves the
/// write-ahead log as it is: after a killed process, only the next start may checkpoint it
/// (wal.rs).
pub(super) fn open_for_reading(path: &Path, cache_kib: u32) -> rusqlite::Result<Connection> {
    let connection = open(path)?;
    configure(&connection, cache_kib)?;
    forbid_writing(&connection)?;
    Ok(connection)
}

/// `query_only` alone would not prevent the checkpoint that SQLite does when the last connection of
/// all processes is closed.
pub(super) fn forbid_writing(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.execute_batch("PRAGMA query_only = ON")
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

/// What the operator should do about an error while this path is opened. SQLite does not say that
/// the path is a folder, nor that its file system is read-only.
pub(super) fn cannot_open(path: &Path, error: rusqlite::Error) -> String {
    use ErrorCode::{CannotOpen, PermissionDenied, ReadOnly};
    match error.sqlite_error_code() {
        Some(CannotOpen | PermissionDenied | ReadOnly) if path.is_dir() => {
            "it is a folder: name a file in it".to_owned()
        }
        Some(CannotOpen | PermissionDenied | ReadOnly) if is_on_read_only(path) => {
            READ_ONLY.to_owned()
        }
        _ => sentence(error),
    }
}

pub(crate) const READ_ONLY: &str =
    "it is on a read-only file system: mount that writable, or choose another path";

/// Whether the file, or the folder in which it would be, is on a file system that is mounted
/// read-only.
pub(super) fn is_on_read_only(path: &Path) -> bool {
    let found = statvfs(path).or_else(|_| statvfs(folder_of(path)));
    found.is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// What the operator should do about an error.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn sentence(error: rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => "it is not a SQLite database".to_owned(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another process holds a lock on it".to_owned()
        }
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            format!(
                "it cannot be opened or created: check that this user may write it and its folder \
                 ({error})"
            )
        }
        Some(ErrorCode::ReadOnly) => {
            format!("it cannot be written: check the permissions of it and its folder ({error})")
        }
        Some(ErrorCode::DiskFull) => "the disk is full".to_owned(),
        _ => error.to_string(),
    }
}

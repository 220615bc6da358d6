//! The one connection that writes.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, TransactionBehavior, ffi};

use super::{
    batch,
    connection::{
        CHECKPOINT_PAGES, READ_ONLY, cannot_open, configure, is_on_read_only, open, sentence,
    },
    counts, epochs,
    files::{Identity, LOG_END, beside, create_folder, folder_of},
    layout::Layout,
    migrate, schema,
    segments::Prepared,
    wal,
};
use crate::{
    error::Error,
    logging,
    store::types::{Job, Outcome},
    threads::lock,
};

/// The writer's page cache: an insert touches three indexes in random places.
const CACHE_KIB: u32 = 8_000;

/// How long a writer that could not begin waits before it tries again.
const BEGIN_EVERY: Duration = Duration::from_secs(1);
/// How often a full disk makes it try to use the log from its start.
const FREE_EVERY: Duration = Duration::from_secs(1);
/// How often a patient writer tries to take another process's lock, and how many times. SQLite's
/// own waiting grows to a tenth of a second between two tries, which rarely hits one of the short
/// moments at which a busy service does not hold it.
const TRY_EVERY: Duration = Duration::from_millis(1);
const TRIES: i32 = 60_000;

#[derive(Debug)]
pub(crate) struct Writer {
    pub(super) connection: Connection,
    identity: Identity,
    /// The path of the write-ahead log.
    log: PathBuf,
    /// When [`Writer::begin`] last failed, and why. Until it has succeeded nothing is stored.
    failed: Option<(Instant, &'static str)>,
    /// When the disk was last full and [`Writer::free_log`] was called.
    freed: Option<Instant>,
    /// SQLite's number that changes with each commit of another connection.
    data_version: Option<i64>,
    pub(super) layout: Layout,
    prepared: Prepared,
}

impl Writer {
    /// Opens the database, or creates it and its folder, brings its schema up to date, and begins.
    /// Where the disk does not let it begin yet, that is tried again with each commit, at most once
    /// a second: [`Writer::not_ready`].
    ///
    /// # Errors
    /// A sentence that says what the operator should do.
    pub(crate) fn open(path: &Path) -> Result<Writer, String> {
        Writer::open_with(path, Layout::SHIPPED, Prepared::default())
    }

    /// The same, with these sizes; a [`Job::Index`] stores what `prepared` has.
    pub(super) fn open_with(
        path: &Path,
        layout: Layout,
        prepared: Prepared,
    ) -> Result<Writer, String> {
        let named = |problem: String| format!("database {}: {problem}", path.display());
        create_folder(folder_of(path))
            .map_err(|error| named(format!("its folder cannot be created: {error}")))?;
        let sentence = |error: rusqlite::Error| named(cannot_open(path, error));
        let mut connection = open(path).map_err(sentence)?;
        schema::find(&connection).map_err(named)?;
        // SQLite opens such a file without an error.
        if connection.is_readonly("main").map_err(sentence)? {
            let is_on_read_only = is_on_read_only(path);
            let why = "it cannot be written: check its permissions";
            return Err(named(if is_on_read_only { READ_ONLY } else { why }.to_owned()));
        }
        configure(&connection, CACHE_KIB).map_err(sentence)?;
        // No checkpoint before the log is on disk (wal.rs).
        connection.pragma_update(None, "wal_autocheckpoint", 0).map_err(sentence)?;
        migrate::migrate(&mut connection, &layout).map_err(named)?;
        // SQLite has followed symbolic links as this does.
        let file = fs::canonicalize(path)
            .map_err(|error| named(format!("its path cannot be followed: {error}")))?;
        let identity = Identity::of(path, &file);
        let mut writer = Writer {
            connection,
            identity,
            log: beside(&file, LOG_END),
            failed: None,
            freed: None,
            data_version: None,
            layout,
            prepared,
        };
        writer.begin();
        Ok(writer)
    }

    /// Why nothing can be stored yet, if that is so.
    pub(crate) fn not_ready(&self) -> Option<&'static str> {
        self.failed.map(|(_, reason)| reason)
    }

    /// Makes durable what an earlier process may have left in the kernel's page cache only
    /// (wal.rs), and proves by a commit of its own, which begins an epoch of cursors, that the disk
    /// takes one.
    fn begin(&mut self) {
        let mut is_full = false;
        let mut run = || -> Result<(), (String, &'static str)> {
            let mut sqlite = |error: rusqlite::Error| {
                is_full = is_disk_full(&error);
                (error.to_string(), reason(&error))
            };
            let file = |error: io::Error| (error.to_string(), reason_of_file(&error));
            let behavior = TransactionBehavior::Immediate;
            let transaction =
                self.connection.transaction_with_behavior(behavior).map_err(&mut sqlite)?;
            wal::rewrite(&self.log).map_err(file)?;
            epochs::begin(&transaction).map_err(&mut sqlite)?;
            transaction.commit().map_err(&mut sqlite)?;
            let checkpoints =
                self.connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES);
            checkpoints.map_err(sqlite)
        };
        self.failed = match run() {
            Ok(()) => None,
            Err((error, reason)) => {
                log::error!(
                    error, reason;
                    "the database cannot take a commit: nothing is stored until it can"
                );
                Some((Instant::now(), reason))
            }
        };
        // SQLite finds the disk full only once the log is on disk, so a checkpoint does no harm.
        if is_full {
            self.free_log();
        }
    }

    /// Gives messages an index by source and kind where they have none. Without it a filter by
    /// these is slower, so a start is not refused where it cannot be made.
    pub(super) fn index_by_class(&mut self) {
        if self.not_ready().is_some() {
            return;
        }
        let made = counts::index_by_class(&mut self.connection, &self.layout);
        let Err(error) = made else { return };
        // The log has grown into the space that there was.
        if is_disk_full(&error) {
            self.free_log();
        }
        log::warn!(
            error:% = sentence(error);
            "messages got no index by source and kind: the next start tries it again"
        );
    }

    /// Makes this writer wait longer for the lock of the database, and try more often, for commands
    /// that run beside the service.
    pub(crate) fn patient(mut self) -> Writer {
        let handler = |tries: i32| {
            thread::sleep(TRY_EVERY);
            tries < TRIES
        };
        // SQLite refuses no handler.
        let _ = self.connection.busy_handler(Some(handler));
        self
    }

    /// Whether another connection has committed since this was last asked, or may have. What cannot
    /// be read has not changed: the next commit says what is wrong.
    pub(crate) fn others_committed(&mut self) -> bool {
        let version = self.connection.prepare_cached("PRAGMA data_version");
        let version = version.and_then(|mut version| version.query_row((), |row| row.get(0)));
        let Ok(version) = version else { return false };
        let before = self.data_version.replace(version);
        before != Some(version)
    }

    /// Makes a batch durable in one transaction, and gives for each job what became of it.
    pub(crate) fn commit<'a>(
        &mut self,
        batch: impl Iterator<Item = &'a Job> + Clone,
    ) -> Vec<Outcome> {
        let length = batch.clone().count();
        if let Some(path) = self.identity.missing() {
            log::error!(
                target: logging::ERRORS, path:% = path.display();
                "the database file was removed or replaced: restart mailslot"
            );
            return vec![
                Err(Error::Unavailable("the database file was removed or replaced"));
                length
            ];
        }
        if let Some((at, _)) = self.failed
            && at.elapsed() >= BEGIN_EVERY
        {
            self.begin();
        }
        if let Some(reason) = self.not_ready() {
            return vec![Err(Error::Unavailable(reason)); length];
        }
        self.run(batch).unwrap_or_else(|error| {
            if is_disk_full(&error) {
                self.free_log();
            }
            vec![Err(Error::from(error)); length]
        })
    }

    fn run<'a>(
        &mut self,
        batch: impl Iterator<Item = &'a Job> + Clone,
    ) -> rusqlite::Result<Vec<Outcome>> {
        let prepared = batch.clone().any(|job| matches!(job, Job::Index));
        let prepared = prepared.then(|| lock(&self.prepared).take()).flatten();
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let outcomes = batch::run(&transaction, &self.layout, batch, prepared.as_ref())?;
        transaction.commit()?;
        Ok(outcomes)
    }

    /// Moves into the database what the log holds, without waiting for its readers, so that the
    /// next commit overwrites the log from its start and needs no more space. It fails where the
    /// database has to grow for that, and changes nothing then.
    fn free_log(&mut self) {
        if self.freed.is_none_or(|freed| freed.elapsed() >= FREE_EVERY) {
            self.freed = Some(Instant::now());
            let _ = self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", (), |_| Ok(()));
        }
    }

    /// Indexes the tail, and moves all of the write-ahead log into the database, which is then one
    /// file. Where that fails nothing is lost: the log stays, and the next start reads it.
    pub(crate) fn checkpoint(&mut self) {
        // Emptying the log would lose what other processes have committed to it by another index.
        if self.identity.has_other_index() {
            log::warn!("the write-ahead log stays: its -shm file was removed or replaced");
            return;
        }
        // Parts of it may be in the page cache only: see wal.rs for what a power failure would make
        // of it.
        if self.not_ready().is_some() {
            log::warn!(
                "the write-ahead log stays: the database has not taken a commit since the start"
            );
            return;
        }
        if self.identity.missing().is_none() {
            // What fails here fails below, too, where it is logged.
            let _ = self.run([Job::Index].iter());
        }
        // Litestream for one reads all the time; a stop does not wait for such a reader.
        let _ = self.connection.execute_batch("PRAGMA busy_timeout = 200");
        let is_busy = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |row| {
            row.get::<_, i64>(0).map(|busy| busy != 0)
        });
        match is_busy {
            Ok(false) => {}
            Ok(true) => {
                log::warn!(
                    "the write-ahead log stays: another process reads or writes the database"
                );
            }
            Err(error) => {
                log::error!(
                    error:% = error;
                    "the write-ahead log stays: it cannot be moved into the database"
                );
            }
        }
    }
}

/// Why a commit failed, for /health/ready and its readers: the log has SQLite's own words.
fn reason(error: &rusqlite::Error) -> &'static str {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "the disk is full",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another process holds the lock of the database"
        }
        Some(ErrorCode::SystemIoFailure) => "the disk failed",
        _ => "the database cannot be written",
    }
}

fn reason_of_file(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "the disk is full",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "the database cannot be written"
        }
        _ => "the disk failed",
    }
}

/// A write that failed for want of space. SQLite reports a quota that is used up as any failed
/// write.
fn is_disk_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| {
        error.code == ErrorCode::DiskFull || error.extended_code == ffi::SQLITE_IOERR_WRITE
    })
}

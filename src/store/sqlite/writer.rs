//! The one connection that writes.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{self, Duration},
};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior, ffi, params};
use rustix::fs::{Mode, OFlags};

use super::{
    CHECKPOINT_PAGES, Entry, Identity, LOG_END, Outcome, READ_ONLY, Stored, beside, cannot_open,
    configure, counts, epochs,
    erase::{self, Erased},
    is_on_read_only, open, packs, schema, wal,
};
use crate::{error::Error, logging, message::Message, timestamp::Timestamp};

/// Pages that the writer keeps: an insert touches three indexes in random places.
const CACHE_KIB: u32 = 8_000;

/// How long a writer that could not begin waits before it tries again.
const BEGIN_AGAIN: Duration = Duration::from_secs(1);
/// How often a full disk makes it try to use the log from its start.
const FREE_PAUSE: Duration = Duration::from_secs(1);
/// How often a patient writer tries to take another process's lock, and how many times. SQLite's own
/// waiting grows to a tenth of a second between two tries, which rarely hits one of the short moments
/// at which a busy service does not hold it.
const TRY_EVERY: Duration = Duration::from_millis(1);
const TRIES: i32 = 60_000;

#[derive(Debug)]
pub(crate) struct Writer {
    pub(super) connection: Connection,
    identity: Identity,
    /// The path of the write-ahead log.
    log: PathBuf,
    beginning: Beginning,
    /// When the disk was last full and [`Writer::free_log`] was called.
    freed: Option<time::Instant>,
    /// SQLite's number that changes with each commit of another connection.
    data_version: Option<i64>,
}

/// Whether [`Writer::begin`] has succeeded. Before that nothing is stored.
#[derive(Debug)]
enum Beginning {
    Done,
    Failed { at: time::Instant, reason: &'static str },
}

impl Writer {
    /// Opens the database, or creates it and its folder, brings its schema up to date, and begins.
    /// Where the disk does not let it begin yet, that is tried again with each commit, at most once a
    /// second: [`Writer::not_begun`].
    ///
    /// # Errors
    /// A sentence that tells the operator what to do.
    pub(crate) fn open(path: &Path) -> Result<Writer, String> {
        let named = |problem: String| format!("database {}: {problem}", path.display());
        if let Some(folder) = path.parent() {
            create_folder(folder)
                .map_err(|error| named(format!("its folder cannot be created: {error}")))?;
        }
        let sentence = |error: rusqlite::Error| named(cannot_open(path, &error));
        let mut connection = open(path).map_err(sentence)?;
        schema::check(&connection).map_err(named)?;
        // SQLite opens such a file without a word.
        if connection.is_readonly("main").map_err(sentence)? {
            let is_on_read_only = is_on_read_only(path);
            let why = "it cannot be written: check its permissions";
            return Err(named(if is_on_read_only { READ_ONLY } else { why }.to_owned()));
        }
        configure(&connection, CACHE_KIB).map_err(sentence)?;
        // No checkpoint before the log is on disk (wal.rs).
        connection.pragma_update(None, "wal_autocheckpoint", 0).map_err(sentence)?;
        schema::migrate(&mut connection).map_err(named)?;
        // SQLite has followed symbolic links as this does.
        let file = fs::canonicalize(path)
            .map_err(|error| named(format!("its path cannot be followed: {error}")))?;
        let identity = Identity::of(path, &file);
        let beginning = Beginning::Failed { at: time::Instant::now(), reason: "" };
        let mut writer = Writer {
            connection,
            identity,
            log: beside(&file, LOG_END),
            beginning,
            freed: None,
            data_version: None,
        };
        writer.begin();
        Ok(writer)
    }

    /// Why nothing can be stored yet, if that is so.
    pub(crate) fn not_begun(&self) -> Option<&'static str> {
        match self.beginning {
            Beginning::Done => None,
            Beginning::Failed { reason, .. } => Some(reason),
        }
    }

    /// Makes durable what an earlier process may have left in the kernel's page cache only (wal.rs),
    /// and proves by a commit of its own, which begins an epoch of cursors, that the disk takes one.
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
        self.beginning = match run() {
            Ok(()) => Beginning::Done,
            Err((error, reason)) => {
                log::error!(error, reason; "the database cannot take a commit: nothing is stored until it can");
                Beginning::Failed { at: time::Instant::now(), reason }
            }
        };
        // SQLite finds the disk full only once the log is on disk, so a checkpoint does no harm.
        if is_full {
            self.free_log();
        }
    }

    /// The same, for a process that writes beside the service: it waits longer for the lock, and tries
    /// more often.
    pub(crate) fn patient(mut self) -> Writer {
        let handler = |tries: i32| {
            thread::sleep(TRY_EVERY);
            tries < TRIES
        };
        // SQLite refuses no handler.
        let _ = self.connection.busy_handler(Some(handler));
        self
    }

    /// Whether anybody else has committed since this was last asked. What cannot be read has not
    /// changed: the next commit says what is wrong.
    pub(crate) fn others_committed(&mut self) -> bool {
        let version = self.connection.prepare_cached("PRAGMA data_version");
        let version = version.and_then(|mut version| version.query_row((), |row| row.get(0)));
        let Ok(version) = version else { return false };
        let before = self.data_version.replace(version);
        before != Some(version)
    }

    /// Makes a batch durable in one transaction, and says for each entry what became of it.
    pub(crate) fn commit<'a>(
        &mut self,
        batch: impl Iterator<Item = &'a Entry> + Clone,
    ) -> Vec<Outcome> {
        let length = batch.clone().count();
        if let Some(path) = self.identity.missing() {
            log::error!(target: logging::ERRORS, path:% = path.display(); "the database file was removed or replaced: restart mailslot");
            return vec![
                Err(Error::Unavailable("the database file was removed or replaced"));
                length
            ];
        }
        if let Beginning::Failed { at, .. } = self.beginning
            && at.elapsed() >= BEGIN_AGAIN
        {
            self.begin();
        }
        if let Some(reason) = self.not_begun() {
            return vec![Err(Error::Unavailable(reason)); length];
        }
        self.insert_all(batch).unwrap_or_else(|error| {
            if is_disk_full(&error) {
                self.free_log();
            }
            vec![Err(Error::from(error)); length]
        })
    }

    /// Moves into the database what the log holds, without waiting for its readers, so that the next
    /// commit overwrites the log from its start and needs no more space. It fails where the database
    /// has to grow for that, and changes nothing then.
    fn free_log(&mut self) {
        if self.freed.is_none_or(|freed| freed.elapsed() >= FREE_PAUSE) {
            self.freed = Some(time::Instant::now());
            let _ = self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", (), |_| Ok(()));
        }
    }

    fn insert_all<'a>(
        &mut self,
        batch: impl Iterator<Item = &'a Entry> + Clone,
    ) -> rusqlite::Result<Vec<Outcome>> {
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // A newer mailslot has brought it up to date beside this one, and counts in another way.
        if schema::version(&transaction)? != schema::VERSION {
            let problem = Error::Unavailable("the database has another schema");
            return Ok(vec![Err(problem); batch.count()]);
        }
        // First, since what is inserted here is counted whatever becomes of it in this transaction.
        for entry in batch.clone() {
            if let Entry::Expire(before) = entry {
                erase::expire(&transaction, *before)?;
            }
        }
        let mut outcomes = Vec::new();
        let mut created = Vec::new();
        let now = logging::now();
        let (last_id, erased): (i64, i64) = transaction
            .prepare_cached("SELECT last_id, erased FROM totals")?
            .query_row((), |row| Ok((row.get(0)?, row.get(1)?)))?;
        // Only where somebody was erased is everybody asked whether it was them.
        let erased = if erased > 0 { Some(Erased::open(&transaction)?) } else { None };
        let foreign = counts::uncounted(&transaction, last_id)?;
        let mut next_id = foreign.last().map_or(last_id, |(id, _)| *id) + 1;
        created.extend(foreign.iter().map(|(_, message)| message));
        for entry in batch {
            outcomes.push(match entry {
                Entry::Message(message) => {
                    if let Some(erased) = &erased
                        && erased.has(&transaction, &message.message_id)?
                    {
                        outcomes.push(Ok(Stored::Duplicate));
                        continue;
                    }
                    let outcome = insert(&transaction, next_id, message, &now)?;
                    if outcome == Ok(Stored::Created) {
                        created.push(message);
                        next_id += 1;
                    }
                    outcome
                }
                Entry::Pack(pack) => packs::store(&transaction, pack).map(|()| Ok(Stored::Done))?,
                Entry::Expire(_) => Ok(Stored::Done),
                Entry::Probe => {
                    // Writes a page though nothing changes, so that the commit is a real one.
                    transaction.pragma_update(None, "user_version", schema::VERSION)?;
                    Ok(Stored::Done)
                }
            });
        }
        if !created.is_empty() {
            counts::add(&transaction, &mut created, next_id - 1)?;
            if last_id / packs::BLOCK_MESSAGES != (next_id - 1) / packs::BLOCK_MESSAGES {
                packs::register(&transaction)?;
                counts::prune(&transaction)?;
            }
        }
        transaction.commit()?;
        Ok(outcomes)
    }

    /// Moves all of the write-ahead log into the database, which is then one file. Where that fails
    /// nothing is lost: the log stays, and the next start reads it.
    pub(crate) fn checkpoint(&self) {
        // Emptying the log would lose what other processes have committed to it by another index.
        if self.identity.has_other_index() {
            log::warn!("the write-ahead log stays: its -shm file was removed or replaced");
            return;
        }
        // Parts of it may be in the page cache only: see wal.rs for what a power cut would make of it.
        if self.not_begun().is_some() {
            log::warn!(
                "the write-ahead log stays: the database has not taken a commit since the start"
            );
            return;
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
                log::error!(error:% = error; "the write-ahead log stays: it cannot be moved into the database");
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

/// A write that failed for want of space. SQLite reports a quota that is used up as any failed write.
fn is_disk_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| {
        error.code == ErrorCode::DiskFull || error.extended_code == ffi::SQLITE_IOERR_WRITE
    })
}

/// Creates a folder, and those above it, and makes each one's entry in its parent durable: a power cut
/// must not take away the folder of a database in which messages were acknowledged.
fn create_folder(folder: &Path) -> io::Result<()> {
    let parent = folder.parent().unwrap_or(folder);
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    create_folder(parent)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !folder.is_dir() => {
            return Err(error);
        }
        _ => {}
    }
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    // Never the database, since it must be a folder.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent: fs::File = rustix::fs::open(parent, flags, Mode::empty())?.into();
    // The next start must not find it as if it were durable.
    parent.sync_all().inspect_err(|_| drop(fs::remove_dir(folder)))
}

/// # Errors
/// What concerns the transaction, and so everybody in it. A constraint that one row violates undoes
/// that row's statement alone.
fn insert(
    transaction: &Transaction<'_>,
    id: i64,
    message: &Message,
    now: &str,
) -> rusqlite::Result<Outcome> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO messages
             (id, message_id, from_msisdn, to_msisdn, ts, ts_s, ts_ns, text, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
         ON CONFLICT (message_id) DO NOTHING",
    )?;
    let Message { message_id, from, to, ts, text, timestamp } = message;
    let Timestamp { seconds, nanoseconds } = timestamp;
    let row = params![id, message_id, from, to, ts, seconds, nanoseconds, text, now];
    match statement.execute(row) {
        Ok(1) => Ok(Ok(Stored::Created)),
        Ok(_) => Ok(Ok(Stored::Duplicate)),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
            Ok(Err(Error::from(error)))
        }
        Err(error) => Err(error),
    }
}

//! What a command writes: stdout, files that have their names only when they are complete,
//! progress.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{fs::OFlags, process::geteuid};

use super::outcome::{Failure, Outcome};
use crate::store::{beside, device_and_inode, folder_of};

/// No other user may read messages.
const MODE: u32 = 0o600;
/// The endings of the names of the files that belong to a database of SQLite.
const DATABASE_ENDS: [&str; 3] = ["-wal", "-shm", "-journal"];
/// How often progress is shown.
const PROGRESS: Duration = Duration::from_secs(1);

/// Writes to stdout.
pub(super) fn print(text: &str) -> Outcome {
    written(io::stdout().write_all(text.as_bytes()))
}

pub(super) fn written(result: io::Result<()>) -> Outcome {
    result.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => Failure::failed(format!("the output cannot be written: {error}")),
    })
}

/// A file that is named `NAME.part` until it is complete. Dropped before, it is removed.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) file: File,
    pub(super) path: PathBuf,
    name: PathBuf,
    is_complete: bool,
}

impl Part {
    /// Creates the file, for this user only.
    ///
    /// # Errors
    /// What is wrong, also where the name is the database's own.
    pub(super) fn create(name: &Path, database: Option<&Path>) -> Result<Part, String> {
        let named = |problem: &str| format!("{}: {problem}", name.display());
        check_name(name, database).map_err(named)?;
        let path = beside(name, ".part");
        let file = open_part(&path, database)
            .map_err(|problem| format!("{}: {problem}", path.display()))?;
        // A process that was earlier may have renamed the file since it was opened.
        let is_ours = file.try_lock().is_ok()
            && file
                .metadata()
                .is_ok_and(|file| Some((file.dev(), file.ino())) == device_and_inode(&path));
        if !is_ours {
            return Err(named("another mailslot is writing this file: wait until it has ended"));
        }
        file.set_len(0).map_err(|error| named(&error.to_string()))?;
        Ok(Part { file, path, name: name.to_owned(), is_complete: false })
    }

    /// Syncs the file to disk, then gives it its name.
    ///
    /// # Errors
    /// What is wrong.
    pub(super) fn finish(mut self) -> Result<(), String> {
        let keep = || {
            self.file.sync_all()?;
            fs::rename(&self.path, &self.name)?;
            File::open(folder_of(&self.name))?.sync_all()
        };
        keep().map_err(|error: io::Error| format!("{}: {error}", self.name.display()))?;
        self.is_complete = true;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.is_complete {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Refuses names with which the file would replace a database, or a file that a database needs.
fn check_name(name: &Path, database: Option<&Path>) -> Result<(), &'static str> {
    if name == "-" {
        return Err(
            "a file is needed: name it; mailslot export writes to standard output without --output",
        );
    }
    if device_and_inode(name).is_some_and(|file| Some(file) == database.and_then(device_and_inode))
    {
        return Err("that is the database itself: name another file");
    }
    if name.is_dir() {
        return Err("that is a folder: name a file in it");
    }
    let bytes = name.as_os_str().as_bytes();
    if DATABASE_ENDS.iter().any(|end| bytes.ends_with(end.as_bytes())) {
        return Err(
            "SQLite gives names that end in -wal, -shm or -journal to the files of a database: \
             name another file",
        );
    }
    if DATABASE_ENDS.iter().any(|end| beside(name, end).exists()) {
        return Err("that is a database in use: name another file");
    }
    Ok(())
}

/// Opens the file for writing, or creates it. An existing one is accepted only if an earlier run
/// can have left it: another user may have made a link or a file of theirs to get the messages.
fn open_part(path: &Path, database: Option<&Path>) -> Result<File, String> {
    // The file is not even opened, since closing it again would drop SQLite's locks.
    if device_and_inode(path).is_some_and(|file| Some(file) == database.and_then(device_and_inode))
    {
        return Err("that is the database itself: name another file".to_owned());
    }
    // Opening a pipe must not wait for its other end.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = flags.bits().cast_signed();
    let foreign = "the file exists, and mailslot has not made it: remove it, or name another file";
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(MODE).custom_flags(flags);
    let file = options.open(path).map_err(|error| {
        let is_foreign = fs::symlink_metadata(path).is_ok_and(|file| !file.is_file());
        if is_foreign { foreign.to_owned() } else { error.to_string() }
    })?;
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    let is_ours = metadata.is_file()
        && metadata.uid() == geteuid().as_raw()
        && metadata.nlink() == 1
        && metadata.mode() & 0o7777 == MODE;
    if is_ours { Ok(file) } else { Err(foreign.to_owned()) }
}

/// A line on the terminal, updated once a second. Nothing is shown where stderr is no terminal.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) started: Instant,
    shown: Option<Instant>,
    is_visible: bool,
}

impl Progress {
    /// Not visible if messages are written to the same terminal.
    pub(super) fn beside(output: &impl IsTerminal) -> Progress {
        let mut progress = Progress::start();
        progress.is_visible &= !output.is_terminal();
        progress
    }

    pub(super) fn start() -> Progress {
        Progress { started: Instant::now(), shown: None, is_visible: io::stderr().is_terminal() }
    }

    pub(super) fn show(&mut self, text: impl FnOnce() -> String) {
        if self.is_visible && self.shown.unwrap_or(self.started).elapsed() >= PROGRESS {
            let _ = write!(io::stderr(), "\r\x1b[K{}", text());
            self.shown = Some(Instant::now());
        }
    }

    /// Writes a line that stays, also where stderr is no terminal.
    pub(super) fn line(&self, text: &str) {
        let clear = if self.shown.is_some() { "\r\x1b[K" } else { "" };
        let _ = writeln!(io::stderr(), "{clear}{text}");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// A size for people.
pub(super) fn size(bytes: u64) -> String {
    let (mut unit, mut whole) = ("bytes", bytes);
    for larger in ["kB", "MB", "GB", "TB"] {
        if whole < 10_000 {
            break;
        }
        (unit, whole) = (larger, whole / 1_000);
    }
    format!("{whole} {unit}")
}

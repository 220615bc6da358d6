//! What a verb leaves behind: a file that has its name only when it is whole, and how far it has come.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::store::device_and_inode;

/// Messages are nobody else's business.
const MODE: u32 = 0o600;
/// How often progress is told.
const PROGRESS: Duration = Duration::from_secs(1);

/// `NAME.part` until it is whole. Dropped before, it is gone.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) file: File,
    pub(super) path: PathBuf,
    name: PathBuf,
    is_whole: bool,
}

impl Part {
    /// Empty, and nobody else's.
    ///
    /// # Errors
    /// A sentence for the operator, also where the name is the database's own.
    pub(super) fn create(name: &Path, database: &Path) -> Result<Part, String> {
        let named = |problem: &str| format!("{}: {problem}", name.display());
        if device_and_inode(name).is_some_and(|file| Some(file) == device_and_inode(database)) {
            return Err(named("that is the database itself: name another file"));
        }
        if name.is_dir() {
            return Err(named("that is a folder: name a file in it"));
        }
        for log in ["-wal", "-journal"] {
            if with_end(name, log).exists() {
                return Err(named("that is a database in use: name another file"));
            }
        }
        let path = with_end(name, ".part");
        let opened =
            OpenOptions::new().write(true).create(true).truncate(false).mode(MODE).open(&path);
        let file = opened.map_err(|error| format!("{}: {error}", path.display()))?;
        // Who was there first may have given the file its name by now.
        let is_ours = file.try_lock().is_ok()
            && file
                .metadata()
                .is_ok_and(|file| Some((file.dev(), file.ino())) == device_and_inode(&path));
        if !is_ours {
            return Err(named("another mailslot is writing it: wait for its end"));
        }
        file.set_len(0).map_err(|error| named(&error.to_string()))?;
        Ok(Part { file, path, name: name.to_owned(), is_whole: false })
    }

    /// On disk first, then by its name.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub(super) fn finish(mut self) -> Result<(), String> {
        let keep = || {
            self.file.sync_all()?;
            fs::rename(&self.path, &self.name)?;
            let folder = self.name.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        };
        keep().map_err(|error: io::Error| format!("{}: {error}", self.name.display()))?;
        self.is_whole = true;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.is_whole {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}

/// A line on the terminal, written over once a second. Elsewhere nothing is told.
#[derive(Debug)]
pub(super) struct Progress {
    started: Instant,
    told: Option<Instant>,
    is_seen: bool,
}

impl Progress {
    /// Not among messages that are shown on the same terminal.
    pub(super) fn beside(output: &impl IsTerminal) -> Progress {
        let mut progress = Progress::start();
        progress.is_seen &= !output.is_terminal();
        progress
    }

    pub(super) fn start() -> Progress {
        Progress { started: Instant::now(), told: None, is_seen: io::stderr().is_terminal() }
    }

    pub(super) fn tell(&mut self, text: impl FnOnce() -> String) {
        if self.is_seen && self.told.unwrap_or(self.started).elapsed() >= PROGRESS {
            let _ = write!(io::stderr(), "\r\x1b[K{}", text());
            self.told = Some(Instant::now());
        }
    }

    /// Writes a line that stays, to whatever stderr is.
    pub(super) fn line(&self, text: &str) {
        let clear = if self.told.is_some() { "\r\x1b[K" } else { "" };
        let _ = writeln!(io::stderr(), "{clear}{text}");
    }

    pub(super) fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.told.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// As people say it.
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

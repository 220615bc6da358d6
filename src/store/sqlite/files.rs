//! The files of a database: its own, the write-ahead log (-wal) and SQLite's index of the log
//! (-shm).

use std::{
    fs, io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

/// How the names of the write-ahead log and of its index end.
pub(super) const LOG_END: &str = "-wal";
const INDEX_END: &str = "-shm";

/// Which files are open, so that deleted or replaced ones are noticed: SQLite would go on writing
/// to the old ones, and the next start would not find what was acknowledged. Only their metadata is
/// read: opening and closing one of them would drop SQLite's locks on it.
#[derive(Debug)]
pub(super) struct Identity(Vec<(PathBuf, Option<(u64, u64)>)>);

impl Identity {
    /// Of the database, its index of the log and its log, which all exist as long as it is open.
    /// SQLite follows symbolic links, so the last two stand beside `file`, where a link ends. The
    /// path as it was given is watched too, since the next start follows it again.
    pub(super) fn of(given: &Path, file: &Path) -> Identity {
        let paths = [given, file, &beside(file, INDEX_END), &beside(file, LOG_END)];
        Identity(paths.map(|path| (path.to_owned(), device_and_inode(path))).into())
    }

    /// Whether other processes coordinate through another index than this one: nothing that this
    /// process knows of the log is certain then.
    pub(super) fn has_other_index(&self) -> bool {
        let is_index = |path: &Path| path.as_os_str().as_bytes().ends_with(INDEX_END.as_bytes());
        self.changed().any(is_index)
    }

    /// A path that no longer leads to the file that is open.
    pub(super) fn missing(&self) -> Option<&Path> {
        self.changed().next()
    }

    fn changed(&self) -> impl Iterator<Item = &Path> {
        let changed = self.0.iter().filter(|(path, file)| device_and_inode(path) != *file);
        changed.map(|(path, _)| path.as_path())
    }
}

/// The folder of a file.
pub(crate) fn folder_of(file: &Path) -> &Path {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

/// A file that belongs to a database, or to another one that is being written.
pub(crate) fn beside(database: &Path, end: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}

/// Which file a path leads to now.
pub(crate) fn device_and_inode(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok()
}

/// Creates a folder, and those above it, and makes each one's entry in its parent durable: a power
/// cut must not take away the folder of a database in which messages were acknowledged.
pub(super) fn create_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = folder_of(folder);
    create_folder(parent)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !folder.is_dir() => {
            return Err(error);
        }
        _ => {}
    }
    // Never the database, since it must be a folder.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent: fs::File = rustix::fs::open(parent, flags, Mode::empty())?.into();
    // The next start must not find it as if it were durable.
    parent.sync_all().inspect_err(|_| drop(fs::remove_dir(folder)))
}

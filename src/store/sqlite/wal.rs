//! The write-ahead log as a file: writing it again, so that all of it is on disk.
//!
//! SQLite's recovery takes every commit that it finds whole in the log. Whole means in the kernel's
//! page cache, which is not the disk: a process may have been killed between writing a commit and
//! its fsync, or the fsync may have failed, after which Linux keeps the pages as clean ones that no
//! later fsync writes. Commits that follow would stand behind a gap on the disk, and after a power
//! cut recovery would end at the gap. Writing the same bytes again makes the pages dirty, and the
//! fsync behind it puts all of them on the disk.
//!
//! A checkpoint does not do that: it puts the pages into the database, but as long as the broken
//! log is on the disk, a power failure has recovery lay the log's older pages over the newer ones.
//!
//! The log may be opened and closed beside SQLite, which holds no lock on it: its locks are on the
//! database and on `-shm`.

use std::{
    fs::OpenOptions,
    io::{self, ErrorKind, Read},
    os::unix::fs::FileExt,
    path::Path,
};

/// Bytes that are read and written at a time.
const CHUNK_BYTES: u64 = 1024 * 1024;

/// Writes every byte of the log again, in its place, and waits until all of them are on disk.
///
/// The caller holds SQLite's write lock (`BEGIN IMMEDIATE`), so that no other process writes to
/// the log.
pub(super) fn rewrite(log: &Path) -> io::Result<()> {
    let file = match OpenOptions::new().read(true).write(true).open(log) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let (mut chunk, mut at) = (Vec::new(), 0);
    loop {
        chunk.clear();
        let length = (&file).take(CHUNK_BYTES).read_to_end(&mut chunk)?;
        if length == 0 {
            return file.sync_all();
        }
        // This leaves the position for reading where it is.
        file.write_all_at(&chunk, at)?;
        at += length as u64;
    }
}

//! A copy of the database beside the running service: one file, of one moment, checked.
//!
//! A read transaction holds the moment, so that commits do not make the copy start again. Meanwhile
//! the write-ahead log grows with what is delivered; afterwards it is used again from its start.

use std::{path::Path, thread, time::Duration};

use rusqlite::{
    Connection, OpenFlags,
    backup::{Backup, StepResult},
};

use super::{connection, schema};

/// Steps are short, with a pause behind each, so that the service's commits get the disk.
const STEP_PAGES: i32 = 256;
const PAUSE: Duration = Duration::from_millis(2);
/// What PRAGMA integrity_check gives for a sound file.
const SOUND: &str = "ok";

pub(crate) fn backup(
    database: &Path,
    file: &Path,
    progress: &mut dyn FnMut(i32, i32),
) -> Result<(), String> {
    let source = schema::open_read_only(database)?;
    let sentence = |error| format!("the copy failed: {}", connection::sentence(error));
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut copy = Connection::open_with_flags(file, flags).map_err(sentence)?;
    run(&source, &mut copy, progress).map_err(sentence)?;
    let found: String =
        copy.query_row("PRAGMA integrity_check(1)", (), |row| row.get(0)).map_err(sentence)?;
    if found == SOUND {
        Ok(())
    } else {
        Err(format!("the copy is damaged ({found}): run mailslot check --full"))
    }
}

fn run(
    source: &Connection,
    copy: &mut Connection,
    progress: &mut dyn FnMut(i32, i32),
) -> rusqlite::Result<()> {
    // The caller makes it durable once it is whole.
    copy.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")?;
    source.execute_batch("BEGIN; SELECT last_id FROM totals")?;
    let backup = Backup::new(source, copy)?;
    while backup.step(STEP_PAGES)? != StepResult::Done {
        let state = backup.progress();
        progress(state.remaining, state.pagecount);
        thread::sleep(PAUSE);
    }
    drop(backup);
    source.execute_batch("COMMIT")?;
    // The original's mode came along, and would have two more files beside it.
    copy.execute_batch("PRAGMA journal_mode = DELETE")
}

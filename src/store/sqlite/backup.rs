//! A copy of the database beside the running service: one file, of one moment, checked.
//!
//! A read transaction holds the moment, so that commits do not make the copy begin anew. Meanwhile the
//! write-ahead log grows with what is delivered; afterwards it is used again from its start.

use std::{path::Path, thread, time::Duration};

use rusqlite::{
    Connection, OpenFlags,
    backup::{Backup, StepResult},
};

use super::{schema, visit};

/// A step and the pause behind it leave the disk to the service's commits.
const STEP_PAGES: i32 = 256;
const PAUSE: Duration = Duration::from_millis(2);
/// What SQLite says first when there is something to say.
const WHOLE: &str = "ok";

/// Copies the database into an empty file, and reads the copy through. `progress` hears of the pages
/// that are left, and of all.
///
/// # Errors
/// A sentence for the operator; the file is then worth nothing.
pub(crate) fn copy(
    database: &Path,
    file: &Path,
    progress: &mut dyn FnMut(i32, i32),
) -> Result<(), String> {
    let source = visit::connect(database)?;
    let sentence =
        |error: rusqlite::Error| format!("the copy failed: {}", schema::sentence(&error));
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut copy = Connection::open_with_flags(file, flags).map_err(sentence)?;
    run(&source, &mut copy, progress).map_err(sentence)?;
    let found: String =
        copy.query_row("PRAGMA integrity_check(1)", (), |row| row.get(0)).map_err(sentence)?;
    if found == WHOLE {
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

//! Opening the database beside the service, to read it: nothing is created, migrated or changed.

use std::{path::Path, sync::Arc};

use rusqlite::Connection;

use super::{Reader, Searches, cannot_open, open, schema};

/// A reader for one who comes and goes.
///
/// # Errors
/// A sentence for the operator.
pub(crate) fn visit(database: &Path) -> Result<Reader, String> {
    Ok(Reader { connection: connect(database)?, searches: Arc::new(Searches::alone(1)) })
}

pub(super) fn connect(database: &Path) -> Result<Connection, String> {
    let named = |problem: String| format!("database {}: {problem}", database.display());
    // SQLite would create it.
    if !database.exists() {
        return Err(named("it is not there: set DATABASE_URL as the service has it".to_owned()));
    }
    let sentence = |error: rusqlite::Error| named(cannot_open(database, &error));
    let connection = open(database).map_err(sentence)?;
    schema::check(&connection).map_err(named)?;
    let (version, known) = (schema::version(&connection).map_err(sentence)?, schema::VERSION);
    if version != known {
        return Err(named(format!(
            "its schema has version {version} and this mailslot's is {known}: start the service with this mailslot once, and it is brought up to date"
        )));
    }
    connection
        .execute_batch("PRAGMA temp_store = MEMORY; PRAGMA mmap_size = 0; PRAGMA query_only = ON")
        .map_err(sentence)?;
    Ok(connection)
}

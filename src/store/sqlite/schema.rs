//! The schema: its SQL, its version (`PRAGMA user_version`), and which program a file belongs to.

use std::path::Path;

use rusqlite::Connection;

use super::connection::{cannot_open, forbid_writing, open, sentence};

/// The version that this program reads and writes.
pub(super) const VERSION: u32 = 8;
/// The oldest version that is brought up to date (migrate.rs).
const VERSION_OLDEST: u32 = 5;

/// A new database, without what [`DERIVED`] adds.
pub(super) const TABLES: &str = include_str!("schema/tables.sql");
/// Indexes and triggers that every migration replaces.
pub(super) const DERIVED: &str = include_str!("schema/derived.sql");
/// `MIGRATIONS[n]` leads from version [`VERSION_OLDEST`] + n to the next one. The one to the newest
/// version drops what [`DERIVED`] creates.
pub(super) const MIGRATIONS: [&str; (VERSION - VERSION_OLDEST) as usize] = [
    include_str!("schema/from_5.sql"),
    include_str!("schema/from_6.sql"),
    include_str!("schema/from_7.sql"),
];

/// "MSLT": how the file shows that it is mailslot's.
const APPLICATION_ID: i64 = 0x4d53_4c54;

/// The columns of `messages` as the FastAPI implementation creates it from which mailslot was
/// designed. Such a file is migrated ([`Found::Seed`]).
const SEED_COLUMNS: [&str; 6] =
    ["created_at", "from_msisdn", "message_id", "text", "to_msisdn", "ts"];

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Found {
    Empty,
    Seed,
    Ours { version: u32 },
}

impl Found {
    /// The migrations that lead from this version to the newest one.
    pub(super) fn migrations(self) -> &'static [&'static str] {
        match self {
            Found::Ours { version } => {
                &MIGRATIONS
                    [(version.saturating_sub(VERSION_OLDEST) as usize).min(MIGRATIONS.len())..]
            }
            Found::Empty | Found::Seed => &[],
        }
    }
}

pub(super) fn version(connection: &Connection) -> rusqlite::Result<u32> {
    connection.prepare_cached("PRAGMA user_version")?.query_row((), |row| row.get(0))
}

/// What the file is, before anything is written to it.
///
/// # Errors
/// A sentence for the operator, where it is not mailslot's to write.
pub(super) fn find(connection: &Connection) -> Result<Found, String> {
    let version = version(connection).map_err(sentence)?;
    let application: i64 =
        connection.query_row("PRAGMA application_id", (), |row| row.get(0)).map_err(sentence)?;
    if application == APPLICATION_ID {
        return match version {
            VERSION_OLDEST..=VERSION => Ok(Found::Ours { version }),
            newer if newer > VERSION => Err(format!(
                "its schema has version {version} and this mailslot knows {VERSION}: run the \
                 mailslot that wrote it, or a newer one"
            )),
            _ => Err(format!(
                "its schema has version {version}, and this mailslot brings \
                 {VERSION_OLDEST} and later ones up to date: export it with the mailslot that \
                 wrote it, and import that into a new database"
            )),
        };
    }
    let tables = names(
        connection,
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT GLOB 'sqlite_*'",
    )?;
    let columns =
        names(connection, "SELECT name FROM pragma_table_info('messages') ORDER BY name")?;
    match (application, version, &*tables) {
        (0, 0, []) => Ok(Found::Empty),
        (0, 0, [table]) if table == "messages" && columns == SEED_COLUMNS => Ok(Found::Seed),
        _ => {
            Err("it is a SQLite database of another program: give mailslot a file of its own"
                .into())
        }
    }
}

fn names(connection: &Connection, sql: &str) -> Result<Vec<String>, String> {
    let names = || -> rusqlite::Result<_> {
        connection.prepare(sql)?.query_map((), |row| row.get(0))?.collect()
    };
    names().map_err(sentence)
}

/// Opens a database beside the service: nothing is created, migrated or changed.
///
/// # Errors
/// A sentence for the operator.
pub(super) fn open_read_only(database: &Path) -> Result<Connection, String> {
    let named = |problem: String| format!("database {}: {problem}", database.display());
    // SQLite would create it.
    if !database.exists() {
        return Err(named("it is not there: set DATABASE_URL as the service has it".to_owned()));
    }
    let sentence = |error: rusqlite::Error| named(cannot_open(database, error));
    let connection = open(database).map_err(sentence)?;
    forbid_writing(&connection).map_err(sentence)?;
    find(&connection).map_err(named)?;
    let version = version(&connection).map_err(sentence)?;
    if version != VERSION {
        return Err(named(format!(
            "its schema has version {version} and this mailslot's is {VERSION}: start the \
             service with this mailslot once, and it is brought up to date"
        )));
    }
    connection
        .execute_batch("PRAGMA temp_store = MEMORY; PRAGMA mmap_size = 0")
        .map_err(sentence)?;
    Ok(connection)
}

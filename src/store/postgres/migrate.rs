//! Creating the schema, and bringing it to the newest version, in one transaction, while other
//! nodes may do the same.

use std::time::Duration;

use super::{connection::Connection, failure::Failure, values::Statement};

/// The version that this program creates.
pub(super) const VERSION: i64 = 1;
const TABLES: &str = include_str!("schema/tables.sql");
const SEARCH_INDEX: &str = include_str!("schema/search.sql");
/// The entry at n leads from version n + 1 to the next one. It sets `version` in the sequencer, and
/// `writable_from` only where the programs of earlier versions would store something wrong.
/// Otherwise these go on beside this one, so that nodes can be replaced one by one.
const MIGRATIONS: &[&str] = &[];

/// How long a migration may take.
const MIGRATION_TIMEOUT: Duration = Duration::from_hours(1);

/// Creates the schema if there is none. An older one is migrated if `is_service`.
///
/// # Errors
/// A sentence for the operator, where this program must not write to it. Nothing is changed then.
pub(super) fn migrate(connection: &mut Connection, is_service: bool) -> Result<(), Failure> {
    // Two nodes that create the schema at once would both fail. One that stands still meanwhile
    // would hold up the start of every other one.
    let begin = [
        "BEGIN",
        "SELECT set_config('idle_in_transaction_session_timeout', '10s', true)",
        "SELECT pg_advisory_xact_lock(5570192358041321472)",
    ];
    connection.run_in_order(&begin.map(Statement::plain))?;
    match find(connection)? {
        None => {
            // CREATE SCHEMA IF NOT EXISTS needs the right to create one even where it is there.
            let has_schema = "SELECT to_regnamespace('mailslot') IS NOT NULL";
            if !connection.ask(has_schema)?.one()?.boolean(0)? {
                connection.ask("CREATE SCHEMA mailslot")?;
            }
            connection.run_script(TABLES, MIGRATION_TIMEOUT)?;
            connection.run_script(SEARCH_INDEX, MIGRATION_TIMEOUT)?;
        }
        Some((version, writable_from)) if writable_from > VERSION => {
            return Err(Failure::Settings(format!(
                "its schema has version {version}, which a newer mailslot has written, and this \
                 one knows {VERSION}: run the newer one"
            )));
        }
        Some((version, _)) if version < VERSION && !is_service => {
            return Err(Failure::Settings(format!(
                "its schema has version {version} and this mailslot's is {VERSION}: start the \
                 service with this mailslot once, and it is brought up to date"
            )));
        }
        Some((version, _)) => {
            let done = usize::try_from(version - 1).unwrap_or_default();
            for sql in MIGRATIONS.iter().skip(done) {
                connection.run_script(sql, MIGRATION_TIMEOUT)?;
            }
        }
    }
    connection.ask("COMMIT").map(drop)
}

/// Its version, and the oldest one whose program may still write; `None` where there are no tables.
fn find(connection: &mut Connection) -> Result<Option<(i64, i64)>, Failure> {
    let is_there = "SELECT to_regclass('mailslot.sequencer') IS NOT NULL";
    if !connection.ask(is_there)?.one()?.boolean(0)? {
        return Ok(None);
    }
    let answer = connection.ask("SELECT version, writable_from FROM mailslot.sequencer")?;
    let row = answer.one()?;
    Ok(Some((row.integer(0)?, row.integer(1)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_earlier_version_has_a_migration() {
        assert_eq!(i64::try_from(MIGRATIONS.len()), Ok(VERSION - 1));
        assert!(TABLES.contains(&format!("VALUES ({VERSION}, {VERSION}, '')")));
    }
}

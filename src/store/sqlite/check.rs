//! Whether the database is whole, and its counters are what counting finds.

use std::path::Path;

use rusqlite::{Connection, Row};

use super::{schema, visit};

/// Problems of its structure that are told.
const TOLD: i64 = 5;

/// What is counted, and what the counters say.
#[derive(Debug)]
pub(crate) struct Recount {
    pub(crate) counts: Vec<Count>,
    /// Senders whose own counter is wrong.
    pub(crate) wrong_senders: i64,
    /// `created_at` of the newest message.
    pub(crate) last_created_at: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Count {
    pub(crate) of: &'static str,
    pub(crate) counted: i64,
    pub(crate) kept: i64,
}

/// Looks through the file's structure, `is_full` with every index against its table. Gives what is
/// wrong with it.
///
/// # Errors
/// A sentence for the operator, where it cannot be read at all.
pub(crate) fn look_through(database: &Path, is_full: bool) -> Result<Vec<String>, String> {
    let connection = visit::connect(database)?;
    let pragma = if is_full { "integrity_check" } else { "quick_check" };
    let look = || -> rusqlite::Result<Vec<String>> {
        connection
            .prepare(&format!("PRAGMA {pragma}({TOLD})"))?
            .query_map((), |row| row.get(0))?
            .collect()
    };
    let mut found = look().map_err(|error| schema::sentence(&error))?;
    found.retain(|line| line != "ok");
    Ok(found)
}

/// Notices what other connections commit to this database.
#[derive(Debug)]
pub(crate) struct CommitWatch {
    connection: Connection,
    version: i64,
}

impl CommitWatch {
    /// # Errors
    /// A sentence for the operator.
    pub(crate) fn start(database: &Path) -> Result<CommitWatch, String> {
        let connection = visit::connect(database)?;
        let version = data_version(&connection).map_err(|error| schema::sentence(&error))?;
        Ok(CommitWatch { connection, version })
    }

    /// Whether anything was committed since.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub(crate) fn has_seen_one(&self) -> Result<bool, String> {
        let version = data_version(&self.connection);
        version.map(|now| now != self.version).map_err(|error| schema::sentence(&error))
    }
}

fn data_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA data_version", (), |row| row.get(0))
}

/// Counts everything, at one moment.
///
/// # Errors
/// A sentence for the operator.
pub(crate) fn recount(database: &Path) -> Result<Recount, String> {
    let mut connection = visit::connect(database)?;
    count(&mut connection).map_err(|error| schema::sentence(&error))
}

fn count(connection: &mut Connection) -> rusqlite::Result<Recount> {
    let transaction = connection.transaction()?;
    let pair = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    // What another program has inserted beyond `last_id` is counted by the next commit, and what it
    // has inserted below 1 never.
    let (counted, messages) = transaction.query_row(
        "SELECT (SELECT count(*) FROM messages WHERE id BETWEEN 1 AND last_id), messages FROM totals",
        (),
        pair,
    )?;
    let (distinct, senders) = transaction.query_row(
        "SELECT (SELECT count(DISTINCT from_msisdn) FROM messages WHERE id BETWEEN 1 AND last_id),
                senders FROM totals",
        (),
        pair,
    )?;
    let milestones = transaction.query_row(
        "SELECT count(*) FROM messages WHERE id BETWEEN 1 AND (SELECT counted_id FROM totals)",
        (),
        |row| row.get(0),
    )?;
    let level = |level: i64| {
        transaction.query_row(
            "SELECT coalesce(sum(n), 0) FROM milestones WHERE sender_id = 0 AND level = ?1",
            [level],
            |row| row.get(0),
        )
    };
    let wrong_senders = transaction.query_row(
        "WITH counted AS (
             SELECT from_msisdn, count(*) AS n, count(*) FILTER (WHERE messages.id <= counted_id) AS early
             FROM totals CROSS JOIN messages ON messages.id BETWEEN 1 AND last_id GROUP BY from_msisdn
         )
         SELECT count(*) FROM senders FULL JOIN counted ON from_msisdn = msisdn
         WHERE counted.n IS NOT senders.n OR is_heavy AND EXISTS (
             SELECT 1 FROM (VALUES (1), (2)) WHERE early <> (
                 SELECT coalesce(sum(n), 0) FROM milestones
                 WHERE sender_id = senders.id AND level = column1))",
        (),
        |row| row.get(0),
    )?;
    let last_created_at = transaction.query_row(
        "SELECT (SELECT created_at FROM messages WHERE id BETWEEN 1 AND last_id
                 ORDER BY id DESC LIMIT 1) FROM totals",
        (),
        |row| row.get(0),
    )?;
    let counts = vec![
        Count { of: "messages", counted, kept: messages },
        Count { of: "senders", counted: distinct, kept: senders },
        Count { of: "messages in milestones", counted: milestones, kept: level(1)? },
        Count {
            of: "messages in milestones of the second level",
            counted: milestones,
            kept: level(2)?,
        },
    ];
    Ok(Recount { counts, wrong_senders, last_created_at })
}

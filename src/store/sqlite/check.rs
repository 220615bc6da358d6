//! Whether the database's file is sound, and its counters are what counting finds.

use std::path::Path;

use rusqlite::{Connection, Row, Transaction};

use super::{connection::sentence, schema};
use crate::store::types::{Count, Recount};

/// Problems of the structure that are reported.
const REPORTED: i64 = 5;

pub(crate) fn check_structure(database: &Path, is_full: bool) -> Result<Vec<String>, String> {
    let connection = schema::open_read_only(database)?;
    let pragma = if is_full { "integrity_check" } else { "quick_check" };
    let check = || -> rusqlite::Result<Vec<String>> {
        connection
            .prepare(&format!("PRAGMA {pragma}({REPORTED})"))?
            .query_map((), |row| row.get(0))?
            .collect()
    };
    let mut found = check().map_err(sentence)?;
    found.retain(|line| line != "ok");
    Ok(found)
}

#[derive(Debug)]
pub(crate) struct CommitWatch {
    connection: Connection,
    version: i64,
}

impl CommitWatch {
    pub(crate) fn start(database: &Path) -> Result<CommitWatch, String> {
        let connection = schema::open_read_only(database)?;
        let version = data_version(&connection).map_err(sentence)?;
        Ok(CommitWatch { connection, version })
    }

    pub(crate) fn has_seen_one(&self) -> Result<bool, String> {
        let version = data_version(&self.connection);
        version.map(|now| now != self.version).map_err(sentence)
    }
}

fn data_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA data_version", (), |row| row.get(0))
}

pub(crate) fn recount(database: &Path) -> Result<Recount, String> {
    let mut connection = schema::open_read_only(database)?;
    count(&mut connection).map_err(sentence)
}

fn count(connection: &mut Connection) -> rusqlite::Result<Recount> {
    let transaction = connection.transaction()?;
    let pair = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    // What counters follow: readers count the messages behind the watermark, and rows that another
    // program has inserted below 1 are never counted.
    let (counted, messages) = transaction.query_row(
        "SELECT (SELECT count(*) FROM messages WHERE id BETWEEN 1 AND last_id),
                messages + (SELECT count(*) FROM messages WHERE id > indexed_id AND id <= last_id)
         FROM totals",
        (),
        pair,
    )?;
    let indexed = transaction.query_row(
        "SELECT count(*) FROM messages WHERE id BETWEEN 1 AND (SELECT indexed_id FROM totals)",
        (),
        |row| row.get(0),
    )?;
    let (distinct, senders) = transaction.query_row(
        "SELECT (SELECT count(DISTINCT from_msisdn) FROM messages
                 WHERE id BETWEEN 1 AND indexed_id),
                senders FROM totals",
        (),
        pair,
    )?;
    let level = |level: i64| {
        transaction.query_row(
            "SELECT coalesce(sum(n), 0) FROM rank_index WHERE sender_id = 0 AND level = ?1",
            [level],
            |row| row.get(0),
        )
    };
    let wrong_senders = transaction.query_row(
        "WITH counted AS (
             SELECT from_msisdn, count(*) AS n
             FROM totals CROSS JOIN messages ON messages.id BETWEEN 1 AND indexed_id
             GROUP BY from_msisdn
         )
         SELECT count(*) FROM senders FULL JOIN counted ON from_msisdn = msisdn
         WHERE counted.n IS NOT senders.n OR is_heavy AND EXISTS (
             SELECT 1 FROM (VALUES (1), (2)) WHERE counted.n <> (
                 SELECT coalesce(sum(n), 0) FROM rank_index
                 WHERE sender_id = senders.id AND level = column1))",
        (),
        |row| row.get(0),
    )?;
    let (classes, right_classes) = classes(&transaction)?;
    let last_created_at = transaction.query_row(
        "SELECT (SELECT created_at FROM messages WHERE id BETWEEN 1 AND last_id
                 ORDER BY id DESC LIMIT 1) FROM totals",
        (),
        |row| row.get(0),
    )?;
    let counts = vec![
        Count { of: "messages", counted, kept: messages },
        Count { of: "senders", counted: distinct, kept: senders },
        Count { of: "kinds with a right count", counted: classes, kept: right_classes },
        Count { of: "messages in the rank index", counted: indexed, kept: level(1)? },
        Count {
            of: "messages in the second level of the rank index",
            counted: indexed,
            kept: level(2)?,
        },
    ];
    Ok(Recount { counts, wrong_senders, last_created_at })
}

/// How many classes there are, and of how many the count and the fences are right.
fn classes(transaction: &Transaction<'_>) -> rusqlite::Result<(i64, i64)> {
    transaction.query_row(
        "WITH counted AS (
             SELECT class_id, count(*) AS n
             FROM totals CROSS JOIN messages ON messages.id BETWEEN 1 AND indexed_id
             GROUP BY class_id
         )
         SELECT count(*), count(*) FILTER (WHERE coalesce(counted.n, 0) = classes.n AND (
             NOT is_heavy OR NOT EXISTS (
                 SELECT 1 FROM (VALUES (1), (2)) WHERE classes.n <> (
                     SELECT coalesce(sum(n), 0) FROM rank_index
                     WHERE sender_id = -classes.id AND level = column1))))
         FROM classes LEFT JOIN counted ON class_id = classes.id",
        (),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

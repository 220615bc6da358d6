//! Totals, each party's count and counts by time: derived from the messages up to a watermark,
//! `totals.counted_id`. A party is a sender or a receiver. A reader adds the messages behind the
//! watermark, the tail. A thread of each node takes the tail in, whichever gets the row of
//! `totals`; what is deleted is taken away by a trigger (schema/tables.sql).
//!
//! Counts by time are sums of each second, minute, hour, day and 64 days since the year 1, of all
//! messages, of each party with many, and of each class but that of /webhook. Those of the main
//! receiver are what those of the other receivers leave of all messages.

use super::{
    connection::Connection,
    failure::Failure,
    values::{Statement, Value},
};

/// Seconds from the year 1 to 1970.
pub(super) const YEAR_ONE: i64 = 62_135_596_800;
/// A party with so many messages has counts by time. Those of a party with fewer are walked.
const HEAVY: i64 = 2_048;
/// Messages that one transaction takes in.
const TAKEN_AT_ONCE: i64 = 20_000;

/// Each message twice: with its sender, and with its receiver.
macro_rules! messages_of_parties {
    () => {
        "mailslot.messages CROSS JOIN LATERAL
            (VALUES (false, from_msisdn), (true, to_msisdn)) AS party (is_receiver, msisdn)"
    };
}
pub(super) use messages_of_parties;

/// Counts the messages behind the watermark, unless another node does so at this moment.
pub(super) fn count_tail(connection: &mut Connection) -> Result<(), Failure> {
    loop {
        // One index is read at each end, so that a node with nothing to do costs the server little.
        let asked = connection.ask(
            "SELECT counted_id < coalesce((SELECT max(id) FROM mailslot.messages), 0)
             FROM mailslot.totals",
        )?;
        if !asked.one()?.boolean(0)? || !count_some(connection)? {
            return Ok(());
        }
    }
}

/// Moves the watermark; false where another process does.
fn count_some(connection: &mut Connection) -> Result<bool, Failure> {
    // A node that stands still behind the first statements would hold the lock of `totals`.
    let settings = "SELECT set_config('jit', 'off', true), \
                    set_config('enable_seqscan', 'off', true), \
                    set_config('idle_in_transaction_session_timeout', '5s', true)";
    let at_once = [Value::Integer(TAKEN_AT_ONCE)];
    let elected = connection.run_in_order(&[
        Statement::plain("BEGIN"),
        Statement::plain(settings),
        Statement::new(ELECT, &at_once),
    ])?;
    let tail = match elected.last().and_then(|rows| rows.iter().next()) {
        Some(row) => (row.integer(0)?, row.integer(1)?),
        None => (0, 0),
    };
    let (from, to) = tail;
    if from >= to {
        connection.ask("ROLLBACK")?;
        return Ok(false);
    }
    let range = [Value::Integer(from), Value::Integer(to)];
    let heavy = [Value::Integer(to), Value::Integer(HEAVY)];
    connection.run_in_order(&[
        Statement::new(PARTIES, &range),
        Statement::new(CLASSES, &range),
        Statement::new(COUNTS, &range),
        Statement::new(TOTALS, &range),
        Statement::new(MAKE_HEAVY, &heavy),
        Statement::plain("COMMIT"),
    ])?;
    Ok(true)
}

/// Only one process gets the row. `$1` is how many messages are taken in at most.
const ELECT: &str = "
    SELECT counted_id, coalesce(
        (SELECT id FROM mailslot.messages WHERE id > counted_id ORDER BY id LIMIT 1 OFFSET $1),
        (SELECT max(id) FROM mailslot.messages), 0)
    FROM mailslot.totals FOR UPDATE SKIP LOCKED";
const PARTIES: &str = concat!(
    "WITH added AS (
        INSERT INTO mailslot.parties AS stored (msisdn, is_receiver, n)
        SELECT msisdn, is_receiver, count(*) FROM ",
    messages_of_parties!(),
    " WHERE messages.id > $1 AND messages.id <= $2
        GROUP BY msisdn, is_receiver ORDER BY msisdn, is_receiver
        ON CONFLICT (msisdn, is_receiver) DO UPDATE SET n = stored.n + excluded.n
        RETURNING xmax = 0 AS is_new, is_receiver)
    UPDATE mailslot.totals SET senders = senders
            + (SELECT count(*) FROM added WHERE is_new AND NOT is_receiver),
        main_receiver = coalesce(main_receiver, (
            SELECT to_msisdn FROM mailslot.messages WHERE id > $1 AND id <= $2
            GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1))"
);
const CLASSES: &str = "
    INSERT INTO mailslot.classes AS stored (source, kind, n)
    SELECT source, kind, count(*) FROM mailslot.messages WHERE id > $1 AND id <= $2
    GROUP BY source, kind ORDER BY source, kind
    ON CONFLICT (source, kind) DO UPDATE SET n = stored.n + excluded.n";
/// The messages must be found by their ids: by party or by class, an index leads to all of them.
const COUNTS: &str = concat!(
    "INSERT INTO mailslot.counts AS stored (group_id, level, bucket, n)
    SELECT group_id, level, (ts_s + 62135596800) / seconds, count(*)
    FROM (
        SELECT 0::bigint AS group_id, ts_s FROM mailslot.messages WHERE id > $1 AND id <= $2
        UNION ALL
        SELECT -1, ts_s FROM mailslot.messages, mailslot.totals
        WHERE id > $1 AND id <= $2 AND to_msisdn <> main_receiver
        UNION ALL
        SELECT parties.id, ts_s FROM ",
    messages_of_parties!(),
    " JOIN mailslot.parties USING (is_receiver, msisdn)
        WHERE messages.id > $1 AND messages.id <= $2 AND is_heavy
        UNION ALL
        SELECT classes.id, ts_s FROM mailslot.messages
        JOIN mailslot.classes
            ON (classes.source, classes.kind) = (messages.source || '', messages.kind || '')
                AND classes.id > 1
        WHERE messages.id > $1 AND messages.id <= $2
    ) AS tail CROSS JOIN (
        VALUES (1::smallint, 1::bigint), (2, 60), (3, 3600), (4, 86400), (5, 5529600)
    ) AS levels (level, seconds)
    GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    ON CONFLICT (group_id, level, bucket) DO UPDATE SET n = stored.n + excluded.n"
);
const TOTALS: &str = "
    UPDATE mailslot.totals SET counted_id = $2, messages = messages
        + (SELECT count(*) FROM mailslot.messages WHERE id > $1 AND id <= $2)";
/// `$1` is the watermark. Both values of `is_receiver` are named, since the index by n begins with
/// them. BETWEEN means equal: by an equality the server may compare all messages that there are.
const MAKE_HEAVY: &str = "
    WITH heavy AS (
        UPDATE mailslot.parties SET is_heavy = true
        WHERE is_receiver IN (false, true) AND n >= $2 AND NOT is_heavy
            AND NOT (is_receiver AND msisdn = (SELECT main_receiver FROM mailslot.totals))
        RETURNING id, is_receiver, msisdn)
    INSERT INTO mailslot.counts (group_id, level, bucket, n)
    SELECT group_id, level, (ts_s + 62135596800) / seconds, count(*)
    FROM (
        SELECT heavy.id AS group_id, ts_s, messages.id
        FROM heavy JOIN mailslot.messages ON from_msisdn BETWEEN msisdn AND msisdn
        WHERE NOT is_receiver
        UNION ALL
        SELECT heavy.id, ts_s, messages.id
        FROM heavy JOIN mailslot.messages ON to_msisdn BETWEEN msisdn AND msisdn
        WHERE is_receiver
    ) AS theirs CROSS JOIN (
        VALUES (1::smallint, 1::bigint), (2, 60), (3, 3600), (4, 86400), (5, 5529600)
    ) AS levels (level, seconds)
    WHERE theirs.id <= $1 GROUP BY 1, 2, 3";

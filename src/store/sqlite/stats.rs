//! Statistics: the totals and the senders of most messages, with the messages behind the watermark
//! added.

use std::{cmp::Reverse, collections::HashMap};

use rusqlite::{OptionalExtension, Transaction};

use super::{reader::Reader, rows, scope::IS_COUNTED};
use crate::{
    error::Error,
    store::types::{SenderCount, Stats, TOP_SENDERS},
};

impl Reader {
    pub(crate) fn stats(&mut self) -> Result<Stats, Error> {
        let transaction = self.connection.transaction()?;
        let (messages, senders): (i64, i64) = transaction
            .prepare_cached("SELECT messages, senders FROM totals")?
            .query_row((), |row| Ok((row.get(0)?, row.get(1)?)))?;
        let tail = tail(&transaction)?;
        let new_senders = tail.values().filter(|(indexed, _)| *indexed == 0).count();
        let ts = |order: &str| -> rusqlite::Result<Option<String>> {
            let sql = format!(
                "SELECT (SELECT ts FROM messages WHERE {IS_COUNTED} ORDER BY {order} LIMIT 1)"
            );
            transaction.prepare_cached(&sql)?.query_row((), |row| row.get(0))
        };
        Ok(Stats {
            total_messages: messages + tail.values().map(|(_, behind)| behind).sum::<i64>(),
            senders_count: senders + i64::try_from(new_senders).unwrap_or(i64::MAX),
            first_message_ts: ts("ts_s, ts_ns, message_id")?,
            last_message_ts: ts("ts_s DESC, ts_ns DESC, message_id DESC")?,
            messages_per_sender: top(&transaction, tail)?,
        })
    }
}

/// The senders of the messages behind the watermark, each with how many messages it has up to the
/// watermark, and behind it.
fn tail(transaction: &Transaction<'_>) -> rusqlite::Result<HashMap<String, (i64, i64)>> {
    let mut senders: HashMap<String, (i64, i64)> = HashMap::new();
    let mut messages = transaction.prepare_cached(
        "SELECT from_msisdn FROM totals
         CROSS JOIN messages NOT INDEXED ON id > indexed_id AND id <= last_id",
    )?;
    let mut messages = messages.query(())?;
    while let Some(row) = messages.next()? {
        senders.entry(rows::text(row, 0)?).or_default().1 += 1;
    }
    let mut counted = transaction.prepare_cached("SELECT n FROM senders WHERE msisdn = ?1")?;
    for (msisdn, (indexed, _)) in &mut senders {
        let n = counted.query_row([msisdn], |row| row.get(0)).optional()?;
        *indexed = n.unwrap_or_default();
    }
    Ok(senders)
}

/// The senders of most messages are among those of the tail and the first ones of the others.
fn top(
    transaction: &Transaction<'_>,
    tail: HashMap<String, (i64, i64)>,
) -> rusqlite::Result<Vec<SenderCount>> {
    let mut top: Vec<SenderCount> = transaction
        .prepare_cached("SELECT msisdn, n FROM senders ORDER BY n DESC, msisdn LIMIT ?1")?
        .query_map([TOP_SENDERS], |row| Ok(SenderCount { from: row.get(0)?, count: row.get(1)? }))?
        .collect::<rusqlite::Result<_>>()?;
    top.retain(|sender| !tail.contains_key(&sender.from));
    let counts = tail.into_iter().map(|(from, (indexed, behind))| (from, indexed + behind));
    top.extend(counts.map(|(from, count)| SenderCount { from, count }));
    top.sort_unstable_by(|a, b| (Reverse(a.count), &a.from).cmp(&(Reverse(b.count), &b.from)));
    top.truncate(usize::try_from(TOP_SENDERS).unwrap_or(usize::MAX));
    Ok(top)
}

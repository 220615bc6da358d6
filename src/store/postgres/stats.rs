//! Statistics: the totals and the senders of most messages, with the messages behind the watermark
//! added.

use super::{
    failure::Failure,
    reader::Reader,
    rows,
    snapshot::Snapshot,
    values::{Statement, Value},
};
use crate::{
    error::Error,
    store::types::{SenderCount, Stats, TOP_SENDERS},
};

impl Reader {
    pub(crate) fn stats(&mut self) -> Result<Stats, Error> {
        Ok(self.read(stats)?)
    }
}

fn stats(snapshot: &mut Snapshot<'_>) -> Result<Stats, Failure> {
    let rows = snapshot.ask("SELECT counted_id FROM mailslot.totals", &[])?;
    let watermark = Value::Integer(rows.one()?.integer(0)?);
    let totals = "
        WITH tail AS MATERIALIZED (
            SELECT from_msisdn, count(*) AS n FROM mailslot.messages WHERE id > $1 GROUP BY 1)
        SELECT messages + (SELECT coalesce(sum(n), 0) FROM tail)::bigint,
            senders + (
                SELECT count(*) FROM tail WHERE NOT EXISTS (
                    SELECT FROM mailslot.parties WHERE msisdn = from_msisdn AND NOT is_receiver)),
            (SELECT ts FROM mailslot.messages
             ORDER BY ts_s, ts_ns, left(message_id, 256), message_id LIMIT 1),
            (SELECT ts FROM mailslot.messages ORDER BY ts_s DESC, ts_ns DESC,
                 left(message_id, 256) DESC, message_id DESC LIMIT 1)
        FROM mailslot.totals";
    // The senders of most messages are among those of the tail and the first ones of the others.
    let top = "
        WITH tail AS MATERIALIZED (
            SELECT from_msisdn AS msisdn, count(*) AS n FROM mailslot.messages
            WHERE id > $1 GROUP BY 1
        ), first AS (
            SELECT msisdn FROM mailslot.parties WHERE NOT is_receiver
            ORDER BY n DESC, msisdn LIMIT $2)
        SELECT msisdn, sum(n)::bigint FROM (
            SELECT parties.msisdn, parties.n
            FROM (SELECT msisdn FROM first UNION SELECT msisdn FROM tail) AS candidates
            JOIN mailslot.parties ON parties.msisdn = candidates.msisdn AND NOT is_receiver
            UNION ALL SELECT msisdn, n FROM tail
        ) AS both_parts GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT $2";
    let values = [watermark, Value::Integer(TOP_SENDERS)];
    let rows =
        snapshot.run_last(&[Statement::new(totals, &values[..1]), Statement::new(top, &values)])?;
    let [totals, top, ..] = &rows[..] else { return Err(Failure::unexpected("a result")) };
    let row = totals.one()?;
    let sender = |row| Ok(SenderCount { from: rows::text(row, 0)?, count: row.integer(1)? });
    Ok(Stats {
        total_messages: row.integer(0)?,
        senders_count: row.integer(1)?,
        first_message_ts: row.optional_text(2)?.map(str::to_owned),
        last_message_ts: row.optional_text(3)?.map(str::to_owned),
        messages_per_sender: top.iter().map(sender).collect::<Result<_, Failure>>()?,
    })
}

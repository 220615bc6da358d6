//! One side of a move to another engine.

use sha2::{Digest, Sha256};

use super::{
    counts,
    failure::Failure,
    rows::{self, received_columns},
    snapshot::{READ_TIMEOUT, Session},
    text::encode,
    values::{Rows, Statement, Value},
    writer::Writer,
};
use crate::{
    config::Target,
    message::fold_case,
    metrics::Label,
    store::types::{History, Kept},
};

#[derive(Debug)]
pub(crate) struct Moving {
    target: Target,
    session: Session,
}

impl Moving {
    pub(crate) fn source(target: &Target) -> Result<Moving, String> {
        let mut session = Session::new(target.clone());
        session.connect().map_err(|failure| format!("database {target}: {failure}"))?;
        Ok(Moving { target: target.clone(), session })
    }

    /// Creates the tables where there are none.
    pub(crate) fn destination(target: &Target) -> Result<Moving, String> {
        drop(Writer::open(target)?);
        Moving::source(target)
    }

    fn named<T>(&self, value: Result<T, Failure>) -> Result<T, String> {
        value.map_err(|failure| format!("database {}: {failure}", self.target))
    }

    fn read(&mut self, sql: &str, values: &[Value<'_>]) -> Result<Rows, Failure> {
        let statements = [Statement::new(sql, values)];
        let answers = self.session.read(READ_TIMEOUT, |snapshot| snapshot.run_last(&statements))?;
        answers.into_iter().next().ok_or_else(|| Failure::unexpected("no result"))
    }

    fn write(&mut self, statements: &[Statement<'_>]) -> Result<(), Failure> {
        self.session.connect()?.run(statements).map(drop)
    }

    pub(crate) fn history(&mut self) -> Result<History, String> {
        let history = self.read_history();
        self.named(history)
    }

    fn read_history(&mut self) -> Result<History, Failure> {
        let totals = self.read(
            "SELECT encode(erasing_key, 'hex'), erased,
                 coalesce(greatest((SELECT max(id) FROM mailslot.messages), deleted_id), 0)
             FROM mailslot.totals",
            &[],
        )?;
        let totals = totals.one()?;
        let last = totals.integer(2)?;
        // An epoch has the last id of those before it.
        let epochs =
            self.read("SELECT first_id, last_id FROM mailslot.epochs ORDER BY first_id", &[])?;
        let (mut ranges, mut first) = (Vec::new(), 1);
        for epoch in epochs.iter() {
            let end = epoch.integer(1)?;
            if first <= end {
                ranges.push((first, end));
            }
            first = epoch.integer(0)?;
        }
        if first <= last {
            ranges.push((first, last));
        }
        Ok(History { ranges, erasing_key: totals.bytes(0)?, erased: totals.integer(1)? })
    }

    pub(crate) fn last_cursor(&mut self) -> Result<i64, String> {
        let last = self
            .read("SELECT coalesce(max(id), 0) FROM mailslot.messages", &[])
            .and_then(|rows| rows.one()?.integer(0));
        self.named(last)
    }

    pub(crate) fn messages(&mut self, after: i64, limit: i64) -> Result<Vec<Kept>, String> {
        let sql = format!(
            "SELECT {}, id FROM mailslot.messages WHERE id > $1 ORDER BY id LIMIT $2",
            received_columns(true)
        );
        let rows = self.read(&sql, &[Value::Integer(after), Value::Integer(limit)]);
        let kept = rows.and_then(|rows| {
            let kept = |row| Ok(Kept { received: rows::received(row)?, cursor: row.integer(11)? });
            rows.iter().map(kept).collect()
        });
        self.named(kept)
    }

    pub(crate) fn tombstones(&mut self, after: &[u8], limit: i64) -> Result<Vec<Vec<u8>>, String> {
        let sql = "SELECT encode(hash, 'hex') FROM mailslot.erased
                   WHERE hash > $1 ORDER BY hash LIMIT $2";
        let rows = self.read(sql, &[Value::Bytes(after), Value::Integer(limit)]);
        let hashes = rows.and_then(|rows| rows.iter().map(|row| row.bytes(0)).collect());
        self.named(hashes)
    }

    /// Gives an empty database the key of another one.
    pub(crate) fn adopt(&mut self, history: &History) -> Result<(), String> {
        let key = [Value::Bytes(&history.erasing_key)];
        let sql = "UPDATE mailslot.totals SET erasing_key = $1";
        let written = self.write(&[Statement::new(sql, &key)]);
        self.named(written)
    }

    pub(crate) fn store(&mut self, messages: &[Kept]) -> Result<(), String> {
        let stored = self.insert(messages);
        self.named(stored)
    }

    fn insert(&mut self, messages: &[Kept]) -> Result<(), Failure> {
        let integers = |value: fn(&Kept) -> i64| messages.iter().map(value).collect::<Vec<_>>();
        let cursors = integers(|kept| kept.cursor);
        let seconds = integers(|kept| kept.received.message.timestamp.seconds);
        let nanoseconds = integers(|kept| kept.received.message.timestamp.nanoseconds.into());
        let hashes: Vec<_> = (messages.iter())
            .map(|kept| Sha256::digest(&kept.received.message.message_id))
            .collect();
        let hashes: Vec<&[u8]> = hashes.iter().map(|hash| &hash[..]).collect();
        let texts: Vec<_> = (messages.iter())
            .map(|Kept { received, .. }| {
                let message = &received.message;
                let folded = message.text.as_deref().map(fold_case);
                let folded = folded.filter(|folded| Some(folded) != message.text.as_ref());
                [
                    Some(encode(&message.message_id).into_owned()),
                    Some(message.from.clone()),
                    Some(message.to.clone()),
                    Some(message.ts.clone()),
                    message.text.as_deref().map(|text| encode(text).into_owned()),
                    folded.map(|folded| encode(&folded).into_owned()),
                    Some(received.created_at.clone()),
                    Some(received.source.value().to_owned()),
                    Some(encode(&received.kind).into_owned()),
                    received.original.as_ref().map(|sent| hex::encode(sent.stored())),
                ]
            })
            .collect();
        let column = |at: usize| texts.iter().map(|row| row[at].as_deref()).collect::<Vec<_>>();
        let columns: Vec<_> = (0..10).map(column).collect();
        let [ids, from, to, ts, text, folded, created_at, source, kind, original] = &columns[..]
        else {
            return Ok(());
        };
        let values = [
            Value::Integers(&cursors),
            Value::Byteas(&hashes),
            Value::Texts(ids),
            Value::Texts(from),
            Value::Texts(to),
            Value::Texts(ts),
            Value::Integers(&seconds),
            Value::Integers(&nanoseconds),
            Value::Texts(text),
            Value::Texts(folded),
            Value::Texts(created_at),
            Value::Texts(source),
            Value::Texts(kind),
            Value::Texts(original),
        ];
        let insert = "
            INSERT INTO mailslot.messages (id, hash, message_id, from_msisdn, to_msisdn, ts, ts_s,
                ts_ns, text, folded, created_at, source, kind, original)
            SELECT id, hash, message_id, from_msisdn, to_msisdn, ts, ts_s, ts_ns, text, folded,
                created_at::timestamptz, source, kind, decode(original, 'hex')
            FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) AS moved (id,
                hash, message_id, from_msisdn, to_msisdn, ts, ts_s, ts_ns, text, folded,
                created_at, source, kind, original)";
        let lock = "SELECT one FROM mailslot.sequencer FOR UPDATE";
        let statements = [Statement::plain(lock), Statement::new(insert, &values)];
        self.write(&statements)
    }

    pub(crate) fn store_tombstones(&mut self, hashes: &[Vec<u8>]) -> Result<(), String> {
        let hashes: Vec<&[u8]> = hashes.iter().map(|hash| &hash[..]).collect();
        let sql = "INSERT INTO mailslot.erased (hash) SELECT unnest($1) ON CONFLICT DO NOTHING";
        let values = [Value::Byteas(&hashes)];
        let stored = self.write(&[Statement::new(sql, &values)]);
        self.named(stored)
    }

    /// Everything is stored: an epoch begins behind the other database's last cursor, and what is
    /// derived from the messages is brought up to date.
    pub(crate) fn finish(&mut self, history: &History) -> Result<(), String> {
        let finished =
            self.begin_epoch(history).and_then(|()| counts::count_tail(self.session.connect()?));
        self.named(finished)
    }

    fn begin_epoch(&mut self, history: &History) -> Result<(), Failure> {
        let firsts: Vec<i64> = history.ranges.iter().map(|(first, _)| *first).collect();
        // Before the first epoch no cursor was given.
        let lasts = history.ranges.iter().map(|(_, last)| *last);
        let before: Vec<i64> = [0].into_iter().chain(lasts).take(firsts.len()).collect();
        let epochs = [Value::Integers(&firsts), Value::Integers(&before)];
        let last = [Value::Integer(history.last_cursor())];
        let totals = [Value::Integer(history.last_cursor()), Value::Integer(history.erased)];
        self.session.connect()?.run_in_order(&[
            Statement::new("SELECT one FROM mailslot.sequencer FOR UPDATE", &[]),
            Statement::new("DELETE FROM mailslot.epochs", &[]),
            Statement::new(
                "INSERT INTO mailslot.epochs (first_id, last_id) SELECT unnest($1), unnest($2)",
                &epochs,
            ),
            // By the clock, as each epoch.
            Statement::new(
                "INSERT INTO mailslot.epochs (first_id, last_id)
                 SELECT greatest($1 + 1, clock), $1 FROM (
                     SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint * 1024
                         AS clock) AS present
                 RETURNING setval('mailslot.seq', first_id, false)",
                &last,
            ),
            Statement::new(
                "UPDATE mailslot.totals SET erased = $2, deleted_id = greatest(deleted_id, $1)",
                &totals,
            ),
        ])?;
        Ok(())
    }
}

//! Erasing messages for good.
//!
//! Of an erased message a keyed hash of its id stays, so that a repeated delivery is acknowledged
//! and does not bring it back. An expired message leaves nothing. Each portion of an erasure takes
//! the lock of a commit, so that no delivery in flight brings a message back. A client of the
//! server cannot ensure that no byte is left in its files, its log, its standbys and its backups.

use std::time::Duration;

use hmac::Hmac;
use sha2::Sha256;

use super::{
    failure::Failure,
    ranks::optional,
    rows,
    snapshot::{READ_TIMEOUT, Session},
    values::{Statement, Value},
    writer::Writer,
};
use crate::{
    config::Target,
    signature,
    store::types::{Position, Selection},
    timestamp::Timestamp,
};

/// Messages that one transaction erases, so that deliveries do not wait long for it.
const ERASED_AT_ONCE: i64 = 500;
/// Longer than the two locks of such a transaction are waited for.
const ERASE_TIMEOUT: Duration = Duration::from_secs(15);
const VACUUM_TIMEOUT: Duration = Duration::from_hours(24);

/// `$1` is a sender or null, `$2` and `$3` are a moment or null.
const IS_SELECTED: &str =
    "($1::text IS NULL OR from_msisdn = $1) AND ($2::bigint IS NULL OR (ts_s, ts_ns) < ($2, $3))";

fn selected(selection: &Selection) -> [Value<'_>; 3] {
    match selection {
        Selection::From(msisdn) => [optional(Some(msisdn)), Value::Null, Value::Null],
        Selection::Before(Timestamp { seconds, nanoseconds }) => {
            [Value::Null, Value::Integer(*seconds), Value::Integer(i64::from(*nanoseconds))]
        }
    }
}

pub(crate) fn count_selected(target: &Target, selection: &Selection) -> Result<i64, String> {
    let sql = format!("SELECT count(*) FROM mailslot.messages WHERE {IS_SELECTED}");
    let selected = selected(selection);
    let mut session = Session::new(target.clone());
    let counted = session.connect().and_then(|connection| {
        let rows = connection.run_slowly(&[Statement::new(&sql, &selected)])?;
        rows.first().ok_or_else(|| Failure::unexpected("no result"))?.one()?.integer(0)
    });
    counted.map_err(|failure| format!("database {target}: {failure}"))
}

impl Writer {
    pub(crate) fn erase(
        self,
        selection: &Selection,
        progress: &mut dyn FnMut(i64),
    ) -> Result<i64, String> {
        let target = self.into_target();
        let mut session = Session::new(target.clone());
        let mut gone = 0;
        let mut erase = || -> Result<i64, Failure> {
            while let Some(erased) = erase_some(&mut session, selection)? {
                gone += erased;
                progress(gone);
            }
            // Otherwise their bytes would stay in the table until autovacuum comes.
            session.connect()?.run_script("VACUUM mailslot.messages", VACUUM_TIMEOUT)?;
            Ok(gone)
        };
        erase().map_err(|failure| {
            format!("database {target}: {failure}; run it again, what is erased stays erased")
        })
    }
}

/// Erases some messages, and gives how many; `None` where there are none.
fn erase_some(session: &mut Session, selection: &Selection) -> Result<Option<i64>, Failure> {
    let find = format!(
        "SELECT ts_s, ts_ns, message_id, id FROM mailslot.messages WHERE {IS_SELECTED}
         ORDER BY ts_s, ts_ns LIMIT {ERASED_AT_ONCE}"
    );
    let key = "SELECT encode(erasing_key, 'hex') FROM mailslot.totals";
    let selected = selected(selection);
    let statements = [Statement::plain(key), Statement::new(&find, &selected)];
    let answers = session.read(READ_TIMEOUT, |snapshot| snapshot.run_last(&statements))?;
    let [key, found] = &answers[..] else { return Err(Failure::unexpected("no result")) };
    if found.len() == 0 {
        return Ok(None);
    }
    let key: Hmac<Sha256> = signature::scheduled(&key.one()?.bytes(0)?);
    let (mut ids, mut hashes) = (Vec::new(), Vec::new());
    for row in found.iter() {
        let Position { message_id, .. } = rows::position(row)?;
        ids.push(row.integer(3)?);
        hashes.push(signature::digest(&key, message_id.as_bytes()));
    }
    let hashes: Vec<&[u8]> = hashes.iter().map(|hash| &hash[..]).collect();
    let (ids, hashes) = ([Value::Integers(&ids)], [Value::Byteas(&hashes)]);
    let statements = [
        Statement::plain("SELECT set_config('lock_timeout', '5s', true)"),
        Statement::plain("SELECT one FROM mailslot.sequencer FOR UPDATE"),
        Statement::plain("SELECT one FROM mailslot.totals FOR UPDATE"),
        Statement::new(
            "INSERT INTO mailslot.erased (hash) SELECT unnest($1) ON CONFLICT DO NOTHING",
            &hashes,
        ),
        Statement::new(
            "WITH gone AS (DELETE FROM mailslot.messages WHERE id = ANY ($1) RETURNING id)
             SELECT count(*) FROM gone",
            &ids,
        ),
        Statement::new("UPDATE mailslot.totals SET erased = erased + cardinality($1)", &ids),
    ];
    let answers = session.connect()?.run_within(ERASE_TIMEOUT, &statements)?;
    let erased = answers.get(4).ok_or_else(|| Failure::unexpected("no result"))?;
    Ok(Some(erased.one()?.integer(0)?))
}

//! The statement that stores messages, and what is bound to it.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

use super::{migrate::VERSION, sequencer::history, text::encode, values::Value};
use crate::{
    message::{Delivered, Message, fold_case},
    metrics::Label,
    signature,
};

/// Stores those of the messages whose ids are not known, in their order, and gives the hashes of
/// their ids. Of several with one id the first is stored. Stores nothing where this program is
/// outdated, the history is not that of the last epoch, or the key of the erased ids is another
/// one.
pub(super) const INSERT: &str = concat!(
    "INSERT INTO mailslot.messages
         (id, hash, message_id, from_msisdn, to_msisdn, ts, ts_s, ts_ns, text, folded, created_at,
          source, kind, original)
     SELECT nextval('mailslot.seq'), g.hash, g.message_id, g.from_msisdn, g.to_msisdn, g.ts, g.ts_s,
            g.ts_ns, g.text, g.folded, statement_timestamp(), g.source, g.kind,
            decode(g.original, 'hex')
     FROM unnest($1::bytea[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[],
                 $7::bigint[], $8::text[], $9::text[], $10::bytea[], $13::text[],
                 $14::text[], $15::text[]) WITH ORDINALITY
          AS g(hash, message_id, from_msisdn, to_msisdn, ts, ts_s, ts_ns, text, folded, tombstone,
               source, kind, original, n)
     WHERE EXISTS (SELECT FROM mailslot.sequencer, mailslot.totals
                   WHERE erasing_key = $11 AND writable_from <= $12 AND history = ",
    history!(),
    ")
         AND g.tombstone <> ALL (ARRAY(SELECT e.hash FROM mailslot.erased e
                                       WHERE e.hash = ANY ($10::bytea[])))
     ORDER BY g.n
     ON CONFLICT (hash) DO NOTHING
     RETURNING encode(hash, 'hex')"
);

/// Of the hashes of ids and the keyed hashes of erased ids, those that the database has.
pub(super) const KNOWN: &str = "
    SELECT encode(hash, 'hex') FROM mailslot.messages WHERE hash = ANY ($1::bytea[])
    UNION ALL
    SELECT encode(hash, 'hex') FROM mailslot.erased WHERE hash = ANY ($2::bytea[])";

/// By which the database knows a message.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Hashes {
    pub(super) id: [u8; 32],
    /// If it was erased.
    pub(super) tombstone: [u8; 32],
}

impl Hashes {
    pub(super) fn of(messages: &[&Delivered], erasing_key: &[u8]) -> Vec<Hashes> {
        let key = signature::scheduled(erasing_key);
        let hashes = |delivered: &&Delivered| {
            let id = delivered.message.message_id.as_bytes();
            Hashes { id: Sha256::digest(id).into(), tombstone: signature::digest(&key, id) }
        };
        messages.iter().map(hashes).collect()
    }
}

/// Calls `run` with the values of [`INSERT`]. `kinds` are those with which messages are stored.
pub(super) fn with_values<T>(
    deliveries: &[&Delivered],
    hashes: &[Hashes],
    kinds: &[Cow<'_, str>],
    erasing_key: &[u8],
    run: impl FnOnce(&[Value<'_>]) -> T,
) -> T {
    let messages: Vec<&Message> = deliveries.iter().map(|delivered| &delivered.message).collect();
    let folded = |message: &Message| {
        let text = message.text.as_deref()?;
        let folded = fold_case(text);
        (folded != text).then(|| encode(&folded).into_owned())
    };
    let ids: Vec<_> = messages.iter().map(|message| encode(&message.message_id)).collect();
    let texts: Vec<_> =
        messages.iter().map(|message| message.text.as_deref().map(encode)).collect();
    let folded: Vec<_> = messages.iter().map(|message| folded(message)).collect();
    let of = |column: fn(&Message) -> &str| -> Vec<Option<&str>> {
        messages.iter().map(|message| Some(column(message))).collect()
    };
    let seconds: Vec<i64> = messages.iter().map(|message| message.timestamp.seconds).collect();
    let nanoseconds: Vec<i64> =
        messages.iter().map(|message| i64::from(message.timestamp.nanoseconds)).collect();
    let sources = deliveries.iter().map(|delivered| Some(delivered.source.value()));
    let original =
        |delivered: &&Delivered| delivered.original.as_ref().map(|sent| hex::encode(sent.stored()));
    let originals: Vec<_> = deliveries.iter().map(original).collect();
    run(&[
        Value::Byteas(&hashes.iter().map(|hashes| &hashes.id[..]).collect::<Vec<_>>()),
        Value::Texts(&ids.iter().map(|id| Some(&**id)).collect::<Vec<_>>()),
        Value::Texts(&of(|message| &message.from)),
        Value::Texts(&of(|message| &message.to)),
        Value::Texts(&of(|message| &message.ts)),
        Value::Integers(&seconds),
        Value::Integers(&nanoseconds),
        Value::Texts(&texts.iter().map(Option::as_deref).collect::<Vec<_>>()),
        Value::Texts(&folded.iter().map(Option::as_deref).collect::<Vec<_>>()),
        Value::Byteas(&hashes.iter().map(|hashes| &hashes.tombstone[..]).collect::<Vec<_>>()),
        Value::Bytes(erasing_key),
        Value::Integer(VERSION),
        Value::Texts(&sources.collect::<Vec<_>>()),
        Value::Texts(&kinds.iter().map(|kind| Some(&**kind)).collect::<Vec<_>>()),
        Value::Texts(&originals.iter().map(Option::as_deref).collect::<Vec<_>>()),
    ])
}

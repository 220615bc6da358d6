//! What a server has to do for mailslot, proved at the start: its version does not tell, since
//! other products speak the same protocol.

use std::borrow::Cow;

use super::{
    connection::Connection,
    failure::{Failure, LOCK_TIMEOUT},
    insert::{Hashes, INSERT, with_values},
    sequencer::{LOCK, SETTINGS},
    values::{Rows, Statement},
};
use crate::{
    config::Target,
    message::{Delivered, Message, TEXT_KIND},
    timestamp::Timestamp,
};

/// PostgreSQL 14, as `server_version_num` writes it.
const VERSION_OLDEST: i64 = 140_000;

/// The server's version and settings.
///
/// # Errors
/// A sentence for the operator.
pub(super) fn check_server(connection: &mut Connection) -> Result<(), Failure> {
    let answer = connection.ask(
        "SELECT current_setting('server_version_num')::bigint, current_setting('server_version'),
                current_setting('server_encoding'),
                current_setting('default_transaction_isolation')",
    )?;
    let row = answer.one()?;
    let refuse = |sentence: String| Err(Failure::Settings(sentence));
    if row.integer(0)? < VERSION_OLDEST {
        return refuse(format!("it is PostgreSQL {}: 14 or newer is needed", row.text(1)?));
    }
    if row.text(2)? != "UTF8" {
        return refuse(format!(
            "its encoding is {}, which cannot store every text: create the database with ENCODING \
             'UTF8' TEMPLATE template0",
            row.text(2)?
        ));
    }
    if row.text(3)? != "read committed" {
        return refuse(format!(
            "its default_transaction_isolation is {:?}: ALTER ROLE … SET \
             default_transaction_isolation = 'read committed'",
            row.text(3)?
        ));
    }
    Ok(())
}

/// That the lock of the sequencer excludes others, that of two messages with one id only one is
/// stored and returned, and that this user may insert, delete and update. Nothing of it stays.
///
/// # Errors
/// A sentence for the operator.
pub(super) fn check_storing(
    target: &Target,
    first: &mut Connection,
    erasing_key: &[u8],
) -> Result<(), Failure> {
    let mut second = Connection::connect(target)?;
    first.run_in_order(&["BEGIN", SETTINGS, LOCK].map(Statement::plain))?;
    match second.ask("SELECT one FROM mailslot.sequencer FOR UPDATE NOWAIT") {
        Err(failure) if failure.code() == LOCK_TIMEOUT => {}
        Err(failure) => return Err(failure),
        Ok(_) => {
            // A server that has ended the first connection meanwhile has freed the lock.
            first.ask("SELECT 1")?;
            return Err(Failure::Settings(
                "two connections lock one row at once: it does not lock as PostgreSQL does, and \
                 messages would be skipped by the feed"
                    .to_owned(),
            ));
        }
    }
    let (one, other) = (message("mailslot proof 1"), message("mailslot proof 2"));
    let mut insert = |messages: &[&Delivered]| -> Result<usize, Failure> {
        let hashes = Hashes::of(messages, erasing_key);
        let kinds = vec![Cow::Borrowed(TEXT_KIND); messages.len()];
        let answers = with_values(messages, &hashes, &kinds, erasing_key, |values| {
            first.run_in_order(&[Statement::new(INSERT, values)])
        })?;
        Ok(answers.iter().map(Rows::len).sum())
    };
    let stored = (insert(&[&one])?, insert(&[&one, &other, &other])?);
    first.run_in_order(
        &[
            "DELETE FROM mailslot.messages WHERE hash = sha256('mailslot proof 1')",
            "UPDATE mailslot.totals SET changes = changes",
            "ROLLBACK",
        ]
        .map(Statement::plain),
    )?;
    if stored != (1, 1) {
        return Err(Failure::Settings(
            "of several messages with one id not exactly one is stored: it does not do what \
             PostgreSQL does"
                .to_owned(),
        ));
    }
    Ok(())
}

/// Warns of what makes an acknowledged message less durable than it could be.
pub(super) fn warn_of_durability(connection: &mut Connection) -> Result<(), Failure> {
    let answer = connection.ask(
        "SELECT current_setting('fsync'), current_setting('full_page_writes'),
                current_setting('synchronous_standby_names')",
    )?;
    let row = answer.one()?;
    if (row.text(0)?, row.text(1)?) != ("on", "on") {
        log::warn!(
            "fsync or full_page_writes is off: a power failure at the server loses messages"
        );
    }
    if row.text(2)?.is_empty() {
        log::warn!(
            "the server has no synchronous standby: an acknowledged message is on one machine's \
             disk alone"
        );
    }
    Ok(())
}

fn message(message_id: &str) -> Delivered {
    Delivered::from(Message {
        message_id: message_id.to_owned(),
        from: "+0".to_owned(),
        to: "+0".to_owned(),
        ts: Timestamp::from(0).text(),
        text: None,
        timestamp: Timestamp::from(0),
    })
}

//! Epochs: which history a cursor of the feed belongs to.
//!
//! A cursor is a message's id. A standby that becomes the primary may lack the last commits of the
//! former one, and a restored backup lacks all later ones: their ids would be given again, and a
//! reader that has seen the lost messages would skip as many new ones. So whenever a commit finds
//! another history than the one before, an epoch begins: its ids lead beyond every id that any
//! earlier history can have given. A reader that is not ahead of what has survived reads on over
//! the jump; a cursor beyond that is refused (409).
//!
//! The first id of an epoch is the time of its beginning by the server's clock, as in the SQLite
//! engine: a millisecond has 1,024 ids, more than messages can be stored in it, and they stay below
//! 2^53 until the year 2255, so that they are exact as a JavaScript number.

use super::{
    connection::Connection,
    failure::Failure,
    sequencer::{LOCK, SETTINGS, history},
    values::Statement,
};

/// Where the clock is behind the last id, the jump is 2^40, and up to twice as long by the clock,
/// so that two histories that begin from one backup do not jump to the same id. An epoch in which
/// no message was stored has given no cursor, and is replaced.
const BEGIN: &str = concat!(
    "WITH begun AS (
         UPDATE mailslot.sequencer SET history = ",
    history!(),
    "    WHERE history <> ",
    history!(),
    "    RETURNING one
     ), last AS (
         SELECT greatest((SELECT max(id) FROM mailslot.messages), deleted_id) AS id
         FROM mailslot.totals
     ), empty AS (
         DELETE FROM mailslot.epochs
         WHERE first_id > (SELECT id FROM last) AND EXISTS (SELECT FROM begun)
     ), highest AS (
         SELECT greatest((SELECT id FROM last), (SELECT last_value FROM mailslot.seq),
                         (SELECT max(first_id) FROM mailslot.epochs)) AS id,
                floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint * 1024 AS clock
     )
     INSERT INTO mailslot.epochs (first_id, last_id)
     SELECT CASE WHEN clock > highest.id THEN clock
                 ELSE highest.id + (1::bigint << 40) + clock % (1::bigint << 40) END, last.id
     FROM highest, last WHERE EXISTS (SELECT FROM begun)
     RETURNING setval('mailslot.seq', first_id, false)"
);

/// Begins an epoch, unless another node has done so meanwhile.
pub(super) fn begin(connection: &mut Connection) -> Result<(), Failure> {
    let statements = ["BEGIN", SETTINGS, LOCK, BEGIN, "COMMIT"].map(Statement::plain);
    let answers = connection.run_in_order(&statements)?;
    if answers.get(3).is_some_and(|begun| begun.len() > 0) {
        log::info!(
            "an epoch of cursors begins, since the server was started, promoted or restored"
        );
    }
    Ok(())
}

/// The cursor of the last message that was ever committed; 0 if there has been none.
pub(super) const LAST_CURSOR: &str = "
    SELECT greatest((SELECT max(id) FROM mailslot.messages), deleted_id) FROM mailslot.totals";

/// Whether the cursor `$1` is beyond what has survived of its epoch, and so was never given, or is
/// of a lost message.
pub(super) const IS_AHEAD: &str = "
    SELECT $1 > coalesce(
        (SELECT last_id FROM mailslot.epochs WHERE first_id > $1 ORDER BY first_id LIMIT 1),
        greatest((SELECT max(id) FROM mailslot.messages), deleted_id))
    FROM mailslot.totals";

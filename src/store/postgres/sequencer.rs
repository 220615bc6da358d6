//! The lock that orders all commits, of every node.
//!
//! A transaction that stores or erases messages locks the one row of `sequencer` first, and keeps
//! it until its commit is durable and visible. So ids are in the order of commits, and a reader who
//! has seen one has seen all lower ones. The lock also writes to the server's log, so a commit of
//! repeats alone waits for the standby, too: their first copies may have to reach it yet.

use super::{connection::Connection, failure::Failure};

/// Of which history the server is: since when it runs, its timeline, which a standby changes when
/// it becomes the primary, and the number of a table, which is another one after a restore. Every
/// restart of the server is another history, since its disk may have been set back meanwhile.
///
/// Every commit compares it, and not every connection: a pooler may lead a connection to another
/// server at any time.
macro_rules! history {
    () => {
        "(extract(epoch FROM pg_postmaster_start_time())::text
          || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8)
          || '/' || 'mailslot.messages'::regclass::oid::text)"
    };
}
pub(super) use history;

/// For this transaction, whatever the server's and the user's defaults are: what is acknowledged is
/// on disk, no lock is waited for too long, and a node that is gone or stands still holds no lock
/// for long.
pub(super) const SETTINGS: &str = "
    SELECT set_config('lock_timeout', '2s', true), set_config('statement_timeout', '4s', true),
           set_config('tcp_user_timeout', '5s', true),
           set_config('idle_in_transaction_session_timeout', '5s', true),
           set_config('synchronous_commit', CASE current_setting('synchronous_commit')
               WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, true)";

/// Gives the oldest version whose program may write, whether the last epoch is of this history, and
/// the number of this transaction.
pub(super) const LOCK: &str = concat!(
    "SELECT writable_from, history = ",
    history!(),
    ", pg_current_xact_id()::xid::text FROM mailslot.sequencer FOR UPDATE"
);

/// The number of the transaction that had this lock last, or has it now.
pub(super) fn last_lock(connection: &mut Connection) -> Result<String, Failure> {
    let asked = connection.ask("SELECT xmax::text FROM mailslot.sequencer")?;
    asked.one()?.text(0).map(str::to_owned)
}

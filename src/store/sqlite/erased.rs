//! The ids of erased messages, known by a keyed hash, so that a repeated delivery of one is
//! acknowledged and does not bring it back.

use hmac::Hmac;
use rusqlite::Transaction;
use sha2::Sha256;

use crate::signature;

pub(super) struct Erased(Hmac<Sha256>);

impl Erased {
    pub(super) fn open(transaction: &Transaction<'_>) -> rusqlite::Result<Erased> {
        let mut statement = transaction.prepare_cached("SELECT erasing_key FROM totals")?;
        let key: Vec<u8> = statement.query_row((), |row| row.get(0))?;
        Ok(Erased(signature::scheduled(&key)))
    }

    fn hash(&self, message_id: &str) -> [u8; 32] {
        signature::digest(&self.0, message_id.as_bytes())
    }

    pub(super) fn has(
        &self,
        transaction: &Transaction<'_>,
        message_id: &str,
    ) -> rusqlite::Result<bool> {
        let mut statement = transaction.prepare_cached("SELECT 1 FROM erased WHERE hash = ?1")?;
        statement.exists([self.hash(message_id)])
    }

    pub(super) fn add(
        &self,
        transaction: &Transaction<'_>,
        message_id: &str,
    ) -> rusqlite::Result<()> {
        transaction
            .prepare_cached("INSERT OR IGNORE INTO erased (hash) VALUES (?1)")?
            .execute([self.hash(message_id)])?;
        Ok(())
    }
}

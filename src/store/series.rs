//! How many messages lie in each of a row of spans of time.

use rusqlite::OptionalExtension;

use super::{
    Reader,
    counts::{Line, Place, Scope},
    reader,
};
use crate::{error::Error, message::Instant};

impl Reader {
    /// When the first message was sent, by its `ts`.
    pub(crate) fn oldest(&mut self) -> Result<Option<Instant>, Error> {
        let mut statement = self.connection.prepare_cached(
            "SELECT ts_s, ts_ns FROM messages WHERE ts_s >= ?1
             ORDER BY ts_s, ts_ns, message_id LIMIT 1",
        )?;
        let oldest = statement.query_row([i64::MIN], |row| reader::instant(row, 0));
        Ok(oldest.optional()?)
    }

    /// Between each of these moments and the next one, all at one moment.
    pub(crate) fn series(&mut self, bounds: &[Instant]) -> Result<Vec<i64>, Error> {
        let transaction = self.connection.transaction()?;
        let line = Line::open(&transaction, Scope::All)?;
        let ranks = bounds
            .iter()
            .map(|instant| line.rank(&Place::at(*instant)))
            .collect::<rusqlite::Result<Vec<_>>>()?;
        Ok(ranks.windows(2).map(|pair| pair[1] - pair[0]).collect())
    }
}

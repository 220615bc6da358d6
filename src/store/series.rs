//! How many messages lie in each of a row of spans of time.

use super::{
    Reader,
    counts::{self, Place, Scope},
};
use crate::{error::Error, message::Instant};

impl Reader {
    /// Between each of these moments and the next one, all at one moment.
    pub(crate) fn series(&mut self, bounds: &[Instant]) -> Result<Vec<i64>, Error> {
        let transaction = self.connection.transaction()?;
        let ranks = bounds
            .iter()
            .map(|instant| counts::rank(&transaction, Scope::All, &Place::at(*instant)))
            .collect::<rusqlite::Result<Vec<_>>>()?;
        Ok(ranks.windows(2).map(|pair| pair[1] - pair[0]).collect())
    }
}

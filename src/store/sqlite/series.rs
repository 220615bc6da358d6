//! When messages were sent and stored: how many in each span of time, the earliest, and those
//! around a moment.

use rusqlite::OptionalExtension;

use super::{reader::Reader, rows, scope::narrow, subset::Subset};
use crate::{
    error::Error,
    store::types::{Filter, Position},
    timestamp::Timestamp,
};

impl Reader {
    pub(crate) fn oldest(&mut self) -> Result<Option<Timestamp>, Error> {
        let mut statement = self.connection.prepare_cached(
            "SELECT ts_s, ts_ns FROM messages WHERE ts_s >= ?1
             ORDER BY ts_s, ts_ns, message_id LIMIT 1",
        )?;
        let oldest = statement.query_row([i64::MIN], |row| rows::timestamp(row, 0));
        Ok(oldest.optional()?)
    }

    /// Ids follow the order in which messages were stored, so half of them are ruled out in each
    /// step; where the clock was set back, what is found is one such gap of several.
    pub(crate) fn stored_around(
        &mut self,
        moment: Timestamp,
    ) -> Result<(Option<Timestamp>, Option<Timestamp>), Error> {
        let moment = moment.text();
        let (mut before, mut last) = ((0, None), self.last_id()?);
        let transaction = self.connection.transaction()?;
        let first_from = |id: i64| -> rusqlite::Result<Option<(i64, String)>> {
            transaction
                .prepare_cached(
                    "SELECT id, created_at FROM messages
                     WHERE id >= ?1 AND id <= (SELECT last_id FROM totals) ORDER BY id LIMIT 1",
                )?
                .query_row([id], |row| Ok((row.get(0)?, rows::text(row, 1)?)))
                .optional()
        };
        while before.0 < last {
            let middle = before.0 + (last - before.0 + 1) / 2;
            match first_from(middle)? {
                Some((id, stored)) if stored <= moment => before = (id, Some(stored)),
                _ => last = middle - 1,
            }
        }
        let after = first_from(before.0 + 1)?.map(|(_, stored)| stored);
        let parse = |stored: Option<String>| stored.and_then(|stored| Timestamp::parse(&stored));
        Ok((parse(before.1), parse(after)))
    }

    pub(crate) fn series(
        &mut self,
        filter: &Filter,
        bounds: &[Timestamp],
    ) -> Result<Vec<i64>, Error> {
        let transaction = self.connection.transaction()?;
        let Some(filter) = narrow(&transaction, filter)? else {
            return Ok(vec![0; bounds.len().saturating_sub(1)]);
        };
        let subset = Subset::of(&transaction, &filter, self.layout, &self.searches)?;
        let before = bounds
            .iter()
            .map(|timestamp| subset.rank(&transaction, &Position::at(*timestamp)))
            .collect::<Result<Vec<_>, Error>>()?;
        subset.put(&filter, &self.searches);
        Ok(before.windows(2).map(|pair| pair[1] - pair[0]).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::store::Store, *};
    use crate::{message::Message, store::types::Job};

    #[test]
    fn the_messages_around_a_moment_are_found_by_when_they_were_stored() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mailslot.db");
        let (store, mut writer) = Store::open(&path, 1, false).unwrap();
        let mut reader = store.reader().unwrap();
        let day = |day: i64| Timestamp::from(day * 86_400);
        assert_eq!(reader.stored_around(day(5)), Ok((None, None)));
        let message = |number| Message {
            message_id: format!("m{number}"),
            from: "+1".to_owned(),
            to: "+2".to_owned(),
            ts: day(0).text(),
            text: None,
            timestamp: day(0),
        };
        let job = Job::Messages((1..=30).map(|number| message(number).into()).collect());
        writer.commit([job].iter());
        let days = [1, 2, 4, 7, 8, 11, 14, 30];
        writer
            .connection
            .execute_batch(
                "DELETE FROM messages WHERE id NOT IN (1, 2, 4, 7, 8, 11, 14, 30);
                 UPDATE messages SET created_at =
                     strftime('%Y-%m-%dT%H:%M:%fZ', 86400 * id, 'unixepoch')",
            )
            .unwrap();
        for moment in 0..32 {
            let before = days.iter().rfind(|stored| **stored <= moment).copied().map(day);
            let after = days.iter().find(|stored| **stored > moment).copied().map(day);
            // A moment later, since a text with a fraction sorts before one without.
            let found = reader.stored_around(Timestamp::from(moment * 86_400 + 1));
            assert_eq!(found, Ok((before, after)), "{moment}");
        }
    }
}

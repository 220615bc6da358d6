//! Pages and totals. Each worker has a reader of its own, and no reader can write.

use std::{path::Path, sync::Arc};

use rusqlite::Connection;

use super::{
    connection::open_for_reading, layout::Layout, rows, schema, scope::narrow, search::Searches,
    subset::Subset,
};
use crate::{
    error::Error,
    store::types::{Filter, Listing, Order, Paging, Position},
};

/// The page cache of each reader.
const CACHE_KIB: u32 = 2_000;

#[derive(Debug)]
pub(crate) struct Reader {
    pub(super) connection: Connection,
    pub(super) layout: Layout,
    pub(super) searches: Arc<Searches>,
}

impl Reader {
    /// Opens a database that the writer has brought up to date. Readers share `searches`.
    pub(super) fn open(
        path: &Path,
        layout: Layout,
        searches: &Arc<Searches>,
    ) -> rusqlite::Result<Reader> {
        let connection = open_for_reading(path, CACHE_KIB)?;
        Ok(Reader { connection, layout, searches: Arc::clone(searches) })
    }

    /// For a process beside the service: nothing is created, migrated or changed.
    pub(crate) fn open_read_only(path: &Path) -> Result<Reader, String> {
        let searches = Arc::new(Searches::new(1));
        Ok(Reader { connection: schema::open_read_only(path)?, layout: Layout::SHIPPED, searches })
    }

    pub(crate) fn check_schema(&self) -> Result<(), Error> {
        let version = schema::version(&self.connection)?;
        self.connection.prepare_cached("SELECT message_id FROM messages LIMIT 1")?.exists(())?;
        if version == schema::VERSION {
            Ok(())
        } else {
            Err(Error::NotReady("the database has another schema"))
        }
    }

    pub(crate) fn list(&mut self, filter: &Filter, paging: &Paging) -> Result<Listing, Error> {
        let transaction = self.connection.transaction()?;
        let Some(filter) = narrow(&transaction, filter)? else { return Ok(Listing::default()) };
        let subset = Subset::of(&transaction, &filter, self.layout, &self.searches)?;
        let total = subset.total();
        let window = paging.window(total, |position| subset.rank(&transaction, position))?;
        let mut messages = subset.page(&transaction, window.clone())?;
        subset.put(&filter, &self.searches);
        let mut offset = window.start;
        if paging.order == Order::Descending {
            messages.reverse();
            offset = total - window.end;
        }
        Ok(Listing { messages, total, offset })
    }

    pub(crate) fn row(&self, message_id: &str) -> Option<i64> {
        let mut statement =
            self.connection.prepare_cached("SELECT id FROM messages WHERE message_id = ?1").ok()?;
        statement.query_row([message_id], |row| row.get(0)).ok()
    }

    pub(crate) fn position(&self, row: i64) -> Option<Position> {
        let sql = "SELECT ts_s, ts_ns, message_id FROM messages WHERE id = ?1";
        let mut statement = self.connection.prepare_cached(sql).ok()?;
        statement.query_row([row], rows::position).ok()
    }
}

//! A store that is open for the service: what its readers share, and its background job.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    indexer::Indexer, layout::Layout, reader::Reader, search::Searches, segments::Prepared,
    writer::Writer,
};
use crate::{
    error::Error,
    store::types::{Job, Outcome},
    threads::spawn,
};

#[derive(Debug, Clone)]
pub(crate) struct Store {
    path: PathBuf,
    layout: Layout,
    searches: Arc<Searches>,
    prepared: Prepared,
}

impl Store {
    pub(crate) fn open(
        path: &Path,
        workers: usize,
        has_providers: bool,
    ) -> Result<(Store, Writer), String> {
        let (store, mut writer) = Store::open_with(path, workers, Layout::SHIPPED)?;
        if has_providers {
            writer.index_by_class();
        }
        Ok((store, writer))
    }

    pub(super) fn open_with(
        path: &Path,
        workers: usize,
        layout: Layout,
    ) -> Result<(Store, Writer), String> {
        let prepared = Prepared::default();
        let writer = Writer::open_with(path, layout, prepared.clone())?;
        let searches = Arc::new(Searches::new(workers));
        Ok((Store { path: path.to_owned(), layout, searches, prepared }, writer))
    }

    pub(crate) fn reader(&self) -> Result<Reader, Error> {
        Ok(Reader::open(&self.path, self.layout, &self.searches)?)
    }

    pub(super) fn indexer(&self) -> rusqlite::Result<Indexer> {
        Indexer::open(&self.path, self.prepared.clone())
    }

    pub(crate) fn start_indexing(
        &self,
        commit: impl Fn(Job) -> Outcome + Send + 'static,
    ) -> Result<(), String> {
        let indexer =
            self.indexer().map_err(|error| format!("database {}: {error}", self.path.display()))?;
        spawn("indexer", move || indexer.run(commit)).map(drop).map_err(|error| error.to_string())
    }
}

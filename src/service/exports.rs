//! Running exports: each has a thread, which reads a portion, sends it, and waits for the client.

use std::{
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use rustix::{process::setpriority_process, thread::gettid};

use super::access_log::record;
use crate::{
    api::ExportQuery,
    error::Error,
    format::Format,
    http::{ChunkedResponse, Exchange, Incomplete, Response},
    logging,
    metrics::Metrics,
    rates::{Pool, Reservation},
    store::{Export, Store},
    threads::spawn,
};

/// Exports at once, of which one client may have half.
pub(crate) const EXPORTS_MAX: usize = 4;
/// An export has a lower priority than the threads that answer requests (nice(1)).
const NICENESS: i32 = 10;

#[derive(Debug)]
pub(crate) struct Exports {
    store: Store,
    metrics: Arc<Metrics>,
    slots: Arc<Pool>,
}

impl Exports {
    pub(crate) fn new(store: Store, metrics: Arc<Metrics>) -> Exports {
        Exports { store, metrics, slots: Pool::new(EXPORTS_MAX, 2) }
    }

    /// Starts an export for this client.
    ///
    /// # Errors
    /// Returns the exchange and an error if the export cannot begin.
    pub(crate) fn start(
        &self,
        exchange: Exchange,
        client: IpAddr,
        wanted: ExportQuery,
    ) -> Result<(), (Exchange, Error)> {
        let format = wanted.format;
        let (slot, export) = match self.prepare(&exchange, client, wanted) {
            Ok(prepared) => prepared,
            Err(error) => return Err((exchange, error)),
        };
        let metrics = Arc::clone(&self.metrics);
        let run = move || {
            let _slot = slot;
            let _ = setpriority_process(Some(gettid()), NICENESS);
            let (content_type, name) = format.media_type_and_name();
            let disposition = format!("attachment; filename=\"{name}\"");
            let response = Response::text(content_type, String::new())
                .with([("Content-Disposition", disposition)]);
            record(&metrics, &exchange, &response, None);
            if let Some(body) = exchange.stream(&response) {
                send(body, export, format);
            }
        };
        // Without a thread the exchange is dropped, which answers it with 500.
        if let Err(error) = spawn("export", run) {
            log::error!(target: logging::ERRORS, error:% = error; "an export cannot be started");
        }
        Ok(())
    }

    fn prepare(
        &self,
        exchange: &Exchange,
        client: IpAddr,
        wanted: ExportQuery,
    ) -> Result<(Reservation, Export), Error> {
        exchange.check_chunked()?;
        let slot = self.slots.take(client).ok_or(Error::Unavailable(
            "too many exports at once, of this client or of all clients, try again later",
        ))?;
        let export = self.store.reader()?.export(wanted.filter, false)?;
        Ok((slot, export))
    }
}

fn send(mut body: ChunkedResponse, mut export: Export, format: Format) {
    let mut lines = format.head().as_bytes().to_vec();
    loop {
        if let Err(why) = body.send(&lines) {
            return body.abort(why);
        }
        // An error or a panic leaves the response incomplete, which its client can see.
        let Ok(Ok(portion)) = catch_unwind(AssertUnwindSafe(|| export.next())) else {
            return body.abort(Incomplete::Stopped);
        };
        let Some(portion) = portion else { return body.finish() };
        lines.clear();
        for received in &portion {
            format.write(received, &mut lines);
        }
    }
}

//! What is done beside requests, by threads of their own: packing texts for searching, and letting
//! messages expire. Both go through the group commit, a little at a time.

use std::{io, thread, time::Duration};

use crate::{
    logging,
    message::Instant,
    store::{Entry, Outcome, Packer, Reader, Stored},
};

/// How long packing rests: between two packs, and where there is nothing to pack or no luck with it.
const PACK_PAUSE_MS: u64 = 5;
const PACK_REST_MS: u64 = 500;
/// How often a writer that could not begin at the start is asked whether it can now.
const BEGIN_EVERY_MS: u64 = 1_000;
/// The same of expiring.
const EXPIRE_PAUSE_MS: u64 = 30;
const EXPIRE_REST_MS: u64 = 60_000;

/// Starts the thread that asks for a commit, once a second, until the writer could begin: a disk that
/// was full at the start needs no restart once it has room.
pub(crate) fn start_beginning(
    submit: impl Fn(Entry) -> Option<Outcome> + Send + 'static,
) -> io::Result<()> {
    let run = move || {
        while submit(Entry::Probe) != Some(Ok(Stored::Done)) {
            thread::sleep(Duration::from_millis(BEGIN_EVERY_MS));
        }
        log::info!("the database takes commits: deliveries are stored from now on");
    };
    thread::Builder::new().name("beginner".into()).spawn(run).map(drop)
}

/// Starts the thread that packs texts for searching, one block at a time. What fails is logged where
/// it does, and tried again.
pub(crate) fn start_packing(
    mut packer: Packer,
    submit: impl Fn(Entry) -> Option<Outcome> + Send + 'static,
) -> io::Result<()> {
    let run = move || {
        loop {
            let next = packer.next().ok().flatten();
            let done = next.and_then(|pack| submit(Entry::Pack(pack)));
            let pause = if done == Some(Ok(Stored::Done)) { PACK_PAUSE_MS } else { PACK_REST_MS };
            thread::sleep(Duration::from_millis(pause));
        }
    };
    thread::Builder::new().name("packer".into()).spawn(run).map(drop)
}

/// Starts the thread that deletes what is older than `retention`, by its `ts`.
pub(crate) fn start_expiring(
    mut reader: Reader,
    retention: Duration,
    submit: impl Fn(Entry) -> Option<Outcome> + Send + 'static,
) -> io::Result<()> {
    let run = move || {
        let mut was_more = false;
        loop {
            let before = Instant::from(logging::now_seconds() - retention.as_secs().cast_signed());
            let is_due = reader.oldest().is_ok_and(|oldest| oldest.is_some_and(|ts| ts < before));
            let done = is_due.then(|| submit(Entry::Expire(before)));
            let is_more = done == Some(Some(Ok(Stored::Done)));
            if was_more && !is_due {
                let before = before.text();
                log::info!(before; "messages have expired");
            }
            was_more = is_more;
            let pause = if is_more { EXPIRE_PAUSE_MS } else { EXPIRE_REST_MS };
            thread::sleep(Duration::from_millis(pause));
        }
    };
    thread::Builder::new().name("expirer".into()).spawn(run).map(drop)
}

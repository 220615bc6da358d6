//! Between requests and the commit queue: a request's job goes in, and its outcome becomes the
//! response.

use std::{io, sync::Arc};

use super::{feed::Feed, reply::reply};
use crate::{
    api::Respond,
    http::{Exchange, Response},
    metrics::Metrics,
    store::{CommitQueue, CommitThread, Job, Stored, Writer},
};

/// Starts the thread that commits. Metrics and the feed learn of every batch before it is answered.
pub(super) fn start(
    writer: Writer,
    metrics: &Arc<Metrics>,
    feed: &Arc<Feed>,
) -> io::Result<(CommitQueue, CommitThread)> {
    let (metrics, feed) = (Arc::clone(metrics), Arc::clone(feed));
    CommitThread::start(writer, move |outcomes, took| {
        metrics.commit_duration.observe_duration(took);
        metrics.commit_batch_size.observe(outcomes.len() as u64);
        if outcomes.iter().all(Result::is_err) {
            metrics.commit_failures.increment();
        }
        let stored = outcomes.iter().flatten().flatten();
        feed.committed(stored.filter(|stored| **stored == Stored::Created).count() as u64);
    })
}

/// Has a request's job committed, and then sends the response that `respond` makes of the outcome.
pub(super) fn reply_after_commit(
    metrics: &Arc<Metrics>,
    commits: &CommitQueue,
    exchange: Exchange,
    job: Job,
    respond: Respond,
) {
    let metrics = Arc::clone(metrics);
    metrics.commit_queue_length.add(1);
    commits.submit(job, move |job, outcome| {
        metrics.commit_queue_length.add(-1);
        let response = respond.to(outcome).unwrap_or_else(|error| Response::from(&error));
        let message_id = match &job {
            Job::Messages(messages) => {
                messages.first().map(|first| first.message.message_id.as_str())
            }
            Job::Expire(_) | Job::Index | Job::Probe => None,
        };
        reply(&metrics, exchange, &response, message_id);
    });
}

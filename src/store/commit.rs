//! The group commit: many jobs, one fsync.
//!
//! Jobs wait in a queue. One thread owns the writer; it takes what is there, commits it in one
//! transaction, has each job answered, and takes again. Answers do not delay the next batch: where
//! more jobs wait already, a second thread sends them.
//!
//! Deliberately absent: waiting for a fuller batch. While one batch is committed the next one
//! gathers, and a single sender waits for no other one (docs/PERFORMANCE.md).

use std::{
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{
    engine::Writer,
    queue::Queue,
    types::{Job, Outcome},
};
use crate::{error::Error, message::Delivered, threads::spawn};

/// Jobs that may wait for a commit; with one more, the answer is 503.
pub(crate) const COMMIT_QUEUE_MAX: usize = 2048;
/// Their weight, at which no job is added: a message counts for one, and for one more with each KiB
/// of it.
pub(crate) const COMMIT_QUEUE_WEIGHT_MAX: usize = 32_768;
/// If the oldest job has waited longer than this, the disk is assumed to hang, and new jobs are
/// answered 503.
pub(crate) const COMMIT_QUEUE_MS_MAX: u64 = 2_000;
/// Weight of one commit, so that it stays short. The messages of one job are never divided.
pub(crate) const BATCH_MAX: usize = 512;

/// Called once, with a job and what became of it.
type Reply = Box<dyn FnOnce(Job, Outcome) + Send>;
/// Jobs that are committed and not answered yet.
type Answers = Vec<(Submission, Outcome)>;

struct Submission {
    job: Job,
    reply: Reply,
}

fn weight(submission: &Submission) -> usize {
    match &submission.job {
        Job::Messages(messages) => messages.iter().map(weight_of).sum::<usize>().max(1),
        Job::Expire(_) | Job::Index | Job::Probe => 1,
    }
}

fn weight_of(delivered: &Delivered) -> usize {
    let Delivered { message, original, .. } = delivered;
    let original = original.as_ref().map_or(0, |original| original.stored().len());
    let text = message.text.as_ref().map_or(0, String::len);
    1 + (message.message_id.len() + text + original) / 1_024
}

/// The way to the writer, for every thread.
#[derive(Clone)]
pub(crate) struct CommitQueue(Arc<Queue<Submission>>);

impl fmt::Debug for CommitQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CommitQueue({})", self.length())
    }
}

impl CommitQueue {
    /// Has a job committed. `reply` is called by another thread, or by this one where there is no
    /// room.
    pub(crate) fn submit(&self, job: Job, reply: impl FnOnce(Job, Outcome) + Send + 'static) {
        if let Err(refused) = self.0.submit(Submission { job, reply: Box::new(reply) }) {
            let error = Error::Unavailable("too much waits for the disk, try again later");
            (refused.reply)(refused.job, Err(error));
        }
    }

    /// Has a job committed, and waits for that.
    pub(crate) fn commit(&self, job: Job) -> Outcome {
        self.outcome(job).recv().unwrap_or(Err(Error::Internal))
    }

    /// The same. `None` where that takes longer than `patience`; it is committed all the same.
    pub(crate) fn commit_within(&self, job: Job, patience: Duration) -> Option<Outcome> {
        self.outcome(job).recv_timeout(patience).ok()
    }

    fn outcome(&self, job: Job) -> Receiver<Outcome> {
        let (sender, outcome) = channel();
        self.submit(job, move |_, outcome| drop(sender.send(outcome)));
        outcome
    }

    /// Jobs that wait.
    pub(crate) fn length(&self) -> usize {
        self.0.length()
    }
}

/// The thread that owns the writer. Dropping this ends nothing.
#[derive(Debug)]
pub(crate) struct CommitThread {
    queue: CommitQueue,
    ended: Receiver<Writer>,
}

impl CommitThread {
    /// Starts it. `report` is called for every batch, before its jobs are answered, with their
    /// outcomes and the duration of the commit.
    pub(crate) fn start(
        writer: Writer,
        report: impl Fn(&[Outcome], Duration) + Send + 'static,
    ) -> io::Result<(CommitQueue, CommitThread)> {
        let wait_max = Duration::from_millis(COMMIT_QUEUE_MS_MAX);
        let queue = CommitQueue(Arc::new(Queue::new(
            COMMIT_QUEUE_MAX,
            COMMIT_QUEUE_WEIGHT_MAX,
            wait_max,
            weight,
        )));
        let replier = Replier::start()?;
        let (sender, ended) = channel();
        let thread = CommitThread { queue: queue.clone(), ended };
        let taken = Arc::clone(&queue.0);
        let run = move || {
            let mut writer = writer;
            let commit = |batch: &[Submission]| {
                writer.commit(batch.iter().map(|submission| &submission.job))
            };
            run(&taken, commit, report, replier);
            // If `stop` no longer waits for the writer, this drops it.
            let _ = sender.send(writer);
        };
        spawn("committer", run)?;
        Ok((queue, thread))
    }

    /// Takes no more jobs, commits and answers those that wait, and gives the writer back. `None`
    /// where that takes longer than `patience`.
    pub(crate) fn stop(self, patience: Duration) -> Option<Writer> {
        self.queue.0.close();
        self.ended.recv_timeout(patience).ok()
    }
}

/// Commits batch after batch, until the queue is closed and empty and every job is answered.
fn run(
    queue: &Queue<Submission>,
    mut commit: impl FnMut(&[Submission]) -> Vec<Outcome>,
    report: impl Fn(&[Outcome], Duration),
    replier: Replier,
) {
    while let Some(batch) = queue.take(BATCH_MAX) {
        // A commit that panics has failed, and the thread goes on.
        let started = Instant::now();
        let outcomes = catch_unwind(AssertUnwindSafe(|| commit(&batch)));
        let mut outcomes = outcomes.unwrap_or_default();
        outcomes.resize(batch.len(), Err(Error::Internal));
        report(&outcomes, started.elapsed());
        let answers = batch.into_iter().zip(outcomes).collect();
        if queue.length() == 0 {
            reply_all(answers);
        } else {
            replier.send(answers);
        }
    }
    replier.finish();
}

/// The thread that answers jobs while the next batch is committed.
struct Replier {
    answers: Sender<Answers>,
    thread: JoinHandle<()>,
}

impl Replier {
    fn start() -> io::Result<Replier> {
        let (answers, committed) = channel();
        let run = move || committed.iter().for_each(reply_all);
        Ok(Replier { answers, thread: spawn("replier", run)? })
    }

    fn send(&self, answers: Answers) {
        // The thread does not end before the other end is dropped.
        let _ = self.answers.send(answers);
    }

    fn finish(self) {
        drop(self.answers);
        let _ = self.thread.join();
    }
}

/// A reply that panics costs its own request only.
fn reply_all(answers: Answers) {
    for (Submission { job, reply }, outcome) in answers {
        let _ = catch_unwind(AssertUnwindSafe(|| reply(job, outcome)));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering::SeqCst},
        },
        thread,
    };

    use super::*;
    use crate::{store::types::Stored, timestamp::Timestamp};

    /// A job that is a number.
    fn job(number: i64) -> Job {
        Job::Expire(Timestamp::from(number))
    }

    fn number(job: &Job) -> i64 {
        let Job::Expire(Timestamp { seconds, .. }) = job else { panic!("{job:?}") };
        *seconds
    }

    #[test]
    fn a_job_that_does_not_fit_is_given_back() {
        let queue = Queue::new(3, usize::MAX, Duration::from_mins(1), |_| 1);
        for number in 0..3 {
            assert_eq!(queue.submit(number), Ok(()));
        }
        assert_eq!(queue.submit(3), Err(3), "full");
        assert_eq!((queue.take(2), queue.length()), (Some(vec![0, 1]), 1));
        assert_eq!(queue.submit(4), Ok(()));
        queue.close();
        assert_eq!(queue.submit(5), Err(5), "closed");
        assert_eq!((queue.take(9), queue.take(9)), (Some(vec![2, 4]), None));

        let heavy = Queue::new(9, 5, Duration::MAX, |weight| *weight);
        for weight in [1, 3, 100] {
            assert_eq!(heavy.submit(weight), Ok(()), "the one before leaves a place");
        }
        assert_eq!(heavy.submit(1), Err(1));
        assert_eq!((heavy.take(2), heavy.take(2)), (Some(vec![1, 3]), Some(vec![100])));
        assert_eq!(heavy.submit(1), Ok(()));

        let hanging = Queue::new(3, usize::MAX, Duration::ZERO, |_| 1);
        assert_eq!(hanging.submit(0), Ok(()));
        thread::sleep(Duration::from_millis(1));
        assert_eq!(hanging.submit(1), Err(1), "the first job has waited for too long");
    }

    #[test]
    fn every_job_is_answered_once_by_what_became_of_it() {
        const THREADS: i64 = 8;
        const JOBS: i64 = 200;
        const LAST: i64 = THREADS * JOBS;
        let queue =
            CommitQueue(Arc::new(Queue::new(COMMIT_QUEUE_MAX, usize::MAX, Duration::MAX, weight)));
        let (batches, answered) = (AtomicUsize::new(0), Arc::new(Mutex::new(Vec::new())));
        let mut written = Vec::new();
        let commit = |batch: &[Submission]| {
            batches.fetch_add(1, SeqCst);
            thread::sleep(Duration::from_micros(300));
            let numbers = batch.iter().map(|submission| number(&submission.job));
            assert!(!numbers.clone().any(|number| number == 13), "a commit that panics");
            written.extend(numbers);
            vec![Ok(vec![Stored::Created]); batch.len()]
        };
        let replier = Replier::start().unwrap();
        let submit = |at: i64| {
            let answered = Arc::clone(&answered);
            queue.submit(job(at), move |job, outcome| {
                answered.lock().unwrap().push((number(&job), outcome.is_ok()));
                assert_ne!(number(&job), LAST, "a reply that panics");
            });
        };
        let send = |thread| {
            (0..JOBS).for_each(|at| submit(at * THREADS + thread));
            // Whatever becomes of this one, the others are answered before it.
            let _ = queue.commit(job(-1));
        };
        thread::scope(|scope| {
            scope.spawn(|| run(&queue.0, commit, |_, _| (), replier));
            let send = &send;
            let senders: Vec<_> =
                (0..THREADS).map(|thread| scope.spawn(move || send(thread))).collect();
            for sender in senders {
                sender.join().unwrap();
            }
            submit(LAST);
            queue.0.close();
        });
        assert_eq!(
            queue.commit(job(7)),
            Err(Error::Unavailable("too much waits for the disk, try again later"))
        );
        let mut answered = answered.lock().unwrap().clone();
        answered.sort_unstable();
        let all: Vec<i64> = answered.iter().map(|(number, _)| *number).collect();
        assert_eq!(all, (0..=LAST).collect::<Vec<_>>());
        let stored = answered.iter().filter(|(_, is_stored)| *is_stored);
        written.retain(|number| *number >= 0);
        written.sort_unstable();
        assert_eq!(stored.map(|(number, _)| *number).collect::<Vec<_>>(), written);
        assert!(!written.contains(&13), "its batch failed as one");
        assert!(written.contains(&LAST), "a reply's panic is not the commit's");
        assert!(batches.into_inner() < all.len(), "they shared commits");
    }
}

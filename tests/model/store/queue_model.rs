//! The commit queue: threads that submit, and one that takes batches. A taking thread that is not
//! woken sleeps for ever, and loom then reports a deadlock.

use std::{sync::Arc, time::Duration};

use loom::thread::{self, JoinHandle};

use super::queue::Queue;

/// Fewer than the jobs, so that a batch leaves some behind.
const BATCH: usize = 2;
const SENDERS: [&[u32]; 2] = [&[1, 2], &[3]];
const JOBS: usize = 3;

fn check(run: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(run);
}

/// Threads that submit, each its jobs in order, and give those that were accepted.
fn start_senders(queue: &Arc<Queue<u32>>) -> Vec<JoinHandle<Vec<u32>>> {
    let submit = |jobs: &'static [u32]| {
        let queue = Arc::clone(queue);
        thread::spawn(move || {
            jobs.iter().copied().filter(|job| queue.submit(*job).is_ok()).collect()
        })
    };
    SENDERS.iter().map(|jobs| submit(jobs)).collect()
}

fn take(queue: &Queue<u32>) -> Option<Vec<u32>> {
    let batch = queue.take(BATCH)?;
    assert!((1..=BATCH).contains(&batch.len()));
    Some(batch)
}

/// Every job that was accepted was taken once, and those of one sender in their order.
fn compare(senders: Vec<JoinHandle<Vec<u32>>>, taken: &[u32]) {
    let mut count = 0;
    for sender in senders {
        let accepted = sender.join().unwrap();
        let own: Vec<u32> = taken.iter().copied().filter(|job| accepted.contains(job)).collect();
        assert_eq!(own, accepted);
        count += accepted.len();
    }
    assert_eq!(taken.len(), count);
}

#[test]
fn every_job_is_taken_once_and_in_order_and_the_taking_thread_is_woken_for_it() {
    check(|| {
        let queue = Arc::new(Queue::new(JOBS, usize::MAX, Duration::MAX, |_| 1));
        let senders = start_senders(&queue);
        let mut taken = Vec::new();
        while taken.len() < JOBS {
            taken.extend(take(&queue).unwrap());
        }
        compare(senders, &taken);
    });
}

#[test]
fn a_job_that_does_not_fit_is_given_back_and_no_other_is_lost() {
    check(|| {
        let queue = Arc::new(Queue::new(1, usize::MAX, Duration::MAX, |_| 1));
        let senders = start_senders(&queue);
        let mut taken = take(&queue).unwrap();
        let closing = Arc::clone(&queue);
        let close = thread::spawn(move || closing.close());
        while let Some(batch) = take(&queue) {
            taken.extend(batch);
        }
        compare(senders, &taken);
        close.join().unwrap();
    });
}

#[test]
fn a_queue_that_is_closed_while_jobs_are_submitted_loses_none_that_it_accepted() {
    check(|| {
        let queue = Arc::new(Queue::new(JOBS, usize::MAX, Duration::MAX, |_| 1));
        let senders = start_senders(&queue);
        let taking = Arc::clone(&queue);
        let taker = thread::spawn(move || {
            let mut taken = Vec::new();
            while let Some(batch) = take(&taking) {
                taken.extend(batch);
            }
            taken
        });
        queue.close();
        assert_eq!(queue.submit(9), Err(9));
        compare(senders, &taker.join().unwrap());
    });
}

//! One thread that runs jobs for slow clients: each waits for its socket, moves some bytes, and
//! waits again.
//!
//! Each job has its own deadline, which is total: one byte now and then extends nothing. While
//! others find no more of the [`Budget`], jobs that move too little have to go.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::budget::Budget;
use crate::{
    rates::Reservation,
    threads::{lock, spawn},
};

/// While other clients are refused budget, a job that moves fewer bytes per second than this is
/// ended. The rate is measured over the last 500 to 1,000 ms.
const SHORT_MS_MAX: u64 = 500;
const SHORT_BYTES_PER_SECOND: u128 = 16 * 1024;
/// How long a process that is about to end waits for clients.
const DRAIN_CLIENT_MS_MAX: u64 = 1_000;
/// How often deadlines are checked.
const TICK_MS: i64 = 100;
/// Bytes that one job reads or writes before the next one runs.
const ROUND_BYTES: usize = 64 * 1024;

/// For what a job waits, and for how long.
pub(super) struct Wait {
    pub(super) stream: TcpStream,
    /// Whether the stream must be readable or writable.
    pub(super) readiness: PollFlags,
    /// How long the job may take: in all, and without moving a byte.
    pub(super) total_ms: u64,
    pub(super) pause_ms: u64,
    /// The client has its response, so that the job can be given up any time.
    pub(super) is_answered: bool,
}

impl Wait {
    pub(super) fn total(stream: TcpStream, readiness: PollFlags, total_ms: u64) -> Wait {
        Wait { stream, readiness, total_ms, pause_ms: total_ms, is_answered: false }
    }
}

/// Work for a client.
pub(super) trait Job: Send {
    /// Moves as many bytes as it can without waiting, at most `buffer`'s length. If it is late, it
    /// ends.
    fn run(self: Box<Self>, round: Round<'_>) -> Progress;
}

/// What a job gets each time that it runs.
pub(super) struct Round<'a> {
    pub(super) stream: &'a TcpStream,
    pub(super) buffer: &'a mut [u8],
    pub(super) lateness: Option<Late>,
}

/// Why a job has to end now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Late {
    /// It is past its deadline.
    Deadline,
    /// Others need what it holds, or the process is about to end.
    Evicted,
}

pub(super) enum Progress {
    /// It goes on, and has moved so many bytes: none where it would have to wait.
    Moved(Box<dyn Job>, usize),
    Done,
}

pub(super) struct Poller {
    submitted: Mutex<Vec<Entry>>,
    /// A byte here wakes the thread.
    waker: UnixStream,
    pub(super) budget: Budget,
    draining: OnceLock<Instant>,
}

/// A job that waits.
struct Entry {
    job: Box<dyn Job>,
    wait: Wait,
    client: Reservation,
    started: Instant,
    moved_bytes: usize,
    /// When it last moved a byte.
    moved: Instant,
    /// When the last two marks were set, the older one first, and the bytes moved by then.
    marks: [(Instant, usize); 2],
}

impl Poller {
    pub(super) fn start() -> io::Result<Arc<Poller>> {
        let (waker, woken) = UnixStream::pair()?;
        waker.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let (submitted, budget, draining) = (Mutex::default(), Budget::new(), OnceLock::new());
        let poller = Arc::new(Poller { submitted, waker, budget, draining });
        let own = Arc::clone(&poller);
        spawn("slow-clients", move || own.serve(woken))?;
        Ok(poller)
    }

    /// Runs a job whose client has been reserved.
    pub(super) fn submit(&self, client: Reservation, wait: Wait, job: impl Job + 'static) {
        let (job, now) = (Box::new(job), Instant::now());
        let (started, moved, marks) = (now, now, [(now, 0); 2]);
        let entry = Entry { job, wait, client, started, moved_bytes: 0, moved, marks };
        lock(&self.submitted).push(entry);
        // If the socket is full, the thread wakes anyway.
        let _ = (&self.waker).write(&[0]);
    }

    /// The process is about to end: from now on every job has little time.
    pub(super) fn drain(&self) {
        let _ = self.draining.set(Instant::now());
    }

    fn serve(&self, mut woken: UnixStream) {
        let mut entries: Vec<Entry> = Vec::new();
        let mut buffer = vec![0; ROUND_BYTES];
        loop {
            let ready = wait(&woken, &entries);
            while woken.read(&mut buffer).is_ok_and(|length| length == buffer.len()) {}
            let shortages = self.budget.take_shortages();
            let mut waiting = Vec::with_capacity(entries.len());
            let submitted = std::mem::take(&mut *lock(&self.submitted));
            // What is new may be ready, too.
            let is_ready = ready.into_iter().chain(std::iter::repeat(true));
            for (mut entry, is_ready) in entries.drain(..).chain(submitted).zip(is_ready) {
                entry.mark();
                let is_short = shortages.iter().any(|shortage| shortage.affects(&entry.client));
                let lateness = self.lateness(&entry, is_short);
                if is_ready || lateness.is_some() {
                    waiting.extend(entry.run(&mut buffer, lateness));
                } else {
                    waiting.push(entry);
                }
            }
            entries = waiting;
        }
    }

    fn lateness(&self, entry: &Entry, is_short: bool) -> Option<Late> {
        let Wait { total_ms, pause_ms, is_answered, .. } = entry.wait;
        let elapsed = entry.started.elapsed();
        let draining = self.draining.get().map(Instant::elapsed);
        // A client that has its response already gets no time of its own.
        let draining = draining.map(|since| if is_answered { since } else { since.min(elapsed) });
        if draining.is_some_and(|since| since > Duration::from_millis(DRAIN_CLIENT_MS_MAX))
            || is_short && (is_answered || entry.is_slow())
        {
            Some(Late::Evicted)
        } else {
            let is_late = elapsed > Duration::from_millis(total_ms)
                || entry.moved.elapsed() > Duration::from_millis(pause_ms);
            is_late.then_some(Late::Deadline)
        }
    }
}

/// Blocks until a job is ready, a job is submitted, or deadlines are due. Returns which jobs are
/// ready.
fn wait(woken: &UnixStream, entries: &[Entry]) -> Vec<bool> {
    let mut polled = Vec::with_capacity(entries.len() + 1);
    let waits = entries.iter().map(|entry| &entry.wait);
    polled.extend(waits.map(|wait| PollFd::new(&wait.stream, wait.readiness)));
    polled.push(PollFd::new(woken, PollFlags::IN));
    let tick = Timespec { tv_sec: 0, tv_nsec: TICK_MS * 1_000_000 };
    let until = if entries.is_empty() { None } else { Some(&tick) };
    let _ = poll(&mut polled, until);
    polled.iter().take(entries.len()).map(|polled| !polled.revents().is_empty()).collect()
}

impl Entry {
    /// `None` if the job is done.
    fn run(mut self, buffer: &mut [u8], lateness: Option<Late>) -> Option<Entry> {
        let (job, stream) = (self.job, &self.wait.stream);
        // A panic costs one job.
        let round = Round { stream, buffer, lateness };
        let progress = catch_unwind(AssertUnwindSafe(|| job.run(round)));
        let Ok(Progress::Moved(job, bytes)) = progress else { return None };
        self.job = job;
        if bytes > 0 {
            self.moved_bytes += bytes;
            self.moved = Instant::now();
        }
        Some(self)
    }

    /// To be called in every round.
    fn mark(&mut self) {
        let [_, newer] = self.marks;
        if newer.0.elapsed() >= Duration::from_millis(SHORT_MS_MAX) {
            self.marks = [newer, (Instant::now(), self.moved_bytes)];
        }
    }

    /// Since the older mark: by an average since the start, a client that has sent much could then
    /// hold its memory for long.
    fn is_slow(&self) -> bool {
        let [(since, before), _] = self.marks;
        let (elapsed, moved) = (since.elapsed(), self.moved_bytes - before);
        elapsed >= Duration::from_millis(SHORT_MS_MAX)
            && (moved as u128) < elapsed.as_millis() * SHORT_BYTES_PER_SECOND / 1000
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{Ipv4Addr, TcpListener},
        sync::mpsc,
    };

    use super::*;
    use crate::http::budget::{SLOW_CLIENT_BYTES_MAX, SLOW_CLIENTS_MAX};

    const LONG: Duration = Duration::from_mins(1);

    /// Reads until the end of the stream, and reports how it ended.
    struct Reading {
        read: usize,
        ended: mpsc::Sender<(usize, Option<Late>)>,
    }

    impl Job for Reading {
        fn run(mut self: Box<Self>, round: Round<'_>) -> Progress {
            let Round { mut stream, buffer, lateness } = round;
            match stream.read(buffer) {
                Ok(0) => {}
                Ok(length) if lateness.is_none() => {
                    self.read += length;
                    return Progress::Moved(self, length);
                }
                Err(_) if lateness.is_none() => return Progress::Moved(self, 0),
                _ => {}
            }
            self.ended.send((self.read, lateness)).unwrap();
            Progress::Done
        }
    }

    struct Panicking;

    impl Job for Panicking {
        fn run(self: Box<Self>, _: Round<'_>) -> Progress {
            panic!("asked to");
        }
    }

    /// A poller, and a listener for its clients. The channel tells how jobs end.
    struct Test {
        poller: Arc<Poller>,
        listener: TcpListener,
        ended: mpsc::Receiver<(usize, Option<Late>)>,
        sender: mpsc::Sender<(usize, Option<Late>)>,
    }

    impl Test {
        fn new() -> Test {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let (sender, ended) = mpsc::channel();
            Test { poller: Poller::start().unwrap(), listener, ended, sender }
        }

        /// Returns the client's end of the connection on which the job waits.
        fn submit(&self, total_ms: u64, is_answered: bool, job: impl Job + 'static) -> TcpStream {
            let client = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
            let (stream, _) = self.listener.accept().unwrap();
            stream.set_nonblocking(true).unwrap();
            let (readiness, pause_ms) = (PollFlags::IN, 60_000);
            let wait = Wait { stream, readiness, total_ms, pause_ms, is_answered };
            self.poller.submit(self.reserve_client().unwrap(), wait, job);
            client
        }

        fn reading(&self) -> Reading {
            Reading { read: 0, ended: self.sender.clone() }
        }

        fn reserve_client(&self) -> Option<Reservation> {
            self.poller.budget.clients.take(Ipv4Addr::LOCALHOST.into())
        }

        fn end(&self) -> (usize, Option<Late>) {
            self.ended.recv_timeout(LONG).unwrap()
        }
    }

    #[test]
    fn jobs_run_side_by_side_until_their_ends_and_give_their_reservations_back() {
        let test = Test::new();
        let mut clients: Vec<_> =
            (0..100).map(|_| test.submit(60_000, false, test.reading())).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            client.write_all(&vec![0; number * 1000]).unwrap();
        }
        drop(clients);
        let mut lengths: Vec<_> = (0..100).map(|_| test.end()).collect();
        lengths.sort_unstable_by_key(|(length, _)| *length);
        assert_eq!(lengths, (0..100).map(|n| (n * 1000, None)).collect::<Vec<_>>());
        let started = Instant::now();
        let all = || (0..SLOW_CLIENTS_MAX).map_while(|_| test.reserve_client()).collect::<Vec<_>>();
        while all().len() < SLOW_CLIENTS_MAX {
            assert!(started.elapsed() < LONG, "a reservation is not given back");
        }
    }

    #[test]
    fn a_deadline_is_total_whatever_bytes_arrive() {
        let test = Test::new();
        let mut client = test.submit(50, false, test.reading());
        let started = Instant::now();
        let lateness = loop {
            assert!(started.elapsed() < LONG, "the bytes extend the deadline");
            let _ = client.write(&[0]);
            if let Ok((_, lateness)) = test.ended.recv_timeout(Duration::from_millis(5)) {
                break lateness;
            }
        };
        assert_eq!(lateness, Some(Late::Deadline));
    }

    #[test]
    fn a_panic_costs_one_job() {
        let test = Test::new();
        let panicking = test.submit(60_000, false, Panicking);
        let other = test.submit(60_000, false, test.reading());
        drop((panicking, other));
        assert_eq!(test.end(), (0, None));
    }

    #[test]
    fn without_budget_slow_and_answered_clients_are_disconnected() {
        let test = Test::new();
        let _answered = test.submit(60_000, true, test.reading());
        let mut fast = test.submit(60_000, false, test.reading());
        let mut all = test.poller.budget.bytes.reserve_nothing(Ipv4Addr::LOCALHOST.into());
        assert!(all.grow(SLOW_CLIENT_BYTES_MAX));
        let _slow = test.submit(60_000, false, test.reading());
        let mut ends = Vec::new();
        while ends.len() < 2 {
            assert!(!all.grow(1), "a client finds nothing left");
            fast.write_all(&[0; 16 * 1024]).unwrap();
            ends.extend(test.ended.recv_timeout(Duration::from_millis(20)));
        }
        assert_eq!(ends, [(0, Some(Late::Evicted)); 2]);
        drop(fast);
        let (read, late) = test.end();
        assert!(read > 0);
        assert_eq!(late, None, "the fast one has reached its end");
    }

    #[test]
    fn a_process_that_ends_waits_a_second_for_a_job_at_most() {
        let test = Test::new();
        let _client = test.submit(60_000, false, test.reading());
        test.poller.drain();
        assert_eq!(test.end(), (0, Some(Late::Evicted)));
    }
}

//! Long polling of the feed: one thread for all waiting readers, woken by commits.
//!
//! Waiters with equal cursor and limit share one query and one serialized response. While many
//! messages are delivered, the thread pauses between its rounds, so that a thousand readers do not
//! slow down the deliveries; each response then has more messages. When a round has not the time
//! for all readers, they are answered in the order in which they asked.
//!
//! The server of the database may be far away. A round therefore takes as long as several queries
//! at least, and what can be answered without one is.

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use super::reply::reply;
use crate::{
    api::{FeedQuery, feed},
    error::Error,
    http::{Exchange, Response},
    metrics::Metrics,
    rates::{Pool, Reservation},
    store::Reader,
    threads::spawn,
};

/// Readers that may wait, or half the number of connections, if that is less. One client may have
/// half of these slots.
pub(crate) const FEED_WAITING_MAX: usize = 8_192;

/// The pause after a round: this many times as long as the round for each thousand messages that
/// are delivered per second, up to the second factor, and not longer than the last value.
const PAUSE_FACTOR: f64 = 8.0;
const PAUSE_FACTOR_LARGEST: f64 = 80.0;
const PAUSE_LONGEST: Duration = Duration::from_secs(2);
/// How long a round goes on answering readers: so many times as long as its first query took, but
/// at least and at most this long. Readers that wait for new messages have half of it while other
/// readers catch up, so that neither kind holds up the other.
const ROUND_QUERIES: u32 = 8;
const ROUND_SHORTEST: Duration = Duration::from_millis(20);
const ROUND_LONGEST: Duration = Duration::from_secs(2);
/// How often the thread looks for readers that have disconnected, which costs 6 µs per reader.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The handle on the thread. Dropping it does not end the thread.
pub(crate) struct Feed {
    events: Sender<Event>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Those of the readers that wait.
    slots: Arc<Pool>,
    /// Messages committed since the last round.
    committed: AtomicU64,
    metrics: Arc<Metrics>,
}

enum Event {
    Waits(Exchange, FeedQuery, Reservation),
    Committed,
    /// The process is about to end, so no reader waits any more.
    Closed,
}

struct Waiter {
    exchange: Exchange,
    query: FeedQuery,
    priority: Priority,
    until: Instant,
    /// The last cursor at which there was no message for the reader, such as after the newest
    /// messages have been erased.
    unanswered: Option<i64>,
    slot: Reservation,
}

/// The order in which readers are answered: first those that wait for new messages, then those that
/// catch up, and in each group the one that asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Priority {
    /// False once a round has found no message for the reader.
    catches_up: bool,
    asked: Instant,
}

impl Feed {
    /// Starts the thread, for as many readers as half of the connections.
    pub(crate) fn start(
        reader: Reader,
        connections: usize,
        metrics: &Arc<Metrics>,
    ) -> io::Result<Feed> {
        let (sender, events) = channel();
        let shared = Arc::new(Shared {
            slots: Pool::new(FEED_WAITING_MAX.min(connections / 2), 2),
            committed: AtomicU64::new(0),
            metrics: Arc::clone(metrics),
        });
        let now = Instant::now();
        let mut follower = Follower {
            reader,
            shared: Arc::clone(&shared),
            waiters: Vec::new(),
            is_closed: false,
            polled: now,
            swept: now,
            is_behind: false,
        };
        let run = move || {
            while follower.listen(&events) {
                follower.round();
            }
        };
        spawn("feed", run)?;
        Ok(Feed { events: sender, shared })
    }

    /// Lets a reader of this client wait.
    ///
    /// # Errors
    /// Returns the exchange and an error if too many readers wait.
    pub(crate) fn wait(
        &self,
        exchange: Exchange,
        client: IpAddr,
        query: FeedQuery,
    ) -> Result<(), (Exchange, Error)> {
        let Some(slot) = self.shared.slots.take(client) else {
            let problem =
                "too many waiting readers, of this client or of all clients, try again later";
            return Err((exchange, Error::Unavailable(problem)));
        };
        self.shared.metrics.feed_waiters.add(1);
        // The thread ends with the process only.
        let _ = self.events.send(Event::Waits(exchange, query, slot));
        Ok(())
    }

    /// To be called after each commit, with the number of new messages.
    pub(crate) fn committed(&self, messages: u64) {
        if messages > 0
            && self.shared.committed.fetch_add(messages, SeqCst) == 0
            && self.shared.slots.taken() > 0
        {
            let _ = self.events.send(Event::Committed);
        }
    }

    /// Answers all readers, now and from now on, since the process is about to end.
    pub(crate) fn close(&self) {
        let _ = self.events.send(Event::Closed);
    }
}

struct Follower {
    reader: Reader,
    shared: Arc<Shared>,
    waiters: Vec<Waiter>,
    is_closed: bool,
    /// The start of the last round.
    polled: Instant,
    /// When the thread last looked for readers that have disconnected.
    swept: Instant,
    /// The last round ended before every reader was answered.
    is_behind: bool,
}

impl Follower {
    /// Waits for an event or the next deadline. False when the handle is dropped.
    fn listen(&mut self, events: &Receiver<Event>) -> bool {
        let now = Instant::now();
        let until = self.waiters.iter().map(|waiter| waiter.until).min();
        let event = match until {
            _ if self.is_behind => events.recv_timeout(Duration::ZERO),
            None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(until) => {
                let poll = self.reader.poll_interval();
                events.recv_timeout(until.saturating_duration_since(now).min(poll))
            }
        };
        let event = match event {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return false,
        };
        for event in event.into_iter().chain(events.try_iter()) {
            match event {
                Event::Waits(exchange, query, slot) => {
                    let asked = Instant::now();
                    let priority = Priority { catches_up: true, asked };
                    let until = asked + query.wait;
                    let unanswered = None;
                    self.waiters.push(Waiter {
                        exchange,
                        query,
                        priority,
                        until,
                        unanswered,
                        slot,
                    });
                }
                Event::Committed => {}
                Event::Closed => self.is_closed = true,
            }
        }
        true
    }

    /// Answers the readers for which there are messages or whose time is over, in the order of
    /// their priorities, as many as there is time for.
    fn round(&mut self) {
        let started = Instant::now();
        let since = started - std::mem::replace(&mut self.polled, started);
        // This comes before the read, so that a commit after the read wakes this thread again.
        let committed = self.shared.committed.swap(0, SeqCst);
        self.is_behind = false;
        if self.is_closed {
            return self.send_all(feed::no_messages);
        }
        let last = match self.reader.last_cursor() {
            Ok(last) => last,
            Err(error) => return self.send_all(|_| Response::from(&error)),
        };
        let answering = Instant::now();
        let asked = answering - started;
        let longest = (asked * ROUND_QUERIES).clamp(ROUND_SHORTEST, ROUND_LONGEST);
        let sweeps = self.swept.elapsed() >= SWEEP_INTERVAL;
        if sweeps {
            self.swept = started;
        }
        let mut answers = HashMap::new();
        let mut waiters = std::mem::take(&mut self.waiters);
        waiters.sort_by_key(|waiter| waiter.priority);
        let is_catching_up = waiters.last().is_some_and(|waiter| waiter.priority.catches_up);
        // A query may take the whole time: in each round one reader of each kind is answered.
        let mut has_answered = [false; 2];
        for mut waiter in waiters {
            let FeedQuery { after, limit, .. } = waiter.query;
            // A reader that has disconnected would keep a slot, and the address of its connection.
            if sweeps && waiter.exchange.is_closed_by_peer() {
                self.send(waiter, &feed::no_messages(after));
                continue;
            }
            let is_over = waiter.until <= started;
            let is_newest = last == after || waiter.unanswered == Some(last);
            if !is_over && is_newest {
                waiter.priority.catches_up = false;
                self.waiters.push(waiter);
                continue;
            }
            let kind = usize::from(waiter.priority.catches_up);
            let time = if is_catching_up && kind == 0 { longest / 2 } else { longest };
            if has_answered[kind] && answering.elapsed() > time {
                self.is_behind = true;
                self.waiters.push(waiter);
                continue;
            }
            let (response, is_anything) = match answers.entry((after, limit)) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) if is_newest => new.insert((feed::no_messages(after), false)),
                Entry::Vacant(new) => new.insert(answer(&mut self.reader, after, limit)),
            };
            if !is_over && !*is_anything {
                waiter.unanswered = Some(last);
                self.waiters.push(waiter);
                continue;
            }
            has_answered[kind] = true;
            self.send(waiter, response);
        }
        thread::sleep(pause(committed, since, started.elapsed()));
    }

    /// Answers every reader, without the database: by the cursor after which it asked.
    fn send_all(&mut self, response: impl Fn(i64) -> Response) {
        for waiter in std::mem::take(&mut self.waiters) {
            let response = response(waiter.query.after);
            self.send(waiter, &response);
        }
    }

    fn send(&self, waiter: Waiter, response: &Response) {
        // The slot is free before the reader has its response, since it may ask again at once.
        drop(waiter.slot);
        // A panic costs one reader its response.
        let (metrics, exchange) = (&self.shared.metrics, waiter.exchange);
        let send = || reply(metrics, exchange, response, None);
        let _ = catch_unwind(AssertUnwindSafe(send));
        metrics.feed_waiters.add(-1);
    }
}

/// The response, and whether a reader is to get it at once: it has messages, or is an error.
fn answer(reader: &mut Reader, after: i64, limit: i64) -> (Response, bool) {
    let read = catch_unwind(AssertUnwindSafe(|| feed::answer(reader, after, limit)));
    match read.unwrap_or(Err(Error::Internal)) {
        Ok(answer) => answer,
        Err(error) => (Response::from(&error), true),
    }
}

/// The pause after a round that took this long, with so many messages committed since the last
/// round.
fn pause(messages: u64, since: Duration, took: Duration) -> Duration {
    #[expect(clippy::cast_precision_loss, reason = "an approximate rate")]
    let thousands = messages as f64 / 1e3 / since.as_secs_f64().max(1e-3);
    took.mul_f64((thousands * PAUSE_FACTOR).min(PAUSE_FACTOR_LARGEST)).min(PAUSE_LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_that_catch_up_come_last_and_the_oldest_request_first() {
        let start = Instant::now();
        let priority = |catches_up, asked_ms| Priority {
            catches_up,
            asked: start + Duration::from_millis(asked_ms),
        };
        let unsorted = [(true, 0), (false, 9), (true, 5), (false, 3)];
        let mut sorted = unsorted.map(|(catches_up, asked_ms)| priority(catches_up, asked_ms));
        sorted.sort();
        let expected = [(false, 3), (false, 9), (true, 0), (true, 5)];
        assert_eq!(sorted, expected.map(|(catches_up, asked)| priority(catches_up, asked)));
    }

    #[test]
    fn the_pause_grows_with_the_rate_of_deliveries() {
        let (second, round) = (Duration::from_secs(1), Duration::from_millis(20));
        assert_eq!(pause(0, second, round), Duration::ZERO);
        assert!(pause(10, second, round) < Duration::from_millis(2));
        assert_eq!(pause(1_000, second, round), Duration::from_millis(160));
        assert_eq!(pause(15_000, second, round), Duration::from_millis(1_600));
        assert_eq!(pause(15_000, second, second), PAUSE_LONGEST);
        assert!(pause(1, Duration::ZERO, round) < Duration::from_millis(200));
    }
}

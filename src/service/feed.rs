//! Readers of the feed who wait: one thread for all of them, woken by commits.
//!
//! Who waits for the same is told the same, read and written down once. Where much is delivered, the
//! thread rests between its rounds, so that a thousand readers do not slow down what they wait for;
//! they are told more at a time instead. Where there are more answers to send than time, readers have
//! their turns in the order in which they asked.

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
    rates::{Place, Places},
    store::Reader,
    threads::spawn,
};

/// Readers that may wait; half as many as connections, if those are fewer. One client may have half of
/// these places.
pub(crate) const FEED_WAITING_MAX: usize = 8_192;

/// A round is followed by a rest this many times as long, for each thousand messages a second that
/// are delivered: up to so many times, and no longer than that.
const REST_FACTOR: f64 = 8.0;
const REST_FACTOR_LARGEST: f64 = 80.0;
const REST_LONGEST: Duration = Duration::from_secs(2);
/// A round answers no more readers than it can in this time.
const ROUND_LONGEST: Duration = Duration::from_millis(20);
/// Of it, what readers who wait for the newest messages may take where others wait who catch up: neither
/// holds up the other.
const NEWEST_LONGEST: Duration = Duration::from_millis(10);
/// How often it is looked for what another process has committed, an import say; and for readers who
/// have gone, which costs 6 µs for each.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const CLEAR_EVERY: Duration = Duration::from_secs(1);

/// Where readers wait. Dropping it ends nothing.
#[derive(Debug)]
pub(crate) struct Feed {
    events: Sender<Event>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Of readers that wait, or are about to.
    places: Arc<Places>,
    /// Messages committed that the thread has not seen yet.
    committed: AtomicU64,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
enum Event {
    Asked(Exchange, FeedQuery, Place),
    Committed,
    /// Nobody is to wait any more.
    Closed,
}

struct Waiter {
    exchange: Exchange,
    follow: FeedQuery,
    turn: Turn,
    until: Instant,
    place: Place,
}

/// Which readers are answered before which, where there is not the time for all: first those who wait
/// for the newest messages, then those who catch up, and of both the one that asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    /// There were messages for it when it asked. Otherwise a round found nothing for it yet.
    catches_up: bool,
    asked: Instant,
}

/// The thread's end.
pub(crate) struct Events(Receiver<Event>, Arc<Shared>);

impl Feed {
    pub(crate) fn new(connections: usize, metrics: &Arc<Metrics>) -> (Feed, Events) {
        let (events, received) = channel();
        let shared = Arc::new(Shared {
            places: Places::new(FEED_WAITING_MAX.min(connections / 2)),
            committed: AtomicU64::new(0),
            metrics: Arc::clone(metrics),
        });
        let events_of_thread = Events(received, Arc::clone(&shared));
        (Feed { events, shared }, events_of_thread)
    }

    /// Lets a reader wait, for this client.
    ///
    /// # Errors
    /// Gives the exchange back when too many do, and what to answer.
    pub(crate) fn wait(
        &self,
        exchange: Exchange,
        client: IpAddr,
        follow: FeedQuery,
    ) -> Result<(), (Exchange, Error)> {
        let Some(place) = self.shared.places.take(client) else {
            let problem = "too many readers wait, of this client or in all, try again later";
            return Err((exchange, Error::Unavailable(problem)));
        };
        self.shared.metrics.feed_waiters.add(1);
        // The thread ends with the process only.
        let _ = self.events.send(Event::Asked(exchange, follow, place));
        Ok(())
    }

    /// So many messages are on disk.
    pub(crate) fn committed(&self, messages: u64) {
        if messages > 0
            && self.shared.committed.fetch_add(messages, SeqCst) == 0
            && self.shared.places.taken() > 0
        {
            let _ = self.events.send(Event::Committed);
        }
    }

    /// Tells everybody that nothing has come, now and from now on: the process is about to end.
    pub(crate) fn close(&self) {
        let _ = self.events.send(Event::Closed);
    }
}

impl Events {
    /// Starts the thread.
    pub(crate) fn serve(self, reader: Reader) -> io::Result<()> {
        let Events(events, shared) = self;
        let now = Instant::now();
        let mut follower = Follower {
            reader,
            shared,
            waiters: Vec::new(),
            is_closed: false,
            looked: now,
            cleared: now,
            is_behind: false,
        };
        let run = move || {
            while follower.listen(&events) {
                follower.round();
            }
        };
        spawn("feed", run).map(drop)
    }
}

struct Follower {
    reader: Reader,
    shared: Arc<Shared>,
    waiters: Vec<Waiter>,
    is_closed: bool,
    /// When the last round began.
    looked: Instant,
    /// When it was last looked for readers who have gone.
    cleared: Instant,
    /// The last round ended before everybody was served.
    is_behind: bool,
}

impl Follower {
    /// Until there is something to do.
    fn listen(&mut self, events: &Receiver<Event>) -> bool {
        let now = Instant::now();
        let until = self.waiters.iter().map(|waiter| waiter.until).min();
        let event = match until {
            _ if self.is_behind => events.recv_timeout(Duration::ZERO),
            None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(until) => {
                events.recv_timeout(until.saturating_duration_since(now).min(LOOK_EVERY))
            }
        };
        let event = match event {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return false,
        };
        for event in event.into_iter().chain(events.try_iter()) {
            match event {
                Event::Asked(exchange, follow, place) => {
                    let asked = Instant::now();
                    let turn = Turn { catches_up: true, asked };
                    let until = asked + follow.wait;
                    self.waiters.push(Waiter { exchange, follow, turn, until, place });
                }
                Event::Committed => {}
                Event::Closed => self.is_closed = true,
            }
        }
        true
    }

    /// Answers those for whom there is something, or whose time is over, in the order of their turns
    /// and no more than there is time for. The others come next.
    fn round(&mut self) {
        let started = Instant::now();
        // Before it is read what there is: what is committed later wakes this thread again.
        let committed = self.shared.committed.swap(0, SeqCst);
        let last = self.reader.last_cursor();
        let clears = self.cleared.elapsed() >= CLEAR_EVERY;
        if clears {
            self.cleared = started;
        }
        let mut answers = HashMap::new();
        let mut waiters = std::mem::take(&mut self.waiters);
        waiters.sort_by_key(|waiter| waiter.turn);
        let is_catching_up = waiters.last().is_some_and(|waiter| waiter.turn.catches_up);
        self.is_behind = false;
        for mut waiter in waiters {
            let FeedQuery { after, limit, .. } = waiter.follow;
            // Who has gone would keep a place, and its connection's address, for nothing.
            let is_over = self.is_closed
                || waiter.until <= started
                || (clears && waiter.exchange.is_closed_by_peer());
            if !is_over && last == Ok(after) {
                waiter.turn.catches_up = false;
                self.waiters.push(waiter);
                continue;
            }
            let has_half = is_catching_up && !waiter.turn.catches_up;
            let longest = if has_half { NEWEST_LONGEST } else { ROUND_LONGEST };
            if !self.is_closed && started.elapsed() > longest {
                self.is_behind = true;
                self.waiters.push(waiter);
                continue;
            }
            let (response, is_anything) = match answers.entry((after, limit)) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(answer(&mut self.reader, after, limit)),
            };
            if !is_over && !*is_anything {
                self.waiters.push(waiter);
                continue;
            }
            // Before the reader has its answer, since it may ask again at once.
            drop(waiter.place);
            // A panic costs one reader.
            let (metrics, exchange) = (&self.shared.metrics, waiter.exchange);
            let send = || reply(metrics, exchange, response, None);
            let _ = catch_unwind(AssertUnwindSafe(send));
            metrics.feed_waiters.add(-1);
        }
        if !self.is_closed {
            thread::sleep(rest(committed, started - self.looked, started.elapsed()));
        }
        self.looked = started;
    }
}

/// An error is something to be told, too.
fn answer(reader: &mut Reader, after: i64, limit: i64) -> (Response, bool) {
    let read = catch_unwind(AssertUnwindSafe(|| feed::answer(reader, after, limit)));
    match read.unwrap_or(Err(Error::Internal)) {
        Ok(answer) => answer,
        Err(error) => (Response::from(&error), true),
    }
}

/// After a round that took this long, with so many messages since the one before it.
fn rest(messages: u64, since: Duration, took: Duration) -> Duration {
    #[expect(clippy::cast_precision_loss, reason = "a rate is about")]
    let thousands = messages as f64 / 1e3 / since.as_secs_f64().max(1e-3);
    took.mul_f64((thousands * REST_FACTOR).min(REST_FACTOR_LARGEST)).min(REST_LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_question_has_its_turn_first_and_those_who_catch_up_come_last() {
        let start = Instant::now();
        let turn = |catches_up, asked_ms| Turn {
            catches_up,
            asked: start + Duration::from_millis(asked_ms),
        };
        let mut turns = [turn(true, 0), turn(false, 9), turn(true, 5), turn(false, 3)];
        turns.sort();
        assert_eq!(turns, [turn(false, 3), turn(false, 9), turn(true, 0), turn(true, 5)]);
    }

    #[test]
    fn the_thread_rests_by_how_much_is_delivered() {
        let (second, round) = (Duration::from_secs(1), Duration::from_millis(20));
        assert_eq!(rest(0, second, round), Duration::ZERO);
        assert!(rest(10, second, round) < Duration::from_millis(2));
        assert_eq!(rest(1_000, second, round), Duration::from_millis(160));
        assert_eq!(rest(15_000, second, round), Duration::from_millis(1_600));
        assert_eq!(rest(15_000, second, second), REST_LONGEST);
        assert!(rest(1, Duration::ZERO, round) < Duration::from_millis(200));
    }
}

//! One thread that waits for all slow clients at once: for bodies to arrive, for answers to be read,
//! for refused senders to notice.
//!
//! Each has its own deadline, which is total: one byte now and then gains nothing. What they hold of
//! our memory is bounded, whatever their number.

use std::{
    collections::{HashMap, HashSet},
    io::{self, Read, Write},
    net::{IpAddr, TcpStream},
    os::unix::net::UnixStream,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    incoming::{Arrival, Body, Missing},
    listener::lock,
    socket::{discard_now, is_not_yet, reset, send_now},
};
use crate::{metrics::Disconnect, rates};

/// Clients that are waited for; with one more a body is told 503, an answer or a refusal is cut off.
pub(crate) const WAITING_MAX: usize = 512;
/// Bytes of bodies and large answers that wait for clients or for a worker; beyond, 503.
pub(crate) const WAITING_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The clients of one address, or of one /64 of IPv6, get one in so many of both.
const ADDRESS_DIVISOR: usize = 4;
/// From the end of a head to the end of its body.
const BODY_MS_MAX: u64 = 10_000;
/// From the first byte of a large answer to its last.
const ANSWER_MS_MAX: u64 = 10_000;
/// How long a client may go on sending what was refused, so that it reads the refusal: with a
/// pause, and in all.
const LINGER_PAUSE_MS_MAX: u64 = 1_000;
const LINGER_MS_MAX: u64 = 10_000;
/// How much of it is read, at most.
const LINGER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// While others find no room, a client must go on moving this much a second. It is judged by what it
/// has moved since one of the marks that are set this far apart: in the last half to whole second.
const SHORT_MS_MAX: u64 = 500;
const SHORT_BYTES_PER_SECOND: u128 = 16 * 1024;
/// How long a process that is about to end waits for clients.
const DRAIN_CLIENT_MS_MAX: u64 = 1_000;
/// How often deadlines are looked at.
const TICK_MS: i64 = 100;
/// What is read or written for one client before the next has its turn.
const ROUND_BYTES: usize = 64 * 1024;

pub(super) struct Waiting {
    incoming: Mutex<Vec<Item>>,
    /// A byte here makes the thread look.
    bell: UnixStream,
    pool: Arc<Pool>,
}

/// How much of [`WAITING_MAX`] and [`WAITING_BYTES_MAX`] is in use.
#[derive(Default)]
struct Pool(Mutex<Usage>);

#[derive(Default)]
struct Usage {
    all: Share,
    /// Of addresses that use anything.
    by_address: HashMap<IpAddr, Share>,
    /// Who has found no room since the clients were last looked at.
    shortage: Shortage,
}

#[derive(Default, Clone, Copy, PartialEq)]
struct Share {
    clients: usize,
    bytes: usize,
}

const ONE_CLIENT: Share = Share { clients: 1, bytes: 0 };

#[derive(Default)]
struct Shortage {
    is_general: bool,
    /// Those that use all that an address may.
    addresses: HashSet<IpAddr>,
}

/// A part of [`WAITING_BYTES_MAX`], given back when it is dropped.
pub(super) struct Reserved {
    bytes: usize,
    address: IpAddr,
    pool: Arc<Pool>,
}

/// A client that is waited for.
pub(super) struct Item {
    pub(super) arrival: Arrival,
    pub(super) stream: TcpStream,
    work: Work,
    /// When the wait began, and when something last came of it.
    since: Instant,
    moved: Instant,
    /// When the last two marks were set, the older one first, and the bytes moved by then.
    marks: [(Instant, usize); 2],
}

pub(super) enum Work {
    Body { bytes: Vec<u8>, length: usize, memory: Reserved },
    Answer { bytes: Vec<u8>, sent: usize, is_last: bool, _memory: Reserved },
    Refusal { discarded: usize },
}

/// What a look at a client has come to.
enum Step {
    Waits(Item),
    Done,
}

impl Waiting {
    pub(super) fn start() -> io::Result<Arc<Waiting>> {
        let (bell, rung) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        rung.set_nonblocking(true)?;
        let waiting = Arc::new(Waiting { incoming: Mutex::default(), bell, pool: Arc::default() });
        let own = Arc::clone(&waiting);
        thread::Builder::new().name("waiting".into()).spawn(move || own.run(rung))?;
        Ok(waiting)
    }

    /// # Errors
    /// Gives the item back when [`WAITING_MAX`] wait already, or too many of its address.
    pub(super) fn add(&self, item: Item) -> Result<(), Item> {
        if !self.pool.take(item.address(), ONE_CLIENT) {
            return Err(item);
        }
        lock(&self.incoming).push(item);
        // A full bell rings already.
        let _ = (&self.bell).write(&[0]);
        Ok(())
    }

    /// No memory yet for a client of this address, to be grown as it is needed.
    pub(super) fn memory(&self, address: IpAddr) -> Reserved {
        Reserved { bytes: 0, address: accounted(address), pool: Arc::clone(&self.pool) }
    }

    fn run(&self, mut rung: UnixStream) {
        let mut items: Vec<Item> = Vec::new();
        let mut buffer = vec![0; ROUND_BYTES];
        loop {
            let ready = wait(&rung, &items);
            while rung.read(&mut buffer).is_ok_and(|length| length == buffer.len()) {}
            let mut waits = Vec::with_capacity(items.len());
            let known = items.len();
            let shortage = self.pool.take_shortage();
            items.append(&mut lock(&self.incoming));
            for (number, mut item) in items.drain(..).enumerate() {
                item.mark();
                let address = item.address();
                let is_short = shortage.is_general || shortage.addresses.contains(&address);
                if number < known
                    && !ready[number]
                    && !item.is_late()
                    && !item.is_in_the_way(is_short)
                {
                    waits.push(item);
                    continue;
                }
                // A panic costs one client.
                let stepped = catch_unwind(AssertUnwindSafe(|| item.step(&mut buffer, is_short)));
                match stepped {
                    Ok(Step::Waits(item)) => waits.push(item),
                    Ok(Step::Done) | Err(_) => self.pool.give_back(address, ONE_CLIENT),
                }
            }
            items = waits;
        }
    }
}

/// Blocks until a client is ready, the bell rings, or it is time to look at deadlines; says which
/// clients are ready.
fn wait(rung: &UnixStream, items: &[Item]) -> Vec<bool> {
    let mut polled = Vec::with_capacity(items.len() + 1);
    polled.extend(items.iter().map(|item| PollFd::new(&item.stream, item.awaited())));
    polled.push(PollFd::new(rung, PollFlags::IN));
    let tick = Timespec { tv_sec: 0, tv_nsec: TICK_MS * 1_000_000 };
    let until = if items.is_empty() { None } else { Some(&tick) };
    let _ = poll(&mut polled, until);
    polled.iter().take(items.len()).map(|polled| !polled.revents().is_empty()).collect()
}

impl Item {
    pub(super) fn new(arrival: Arrival, stream: TcpStream, work: Work) -> Item {
        let now = Instant::now();
        Item { arrival, stream, work, since: now, moved: now, marks: [(now, 0); 2] }
    }

    fn address(&self) -> IpAddr {
        accounted(self.arrival.turn.peer.ip())
    }

    fn awaited(&self) -> PollFlags {
        match self.work {
            Work::Body { .. } | Work::Refusal { .. } => PollFlags::IN,
            Work::Answer { .. } => PollFlags::OUT,
        }
    }

    /// Past its deadline.
    fn is_late(&self) -> bool {
        let (total_ms, pause_ms) = match self.work {
            Work::Body { .. } => (BODY_MS_MAX, BODY_MS_MAX),
            Work::Answer { .. } => (ANSWER_MS_MAX, ANSWER_MS_MAX),
            Work::Refusal { .. } => (LINGER_MS_MAX, LINGER_PAUSE_MS_MAX),
        };
        self.since.elapsed() > Duration::from_millis(total_ms)
            || self.moved.elapsed() > Duration::from_millis(pause_ms)
    }

    /// Has to go for our reasons: the process is to end, or others find no room and this one is slow.
    fn is_in_the_way(&self, is_short: bool) -> bool {
        let patience = |since: Duration, ms| since > Duration::from_millis(ms);
        let elapsed = self.since.elapsed();
        let is_refused = matches!(self.work, Work::Refusal { .. });
        let draining = self.arrival.turn.listener.draining();
        // What has been answered gets no time of its own.
        let draining = draining.map(|since| if is_refused { since } else { since.min(elapsed) });
        if draining.is_some_and(|since| patience(since, DRAIN_CLIENT_MS_MAX)) {
            return true;
        }
        // What has been refused has been answered.
        is_short && (is_refused || self.is_slow())
    }

    /// The bytes that have been read of a body, or sent of an answer.
    fn moved_bytes(&self) -> usize {
        match &self.work {
            Work::Body { bytes, .. } => bytes.len(),
            Work::Answer { sent, .. } => *sent,
            Work::Refusal { discarded } => *discarded,
        }
    }

    /// To be called at every look.
    fn mark(&mut self) {
        let [_, (newer, _)] = self.marks;
        if newer.elapsed() >= Duration::from_millis(SHORT_MS_MAX) {
            self.marks = [self.marks[1], (Instant::now(), self.moved_bytes())];
        }
    }

    /// An average since the beginning would let a client that has sent much hold its memory for long.
    fn is_slow(&self) -> bool {
        let [(since, before), _] = self.marks;
        let (elapsed, moved) = (since.elapsed(), self.moved_bytes() - before);
        elapsed >= Duration::from_millis(SHORT_MS_MAX)
            && (moved as u128) < elapsed.as_millis() * SHORT_BYTES_PER_SECOND / 1000
    }

    /// As far as it goes without waiting, but for one round only.
    fn step(self, buffer: &mut [u8], is_short: bool) -> Step {
        let is_in_the_way = self.is_in_the_way(is_short);
        let is_late = is_in_the_way || self.is_late();
        match self.work {
            // The sender is not to blame, and is to send again.
            Work::Body { .. } if is_in_the_way => self.read(buffer, Some(Missing::NoRoom)),
            Work::Body { .. } => self.read(buffer, is_late.then_some(Missing::Late)),
            Work::Answer { .. } => self.write(is_late),
            Work::Refusal { .. } => self.linger(buffer, is_late),
        }
    }

    fn read(mut self, buffer: &mut [u8], late: Option<Missing>) -> Step {
        let Work::Body { mut bytes, length, mut memory } = self.work else { return Step::Done };
        let round = (length - bytes.len()).min(buffer.len());
        let body = match self.arrival.read(&mut buffer[..round]) {
            Ok(0) => Err(Missing::Short),
            Ok(read) if memory.grow(read) => {
                bytes.reserve_exact(read);
                bytes.extend_from_slice(&buffer[..read]);
                if bytes.len() == length {
                    Ok(Body { bytes, _memory: memory })
                } else if let Some(missing) = late {
                    Err(missing)
                } else {
                    self.work = Work::Body { bytes, length, memory };
                    return self.goes_on();
                }
            }
            Ok(_) => Err(Missing::NoRoom),
            Err(error) if is_not_yet(&error) => {
                if let Some(missing) = late {
                    Err(missing)
                } else {
                    self.work = Work::Body { bytes, length, memory };
                    return Step::Waits(self);
                }
            }
            Err(_) => {
                self.arrival.abandon(&self.stream);
                return Step::Done;
            }
        };
        self.arrival.come_back(&self.stream, body);
        Step::Done
    }

    fn write(mut self, is_late: bool) -> Step {
        let Work::Answer { bytes, sent, is_last, .. } = &mut self.work else { return Step::Done };
        let end = bytes.len().min(*sent + ROUND_BYTES);
        match send_now(&self.stream, &bytes[*sent..end]) {
            Ok(length) => {
                *sent += length;
                if *sent == bytes.len() {
                    self.arrival.sent(&self.stream, *is_last);
                    return Step::Done;
                }
                if !is_late {
                    return self.goes_on();
                }
            }
            Err(error) if is_not_yet(&error) => {
                if !is_late {
                    return Step::Waits(self);
                }
            }
            Err(_) => {
                self.arrival.abandon(&self.stream);
                return Step::Done;
            }
        }
        self.arrival.cut(&self.stream, Disconnect::Answer);
        Step::Done
    }

    fn linger(mut self, buffer: &mut [u8], is_late: bool) -> Step {
        let Work::Refusal { discarded } = &mut self.work else { return Step::Done };
        match discard_now(&self.stream, buffer) {
            Ok(0) => {}
            Ok(length) if !is_late && *discarded + length < LINGER_BYTES_MAX => {
                *discarded += length;
                return self.goes_on();
            }
            Err(error) if !is_late && is_not_yet(&error) => return Step::Waits(self),
            _ => reset(&self.stream),
        }
        self.arrival.abandon(&self.stream);
        Step::Done
    }

    fn goes_on(mut self) -> Step {
        self.moved = Instant::now();
        Step::Waits(self)
    }
}

/// The address that a client's use is accounted to: of IPv6, its /64.
fn accounted(address: IpAddr) -> IpAddr {
    let address = address.to_canonical();
    if address.is_loopback() { address } else { rates::block(address) }
}

impl Pool {
    /// Takes as much more for this address, if that much is free.
    fn take(&self, address: IpAddr, more: Share) -> bool {
        let mut usage = lock(&self.0);
        let own = usage.by_address.get(&address).copied().unwrap_or_default();
        if !usage.all.has_room(more, 1) {
            usage.shortage.is_general = true;
            return false;
        }
        // A proxy on this machine speaks for everybody.
        if !address.is_loopback() && !own.has_room(more, ADDRESS_DIVISOR) {
            usage.shortage.addresses.insert(address);
            return false;
        }
        usage.all = usage.all.plus(more);
        usage.by_address.insert(address, own.plus(more));
        true
    }

    fn give_back(&self, address: IpAddr, share: Share) {
        let mut usage = lock(&self.0);
        usage.all = usage.all.minus(share);
        let own = usage.by_address.get(&address).copied().unwrap_or_default().minus(share);
        if own == Share::default() {
            usage.by_address.remove(&address);
        } else {
            usage.by_address.insert(address, own);
        }
    }

    fn take_shortage(&self) -> Shortage {
        let mut usage = lock(&self.0);
        let mut shortage = std::mem::take(&mut usage.shortage);
        shortage.is_general |= usage.all.clients >= WAITING_MAX;
        shortage
    }
}

impl Share {
    fn has_room(self, more: Share, divisor: usize) -> bool {
        self.clients + more.clients <= WAITING_MAX / divisor
            && self.bytes + more.bytes <= WAITING_BYTES_MAX / divisor
    }

    fn plus(self, more: Share) -> Share {
        Share { clients: self.clients + more.clients, bytes: self.bytes + more.bytes }
    }

    fn minus(self, less: Share) -> Share {
        Share { clients: self.clients - less.clients, bytes: self.bytes - less.bytes }
    }
}

impl Reserved {
    /// Takes as much more, if that much is free.
    pub(super) fn grow(&mut self, bytes: usize) -> bool {
        let found = self.pool.take(self.address, Share { clients: 0, bytes });
        if found {
            self.bytes += bytes;
        }
        found
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.pool.give_back(self.address, Share { clients: 0, bytes: self.bytes });
    }
}

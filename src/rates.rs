//! Limits for clients: their rate of requests, and their share of what is limited. Pure: the caller
//! gives the time.
//!
//! Each address, and all addresses together, may send the requests of one second at once, and then
//! so many per second. This is the generic cell rate algorithm (GCRA), which keeps one time for
//! each.
//!
//! Of what is limited and held for long, such as slots for exports and memory for slow clients, one
//! client may hold a fraction.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    mem,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::{config::Rates, error::Error, threads::lock};

/// Addresses whose rate is known. A further address is limited by the rate of all clients only.
pub(crate) const RATE_ADDRESSES_MAX: usize = 16_384;

/// How often addresses without recent requests are looked for while that many are known. This reads
/// all of them, so not every request may do it.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);

/// How far ahead of its rate a client may be.
const BURST: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Limiter {
    rates: Rates,
    times: Mutex<TheoreticalTimes>,
}

/// The theoretical arrival time (TAT) of the next request, of the GCRA.
#[derive(Debug, Default)]
struct TheoreticalTimes {
    all: Option<Instant>,
    by_address: HashMap<IpAddr, Instant>,
    swept: Option<Instant>,
}

impl Limiter {
    pub(crate) fn new(rates: Rates) -> Limiter {
        Limiter { rates, times: Mutex::default() }
    }

    /// True if there is no rate to be kept.
    pub(crate) fn is_idle(&self) -> bool {
        self.rates.in_all.is_none() && self.rates.per_address.is_none()
    }

    /// # Errors
    /// [`Error::TooMany`] if the request comes too early.
    pub(crate) fn admit(&self, client: IpAddr, now: Instant) -> Result<(), Error> {
        let mut times = lock(&self.times);
        if let Some(rate) = self.rates.per_address {
            let client = block(client);
            let tat = times.by_address.get(&client).copied();
            let is_full = times.by_address.len() >= RATE_ADDRESSES_MAX;
            let is_due = times.swept.is_none_or(|swept| now >= swept + SWEEP_INTERVAL);
            if tat.is_none() && is_full && is_due {
                times.by_address.retain(|_, tat| *tat > now);
                times.swept = Some(now);
            }
            if tat.is_some() || times.by_address.len() < RATE_ADDRESSES_MAX {
                times.by_address.insert(client, next(tat, rate, now)?);
            }
        }
        if let Some(rate) = self.rates.in_all {
            times.all = Some(next(times.all, rate, now)?);
        }
        Ok(())
    }

    /// The client's address: the peer, or, if the peer is a trusted proxy, the last address in
    /// `X-Forwarded-For` that is not a trusted proxy. Earlier addresses are not trusted, since a
    /// client may have written them.
    pub(crate) fn client<'a>(
        &self,
        peer: IpAddr,
        forwarded: impl DoubleEndedIterator<Item = &'a str>,
    ) -> IpAddr {
        let is_trusted = |address: IpAddr| {
            self.rates.trusted_proxies.iter().any(|network| network.contains(&address))
        };
        let mut client = peer.to_canonical();
        let hops = forwarded.rev().flat_map(|line| line.rsplit(','));
        for hop in hops {
            if !is_trusted(client) {
                break;
            }
            let Some(address) = forwarded_address(hop.trim()) else { break };
            client = address.to_canonical();
        }
        client
    }
}

/// Parses an address as proxies write it: without or with a port, and then in brackets if it is
/// IPv6. Some proxies write the brackets also without a port.
fn forwarded_address(text: &str) -> Option<IpAddr> {
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Some(address) = bracketed {
        return address.parse().ok().map(IpAddr::V6);
    }
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    text.parse().ok().or_else(with_port)
}

/// Something of which there is only so much, such as slots or bytes, and of which one client may
/// hold a fraction.
///
/// The fraction does not apply to addresses of this machine, since a proxy on it sends the requests
/// of all clients, unless it is trusted to say which client each is from.
#[derive(Debug)]
pub(crate) struct Pool {
    most: usize,
    most_of_client: usize,
    usage: Mutex<Usage>,
}

#[derive(Debug, Default)]
struct Usage {
    in_all: usize,
    /// Clients that hold nothing are not in it.
    by_client: HashMap<IpAddr, Held>,
    was_refused: bool,
}

#[derive(Debug, Default, Clone, Copy)]
struct Held {
    amount: usize,
    was_refused: bool,
}

/// For which clients there was not enough of a [`Pool`] for some time.
#[derive(Debug)]
pub(crate) struct Shortage {
    is_general: bool,
    /// Those that hold all that one client may.
    clients: HashSet<IpAddr>,
}

/// A part of a [`Pool`], which is given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    pool: Arc<Pool>,
    client: IpAddr,
    amount: usize,
}

impl Pool {
    /// One client may hold a `divisor`th of `most`, and at least 1.
    pub(crate) fn new(most: usize, divisor: usize) -> Arc<Pool> {
        Arc::new(Pool { most, most_of_client: (most / divisor).max(1), usage: Mutex::default() })
    }

    /// One slot for this client. `None` if all are taken, or as many by this client as it may have.
    pub(crate) fn take(self: &Arc<Self>, client: IpAddr) -> Option<Reservation> {
        let mut reservation = self.reserve_nothing(client);
        reservation.grow(1).then_some(reservation)
    }

    /// An empty reservation for this client, which [`Reservation::grow`] extends.
    pub(crate) fn reserve_nothing(self: &Arc<Self>, client: IpAddr) -> Reservation {
        Reservation { pool: Arc::clone(self), client: block(client.to_canonical()), amount: 0 }
    }

    /// How much is taken.
    pub(crate) fn taken(&self) -> usize {
        lock(&self.usage).in_all
    }

    /// For whom there was not enough since the last call.
    pub(crate) fn take_shortage(&self) -> Shortage {
        let mut usage = lock(&self.usage);
        let was_refused = mem::take(&mut usage.was_refused);
        let refused = usage.by_client.iter_mut();
        let refused = refused
            .filter_map(|(client, held)| mem::take(&mut held.was_refused).then_some(*client));
        let clients = refused.collect();
        Shortage { is_general: was_refused || usage.in_all >= self.most, clients }
    }
}

impl Shortage {
    /// Whether the client of this reservation finds no more.
    pub(crate) fn affects(&self, reservation: &Reservation) -> bool {
        self.is_general || self.clients.contains(&reservation.client)
    }
}

impl Reservation {
    /// Reserves so much more. False if there is not so much.
    pub(crate) fn grow(&mut self, more: usize) -> bool {
        let mut usage = lock(&self.pool.usage);
        if usage.in_all + more > self.pool.most {
            usage.was_refused = true;
            return false;
        }
        let held = usage.by_client.entry(self.client).or_default();
        if !self.client.is_loopback() && held.amount + more > self.pool.most_of_client {
            held.was_refused = true;
            return false;
        }
        held.amount += more;
        usage.in_all += more;
        self.amount += more;
        true
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut usage = lock(&self.pool.usage);
        usage.in_all -= self.amount;
        if let Entry::Occupied(mut held) = usage.by_client.entry(self.client) {
            held.get_mut().amount -= self.amount;
            if held.get().amount == 0 {
                held.remove();
            }
        }
    }
}

fn next(tat: Option<Instant>, rate: u32, now: Instant) -> Result<Instant, Error> {
    let next = tat.map_or(now, |tat| tat.max(now)) + Duration::from_secs(1) / rate;
    if next > now + BURST.max(Duration::from_secs(1) / rate) {
        return Err(Error::TooMany);
    }
    Ok(next)
}

/// The address by which a client is counted. A client with an IPv6 address has all 2⁶⁴ addresses of
/// its network, so its /64 counts; but `::1` counts by itself.
pub(crate) fn block(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(address) if !address.is_loopback() => {
            Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX)).into()
        }
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn limiter(settings: &[(&str, &str)]) -> Limiter {
        let config = Config::read_variables(&[settings, &[("WEBHOOK_SECRET", "s")]].concat());
        Limiter::new(config.unwrap().rates())
    }

    #[test]
    fn an_address_may_send_the_requests_of_one_second_at_once_and_then_keeps_its_rate() {
        let limiter = limiter(&[("REQUESTS_PER_SECOND_PER_ADDRESS", "5")]);
        let start = Instant::now();
        let admitted = |address: &str, after_ms: u64| {
            let now = start + Duration::from_millis(after_ms);
            (0..20).filter(|_| limiter.admit(address.parse().unwrap(), now).is_ok()).count()
        };
        assert_eq!(admitted("192.0.2.1", 0), 5);
        assert_eq!(admitted("192.0.2.2", 0), 5, "another one");
        assert_eq!(admitted("192.0.2.1", 400), 2);
        assert_eq!(admitted("192.0.2.1", 10_000), 5);
        assert_eq!(admitted("2001:db8::1", 0) + admitted("2001:db8::2", 0), 5, "one network");
    }

    #[test]
    fn all_clients_together_have_a_rate_too() {
        let limiter = limiter(&[("REQUESTS_PER_SECOND", "10")]);
        let now = Instant::now();
        let admitted = (0_u8..100).filter(|n| limiter.admit([192, 0, 2, *n].into(), now).is_ok());
        assert_eq!(admitted.count(), 10);
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let limiter = limiter(&[("TRUSTED_PROXIES", "127.0.0.1, 10.0.0.0/8 2001:db8::/32")]);
        for (peer, forwarded, client) in [
            ("192.0.2.1", vec!["198.51.100.7"], "192.0.2.1"),
            ("127.0.0.1", vec![], "127.0.0.1"),
            ("127.0.0.1", vec!["198.51.100.7"], "198.51.100.7"),
            ("127.0.0.1", vec!["6.6.6.6, 198.51.100.7"], "198.51.100.7"),
            ("127.0.0.1", vec!["6.6.6.6", "198.51.100.7, 10.1.2.3"], "198.51.100.7"),
            ("2001:db8::5", vec!["198.51.100.7:4711"], "198.51.100.7"),
            ("127.0.0.1", vec!["2001:dba::7"], "2001:dba::7"),
            ("127.0.0.1", vec!["[2001:dba::7]"], "2001:dba::7"),
            ("127.0.0.1", vec!["[2001:dba::7]:4711"], "2001:dba::7"),
            ("127.0.0.1", vec!["6.6.6.6, [2001:dba::7] ,[2001:db8::9]:80"], "2001:dba::7"),
            ("127.0.0.1", vec!["[::ffff:198.51.100.7]"], "198.51.100.7"),
            ("127.0.0.1", vec!["[198.51.100.7]"], "127.0.0.1"),
            ("::ffff:10.0.0.1", vec!["junk, 198.51.100.7"], "198.51.100.7"),
            ("127.0.0.1", vec!["198.51.100.7, junk"], "127.0.0.1"),
            ("11.0.0.1", vec!["198.51.100.7"], "11.0.0.1"),
        ] {
            let found = limiter.client(peer.parse().unwrap(), forwarded.into_iter());
            assert_eq!(found, client.parse::<IpAddr>().unwrap(), "{peer}");
        }
    }

    #[test]
    fn a_client_holds_at_most_half_of_the_slots_and_this_machine_any_number() {
        let slots = Pool::new(4, 2);
        let take = |address: &str| slots.take(address.parse().unwrap());
        let first = take("2001:db8::1");
        let second = take("2001:db8::2");
        assert!(first.is_some() && second.is_some());
        assert!(take("2001:db8::3").is_none(), "half is taken by one network");
        let own = [take("::1"), take("127.0.0.1")];
        assert!(own.iter().all(Option::is_some));
        assert!(take("192.0.2.1").is_none() && take("::1").is_none(), "all are taken");
        drop(first);
        assert_eq!(slots.taken(), 3);
        assert!(take("2001:db8::3").is_some(), "free again");
        drop((second, own));
        assert_eq!(slots.taken(), 0);
        assert!(
            lock(&slots.usage).by_client.is_empty(),
            "no entry is left of clients without slots"
        );
        let own = [(); 4].map(|()| take("127.0.0.1"));
        assert!(own.iter().all(Option::is_some));
        assert!(Pool::new(1, 2).take([192, 0, 2, 1].into()).is_some(), "half, but at least one");
    }

    #[test]
    fn the_number_of_known_addresses_is_bounded() {
        let limiter = limiter(&[("REQUESTS_PER_SECOND_PER_ADDRESS", "1")]);
        let now = Instant::now();
        for number in 0..40_000_u32 {
            let _ = limiter.admit(IpAddr::V4(number.into()), now);
        }
        assert_eq!(limiter.times.lock().unwrap().by_address.len(), RATE_ADDRESSES_MAX);
        let later = now + Duration::from_secs(5);
        assert!(limiter.admit([192, 0, 2, 1].into(), later).is_ok());
        assert_eq!(limiter.times.lock().unwrap().by_address.len(), 1);
    }
}

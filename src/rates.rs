//! How often a client may ask, and how many places it may hold. Pure but for the clock that it is given.
//!
//! Each address, and all together, may send a second's worth at once and then so many a second: the
//! generic cell rate algorithm, which remembers one moment for each.
//!
//! Of what is limited in number and held for long, such as exports, one client may hold half.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::{config::Rates, error::Error, threads::lock};

/// Addresses that are remembered; one more is bounded by the rate of all only.
pub(crate) const RATE_ADDRESSES_MAX: usize = 16_384;

/// How much ahead of its rate somebody may be.
const BURST: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Limiter {
    rates: Rates,
    seen: Mutex<Seen>,
}

/// When somebody would be back at its rate.
#[derive(Debug, Default)]
struct Seen {
    all: Option<Instant>,
    by_address: HashMap<IpAddr, Instant>,
}

impl Limiter {
    pub(crate) fn new(rates: Rates) -> Limiter {
        Limiter { rates, seen: Mutex::default() }
    }

    /// Whether there is anything to be limited.
    pub(crate) fn is_idle(&self) -> bool {
        self.rates.in_all.is_none() && self.rates.per_address.is_none()
    }

    /// # Errors
    /// [`Error::TooMany`] where a request comes too soon.
    pub(crate) fn admit(&self, client: IpAddr, now: Instant) -> Result<(), Error> {
        let mut seen = lock(&self.seen);
        if let Some(rate) = self.rates.per_address {
            let client = block(client);
            let back = seen.by_address.get(&client).copied();
            if back.is_none() && seen.by_address.len() >= RATE_ADDRESSES_MAX {
                seen.by_address.retain(|_, back| *back > now);
            }
            if back.is_some() || seen.by_address.len() < RATE_ADDRESSES_MAX {
                seen.by_address.insert(client, next(back, rate, now)?);
            }
        }
        if let Some(rate) = self.rates.in_all {
            seen.all = Some(next(seen.all, rate, now)?);
        }
        Ok(())
    }

    /// Who asks: the peer; or, where that is a proxy that is trusted, the last address in its
    /// `X-Forwarded-For` that is not one. What clients write before that is not believed.
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

/// An address as proxies write it: bare, or with a port, and then in brackets if it is IPv6. Some
/// write the brackets without a port, too.
fn forwarded_address(text: &str) -> Option<IpAddr> {
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Some(address) = bracketed {
        return address.parse().ok().map(IpAddr::V6);
    }
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    text.parse().ok().or_else(with_port)
}

/// A number of places, of which one client has at most half.
///
/// This machine's own addresses have no such bound: a proxy on it speaks for everybody, unless it is
/// trusted to say for whom.
#[derive(Debug)]
pub(crate) struct Places {
    most: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    in_all: usize,
    by_client: HashMap<IpAddr, usize>,
}

/// One of the [`Places`], given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    client: IpAddr,
}

impl Places {
    pub(crate) fn new(most: usize) -> Arc<Places> {
        Arc::new(Places { most, taken: Mutex::default() })
    }

    /// `None` where all are taken, or half of them by this client.
    pub(crate) fn take(self: &Arc<Self>, client: IpAddr) -> Option<Place> {
        let client = block(client);
        let mut taken = lock(&self.taken);
        let own = taken.by_client.get(&client).copied().unwrap_or_default();
        let has_share = client.is_loopback() || own < (self.most / 2).max(1);
        if taken.in_all >= self.most || !has_share {
            return None;
        }
        taken.in_all += 1;
        taken.by_client.insert(client, own + 1);
        Some(Place { places: Arc::clone(self), client })
    }

    /// How many are taken.
    pub(crate) fn taken(&self) -> usize {
        lock(&self.taken).in_all
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.places.taken);
        taken.in_all -= 1;
        if let Entry::Occupied(mut own) = taken.by_client.entry(self.client) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

fn next(back: Option<Instant>, rate: u32, now: Instant) -> Result<Instant, Error> {
    let next = back.map_or(now, |back| back.max(now)) + Duration::from_secs(1) / rate;
    if next > now + BURST.max(Duration::from_secs(1) / rate) {
        return Err(Error::TooMany);
    }
    Ok(next)
}

/// A client that has an IPv6 address has 2⁶⁴ of them; but `::1` is one by itself.
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
    fn an_address_has_a_second_s_worth_at_once_and_then_its_rate() {
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
    fn all_together_have_a_rate_too() {
        let limiter = limiter(&[("REQUESTS_PER_SECOND", "10")]);
        let now = Instant::now();
        let admitted = (0_u8..100).filter(|n| limiter.admit([192, 0, 2, *n].into(), now).is_ok());
        assert_eq!(admitted.count(), 10);
    }

    #[test]
    fn only_what_trusted_proxies_say_is_believed() {
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
    fn a_client_has_at_most_half_of_the_places_but_this_machine_as_many_as_there_are() {
        let places = Places::new(4);
        let take = |address: &str| places.take(address.parse().unwrap());
        let first = take("2001:db8::1");
        let second = take("2001:db8::2");
        assert!(first.is_some() && second.is_some());
        assert!(take("2001:db8::3").is_none(), "half is taken by one network");
        let own = [take("::1"), take("127.0.0.1")];
        assert!(own.iter().all(Option::is_some));
        assert!(take("192.0.2.1").is_none() && take("::1").is_none(), "all are taken");
        drop(first);
        assert_eq!(places.taken(), 3);
        assert!(take("2001:db8::3").is_some(), "given back");
        drop((second, own));
        assert_eq!(places.taken(), 0);
        assert!(lock(&places.taken).by_client.is_empty(), "nothing is remembered of who is gone");
        let own = [(); 4].map(|()| take("127.0.0.1"));
        assert!(own.iter().all(Option::is_some));
        assert!(Places::new(1).take([192, 0, 2, 1].into()).is_some(), "half, but at least one");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let limiter = limiter(&[("REQUESTS_PER_SECOND_PER_ADDRESS", "1")]);
        let now = Instant::now();
        for number in 0..40_000_u32 {
            let _ = limiter.admit(IpAddr::V4(number.into()), now);
        }
        assert_eq!(limiter.seen.lock().unwrap().by_address.len(), RATE_ADDRESSES_MAX);
        let later = now + Duration::from_secs(5);
        assert!(limiter.admit([192, 0, 2, 1].into(), later).is_ok());
        assert_eq!(limiter.seen.lock().unwrap().by_address.len(), 1);
    }
}

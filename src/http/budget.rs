//! How many slow clients mailslot waits for, and how many bytes it holds for them: in all, and for
//! one address.

use std::{
    collections::{HashMap, HashSet},
    mem,
    net::IpAddr,
    sync::{Arc, Mutex},
};

use crate::{rates, threads::lock};

/// Slow clients at once. One more gets a 503 for its body, or is disconnected during its response.
pub(crate) const SLOW_CLIENTS_MAX: usize = 512;
/// Bytes of bodies and large responses in memory while they wait for clients or for a worker.
/// Beyond, 503.
pub(crate) const SLOW_CLIENT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The clients of one address, or of one /64 of IPv6, get this fraction of both.
const ADDRESS_DIVISOR: usize = 4;

/// What all slow clients use of [`SLOW_CLIENTS_MAX`] and [`SLOW_CLIENT_BYTES_MAX`].
#[derive(Debug, Default)]
pub(super) struct Budget(Mutex<Usage>);

#[derive(Debug, Default)]
struct Usage {
    all: Share,
    /// Addresses that use nothing are not in it.
    by_address: HashMap<IpAddr, Share>,
    shortage: Shortage,
}

#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Share {
    clients: usize,
    bytes: usize,
}

/// For whom there was not enough since the last [`Budget::take_shortage`].
#[derive(Debug, Default)]
pub(super) struct Shortage {
    is_general: bool,
    /// Those that use all that one address may.
    addresses: HashSet<IpAddr>,
}

/// A part of the budget, which is given back when it is dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    share: Share,
    address: IpAddr,
    budget: Arc<Budget>,
}

impl Budget {
    /// Reserves one client of this address. `None`: there are too many.
    pub(super) fn reserve_client(self: &Arc<Self>, address: IpAddr) -> Option<Reservation> {
        let mut reservation = self.reserve_nothing(address);
        reservation.add(Share { clients: 1, bytes: 0 }).then_some(reservation)
    }

    /// An empty reservation for a client of this address, which [`Reservation::grow`] extends.
    pub(super) fn reserve_nothing(self: &Arc<Self>, address: IpAddr) -> Reservation {
        let address = address.to_canonical();
        let address = if address.is_loopback() { address } else { rates::block(address) };
        Reservation { share: Share::default(), address, budget: Arc::clone(self) }
    }

    pub(super) fn take_shortage(&self) -> Shortage {
        let mut usage = lock(&self.0);
        let mut shortage = mem::take(&mut usage.shortage);
        shortage.is_general |= usage.all.clients >= SLOW_CLIENTS_MAX;
        shortage
    }
}

impl Shortage {
    /// Whether clients that use this address's share find no more of it.
    pub(super) fn affects(&self, reservation: &Reservation) -> bool {
        self.is_general || self.addresses.contains(&reservation.address)
    }
}

impl Reservation {
    /// Reserves `bytes` more. False if there are not so many.
    pub(super) fn grow(&mut self, bytes: usize) -> bool {
        self.add(Share { clients: 0, bytes })
    }

    fn add(&mut self, more: Share) -> bool {
        let mut usage = lock(&self.budget.0);
        let own = usage.by_address.get(&self.address).copied().unwrap_or_default();
        if !usage.all.allows(more, 1) {
            usage.shortage.is_general = true;
            return false;
        }
        // A proxy on this machine sends the requests of all its clients.
        if !self.address.is_loopback() && !own.allows(more, ADDRESS_DIVISOR) {
            usage.shortage.addresses.insert(self.address);
            return false;
        }
        usage.all = usage.all.plus(more);
        usage.by_address.insert(self.address, own.plus(more));
        self.share = self.share.plus(more);
        true
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut usage = lock(&self.budget.0);
        usage.all = usage.all.minus(self.share);
        let own = usage.by_address.get(&self.address).copied().unwrap_or_default();
        let own = own.minus(self.share);
        if own == Share::default() {
            usage.by_address.remove(&self.address);
        } else {
            usage.by_address.insert(self.address, own);
        }
    }
}

impl Share {
    fn allows(self, more: Share, divisor: usize) -> bool {
        self.clients + more.clients <= SLOW_CLIENTS_MAX / divisor
            && self.bytes + more.bytes <= SLOW_CLIENT_BYTES_MAX / divisor
    }

    fn plus(self, more: Share) -> Share {
        Share { clients: self.clients + more.clients, bytes: self.bytes + more.bytes }
    }

    fn minus(self, less: Share) -> Share {
        Share { clients: self.clients - less.clients, bytes: self.bytes - less.bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_gets_a_quarter_and_this_machine_gets_everything() {
        let budget = Arc::<Budget>::default();
        let quarter = SLOW_CLIENT_BYTES_MAX / 4;
        let mut first = budget.reserve_nothing(address("2001:db8::1"));
        let mut second = budget.reserve_nothing(address("2001:db8::2"));
        let mut other = budget.reserve_nothing(address("192.0.2.1"));
        assert!(first.grow(quarter - 1) && second.grow(1));
        assert!(!second.grow(1), "another address of the same /64");
        let shortage = budget.take_shortage();
        assert!(shortage.affects(&first) && !shortage.affects(&other));
        assert!(!budget.take_shortage().affects(&first), "taken");
        assert!(other.grow(quarter));
        let mut local = budget.reserve_nothing(address("127.0.0.1"));
        assert!(local.grow(2 * quarter), "all that is left");
        assert!(!local.grow(1));
        assert!(budget.take_shortage().affects(&other), "nothing is left for any address");
    }

    #[test]
    fn what_is_dropped_is_given_back_and_its_address_forgotten() {
        let budget = Arc::<Budget>::default();
        let remote = || budget.reserve_client(address("192.0.2.1"));
        let mut clients: Vec<_> = (0..SLOW_CLIENTS_MAX / 4).map_while(|_| remote()).collect();
        assert_eq!(clients.len(), SLOW_CLIENTS_MAX / 4);
        assert!(remote().is_none());
        clients.pop();
        assert!(remote().is_some());
        let local = || budget.reserve_client(address("::1"));
        let more: Vec<_> = std::iter::from_fn(local).collect();
        assert_eq!(clients.len() + more.len(), SLOW_CLIENTS_MAX);
        assert!(budget.take_shortage().affects(&more[0]), "the last one is taken");
        drop((clients, more));
        let usage = lock(&budget.0);
        assert_eq!(usage.all, Share::default());
        assert!(usage.by_address.is_empty());
    }
}

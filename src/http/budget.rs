//! How many slow clients mailslot waits for, and how many bytes it holds for them: in all, and for
//! one address.

use std::sync::Arc;

use crate::rates::{Pool, Shortage};

/// Slow clients at once. One more gets a 503 for its body, or is disconnected during its response.
pub(crate) const SLOW_CLIENTS_MAX: usize = 512;
/// Bytes of bodies and large responses in memory while they wait for clients or for a worker.
/// Beyond, 503.
pub(crate) const SLOW_CLIENT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The clients of one address, or of one /64 of IPv6, get this fraction of both.
const ADDRESS_DIVISOR: usize = 4;

/// What all slow clients use of [`SLOW_CLIENTS_MAX`] and [`SLOW_CLIENT_BYTES_MAX`].
#[derive(Debug)]
pub(super) struct Budget {
    pub(super) clients: Arc<Pool>,
    pub(super) bytes: Arc<Pool>,
}

impl Budget {
    pub(super) fn new() -> Budget {
        Budget {
            clients: Pool::new(SLOW_CLIENTS_MAX, ADDRESS_DIVISOR),
            bytes: Pool::new(SLOW_CLIENT_BYTES_MAX, ADDRESS_DIVISOR),
        }
    }

    /// For whom there was not enough of either since the last call.
    pub(super) fn take_shortages(&self) -> [Shortage; 2] {
        [self.clients.take_shortage(), self.bytes.take_shortage()]
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::rates::Reservation;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_gets_a_quarter_and_this_machine_gets_everything() {
        let budget = Budget::new();
        let quarter = SLOW_CLIENT_BYTES_MAX / 4;
        let mut first = budget.bytes.reserve_nothing(address("2001:db8::1"));
        let mut second = budget.bytes.reserve_nothing(address("2001:db8::2"));
        let mut other = budget.bytes.reserve_nothing(address("192.0.2.1"));
        assert!(first.grow(quarter - 1) && second.grow(1));
        assert!(!second.grow(1), "another address of the same /64");
        let is_short =
            |of: &Reservation| budget.take_shortages().iter().any(|shortage| shortage.affects(of));
        assert!(!is_short(&other));
        assert!(!second.grow(1) && is_short(&first));
        assert!(!is_short(&first), "taken");
        assert!(other.grow(quarter));
        let mut local = budget.bytes.reserve_nothing(address("127.0.0.1"));
        assert!(local.grow(2 * quarter), "all that is left");
        assert!(!local.grow(1));
        assert!(is_short(&other), "nothing is left for any address");
    }

    #[test]
    fn a_dropped_reservation_is_given_back_and_its_address_forgotten() {
        let budget = Budget::new();
        let remote = || budget.clients.take(address("192.0.2.1"));
        let mut clients: Vec<_> = (0..SLOW_CLIENTS_MAX / 4).map_while(|_| remote()).collect();
        assert_eq!(clients.len(), SLOW_CLIENTS_MAX / 4);
        assert!(remote().is_none());
        clients.pop();
        assert!(remote().is_some());
        let local = || budget.clients.take(address("::1"));
        let more: Vec<_> = std::iter::from_fn(local).collect();
        assert_eq!(clients.len() + more.len(), SLOW_CLIENTS_MAX);
        assert!(budget.clients.take_shortage().affects(&more[0]), "the last one is taken");
        drop((clients, more));
        assert_eq!(budget.clients.taken(), 0);
    }
}

//! Which connections are closed where there are more than allowed, in all or of one address: those
//! that have been idle longest, and before them those that have never sent anything.

use std::{collections::HashMap, net::IpAddr, time::Instant};

use crate::{config::Limits, metrics::Disconnect};

/// An idle connection.
#[derive(Debug)]
pub(super) struct Candidate {
    /// By which the caller knows it.
    pub(super) index: usize,
    pub(super) address: Option<IpAddr>,
    /// The client has sent at least a part of a request.
    pub(super) has_sent: bool,
    /// Since when it is idle.
    pub(super) since: Instant,
}

/// Which candidates are to be closed, by index. `open` has the address of every open connection,
/// where it is known.
pub(super) fn excess(
    open: &[Option<IpAddr>],
    leaked: usize,
    mut candidates: Vec<Candidate>,
    limits: &Limits,
) -> Vec<(usize, Disconnect)> {
    let mut by_address: HashMap<IpAddr, usize> = HashMap::new();
    // A proxy on this machine connects for all its clients.
    for address in open.iter().flatten().filter(|address| !address.is_loopback()) {
        *by_address.entry(*address).or_default() += 1;
    }
    by_address.retain(|_, count| *count > limits.connections_per_address);
    let mut total = (open.len() + leaked).saturating_sub(limits.connections);
    let mut chosen = Vec::new();
    if total == 0 && by_address.is_empty() {
        return chosen;
    }
    candidates.sort_by_key(|candidate| (candidate.has_sent, candidate.since));
    candidates.retain(|candidate| {
        let count = candidate.address.and_then(|address| by_address.get_mut(&address));
        let count = count.filter(|count| **count > limits.connections_per_address);
        let Some(count) = count else { return true };
        *count -= 1;
        total = total.saturating_sub(1);
        chosen.push((candidate.index, Disconnect::Address));
        false
    });
    chosen.extend(candidates.iter().take(total).map(|one| (one.index, Disconnect::Cap)));
    chosen
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMITS: Limits =
        Limits { idle: Duration::ZERO, connections: 6, connections_per_address: 2 };

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    /// Of open connections, of which five are idle: those of the addresses 1, 1, 1, 2 and 3. The
    /// last one has sent nothing, the others are idle the longer the further they stand in front.
    fn chosen(open: &[Option<IpAddr>], leaked: usize) -> Vec<(usize, Disconnect)> {
        let start = Instant::now();
        let candidate = |(index, last): (usize, u8)| Candidate {
            index,
            address: Some(address(last)),
            has_sent: index < 4,
            since: start + Duration::from_secs(index as u64),
        };
        let idle = [1, 1, 1, 2, 3].into_iter().enumerate().map(candidate);
        excess(open, leaked, idle.collect(), &LIMITS)
    }

    fn open(last: &[u8]) -> Vec<Option<IpAddr>> {
        last.iter().map(|last| Some(address(*last))).collect()
    }

    #[test]
    fn there_is_an_excess_in_all_or_of_an_address_but_never_of_loopback() {
        let local = vec![Some(IpAddr::from([127, 0, 0, 1])); 7];
        assert_eq!(chosen(&local[..6], 0), []);
        let one = [(4, Disconnect::Cap)];
        assert_eq!((chosen(&local, 0), chosen(&local[..6], 1)), (one.to_vec(), one.to_vec()));
        assert_eq!(chosen(&open(&[1, 1]), 0), []);
        assert_eq!(chosen(&[open(&[1, 1, 2]), vec![None; 3]].concat(), 0), []);
    }

    #[test]
    fn the_longest_idle_are_chosen_after_those_that_have_sent_nothing() {
        assert_eq!(chosen(&open(&[1, 1, 1]), 0), [(0, Disconnect::Address)]);
        let seven = open(&[1, 1, 1, 2, 3, 4, 5]);
        assert_eq!(chosen(&seven, 0), [(0, Disconnect::Address)], "that one is enough");
        let eight = open(&[1, 1, 1, 2, 3, 4, 5, 6]);
        assert_eq!(chosen(&eight, 0), [(0, Disconnect::Address), (4, Disconnect::Cap)]);
        let ten = [eight, open(&[7, 8])].concat();
        let more = [(0, Disconnect::Address), (4, Disconnect::Cap)];
        assert_eq!(
            chosen(&ten, 0),
            [&more[..], &[(1, Disconnect::Cap), (2, Disconnect::Cap)]].concat()
        );
    }
}

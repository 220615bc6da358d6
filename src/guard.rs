//! A thread that looks at the connections from outside and mends what tiny_http gets wrong.
//!
//! So far one thing: of a burst of connections tiny_http may leave some without a thread until
//! another connection ends (H4 in research/tiny_http.md). One more connection makes it start one
//! more thread, which then finds the one that was left.

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use crate::{listener::Listener, socket};

/// How often it looks.
const TICK_MS: u64 = 100;
/// Connections to ourselves in one look.
const NUDGES_MAX: usize = 64;
/// How long one may take: the backlog is full only under attack, and then the next look is soon.
const NUDGE_MS_MAX: u64 = 50;

pub(crate) fn start(listener: Arc<Listener>) -> io::Result<()> {
    thread::Builder::new().name("guard".into()).spawn(move || watch(&listener)).map(|_| ())
}

fn watch(listener: &Listener) {
    let address = reachable(listener.address());
    let mut starved = HashSet::new();
    while !listener.is_draining() {
        thread::sleep(Duration::from_millis(TICK_MS));
        let waiting: HashSet<String> = socket::connections(address.port())
            .filter(|connection| !listener.has_in_hand(connection.peer) && connection.has_unread())
            .map(|connection| connection.inode)
            .collect();
        // Twice in a row: tiny_http reads what arrives at once, if it reads at all.
        for _ in waiting.intersection(&starved).take(NUDGES_MAX) {
            let _ = TcpStream::connect_timeout(&address, Duration::from_millis(NUDGE_MS_MAX));
        }
        starved = waiting;
    }
}

/// Where to connect to reach what listens on `address`.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}

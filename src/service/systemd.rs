//! Messages to systemd (sd_notify(3)): the service is ready, it stops, it is alive.

use std::{env, net::SocketAddr, thread, time::Duration};

use super::health_client::is_alive;
use crate::threads::spawn;

/// Tells systemd, if it asked to be told, that mailslot is alive, as long as a request of our own is
/// answered and finds the database (WatchdogSec= in the unit).
pub(super) fn feed_watchdog(address: SocketAddr) {
    let number = |name| env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    let Some(patience) = number("WATCHDOG_USEC").filter(|_| is_ours) else { return };
    // One answer may fail to come: the next one is asked for at once.
    let every = Duration::from_micros(patience / 4);
    let feed = move || {
        loop {
            if is_alive(address, every) {
                notify("WATCHDOG=1");
                thread::sleep(every);
            } else {
                log::error!("mailslot does not answer itself: systemd may start it anew");
                thread::sleep(every / 10);
            }
        }
    };
    if let Err(error) = spawn("watchdog", feed) {
        log::error!(error:% = error; "the watchdog cannot be fed");
    }
}

/// Tells systemd, if it asked to be told (sd_notify(3)).
pub(super) fn notify(state: &str) {
    use std::os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    };
    let Some(path) = env::var_os("NOTIFY_SOCKET") else { return };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let sent = address
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = sent {
        log::warn!(error:% = error; "systemd cannot be told {state}");
    }
}

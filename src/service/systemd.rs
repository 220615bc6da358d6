//! Notifications to systemd (sd_notify(3)): that the service is ready, that it is stopping, that it
//! is alive.

use std::{net::SocketAddr, slice, thread, time::Duration};

use sd_notify::NotifyState;

use super::access_log::set_watchdog;
use crate::{api::health, client::Client, threads::spawn};

/// Does nothing where systemd has not asked for notifications.
pub(super) fn notify(state: &NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(slice::from_ref(state)) {
        log::warn!(state:% = state, error:% = error; "sd_notify failed");
    }
}

/// Tells systemd at regular intervals that mailslot is alive, where the unit has WatchdogSec=, as
/// long as a request of its own is answered and finds the database.
pub(super) fn start_watchdog(address: SocketAddr) {
    let Some(timeout) = sd_notify::watchdog_enabled() else { return };
    // One answer may fail to come: the next request follows at once.
    let interval = timeout / 4;
    let run = move || {
        loop {
            if is_alive(address, interval) {
                notify(&NotifyState::Watchdog);
                thread::sleep(interval);
            } else {
                log::error!(
                    "mailslot does not answer its own health check: systemd may restart it"
                );
                thread::sleep(interval / 10);
            }
        }
    };
    if let Err(error) = spawn("watchdog", run) {
        log::error!(error:% = error; "the watchdog cannot be started");
    }
}

/// False where a restart could help: requests are not taken, not answered, or do not find the
/// database. A disk that takes no write is not one of these cases, and senders get 503 meanwhile.
fn is_alive(address: SocketAddr, timeout: Duration) -> bool {
    let mut client = Client::new(address, address.to_string(), timeout);
    let answer = client.connect().and_then(|own_address| {
        set_watchdog(Some(own_address));
        client.get("/health/ready")
    });
    set_watchdog(None);
    answer.is_ok_and(|answer| {
        answer.status == 200 || (answer.status == 503 && !answer.body.contains(health::UNREADABLE))
    })
}

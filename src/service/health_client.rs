//! `GET /health/ready` as a client asks it: for the watchdog, `mailslot healthcheck` and `mailslot check`.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use super::access_log::set_watchdog;
use crate::{api::health, http};

/// One `GET /health/ready`, as a client would ask it: the status, and the body.
///
/// # Errors
/// When nobody answers in time.
pub(crate) fn ask_ready(address: SocketAddr, wait_max: Duration) -> io::Result<(u16, String)> {
    ask(connect(address, wait_max)?)
}

fn connect(address: SocketAddr, wait_max: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&http::reachable(address), wait_max)?;
    stream.set_read_timeout(Some(wait_max))?;
    Ok(stream)
}

fn ask(mut stream: TcpStream) -> io::Result<(u16, String)> {
    stream.write_all(b"GET /health/ready HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(4096).read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::other("that was no answer"))?;
    Ok((status, answer.lines().last().unwrap_or_default().to_owned()))
}

/// Whether a restart could do no good: requests are taken, answered, and find the database. A disk
/// that takes no write is not mended by one, and its senders are told 503 meanwhile.
#[must_use]
pub(super) fn is_alive(address: SocketAddr, wait_max: Duration) -> bool {
    let answered = connect(address, wait_max).and_then(|stream| {
        set_watchdog(Some(stream.local_addr()?));
        ask(stream)
    });
    set_watchdog(None);
    answered.is_ok_and(|(status, body)| {
        status == 200 || (status == 503 && !body.contains(health::UNREADABLE))
    })
}

//! What the process that started this one has left it: systemd a socket, an earlier mailslot in the
//! same process its own. These are no settings, since no operator writes them.

use std::os::fd::RawFd;

use super::{parse::within, read::Reading};

/// [`Inherited::from_itself`] and [`Inherited::restarts`] in the environment.
pub(crate) const INHERITED_SOCKET: &str = "MAILSLOT_SOCKET";
pub(crate) const INHERITED_RESTARTS: &str = "MAILSLOT_RESTARTS";
/// The path from which the first mailslot of this process was started. A later one cannot find it
/// out if the file it runs has been replaced meanwhile.
pub(crate) const INHERITED_PROGRAM: &str = "MAILSLOT_PROGRAM";
/// The number of the first socket that systemd passes.
const SYSTEMD_SOCKET: RawFd = 3;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Inherited {
    /// The listening socket of systemd (sd_listen_fds(3)), which outlives this process.
    pub from_systemd: Option<RawFd>,
    /// The listening socket of the mailslot that restarted in place as this one.
    pub from_itself: Option<RawFd>,
    /// Restarts in place so far.
    pub restarts: u64,
}

impl Inherited {
    #[must_use]
    pub fn socket(&self) -> Option<RawFd> {
        self.from_systemd.or(self.from_itself)
    }

    pub(super) fn read(reading: &mut Reading<'_>) -> Inherited {
        // The variables may be left over from the parent of this process, for which they were
        // meant.
        let is_ours = reading.variable("LISTEN_PID") == Some(std::process::id().to_string());
        let sockets = if is_ours { reading.optional("LISTEN_FDS", one_socket) } else { None };
        Inherited {
            from_systemd: sockets.filter(|count| *count > 0).map(|_| SYSTEMD_SOCKET),
            from_itself: reading.optional(INHERITED_SOCKET, within(0..=RawFd::MAX)),
            restarts: reading.optional(INHERITED_RESTARTS, within(0..=u64::MAX)).unwrap_or(0),
        }
    }
}

fn one_socket(text: &str) -> Result<u32, String> {
    within(0..=1)(text).map_err(|_| "one socket: the unit has too many ListenStream=".to_owned())
}

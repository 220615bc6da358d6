//! All that exists only because of tiny_http: it does not show its connections' sockets, it has no
//! deadlines and no bounds, it may leave connections without a thread, it leaks, and it may stop
//! accepting silently. The rest of the room is written as if the listener were sound.

mod monitor; // the thread that scans the connections ten times a second
mod rules; // what is done about the connections that a scan has found
mod history; // what the rules remember of a connection from scan to scan
mod reception; // heads without end, and requests sent ahead
mod starvation; // connections of a burst without a thread
mod excess; // more connections than are allowed, in all or of one address
mod accept_loop; // an accept loop that has ended
mod memory; // the memory of the process, and whether it grows
mod restart; // a restart of the process in place, which the rules request
mod peers; // finds a peer's socket, and ends its connection
mod scan; // scans of the descriptors, shared by the threads that wait for one
mod descriptors; // the sockets of the accepted connections, by descriptor

pub(super) use accept_loop::watch_panics;
pub(super) use monitor::start;
pub(super) use peers::Peers;
pub(crate) use restart::Restart;
pub(super) use scan::Scans;

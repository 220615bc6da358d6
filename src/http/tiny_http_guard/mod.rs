//! All that exists only because of tiny_http: it has no deadlines and no bounds, it may leave
//! connections without a thread, it leaks, and it may stop accepting without saying so.

mod monitor; // a thread that scans the connections and enforces the rules
pub(super) mod scan; // scans of this process's descriptors, shared by the threads that wait for one

pub(crate) use monitor::start;

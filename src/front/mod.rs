//! The front: what stands between the network and `http`. The rest of the program sees requests
//! that have arrived, one at a time per connection, and answers them.
//!
//! tiny_http cannot face a network by itself. Its hazards, H1 to H14, and the rule that meets each
//! are in docs/TINY_HTTP.md. Rules that tiny_http lets pass are kept from outside, by a thread that
//! looks at the sockets of this process; what cannot be prevented is counted, and past a budget the
//! process starts itself anew on the same listening socket.

mod arrival; // a request that has arrived: its body, its answer, its end
mod guard; // looks at the connections from outside: deadlines, bounds, starvation, leaks
mod listener; // the socket, tiny_http, one request in hand per connection
mod overload; // sheds what is too much, in proportion
mod scan; // scans for connections, shared by the threads that wait for one
mod stream; // an answer that is sent as it comes
mod socket; // finding a connection's socket from outside tiny_http
mod waiting; // one thread that waits for slow clients

pub(crate) use arrival::{Arrival, BODY_BUFFERED_BYTES, Missing};
pub(crate) use guard::start as start_guard;
pub(crate) use listener::{Ending, Listener};
pub(crate) use overload::Importance;
pub(crate) use socket::{inherit, listen_on, raise_descriptor_limit, reachable};
pub(crate) use stream::{Ended, Stream};

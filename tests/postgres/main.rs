//! Several nodes on one PostgreSQL, and what may become of them and of it. A test binary of its own, run
//! by `make test-postgres`, which installs PostgreSQL. tests/it says what a mailslot does on either engine.

#![allow(clippy::unwrap_used, unreachable_pub, missing_debug_implementations, dead_code)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod checks;
mod differential;
mod moves;
mod retention;
mod plans;
mod nodes;
mod crashes;
mod history;
mod refusals;
mod surroundings;
mod load;
#[path = "../it/client.rs"]
mod client;
#[path = "../it/harness.rs"]
mod harness;
#[path = "../it/numbers.rs"]
mod numbers;

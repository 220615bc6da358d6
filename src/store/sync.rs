//! What the commit queue locks and waits with. `tests/model` compiles the queue with loom's
//! instead, and runs it under every order in which its threads can meet.

pub(super) use std::sync::{Condvar, Mutex, MutexGuard};

pub(super) use crate::threads::lock;

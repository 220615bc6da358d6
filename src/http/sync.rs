//! The locks that admission uses. `tests/model` compiles admission with loom's locks instead, and
//! runs it under every order in which threads can take them.

pub(super) use std::sync::Mutex;

pub(super) use crate::threads::lock;

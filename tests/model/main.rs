//! Model checks: concurrent parts of mailslot, compiled from their own source with loom's locks
//! instead of std's. loom runs each test under every order in which its threads can take the locks,
//! and reports a deadlock where all of them wait.

#![allow(clippy::unwrap_used, unreachable_pub, missing_debug_implementations, dead_code)]

mod http {
    pub mod sync {
        pub use loom::sync::Mutex;
        use loom::sync::MutexGuard;

        pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
            mutex.lock().unwrap()
        }
    }

    #[path = "../../../src/http/admission.rs"]
    mod admission;
    #[path = "../../../src/http/connections.rs"]
    mod connections;

    mod admission_model;
}

mod store {
    pub mod sync {
        pub use loom::sync::{Condvar, Mutex, MutexGuard};

        pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
            mutex.lock().unwrap()
        }
    }

    #[path = "../../../src/store/queue.rs"]
    mod queue;

    mod queue_model;
}

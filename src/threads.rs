//! Threads and locks: every thread of the program has a name, and a panic does not make a lock
//! unusable.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    thread::{Builder, JoinHandle},
};

/// Starts a thread. `name` is what `ps -T` and the log line of a panic show; the kernel keeps 15
/// bytes of it.
///
/// # Errors
/// When the system has no thread left. The error names the thread.
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.to_owned()).spawn(run).map_err(|error| {
        io::Error::new(error.kind(), format!("the thread {name:?} cannot be started: {error}"))
    })
}

/// Locks a mutex, also after a thread has panicked while it held the lock. A panic costs one
/// request only, and the values behind mutexes are valid after every statement.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_its_name_and_a_lock_outlives_a_panic() {
        static COUNT: Mutex<u32> = Mutex::new(1);
        let thread = spawn("counter", || {
            let mut count = lock(&COUNT);
            *count += 1;
            assert_eq!(std::thread::current().name(), Some("wrong"), "a panic under the lock");
        });
        assert!(thread.unwrap().join().is_err());
        assert!(COUNT.is_poisoned());
        assert_eq!(*lock(&COUNT), 2);
    }
}

//! The program: from its arguments to its exit status.

use std::{env, process::ExitCode};

use mailslot::cli;

fn main() -> ExitCode {
    // No other user may read the files that mailslot creates, since they hold messages. SQLite
    // gives -wal and -shm the mode of the database, and files that exist already keep theirs.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    cli::run(&arguments)
}

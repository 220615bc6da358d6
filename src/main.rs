//! The program: its arguments in, an exit status out.

use std::{env, process::ExitCode};

use mailslot::cli;

fn main() -> ExitCode {
    // The files that it creates hold messages: no other user may read them. SQLite gives -wal and -shm
    // the mode of the database, and files that are there already keep theirs.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    cli::run(&arguments)
}

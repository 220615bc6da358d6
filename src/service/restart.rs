//! Restarting in place: the same process runs a program again by `exec`. Once the service has
//! stopped for it there is no way back, so the program is checked before.

use std::{
    env,
    ffi::{CString, OsStr},
    io::{self, Read},
    os::{
        fd::RawFd,
        unix::{ffi::OsStrExt, process::CommandExt},
    },
    path::{self, Path, PathBuf},
    process::{ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{OFlags, fcntl_setfl};

use crate::{
    config::{INHERITED_PROGRAM, INHERITED_RESTARTS, INHERITED_SOCKET},
    store::device_and_inode,
};

/// The file that this process runs, even if it has been replaced or removed.
const RUNNING: &str = "/proc/self/exe";
/// How long a new program may take to print its version, and how often this is checked.
const NEW_PROGRAM_MS_MAX: u64 = 5_000;
const NEW_PROGRAM_TICK_MS: u64 = 10;
/// The beginning of the output of `mailslot --version`.
const VERSION_BEGIN: &[u8] = b"mailslot ";

/// The program that runs after the restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// The current content of the file from which the process was started: for an upgrade.
    New,
    /// The program that runs now. A restart that clients can cause must not depend on a file.
    Running,
}

/// The path from which this process was started. It may be a symbolic link, which an upgrade
/// changes.
///
/// # Errors
/// When the path cannot be determined.
pub(crate) fn started_as() -> io::Result<PathBuf> {
    if let Some(path) = env::var_os(INHERITED_PROGRAM) {
        return Ok(path.into());
    }
    let given = OsStr::from_bytes(rustix::param::linux_execfn().to_bytes());
    match path::absolute(given) {
        Ok(path) if device_and_inode(&path) == device_and_inode(Path::new(RUNNING)) => Ok(path),
        _ => env::current_exe(),
    }
}

/// Gives the process the name of its program, for `pkill -x mailslot`. The kernel takes the name
/// from the path, and [`RUNNING`] ends in "exe".
pub(crate) fn restore_name(program: &Path) {
    let name = program.file_name().and_then(|name| CString::new(name.as_bytes()).ok());
    if let Some(name) = name {
        // Without the name, the service works as well.
        let _ = rustix::thread::set_name(&name);
    }
}

/// Checks that the file at `program` can be run and is a mailslot: an upgrade may be incomplete, be
/// for another machine, or have put another program there. `is_urgent` ends the wait for it.
///
/// # Errors
/// What is wrong with the file.
pub(crate) fn check(program: &Path, is_urgent: impl Fn() -> bool) -> Result<(), String> {
    let name = program.display();
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("{name} cannot be run: {error}"))?;
    let started = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => {
                return if child.stdout.take().is_some_and(is_of_mailslot) {
                    Ok(())
                } else {
                    Err(format!("{name} is another program: its --version does not name mailslot"))
                };
            }
            Ok(Some(status)) => return Err(format!("{name} --version ended with {status}")),
            Ok(None) => {}
            Err(error) => return Err(format!("{name} --version cannot be waited for: {error}")),
        }
        let is_late = started.elapsed() > Duration::from_millis(NEW_PROGRAM_MS_MAX);
        if is_late || is_urgent() {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("{name} --version did not end in time"));
        }
        thread::sleep(Duration::from_millis(NEW_PROGRAM_TICK_MS));
    }
}

/// Whether a program that has ended wrote what a mailslot writes. A process that it started may
/// still have the pipe open, so this does not wait.
fn is_of_mailslot(mut output: ChildStdout) -> bool {
    let mut begin = [0; VERSION_BEGIN.len()];
    fcntl_setfl(&output, OFlags::NONBLOCK).is_ok()
        && output.read_exact(&mut begin).is_ok()
        && begin == VERSION_BEGIN
}

/// Runs a program in this process, which keeps its id and the listening socket: this works as PID 1
/// of a container, under systemd, and from a shell. If the program cannot be run after all, the
/// other one is tried. Returns only if neither can be run, with the reasons.
pub(crate) fn exec(
    next: Next,
    started_as: &io::Result<PathBuf>,
    socket: Option<RawFd>,
    restarts: u64,
) -> Vec<String> {
    let running = Some(Path::new(RUNNING));
    let new = started_as.as_deref().ok();
    let programs = match next {
        Next::New => [new, running],
        Next::Running => [running, new],
    };
    let mut problems = Vec::new();
    for program in programs.into_iter().flatten() {
        let mut command = Command::new(program);
        command.args(env::args_os().skip(1)).env(INHERITED_RESTARTS, restarts.to_string());
        if let Some(name) = env::args_os().next() {
            command.arg0(name);
        }
        if let Some(path) = new {
            command.env(INHERITED_PROGRAM, path);
        }
        if let Some(number) = socket {
            command.env(INHERITED_SOCKET, number.to_string());
        }
        problems.push(format!("cannot restart as {}: {}", program.display(), command.exec()));
    }
    problems
}

//! The process that serves: its signals, systemd, the reload and the restart in place.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use sd_notify::NotifyState;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGXFSZ},
    flag,
    iterator::Signals,
};

use super::{
    restart::{self, Next},
    start::{Failure, Server},
    systemd::{notify, start_watchdog},
};
use crate::{
    config::{Config, with_source},
    logging,
};

/// How often it is logged that the service cannot restart for the same reasons.
const REPEAT_REFUSAL: Duration = Duration::from_mins(1);

/// Serves until SIGTERM or SIGINT. A restart in place does not return.
///
/// # Errors
/// Every reason, each as a sentence for the operator.
pub fn serve() -> Result<(), Failure> {
    // This comes first, so that no signal is missed.
    let leaving = Arc::new(AtomicBool::new(false));
    let signals = handle_signals(&leaving);
    let mut config = with_source(Config::read).map_err(|error| Failure::Settings(error.0))?;
    let started_as = restart::started_as();
    if let Ok(path) = &started_as {
        restart::restore_name(path);
    }
    let mut signals = logging::init(config.log_level)
        .and(signals)
        .map_err(|error| Failure::Failed(vec![error.to_string()]))?;
    let server = Server::start(&config).inspect_err(|_| log::logger().flush())?;
    notify(&NotifyState::Ready);
    start_watchdog(server.address());
    let mut next = wait(&server, &mut signals, &mut config, &started_as);
    if next.is_none() {
        notify(&NotifyState::Stopping);
    }
    let socket = server.stop(next.is_some());
    let mut meanwhile: Vec<i32> = signals.pending().collect();
    // An operator may install a new program while a restart that clients cause is under way.
    if next == Some(Next::Running) && meanwhile.contains(&SIGUSR2) {
        match check_new(&started_as, || false) {
            Ok(_) => next = Some(Next::New),
            Err(problems) => {
                log::error!(reason = "SIGUSR2", problems; "the restart keeps the running program");
            }
        }
    }
    log::logger().flush();
    // From here on, SIGTERM and SIGINT end the process in their handlers.
    leaving.store(true, SeqCst);
    meanwhile.extend(signals.pending());
    let asks_for_end = meanwhile.into_iter().any(is_end);
    match (next, socket) {
        (Some(next), Ok(socket)) if !asks_for_end => {
            let restarts = config.inherited.restarts + 1;
            Err(Failure::Failed(restart::exec(next, &started_as, socket, restarts)))
        }
        (Some(_), Err(error)) if !asks_for_end => {
            Err(Failure::Failed(vec![format!("the socket cannot be kept: {error}")]))
        }
        _ => Ok(()),
    }
}

/// The signals that [`wait`] handles. Once `leaving` is true, SIGTERM and SIGINT also end the
/// process at once. This second action is registered after the first, so a signal that comes while
/// `leaving` is being set is recorded before, or ends the process.
fn handle_signals(leaving: &Arc<AtomicBool>) -> io::Result<Signals> {
    let signals = Signals::new([SIGTERM, SIGINT, SIGUSR1, SIGUSR2, SIGHUP])?;
    for signal in [SIGTERM, SIGINT] {
        flag::register_conditional_shutdown(signal, 0, Arc::clone(leaving))?;
    }
    // With a handler, a limit on file sizes is an error of the write, which is answered 503, and
    // does not kill the process.
    let file_too_large = Arc::new(AtomicBool::new(false));
    flag::register(SIGXFSZ, file_too_large)?;
    Ok(signals)
}

fn is_end(signal: i32) -> bool {
    signal == SIGTERM || signal == SIGINT
}

/// Handles signals until the service must stop. Returns the program for a restart, or `None` for
/// the end.
fn wait(
    server: &Server,
    signals: &mut Signals,
    config: &mut Config,
    started_as: &io::Result<PathBuf>,
) -> Option<Next> {
    let mut spare = spare_descriptor();
    let mut refused = None;
    loop {
        let seen: Vec<i32> = signals.wait().collect();
        if let Some(signal) = seen.iter().copied().find(|signal| is_end(*signal)) {
            log::info!(signal; "stopping");
            return None;
        }
        if seen.contains(&SIGHUP) {
            reload(server, config);
        }
        if let Some(reason) = server.restart().reason() {
            drop(spare.take());
            let next = with_source(Config::read).map_err(|error| error.0.join("; "));
            let ready = next.and_then(|next| check_database(server, config, &next));
            spare = spare_descriptor();
            match ready {
                Ok(()) => {
                    log::warn!(reason; "restarting in place");
                    log::info!("stopping");
                    if seen.contains(&SIGUSR2) {
                        // It is handled once the service has stopped.
                        let _ = signal_hook::low_level::raise(SIGUSR2);
                    }
                    return Some(Next::Running);
                }
                Err(problems) => refuse(server, &mut refused, &reason, problems),
            }
        }
        if seen.contains(&SIGUSR2) {
            let next = check_new(started_as, || server.restart().reason().is_some());
            match next.and_then(|next| check_database(server, config, &next)) {
                Ok(()) => {
                    log::info!(signal = SIGUSR2; "stopping");
                    return Some(Next::New);
                }
                Err(problems) => log_refusal("SIGUSR2", &problems),
            }
        }
    }
}

/// A descriptor that is closed to read the settings when clients use all others.
fn spare_descriptor() -> Option<OwnedFd> {
    io::stdin().as_fd().try_clone_to_owned().ok()
}

/// Checks that the process can restart as the program that the operator has installed, and gives
/// the settings that are valid now. `is_urgent` ends the wait for that program.
fn check_new(
    started_as: &io::Result<PathBuf>,
    is_urgent: impl Fn() -> bool,
) -> Result<Config, String> {
    let next = with_source(Config::read).map_err(|error| error.0.join("; "))?;
    let program = started_as
        .as_ref()
        .map_err(|error| format!("the path of this program cannot be determined: {error}"))?;
    restart::check(program, is_urgent).map(|()| next)
}

/// Checks that the database server is there: without it the next program could not start, and this
/// one can go on. With a file it starts whatever the disk does; and whether it can use another
/// database is not known here.
fn check_database(server: &Server, config: &Config, next: &Config) -> Result<(), String> {
    let is_same_server = config.database.file().is_none() && config.database == next.database;
    if is_same_server && !server.restart().is_urgent() && server.is_storage_away() {
        return Err("the database server takes no commit now".to_owned());
    }
    Ok(())
}

/// Refuses a restart for which the service asks. It asks every second: this is logged when the
/// problems change, and once a minute.
fn refuse(server: &Server, last: &mut Option<(String, Instant)>, reason: &str, problems: String) {
    server.restart().decline();
    let is_known = last
        .as_ref()
        .is_some_and(|(known, at)| *known == problems && at.elapsed() < REPEAT_REFUSAL);
    if !is_known {
        log_refusal(reason, &problems);
        *last = Some((problems, Instant::now()));
    }
}

fn log_refusal(reason: &str, problems: &str) {
    log::error!(reason, problems; "cannot restart: the service goes on unchanged");
}

/// Reads the settings again and applies those that can change while mailslot runs, all or none of
/// them.
fn reload(server: &Server, config: &mut Config) {
    let new = match with_source(Config::read) {
        Ok(new) => new,
        Err(error) => {
            let problems = error.0.join("; ");
            log::error!(problems; "settings not reloaded: all stay unchanged");
            return;
        }
    };
    let (changed, after_restart) = config.reload(&new);
    server.replace_keys(config);
    log::set_max_level(config.log_level);
    let (changed, after_restart) = (changed.join(" "), after_restart.join(" "));
    log::warn!(changed, after_restart, secrets = config.webhook_secrets.len(); "settings reloaded");
}

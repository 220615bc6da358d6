//! The process that serves: signals, systemd, and restarting in place.

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
    start::{Server, Stop},
    systemd::{notify, start_watchdog},
};
use crate::{
    config::{Config, with_source},
    logging,
};

/// How often the log repeats that the service cannot restart for the same reasons.
const REPEAT_REFUSAL: Duration = Duration::from_mins(1);

/// Why the service has not started, or has not ended as it was asked.
#[derive(Debug)]
pub enum Failure {
    /// The settings are wrong: another try will not help.
    Settings(Vec<String>),
    Failed(Vec<String>),
}

/// Serves until a signal asks for the end. A restart in place does not return.
///
/// # Errors
/// Every reason at once, each a sentence for the operator.
pub fn serve() -> Result<(), Failure> {
    // Before anything else, so that no signal is missed.
    let leaving = Arc::new(AtomicBool::new(false));
    let signals = handle_signals(&leaving);
    let mut config = match with_source(Config::read) {
        Ok(config) => config,
        Err(error) => return Err(Failure::Settings(error.0)),
    };
    let started_as = restart::started_as();
    if let Ok(path) = &started_as {
        restart::restore_name(path);
    }
    let started = logging::init(config.log_level).and_then(|flush| Ok((flush, signals?)));
    let (flush, mut signals) = match started {
        Ok(started) => started,
        Err(error) => return Err(Failure::Failed(vec![error.to_string()])),
    };
    let server = match Server::start(&config) {
        Ok(server) => server,
        Err(problems) => {
            flush.flush();
            return Err(Failure::Failed(problems));
        }
    };
    notify(&NotifyState::Ready);
    start_watchdog(server.address());
    let mut next = wait(&server, &mut signals, &mut config, &started_as);
    if next.is_none() {
        notify(&NotifyState::Stopping);
    }
    let stop = if next.is_some() { Stop::Restart } else { Stop::Exit };
    let socket = server.stop(stop);
    let mut meanwhile: Vec<i32> = signals.pending().collect();
    // An operator may install a new program while a restart that clients cause is under way.
    if next == Some(Next::Running) && meanwhile.contains(&SIGUSR2) {
        match check_new(&started_as, || false) {
            Ok(()) => next = Some(Next::New),
            Err(problems) => {
                log::error!(reason = "SIGUSR2", problems; "the restart keeps the running program");
            }
        }
    }
    flush.flush();
    // A signal that asks for the end is either seen here, or ends the process in its handler.
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

/// The signals that [`wait`] decides on. Once `leaving` is true, SIGTERM and SIGINT end the process at
/// once. Their second action is registered after the first: a signal whose handler runs while
/// `leaving` is set has then been recorded before, or sees it.
fn handle_signals(leaving: &Arc<AtomicBool>) -> io::Result<Signals> {
    let signals = Signals::new([SIGTERM, SIGINT, SIGUSR1, SIGUSR2, SIGHUP])?;
    for signal in [SIGTERM, SIGINT] {
        flag::register_conditional_shutdown(signal, 0, Arc::clone(leaving))?;
    }
    // A limit on file sizes is an error of the write, which is answered 503, not a death.
    let file_too_large = Arc::new(AtomicBool::new(false));
    flag::register(SIGXFSZ, file_too_large)?;
    Ok(signals)
}

fn is_end(signal: i32) -> bool {
    signal == SIGTERM || signal == SIGINT
}

/// Returns when the service is to stop: what the process becomes then, or `None` if it is to end.
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
        if let Some(reason) = server.restart_reason() {
            drop(spare.take());
            let settings = with_source(Config::read);
            spare = spare_descriptor();
            match settings {
                Ok(_) => {
                    log::warn!(reason; "starting anew");
                    log::info!("stopping");
                    if seen.contains(&SIGUSR2) {
                        // Which is looked at once the service has stopped.
                        let _ = signal_hook::low_level::raise(SIGUSR2);
                    }
                    return Some(Next::Running);
                }
                Err(error) => refuse(server, &mut refused, &reason, error.0.join("; ")),
            }
        }
        if seen.contains(&SIGUSR2) {
            match check_new(started_as, || server.restart_reason().is_some()) {
                Ok(()) => {
                    log::info!(signal = SIGUSR2; "stopping");
                    return Some(Next::New);
                }
                Err(problems) => log_refusal("SIGUSR2", &problems),
            }
        }
    }
}

/// For reading the settings when clients have taken every other descriptor.
fn spare_descriptor() -> Option<OwnedFd> {
    io::stdin().as_fd().try_clone_to_owned().ok()
}

/// Whether the process can become what an operator has installed. `is_urgent` ends the wait for it.
fn check_new(started_as: &io::Result<PathBuf>, is_urgent: impl Fn() -> bool) -> Result<(), String> {
    with_source(Config::read).map_err(|error| error.0.join("; "))?;
    let program = started_as
        .as_ref()
        .map_err(|error| format!("the path of this program cannot be found out: {error}"))?;
    restart::check(program, is_urgent)
}

/// Stays with a service that asks for a restart. It asks once a second: the log tells of it when the
/// problems change, and now and then.
fn refuse(server: &Server, last: &mut Option<(String, Instant)>, reason: &str, problems: String) {
    server.refuse_restart();
    let is_known = last
        .as_ref()
        .is_some_and(|(known, at)| *known == problems && at.elapsed() < REPEAT_REFUSAL);
    if !is_known {
        log_refusal(reason, &problems);
        *last = Some((problems, Instant::now()));
    }
}

fn log_refusal(reason: &str, problems: &str) {
    log::error!(reason, problems; "cannot restart: the service goes on as it is");
}

/// Reads the settings again: secrets, tokens, HOSTS and the log level count from now on, all or none. What
/// else has changed counts from the next start.
fn reload(server: &Server, config: &mut Config) {
    let new = match with_source(Config::read) {
        Ok(new) => new,
        Err(error) => {
            let problems = error.0.join("; ");
            log::error!(problems; "settings not read again: all stay as they were");
            return;
        }
    };
    let (changed, after_restart) = config.reload(&new);
    server.replace_keys(config);
    logging::set_level(config.log_level);
    let (changed, after_restart) = (changed.join(" "), after_restart.join(" "));
    log::warn!(changed, after_restart, secrets = config.webhook_secrets.len(); "settings read again");
}

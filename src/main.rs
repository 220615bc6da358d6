//! The process that serves: signals, systemd, and restarting in place.

mod restart;

use std::{
    env, io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use mailslot::{
    cli::{self, EXIT_FAILURE, EXIT_USAGE, fail, with_source},
    config::Config,
    logging,
    server::{self, Server, Stop},
};
use restart::Next;
use rustix::fs::Mode;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGXFSZ},
    flag,
    iterator::Signals,
};

/// How often the log repeats that the service cannot restart for the same reasons.
const REPEAT_REFUSAL: Duration = Duration::from_mins(1);

fn main() -> ExitCode {
    // The files that it creates hold messages: no other user may read them. SQLite gives -wal and -shm
    // the mode of the database, and files that are there already keep theirs.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    cli::run(&arguments, serve)
}

fn serve() -> ExitCode {
    // Before anything else, so that no signal is missed.
    let leaving = Arc::new(AtomicBool::new(false));
    let signals = handle_signals(&leaving);
    let mut config = match with_source(Config::read) {
        Ok(config) => config,
        Err(error) => return fail(&error.0, EXIT_USAGE),
    };
    let started_as = restart::started_as();
    if let Ok(path) = &started_as {
        restart::restore_name(path);
    }
    let started = logging::init(config.log_level).and_then(|flush| Ok((flush, signals?)));
    let (flush, mut signals) = match started {
        Ok(started) => started,
        Err(error) => return fail(&[error.to_string()], EXIT_FAILURE),
    };
    let server = match Server::start(&config) {
        Ok(server) => server,
        Err(problems) => {
            flush.flush();
            return fail(&problems, EXIT_FAILURE);
        }
    };
    notify("READY=1");
    feed_watchdog(server.address());
    let mut next = wait(&server, &mut signals, &mut config, &started_as);
    if next.is_none() {
        notify("STOPPING=1");
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
            fail(&restart::exec(next, &started_as, socket, restarts), EXIT_FAILURE)
        }
        (Some(_), Err(error)) if !asks_for_end => {
            fail(&[format!("the socket cannot be kept: {error}")], EXIT_FAILURE)
        }
        _ => ExitCode::SUCCESS,
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
    let (changed, not_yet) = new.changes(config);
    let secrets = new.webhook_secrets.len();
    server.replace_keys(&new);
    logging::set_level(new.log_level);
    *config = Config {
        webhook_secrets: new.webhook_secrets,
        read_tokens: new.read_tokens,
        hosts: new.hosts,
        log_level: new.log_level,
        ..config.clone()
    };
    let (changed, not_yet) = (changed.join(" "), not_yet.join(" "));
    log::warn!(changed, after_restart = not_yet, secrets; "settings read again");
}

/// Tells systemd, if it asked to be told, that mailslot is alive, as long as a request of our own is
/// answered and finds the database (WatchdogSec= in the unit).
fn feed_watchdog(address: SocketAddr) {
    let number = |name| env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    let Some(patience) = number("WATCHDOG_USEC").filter(|_| is_ours) else { return };
    // One answer may fail to come: the next one is asked for at once.
    let every = Duration::from_micros(patience / 4);
    let feed = move || {
        loop {
            if server::is_alive(address, every) {
                notify("WATCHDOG=1");
                thread::sleep(every);
            } else {
                log::error!("mailslot does not answer itself: systemd may start it anew");
                thread::sleep(every / 10);
            }
        }
    };
    if let Err(error) = thread::Builder::new().name("watchdog".into()).spawn(feed) {
        log::error!(error:% = error; "the watchdog cannot be fed");
    }
}

/// Tells systemd, if it asked to be told (sd_notify(3)).
fn notify(state: &str) {
    use std::os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    };
    let Some(path) = env::var_os("NOTIFY_SOCKET") else { return };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let sent = address
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = sent {
        log::warn!(error:% = error; "systemd cannot be told {state}");
    }
}

//! The process that serves: signals, systemd, and becoming itself anew.

use std::{
    env, io,
    net::SocketAddr,
    os::{fd::RawFd, unix::process::CommandExt},
    path::PathBuf,
    process::{Command, ExitCode},
    sync::{Arc, atomic::AtomicBool},
    thread,
    time::Duration,
};

use mailslot::{
    cli::{self, EXIT_FAILURE, EXIT_USAGE, fail, with_source},
    config::{Config, INHERITED_RESTARTS, INHERITED_SOCKET},
    logging,
    server::{self, Server, Stop},
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR2, SIGXFSZ};

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    cli::run(&arguments, serve)
}

fn serve() -> ExitCode {
    let mut config = match with_source(Config::read) {
        Ok(config) => config,
        Err(error) => return fail(&error.0, EXIT_USAGE),
    };
    // Before any thread is there to be interrupted, so that no signal is missed.
    let signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGUSR2, SIGHUP]);
    // A limit on file sizes is an error of the write, which is answered 503, not a death.
    let file_too_large = Arc::new(AtomicBool::new(false));
    let _ = signal_hook::flag::register(SIGXFSZ, file_too_large);
    // Before the file is replaced by a newer one, which a restart then starts.
    let program = env::current_exe();
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
    let (mut stop, signal) = loop {
        let seen: Vec<i32> = signals.wait().collect();
        if let Some(told) = told(seen.iter().copied()) {
            break told;
        }
        if seen.contains(&SIGHUP) {
            reload(&server, &mut config);
        }
    };
    if stop == Stop::Exit {
        notify("STOPPING=1");
    }
    log::info!(signal; "stopping");
    let socket = server.stop(stop);
    // Who asks for the end while a restart is under way gets it.
    if let Some((Stop::Exit, _)) = told(signals.pending()) {
        stop = Stop::Exit;
    }
    flush.flush();
    match (stop, socket) {
        (Stop::Exit, _) => ExitCode::SUCCESS,
        (Stop::Restart, Ok(socket)) => {
            let error = become_anew(program, socket, config.inherited.restarts + 1);
            fail(&[format!("cannot start anew: {error}")], EXIT_FAILURE)
        }
        (Stop::Restart, Err(error)) => {
            fail(&[format!("the socket cannot be kept: {error}")], EXIT_FAILURE)
        }
    }
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

/// What these signals ask for: an end, if one of them does.
fn told(signals: impl Iterator<Item = i32>) -> Option<(Stop, i32)> {
    let stop = |signal| if signal == SIGUSR2 { Stop::Restart } else { Stop::Exit };
    signals
        .filter(|signal| *signal != SIGHUP)
        .map(|signal| (stop(signal), signal))
        .max_by_key(|(stop, _)| *stop == Stop::Exit)
}

/// The same process goes on as a new program, and finds the listening socket open: as PID 1 of a
/// container, under systemd, started by hand. Returns only if that fails.
fn become_anew(program: io::Result<PathBuf>, socket: Option<RawFd>, restarts: u64) -> io::Error {
    let program = match program {
        Ok(program) => program,
        Err(error) => return error,
    };
    let mut command = Command::new(program);
    command.args(env::args_os().skip(1)).env(INHERITED_RESTARTS, restarts.to_string());
    if let Some(number) = socket {
        command.env(INHERITED_SOCKET, number.to_string());
    }
    command.exec()
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

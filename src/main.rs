//! The command line: serve, or one of the few other verbs.

use std::{
    collections::HashMap,
    env,
    ffi::OsString,
    fmt::Write as _,
    fs::File,
    io::{self, BufRead, BufReader, Write},
    net::SocketAddr,
    os::{fd::RawFd, unix::process::CommandExt},
    path::PathBuf,
    process::{Command, ExitCode},
    sync::{Arc, atomic::AtomicBool},
    thread,
    time::Duration,
};

use mailslot::{
    config::{
        Config, ConfigError, INHERITED_RESTARTS, INHERITED_SOCKET, SETTINGS, Setting, Source,
    },
    import, logging,
    server::{self, Server, Stop},
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR2, SIGXFSZ};

/// Wrong settings or arguments: restarting will not help.
const EXIT_USAGE: u8 = 2;
/// Everything else that stops mailslot from working.
const EXIT_FAILURE: u8 = 1;
/// How long `mailslot healthcheck` waits for an answer.
const HEALTHCHECK_MS_MAX: u64 = 3_000;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(|argument| argument.to_str()).collect();
    match arguments[..] {
        [] | [Some("serve")] => serve(),
        [Some("healthcheck")] => healthcheck(),
        [Some("import"), Some(file)] => import(file),
        [Some("--version" | "-V" | "version")] => print(&version()),
        [Some("--help" | "-h" | "help")] => print(&help()),
        _ => {
            eprintln!("mailslot: unknown arguments; see mailslot --help");
            ExitCode::from(EXIT_USAGE)
        }
    }
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

/// Reads the settings again: secrets, tokens and the log level count from now on, all or none. What
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

/// Asks the service at LISTEN whether it is ready: exit status 0 or 1.
fn healthcheck() -> ExitCode {
    let address = match with_source(Config::read_listen) {
        Ok(address) => address,
        Err(error) => return fail(&error.0, EXIT_USAGE),
    };
    let problem = match server::ask_ready(address, Duration::from_millis(HEALTHCHECK_MS_MAX)) {
        Ok((200, _)) => return ExitCode::SUCCESS,
        Ok((_, body)) => body,
        Err(error) => error.to_string(),
    };
    fail(&[format!("{address} is not ready: {problem}")], EXIT_FAILURE)
}

/// Stores the messages of a file, or of stdin: exit status 0 if each line was one.
fn import(file: &str) -> ExitCode {
    let database = match with_source(Config::read_database) {
        Ok(database) => database,
        Err(error) => return fail(&error.0, EXIT_USAGE),
    };
    let opened = match file {
        "-" => Ok((Box::new(io::stdin().lock()) as Box<dyn BufRead>, None)),
        _ => File::open(file).and_then(|file| {
            let bytes = file.metadata()?.len();
            Ok((Box::new(BufReader::new(file)) as Box<dyn BufRead>, Some(bytes)))
        }),
    };
    let (mut input, bytes) = match opened {
        Ok(opened) => opened,
        Err(error) => return fail(&[format!("{file}: {error}")], EXIT_FAILURE),
    };
    match import::import(&database, &mut *input, bytes, &mut io::stderr()) {
        Ok(imported) if imported.bad == 0 => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(EXIT_FAILURE),
        Err(problem) => fail(&[problem], EXIT_FAILURE),
    }
}

/// Reads from the environment and, for what is not in it, from the file that SETTINGS_FILE names.
fn with_source<T>(read: impl Fn(&Source<'_>) -> Result<T, ConfigError>) -> Result<T, ConfigError> {
    let file =
        |path: &str| std::fs::read(path).map_err(|error| format!("{path} cannot be read: {error}"));
    let settings = match env::var_os("SETTINGS_FILE").filter(|path| !path.is_empty()) {
        None => HashMap::new(),
        Some(path) => {
            let text = file(&path.to_string_lossy()).and_then(|bytes| {
                String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
            });
            text.and_then(|text| settings(&text))
                .map_err(|problem| ConfigError(vec![format!("SETTINGS_FILE: {problem}")]))?
        }
    };
    read(&Source {
        variable: &|name| match env::var(name) {
            Ok(value) if !value.is_empty() => Ok(Some(value)),
            Ok(_) | Err(env::VarError::NotPresent) => Ok(settings.get(name).cloned()),
            Err(env::VarError::NotUnicode(_)) => Err("is not UTF-8".to_owned()),
        },
        credential: &|name| {
            let Some(folder) = env::var_os("CREDENTIALS_DIRECTORY") else { return Ok(None) };
            match std::fs::read(std::path::Path::new(&folder).join(name)) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(format!("cannot be read: {error}")),
            }
        },
        file: &file,
    })
}

/// `NAME=value` lines, as systemd's EnvironmentFile= and Docker's --env-file have them; `#` begins a
/// line that is none.
fn settings(text: &str) -> Result<HashMap<String, String>, String> {
    let lines = text.lines().zip(1..).map(|(line, number)| (line.trim(), number));
    let lines = lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|(line, number)| {
            let (name, value) = line
                .split_once('=')
                .ok_or_else(|| format!("line {number}: expected NAME=value"))?;
            if !SETTINGS.iter().any(|setting| setting.name == name) {
                return Err(format!("line {number}: there is no setting {name:?}"));
            }
            Ok((name.to_owned(), value.trim().to_owned()))
        })
        .collect()
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

fn fail(problems: &[String], status: u8) -> ExitCode {
    for problem in problems {
        eprintln!("mailslot: {problem}");
    }
    ExitCode::from(status)
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(EXIT_FAILURE),
    }
}

fn version() -> String {
    format!("mailslot {}\n", env!("CARGO_PKG_VERSION"))
}

fn help() -> String {
    let mut help = version();
    help.push_str(
        "Receives signed webhooks over HTTP, stores each message exactly once in SQLite,\n\
         and answers 200 only when it is safe on disk.\n\n\
         Usage:\n  \
         mailslot               serve until SIGTERM or SIGINT; SIGUSR2 starts it anew\n  \
                                on the same socket\n  \
         mailslot healthcheck   ask the service at LISTEN whether it is ready: exit 0 or 1\n  \
         mailslot import FILE   store the messages of a file, one JSON object a line as in a\n  \
                                delivery; - is stdin. May run beside the service; run it\n  \
                                again to resume\n  \
         mailslot --help        this text\n  \
         mailslot --version     the version\n\n\
         Settings, from the environment:\n",
    );
    for setting in SETTINGS {
        let Setting { name, meaning, default } = setting;
        let _ = writeln!(help, "  {name:<27} {meaning} [{default}]");
    }
    help.push_str(
        "\nExit status: 0 stopped as asked, 1 cannot start or not ready, 2 wrong settings.\n\
         Logs go to stdout, one JSON object a line.\n",
    );
    help
}

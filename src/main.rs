//! The command line: serve, or one of the few other verbs.

use std::{
    env,
    ffi::OsString,
    fmt::Write as _,
    io::Write,
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use mailslot::{
    config::{Config, SETTINGS, Setting, Source},
    logging,
    server::{Server, Stopped},
};

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
        [Some("--version" | "-V" | "version")] => print(&version()),
        [Some("--help" | "-h" | "help")] => print(&help()),
        _ => {
            eprintln!("mailslot: unknown arguments; see mailslot --help");
            ExitCode::from(EXIT_USAGE)
        }
    }
}

fn serve() -> ExitCode {
    let config = match Config::read(&source()) {
        Ok(config) => config,
        Err(error) => return fail(&error.0, EXIT_USAGE),
    };
    // Before any thread is there to be interrupted, so that no signal is missed.
    let signals = signal_hook::iterator::Signals::new([
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGINT,
    ]);
    // A limit on file sizes is an error of the write, which is answered 503, not a death.
    let file_too_large = Arc::new(AtomicBool::new(false));
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, file_too_large);
    // A connection takes two descriptors, and tiny_http does not survive the last one.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
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
    if let Some(signal) = signals.forever().next() {
        notify("STOPPING=1");
        log::info!(signal; "stopping");
    }
    let stopped = server.stop();
    flush.flush();
    if stopped == Stopped::AsAsked { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILURE) }
}

/// Asks the service at LISTEN whether it is ready: exit status 0 or 1.
fn healthcheck() -> ExitCode {
    let address = match Config::read_listen(&source()) {
        Ok(address) => address,
        Err(error) => return fail(&error.0, EXIT_USAGE),
    };
    match mailslot::server::ask_ready(address, Duration::from_millis(HEALTHCHECK_MS_MAX)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => fail(&[format!("{address} is not ready: {problem}")], EXIT_FAILURE),
    }
}

fn source() -> Source<'static> {
    Source {
        variable: &|name| match env::var(name) {
            Ok(value) => Ok(Some(value)),
            Err(env::VarError::NotPresent) => Ok(None),
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
         mailslot               serve until SIGTERM or SIGINT\n  \
         mailslot healthcheck   ask the service at LISTEN whether it is ready: exit 0 or 1\n  \
         mailslot --help        this text\n  \
         mailslot --version     the version\n\n\
         Settings, from the environment:\n",
    );
    for setting in SETTINGS {
        let Setting { name, meaning, default } = setting;
        let _ = writeln!(help, "  {name:<15} {meaning} [{default}]");
    }
    help.push_str(
        "\nExit status: 0 stopped as asked, 1 cannot start or not ready, 2 wrong settings.\n\
         Logs go to stdout, one JSON object a line.\n",
    );
    help
}

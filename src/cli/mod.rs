//! The command line: the table of verbs, and what running one comes to: an exit status.

mod backup;
mod check;
mod config;
mod diagnosis;
mod erase;
mod export;
mod exposure;
mod healthcheck;
mod import;
mod json_spacing;
mod output;
mod pace;
mod report;
mod send;
mod sign;
mod tail;
mod tally;
mod target;
mod trouble;

use std::{
    ffi::{OsStr, OsString},
    fmt::{Display, Write as _},
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    ops::RangeInclusive,
    process::ExitCode,
    str::FromStr,
};

use lexopt::Parser;

use crate::{
    config::{ConfigError, SETTINGS, Setting},
    error::Error,
    http::BODY_BYTES_MAX,
    message::{Instant, check_ts},
    service,
};

/// Wrong settings or arguments: trying again will not help.
pub const EXIT_USAGE: u8 = 2;
/// Everything else that stops mailslot from doing what it was asked.
pub const EXIT_FAILURE: u8 = 1;

/// What it is called, what comes behind, what it does, more about it, and the function.
type Verb = (&'static str, &'static str, &'static str, &'static str, fn(Parser) -> Outcome);

#[rustfmt::skip]
const VERBS: &[Verb] = &[
    ("healthcheck", "", "ask the service at LISTEN whether it is ready", healthcheck::HELP, healthcheck::run),
    ("sign", "FILE|-", "print the X-Signature of a body", sign::SIGN_HELP, sign::sign),
    ("verify", "--signature HEX [--explain] FILE|-", "check the signature of a body, and say why it is not valid", sign::VERIFY_HELP, sign::verify),
    ("send", "[--url URL] [--count N] [--rate N] [--connections N] [--json] [FILE|-]", "post signed messages, from a file or made up", send::HELP, send::run),
    ("tail", "[-n N] [--follow]", "print the last messages, and those to come", tail::HELP, tail::run),
    ("export", "[--format ndjson|csv] [FILTERS] [--output FILE]", "write all messages that the filters mean", export::HELP, export::run),
    ("import", "FILE|-", "store the messages of a file", import::HELP, import::run),
    ("backup", "[--force] FILE", "copy the database beside the running service", backup::HELP, backup::run),
    ("check", "[--full] [--json]", "look for what is wrong, and say what to do", check::HELP, check::run),
    ("config", "[--json]", "print the effective settings and where each comes from", config::HELP, config::run),
    ("erase", "--from M | --before TS [--yes]", "erase messages for good", erase::HELP, erase::run),
];

const SERVE_HELP: &str = "\
Serves until SIGTERM or SIGINT. SIGUSR2 starts it anew on the same socket; SIGHUP reads the secrets,
the tokens, HOSTS and the log level again. The settings come from the environment: mailslot --help lists
them. Logs go to stdout, one JSON object a line.
";

type Outcome = Result<(), Failure>;

/// Why a verb has not done what it was asked.
#[derive(Debug)]
enum Failure {
    /// The arguments are wrong.
    Usage(String),
    Settings(Vec<String>),
    /// What to do, for the operator.
    Failed(String),
    /// The output has told already.
    Told,
    /// Whoever read the output has had enough, which is no failure.
    NobodyReads,
}

impl From<lexopt::Error> for Failure {
    fn from(error: lexopt::Error) -> Failure {
        Failure::Usage(error.to_string())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure::Settings(error.0)
    }
}

impl From<String> for Failure {
    fn from(sentence: String) -> Failure {
        Failure::Failed(sentence)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Failed(reason(&error))
    }
}

/// Does what the arguments ask for. To serve is the process's own.
#[must_use]
pub fn run(arguments: &[OsString]) -> ExitCode {
    let first = arguments.first().map(|argument| argument.to_string_lossy().into_owned());
    let rest = arguments.get(1..).unwrap_or_default();
    let asks_for_help = rest
        .iter()
        .take_while(|argument| *argument != "--")
        .any(|argument| argument == "--help" || argument == "-h");
    match first.as_deref() {
        None => serve(),
        Some("--version" | "-V" | "version") => print(&version()),
        Some("--help" | "-h" | "help") => print(&help()),
        Some("serve") if asks_for_help => print(&format!("Usage: mailslot serve\n\n{SERVE_HELP}")),
        Some("serve") => match rest.first() {
            None => serve(),
            Some(extra) => {
                let extra = extra.to_string_lossy();
                let problem = format!(
                    "unexpected argument {extra:?}: \"serve\" takes no argument; see mailslot serve --help"
                );
                fail(&[problem], EXIT_USAGE)
            }
        },
        Some(name) => match VERBS.iter().find(|verb| verb.0 == name) {
            Some((name, usage, _, help, _)) if asks_for_help => {
                print(&format!("Usage: mailslot {name} {usage}\n\n{help}"))
            }
            Some((name, .., run)) => {
                trouble::to_stderr();
                status(name, run(Parser::from_args(rest)))
            }
            None => fail(&[format!("unknown command {name:?}; see mailslot --help")], EXIT_USAGE),
        },
    }
}

fn serve() -> ExitCode {
    match service::serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(service::Failure::Settings(problems)) => fail(&problems, EXIT_USAGE),
        Err(service::Failure::Failed(problems)) => fail(&problems, EXIT_FAILURE),
    }
}

fn status(verb: &str, outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) | Err(Failure::NobodyReads) => ExitCode::SUCCESS,
        Err(Failure::Usage(problem)) => {
            fail(&[format!("{problem}; see mailslot {verb} --help")], EXIT_USAGE)
        }
        Err(Failure::Settings(problems)) => fail(&problems, EXIT_USAGE),
        Err(Failure::Failed(problem)) => fail(&[problem], EXIT_FAILURE),
        Err(Failure::Told) => ExitCode::from(EXIT_FAILURE),
    }
}

/// Tells the operator.
#[must_use]
pub fn fail(problems: &[String], status: u8) -> ExitCode {
    for problem in problems {
        // Nobody may be listening, and then nothing is to be done.
        let _ = writeln!(io::stderr(), "mailslot: {problem}");
    }
    ExitCode::from(status)
}

fn print(text: &str) -> ExitCode {
    status("", say(text))
}

/// To stdout.
fn say(text: &str) -> Outcome {
    written(io::stdout().write_all(text.as_bytes()))
}

fn written(result: io::Result<()>) -> Outcome {
    result.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::NobodyReads,
        _ => Failure::Failed(format!("the output cannot be written: {error}")),
    })
}

/// What was refused, for the operator.
fn reason(error: &Error) -> String {
    match error {
        Error::Invalid { problems, .. } => {
            let problem = |problem: &crate::error::Problem| {
                let place = problem.loc.last().and_then(serde_json::Value::as_str);
                format!("{} {}", place.unwrap_or("it:"), problem.msg)
            };
            problems.iter().map(problem).collect::<Vec<_>>().join("; ")
        }
        Error::Unavailable(reason) => (*reason).to_owned(),
        Error::CursorAhead => "the database was replaced meanwhile: run it again".to_owned(),
        other => format!("{other:?}"),
    }
}

/// The one argument of a verb that has no options.
fn only_file(mut parser: Parser) -> Result<OsString, Failure> {
    let mut file = None;
    while let Some(argument) = parser.next()? {
        match argument {
            lexopt::Arg::Value(value) if file.is_none() => file = Some(value),
            _ => return Err(argument.unexpected().into()),
        }
    }
    required(file)
}

fn required(file: Option<OsString>) -> Result<OsString, Failure> {
    file.ok_or_else(|| Failure::Usage("a FILE is missing".to_owned()))
}

/// A file, or stdin, and how long it is where that is known.
fn open(file: &OsStr) -> Result<(Box<dyn BufRead + Send>, Option<u64>), Failure> {
    if file == "-" {
        return Ok((Box::new(BufReader::new(io::stdin())), None));
    }
    let opened = File::open(file).and_then(|file| Ok((file.metadata()?, file)));
    match opened {
        Ok((metadata, file)) => {
            let length = metadata.is_file().then_some(metadata.len());
            Ok((Box::new(BufReader::new(file)), length))
        }
        Err(error) => Err(Failure::Failed(format!("{}: {error}", file.display()))),
    }
}

/// The next line, as long as a delivery's body can be; false at the end.
fn read_line(input: &mut dyn BufRead, number: u64, line: &mut Vec<u8>) -> Result<bool, String> {
    line.clear();
    let length = Read::take(&mut *input, BODY_BYTES_MAX as u64 + 1)
        .read_until(b'\n', line)
        .map_err(|error| format!("line {number} cannot be read: {error}"))?;
    if length > BODY_BYTES_MAX {
        return Err(format!("line {number} is longer than {BODY_BYTES_MAX} bytes"));
    }
    Ok(length > 0)
}

fn read(file: &OsStr) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let (mut input, _) = open(file)?;
    match input.read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(Failure::Failed(format!("{}: {error}", file.display()))),
    }
}

/// The value of an option that takes a number. The error names the option.
fn number<T>(parser: &mut Parser, option: &str, range: RangeInclusive<T>) -> Result<T, Failure>
where
    T: FromStr + PartialOrd + Display,
{
    let text = parser.value()?.to_string_lossy().into_owned();
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| {
        let (first, last) = (range.start(), range.end());
        Failure::Usage(format!("{option} {text:?}: expected a number from {first} to {last}"))
    })
}

/// An instant as the API takes it.
fn instant(name: &str, text: &str) -> Result<Instant, Failure> {
    check_ts(text).map_err(|_| {
        Failure::Usage(format!("{name} {text:?}: expected an instant such as 2025-01-15T10:00:00Z"))
    })
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
         mailslot               serve until SIGTERM or SIGINT\n",
    );
    for (name, _, meaning, ..) in VERBS {
        let _ = writeln!(help, "  mailslot {name:<13} {meaning}");
    }
    help.push_str(
        "  mailslot VERB --help   more about one of these\n  \
         mailslot --help        this text\n  \
         mailslot --version     the version\n\n\
         Settings, from the environment:\n",
    );
    for setting in SETTINGS {
        let Setting { name, help: meaning, default, .. } = setting;
        let _ = writeln!(help, "  {name:<31} {meaning} [{}]", default.shown());
    }
    help.push_str("\nExit status: 0 done, 1 not done, 2 wrong settings or arguments.\n");
    help
}

//! The command line: the table of commands, and running one of them.

mod sign; // mailslot sign, mailslot verify
mod diagnosis; // why a signature is not valid
mod json_spacing; // the white space of a JSON text
mod send; // mailslot send
mod load_report; // what became of the messages that were sent
mod target; // the URL to which messages are sent
mod scheme; // in which scheme a body is signed
mod tail; // mailslot tail
mod export; // mailslot export
mod import; // mailslot import
mod pace; // how fast to write beside the service
mod backup; // mailslot backup
mod moving; // mailslot move
mod check; // mailslot check
mod exposure; // who else can read secrets and messages
mod report; // the findings of mailslot check
mod healthcheck; // mailslot healthcheck
mod config; // mailslot config
mod erase; // mailslot erase
mod completions; // mailslot completions
mod man; // mailslot man
mod command; // the table of a command, its help, its arguments
mod input; // the files that a command reads
mod output; // stdout, files that are written, progress
mod log_to_stderr; // what the rest of the program logs while a command runs
mod outcome; // done or why not, and the exit status

use std::{ffi::OsString, fmt::Write as _, process::ExitCode};

use lexopt::Parser;

use crate::{config::SETTINGS, service};
use command::{Command, Operand};
use outcome::{Failure, Outcome, exit_code};
use output::print;

const COMMANDS: &[&Command] = &[
    &SERVE,
    &healthcheck::COMMAND,
    &sign::SIGN,
    &sign::VERIFY,
    &send::COMMAND,
    &tail::COMMAND,
    &export::COMMAND,
    &import::COMMAND,
    &backup::COMMAND,
    &check::COMMAND,
    &config::COMMAND,
    &erase::COMMAND,
    &moving::COMMAND,
    &COMPLETIONS,
    &MAN,
];

const SERVE: Command = Command {
    name: "serve",
    summary: "serve until SIGTERM or SIGINT; the default",
    description: "\
Serves until SIGTERM or SIGINT. SIGUSR2 restarts it in place, on the same socket. SIGHUP reads the
secrets, the tokens, HOSTS, PUBLIC_URL, KEEP_ORIGINALS and LOG_LEVEL again. Settings come from the
environment; mailslot --help lists them. The log goes to stdout, one JSON object per line.
",
    options: &[],
    operand: Operand::None,
    run: |_| {
        service::serve().map_err(|failure| match failure {
            service::Failure::Settings(problems) => Failure::Settings(problems),
            service::Failure::Failed(problems) => Failure::Failed(problems),
        })
    },
};

const COMPLETIONS: Command = Command {
    name: "completions",
    summary: "print a script for a shell, with which Tab completes commands and options",
    description: "\
Prints a script with which the shell completes commands, options and files. Where each shell looks
for it: bash in /usr/share/bash-completion/completions/mailslot, zsh in a file _mailslot of a
directory of its fpath, fish in /etc/fish/completions/mailslot.fish.
",
    options: &[],
    operand: Operand::Required("bash|zsh|fish"),
    run: |arguments| {
        let shell = arguments.operand().unwrap_or_default();
        match completions::SHELLS.iter().find(|(name, _)| shell == *name) {
            Some((_, script)) => print(&script(COMMANDS)),
            None => Err(Failure::Usage(format!("{}: expected bash, zsh or fish", shell.display()))),
        }
    },
};

const MAN: Command = Command {
    name: "man",
    summary: "print the manual page, for man -l -",
    description: "\
Prints the manual page in the format that man(1) reads: mailslot man | man -l - shows it.
",
    options: &[],
    operand: Operand::None,
    run: |_| print(&man::page(ABOUT, EXIT_STATUS, COMMANDS)),
};

const ABOUT: &str = "\
Receives signed webhooks over HTTP, stores each message exactly once in SQLite or
PostgreSQL, and answers 200 only after the message is safe on disk.
";

const EXIT_STATUS: &str = "0 done, 1 not done, 2 wrong settings or arguments.";

/// Runs the command that the arguments name.
#[must_use]
pub fn run(arguments: &[OsString]) -> ExitCode {
    let first = arguments.first().map(|argument| argument.to_string_lossy().into_owned());
    let rest = arguments.get(1..).unwrap_or_default();
    let command = match first.as_deref() {
        None => Some(&&SERVE),
        Some("--version" | "-V" | "version") => return exit_code(print(&version()), ""),
        Some("--help" | "-h" | "help") => return exit_code(print(&help()), ""),
        Some(name) => COMMANDS.iter().find(|command| command.name == name),
    };
    let Some(command) = command else {
        let problem = format!("unknown command {:?}", first.unwrap_or_default());
        return exit_code(Err(Failure::Usage(problem)), "mailslot --help");
    };
    let mut options = rest.iter().take_while(|argument| *argument != "--");
    let outcome = if options.any(|argument| argument == "--help" || argument == "-h") {
        print(&command.help())
    } else {
        run_command(command, rest)
    };
    exit_code(outcome, &format!("mailslot {} --help", command.name))
}

fn run_command(command: &Command, arguments: &[OsString]) -> Outcome {
    let arguments = command.parse(Parser::from_args(arguments))?;
    if command.name != SERVE.name {
        log_to_stderr::start();
    }
    (command.run)(&arguments)
}

fn version() -> String {
    format!("mailslot {}\n", env!("CARGO_PKG_VERSION"))
}

fn help() -> String {
    let mut help = format!("{}{ABOUT}\nUsage:\n", version());
    for Command { name, summary, .. } in COMMANDS {
        let _ = writeln!(help, "  mailslot {name:<14} {summary}");
    }
    help.push_str(
        "  mailslot COMMAND --help explain one of these commands\n  \
         mailslot --help         print this text\n  \
         mailslot --version      print the version\n\n\
         Settings, from the environment:\n",
    );
    for setting in SETTINGS {
        let (name, default) = (setting.name, setting.default.shown());
        let _ = writeln!(help, "  {name:<31} {} [{default}]", setting.help);
    }
    let _ = writeln!(help, "\nExit status: {EXIT_STATUS}");
    help
}

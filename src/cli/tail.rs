//! `mailslot tail`: the last messages, and new ones, in the order of their commits.

use std::{
    io::{self, IsTerminal, Write},
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::{
    command::{Arguments, Command, OPTION, Operand, Opt},
    outcome::{Failure, Outcome},
    output::written,
};
use crate::{
    config::{Config, with_source},
    error::Error,
    logging::escaped,
    store::{Reader, device_and_inode},
};

pub(super) const COMMAND: Command = Command {
    name: "tail",
    summary: "print the last messages, and follow new ones",
    description: "\
Prints the last messages in the order in which they were stored, one JSON object per line, with the
fields of GET /feed. Reads the database itself, whether the service runs or not. On a terminal,
control characters and changes of direction are shown as \\u009b; a file or a pipe gets them as they
are.
",
    options: &[
        Opt { name: "-n", value: "N", help: "number of messages; default 10", ..OPTION },
        Opt {
            name: "--follow",
            short: Some('f'),
            help: "go on with new messages, until Ctrl-C or until the output is closed",
            ..OPTION
        },
    ],
    operand: Operand::None,
    run,
};

/// How often `--follow` asks for new messages.
const INTERVAL: Duration = Duration::from_millis(200);
/// The same of a database server that is away, since each failure is a line on stderr.
const AWAY_INTERVAL: Duration = Duration::from_secs(1);
/// Messages of one read.
const PORTION: i64 = 100;
/// Messages without `-n`.
const COUNT: u32 = 10;

fn run(arguments: &Arguments) -> Outcome {
    let count = arguments.number("-n", 0..=u32::MAX)?.unwrap_or(COUNT);
    let follows = arguments.has("--follow");
    let database = with_source(Config::read_database)?;
    let mut reader = Reader::open(&database)?;
    // No message is added to a file that is not there any more.
    let file = || database.file().map(device_and_inode);
    let opened = file();
    let is_server = database.file().is_none();
    let mut cursor = reader.cursor_before_last(i64::from(count))?;
    loop {
        print_after(&mut reader, &mut cursor, follows && is_server)?;
        if !follows {
            return Ok(());
        }
        pause()?;
        if file() != opened {
            let problem = "the database was replaced: run mailslot tail again";
            return Err(Failure::failed(problem));
        }
    }
}

/// With `waits`, a server that is away has no new messages.
fn print_after(reader: &mut Reader, cursor: &mut i64, waits: bool) -> Outcome {
    let mut output = io::stdout().lock();
    let is_terminal = output.is_terminal();
    loop {
        let messages = match reader.committed(*cursor, PORTION) {
            // It is restarted, or its standby takes over.
            Err(Error::Unavailable(_)) if waits => {
                thread::sleep(AWAY_INTERVAL);
                return Ok(());
            }
            messages => messages?,
        };
        let Some(last) = messages.last() else { return Ok(()) };
        *cursor = last.cursor.parse().unwrap_or(*cursor);
        for message in &messages {
            // Serializing strings into memory cannot fail.
            let mut line = serde_json::to_vec(message).unwrap_or_default();
            line.push(b'\n');
            if is_terminal {
                line = escaped(line);
            }
            written(output.write_all(&line).and_then(|()| output.flush()))?;
        }
    }
}

/// Until it is time to look for more, or the reader of the output has closed it.
fn pause() -> Outcome {
    let output = io::stdout();
    let mut watched = [PollFd::new(&output, PollFlags::empty())];
    let interval = Timespec { tv_sec: 0, tv_nsec: i64::from(INTERVAL.subsec_nanos()) };
    match poll(&mut watched, Some(&interval)) {
        Ok(0) | Err(Errno::INTR) => Ok(()),
        _ => Err(Failure::OutputClosed),
    }
}

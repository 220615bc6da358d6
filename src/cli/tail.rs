//! `mailslot tail`: the last messages, and those to come, in the order of their commits.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use lexopt::{
    Arg::{Long, Short},
    Parser,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::{Failure, Outcome, number, written};
use crate::{
    config::{Config, with_source},
    logging::escaped,
    store::{self, Reader, device_and_inode},
};

pub(super) const HELP: &str = "\
Prints the last messages in the order in which they were stored, one JSON object a line, with the
fields of GET /feed. It reads the database itself, whether the service runs or not. A terminal is shown
control characters and changes of direction as \\u009b; a file or a pipe gets them as they are.

  -n N            so many messages, 10 by default
  -f, --follow    go on with what comes, until Ctrl-C or until nobody reads
";

/// How often it looks for more.
const LOOK: Duration = Duration::from_millis(200);
/// Messages that are read at a time.
const PORTION: i64 = 100;

pub(super) fn run(mut parser: Parser) -> Outcome {
    let (mut count, mut follows) = (10_u32, false);
    while let Some(argument) = parser.next()? {
        match argument {
            Short('n') => count = number(&mut parser, "-n", 0..=u32::MAX)?,
            Short('f') | Long("follow") => follows = true,
            _ => return Err(argument.unexpected().into()),
        }
    }
    let database = with_source(Config::read_database)?;
    let mut reader = store::visit(&database)?;
    let file = device_and_inode(&database);
    let mut cursor = reader.cursor_before_last(i64::from(count))?;
    loop {
        print_after(&mut reader, &mut cursor)?;
        if !follows {
            return Ok(());
        }
        rest()?;
        // The open file would never grow again.
        if device_and_inode(&database) != file {
            let problem = "the database was replaced: run mailslot tail again";
            return Err(Failure::Failed(problem.to_owned()));
        }
    }
}

fn print_after(reader: &mut Reader, cursor: &mut i64) -> Outcome {
    let mut output = io::stdout().lock();
    let is_terminal = output.is_terminal();
    loop {
        let messages = reader.committed(*cursor, PORTION)?;
        let Some(last) = messages.last() else { return Ok(()) };
        *cursor = last.cursor.parse().unwrap_or(*cursor);
        for message in &messages {
            // Strings into memory: this cannot fail.
            let mut line = serde_json::to_vec(message).unwrap_or_default();
            line.push(b'\n');
            if is_terminal {
                line = escaped(line);
            }
            written(output.write_all(&line).and_then(|()| output.flush()))?;
        }
    }
}

/// Until the next look, or until nobody reads what is written.
fn rest() -> Outcome {
    let output = io::stdout();
    let mut watched = [PollFd::new(&output, PollFlags::empty())];
    let pause = Timespec { tv_sec: 0, tv_nsec: i64::from(LOOK.subsec_nanos()) };
    match poll(&mut watched, Some(&pause)) {
        Ok(0) | Err(Errno::INTR) => Ok(()),
        _ => Err(Failure::NobodyReads),
    }
}

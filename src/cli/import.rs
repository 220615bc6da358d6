//! `mailslot import`: stores messages from a file, one JSON object per line.
//!
//! A line is validated like the body of a delivery. A message whose id is known is left as it is.

use std::{io::BufRead, path::Path, time::Instant};

use rustix::process::nice;

use super::{
    command::{Arguments, Command, Operand},
    input::{open, read_line},
    outcome::{Failure, Outcome, reason},
    output::Progress,
    pace::Pace,
};
use crate::{
    config::{Config, Database, with_source},
    message::Delivered,
    signature::SignedBody,
    store::{Job, Reader, Stored, Writer},
};

/// Some editors write it at the beginning of a file.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// An import has a lower priority than the service (nice(1)).
const NICENESS: i32 = 10;

pub(super) const COMMAND: Command = Command {
    name: "import",
    summary: "store the messages of a file",
    description: "\
Stores the messages of FILE, one JSON object per line as in a delivery; - reads stdin. It may run
beside the service, and is slower then, so that deliveries come first. Every line that is not a
message is reported on stderr and skipped, and the exit status is then 1. Messages that are stored
already stay as they are, so an import that was interrupted is resumed by running it again.
",
    options: &[],
    operand: Operand::Required("FILE|-"),
    run,
};

fn run(arguments: &Arguments) -> Outcome {
    let database = with_source(Config::read_database)?;
    if database.file().is_some_and(Path::exists) {
        // Opening it for writing would migrate it, which only the service may do.
        drop(Reader::open(&database)?);
    }
    let (mut input, bytes) = open(arguments.file())?;
    let _ = nice(NICENESS);
    let bad = import(&database, &mut *input, bytes)?;
    if bad == 0 { Ok(()) } else { Err(Failure::InOutput) }
}

struct Import<'a> {
    database: &'a Database,
    /// Opened for the first message only, which creates the database: if the command before a pipe
    /// fails and writes nothing, no empty database is left.
    writer: Option<Writer>,
    pace: Pace,
    created: u64,
    known: u64,
    /// Lines that are not messages.
    bad: u64,
    batch: Vec<Job>,
    bytes: u64,
    bytes_in_all: Option<u64>,
    progress: Progress,
}

/// Stores every line of `input` that is a message. Reports each bad line and at the end the counts
/// on stderr, on a terminal also every second, with an estimate if the length is known. Returns the
/// number of bad lines.
///
/// # Errors
/// Why the import stopped. Messages that are stored by then stay.
fn import(
    database: &Database,
    input: &mut dyn BufRead,
    bytes_in_all: Option<u64>,
) -> Result<u64, String> {
    let mut import = Import {
        database,
        writer: None,
        pace: Pace::new(),
        created: 0,
        known: 0,
        bad: 0,
        batch: Vec::new(),
        bytes: 0,
        bytes_in_all,
        progress: Progress::start(),
    };
    let mut line = Vec::new();
    for number in 1_u64.. {
        let is_there = read_line(input, number, &mut line);
        import.bytes += line.len() as u64;
        if !is_there.or_else(|problem| import.give_up(problem))? {
            break;
        }
        let line =
            if number == 1 { line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&line) } else { &line };
        import.take(number, line)?;
    }
    import.commit()?;
    import.progress.line(&import.counts());
    Ok(import.bad)
}

impl Import<'_> {
    fn take(&mut self, number: u64, line: &[u8]) -> Result<(), String> {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        match Delivered::from_export(&SignedBody::from_operator(line)) {
            Ok(message) => self.batch.push(Job::Messages(vec![message])),
            Err(error) => {
                self.bad += 1;
                self.progress.line(&format!("line {number}: {}", reason(&error)));
            }
        }
        if self.batch.len() >= self.pace.batch() {
            self.commit()?;
        }
        let counts = self.counts();
        self.progress.show(|| counts);
        Ok(())
    }

    /// Stores the earlier lines before the import stops.
    fn give_up<T>(&mut self, problem: String) -> Result<T, String> {
        self.commit()?;
        self.progress.line(&self.counts());
        Err(problem)
    }

    fn commit(&mut self) -> Result<(), String> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(Writer::open(self.database)?),
        };
        let begun = Instant::now();
        let outcomes = writer.commit(self.batch.iter());
        let took = begun.elapsed();
        for outcome in outcomes {
            match outcome {
                Ok(stored) if *stored == [Stored::Created] => self.created += 1,
                Ok(_) => self.known += 1,
                Err(error) => {
                    let reason = reason(&error);
                    return Err(format!(
                        "{reason}: run it again, what is stored is not stored twice"
                    ));
                }
            }
        }
        self.batch.clear();
        self.pace.pause(took, || writer.others_committed());
        Ok(())
    }

    fn counts(&self) -> String {
        let Import { created, known, bad, .. } = self;
        let seconds = self.progress.started.elapsed().as_secs().max(1);
        let rate = (created + known + bad) / seconds;
        let left = self.bytes_in_all.filter(|_| self.bytes > 0).map_or(String::new(), |all| {
            let left_seconds = seconds * all.saturating_sub(self.bytes) / self.bytes;
            format!(", {} %, {left_seconds} s left", 100 * self.bytes / all.max(1))
        });
        format!("{created} messages stored, {known} known already, {bad} bad lines, {rate}/s{left}")
    }
}

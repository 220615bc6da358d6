//! `mailslot import`: messages from a file, one JSON object a line, as they would be delivered.
//!
//! A line is checked as a delivery's body is. A message whose id is known is left as it is, so an
//! import that was interrupted is resumed by running it again. It may run beside the service.

use std::{
    io::{self, BufRead, Write},
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    error::Error,
    message::Message,
    signature::SignedBody,
    store::{Entry, Stored, Writer},
};

/// Messages that one commit carries: the service's own commits wait as long as it takes.
const IMPORT_BATCH_MAX: usize = 512;
/// Bytes of a line, as of a delivery's body.
const LINE_BYTES_MAX: u64 = 1_048_576;
/// How often progress is told.
const PROGRESS: Duration = Duration::from_secs(1);

/// What became of the lines.
#[derive(Debug, Default)]
pub struct Imported {
    pub created: u64,
    pub known: u64,
    /// Not a message: told to the operator, and left out.
    pub bad: u64,
}

struct Import<'a> {
    writer: Writer,
    tell: &'a mut dyn Write,
    imported: Imported,
    batch: Vec<Entry>,
    bytes: u64,
    bytes_in_all: Option<u64>,
    started: Instant,
    told: Instant,
}

/// Stores every line of `input` that is a message. `tell` hears of each bad line, and how far it is,
/// with an estimate if the length is known.
///
/// # Errors
/// A sentence for the operator. What is stored by then stays.
pub fn import(
    database: &Path,
    input: &mut dyn BufRead,
    bytes_in_all: Option<u64>,
    tell: &mut dyn Write,
) -> Result<Imported, String> {
    let mut import = Import {
        writer: Writer::open(database)?,
        tell,
        imported: Imported::default(),
        batch: Vec::new(),
        bytes: 0,
        bytes_in_all,
        started: Instant::now(),
        told: Instant::now(),
    };
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let length = io::Read::take(&mut *input, LINE_BYTES_MAX)
            .read_until(b'\n', &mut line)
            .map_err(|error| format!("line {number} cannot be read: {error}"))?;
        if length == 0 {
            break;
        }
        import.bytes += length as u64;
        if length as u64 == LINE_BYTES_MAX && line.last() != Some(&b'\n') {
            return Err(format!("line {number} is longer than {LINE_BYTES_MAX} bytes"));
        }
        import.take(number, &line)?;
    }
    import.commit()?;
    import.tell_progress();
    Ok(import.imported)
}

impl Import<'_> {
    fn take(&mut self, number: u64, line: &[u8]) -> Result<(), String> {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        match Message::from_signed(&SignedBody::from_operator(line)) {
            Ok(message) => self.batch.push(Entry::Message(message)),
            Err(error) => {
                self.imported.bad += 1;
                let _ = writeln!(self.tell, "line {number}: {}", reason(&error));
            }
        }
        if self.batch.len() == IMPORT_BATCH_MAX {
            self.commit()?;
        }
        if self.told.elapsed() > PROGRESS {
            self.tell_progress();
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), String> {
        if self.batch.is_empty() {
            return Ok(());
        }
        for outcome in self.writer.commit(self.batch.iter()) {
            match outcome {
                Ok(Stored::Created) => self.imported.created += 1,
                Ok(_) => self.imported.known += 1,
                Err(error) => {
                    let reason = reason(&error);
                    return Err(format!(
                        "{reason}: run it again, what is stored is not stored twice"
                    ));
                }
            }
        }
        self.batch.clear();
        Ok(())
    }

    fn tell_progress(&mut self) {
        self.told = Instant::now();
        let Imported { created, known, bad } = self.imported;
        let seconds = self.started.elapsed().as_secs().max(1);
        let rate = (created + known + bad) / seconds;
        let left = self.bytes_in_all.filter(|_| self.bytes > 0).map_or(String::new(), |all| {
            let left_seconds = seconds * all.saturating_sub(self.bytes) / self.bytes;
            format!(", {} %, {left_seconds} s left", 100 * self.bytes / all.max(1))
        });
        let _ = writeln!(
            self.tell,
            "{created} messages stored, {known} known already, {bad} bad lines, {rate}/s{left}"
        );
    }
}

fn reason(error: &Error) -> String {
    match error {
        Error::Invalid { problems, .. } => {
            let problem = |problem: &crate::error::Problem| {
                let place = problem.loc.last().map(ToString::to_string).unwrap_or_default();
                format!("{} {}", place.trim_matches('"'), problem.msg)
            };
            problems.iter().map(problem).collect::<Vec<_>>().join("; ")
        }
        other => format!("{other:?}"),
    }
}

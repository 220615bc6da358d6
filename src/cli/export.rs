//! `mailslot export`: what `GET /export` gives, from the database itself.

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
};

use lexopt::{Arg::Long, Parser, ValueExt};

use super::{
    Failure, Outcome, instant,
    output::{Part, Progress},
    written,
};
use crate::{
    config::{Config, with_source},
    format::{FORMATS, Format},
    logging::escaped,
    message::fold_case,
    store::{self, Export, Filter, Reader},
};

pub(super) const HELP: &str = "\
Writes all messages that the filters mean, in the order of their ts, as GET /export does. It reads the
database itself, whether the service runs or not, and is of the moment at which it begins. A terminal
is shown control characters and changes of direction as \\u001b; a file or a pipe gets them as they are.

  --format ndjson|csv   objects a line, which mailslot import takes, or RFC 4180; ndjson by default
  --from M              from this sender
  --to M                to this receiver
  --since TS            at this instant or later, as 2025-01-15T10:00:00Z
  --until TS            before this instant
  --q TEXT              with this text in it, in any case
  --output FILE         into a file, which has its name once it is whole (FILE.part until then)
";

pub(super) fn run(mut parser: Parser) -> Outcome {
    let (mut format, mut filter, mut file) = (Format::Ndjson, Filter::default(), None);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("format") => format = self::format(&parser.value()?.string()?)?,
            Long("from") => filter.from = Some(parser.value()?.string()?),
            Long("to") => filter.to = Some(parser.value()?.string()?),
            Long("since") => filter.since = Some(instant("--since", &parser.value()?.string()?)?),
            Long("until") => filter.until = Some(instant("--until", &parser.value()?.string()?)?),
            Long("q") => filter.q = Some(fold_case(&parser.value()?.string()?)),
            Long("output") => file = Some(PathBuf::from(parser.value()?)),
            _ => return Err(argument.unexpected().into()),
        }
    }
    let database = with_source(Config::read_database)?;
    let mut reader = store::visit(&database)?;
    let Some(file) = file else {
        return write(&mut reader, filter, format, &mut io::stdout().lock());
    };
    let mut part = Part::create(&file, &database)?;
    write(&mut reader, filter, format, &mut part.file)?;
    Ok(part.finish()?)
}

fn write(
    reader: &mut Reader,
    filter: Filter,
    format: Format,
    output: &mut (impl Write + IsTerminal),
) -> Outcome {
    let mut progress = Progress::beside(output);
    let is_terminal = output.is_terminal();
    let mut export = Export::begin(reader, filter)?;
    written(output.write_all(format.head().as_bytes()))?;
    let (mut lines, mut count) = (Vec::new(), 0);
    while let Some(portion) = export.next(reader)? {
        lines.clear();
        for received in &portion {
            format.write(received, &mut lines);
        }
        if is_terminal {
            lines = escaped(lines);
        }
        written(output.write_all(&lines))?;
        count += portion.len();
        progress.tell(|| format!("{count} messages"));
    }
    written(output.flush())
}

fn format(text: &str) -> Result<Format, Failure> {
    let found = FORMATS.iter().find(|(name, _)| *name == text).map(|(_, format)| *format);
    found.ok_or_else(|| Failure::Usage(format!("--format {text:?}: expected ndjson or csv")))
}

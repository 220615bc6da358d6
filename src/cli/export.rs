//! `mailslot export`: what `GET /export` answers, read from the database itself.

use std::{
    io::{self, IsTerminal, Write},
    path::Path,
};

use super::{
    command::{Arguments, Command, OPTION, Operand, Opt},
    outcome::{Failure, Outcome},
    output::{Part, Progress, written},
};
use crate::{
    config::{Config, with_source},
    format::{FORMATS, Format},
    logging::escaped,
    message::fold_case,
    metrics::{Label, Source},
    store::{Export, Filter, Reader},
};

pub(super) const COMMAND: Command = Command {
    name: "export",
    summary: "write all messages that the filters match",
    description: "\
Writes all messages that the filters match, in the order of their ts, as GET /export does. Reads the
database itself, whether the service runs or not, as it is when the command begins. On a terminal,
control characters and changes of direction are shown as \\u001b; a file or a pipe gets them as they
are.
",
    options: &[
        Opt {
            name: "--format",
            value: "ndjson|csv",
            help: "JSON objects, which mailslot import takes, or RFC 4180; default ndjson",
            ..OPTION
        },
        Opt { name: "--from", value: "M", help: "from this sender", ..OPTION },
        Opt { name: "--to", value: "M", help: "to this receiver", ..OPTION },
        Opt {
            name: "--since",
            value: "TS",
            help: "at this time or later, as 2025-01-15T10:00:00Z",
            ..OPTION
        },
        Opt { name: "--until", value: "TS", help: "before this time", ..OPTION },
        Opt { name: "--q", value: "TEXT", help: "containing this text, in any case", ..OPTION },
        Opt {
            name: "--source",
            value: "S",
            help: "that came by webhook, whatsapp, twilio or standard",
            ..OPTION
        },
        Opt { name: "--kind", value: "K", help: "of this kind, such as text or image", ..OPTION },
        Opt {
            name: "--originals",
            help: "with what the providers sent, which mailslot import takes, too",
            ..OPTION
        },
        Opt {
            name: "--output",
            value: "FILE",
            help: "write to a file, which is named FILE.part until it is complete",
            ..OPTION
        },
    ],
    operand: Operand::None,
    run,
};

fn run(arguments: &Arguments) -> Outcome {
    let format = format(arguments.text("--format")?)?;
    let filter = Filter {
        from: arguments.text("--from")?,
        to: arguments.text("--to")?,
        since: arguments.instant("--since")?,
        until: arguments.instant("--until")?,
        q: arguments.text("--q")?.map(|text| fold_case(&text)),
        source: source(arguments.text("--source")?)?,
        kind: arguments.text("--kind")?,
        ..Filter::default()
    };
    let has_originals = arguments.has("--originals");
    if has_originals && format != Format::Ndjson {
        let problem = "--originals: CSV has no place for them, leave --format out";
        return Err(Failure::Usage(problem.to_owned()));
    }
    let database = with_source(Config::read_database)?;
    let reader = Reader::open(&database)?;
    let export = reader.export(filter, has_originals)?;
    let Some(file) = arguments.value("--output") else {
        return write(export, format, &mut io::stdout().lock());
    };
    let mut part = Part::create(Path::new(file), database.file())?;
    write(export, format, &mut part.file)?;
    Ok(part.finish()?)
}

fn write(mut export: Export, format: Format, output: &mut (impl Write + IsTerminal)) -> Outcome {
    let mut progress = Progress::beside(output);
    let is_terminal = output.is_terminal();
    written(output.write_all(format.head().as_bytes()))?;
    let (mut lines, mut count) = (Vec::new(), 0);
    while let Some(portion) = export.next()? {
        lines.clear();
        for received in &portion {
            format.write(received, &mut lines);
        }
        if is_terminal {
            lines = escaped(lines);
        }
        written(output.write_all(&lines))?;
        count += portion.len();
        progress.show(|| format!("{count} messages"));
    }
    written(output.flush())
}

fn source(name: Option<String>) -> Result<Option<Source>, Failure> {
    let Some(name) = name else { return Ok(None) };
    let expected = || format!("--source {name:?}: expected {}", Source::VALUES.join(", "));
    Source::named(&name).map(Some).ok_or_else(|| Failure::Usage(expected()))
}

fn format(name: Option<String>) -> Result<Format, Failure> {
    let Some(name) = name else { return Ok(FORMATS[0].1) };
    let found = FORMATS.iter().find(|(known, _)| *known == name).map(|(_, format)| *format);
    found.ok_or_else(|| Failure::Usage(format!("--format {name:?}: expected ndjson or csv")))
}

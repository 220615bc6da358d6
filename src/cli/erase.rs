//! `mailslot erase`: deletes messages so that no byte of them is left.

use std::io::{self, BufRead, IsTerminal, Write};

use super::{
    command::{Arguments, Command, OPTION, Operand, Opt},
    outcome::{Failure, Outcome},
    output::{Progress, print},
};
use crate::{
    config::{Config, with_source},
    store::{Selection, Writer, count_selected, is_erasure_unfinished},
};

pub(super) const COMMAND: Command = Command {
    name: "erase",
    summary: "erase messages for good",
    description: "\
Erases messages beside the service, so that no byte of them is left in the files of the database. At
the end the database is rebuilt, and deliveries get 503 meanwhile. With PostgreSQL the rows are
deleted and the table is vacuumed, but the server's log and standbys may keep bytes for longer. If
an erased message is delivered again, it is acknowledged and not stored. The command asks for
confirmation on the terminal. Earlier backups and exports still contain the messages: delete those,
too. Exactly one of --from and --before is needed.
",
    options: &[
        Opt { name: "--from", value: "M", help: "all messages from this sender", ..OPTION },
        Opt {
            name: "--before",
            value: "TS",
            help: "all messages whose ts is earlier, as 2025-01-15T10:00:00Z",
            ..OPTION
        },
        Opt { name: "--yes", help: "do not ask", ..OPTION },
    ],
    operand: Operand::None,
    run,
};

fn run(arguments: &Arguments) -> Outcome {
    let selection = match (arguments.text("--from")?, arguments.instant("--before")?) {
        (Some(sender), None) => Selection::From(sender),
        (None, Some(instant)) => Selection::Before(instant),
        _ => return Err(Failure::Usage("expected one of --from M and --before TS".to_owned())),
    };
    let is_confirmed = arguments.has("--yes");
    if !is_confirmed && !io::stdin().is_terminal() {
        return Err(Failure::Usage("there is no terminal to ask on: add --yes".to_owned()));
    }
    let database = with_source(Config::read_database)?;
    let messages = count_selected(&database, &selection)?;
    if is_erasure_unfinished(&database)? {
        log::warn!("an earlier erasure was interrupted: its file is rebuilt now");
    } else if messages == 0 {
        let (option, value) = match &selection {
            Selection::From(sender) => ("--from", sender.clone()),
            Selection::Before(instant) => ("--before", instant.text()),
        };
        let problem = format!("no message matches {option} {value}, so nothing was erased");
        return Err(Failure::Usage(problem));
    }
    if !is_confirmed && messages > 0 && !confirms(messages)? {
        return Err(Failure::failed("nothing was erased"));
    }
    let mut progress = Progress::start();
    let gone = Writer::open(&database)?.erase(&selection, &mut |gone| {
        progress.show(|| format!("{gone} of {messages} messages erased"));
    })?;
    drop(progress);
    print(&format!("messages erased: {gone}\n"))
}

fn confirms(messages: i64) -> Result<bool, Failure> {
    let mut answer = String::new();
    let asked = write!(io::stderr(), "Messages to erase for good: {messages}. Go on? [y/N] ")
        .and_then(|()| io::stdin().lock().read_line(&mut answer));
    asked.map_err(|error| Failure::failed(format!("the terminal cannot be read: {error}")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

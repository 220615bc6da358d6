//! `mailslot erase`: messages that must be gone for good.

use std::io::{self, BufRead, IsTerminal, Write};

use lexopt::{Arg::Long, Parser, ValueExt};

use super::{Failure, Outcome, instant, output::Progress, say};
use crate::{
    config::{Config, with_source},
    store::erase::{What, count, erase, is_unfinished},
};

pub(super) const HELP: &str = "\
Erases messages beside the service, so that no byte of them is left in the database's files. In the end
the file is rebuilt, and deliveries are told 503 meanwhile. If one of the messages is delivered again, it
is acknowledged and not stored. It asks before, on the terminal. Backups and exports that were made
earlier still have the messages: delete those too.

  --from M      all messages from this sender
  --before TS   all messages whose ts is earlier, as 2025-01-15T10:00:00Z
  --yes         do not ask
";

pub(super) fn run(mut parser: Parser) -> Outcome {
    let (mut what, mut is_sure) = (None, false);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("from") if what.is_none() => what = Some(What::From(parser.value()?.string()?)),
            Long("before") if what.is_none() => {
                what = Some(What::Before(instant("--before", &parser.value()?.string()?)?));
            }
            Long("yes") => is_sure = true,
            _ => return Err(argument.unexpected().into()),
        }
    }
    let what =
        what.ok_or_else(|| Failure::Usage("expected one of --from M and --before TS".to_owned()))?;
    if !is_sure && !io::stdin().is_terminal() {
        return Err(Failure::Usage("there is no terminal to ask on: say --yes".to_owned()));
    }
    let database = with_source(Config::read_database)?;
    let messages = count(&database, &what)?;
    if is_unfinished(&database)? {
        log::warn!("an earlier erasure was interrupted: its file is rebuilt now");
    } else if messages == 0 {
        let (option, value) = match &what {
            What::From(sender) => ("--from", sender.clone()),
            What::Before(instant) => ("--before", instant.text()),
        };
        let problem = format!("no message matches {option} {value}, so nothing was erased");
        return Err(Failure::Usage(problem));
    }
    if !is_sure && messages > 0 && !agrees(messages)? {
        return Err(Failure::Failed("nothing was erased".to_owned()));
    }
    let mut progress = Progress::start();
    let gone = erase(&database, &what, &mut |gone| {
        progress.tell(|| format!("{gone} of {messages} messages erased"));
    })?;
    drop(progress);
    say(&format!("messages erased: {gone}\n"))
}

fn agrees(messages: i64) -> Result<bool, Failure> {
    let mut answer = String::new();
    let asked = write!(io::stderr(), "Messages to erase for good: {messages}. Go on? [y/N] ")
        .and_then(|()| io::stdin().lock().read_line(&mut answer));
    asked.map_err(|error| Failure::Failed(format!("the terminal cannot be asked: {error}")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

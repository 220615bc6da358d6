//! `mailslot move`: moves all messages to another database, of the other engine as well.

use std::io::Read;

use super::{
    command::{Arguments, Command, Operand},
    outcome::{Failure, Outcome},
    output::{Progress, print},
};
use crate::{
    config::{Config, Database, with_source},
    store::{Step, move_all},
};

pub(super) const COMMAND: Command = Command {
    name: "move",
    summary: "move all messages to another database",
    description: "\
Copies everything from the database of DATABASE_URL into the one that URL names, which is empty or
does not exist yet: from SQLite to PostgreSQL or back. URL has the form of DATABASE_URL; with - it
is read from stdin, so that its password is in no list of processes. Messages keep their cursors and
the times at which they were stored, and erased ones stay erased, so that clients go on where they
were. Stop every mailslot that stores in either database first. The source is not changed. At the
end both are read through and compared. A move that was interrupted is resumed by running it again.
",
    options: &[],
    operand: Operand::Required("URL|-"),
    run,
};

fn run(arguments: &Arguments) -> Outcome {
    let from = with_source(Config::read_database)?;
    let to = destination(arguments)?;
    if from == to {
        return Err(Failure::Usage("URL names the database of DATABASE_URL itself".to_owned()));
    }
    let mut progress = Progress::start();
    let moved = move_all(&from, &to, &mut |step| {
        progress.show(|| match step {
            Step::Copied(messages) => format!("{messages} messages copied"),
            Step::Compared(messages) => format!("{messages} messages compared"),
        });
    })?;
    let seconds = progress.started.elapsed().as_secs_f64();
    print(&format!(
        "moved: {} messages and the tombstones of {} erased ones, the same in both databases \
         (SHA-256 {}), {seconds:.1} s\nset DATABASE_URL to the new one\n",
        moved.messages, moved.tombstones, moved.digest
    ))
}

fn destination(arguments: &Arguments) -> Result<Database, Failure> {
    let mut url = arguments.file().to_string_lossy().into_owned();
    if url == "-" {
        url.clear();
        let read = std::io::stdin().take(65_536).read_to_string(&mut url);
        read.map_err(|error| Failure::failed(format!("stdin cannot be read: {error}")))?;
    }
    let parsed = Database::parse(url.trim());
    parsed.map_err(|expected| Failure::Usage(format!("URL: expected {expected}")))
}

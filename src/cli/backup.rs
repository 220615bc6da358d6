//! `mailslot backup`: the database as one file, beside the running service.

use std::path::Path;

use lexopt::{
    Arg::{Long, Value},
    Parser,
};

use super::{
    Failure, Outcome,
    output::{Part, Progress, size},
    required, say,
};
use crate::{
    config::{Config, with_source},
    store,
};

pub(super) const HELP: &str = "\
Copies the database into FILE, of one moment, while the service goes on. SQLite's integrity check reads
the copy through, and it is on disk, before it is called FILE; until then it is FILE.part. It is a
database like the original, which a service can be started on.

  --force   replace FILE if it is there
";

pub(super) fn run(mut parser: Parser) -> Outcome {
    let (mut file, mut replaces) = (None, false);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("force") => replaces = true,
            Value(value) if file.is_none() => file = Some(value),
            _ => return Err(argument.unexpected().into()),
        }
    }
    let file = required(file)?;
    let name = Path::new(&file);
    let database = with_source(Config::read_database)?;
    if !replaces && name.exists() {
        let problem = "it is there already: name another file, or say --force";
        return Err(Failure::Failed(format!("{}: {problem}", name.display())));
    }
    let part = Part::create(name, &database)?;
    let mut progress = Progress::start();
    store::backup::copy(&database, &part.path, &mut |left, pages| {
        progress.tell(|| {
            format!("{} % copied", 100 * i64::from(pages - left) / i64::from(pages.max(1)))
        });
    })?;
    let bytes = part.file.metadata().map_or(0, |metadata| metadata.len());
    part.finish()?;
    say(&format!("{}: {}, checked, {:.1} s\n", name.display(), size(bytes), progress.seconds()))
}

//! `mailslot backup`: a copy of the database, made beside the running service.

use std::path::Path;

use super::{
    command::{Arguments, Command, OPTION, Operand, Opt},
    outcome::{Failure, Outcome},
    output::{Part, Progress, print, size},
};
use crate::{
    config::{Config, Database, with_source},
    store,
};

pub(super) const COMMAND: Command = Command {
    name: "backup",
    summary: "copy the database beside the running service",
    description: "\
Copies the database, as it is at one moment, to FILE, while the service goes on. The copy is named
FILE.part until SQLite's integrity check has read it and it is on disk. It is a database like the
original, with which a service can be started. For PostgreSQL, use pg_dump or pgBackRest instead.
",
    options: &[Opt { name: "--force", help: "replace FILE if it exists", ..OPTION }],
    operand: Operand::Required("FILE"),
    run,
};

fn run(arguments: &Arguments) -> Outcome {
    let name = Path::new(arguments.file());
    let Database::File(database) = with_source(Config::read_database)? else {
        return Err(Failure::Usage(
            "DATABASE_URL is a PostgreSQL server: make a copy with pg_dump, or continuous backups \
             with pgBackRest"
                .to_owned(),
        ));
    };
    if !arguments.has("--force") && name.exists() {
        let problem = "the file exists: name another one, or add --force";
        return Err(Failure::failed(format!("{}: {problem}", name.display())));
    }
    let part = Part::create(name, Some(&database))?;
    let mut progress = Progress::start();
    store::backup(&database, &part.path, &mut |left, pages| {
        progress.show(|| {
            format!("{} % copied", 100 * i64::from(pages - left) / i64::from(pages.max(1)))
        });
    })?;
    let bytes = part.file.metadata().map_or(0, |metadata| metadata.len());
    part.finish()?;
    let seconds = progress.started.elapsed().as_secs_f64();
    print(&format!("{}: {}, checked, {seconds:.1} s\n", name.display(), size(bytes)))
}

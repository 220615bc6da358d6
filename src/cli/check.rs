//! `mailslot check`: everything that an operator would look at, a line each.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use lexopt::{Arg::Long, Parser};
use rustix::{
    fs::{Access, access, statvfs},
    process::{Resource, geteuid, getrlimit},
};

use super::{Failure, Outcome, healthcheck::HEALTHCHECK_MS_MAX, output::size, say, with_source};
use crate::{
    config::{Config, weakness},
    logging, message, server, store,
};

pub(super) const HELP: &str = "\
Looks at the settings, the database and the machine, as the user and with the environment that it is
run with. Each line says ok, warning or PROBLEM, and what to do. Exit status: 1 if there is a PROBLEM.
The database is read through, which takes a while if it is large; the service may run meanwhile.

  --full   compare every index with its table, too, which takes longer
";

/// Bytes on the disk that should be free, and which part of the database's size.
const FREE_BYTES: u64 = 256 * 1024 * 1024;
const FREE_PART: u64 = 10;
/// Descriptors of all that is no connection, amply.
const OTHER_DESCRIPTORS: u64 = 256;
/// This program was not there before 2025.
const PAST: i64 = 1_735_689_600;
/// How far two clocks may be apart.
const SKEW_SECONDS: i64 = 10;

/// What has been found so far.
#[derive(Default)]
struct Report {
    has_problem: bool,
}

impl Report {
    fn problem(&mut self, what: &str) -> Outcome {
        self.has_problem = true;
        say(&format!("PROBLEM  {what}\n"))
    }
}

fn ok(what: &str) -> Outcome {
    say(&format!("ok       {what}\n"))
}

/// It works, and could be better.
fn warn(what: &str) -> Outcome {
    say(&format!("warning  {what}\n"))
}

pub(super) fn run(mut parser: Parser) -> Outcome {
    let mut is_full = false;
    while let Some(argument) = parser.next()? {
        match argument {
            Long("full") => is_full = true,
            _ => return Err(argument.unexpected().into()),
        }
    }
    let mut report = Report::default();
    let report = &mut report;
    match with_source(Config::read) {
        Ok(config) => {
            ok("settings")?;
            keys(&config)?;
            descriptors(report, config.limits.connections)?;
        }
        Err(error) => {
            for problem in error.0 {
                report.problem(&problem)?;
            }
        }
    }
    if let Ok(database) = with_source(Config::read_database) {
        permissions(report, &database)?;
        if database.exists() {
            contents(report, &database, is_full)?;
        }
    }
    if logging::now_seconds() < PAST {
        report.problem(&format!("clock: it is {} here; set it", logging::now()))?;
    } else {
        ok(&format!("clock: {}", logging::now()))?;
    }
    if let Ok(address) = with_source(Config::read_listen) {
        service(report, address)?;
    }
    if report.has_problem { Err(Failure::Told) } else { Ok(()) }
}

fn keys(config: &Config) -> Outcome {
    for (name, key) in config.keys() {
        match weakness(&name, key) {
            Some(weakness) => warn(&weakness)?,
            None => ok(&format!("{name}: {} bytes", key.expose().len()))?,
        }
    }
    Ok(())
}

/// The service raises its own limit as far as it may.
fn descriptors(report: &mut Report, connections: usize) -> Outcome {
    let wanted = (server::DESCRIPTORS_PER_CONNECTION * connections) as u64 + OTHER_DESCRIPTORS;
    match getrlimit(Resource::Nofile).maximum {
        Some(limit) if limit < wanted => report.problem(&format!(
            "open files: {limit} are allowed here, and MAX_CONNECTIONS={connections} takes up to {wanted}: raise LimitNOFILE= or ulimit -Hn"
        )),
        _ => ok("open files: enough for MAX_CONNECTIONS"),
    }
}

fn permissions(report: &mut Report, database: &Path) -> Outcome {
    let shown = database.display();
    let parent = database.parent().filter(|parent| !parent.as_os_str().is_empty());
    let folder = parent.map_or_else(|| PathBuf::from("."), Path::to_path_buf);
    let Ok(around) = fs::metadata(&folder) else {
        return warn(&format!("folder {}: it is not there, the start makes it", folder.display()));
    };
    if access(&folder, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        let folder = folder.display();
        report
            .problem(&format!("folder {folder}: this user may not write it: chown or chmod it"))?;
    }
    disk(report, &folder, fs::metadata(database).map_or(0, |file| file.len()))?;
    let Ok(file) = fs::metadata(database) else {
        return ok(&format!("database {shown}: not there yet, the first start makes it"));
    };
    if access(database, Access::READ_OK | Access::WRITE_OK).is_err() {
        report.problem(&format!("database {shown}: this user may not write it: chown it"))?;
    }
    let me = geteuid().as_raw();
    if me != file.uid() {
        warn(&format!(
            "database {shown} belongs to user {} and this is user {me}: run the check as the service's user",
            file.uid()
        ))?;
    }
    // Others need the folder's x to come to the file's r.
    if file.mode() & 0o044 & (around.mode() << 2) != 0 {
        warn(&format!("database {shown}: others may read it: chmod 600 it"))
    } else {
        ok(&format!("database {shown}: nobody else may read it"))
    }
}

fn disk(report: &mut Report, folder: &Path, bytes: u64) -> Outcome {
    let Ok(disk) = statvfs(folder) else {
        return warn("disk: the free space cannot be told");
    };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let text = format!("disk: {} free, the database has {}", size(free), size(bytes));
    if free < FREE_BYTES.max(bytes / FREE_PART) {
        report.problem(&format!("{text}: make room, or nothing will be stored"))
    } else {
        ok(&text)
    }
}

fn contents(report: &mut Report, database: &Path, is_full: bool) -> Outcome {
    let problems = match store::check::look_through(database, is_full) {
        Ok(problems) => problems,
        Err(problem) => return report.problem(&problem),
    };
    for problem in &problems {
        report.problem(&format!(
            "database: {}; restore a backup, or export and import what can be read",
            problem.replace('\n', " ")
        ))?;
    }
    if problems.is_empty() {
        ok("database: whole, and of this version")?;
    }
    let recount = match store::check::recount(database) {
        Ok(recount) => recount,
        Err(problem) => return report.problem(&format!("counters: {problem}")),
    };
    let mend = "mailslot export --output all.ndjson, and mailslot import it into a new database";
    let mut is_right = recount.wrong_senders == 0;
    for count in &recount.counts {
        if count.counted != count.kept {
            is_right = false;
            let (what, kept, counted) = (count.of, count.kept, count.counted);
            report.problem(&format!("counters: {kept} {what}, but there are {counted}: {mend}"))?;
        }
    }
    if recount.wrong_senders > 0 {
        let wrong = recount.wrong_senders;
        report.problem(&format!("counters: wrong for {wrong} senders: {mend}"))?;
    }
    if is_right {
        let messages = recount.counts.first().map_or(0, |count| count.kept);
        ok(&format!("counters: right for {messages} messages"))?;
    }
    let newest = recount.last_created_at.unwrap_or_default();
    match message::Instant::parse(&newest) {
        Some(instant) if instant.seconds > logging::now_seconds() + SKEW_SECONDS => report
            .problem(&format!("clock: the newest message was stored at {newest}: set the clock")),
        _ => Ok(()),
    }
}

/// Whether it runs is for the operator to know.
fn service(report: &mut Report, address: SocketAddr) -> Outcome {
    let patience = Duration::from_millis(HEALTHCHECK_MS_MAX);
    match server::ask_ready(address, patience) {
        Ok((200, _)) => ok(&format!("service: ready at {address}")),
        Ok((_, body)) => report.problem(&format!("service: at {address}, but not ready: {body}")),
        Err(error) => warn(&format!("service: nobody answers at {address} ({error})")),
    }
}

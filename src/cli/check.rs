//! `mailslot check`: looks for problems in the settings, the database and the machine.

use std::{fs, net::SocketAddr, os::unix::fs::MetadataExt, path::Path, time::Duration};

use rustix::{
    fs::{Access, access, statvfs},
    io::Errno,
    process::{Resource, geteuid, getrlimit},
};

use super::{
    command::{Arguments, Command, OPTION, Operand, Opt},
    exposure,
    healthcheck::HEALTHCHECK_MS_MAX,
    outcome::Outcome,
    output::size,
    report::Report,
};
use crate::{
    client::{Answer, ask_ready},
    config::{Config, Database, Settings, with_source},
    http, logging, service,
    store::{self, CommitWatch, Finding, Level},
    timestamp::Timestamp,
};

pub(super) const COMMAND: Command = Command {
    name: "check",
    summary: "look for problems, and say what to do",
    description: "\
Checks the settings, the database and the machine, as the user and with the environment with which
it is run. Each line says ok, warning or PROBLEM, and what to do. Exit status: 1 if there is a
PROBLEM. The whole database is read, which takes a while if it is large; the service may run
meanwhile.
",
    options: &[
        Opt { name: "--full", help: "compare every index with its table, too", ..OPTION },
        Opt {
            name: "--json",
            help: "one JSON object: {\"verdict\": LEVEL, \"findings\": [{\"level\", \"what\",\n\
                   \"message\"}]}, where LEVEL is ok, warning or problem, and the verdict is the\n\
                   worst of them",
            ..OPTION
        },
    ],
    operand: Operand::None,
    run,
};

/// Bytes that should be free on the disk: this many, and this part of the database's size.
const FREE_BYTES: u64 = 256 * 1024 * 1024;
const FREE_PART: u64 = 10;
/// More descriptors than the process needs besides those of connections.
const OTHER_DESCRIPTORS: u64 = 256;
/// 2025-01-01, before which this program did not exist: an earlier clock is wrong.
const PAST: i64 = 1_735_689_600;
/// How far two clocks may differ.
const SKEW_SECONDS: i64 = 10;

fn run(arguments: &Arguments) -> Outcome {
    let (is_full, as_json) = (arguments.has("--full"), arguments.has("--json"));
    let mut report = Report::new(as_json);
    let given = [(is_full, " --full"), (as_json, " --json")];
    let given = given.iter().filter(|(is_given, _)| *is_given).map(|(_, text)| *text);
    exposure::user(&mut report, &given.collect::<String>())?;
    settings(&mut report)?;
    let database = with_source(Config::read_database).ok();
    if let Some(database) = &database {
        if let Some(file) = database.file() {
            permissions(&mut report, file)?;
        }
        if let Database::Server(_) = database {
            let workers = with_source(Config::read).map_or(1, |config| config.workers);
            server(&mut report, database, workers)?;
        }
        if database.file().is_none_or(Path::exists) {
            contents(&mut report, database, is_full)?;
        }
    }
    if logging::now_seconds() < PAST {
        report.problem("clock", format!("it is {} here; set it", logging::now()))?;
    } else {
        report.ok("clock", logging::now())?;
    }
    if let Ok(address) = with_source(Config::read_listen) {
        service(&mut report, address, database.as_ref())?;
    }
    report.finish()
}

fn settings(report: &mut Report) -> Outcome {
    match with_source(Config::read) {
        Ok(config) => {
            report.ok("settings", "mailslot config prints them")?;
            exposure::values(report, &config)?;
            descriptors(report, config.max_connections)?;
        }
        Err(error) => {
            for problem in error.0 {
                report.problem("settings", problem)?;
            }
        }
    }
    Settings::load().map_or(Ok(()), |settings| exposure::files(report, &settings))
}

/// The service raises its own limit as far as the hard limit.
fn descriptors(report: &mut Report, connections: usize) -> Outcome {
    let wanted = (service::DESCRIPTORS_PER_CONNECTION * connections) as u64 + OTHER_DESCRIPTORS;
    match getrlimit(Resource::Nofile).maximum {
        Some(limit) if limit < wanted => report.problem(
            "open files",
            format!(
                "{limit} are allowed here, and MAX_CONNECTIONS={connections} takes up to {wanted}: \
             raise LimitNOFILE= or ulimit -Hn"
            ),
        ),
        _ => report.ok("open files", "enough for MAX_CONNECTIONS"),
    }
}

fn permissions(report: &mut Report, database: &Path) -> Outcome {
    // The write-ahead log is beside the file to which a symbolic link points.
    let real = fs::canonicalize(database);
    let database = real.as_deref().unwrap_or(database);
    let shown = database.display();
    let folder = store::folder_of(database);
    if fs::metadata(folder).is_err() {
        let problem = "does not exist yet; the service creates it at its start";
        return report.warn("folder", format!("{} {problem}", folder.display()));
    }
    if let Err(error) = access(folder, Access::WRITE_OK | Access::EXEC_OK) {
        report.problem("folder", unwritable(folder, error, "chown or chmod it"))?;
    }
    disk(report, folder, fs::metadata(database).map_or(0, |file| file.len()))?;
    let Ok(file) = fs::metadata(database) else {
        let problem = "does not exist yet; the service creates it at its first start";
        return report.ok("database", format!("{shown} {problem}"));
    };
    // A folder is reported where the database is opened.
    if file.is_dir() {
        return Ok(());
    }
    if let Err(error) = access(database, Access::READ_OK | Access::WRITE_OK) {
        report.problem("database", unwritable(database, error, "chown it"))?;
    }
    let (me, owner) = (geteuid().as_raw(), file.uid());
    if me != owner {
        report.warn("database", format!(
            "{shown} belongs to user {owner} and this is user {me}: run the check as the service's \
             user"
        ))?;
    }
    if exposure::others_may_read(database, true) {
        report.warn("database", format!("others may read {shown}: chmod 600 it"))
    } else {
        report.ok("database", format!("others may not read {shown}"))
    }
}

/// What the server's settings and this user's rights are good for.
fn server(report: &mut Report, database: &Database, workers: usize) -> Outcome {
    let findings = match store::examine(database, workers) {
        Ok(findings) => findings,
        Err(problem) => return report.problem("database", problem),
    };
    for Finding { level, what, message } in findings {
        match level {
            Level::Ok => report.ok(what, message)?,
            Level::Warning => report.warn(what, message)?,
            Level::Problem => report.problem(what, message)?,
        }
    }
    Ok(())
}

fn unwritable(path: &Path, error: Errno, advice: &str) -> String {
    let path = path.display();
    match error {
        Errno::ROFS => format!("{path}: {}", store::READ_ONLY),
        _ => format!("this user may not write {path}: {advice}"),
    }
}

fn disk(report: &mut Report, folder: &Path, bytes: u64) -> Outcome {
    let Ok(disk) = statvfs(folder) else {
        return report.warn("disk", "the free space cannot be determined");
    };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let text = format!("{} free, the database has {}", size(free), size(bytes));
    if free < FREE_BYTES.max(bytes / FREE_PART) {
        report.problem("disk", format!("{text}: free some, or no message can be stored"))
    } else {
        report.ok("disk", text)
    }
}

fn contents(report: &mut Report, database: &Database, is_full: bool) -> Outcome {
    let problems = match store::check_structure(database, is_full) {
        Ok(problems) => problems,
        Err(problem) => return report.problem("database", problem),
    };
    for problem in &problems {
        let problem = problem.replace('\n', " ");
        let advice = "restore a backup, or export and import what can be read";
        report.problem("database", format!("{problem}; {advice}"))?;
    }
    if problems.is_empty() {
        report.ok("database", "intact, and of this version")?;
    }
    if store::is_erasure_unfinished(database).unwrap_or(false) {
        let unfinished = "an erasure was interrupted, and bytes of erased messages may be left: \
                          run mailslot erase again";
        report.warn("database", unfinished)?;
    }
    let recount = match store::recount(database) {
        Ok(recount) => recount,
        Err(problem) => return report.problem("counters", problem),
    };
    let mend = "mailslot export --output all.ndjson, and mailslot import it into a new database";
    let mut is_right = recount.wrong_senders == 0;
    for store::Count { of, kept, counted } in &recount.counts {
        if counted != kept {
            is_right = false;
            let problem = format!("{kept} {of}, but there are {counted}: {mend}");
            report.problem("counters", problem)?;
        }
    }
    if recount.wrong_senders > 0 {
        let wrong = recount.wrong_senders;
        report.problem("counters", format!("wrong for {wrong} senders: {mend}"))?;
    }
    if is_right {
        let messages = recount.counts.first().map_or(0, |count| count.kept);
        report.ok("counters", format!("right for {messages} messages"))?;
    }
    let newest = recount.last_created_at.unwrap_or_default();
    match Timestamp::parse(&newest) {
        Some(instant) if instant.seconds > logging::now_seconds() + SKEW_SECONDS => {
            let message = format!("the newest message was stored at {newest}: set the clock");
            report.problem("clock", message)
        }
        _ => Ok(()),
    }
}

/// Whether the service should run is for the operator to know. If it is ready, it has just made a
/// commit to find that out, and this database has seen one, unless the service stores in another
/// database.
fn service(report: &mut Report, address: SocketAddr, database: Option<&Database>) -> Outcome {
    let watch = database.map(|database| (database, CommitWatch::start(database)));
    let timeout = Duration::from_millis(HEALTHCHECK_MS_MAX);
    match ask_ready(http::reachable(address), timeout) {
        Ok(answer) if answer.status == 200 => {}
        Ok(Answer { body, .. }) => {
            return report.problem("service", format!("at {address}, but not ready: {body}"));
        }
        Err(error) => {
            return report.warn("service", format!("no service answers at {address} ({error})"));
        }
    }
    let (database, is_this) = match watch {
        Some((database, Ok(mut watch))) => (database, watch.has_seen_one()),
        Some((database, Err(_))) if database.file().is_some_and(|file| !file.exists()) => {
            (database, Ok(false))
        }
        // The database cannot be read, which has been reported.
        _ => return report.ok("service", format!("ready at {address}")),
    };
    match is_this {
        Ok(true) => {
            report.ok("service", format!("ready at {address}, and it stores in this database"))
        }
        Ok(false) => report.problem(
            "service",
            format!(
                "ready at {address}, but it stores in another database than {database}: set \
             DATABASE_URL and LISTEN as the service has them"
            ),
        ),
        Err(problem) => report.problem("database", problem),
    }
}

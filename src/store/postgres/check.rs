//! Whether the server is one on which messages are safe, and the counters are what counting finds.

use super::{
    connection::Connection,
    counts::messages_of_parties,
    failure::Failure,
    sequencer::last_lock,
    snapshot::BEGIN,
    values::{Row, Rows, Statement},
};
use crate::{
    config::Target,
    logging,
    store::types::{Count, Finding, Level, Recount},
};

/// The oldest version of the server, as `server_version_num` has it.
const VERSION_OLDEST: i64 = 140_000;
/// How far its clock may be from this machine's.
const SKEW_SECONDS: i64 = 10;
/// Connections of a mailslot beside those of its workers: those of the committer, the feed, the
/// counter, the expirer, of exports and of commands.
const OTHER_CONNECTIONS: i64 = 10;

fn named<T>(target: &Target, value: Result<T, Failure>) -> Result<T, String> {
    value.map_err(|failure| format!("database {target}: {failure}"))
}

/// Looks at the server's settings and at this user's rights.
pub(crate) fn examine(target: &Target, workers: usize) -> Result<Vec<Finding>, String> {
    named(target, examine_settings(target, i64::try_from(workers).unwrap_or(i64::MAX)))
}

fn examine_settings(target: &Target, workers: i64) -> Result<Vec<Finding>, Failure> {
    let mut connection = Connection::connect(target)?;
    let sql = "
        SELECT current_setting('server_version_num')::bigint, current_setting('server_version'),
            current_setting('server_encoding'), current_setting('fsync'),
            current_setting('full_page_writes'), current_setting('synchronous_commit'),
            current_setting('synchronous_standby_names'),
            current_setting('max_connections')::bigint
                - current_setting('superuser_reserved_connections')::bigint,
            floor(extract(epoch FROM clock_timestamp()))::bigint,
            coalesce((SELECT indisvalid FROM pg_index
                WHERE indexrelid = to_regclass('mailslot.messages_by_text')), false),
            to_regclass('mailslot.totals') IS NOT NULL";
    let answers = connection.run_in_order(&[Statement::new(sql, &[])])?;
    let row = answers.first().ok_or_else(|| Failure::unexpected("no result"))?.one()?;
    let mut findings = of_settings(row)?;
    findings.push(of_connections(row.integer(7)?, workers + OTHER_CONNECTIONS));
    findings.push(of_clock(row.integer(8)?));
    if row.boolean(10)? {
        let index = "each search reads every text: install the extension pg_trgm in the database \
                     and start the service once, unless SEARCH_INDEX=off is meant";
        findings.push(if row.boolean(9)? {
            Finding::new(Level::Ok, "search", "its index is there")
        } else {
            Finding::new(Level::Warning, "search", index)
        });
        findings.push(of_rights(&mut connection)?);
    }
    Ok(findings)
}

fn of_settings(row: &Row) -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    let mut find = |level, message: String| {
        findings.push(Finding { level, what: "server", message });
    };
    let version = row.text(1)?;
    if row.integer(0)? < VERSION_OLDEST {
        find(Level::Problem, format!("PostgreSQL {version}: mailslot needs 14 or newer"));
    } else {
        find(Level::Ok, format!("PostgreSQL {version}"));
    }
    if row.text(2)? != "UTF8" {
        let encoding = row.text(2)?;
        find(
            Level::Problem,
            format!("the database's encoding is {encoding}: create one with ENCODING 'UTF8'"),
        );
    }
    for (column, name) in [(3, "fsync"), (4, "full_page_writes")] {
        if row.text(column)? != "on" {
            find(
                Level::Problem,
                format!(
                    "{name} is off, so a power failure loses what was acknowledged: set {name}=on"
                ),
            );
        }
    }
    let commit = row.text(5)?;
    if ["off", "local"].contains(&commit) {
        find(
            Level::Ok,
            format!("synchronous_commit is {commit}: mailslot's own commits set it to on"),
        );
    }
    if row.text(6)?.is_empty() {
        find(
            Level::Warning,
            "no synchronous standby: what is acknowledged is on one machine's disk; set \
             synchronous_standby_names, or synchronous_mode_strict in Patroni"
                .to_owned(),
        );
    } else {
        find(Level::Ok, format!("commits wait for {}", row.text(6)?));
    }
    Ok(findings)
}

fn of_connections(allowed: i64, needed: i64) -> Finding {
    let fits = allowed / needed;
    let message = format!(
        "the server allows {allowed} in all, and a mailslot takes up to {needed}: {fits} of \
         them fit"
    );
    if fits > 0 {
        Finding { level: Level::Ok, what: "connections", message }
    } else {
        let message = format!("{message}; raise max_connections, or put pgbouncer between");
        Finding { level: Level::Problem, what: "connections", message }
    }
}

fn of_clock(server: i64) -> Finding {
    let skew = server - logging::now_seconds();
    if skew.abs() > SKEW_SECONDS {
        let message = format!("the server's is {skew} s ahead of this machine's: set both by NTP");
        Finding { level: Level::Warning, what: "clock", message }
    } else {
        Finding::new(Level::Ok, "clock", "the server's agrees with this machine's")
    }
}

fn of_rights(connection: &mut Connection) -> Result<Finding, Failure> {
    let sql = "
        SELECT string_agg(relname, ', ') FROM pg_class
        WHERE relnamespace = 'mailslot'::regnamespace AND relkind = 'r'
            AND NOT (has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT')
                AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE'))";
    let answers = connection.run_in_order(&[Statement::new(sql, &[])])?;
    let row = answers.first().ok_or_else(|| Failure::unexpected("no result"))?.one()?;
    Ok(match row.optional_text(0)? {
        None => Finding::new(Level::Ok, "rights", "this user may read and write every table"),
        Some(tables) => {
            let message = format!(
                "this user may not read and write {tables}: use the user that owns the schema"
            );
            Finding { level: Level::Problem, what: "rights", message }
        }
    })
}

/// With `is_full`, the index of each table is compared with it. The server checks the rest itself.
pub(crate) fn check_structure(target: &Target, is_full: bool) -> Result<Vec<String>, String> {
    let mut connection = named(target, Connection::connect(target))?;
    let mut problems = Vec::new();
    let sql = "SELECT version FROM mailslot.sequencer";
    let version = connection.run_in_order(&[Statement::new(sql, &[])]);
    if let Err(failure) = version {
        return Err(format!(
            "database {target}: {failure}: start the service once, which creates its tables"
        ));
    }
    if is_full {
        // Of every message what is derived from its own columns, which no index has a part in.
        let sql = "
            SELECT count(*), count(DISTINCT hash),
                count(*) FILTER (WHERE position(E'\\x01' IN message_id) = 0
                    AND hash <> sha256(convert_to(message_id, 'UTF8')))
            FROM mailslot.messages";
        let counted = named(target, ask_slowly(&mut connection, &[sql]))?;
        let row = counted.first().ok_or_else(|| "no result".to_owned())?;
        let row = named(target, row.one())?;
        let [all, distinct, wrong] = [0, 1, 2].map(|column| row.integer(column).unwrap_or(-1));
        if all != distinct || wrong != 0 {
            problems.push(format!(
                "{all} messages have {distinct} hashes of their ids, of which {wrong} are wrong"
            ));
        }
    }
    Ok(problems)
}

fn ask_slowly(connection: &mut Connection, statements: &[&str]) -> Result<Vec<Rows>, Failure> {
    let all = [BEGIN].iter().chain(statements).chain(&["COMMIT"]);
    let all: Vec<_> = all.map(|sql| Statement::new(sql, &[])).collect();
    let mut answers = connection.run_slowly(&all)?;
    answers.pop();
    Ok(answers.split_off(1.min(answers.len())))
}

pub(crate) fn recount(target: &Target) -> Result<Recount, String> {
    named(target, count(target))
}

fn count(target: &Target) -> Result<Recount, Failure> {
    let mut connection = Connection::connect(target)?;
    let counters = "
        SELECT messages + (SELECT count(*) FROM mailslot.messages AS tail WHERE id > counted_id),
            senders,
            (SELECT count(*) FROM mailslot.messages),
            (SELECT count(DISTINCT from_msisdn) FROM mailslot.messages WHERE id <= counted_id),
            (SELECT count(*) FROM mailslot.messages WHERE id <= counted_id),
            (SELECT to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')
             FROM mailslot.messages ORDER BY id DESC LIMIT 1)
        FROM mailslot.totals";
    let levels = "
        SELECT coalesce(sum(n), 0)::bigint FROM generate_series(1, 5) AS wanted
        LEFT JOIN mailslot.counts ON level = wanted AND group_id = 0
        GROUP BY wanted ORDER BY wanted";
    let answers = ask_slowly(&mut connection, &[counters, levels, PARTIES, CLASSES])?;
    let [counters, levels, parties, classes] = &answers[..] else {
        return Err(Failure::unexpected("no result"));
    };
    let (row, parties, classes) = (counters.one()?, parties.one()?, classes.one()?);
    let mut counts = vec![
        Count { of: "messages", counted: row.integer(2)?, kept: row.integer(0)? },
        Count { of: "senders", counted: row.integer(3)?, kept: row.integer(1)? },
        Count {
            of: "receivers with a right count",
            counted: parties.integer(1)?,
            kept: parties.integer(2)?,
        },
        Count {
            of: "kinds with a right count",
            counted: classes.integer(0)?,
            kept: classes.integer(1)?,
        },
    ];
    let names = [
        "messages in the counts of seconds",
        "messages in the counts of minutes",
        "messages in the counts of hours",
        "messages in the counts of days",
        "messages in the counts of 64 days",
    ];
    for (of, level) in names.into_iter().zip(levels.iter()) {
        counts.push(Count { of, counted: row.integer(4)?, kept: level.integer(0)? });
    }
    Ok(Recount {
        counts,
        wrong_senders: parties.integer(0)?,
        last_created_at: row.optional_text(5)?.map(str::to_owned),
    })
}

/// Of how many senders the counts are wrong, how many receivers there are, and of how many of these
/// the counts are right.
const PARTIES: &str = concat!(
    "WITH counted AS (
        SELECT is_receiver, msisdn, count(*) AS n FROM ",
    messages_of_parties!(),
    " WHERE messages.id <= (SELECT counted_id FROM mailslot.totals) GROUP BY 1, 2
    ), main AS (
        SELECT id FROM mailslot.parties, mailslot.totals
        WHERE is_receiver AND msisdn = main_receiver
    ), by_time AS (
        SELECT CASE WHEN group_id > 0 THEN group_id ELSE (SELECT id FROM main) END AS group_id,
            level, sum(CASE group_id WHEN -1 THEN -n ELSE n END)::bigint AS n
        FROM mailslot.counts GROUP BY 1, 2
    ), compared AS (
        SELECT is_receiver, counted.n IS NOT DISTINCT FROM parties.n
            AND NOT ((is_heavy OR parties.id IN (SELECT id FROM main)) AND EXISTS (
            SELECT FROM generate_series(1, 5) AS wanted
            LEFT JOIN by_time ON by_time.level = wanted AND group_id = parties.id
            WHERE by_time.n IS DISTINCT FROM counted.n)) AS is_right
        FROM mailslot.parties FULL JOIN counted USING (is_receiver, msisdn))
    SELECT count(*) FILTER (WHERE NOT is_receiver AND NOT is_right),
        count(*) FILTER (WHERE is_receiver), count(*) FILTER (WHERE is_receiver AND is_right)
    FROM compared"
);

/// How many classes there are, and of how many the counts are right.
const CLASSES: &str = "
    WITH counted AS (
        SELECT source, kind, count(*) AS n FROM mailslot.messages
        WHERE id <= (SELECT counted_id FROM mailslot.totals) GROUP BY source, kind
    ), by_time AS (
        SELECT group_id, level, sum(n)::bigint AS n FROM mailslot.counts GROUP BY 1, 2)
    SELECT count(*), count(*) FILTER (WHERE classes.n = coalesce(counted.n, 0) AND NOT EXISTS (
        SELECT FROM generate_series(1, 5) AS wanted
        LEFT JOIN by_time ON by_time.level = wanted AND group_id = classes.id
        WHERE classes.id > 1 AND coalesce(by_time.n, 0) <> classes.n))
    FROM mailslot.classes FULL JOIN counted USING (source, kind)";

/// Notices commits of any mailslot: each locks the row of `sequencer`, which leaves its number
/// there.
#[derive(Debug)]
pub(crate) struct CommitWatch {
    connection: Connection,
    at_start: String,
}

impl CommitWatch {
    pub(crate) fn start(target: &Target) -> Result<CommitWatch, String> {
        let start = || {
            let mut connection = Connection::connect(target)?;
            let at_start = last_lock(&mut connection)?;
            Ok(CommitWatch { connection, at_start })
        };
        start().map_err(|failure: Failure| failure.to_string())
    }

    pub(crate) fn has_seen_one(&mut self) -> Result<bool, String> {
        let last = last_lock(&mut self.connection).map_err(|failure| failure.to_string())?;
        Ok(last != self.at_start)
    }
}

//! What holds for whatever is stored and asked, tried with many messages and queries from a seed.

use std::{collections::BTreeSet, fs, io::Write, path::Path, process::Stdio};

use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    harness::{Inbox, Reply, command, database, on_postgres, server::Server},
    numbers::Numbers,
};

#[rustfmt::skip]
const WORDS: &[&str] = &[
    "hello", "Order", "the", "THE", "%", "_", "\\", "'", "\"", "\"\"", ",", ";", "\r\n", "\n", "\r", "\t", " ", "\0",
    "\u{feff}", "École", "🙂", "日本語", "\u{2028}", "=1+1", "a", "null",
];
const SEARCHES: &[&str] = &["hello", "ORDER", "the", "e", "%", "_", "\\", "\"", "\n", "absent"];
const FRACTIONS: &[&str] = &["", "", ".5", ".50", ".000000001", ".999999999", ".1"];

fn messages(numbers: &mut Numbers, count: usize) -> Vec<Value> {
    let message = |numbers: &mut Numbers, number: usize| {
        let words: Vec<&str> = (0..numbers.below(6)).map(|_| numbers.pick(WORDS)).collect();
        let text = if numbers.one_in(6) { Value::Null } else { json!(words.concat()) };
        // Some are longer than a cursor holds, and only the end tells them apart.
        let length = if numbers.one_in(8) { 1_200 } else { 0 };
        let id = format!("{}{}{number}", numbers.pick(WORDS), "x".repeat(length));
        json!({
            "message_id": id, "from": format!("+{}", numbers.below(4)),
            "to": format!("+{}", numbers.below(3)), "ts": ts(numbers), "text": text
        })
    };
    (0..count).map(|number| message(numbers, number)).collect()
}

fn ts(numbers: &mut Numbers) -> String {
    format!("2025-01-15T10:00:{:02}{}Z", numbers.below(20), numbers.pick(FRACTIONS))
}

/// A folder with these messages in its database, by the program's own import.
fn imported(lines: &[Value]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    import(folder.path(), joined(lines).as_bytes());
    folder
}

/// An object a line.
fn joined(lines: &[Value]) -> String {
    lines.iter().map(Value::to_string).collect::<Vec<_>>().join("\n")
}

fn import(folder: &Path, text: &[u8]) {
    let mut command = command(folder);
    command.args(["import", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// What every message says, in the order in which they were stored.
fn rows(folder: &Path) -> Vec<Value> {
    if on_postgres() {
        let server = Server::shared();
        let sql = "SELECT json_build_object('message_id', message_id, 'from', from_msisdn,
                       'to', to_msisdn, 'ts', ts, 'text', text) FROM messages ORDER BY id";
        // mailslot stores U+0000, which PostgreSQL does not take, as three other characters.
        let lines = server.sql(&server.database(folder), sql);
        let lines = lines.replace(r"\u0001\u0002\u0002", r"\u0000");
        return lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    }
    let connection = Connection::open(database(folder)).unwrap();
    let mut statement = connection
        .prepare("SELECT message_id, from_msisdn, to_msisdn, ts, text FROM messages ORDER BY id")
        .unwrap();
    let row = |row: &rusqlite::Row<'_>| {
        let text = |column: usize| row.get::<_, Option<String>>(column).map(|text| json!(text));
        Ok(json!({
            "message_id": text(0)?, "from": text(1)?, "to": text(2)?, "ts": text(3)?, "text": text(4)?
        }))
    };
    statement.query_map((), row).unwrap().map(Result::unwrap).collect()
}

/// A text whose order is that of time: every fraction has nine digits.
fn moment(ts: &str) -> String {
    let (whole, fraction) = ts.trim_end_matches('Z').split_once('.').unwrap_or((&ts[..19], ""));
    format!("{whole}.{fraction:0<9}")
}

/// Parameters of a query, and what it means.
#[derive(Debug, Default)]
struct Query {
    from: Option<String>,
    to: Option<String>,
    since: Option<String>,
    until: Option<String>,
    q: Option<String>,
    is_descending: bool,
}

impl Query {
    fn new(numbers: &mut Numbers) -> Query {
        Query {
            from: numbers.one_in(3).then(|| format!("+{}", numbers.below(5))),
            to: numbers.one_in(4).then(|| format!("+{}", numbers.below(4))),
            since: numbers.one_in(3).then(|| ts(numbers)),
            until: numbers.one_in(4).then(|| ts(numbers)),
            q: numbers.one_in(2).then(|| numbers.pick(SEARCHES).to_owned()),
            is_descending: numbers.one_in(2),
        }
    }

    fn with_limit(&self, limit: usize) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("limit", &limit.to_string());
        for (name, value) in [
            ("from", &self.from),
            ("to", &self.to),
            ("since", &self.since),
            ("until", &self.until),
            ("q", &self.q),
        ] {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        query.append_pair("order", if self.is_descending { "desc" } else { "asc" });
        query.finish()
    }

    fn answer(&self, messages: &[Value]) -> Vec<String> {
        let text = |message: &Value, name: &str| message[name].as_str().unwrap_or("").to_owned();
        let is_meant = |message: &&Value| {
            let at = moment(&text(message, "ts"));
            let has = |q: &String| text(message, "text").to_lowercase().contains(&q.to_lowercase());
            self.from.as_ref().is_none_or(|from| message["from"] == *from)
                && self.to.as_ref().is_none_or(|to| message["to"] == *to)
                && self.since.as_ref().is_none_or(|since| at >= moment(since))
                && self.until.as_ref().is_none_or(|until| at < moment(until))
                && self.q.as_ref().is_none_or(has)
        };
        let mut meant: Vec<&Value> = messages.iter().filter(is_meant).collect();
        meant.sort_by_key(|message| (moment(&text(message, "ts")), text(message, "message_id")));
        if self.is_descending {
            meant.reverse();
        }
        meant.iter().map(|message| text(message, "message_id")).collect()
    }
}

fn ids(reply: &Reply) -> Vec<String> {
    let data = reply.json["data"].as_array().unwrap_or_else(|| panic!("{reply:?}"));
    data.iter().map(|message| message["message_id"].as_str().unwrap().to_owned()).collect()
}

/// The target of the link with this relation.
fn link(reply: &Reply, rel: &str) -> Option<String> {
    let end = format!(">; rel=\"{rel}\"");
    let mut links = reply.header("Link")?.split(", ");
    links.find_map(|link| Some(link.strip_suffix(&end)?.strip_prefix('<')?.to_owned()))
}

#[test]
fn walking_either_way_over_any_filters_meets_each_message_exactly_once() {
    let numbers = &mut Numbers(0x5eed_0001);
    let messages = messages(numbers, 160);
    let inbox = Inbox::start_in(imported(&messages));
    let mut met_in_all = 0;
    for _ in 0..40 {
        let query = Query::new(numbers);
        let expected = query.answer(&messages);
        let limit = 1 + numbers.below(40);
        let (mut forth, mut reply) =
            (Vec::new(), inbox.get(&format!("/messages?{}", query.with_limit(limit))));
        loop {
            assert_eq!(reply.json["total"], expected.len(), "{query:?}");
            assert_eq!(reply.json["offset"], forth.len(), "{query:?}");
            forth.extend(ids(&reply));
            assert!(forth.len() <= expected.len(), "{query:?} has no end");
            let Some(next) = link(&reply, "next") else { break };
            reply = inbox.get(&next);
        }
        assert_eq!(forth, expected, "{query:?}");
        let mut back = ids(&reply);
        while let Some(previous) = link(&reply, "prev") {
            reply = inbox.get(&previous);
            back.splice(0..0, ids(&reply));
            assert!(back.len() <= expected.len(), "{query:?} has no beginning");
        }
        assert_eq!(back, expected, "{query:?}");
        met_in_all += expected.len();
    }
    // Filters that match nothing would prove nothing.
    assert!(met_in_all > 500, "{met_in_all}");
}

#[test]
fn following_the_feed_in_portions_of_any_size_meets_each_message_once_in_the_order_of_commits() {
    let numbers = &mut Numbers(0x5eed_0002);
    let messages = messages(numbers, 200);
    let inbox = Inbox::start_in(imported(&messages));
    let stored: Vec<String> = rows(inbox.folder.path())
        .iter()
        .map(|row| row["message_id"].as_str().unwrap().to_owned())
        .collect();
    for _ in 0..10 {
        let (mut met, mut after) = (Vec::new(), "0".to_owned());
        let mut cursors = BTreeSet::new();
        loop {
            let limit = 1 + numbers.below(70);
            let reply = inbox.get(&format!("/feed?after={after}&limit={limit}"));
            let found = ids(&reply);
            after = reply.json["next"].as_str().unwrap().to_owned();
            if found.is_empty() {
                break;
            }
            assert!(found.len() <= limit);
            let cursor: u64 = after.parse().unwrap();
            assert!(cursors.last().is_none_or(|last| *last < cursor), "{cursor} of {cursors:?}");
            cursors.insert(cursor);
            met.extend(found);
        }
        assert_eq!(met, stored);
    }
}

/// Records of RFC 4180: fields in quotes, in which quotes are doubled, or without, and then an empty
/// one is none.
fn parse_csv(text: &str) -> Vec<Vec<Option<String>>> {
    let (mut records, mut record, mut rest) = (Vec::new(), Vec::new(), text);
    while !rest.is_empty() {
        let (field, length) = if rest.starts_with('"') {
            let mut end = 1;
            while !rest[end..].starts_with('"') || rest[end..].starts_with("\"\"") {
                let c = rest[end..].chars().next().unwrap();
                end += if c == '"' { 2 } else { c.len_utf8() };
            }
            (Some(rest[1..end].replace("\"\"", "\"")), end + 1)
        } else {
            let end = rest.find([',', '\r']).unwrap();
            assert!(!rest[..end].contains(['"', '\n']), "{:?}", &rest[..end]);
            (Some(&rest[..end]).filter(|field| !field.is_empty()).map(str::to_owned), end)
        };
        record.push(field);
        rest = &rest[length..];
        if let Some(next) = rest.strip_prefix(',') {
            rest = next;
        } else {
            rest = rest.strip_prefix("\r\n").unwrap_or_else(|| panic!("{rest:?} after {record:?}"));
            records.push(std::mem::take(&mut record));
        }
    }
    records
}

#[test]
fn an_export_in_either_format_gives_back_every_row_and_imports_as_the_same_rows() {
    let numbers = &mut Numbers(0x5eed_0003);
    let messages = messages(numbers, 300);
    let inbox = Inbox::start_in(imported(&messages));
    let folder = inbox.folder.path();
    let by_time = Query::default().answer(&messages);
    let key = |row: &Value| {
        by_time.iter().position(|id| row["message_id"] == **id).unwrap_or_else(|| panic!("{row}"))
    };
    let mut expected = rows(folder);
    assert_eq!(expected, messages);
    expected.sort_by_key(key);

    let lines = inbox.get("/export").text;
    let csv = parse_csv(&inbox.get("/export?format=csv").text);
    assert_eq!(csv.iter().map(Vec::len).collect::<BTreeSet<_>>(), BTreeSet::from([6]));
    let names: Vec<&str> = csv[0].iter().map(|name| name.as_deref().unwrap()).collect();
    let record = |record: &Vec<Option<String>>| {
        let fields =
            names.iter().zip(record).map(|(name, field)| ((*name).to_owned(), json!(field)));
        Value::Object(fields.collect())
    };
    let records: Vec<Value> = csv[1..].iter().map(record).collect();
    let from_lines: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records, from_lines, "the two formats say the same");

    for (format, option) in [("ndjson", "--format=ndjson"), ("csv", "--format=csv")] {
        // The command reads the database beside the service and writes the same bytes.
        let path = folder.join("export");
        let mut export = command(folder);
        export.args(["export", option, "--output"]).arg(&path);
        let output = export.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let served = inbox.get(&format!("/export?format={format}")).text;
        assert_eq!(fs::read_to_string(&path).unwrap(), served, "{format}");
        fs::remove_file(path).unwrap();
    }
    for text in [lines, joined(&records)] {
        let other = tempfile::tempdir().unwrap();
        import(other.path(), text.as_bytes());
        // An export is in the order of time, and an import stores in the order of the lines.
        assert_eq!(rows(other.path()), expected);
    }
}

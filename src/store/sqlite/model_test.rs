//! The model test: random messages are stored, deleted and searched, and every answer is compared
//! with that of plain SQL over the messages. It also reads the plan of every statement.

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::Mutex,
};

use rusqlite::{
    Connection, params,
    trace::{TraceEvent, TraceEventCodes},
};
use serde_json::{Value, json};
use time::macros::{datetime, format_description};

use super::{
    check::recount,
    erase::{count_selected, is_erasure_unfinished},
    indexer::Indexer,
    layout::Layout,
    reader::Reader,
    rows,
    search::Searches,
    segments::{BLOCK_MESSAGES, Prepared},
    store::Store,
    writer::Writer,
};
use crate::{
    error::Error,
    message::{Delivered, Message, fold_case},
    metrics::{Label, Source},
    original::Original,
    store::types::{Filter, Job, Order, Outcome, Paging, Position, Selection, Start, Stored},
    timestamp::Timestamp,
};

/// Numbers that are the same in every run, by xorshift64.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: i64) -> i64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 1).cast_signed().rem_euclid(end)
    }

    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[usize::try_from(self.below(i64::try_from(choices.len()).unwrap())).unwrap()]
    }

    /// Small numbers are likelier.
    fn skewed(&mut self, end: i64) -> i64 {
        let end = 1 + self.below(end);
        self.below(end)
    }
}

#[rustfmt::skip]
const WORDS: &[&str] = &[
    "hello", "Order", "the", "THE", "a", "%", "_", "\\", "''", "\"", "\0", "École", "ÉCOLE",
    "straße", "STRASSE", "Σίσυφος",
    "नमस्ते", "🙂", "🙃", "ı", "I", "İ", "48213", "482 13", "ﬀ", "\u{301}",
    "日本語", "x\ny", "the\u{0}the", "\u{fffd}",
];
#[rustfmt::skip]
const SEARCHES: &[&str] = &[
    "hello", "ORDER", "the", "h", "e", " ", "%", "_", "\\", "'", "\0", "école",
    "strasse", "σίσυφοσ", "स्ते", "🙂", "ı", "i",
    "482", "48213", "213 the", "ff", "語", "absent", "the the", "\u{fffd}", "lo or",
    "llo order", "e\0t", "oth", "zzz",
];
const RECEIVERS: i64 = 6;
const FRACTIONS: &[&str] = &["", "", "", ".5", ".50", ".000000001", ".999999999", ".09", ".1"];

/// One inbox, its writer and its readers, and every statement that they ran.
struct Inbox {
    store: Store,
    writer: Writer,
    reader: Reader,
    indexer: Indexer,
    layout: Layout,
    /// Another program, as `sqlite3` is one.
    external: Connection,
    /// Of every message that ever was, the text, case-folded.
    folded: HashMap<String, String>,
    path: PathBuf,
}

/// The outcomes of so many jobs with a new message each.
fn created(jobs: usize) -> Vec<Outcome> {
    vec![Ok(vec![Stored::Created]); jobs]
}

fn is_duplicate(outcome: &Outcome) -> bool {
    *outcome == Ok(vec![Stored::Duplicate])
}

const KINDS: [&str; 3] = ["text", "image", "video"];

/// The same message with a source and a kind, which its id decides: most come by /webhook. Every
/// second one of another source has an original.
fn delivered(message: Message) -> Delivered {
    let number = message.message_id.bytes().map(usize::from).sum::<usize>();
    if number % 3 > 0 {
        return Delivered::from(message);
    }
    let source = Source::ALL[number / 3 % Source::ALL.len()];
    let original = (number % 2 == 0).then(|| Original::of("{\"type\":\"text\"}"));
    let kind = KINDS[number / 12 % KINDS.len()];
    Delivered { original, ..Delivered::of(message, source, kind) }
}

static STATEMENTS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn note(event: TraceEvent<'_>) {
    if let TraceEvent::Stmt(statement, _) = event {
        STATEMENTS.lock().unwrap().insert(statement.sql().into_owned());
    }
}

impl Inbox {
    fn open(path: &Path) -> Inbox {
        Inbox::open_with(path, Layout::SMALL)
    }

    fn open_with(path: &Path, layout: Layout) -> Inbox {
        let (store, mut writer) = Store::open_with(path, 2, layout).unwrap();
        let mut reader = store.reader().unwrap();
        let mut indexer = store.indexer().unwrap();
        let connections = [&mut writer.connection, &mut reader.connection, &mut indexer.connection];
        for connection in connections {
            connection.trace_v2(TraceEventCodes::SQLITE_TRACE_STMT, Some(note)).unwrap();
        }
        let external = Connection::open(path).unwrap();
        let (folded, path) = (HashMap::new(), path.to_owned());
        Inbox { store, writer, reader, indexer, layout, external, folded, path }
    }

    fn message(&mut self, numbers: &mut Numbers, seconds: i64, senders: i64) -> Message {
        let text: Vec<_> = (0..numbers.below(8)).map(|_| numbers.pick(WORDS)).collect();
        let second = numbers.below(seconds);
        let moment = datetime!(2025-01-01 0:00) + time::Duration::seconds(second);
        let shape = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
        let ts = format!("{}{}Z", moment.format(shape).unwrap(), numbers.pick(FRACTIONS));
        let message_id = format!("{}-{}", numbers.below(1_000_000), self.folded.len());
        let text = (numbers.below(10) > 0).then(|| text.join(" "));
        self.folded.insert(message_id.clone(), fold_case(text.as_deref().unwrap_or_default()));
        Message {
            message_id,
            from: format!("+{}", 1 + numbers.skewed(senders)),
            to: format!("+{}", 1 + numbers.skewed(RECEIVERS)),
            timestamp: Timestamp::parse(&ts).unwrap_or_else(|| panic!("{ts}")),
            ts,
            text,
        }
    }

    fn insert(&mut self, messages: Vec<Message>) -> Vec<Outcome> {
        let jobs = messages.into_iter().map(|message| Job::Messages(vec![delivered(message)]));
        let jobs: Vec<Job> = jobs.collect();
        self.writer.commit(jobs.iter())
    }

    /// As `mailslot erase` does it.
    fn erase(&self, selection: &Selection, progress: &mut dyn FnMut(i64)) -> Result<i64, String> {
        let writer = Writer::open_with(&self.path, self.layout, Prepared::default())?;
        writer.erase(selection, progress)
    }

    /// Deletes messages, as an operator would, changes texts, or builds segments.
    fn disturb(&mut self, numbers: &mut Numbers, senders: i64) {
        let number = numbers.below(300);
        let sql = match numbers.below(10) {
            0 => format!(
                "DELETE FROM messages WHERE from_msisdn = '+{}' AND ts_s % 3 = {}",
                1 + numbers.skewed(senders),
                number % 3
            ),
            1 => format!(
                "DELETE FROM messages
                 WHERE id IN (SELECT id FROM messages ORDER BY ts_s LIMIT {number})"
            ),
            2 => format!(
                "DELETE FROM messages WHERE id > (SELECT max(id) - {} FROM messages)",
                number % 30
            ),
            3 => "DELETE FROM messages WHERE id % 71 = 7 RETURNING 'x'".to_owned(),
            4 => {
                let reworded = "UPDATE messages SET text = 'reworded THE' WHERE id % 97 = ?1
                                RETURNING message_id";
                let mut reworded = self.external.prepare(reworded).unwrap();
                for id in reworded.query_map([number % 97], |row| row.get(0)).unwrap() {
                    self.folded.insert(id.unwrap(), "reworded the".to_owned());
                }
                return;
            }
            5 => {
                let selection = if number % 2 == 0 {
                    Selection::From(format!("+{}", 1 + numbers.skewed(senders)))
                } else {
                    let oldest = self.reader.oldest().unwrap();
                    Selection::Before(Timestamp::from(
                        oldest.map_or(0, |ts| ts.seconds + number % 40),
                    ))
                };
                let count = count_selected(&self.path, &selection).unwrap();
                assert_eq!(self.erase(&selection, &mut |_| {}), Ok(count));
                return;
            }
            6 => {
                let oldest = self.reader.oldest().unwrap().map_or(0, |ts| ts.seconds);
                let expire = Job::Expire(Timestamp::from(oldest + number % 40));
                assert_eq!(self.writer.commit([expire].iter()), [Ok(vec![])]);
                return;
            }
            _ => return self.index_all(),
        };
        self.external.execute_batch(&sql).unwrap();
    }

    fn index_all(&mut self) {
        while self.indexer.prepare().unwrap() {
            assert_eq!(self.writer.commit([Job::Index].iter()), [Ok(vec![])]);
        }
    }

    /// What plain SQL says: the ids of all that match, in order.
    fn naive(&self, filter: &Filter) -> Vec<String> {
        let mut statement = self
            .external
            .prepare_cached(
                "SELECT message_id FROM messages
                 WHERE (?1 IS NULL OR from_msisdn = ?1) AND (?2 IS NULL OR to_msisdn = ?2)
                     AND (?7 IS NULL OR substr(from_msisdn, 1, length(?7)) = ?7)
                     AND (?8 IS NULL OR message_id = ?8)
                     AND (?3 IS NULL OR ts_s > ?3 OR ts_s = ?3 AND ts_ns >= ?4)
                     AND (?5 IS NULL OR ts_s < ?5 OR ts_s = ?5 AND ts_ns < ?6)
                     AND class_id IN (
                         SELECT id FROM classes
                         WHERE (?9 IS NULL OR source = ?9) AND (?10 IS NULL OR kind = ?10))
                 ORDER BY ts_s, ts_ns, message_id",
            )
            .unwrap();
        let Filter { message_id, from, from_prefix, to, since, until, q, source, kind } = filter;
        let (seconds, nanoseconds) = (|i: Timestamp| i.seconds, |i: Timestamp| i.nanoseconds);
        let bounds = params![
            from,
            to,
            since.map(seconds),
            since.map(nanoseconds),
            until.map(seconds),
            until.map(nanoseconds),
            from_prefix,
            message_id,
            source.map(Label::value),
            kind
        ];
        let rows = statement.query_map(bounds, |row| row.get(0)).unwrap();
        let matches = |id: &String| q.as_ref().is_none_or(|q| self.folded[id].contains(q));
        rows.map(Result::unwrap).filter(matches).collect()
    }

    fn naive_stats(&self) -> Value {
        let ts = |order: &str| -> Value {
            let sql = format!("SELECT (SELECT ts FROM messages ORDER BY {order} LIMIT 1)");
            let ts: Option<String> = self.external.query_row(&sql, (), |row| row.get(0)).unwrap();
            json!(ts)
        };
        let number =
            |sql: &str| -> i64 { self.external.query_row(sql, (), |row| row.get(0)).unwrap() };
        let mut top = self
            .external
            .prepare(
                "SELECT from_msisdn, count(*) AS n FROM messages
                 GROUP BY 1 ORDER BY n DESC, 1 LIMIT 10",
            )
            .unwrap();
        let top: Vec<Value> = top
            .query_map((), |row| {
                Ok(json!({ "from": row.get::<_, String>(0)?, "count": row.get::<_, i64>(1)? }))
            })
            .unwrap()
            .map(Result::unwrap)
            .collect();
        json!({
            "total_messages": number("SELECT count(*) FROM messages"),
            "senders_count": number("SELECT count(DISTINCT from_msisdn) FROM messages"),
            "messages_per_sender": top,
            "first_message_ts": ts("ts_s, ts_ns, message_id"),
            "last_message_ts": ts("ts_s DESC, ts_ns DESC, message_id DESC"),
        })
    }

    fn filter(&mut self, numbers: &mut Numbers, seconds: i64, senders: i64) -> Filter {
        let sometimes = |numbers: &mut Numbers, of: i64| numbers.below(of) == 0;
        let mut filter = Filter {
            message_id: None,
            from_prefix: sometimes(numbers, 4).then(|| format!("+{}", numbers.below(12))),
            from: sometimes(numbers, 2).then(|| format!("+{}", 1 + numbers.skewed(senders + 2))),
            to: sometimes(numbers, 3).then(|| format!("+{}", 1 + numbers.skewed(RECEIVERS + 2))),
            since: sometimes(numbers, 2).then(|| self.message(numbers, seconds, 1).timestamp),
            until: sometimes(numbers, 3).then(|| self.message(numbers, seconds, 1).timestamp),
            q: sometimes(numbers, 2).then(|| fold_case(numbers.pick(SEARCHES))),
            source: sometimes(numbers, 4)
                .then(|| Source::ALL[usize::try_from(numbers.below(4)).unwrap()]),
            kind: sometimes(numbers, 4)
                .then(|| numbers.pick(&["text", "image", "video", "absent"]).to_owned()),
        };
        // Often the same one, as paging through a search does.
        match numbers.below(7) {
            0 => filter = Filter { q: Some("the".to_owned()), ..Filter::default() },
            1 => filter = Filter { to: Some("+1".to_owned()), ..Filter::default() },
            2 => filter = Filter { source: filter.source, ..Filter::default() },
            3 => filter = Filter { kind: filter.kind, ..Filter::default() },
            4 if sometimes(numbers, 2) => {
                let sql = "SELECT message_id FROM messages ORDER BY id LIMIT 1 OFFSET ?1";
                let known = self.external.query_row(sql, [numbers.below(300)], |row| row.get(0));
                filter.message_id = known.ok().or(Some("unknown".to_owned()));
            }
            _ => {}
        }
        filter
    }

    fn ask(&mut self, numbers: &mut Numbers, seconds: i64, senders: i64) {
        let filter = self.filter(numbers, seconds, senders);
        let mut ids = self.naive(&filter);
        let total = i64::try_from(ids.len()).unwrap();
        let order = if numbers.below(2) == 0 { Order::Ascending } else { Order::Descending };
        if order == Order::Descending {
            ids.reverse();
        }
        let limit = 1 + numbers.below(100);
        let offset = match numbers.below(4) {
            0 => 0,
            1 => (total - limit).max(0),
            _ => numbers.below(total + 2),
        };
        let mut expected: Vec<String> = ids.clone();
        let mut expected_offset = offset.min(total);
        let start =
            match (numbers.below(3), usize::try_from(offset).ok().and_then(|at| ids.get(at))) {
                (1, Some(id)) => {
                    expected_offset += 1;
                    expected = expected.split_off(usize::try_from(offset).unwrap() + 1);
                    Start::After(self.position(id))
                }
                (2, Some(id)) => {
                    expected.truncate(usize::try_from(offset).unwrap());
                    expected_offset = (offset - limit).max(0);
                    expected = expected.split_off(usize::try_from(expected_offset).unwrap());
                    Start::Before(self.position(id))
                }
                _ => {
                    expected = expected.split_off(usize::try_from(expected_offset).unwrap());
                    Start::Offset(offset)
                }
            };
        expected.truncate(usize::try_from(limit).unwrap());
        let paging = Paging { limit, start, order };
        let listing = self.reader.list(&filter, &paging).unwrap();
        let found: Vec<_> =
            listing.messages.into_iter().map(|message| message.message_id).collect();
        let found = (found, listing.total, listing.offset);
        assert_eq!(found, (expected, total, expected_offset), "{filter:?} {paging:?}");
    }

    /// Where a message stands in the order.
    fn position(&self, message_id: &str) -> Position {
        let sql = "SELECT ts_s, ts_ns, message_id FROM messages WHERE message_id = ?1";
        self.external.query_row(sql, [message_id], rows::position).unwrap()
    }

    /// How many there are, by a page of one.
    fn total(&mut self, filter: &Filter) -> Result<i64, Error> {
        let paging = Paging { limit: 1, start: Start::Offset(0), order: Order::Ascending };
        self.reader.list(filter, &paging).map(|listing| listing.total)
    }

    /// An export is all that matches; the feed is all that there is, in the order of the ids; and
    /// the series between some moments add up.
    fn read_whole(&mut self, numbers: &mut Numbers, seconds: i64, senders: i64) {
        let filter = self.filter(numbers, seconds, senders);
        let mut export = self.store.reader().unwrap().export(filter.clone(), false).unwrap();
        let mut ids = Vec::new();
        while let Some(portion) = export.next().unwrap() {
            ids.extend(portion.into_iter().map(|received| received.message.message_id));
        }
        assert_eq!(ids, self.naive(&filter), "{filter:?}");

        let mut after = 0;
        let mut cursors: Vec<i64> = Vec::new();
        loop {
            let limit = 1 + numbers.below(1_000);
            let page = self.reader.committed(after, limit).unwrap();
            let Some(last) = page.last() else { break };
            after = last.cursor.parse().unwrap();
            cursors
                .extend(page.into_iter().map(|committed| committed.cursor.parse::<i64>().unwrap()));
        }
        self.read_backwards(numbers, &cursors);
        let mut statement = self
            .external
            .prepare(
                "SELECT max(first_cursor - first_id) + id FROM messages, epochs
                 WHERE first_id <= id GROUP BY id ORDER BY id",
            )
            .unwrap();
        let all = statement.query_map((), |row| row.get(0)).unwrap();
        assert_eq!(cursors, all.collect::<rusqlite::Result<Vec<i64>>>().unwrap());
        assert_eq!(
            self.reader.committed(self.reader.last_cursor().unwrap() + 1, 1).unwrap_err(),
            Error::CursorAhead
        );
        drop(statement);

        let mut bounds: Vec<Timestamp> =
            (0..=numbers.below(20)).map(|_| self.message(numbers, seconds, 1).timestamp).collect();
        bounds.sort_unstable();
        let within = |filter: &Filter, first: Timestamp, last: Timestamp| Filter {
            since: Some(first),
            until: Some(last),
            ..filter.clone()
        };
        for filter in [Filter::default(), self.filter(numbers, seconds, senders)] {
            let whole = within(&filter, bounds[0], bounds[bounds.len() - 1]);
            let counts = self.reader.series(&whole, &bounds).unwrap();
            for (bounds, count) in bounds.windows(2).zip(counts) {
                let filter = within(&filter, bounds[0], bounds[1]);
                assert_eq!(
                    usize::try_from(count).unwrap(),
                    self.naive(&filter).len(),
                    "{filter:?}"
                );
            }
        }
    }

    /// From the end to the beginning of the feed.
    fn read_backwards(&mut self, numbers: &mut Numbers, cursors: &[i64]) {
        let (mut before, mut left) = (None, cursors);
        loop {
            let page = self.reader.committed_before(before, 1 + numbers.below(1_000)).unwrap();
            let found: Vec<i64> = page.iter().map(|one| one.cursor.parse().unwrap()).collect();
            assert!(left.ends_with(&found));
            left = &left[..left.len() - found.len()];
            let Some(first) = found.first() else { break };
            before = Some(*first);
        }
        assert_eq!(left, [0; 0]);
    }

    /// Every fence holds what lies behind it, and no more than it may.
    fn check_rank_index(&self) {
        let wrong: Vec<String> = self
            .external
            .prepare(
                "WITH fence AS (
                     SELECT *, lead(ts_s, 1, 1e18) OVER ordered AS next_s,
                         lead(ts_ns) OVER ordered AS next_ns,
                         lead(message_id) OVER ordered AS next_id
                     FROM rank_index
                     WINDOW ordered AS (
                         PARTITION BY sender_id, level ORDER BY ts_s, ts_ns, message_id)
                 )
                 SELECT sender_id || ' ' || level || ' ' || ts_s || ' ' || message_id || ' ' || n
                 FROM fence
                 WHERE n > iif(level = 1, ?1, ?2)
                     OR n <> (
                         SELECT count(*) FROM messages
                         WHERE id <= (SELECT indexed_id FROM totals)
                             AND (sender_id = 0 OR class_id = -sender_id OR from_msisdn = (
                                 SELECT msisdn FROM senders WHERE id = sender_id))
                             AND (messages.ts_s, messages.ts_ns, messages.message_id)
                                 >= (fence.ts_s, fence.ts_ns, fence.message_id)
                             AND (next_s = 1e18
                                 OR (messages.ts_s, messages.ts_ns, messages.message_id)
                                 < (next_s, next_ns, next_id)))
                     OR level = 2 AND NOT EXISTS (
                         SELECT 1 FROM rank_index AS lower
                         WHERE lower.sender_id = fence.sender_id AND lower.level = 1
                             AND (lower.ts_s, lower.ts_ns, lower.message_id)
                                 = (fence.ts_s, fence.ts_ns, fence.message_id))",
            )
            .unwrap()
            .query_map(self.layout.spans, |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(wrong, [""; 0]);
        assert_eq!(self.wrong_senders(), 0);
        let recount = recount(&self.path).unwrap();
        assert!(recount.counts.iter().all(|count| count.counted == count.kept), "{recount:?}");
        let orphans = "SELECT count(*) FROM originals WHERE id NOT IN (SELECT id FROM messages)";
        let orphans: i64 = self.external.query_row(orphans, (), |row| row.get(0)).unwrap();
        assert_eq!(orphans, 0, "an original goes with its message");
    }

    fn classes_with_fences(&self) -> i64 {
        let sql = "SELECT count(DISTINCT sender_id) FROM rank_index WHERE sender_id < 0";
        self.external.query_row(sql, (), |row| row.get(0)).unwrap()
    }

    /// As `mailslot check` finds them.
    fn wrong_senders(&self) -> i64 {
        recount(&self.path).unwrap().wrong_senders
    }
}

#[test]
fn every_answer_is_that_of_plain_sql_whatever_came_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mailslot.db");
    let mut numbers = Numbers(0x5eed);
    let mut inbox = Inbox::open(&path);
    // At first few seconds, so that many messages share one, and no index by class.
    for (rounds, seconds, senders) in [(30, 20, 3), (40, 5_000, 40), (40, 30_000_000, 300)] {
        if seconds == 5_000 {
            inbox.writer.index_by_class();
            // An operator may drop it, and the next start makes it again.
            inbox.external.execute_batch("DROP INDEX messages_by_class").unwrap();
            inbox.writer.index_by_class();
            inbox.check_rank_index();
            assert!(inbox.classes_with_fences() > 0, "some have many messages");
        }
        for _ in 0..rounds {
            let mut messages = Vec::new();
            for _ in 0..=numbers.below(200) {
                let message = inbox.message(&mut numbers, seconds, senders);
                let twice = numbers.below(10) == 0;
                messages.extend(twice.then(|| message.clone()));
                messages.push(message);
            }
            let again = messages.clone();
            inbox.insert(messages);
            let outcomes = inbox.insert(again);
            assert!(outcomes.iter().all(is_duplicate));
            inbox.disturb(&mut numbers, senders);
            for _ in 0..30 {
                inbox.ask(&mut numbers, seconds, senders);
            }
            assert_eq!(json!(inbox.reader.stats().unwrap()), inbox.naive_stats());
            inbox.read_whole(&mut numbers, seconds, senders);
        }
        inbox.check_rank_index();
    }
    no_statement_sorts(&inbox.external);
    inbox.external.execute("DELETE FROM messages", ()).unwrap();
    assert_eq!(json!(inbox.reader.stats().unwrap()), inbox.naive_stats());
    inbox.check_rank_index();
}

/// Looks at the plan of every statement that this test has run.
fn no_statement_sorts(connection: &Connection) {
    let statements = std::mem::take(&mut *STATEMENTS.lock().unwrap());
    assert!(statements.len() > 30, "{statements:?}");
    // Walks that are short, or the whole point.
    let walked = [
        "SCAN CONSTANT ROW",
        "SCAN classes",
        "SCAN sqlite_schema",
        "SCAN segments",
        "SCAN totals",
        "SCAN rank_index USING INDEX rank_index_empty",
        "SCAN lower USING INDEX rank_index_empty",
        "SCAN senders USING COVERING INDEX senders_by_n",
    ];
    let mut wrong = Vec::new();
    for sql in
        statements.iter().filter(|sql| !sql.starts_with("PRAGMA") && !sql.starts_with("CREATE"))
    {
        let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let mut steps = plan.raw_query();
        while let Some(step) = steps.next().unwrap() {
            let detail: String = step.get(3).unwrap();
            let is_walk = detail.starts_with("SCAN")
                && !walked.iter().any(|walk| detail.starts_with(walk))
                && !sql.contains("message_id LIMIT 1)")
                && !sql.contains("DESC LIMIT 1)");
            if is_walk || detail.contains("TEMP B-TREE") {
                wrong.push(format!("{detail}: {sql}"));
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn a_long_search_beyond_the_limit_is_refused_and_other_reads_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mailslot.db");
    let mut inbox = Inbox::open(&path);
    let mut numbers = Numbers(7);
    let messages = (0..200).map(|_| inbox.message(&mut numbers, 100, 3)).collect();
    inbox.insert(messages);
    let found = |inbox: &Inbox, filter| i64::try_from(inbox.naive(filter).len()).unwrap();
    let mut filter = Filter { q: Some("the".to_owned()), ..Filter::default() };
    assert_eq!(inbox.total(&filter).unwrap(), found(&inbox, &filter));
    inbox.reader = Reader::open(&path, Layout::SMALL, &Searches::without_slots().into()).unwrap();
    let refused = inbox.total(&filter).unwrap_err();
    assert_eq!(refused, Error::Unavailable("too many long searches, try again later"));
    filter.q = None;
    assert_eq!(inbox.total(&filter).unwrap(), 200);
}

#[test]
fn an_erased_message_does_not_come_back_and_leaves_no_id_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut inbox = Inbox::open(&folder.path().join("mailslot.db"));
    let mut numbers = Numbers(17);
    let messages: Vec<Message> = (0..3_000).map(|_| inbox.message(&mut numbers, 40, 6)).collect();
    let again = messages.clone();
    inbox.insert(messages);
    inbox.index_all();
    let of = |from: &str| -> Vec<Message> {
        again.iter().filter(|message| message.from == from).cloned().collect()
    };
    let from_one = i64::try_from(of("+1").len()).unwrap();
    let mut seen = Vec::new();
    let selection = Selection::From("+1".to_owned());
    assert_eq!(inbox.erase(&selection, &mut |gone| seen.push(gone)), Ok(from_one));
    assert_eq!(seen.last(), Some(&from_one));
    let left = inbox.total(&Filter::default()).unwrap();
    assert_eq!(left, i64::try_from(again.len()).unwrap() - from_one);
    let outcomes = inbox.insert(of("+1"));
    assert!(outcomes.iter().all(is_duplicate), "acknowledged");
    let outcomes = inbox.insert(of("+2"));
    assert!(outcomes.iter().all(is_duplicate));
    assert_eq!(inbox.total(&Filter::default()).unwrap(), left, "and not stored");
    inbox.check_rank_index();
    assert_eq!(json!(inbox.reader.stats().unwrap()), inbox.naive_stats());
    let left_behind = "SELECT count(*) FROM rank_index WHERE message_id <> ''
         AND message_id NOT IN (SELECT message_id FROM messages)";
    let left_behind: i64 = inbox.external.query_row(left_behind, (), |row| row.get(0)).unwrap();
    assert_eq!(left_behind, 0, "no fence has the id of a message that is gone");
    let new = inbox.message(&mut numbers, 40, 1);
    assert_eq!(inbox.insert(vec![new]), created(1), "the sender may write again");
}

#[test]
fn an_interrupted_erasure_leaves_no_receiver_in_a_segment_and_is_known_until_it_is_finished() {
    let folder = tempfile::tempdir().unwrap();
    let mut inbox = Inbox::open(&folder.path().join("mailslot.db"));
    let mut numbers = Numbers(19);
    let messages: Vec<Message> = (0..4_100).map(|_| inbox.message(&mut numbers, 40, 6)).collect();
    inbox.insert(messages);
    inbox.index_all();
    assert_eq!(is_erasure_unfinished(&inbox.path), Ok(false));
    let one = "DELETE FROM messages WHERE id = 7; UPDATE totals SET erasing = 1";
    inbox.external.execute_batch(one).unwrap();
    let kept = "SELECT count(receivers), count(trigrams) FROM segments";
    let kept = || inbox.external.query_row(kept, (), |row| Ok((row.get(0)?, row.get(1)?)));
    assert_eq!(kept(), Ok((1, 1)), "of the two full blocks, the one without the message");
    assert_eq!(is_erasure_unfinished(&inbox.path), Ok(true));
    let selection = Selection::From("+0".to_owned());
    assert_eq!(inbox.erase(&selection, &mut |_| ()), Ok(0), "the file is rebuilt");
    assert_eq!(is_erasure_unfinished(&inbox.path), Ok(false));
}

#[test]
fn an_erasure_counts_nothing_that_another_program_has_just_inserted() {
    const COPY: &str = "INSERT INTO messages
             (message_id, from_msisdn, to_msisdn, ts, ts_s, ts_ns, text, created_at)
         SELECT ?1 || message_id, '+7', '+2', ts, ts_s, ts_ns, 'the', '' FROM messages LIMIT ?2";
    let folder = tempfile::tempdir().unwrap();
    let mut inbox = Inbox::open(&folder.path().join("mailslot.db"));
    let mut numbers = Numbers(23);
    let messages = (0..300).map(|_| inbox.message(&mut numbers, 5_000, 3)).collect();
    inbox.insert(messages);
    // Heavy, as soon as the rank_index take in what is new.
    inbox.external.execute(COPY, ("once ", 45)).unwrap();
    let message = inbox.message(&mut numbers, 5_000, 1);
    inbox.insert(vec![message]);
    inbox.external.execute(COPY, ("twice ", 200)).unwrap();
    inbox.erase(&Selection::From("+2".to_owned()), &mut |_| ()).unwrap();
    inbox.check_rank_index();
    let message = inbox.message(&mut numbers, 5_000, 1);
    assert_eq!(inbox.insert(vec![message]), created(1));
    inbox.check_rank_index();
    assert_eq!(json!(inbox.reader.stats().unwrap()), inbox.naive_stats());
    let tamper = "UPDATE rank_index SET n = n + 1 WHERE level = 2 AND ts_s < 0
         AND sender_id = (SELECT id FROM senders WHERE msisdn = '+7' AND is_heavy)";
    assert_eq!(inbox.external.execute(tamper, ()), Ok(1));
    assert_eq!(inbox.wrong_senders(), 1);
}

#[test]
fn counted_messages_cannot_be_moved_and_ids_are_not_given_twice() {
    let folder = tempfile::tempdir().unwrap();
    let mut inbox = Inbox::open(&folder.path().join("mailslot.db"));
    let mut numbers = Numbers(3);
    for sql in ["SELECT 1", "DELETE FROM messages WHERE id = (SELECT max(id) FROM messages)"] {
        inbox.external.execute_batch(sql).unwrap();
        let message = inbox.message(&mut numbers, 100, 1);
        inbox.insert(vec![message]);
    }
    let id: i64 =
        inbox.external.query_row("SELECT id FROM messages", (), |row| row.get(0)).unwrap();
    assert_eq!(id, 2);
    let columns = ["id", "rowid", "message_id", "from_msisdn", "ts", "ts_s", "ts_ns", "class_id"];
    for column in columns {
        let refused = inbox.external.execute(&format!("UPDATE messages SET {column} = 7"), ());
        assert!(refused.is_err_and(|error| error.to_string().contains("not moved")), "{column}");
    }
}

#[test]
fn blocks_that_begin_with_a_batch_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mailslot.db");
    let mut inbox = Inbox::open(&path);
    let mut numbers = Numbers(5);
    let filter = Filter { q: Some("e".to_owned()), ..Filter::default() };
    let naive = |inbox: &Inbox| i64::try_from(inbox.naive(&filter).len()).unwrap();
    for size in [1, 64] {
        for _ in 0..4_200 / size {
            let messages = (0..size).map(|_| inbox.message(&mut numbers, 9_000, 40)).collect();
            inbox.insert(messages);
        }
        assert_eq!(inbox.total(&filter).unwrap(), naive(&inbox));
        inbox.index_all();
        assert_eq!(inbox.total(&filter).unwrap(), naive(&inbox));
    }
    let blocks = "SELECT count(*) FROM segments";
    let blocks: i64 = inbox.external.query_row(blocks, (), |row| row.get(0)).unwrap();
    assert_eq!(blocks, 8_400 / BLOCK_MESSAGES + 1);
}

#[test]
fn what_another_program_inserts_is_counted_and_stops_nothing() {
    const INSERT: &str = "WITH RECURSIVE number (n) AS (
             SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?2
         )
         INSERT INTO messages
             (id, message_id, from_msisdn, to_msisdn, ts, ts_s, ts_ns, text, created_at)
         SELECT ?1, 'strange ' || coalesce(?1, ?2) || ' ' || n, '+7' || ?2, '+2',
             '2025-01-01T00:00:07Z', 1735689607, 0, 'the', ''
         FROM number";
    let folder = tempfile::tempdir().unwrap();
    let mut inbox = Inbox::open(&folder.path().join("mailslot.db"));
    let mut numbers = Numbers(5);
    let filter = Filter { q: Some("the".to_owned()), ..Filter::default() };
    let messages = (0..100).map(|_| inbox.message(&mut numbers, 100, 3)).collect();
    inbox.insert(messages);
    let mut counted = i64::try_from(inbox.naive(&filter).len()).unwrap();
    for count in [1, 3_000] {
        inbox.external.execute(INSERT, params![None::<i64>, count]).unwrap();
        assert_eq!(inbox.total(&filter).unwrap(), counted, "not counted yet");
        let message = inbox.message(&mut numbers, 100, 3);
        let has_it = inbox.folded[&message.message_id].contains("the");
        assert_eq!(inbox.insert(vec![message]), created(1));
        counted += count + i64::from(has_it);
        assert_eq!(inbox.total(&filter).unwrap(), counted);
        inbox.check_rank_index();
        assert_eq!(json!(inbox.reader.stats().unwrap()), inbox.naive_stats());
    }
    let heavy = "SELECT is_heavy FROM senders WHERE msisdn = '+73000'";
    assert_eq!(inbox.external.query_row(heavy, (), |row| row.get(0)), Ok(1), "at once");
    inbox.index_all();
    assert!(inbox.total(&filter).unwrap() >= 3_001);
    // An id far away from all otfrom_one is not counted, and harmless when it goes.
    inbox.external.execute(INSERT, params![1_000_000_000_000_i64, 1]).unwrap();
    inbox.external.execute_batch("DELETE FROM messages WHERE id = 1000000000000").unwrap();
    let message = inbox.message(&mut numbers, 100, 3);
    assert_eq!(inbox.insert(vec![message]), created(1));
    assert_eq!(json!(inbox.reader.stats().unwrap()), inbox.naive_stats());
    inbox.check_rank_index();
    // A row that mailslot would not write stops nothing either, nor a REPLACE, for which no trigger
    // runs.
    let bytes = "CAST(unhex(printf('%x%x', 248 + n / 8, 248 + n % 8)) AS TEXT)";
    let bytes = INSERT.replace("'strange ' || coalesce(?1, ?2) || ' ' || n", bytes);
    let late = INSERT.replace("1735689607, 0,", "1735689607, 5000000000,");
    let replace = "REPLACE INTO messages
             (message_id, from_msisdn, to_msisdn, ts, ts_s, ts_ns, text, created_at)
         SELECT message_id, from_msisdn, to_msisdn, ts, ts_s, ts_ns, text, created_at
         FROM messages";
    for (sql, count) in [(&*bytes, Some(63)), (&*late, Some(62)), (replace, None)] {
        match count {
            Some(count) => inbox.external.execute(sql, params![None::<i64>, count]).unwrap(),
            None => inbox.external.execute(sql, ()).unwrap(),
        };
        let before = inbox.total(&Filter::default()).unwrap();
        for _ in 0..3 {
            let messages = (0..100).map(|_| inbox.message(&mut numbers, 100, 3)).collect();
            assert_eq!(inbox.insert(messages), created(100), "{sql}");
            assert_eq!(inbox.reader.list(&Filter::default(), &FIRST).unwrap().messages.len(), 5);
        }
        if let Some(count) = count {
            assert_eq!(inbox.total(&Filter::default()).unwrap(), before + count + 300);
        }
    }
}

/// Every answer, before and after other programs insert rows with ids that mailslot does not give,
/// each of them with a text and a `ts` among those of the messages.
#[test]
fn rows_of_other_programs_with_ids_out_of_range_change_no_answer() {
    const INSERT: &str = "INSERT INTO messages
             (id, message_id, from_msisdn, to_msisdn, ts, ts_s, ts_ns, text, created_at)
         VALUES (?1, 'outside ' || ?1, '+1', '+1', '2025-01-01T00:00:07Z', 1735689607, 0,
             'the', '')";
    let ids = [i64::MIN, -10_000_000_000_000, -5, 0, 1_000_000_000_000_000, i64::MAX];
    for count in [30, 3 * BLOCK_MESSAGES] {
        let folder = tempfile::tempdir().unwrap();
        let mut inbox = Inbox::open(&folder.path().join("mailslot.db"));
        let mut numbers = Numbers(23);
        let messages = (0..count).map(|_| inbox.message(&mut numbers, 100, 3)).collect();
        inbox.insert(messages);
        let mut filters: Vec<Filter> =
            (0..10).map(|_| inbox.filter(&mut numbers, 100, 3)).collect();
        let the = Some("the".to_owned());
        filters.extend([Filter::default(), Filter { q: the, ..Filter::default() }]);
        let before = inbox.snapshot(&filters);
        for id in ids {
            inbox.external.execute(INSERT, [id]).unwrap();
        }
        assert_eq!(inbox.snapshot(&filters), before);
        inbox.index_all();
        assert_eq!(inbox.snapshot(&filters), before);
        let recount = recount(&inbox.path).unwrap();
        assert!(recount.counts.iter().all(|count| count.counted == count.kept), "{recount:?}");
        assert_eq!(recount.wrong_senders, 0);
    }
}

impl Inbox {
    /// Pages, exports, the feed and the statistics, with no cached result of an earlier search.
    fn snapshot(&mut self, filters: &[Filter]) -> Vec<String> {
        self.reader = Store::open_with(&self.path, 2, self.layout).unwrap().0.reader().unwrap();
        let mut seen = vec![
            json!(self.reader.stats().unwrap()).to_string(),
            json!(self.reader.committed(0, 10_000).unwrap()).to_string(),
            self.reader.cursor_before_last(10_000).unwrap().to_string(),
        ];
        let position = Position::at(Timestamp::from(1_735_689_608));
        for filter in filters {
            for start in [Start::Offset(0), Start::Offset(80), Start::After(position.clone())] {
                let paging = Paging { start, limit: 100, ..FIRST };
                seen.push(format!("{:?}", self.reader.list(filter, &paging).unwrap()));
            }
            let mut export = self.store.reader().unwrap().export(filter.clone(), false).unwrap();
            while let Some(portion) = export.next().unwrap() {
                seen.extend(portion.iter().map(|received| received.message.message_id.clone()));
            }
        }
        seen
    }
}

const FIRST: Paging = Paging { limit: 5, start: Start::Offset(0), order: Order::Ascending };

#[test]
fn what_expires_as_it_is_stored_is_not_counted() {
    let folder = tempfile::tempdir().unwrap();
    let mut inbox = Inbox::open(&folder.path().join("mailslot.db"));
    let mut numbers = Numbers(19);
    let old = Job::Messages(vec![delivered(inbox.message(&mut numbers, 100, 3))]);
    let otfrom_one =
        (0..60).map(|_| Job::Messages(vec![delivered(inbox.message(&mut numbers, 100, 3))]));
    let mut batch: Vec<Job> = otfrom_one.collect();
    batch.extend([old, Job::Expire(Timestamp::from(2_000_000_000))]);
    let outcomes = inbox.writer.commit(batch.iter());
    assert_eq!(outcomes.last(), Some(&Ok(vec![])));
    assert_eq!(json!(inbox.reader.stats().unwrap()), inbox.naive_stats());
    inbox.check_rank_index();
    inbox.writer.commit(batch[61..].iter());
    assert_eq!(json!(inbox.reader.stats().unwrap()), inbox.naive_stats());
    inbox.check_rank_index();
}

#[test]
fn the_messages_of_one_job_are_stored_all_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let mut inbox = Inbox::open(&folder.path().join("mailslot.db"));
    let mut numbers = Numbers(29);
    let mut messages = |count: usize| -> Vec<Delivered> {
        (0..count).map(|_| delivered(inbox.message(&mut numbers, 100, 3))).collect()
    };
    let (before, refused, after) = (messages(1), messages(4), messages(3));
    let trigger = format!(
        "CREATE TRIGGER refuse BEFORE INSERT ON messages WHEN new.message_id = '{}'
         BEGIN SELECT RAISE(ABORT, 'refused by a test'); END",
        refused[2].message.message_id
    );
    inbox.external.execute_batch(&trigger).unwrap();
    let again = vec![after[0].clone(), before[0].clone()];
    let jobs = [before, refused, after, again].map(Job::Messages);
    let outcomes = inbox.writer.commit(jobs.iter());
    let (created, duplicate) = (Stored::Created, Stored::Duplicate);
    assert_eq!(
        outcomes,
        [Ok(vec![created]), Err(Error::Internal), Ok(vec![created; 3]), Ok(vec![duplicate; 2]),]
    );
    assert_eq!(json!(inbox.reader.stats().unwrap()), inbox.naive_stats());
    assert_eq!(inbox.total(&Filter::default()), Ok(4));
    inbox.check_rank_index();
}

/// More messages than a fence of the second level holds, of a sender with fences of its own, and
/// more blocks than one.
#[test]
fn with_the_sizes_that_are_shipped_every_answer_is_that_of_plain_sql() {
    const MESSAGES: i64 = 70_000;
    let folder = tempfile::tempdir().unwrap();
    let mut inbox = Inbox::open_with(&folder.path().join("mailslot.db"), Layout::SHIPPED);
    let mut numbers = Numbers(31);
    let (seconds, senders) = (2_000_000, 9);
    for _ in 0..MESSAGES / 1_000 {
        let messages = (0..1_000).map(|_| inbox.message(&mut numbers, seconds, senders)).collect();
        assert_eq!(inbox.insert(messages), created(1_000));
    }
    inbox.index_all();
    let levels = "SELECT min(n) FROM (SELECT count(*) AS n FROM rank_index
                  WHERE sender_id IN (SELECT 0 UNION SELECT id FROM senders WHERE n > 70000 / 2)
                  GROUP BY sender_id, level)";
    let fences: i64 = inbox.external.query_row(levels, (), |row| row.get(0)).unwrap();
    assert!(fences >= 2, "two levels, and a second fence on each: {fences}");
    for round in 0..2 {
        for _ in 0..40 {
            inbox.ask(&mut numbers, seconds, senders);
        }
        assert_eq!(json!(inbox.reader.stats().unwrap()), inbox.naive_stats());
        inbox.check_rank_index();
        if round == 0 {
            inbox.writer.index_by_class();
            assert_eq!(inbox.classes_with_fences(), 1, "that of /webhook has many messages");
            let delete = "DELETE FROM messages WHERE id % 7 = 3";
            inbox.external.execute_batch(delete).unwrap();
            let messages = (0..300).map(|_| inbox.message(&mut numbers, seconds, senders));
            let messages = messages.collect();
            inbox.insert(messages);
        }
    }
}

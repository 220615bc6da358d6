//! Whatever is stored, deleted, packed, asked: the answer is that of plain SQL over the messages.

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

use super::{erase::What, *};
use crate::message::fold_case;
use crate::{error::Error, message::Message, timestamp::Timestamp};

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
    "hello", "Order", "the", "THE", "a", "%", "_", "\\", "''", "\"", "\0", "École", "ÉCOLE", "straße", "STRASSE", "Σίσυφος",
    "नमस्ते", "🙂", "🙃", "ı", "I", "İ", "48213", "482 13", "ﬀ", "\u{301}", "日本語", "x\ny", "the\u{0}the", "\u{fffd}",
];
#[rustfmt::skip]
const SEARCHES: &[&str] = &[
    "hello", "ORDER", "the", "h", "e", " ", "%", "_", "\\", "'", "\0", "école", "strasse", "σίσυφοσ", "स्ते", "🙂", "ı", "i",
    "482", "48213", "213 the", "ff", "語", "absent", "the the", "\u{fffd}", "lo or", "llo order", "e\0t", "oth", "zzz",
];
const RECEIVERS: i64 = 6;
const FRACTIONS: &[&str] = &["", "", "", ".5", ".50", ".000000001", ".999999999", ".09", ".1"];

/// One inbox, its writer and its readers, and every statement that they ran.
struct Store {
    writer: Writer,
    reader: Reader,
    packer: Packer,
    /// A stranger, as `sqlite3` is one.
    stranger: Connection,
    /// Of every message that ever was, the text, case-folded.
    folded: HashMap<String, String>,
    path: PathBuf,
}

static STATEMENTS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn note(event: TraceEvent<'_>) {
    if let TraceEvent::Stmt(statement, _) = event {
        STATEMENTS.lock().unwrap().insert(statement.sql().into_owned());
    }
}

impl Store {
    fn open(path: &Path) -> Store {
        let mut writer = Writer::open(path).unwrap();
        let mut reader = Reader::open(path, &Searches::open(path, 2).unwrap()).unwrap();
        let mut packer = Packer::open(path).unwrap();
        for connection in [&mut writer.connection, &mut reader.connection, &mut packer.0] {
            connection.trace_v2(TraceEventCodes::SQLITE_TRACE_STMT, Some(note)).unwrap();
        }
        let stranger = Connection::open(path).unwrap();
        Store { writer, reader, packer, stranger, folded: HashMap::new(), path: path.to_owned() }
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
        let entries: Vec<Entry> = messages.into_iter().map(Entry::Message).collect();
        self.writer.commit(entries.iter())
    }

    /// Deletes, as an operator would; rewords; or packs.
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
                let mut reworded = self.stranger.prepare(reworded).unwrap();
                for id in reworded.query_map([number % 97], |row| row.get(0)).unwrap() {
                    self.folded.insert(id.unwrap(), "reworded the".to_owned());
                }
                return;
            }
            5 => {
                let what = if number % 2 == 0 {
                    What::From(format!("+{}", 1 + numbers.skewed(senders)))
                } else {
                    let oldest = self.reader.oldest().unwrap();
                    What::Before(Timestamp::from(oldest.map_or(0, |ts| ts.seconds + number % 40)))
                };
                let count = erase::count(&self.path, &what).unwrap();
                assert_eq!(erase::erase(&self.path, &what, &mut |_| {}), Ok(count));
                return;
            }
            6 => {
                let oldest = self.reader.oldest().unwrap().map_or(0, |ts| ts.seconds);
                let expire = Entry::Expire(Timestamp::from(oldest + number % 40));
                assert_eq!(self.writer.commit([expire].iter()), [Ok(Stored::Done)]);
                return;
            }
            _ => return self.pack_all(),
        };
        self.stranger.execute_batch(&sql).unwrap();
    }

    fn pack_all(&mut self) {
        while let Some(pack) = self.packer.next().unwrap() {
            assert_eq!(self.writer.commit([Entry::Pack(pack)].iter()), [Ok(Stored::Done)]);
        }
    }

    /// What plain SQL says: the ids of all that match, in order.
    fn naive(&self, filter: &Filter) -> Vec<String> {
        let mut statement = self
            .stranger
            .prepare_cached(
                "SELECT message_id FROM messages
                 WHERE (?1 IS NULL OR from_msisdn = ?1) AND (?2 IS NULL OR to_msisdn = ?2)
                     AND (?3 IS NULL OR ts_s > ?3 OR ts_s = ?3 AND ts_ns >= ?4)
                     AND (?5 IS NULL OR ts_s < ?5 OR ts_s = ?5 AND ts_ns < ?6)
                 ORDER BY ts_s, ts_ns, message_id",
            )
            .unwrap();
        let Filter { from, to, since, until, q } = filter;
        let (seconds, nanoseconds) = (|i: Timestamp| i.seconds, |i: Timestamp| i.nanoseconds);
        let bounds = params![
            from,
            to,
            since.map(seconds),
            since.map(nanoseconds),
            until.map(seconds),
            until.map(nanoseconds)
        ];
        let rows = statement.query_map(bounds, |row| row.get(0)).unwrap();
        let matches = |id: &String| q.as_ref().is_none_or(|q| self.folded[id].contains(q));
        rows.map(Result::unwrap).filter(matches).collect()
    }

    fn naive_stats(&self) -> Value {
        let text = |sql: &str| -> Value {
            let text: Option<String> = self.stranger.query_row(sql, (), |row| row.get(0)).unwrap();
            json!(text)
        };
        let number =
            |sql: &str| -> i64 { self.stranger.query_row(sql, (), |row| row.get(0)).unwrap() };
        let mut top = self
            .stranger
            .prepare(
                "SELECT from_msisdn, count(*) AS n FROM messages GROUP BY 1 ORDER BY n DESC, 1 LIMIT 10",
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
            "first_message_ts": text("SELECT (SELECT ts FROM messages ORDER BY ts_s, ts_ns, message_id LIMIT 1)"),
            "last_message_ts": text("SELECT (SELECT ts FROM messages ORDER BY ts_s DESC, ts_ns DESC, message_id DESC LIMIT 1)"),
        })
    }

    fn filter(&mut self, numbers: &mut Numbers, seconds: i64, senders: i64) -> Filter {
        let sometimes = |numbers: &mut Numbers, of: i64| numbers.below(of) == 0;
        let mut filter = Filter {
            from: sometimes(numbers, 2).then(|| format!("+{}", 1 + numbers.skewed(senders + 2))),
            to: sometimes(numbers, 3).then(|| format!("+{}", 1 + numbers.skewed(RECEIVERS + 2))),
            since: sometimes(numbers, 2).then(|| self.message(numbers, seconds, 1).timestamp),
            until: sometimes(numbers, 3).then(|| self.message(numbers, seconds, 1).timestamp),
            q: sometimes(numbers, 2).then(|| fold_case(numbers.pick(SEARCHES))),
        };
        // Often the same, as whoever pages asks.
        match numbers.below(5) {
            0 => filter = Filter { q: Some("the".to_owned()), ..Filter::default() },
            1 => filter = Filter { to: Some("+1".to_owned()), ..Filter::default() },
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
        let mut offset_told = offset.min(total);
        let start =
            match (numbers.below(3), usize::try_from(offset).ok().and_then(|at| ids.get(at))) {
                (1, Some(id)) => {
                    offset_told += 1;
                    expected = expected.split_off(usize::try_from(offset).unwrap() + 1);
                    Start::After(self.place(id))
                }
                (2, Some(id)) => {
                    expected.truncate(usize::try_from(offset).unwrap());
                    offset_told = (offset - limit).max(0);
                    expected = expected.split_off(usize::try_from(offset_told).unwrap());
                    Start::Before(self.place(id))
                }
                _ => {
                    expected = expected.split_off(usize::try_from(offset_told).unwrap());
                    Start::Offset(offset)
                }
            };
        expected.truncate(usize::try_from(limit).unwrap());
        let paging = Paging { limit, start, order };
        let listing = self.reader.list(&filter, &paging).unwrap();
        let found: Vec<_> =
            listing.messages.into_iter().map(|message| message.message_id).collect();
        let found = (found, listing.total, listing.offset);
        assert_eq!(found, (expected, total, offset_told), "{filter:?} {paging:?}");
    }

    /// Where a message stands in the order.
    fn place(&self, message_id: &str) -> Place {
        let sql = "SELECT ts_s, ts_ns, message_id FROM messages WHERE message_id = ?1";
        self.stranger.query_row(sql, [message_id], Place::read).unwrap()
    }

    /// How many there are, by a page of one.
    fn total(&mut self, filter: &Filter) -> Result<i64, Error> {
        let paging = Paging { limit: 1, start: Start::Offset(0), order: Order::Ascending };
        self.reader.list(filter, &paging).map(|listing| listing.total)
    }

    /// An export is all that matches; the feed is all that there is, in the order of the ids; and the
    /// series between some moments add up.
    fn read_whole(&mut self, numbers: &mut Numbers, seconds: i64, senders: i64) {
        let filter = self.filter(numbers, seconds, senders);
        let mut export = Export::begin(&self.reader, filter.clone()).unwrap();
        let mut ids = Vec::new();
        while let Some(portion) = export.next(&mut self.reader).unwrap() {
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
        let mut statement = self
            .stranger
            .prepare("SELECT max(first_cursor - first_id) + id FROM messages, epochs WHERE first_id <= id GROUP BY id ORDER BY id")
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
        let counts = self.reader.series(&bounds).unwrap();
        for (bounds, count) in bounds.windows(2).zip(counts) {
            let filter =
                Filter { since: Some(bounds[0]), until: Some(bounds[1]), ..Filter::default() };
            assert_eq!(usize::try_from(count).unwrap(), self.naive(&filter).len());
        }
    }

    /// Every milestone holds what lies behind it, and no more than it may.
    fn check_milestones(&self) {
        let wrong: Vec<String> = self
            .stranger
            .prepare(
                "WITH place AS (
                     SELECT *, lead(ts_s, 1, 1e18) OVER line AS next_s, lead(ts_ns) OVER line AS next_ns,
                         lead(message_id) OVER line AS next_id
                     FROM milestones
                     WINDOW line AS (PARTITION BY sender_id, level ORDER BY ts_s, ts_ns, message_id)
                 )
                 SELECT sender_id || ' ' || level || ' ' || ts_s || ' ' || message_id || ' ' || n
                 FROM place
                 WHERE n > iif(level = 1, ?1, ?2)
                     OR n <> (
                         SELECT count(*) FROM messages
                         WHERE id <= (SELECT counted_id FROM totals) AND (sender_id = 0 OR from_msisdn = (SELECT msisdn FROM senders WHERE id = sender_id))
                             AND (messages.ts_s, messages.ts_ns, messages.message_id)
                                 >= (place.ts_s, place.ts_ns, place.message_id)
                             AND (next_s = 1e18 OR (messages.ts_s, messages.ts_ns, messages.message_id)
                                 < (next_s, next_ns, next_id)))
                     OR level = 2 AND NOT EXISTS (
                         SELECT 1 FROM milestones AS lower
                         WHERE lower.sender_id = place.sender_id AND lower.level = 1
                             AND (lower.ts_s, lower.ts_ns, lower.message_id)
                                 = (place.ts_s, place.ts_ns, place.message_id))",
            )
            .unwrap()
            .query_map(counts::SPANS, |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(wrong, [""; 0]);
        assert_eq!(self.wrong_senders(), 0);
    }

    /// As `mailslot check` finds them.
    fn wrong_senders(&self) -> i64 {
        check::recount(&self.path).unwrap().wrong_senders
    }
}

#[test]
fn every_answer_is_that_of_plain_sql_whatever_came_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mailslot.db");
    let mut numbers = Numbers(0x5eed);
    let mut store = Store::open(&path);
    // At first few seconds, so that many messages share one.
    for (rounds, seconds, senders) in [(30, 20, 3), (40, 5_000, 40), (40, 30_000_000, 300)] {
        for _ in 0..rounds {
            let mut messages = Vec::new();
            for _ in 0..=numbers.below(200) {
                let message = store.message(&mut numbers, seconds, senders);
                let twice = numbers.below(10) == 0;
                messages.extend(twice.then(|| message.clone()));
                messages.push(message);
            }
            let again = messages.clone();
            store.insert(messages);
            let outcomes = store.insert(again);
            assert!(outcomes.iter().all(|outcome| *outcome == Ok(Stored::Duplicate)));
            store.disturb(&mut numbers, senders);
            for _ in 0..30 {
                store.ask(&mut numbers, seconds, senders);
            }
            assert_eq!(json!(store.reader.stats().unwrap()), store.naive_stats());
            store.read_whole(&mut numbers, seconds, senders);
        }
        store.check_milestones();
    }
    no_statement_sorts(&store.stranger);
    store.stranger.execute("DELETE FROM messages", ()).unwrap();
    assert_eq!(json!(store.reader.stats().unwrap()), store.naive_stats());
    store.check_milestones();
}

/// Looks at the plan of every statement that this test has run.
fn no_statement_sorts(connection: &Connection) {
    let statements = std::mem::take(&mut *STATEMENTS.lock().unwrap());
    assert!(statements.len() > 30, "{statements:?}");
    // Walks that are short, or the whole point.
    let walked = [
        "SCAN CONSTANT ROW",
        "SCAN packs",
        "SCAN totals",
        "SCAN milestones USING INDEX milestones_empty",
        "SCAN lower USING INDEX milestones_empty",
        "SCAN senders USING COVERING INDEX senders_by_n",
    ];
    let mut wrong = Vec::new();
    for sql in statements.iter().filter(|sql| !sql.starts_with("PRAGMA")) {
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
fn a_long_search_without_a_place_is_refused_and_other_reads_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mailslot.db");
    let mut store = Store::open(&path);
    let mut numbers = Numbers(7);
    let messages = (0..200).map(|_| store.message(&mut numbers, 100, 3)).collect();
    store.insert(messages);
    let found = |store: &Store, filter| i64::try_from(store.naive(filter).len()).unwrap();
    let mut filter = Filter { q: Some("the".to_owned()), ..Filter::default() };
    assert_eq!(store.total(&filter).unwrap(), found(&store, &filter));
    store.reader = Reader::open(&path, &Searches::nowhere()).unwrap();
    let refused = store.total(&filter).unwrap_err();
    assert_eq!(refused, Error::Unavailable("too many long searches, try again later"));
    filter.q = None;
    assert_eq!(store.total(&filter).unwrap(), 200);
}

#[test]
fn a_database_of_version_one_is_counted_when_it_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mailslot.db");
    let mut numbers = Numbers(11);
    let mut store = Store::open(&folder.path().join("other.db"));
    {
        let old = Connection::open(&path).unwrap();
        old.execute_batch(schema::MIGRATIONS[0]).unwrap();
        old.execute_batch("PRAGMA user_version = 1; BEGIN").unwrap();
        for _ in 0..5_000 {
            let Message { message_id, from, to, ts, text, timestamp } =
                store.message(&mut numbers, 1_000_000, 30);
            old.execute(
                "INSERT INTO messages
                     (message_id, from_msisdn, to_msisdn, ts, ts_s, ts_ns, text, created_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'then')",
                params![message_id, from, to, ts, timestamp.seconds, timestamp.nanoseconds, text],
            )
            .unwrap();
        }
        old.execute_batch("COMMIT").unwrap();
    }
    let texts = std::mem::take(&mut store.folded);
    let mut store = Store { folded: texts, ..Store::open(&path) };
    for round in 0..2 {
        store.check_milestones();
        assert_eq!(json!(store.reader.stats().unwrap()), store.naive_stats());
        for _ in 0..100 {
            store.ask(&mut numbers, 1_000_000, 30);
        }
        if round == 0 {
            store.pack_all();
            let message = store.message(&mut numbers, 1_000_000, 30);
            assert_eq!(store.insert(vec![message]), [Ok(Stored::Created)]);
        }
    }
    let last: i64 =
        store.stranger.query_row("SELECT max(id) FROM messages", (), |row| row.get(0)).unwrap();
    assert_eq!(last, 5_001, "ids go on where they were");
}

#[test]
fn a_database_of_version_two_is_packed_anew_with_its_receivers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mailslot.db");
    let mut numbers = Numbers(13);
    let mut store = Store::open(&path);
    for _ in 0..10 {
        let messages = (0..500).map(|_| store.message(&mut numbers, 1_000_000, 30)).collect();
        store.insert(messages);
    }
    store.pack_all();
    let old = "DROP TABLE epochs; ALTER TABLE totals DROP COLUMN erasing;
               DROP TRIGGER messages_deleted; DROP TRIGGER messages_reworded;
               CREATE TRIGGER messages_deleted AFTER DELETE ON messages BEGIN SELECT 1; END;
               CREATE TRIGGER messages_reworded AFTER UPDATE ON messages BEGIN SELECT 1; END;
               ALTER TABLE packs DROP COLUMN receivers; ALTER TABLE totals DROP COLUMN erased;
               ALTER TABLE totals DROP COLUMN erasing_key; DROP TABLE erased; DROP TRIGGER milestones_deleted;
               ALTER TABLE totals DROP COLUMN counted_id; PRAGMA user_version = 2;";
    store.stranger.execute_batch(old).unwrap();
    let texts = std::mem::take(&mut store.folded);
    drop(store);
    let mut store = Store { folded: texts, ..Store::open(&path) };
    for _ in 0..2 {
        for _ in 0..100 {
            store.ask(&mut numbers, 1_000_000, 30);
        }
        store.pack_all();
    }
    let packed = "SELECT count(receivers) FROM packs";
    assert_eq!(store.stranger.query_row(packed, (), |row| row.get(0)), Ok(2));
}

#[test]
fn who_was_erased_does_not_come_back_and_leaves_no_id_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(&folder.path().join("mailslot.db"));
    let mut numbers = Numbers(17);
    let messages: Vec<Message> = (0..3_000).map(|_| store.message(&mut numbers, 40, 6)).collect();
    let again = messages.clone();
    store.insert(messages);
    store.pack_all();
    let of = |from: &str| -> Vec<Message> {
        again.iter().filter(|message| message.from == from).cloned().collect()
    };
    let hers = i64::try_from(of("+1").len()).unwrap();
    let mut seen = Vec::new();
    let what = What::From("+1".to_owned());
    assert_eq!(erase::erase(&store.path, &what, &mut |gone| seen.push(gone)), Ok(hers));
    assert_eq!(seen.last(), Some(&hers));
    let left = store.total(&Filter::default()).unwrap();
    assert_eq!(left, i64::try_from(again.len()).unwrap() - hers);
    let outcomes = store.insert(of("+1"));
    assert!(outcomes.iter().all(|outcome| *outcome == Ok(Stored::Duplicate)), "acknowledged");
    let outcomes = store.insert(of("+2"));
    assert!(outcomes.iter().all(|outcome| *outcome == Ok(Stored::Duplicate)));
    assert_eq!(store.total(&Filter::default()).unwrap(), left, "and not stored");
    store.check_milestones();
    assert_eq!(json!(store.reader.stats().unwrap()), store.naive_stats());
    let strange = "SELECT count(*) FROM milestones WHERE message_id <> ''
         AND message_id NOT IN (SELECT message_id FROM messages)";
    let strange: i64 = store.stranger.query_row(strange, (), |row| row.get(0)).unwrap();
    assert_eq!(strange, 0, "no milestone has the id of one who is gone");
    let new = store.message(&mut numbers, 40, 1);
    assert_eq!(store.insert(vec![new]), [Ok(Stored::Created)], "the sender may write again");
}

#[test]
fn an_erasure_that_is_interrupted_leaves_no_receiver_in_a_pack_and_is_known_until_it_is_finished() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(&folder.path().join("mailslot.db"));
    let mut numbers = Numbers(19);
    let messages: Vec<Message> = (0..4_100).map(|_| store.message(&mut numbers, 40, 6)).collect();
    store.insert(messages);
    store.pack_all();
    assert_eq!(erase::is_unfinished(&store.path), Ok(false));
    let one = "DELETE FROM messages WHERE id = 7; UPDATE totals SET erasing = 1";
    store.stranger.execute_batch(one).unwrap();
    let kept = "SELECT count(receivers), count(trigrams) FROM packs";
    let kept = || store.stranger.query_row(kept, (), |row| Ok((row.get(0)?, row.get(1)?)));
    assert_eq!(kept(), Ok((1, 1)), "of the two full blocks, the one without the message");
    assert_eq!(erase::is_unfinished(&store.path), Ok(true));
    let what = What::From("+0".to_owned());
    assert_eq!(erase::erase(&store.path, &what, &mut |_| ()), Ok(0), "the file is rebuilt");
    assert_eq!(erase::is_unfinished(&store.path), Ok(false));
}

#[test]
fn an_erasure_counts_nothing_that_a_stranger_has_just_inserted() {
    const COPY: &str = "INSERT INTO messages
             (message_id, from_msisdn, to_msisdn, ts, ts_s, ts_ns, text, created_at)
         SELECT ?1 || message_id, '+7', '+2', ts, ts_s, ts_ns, 'the', '' FROM messages LIMIT ?2";
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(&folder.path().join("mailslot.db"));
    let mut numbers = Numbers(23);
    let messages = (0..300).map(|_| store.message(&mut numbers, 5_000, 3)).collect();
    store.insert(messages);
    // Heavy, as soon as the milestones take in what is new.
    store.stranger.execute(COPY, ("once ", 45)).unwrap();
    let message = store.message(&mut numbers, 5_000, 1);
    store.insert(vec![message]);
    store.stranger.execute(COPY, ("twice ", 200)).unwrap();
    erase::erase(&store.path, &What::From("+2".to_owned()), &mut |_| ()).unwrap();
    store.check_milestones();
    let message = store.message(&mut numbers, 5_000, 1);
    assert_eq!(store.insert(vec![message]), [Ok(Stored::Created)]);
    store.check_milestones();
    assert_eq!(json!(store.reader.stats().unwrap()), store.naive_stats());
    let tamper = "UPDATE milestones SET n = n + 1 WHERE level = 2 AND ts_s < 0
         AND sender_id = (SELECT id FROM senders WHERE msisdn = '+7' AND is_heavy)";
    assert_eq!(store.stranger.execute(tamper, ()), Ok(1));
    assert_eq!(store.wrong_senders(), 1);
}

#[test]
fn counted_messages_cannot_be_moved_and_ids_are_not_given_twice() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(&folder.path().join("mailslot.db"));
    let mut numbers = Numbers(3);
    for sql in ["SELECT 1", "DELETE FROM messages WHERE id = (SELECT max(id) FROM messages)"] {
        store.stranger.execute_batch(sql).unwrap();
        let message = store.message(&mut numbers, 100, 1);
        store.insert(vec![message]);
    }
    let id: i64 =
        store.stranger.query_row("SELECT id FROM messages", (), |row| row.get(0)).unwrap();
    assert_eq!(id, 2);
    for column in ["id", "rowid", "message_id", "from_msisdn", "ts", "ts_s", "ts_ns"] {
        let refused = store.stranger.execute(&format!("UPDATE messages SET {column} = 7"), ());
        assert!(refused.is_err_and(|error| error.to_string().contains("not moved")), "{column}");
    }
}

#[test]
fn blocks_that_begin_with_a_batch_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mailslot.db");
    let mut store = Store::open(&path);
    let mut numbers = Numbers(5);
    let filter = Filter { q: Some("e".to_owned()), ..Filter::default() };
    let naive = |store: &Store| i64::try_from(store.naive(&filter).len()).unwrap();
    for size in [1, 64] {
        for _ in 0..4_200 / size {
            let messages = (0..size).map(|_| store.message(&mut numbers, 9_000, 40)).collect();
            store.insert(messages);
        }
        assert_eq!(store.total(&filter).unwrap(), naive(&store));
        store.pack_all();
        assert_eq!(store.total(&filter).unwrap(), naive(&store));
    }
    let blocks = "SELECT count(*) FROM packs";
    let blocks: i64 = store.stranger.query_row(blocks, (), |row| row.get(0)).unwrap();
    assert_eq!(blocks, 8_400 / packs::BLOCK_MESSAGES + 1);
}

#[test]
fn what_a_stranger_inserts_is_counted_and_stops_nothing() {
    const INSERT: &str = "WITH RECURSIVE number (n) AS (
             SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?2
         )
         INSERT INTO messages
             (id, message_id, from_msisdn, to_msisdn, ts, ts_s, ts_ns, text, created_at)
         SELECT ?1, 'strange ' || coalesce(?1, ?2) || ' ' || n, '+7' || ?2, '+2', '2025-01-01T00:00:07Z',
             1735689607, 0, 'the', ''
         FROM number";
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(&folder.path().join("mailslot.db"));
    let mut numbers = Numbers(5);
    let filter = Filter { q: Some("the".to_owned()), ..Filter::default() };
    let messages = (0..100).map(|_| store.message(&mut numbers, 100, 3)).collect();
    store.insert(messages);
    let mut counted = i64::try_from(store.naive(&filter).len()).unwrap();
    for count in [1, 3_000] {
        store.stranger.execute(INSERT, params![None::<i64>, count]).unwrap();
        assert_eq!(store.total(&filter).unwrap(), counted, "not counted yet");
        let message = store.message(&mut numbers, 100, 3);
        let has_it = store.folded[&message.message_id].contains("the");
        assert_eq!(store.insert(vec![message]), [Ok(Stored::Created)]);
        counted += count + i64::from(has_it);
        assert_eq!(store.total(&filter).unwrap(), counted);
        store.check_milestones();
        assert_eq!(json!(store.reader.stats().unwrap()), store.naive_stats());
    }
    let heavy = "SELECT is_heavy FROM senders WHERE msisdn = '+73000'";
    assert_eq!(store.stranger.query_row(heavy, (), |row| row.get(0)), Ok(1), "at once");
    store.pack_all();
    assert!(store.total(&filter).unwrap() >= 3_001);
    // Far away from all others: nobody's business, and harmless when it goes.
    store.stranger.execute(INSERT, params![1_000_000_000_000_i64, 1]).unwrap();
    store.stranger.execute_batch("DELETE FROM messages WHERE id = 1000000000000").unwrap();
    let message = store.message(&mut numbers, 100, 3);
    assert_eq!(store.insert(vec![message]), [Ok(Stored::Created)]);
    assert_eq!(json!(store.reader.stats().unwrap()), store.naive_stats());
    store.check_milestones();
    // What mailslot would not write stops nothing either, nor what no trigger hears of.
    let bytes = "CAST(unhex(printf('%x%x', 248 + n / 8, 248 + n % 8)) AS TEXT)";
    let bytes = INSERT.replace("'strange ' || coalesce(?1, ?2) || ' ' || n", bytes);
    let late = INSERT.replace("1735689607, 0,", "1735689607, 5000000000,");
    let replace = "REPLACE INTO messages
             (message_id, from_msisdn, to_msisdn, ts, ts_s, ts_ns, text, created_at)
         SELECT message_id, from_msisdn, to_msisdn, ts, ts_s, ts_ns, text, created_at FROM messages";
    for (sql, count) in [(&*bytes, Some(63)), (&*late, Some(62)), (replace, None)] {
        match count {
            Some(count) => store.stranger.execute(sql, params![None::<i64>, count]).unwrap(),
            None => store.stranger.execute(sql, ()).unwrap(),
        };
        let before = store.total(&Filter::default()).unwrap();
        for _ in 0..3 {
            let messages = (0..100).map(|_| store.message(&mut numbers, 100, 3)).collect();
            assert_eq!(store.insert(messages), vec![Ok(Stored::Created); 100], "{sql}");
            assert_eq!(store.reader.list(&Filter::default(), &FIRST).unwrap().messages.len(), 5);
        }
        if let Some(count) = count {
            assert_eq!(store.total(&Filter::default()).unwrap(), before + count + 300);
        }
    }
}

/// Every answer, before and after other programs insert rows with ids that mailslot does not give, each
/// of them with a text and a `ts` among those of the messages.
#[test]
fn rows_of_other_programs_with_ids_out_of_range_change_no_answer() {
    const INSERT: &str = "INSERT INTO messages
             (id, message_id, from_msisdn, to_msisdn, ts, ts_s, ts_ns, text, created_at)
         VALUES (?1, 'outside ' || ?1, '+1', '+1', '2025-01-01T00:00:07Z', 1735689607, 0, 'the', '')";
    let ids = [i64::MIN, -10_000_000_000_000, -5, 0, 1_000_000_000_000_000, i64::MAX];
    for count in [30, 3 * packs::BLOCK_MESSAGES] {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&folder.path().join("mailslot.db"));
        let mut numbers = Numbers(23);
        let messages = (0..count).map(|_| store.message(&mut numbers, 100, 3)).collect();
        store.insert(messages);
        let mut filters: Vec<Filter> =
            (0..10).map(|_| store.filter(&mut numbers, 100, 3)).collect();
        let the = Some("the".to_owned());
        filters.extend([Filter::default(), Filter { q: the, ..Filter::default() }]);
        let before = store.picture(&filters);
        for id in ids {
            store.stranger.execute(INSERT, [id]).unwrap();
        }
        assert_eq!(store.picture(&filters), before);
        store.pack_all();
        assert_eq!(store.picture(&filters), before);
        let recount = check::recount(&store.path).unwrap();
        assert!(recount.counts.iter().all(|count| count.counted == count.kept), "{recount:?}");
        assert_eq!(recount.wrong_senders, 0);
    }
}

impl Store {
    /// Pages, exports, the feed and the statistics, with nothing remembered of earlier searches.
    fn picture(&mut self, filters: &[Filter]) -> Vec<String> {
        self.reader = Reader::open(&self.path, &Searches::open(&self.path, 2).unwrap()).unwrap();
        let mut seen = vec![
            json!(self.reader.stats().unwrap()).to_string(),
            json!(self.reader.committed(0, 10_000).unwrap()).to_string(),
            self.reader.cursor_before_last(10_000).unwrap().to_string(),
        ];
        let place = Place::at(Timestamp::from(1_735_689_608));
        for filter in filters {
            for start in [Start::Offset(0), Start::Offset(80), Start::After(place.clone())] {
                let paging = Paging { start, limit: 100, ..FIRST };
                seen.push(format!("{:?}", self.reader.list(filter, &paging).unwrap()));
            }
            let mut export = Export::begin(&self.reader, filter.clone()).unwrap();
            while let Some(portion) = export.next(&mut self.reader).unwrap() {
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
    let mut store = Store::open(&folder.path().join("mailslot.db"));
    let mut numbers = Numbers(19);
    let old = Entry::Message(store.message(&mut numbers, 100, 3));
    let others = (0..60).map(|_| Entry::Message(store.message(&mut numbers, 100, 3)));
    let mut batch: Vec<Entry> = others.collect();
    batch.extend([old, Entry::Expire(Timestamp::from(2_000_000_000))]);
    let outcomes = store.writer.commit(batch.iter());
    assert_eq!(outcomes.last(), Some(&Ok(Stored::Done)));
    assert_eq!(json!(store.reader.stats().unwrap()), store.naive_stats());
    store.check_milestones();
    store.writer.commit(batch[61..].iter());
    assert_eq!(json!(store.reader.stats().unwrap()), store.naive_stats());
    store.check_milestones();
}

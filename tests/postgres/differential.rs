//! The same operations on both engines: each answer has the same bytes.

use std::{path::Path, process::Command};

use form_urlencoded::Serializer;
use serde_json::{Value, json};

use crate::{
    harness::{Inbox, Reply, message, sign_with, wait_for},
    load::{Cluster, run},
    numbers::Numbers,
};

#[rustfmt::skip]
const WORDS: &[&str] = &[
    "hello", "Order", "the", "THE", "a", "%", "_", "\\", "''", "\"", "\0", "\u{1}", "\u{2}\u{3}",
    "École", "ÉCOLE", "straße", "STRASSE", "Σίσυφος", "नमस्ते", "🙂", "ı", "I", "İ", "48213", "ﬀ",
    "\u{301}", "日本語", "x\ny", "the\0the", "\u{fffd}", "\u{10ffff}", "a%b", "a_b", "a\\b",
];
#[rustfmt::skip]
const SEARCHES: &[&str] = &[
    "hello", "ORDER", "the", "h", "e", " ", "%", "_", "\\", "'", "\0", "\u{1}", "\u{2}", "école",
    "strasse", "ß", "σίσυφοσ", "स्ते", "🙂", "ı", "i", "İ", "482", "48213", "213 the", "ff", "語",
    "absent", "the the", "\u{fffd}", "lo or", "llo order", "e\0t", "oth", "a%b", "a_b", "%_\\",
];
const APP_SECRET: &str = "0123456789abcdef0123456789abcdef";
const FRACTIONS: &[&str] = &["", "", "", ".5", ".50", ".000000001", ".999999999", ".09", ".1"];
const DAYS: &[&str] = &[
    "2025-01-15",
    "2025-01-15",
    "2025-01-16",
    "2024-02-29",
    "1969-12-31",
    "0001-01-01",
    "9999-12-31",
];

/// 10,000 with OPERATIONS=10000; a run of the whole suite has time for fewer.
fn operations() -> usize {
    std::env::var("OPERATIONS").map_or(2_000, |number| number.parse().unwrap())
}

struct Both<'a> {
    cluster: &'a Cluster<'a>,
    postgres: Inbox,
    sqlite: Inbox,
    numbers: Numbers,
    /// Every id that ever was, and the numbers of senders.
    ids: Vec<String>,
}

#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn both_engines_give_the_same_bytes_after_any_operations() {
    let cluster = Cluster::shared();
    let sqlite = Inbox::start_with(tempfile::tempdir().unwrap(), |command| {
        with_provider(command).env("DATABASE_URL", "sqlite:///mailslot.db");
    });
    let numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let postgres = cluster.node_with(|command| {
        with_provider(command);
    });
    let mut both = Both { cluster: &cluster, postgres, sqlite, numbers, ids: Vec::new() };
    both.import();
    for number in 0..operations() {
        match both.numbers.below(1_000) {
            0..420 => both.deliver(),
            420..620 => both.deliver_of_provider(),
            620..680 => both.repeat(),
            680..840 => both.list(Both::filters),
            840..870 => both.list(Both::receivers),
            870..900 => both.list(Both::classes),
            900..930 => both.compare("/stats"),
            930..960 => both.series(),
            960..980 => both.export(),
            980..985 => both.erase(),
            985..988 => both.delete(),
            _ => both.feed(),
        }
        if number % 500 == 499 {
            both.check();
        }
    }
    both.check();
}

#[test]
#[ignore = "needs PostgreSQL: make test-postgres"]
fn of_more_kinds_than_there_may_be_both_engines_keep_the_same_ones() {
    let cluster = Cluster::shared();
    let folder = tempfile::tempdir().unwrap();
    let lines = (0..300).map(|number| {
        let mut line = message(&format!("m{number}"));
        line["source"] = json!(["standard", "whatsapp"][number % 2]);
        line["kind"] = json!(format!("kind {}", number % 150));
        format!("{line}\n")
    });
    std::fs::write(folder.path().join("lines"), lines.collect::<String>()).unwrap();
    let answers = [cluster.url(), "sqlite:///mailslot.db".to_owned()].map(|url| {
        let (status, said) = run(&url, folder.path(), &["import", "lines"]);
        assert_eq!(status, Some(0), "{said}");
        let (status, said) = run(&url, folder.path(), &["import", "lines"]);
        assert!(status == Some(0) && said.contains("300 known"), "{said}");
        let inbox = Inbox::start_with(tempfile::tempdir().unwrap(), |command| {
            let url = url.replace("///", &format!("///{}/", folder.path().display()));
            with_provider(command).env("DATABASE_URL", url);
        });
        let kind = |number| format!("/messages?kind=kind+{number}&limit=1");
        let paths = [
            "/messages?kind=other&limit=100".to_owned(),
            "/messages?source=whatsapp&kind=other&offset=3&limit=5&order=desc".to_owned(),
            "/messages?source=whatsapp&limit=100".to_owned(),
            "/messages?source=whatsapp&limit=9&offset=80".to_owned(),
            kind(120),
            kind(126),
            kind(127),
            kind(149),
        ];
        let others = inbox.get(&paths[0]).json["total"].as_i64().unwrap();
        // 128 kinds, and one of them is that of /webhook.
        assert_eq!(others, 2 * (150 - 127));
        paths.map(|path| inbox.get(&path).text)
    });
    for (postgres, sqlite) in answers[0].iter().zip(&answers[1]) {
        assert_eq!(postgres, sqlite);
    }
}

impl Both<'_> {
    fn ts(&mut self) -> String {
        let seconds = if self.numbers.one_in(3) { 86_400 } else { 900 };
        let second = self.numbers.below(seconds);
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        let (day, fraction) = (self.numbers.pick(DAYS), self.numbers.pick(FRACTIONS));
        format!("{day}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
    }

    /// Half of them are one sender's, who so gets counts of its own.
    fn sender(&mut self) -> String {
        let number = if self.numbers.one_in(2) { 0 } else { 1 + self.numbers.below(40) };
        format!("+{}", 10 + number)
    }

    /// The same of receivers, and two of them have most.
    fn receiver(&mut self) -> String {
        let number = match self.numbers.below(100) {
            0..50 => 1,
            50..90 => 2,
            _ => 3 + self.numbers.below(39),
        };
        format!("+{number}")
    }

    fn text(&mut self) -> String {
        let words: Vec<_> = (0..self.numbers.below(8)).map(|_| self.numbers.pick(WORDS)).collect();
        words.join(" ")
    }

    fn message(&mut self, id: &str) -> Value {
        let (from, to, ts, text) = (self.sender(), self.receiver(), self.ts(), self.text());
        let mut message =
            json!({ "message_id": id, "from": from, "to": to, "ts": ts, "text": text });
        if self.numbers.one_in(10) {
            message.as_object_mut().unwrap().remove("text");
        }
        message
    }

    /// Enough for a sender and a receiver, besides the main one, with counts of their own.
    fn import(&mut self) {
        let ids: Vec<_> = (0..6_000).map(|number| format!("import-{number}")).collect();
        let lines = ids.iter().map(|id| format!("{}\n", self.message(id)));
        let lines: String = lines.collect();
        std::fs::write(self.sqlite.folder.path().join("lines"), lines).unwrap();
        for (status, said) in self.commands(&["import", "lines"]) {
            assert_eq!(status, Some(0), "{said}");
        }
        self.ids.extend(ids);
        let heavy = "SELECT count(*) FROM parties WHERE is_heavy";
        wait_for(|| self.cluster.count(heavy) == 2);
    }

    fn deliver(&mut self) {
        let number = self.ids.len();
        let id = match self.numbers.below(40) {
            0 => format!("{}{number}", "é🙂".repeat(self.numbers.below(4_000))),
            1 => format!("{}{number}", "x".repeat(250 + self.numbers.below(12))),
            2 => format!("a\0{}{number}", self.numbers.pick(WORDS)),
            _ => format!("{}-{number}", self.numbers.below(1_000_000)),
        };
        let message = self.message(&id);
        self.ids.push(id);
        self.send(&message);
    }

    /// A message of one of several kinds, or a known one again, by another way.
    fn deliver_of_provider(&mut self) {
        let is_new = self.ids.is_empty() || !self.numbers.one_in(10);
        let at = self.numbers.below(self.ids.len().max(1));
        let id = if is_new { format!("wamid-{}", self.ids.len()) } else { self.ids[at].clone() };
        let kind = self.numbers.pick(&["text", "text", "image", "sticker", "poll"]);
        let mut message = json!({
            "from": &self.sender()[1..], "id": &id, "type": kind,
            "timestamp": (1_736_899_200 + self.numbers.below(172_800)).to_string(),
        });
        if kind == "text" {
            message["text"] = json!({ "body": self.numbers.pick(WORDS) });
        }
        if is_new {
            self.ids.push(id);
        }
        let value = json!({
            "messaging_product": "whatsapp",
            "metadata": { "display_phone_number": "3", "phone_number_id": "4" },
            "messages": [message],
        });
        let entry = json!([{ "id": "1", "changes": [{ "field": "messages", "value": value }] }]);
        let body = json!({ "object": "whatsapp_business_account", "entry": entry }).to_string();
        let signature = format!("sha256={}", sign_with(APP_SECRET, body.as_bytes()));
        let headers = [("X-Hub-Signature-256", signature.as_str())];
        for inbox in [&self.postgres, &self.sqlite] {
            let answer = inbox.post_to("/webhook/whatsapp", body.as_bytes(), &headers);
            assert_eq!(answer.status, 200, "{body}: {answer:?}");
        }
    }

    fn repeat(&mut self) {
        if self.ids.is_empty() {
            return;
        }
        let at = self.numbers.below(self.ids.len());
        let id = self.ids[at].clone();
        let message = self.message(&id);
        self.send(&message);
    }

    fn send(&self, message: &Value) {
        let answers = [&self.postgres, &self.sqlite].map(|inbox| inbox.deliver(message));
        assert_eq!(answers[0].text, answers[1].text, "{message}");
        assert_eq!(answers[0].status, answers[1].status, "{message}");
    }

    fn filters(&mut self, query: &mut Serializer<'_, String>) {
        if self.numbers.one_in(4) {
            query.append_pair("from", &self.sender());
        }
        if self.numbers.one_in(6) {
            let sender = self.sender();
            let length = 1 + self.numbers.below(sender.len());
            query.append_pair("from_prefix", &sender[..length]);
        }
        if self.numbers.one_in(6) {
            query.append_pair("to", &self.receiver());
        }
        self.times(query);
        if self.numbers.one_in(3) {
            query.append_pair("q", self.numbers.pick(SEARCHES));
        }
        if self.numbers.one_in(4) {
            self.class(query);
        }
    }

    /// A source, a kind or both, and perhaps a time.
    fn classes(&mut self, query: &mut Serializer<'_, String>) {
        self.class(query);
        self.times(query);
    }

    /// A receiver, and perhaps a time.
    fn receivers(&mut self, query: &mut Serializer<'_, String>) {
        query.append_pair("to", &self.receiver());
        self.times(query);
    }

    fn times(&mut self, query: &mut Serializer<'_, String>) {
        for name in ["since", "until"] {
            if self.numbers.one_in(4) {
                query.append_pair(name, &self.ts());
            }
        }
    }

    fn class(&mut self, query: &mut Serializer<'_, String>) {
        let which = self.numbers.below(3);
        if which != 0 {
            query.append_pair("source", self.numbers.pick(&["webhook", "whatsapp", "twilio"]));
        }
        if which != 1 {
            query.append_pair("kind", self.numbers.pick(&["text", "image", "sticker", "absent"]));
        }
    }

    /// A page, and some of those before and after it.
    fn list(&mut self, filters: fn(&mut Self, &mut Serializer<'_, String>)) {
        let mut query = Serializer::new(String::new());
        filters(self, &mut query);
        if self.numbers.one_in(20) && !self.ids.is_empty() {
            let at = self.numbers.below(self.ids.len());
            query.append_pair("message_id", &self.ids[at]);
        }
        query.append_pair("limit", &(1 + self.numbers.below(100)).to_string());
        if self.numbers.one_in(2) {
            query.append_pair("offset", &self.numbers.below(self.ids.len() + 10).to_string());
        }
        if self.numbers.one_in(2) {
            query.append_pair("order", "desc");
        }
        let path = format!("/messages?{}", query.finish());
        let mut paths = [path.clone(), path];
        for _ in 0..4 {
            let answers = [self.postgres.get(&paths[0]), self.sqlite.get(&paths[1])];
            assert_eq!(answers[0].text, answers[1].text, "{paths:?}");
            let rel = if self.numbers.one_in(4) { "prev" } else { "next" };
            // That of a long id has the number of its row, which is each engine's own.
            let links = [link(&answers[0], rel), link(&answers[1], rel)];
            assert_eq!(links[0].is_some(), links[1].is_some(), "{paths:?}");
            let [Some(one), Some(other)] = links else { break };
            paths = [one, other];
        }
    }

    fn compare(&self, path: &str) {
        let answers = [&self.postgres, &self.sqlite].map(|inbox| inbox.get(path));
        assert_eq!(answers[0].text, answers[1].text, "{path}");
        assert_eq!(answers[0].status, answers[1].status, "{path}");
    }

    fn series(&mut self) {
        let mut query = Serializer::new(String::new());
        query.append_pair("bucket", self.numbers.pick(&["hour", "day"]));
        match self.numbers.below(5) {
            0 | 1 => self.filters(&mut query),
            2 => self.class(&mut query),
            3 => self.receivers(&mut query),
            _ => {}
        }
        if self.numbers.one_in(3) {
            query.append_pair("since", &self.ts());
        }
        query.append_pair("until", &self.ts());
        self.compare(&format!("/stats/series?{}", query.finish()));
    }

    fn export(&mut self) {
        let mut query = Serializer::new(String::new());
        query.append_pair("format", self.numbers.pick(&["ndjson", "csv"]));
        self.filters(&mut query);
        let path = format!("/export?{}", query.finish());
        let answers =
            [&self.postgres, &self.sqlite].map(|inbox| without_times(&inbox.get(&path).text));
        assert_eq!(answers[0], answers[1], "{path}");
    }

    /// Everything in the order of commits. Cursors are each engine's own.
    fn feed(&self) {
        let answers = [&self.postgres, &self.sqlite].map(|inbox| {
            let (mut after, mut all) = ("0".to_owned(), Vec::new());
            loop {
                let page = inbox.get(&format!("/feed?limit=100&after={after}"));
                let data = page.json["data"].as_array().unwrap_or_else(|| panic!("{page:?}"));
                if data.is_empty() {
                    return all;
                }
                let cursors: Vec<i64> = (data.iter())
                    .map(|message| message["cursor"].as_str().unwrap().parse().unwrap())
                    .collect();
                assert!(cursors.is_sorted() && cursors[0] > after.parse().unwrap());
                page.json["next"].as_str().unwrap().clone_into(&mut after);
                let fields = |message: &Value| {
                    let mut message = message.clone();
                    let object = message.as_object_mut().unwrap();
                    assert!(object.remove("cursor").is_some());
                    assert!(object.remove("created_at").is_some());
                    message.to_string()
                };
                all.push(data.iter().map(fields).collect::<Vec<_>>());
            }
        });
        assert_eq!(answers[0], answers[1]);
    }

    fn erase(&mut self) {
        let sender = format!("+{}", 11 + self.numbers.below(40));
        let before = self.ts();
        let arguments = if self.numbers.one_in(4) {
            ["erase", "--yes", "--before", &before]
        } else {
            ["erase", "--yes", "--from", &sender]
        };
        if arguments[2] == "--before" && !before.starts_with("0001") {
            return;
        }
        let said = self.commands(&arguments);
        assert_eq!(said[0], said[1], "{arguments:?}");
    }

    fn commands(&self, arguments: &[&str]) -> [(Option<i32>, String); 2] {
        let file = self.sqlite.folder.path().join("mailslot.db");
        let folder = self.sqlite.folder.path();
        let urls = [self.cluster.url(), format!("sqlite:///{}", file.display())];
        urls.map(|url| run(&url, folder, arguments))
    }

    /// As an operator would beside mailslot.
    fn delete(&mut self) {
        let sql = match self.numbers.below(4) {
            0 => "DELETE FROM messages WHERE ts_s < -1".to_owned(),
            1 => format!("DELETE FROM messages WHERE from_msisdn = '{}'", self.sender()),
            2 => format!("DELETE FROM messages WHERE to_msisdn = '{}'", self.receiver()),
            _ => "DELETE FROM messages WHERE ts LIKE '2024-02-29T00:0%'".to_owned(),
        };
        self.cluster.sql(&sql);
        execute(self.sqlite.folder.path(), &sql);
    }

    /// The counters are what counting finds.
    fn check(&self) {
        assert_eq!(self.cluster.count("SELECT count(*) FROM counts WHERE n = 0"), 0);
        self.compare("/stats");
        self.feed();
        for (_, said) in self.commands(&["check"]) {
            let is_right = |line: &str| !line.contains("counters") || line.contains("right for");
            assert!(said.contains("right for") && said.lines().all(is_right), "{said}");
        }
    }
}

fn with_provider(command: &mut Command) -> &mut Command {
    command.env("WHATSAPP_APP_SECRET", APP_SECRET).env("WHATSAPP_VERIFY_TOKEN", "a token")
}

fn execute(folder: &Path, sql: &str) {
    let connection = rusqlite::Connection::open(folder.join("mailslot.db")).unwrap();
    connection.busy_timeout(std::time::Duration::from_secs(20)).unwrap();
    connection.execute_batch(sql).unwrap();
}

fn link(reply: &Reply, rel: &str) -> Option<String> {
    let links = reply.header("Link")?;
    let link = links.split(", ").find(|link| link.ends_with(&format!("rel=\"{rel}\"")))?;
    let (path, _) = link.strip_prefix('<')?.split_once('>')?;
    Some(path.to_owned())
}

/// Without the moments at which messages were stored, which are the clock's.
fn without_times(text: &str) -> String {
    let is_time = |part: &str| {
        let shape = b"0000-00-00T00:00:00.000Z";
        part.len() == shape.len()
            && part.bytes().zip(shape).all(|(byte, shape)| match shape {
                b'0' => byte.is_ascii_digit(),
                other => byte == *other,
            })
    };
    let (mut kept, mut rest) = (String::new(), text);
    while let Some(at) = rest.find("202") {
        let part = rest.get(at..at + 24).unwrap_or_default();
        kept.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = if is_time(part) { 24 } else { 3 };
        if length == 3 {
            kept.push_str("202");
        }
        rest = &rest[length..];
    }
    kept + rest
}

//! Nodes, what sends to them, and what follows them.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::Path,
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    client::Client,
    harness::{Inbox, message, server::Server, sign},
};

/// How long anything may take on a machine with other work.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// A database, and the folder that names it.
pub struct Cluster<'a> {
    pub server: &'a Server,
    pub folder: TempDir,
}

impl Cluster<'_> {
    /// In the server that the tests share: for those that leave the server alone.
    pub fn shared() -> Cluster<'static> {
        Cluster::on(Server::shared())
    }

    pub fn on(server: &Server) -> Cluster<'_> {
        Cluster { server, folder: tempfile::tempdir().unwrap() }
    }

    pub fn url(&self) -> String {
        self.server.url(self.folder.path())
    }

    pub fn database(&self) -> String {
        self.server.database(self.folder.path())
    }

    pub fn node(&self) -> Inbox {
        self.node_with(|_| {})
    }

    pub fn node_with(&self, adjust: impl FnOnce(&mut Command)) -> Inbox {
        self.node_in(tempfile::tempdir().unwrap(), adjust)
    }

    pub fn node_in(&self, folder: TempDir, adjust: impl FnOnce(&mut Command)) -> Inbox {
        let url = self.url();
        Inbox::start_with(folder, |command| {
            adjust(command.env("DATABASE_URL", url));
        })
    }

    pub fn sql(&self, sql: &str) -> String {
        self.server.sql(&self.database(), sql)
    }

    pub fn count(&self, sql: &str) -> i64 {
        self.sql(sql).parse().unwrap()
    }

    pub fn rows(&self) -> i64 {
        self.count("SELECT count(*) FROM messages")
    }

    /// Every id, each of them once.
    pub fn ids(&self) -> BTreeSet<String> {
        let ids = self.sql("SELECT message_id FROM messages ORDER BY id");
        let list: Vec<String> = ids.lines().map(str::to_owned).collect();
        let set: BTreeSet<String> = list.iter().cloned().collect();
        assert_eq!(list.len(), set.len(), "an id is stored twice");
        set
    }

    /// All commits take up to this long between their INSERT and their end.
    pub fn delay(&self, ms_max: f64) {
        self.sql(&format!(
            "CREATE FUNCTION public.delay() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN PERFORM pg_sleep(random() * {ms_max} / 1000); RETURN NULL; END';
             CREATE TRIGGER delay AFTER INSERT ON messages
                 FOR EACH STATEMENT EXECUTE FUNCTION public.delay()"
        ));
    }
}

/// Sends until it is acknowledged, as a provider does, to one node and then to the next. Gives up only
/// when that took too long.
pub fn send(clients: &mut [Client], start: usize, id: &str) {
    let end = Instant::now() + PATIENCE;
    for attempt in start.. {
        let client = &mut clients[attempt % clients.len()];
        match client.deliver(id) {
            Ok(200) => return,
            Ok(503) | Err(_) => std::thread::sleep(Duration::from_millis(20)),
            Ok(status) => panic!("{id}: {status}"),
        }
        assert!(Instant::now() < end, "{id} was never acknowledged");
    }
}

/// `senders` threads send ids until `is_done` says so of the number of one, and each id to two nodes.
/// Returns all that were acknowledged, which is each that was sent.
pub fn send_all(
    addresses: &[SocketAddr],
    senders: usize,
    is_done: impl Fn(usize) -> bool + Sync,
) -> BTreeSet<String> {
    let acknowledged = Mutex::new(BTreeSet::new());
    std::thread::scope(|scope| {
        for sender in 0..senders {
            let (acknowledged, is_done) = (&acknowledged, &is_done);
            scope.spawn(move || {
                let mut clients: Vec<Client> =
                    addresses.iter().map(|address| Client::new(*address)).collect();
                let mut own = Vec::new();
                for number in 0.. {
                    if is_done(number) {
                        break;
                    }
                    let id = format!("s{sender}-{number}");
                    send(&mut clients, number, &id);
                    // A repeat, through another node, of what another sender may be sending now.
                    let pair = format!("s{}-{number}", sender ^ 1);
                    send(&mut clients, number + 1, &pair);
                    own.extend([id, pair]);
                }
                acknowledged.lock().unwrap().extend(own);
            });
        }
    });
    acknowledged.into_inner().unwrap()
}

/// What a follower of the feed was given, in the order in which it was.
#[derive(Debug, Default)]
pub struct Followed {
    pub cursors: Vec<i64>,
    pub ids: Vec<String>,
}

impl Followed {
    /// No cursor twice, none lower than one before, and no id twice.
    pub fn check(&self) {
        assert!(self.cursors.is_sorted_by(|a, b| a < b), "the cursors of the feed do not grow");
        let set: BTreeSet<&String> = self.ids.iter().collect();
        assert_eq!(set.len(), self.ids.len(), "the feed gave a message twice");
    }

    pub fn skipped<'a>(&self, all: &'a BTreeSet<String>) -> Vec<&'a String> {
        let seen: BTreeSet<&String> = self.ids.iter().collect();
        all.iter().filter(|id| !seen.contains(id)).collect()
    }
}

/// Follows a node from the beginning until `stop` is set and there is nothing more. Answers other than
/// 200 and broken connections are tried again with the same cursor.
pub fn follow(address: SocketAddr, stop: &AtomicBool) -> Followed {
    let mut client = Client::new(address);
    let (mut followed, mut after) = (Followed::default(), "0".to_owned());
    let mut answered = Instant::now();
    loop {
        let was_stopped = stop.load(SeqCst);
        let page = match client.read(&format!("/feed?after={after}&limit=1000&wait=1")) {
            Ok(page) => page,
            Err(error) => {
                assert!(answered.elapsed() < PATIENCE, "the feed after {after}: {error}");
                std::thread::sleep(Duration::from_millis(20));
                client = Client::new(address);
                continue;
            }
        };
        answered = Instant::now();
        let page: Value = serde_json::from_str(&page).unwrap();
        let data = page["data"].as_array().unwrap();
        for message in data {
            followed.cursors.push(message["cursor"].as_str().unwrap().parse().unwrap());
            followed.ids.push(message["message_id"].as_str().unwrap().to_owned());
        }
        page["next"].as_str().unwrap().clone_into(&mut after);
        if data.is_empty() && was_stopped {
            return followed;
        }
    }
}

/// The status of a signed delivery at an address that may not answer at all.
pub fn try_delivery(address: SocketAddr, id: &str) -> Result<u16, String> {
    Client::new(address).deliver(id)
}

pub fn cursor_of(inbox: &Inbox, id: &str) -> i64 {
    let page = inbox.get("/feed?after=0&limit=1000").json;
    let data = page["data"].as_array().unwrap();
    let found = data.iter().find(|message| message["message_id"] == id).unwrap();
    found["cursor"].as_str().unwrap().parse().unwrap()
}

/// What a command of mailslot says on a database, and how it ends.
pub fn run(url: &str, folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mailslot"));
    command.env_clear().current_dir(folder).args(arguments);
    command.env("DATABASE_URL", url).env("WEBHOOK_SECRET", crate::harness::SECRET);
    let output = command.env("LISTEN", "127.0.0.1:0").output().unwrap();
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    (output.status.code(), text.concat())
}

pub fn signed(id: &str) -> (String, String) {
    let body = message(id).to_string();
    let signature = sign(body.as_bytes());
    (body, signature)
}

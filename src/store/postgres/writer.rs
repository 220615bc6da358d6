//! The one connection of this process that writes, and what becomes of a commit that fails.

use std::{
    collections::HashSet,
    fmt, thread,
    time::{Duration, Instant},
};

use super::{
    classes::Classes,
    connection::Connection,
    counts, epochs,
    failure::{Failure, LOCK_TIMEOUT},
    insert::{Hashes, INSERT, KNOWN, with_values},
    migrate::{self, VERSION},
    proofs,
    sequencer::{LOCK, SETTINGS, last_lock},
    values::{Rows, Statement, Value},
};
use crate::{
    config::Target,
    message::Delivered,
    store::types::{Job, Outcome, Stored},
    timestamp::Timestamp,
};

/// How long a commit that fails is tried again: the server may have been restarted, or another one
/// promoted.
const PATIENCE: Duration = Duration::from_secs(2);
const TRY_EVERY: Duration = Duration::from_millis(20);

/// Deletes the oldest messages, some of those from before a moment, unless another node changes the
/// totals at this moment: then it counts, or deletes messages itself.
const EXPIRE: &str = "
    WITH elected AS MATERIALIZED (SELECT one FROM mailslot.totals FOR UPDATE SKIP LOCKED)
    DELETE FROM mailslot.messages WHERE EXISTS (SELECT FROM elected) AND id IN (
        SELECT id FROM mailslot.messages WHERE (ts_s, ts_ns) < ($1, $2)
        ORDER BY ts_s, ts_ns, left(message_id, 256) LIMIT 500)";

#[derive(Debug)]
pub(crate) struct Writer {
    target: Target,
    /// None after a failure, until the next try.
    session: Option<Session>,
}

struct Session {
    connection: Connection,
    /// Of the keyed hashes of erased ids.
    erasing_key: Vec<u8>,
    classes: Classes,
    /// The transaction that had the lock of the sequencer when this was last known.
    last_lock: String,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({:?})", self.connection)
    }
}

impl Writer {
    /// Logs in, creates the schema if there is none, and proves that the server does what it has
    /// to.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub(crate) fn open(target: &Target) -> Result<Writer, String> {
        Writer::prepare(target, false)
            .map_err(|failure| format!("database {target}: {}", failure.of_login(target)))
    }

    /// The same for the service, which also migrates an older schema.
    pub(super) fn open_for_service(target: &Target) -> Result<Writer, Failure> {
        Writer::prepare(target, true).map_err(|failure| failure.of_login(target))
    }

    fn prepare(target: &Target, is_service: bool) -> Result<Writer, Failure> {
        let mut connection = Connection::connect(target)?;
        proofs::check_server(&mut connection)?;
        migrate::migrate(&mut connection, is_service)?;
        epochs::begin(&mut connection)?;
        let mut session = Session::of(connection)?;
        proofs::check_storing(target, &mut session.connection, &session.erasing_key)?;
        if is_service {
            proofs::warn_of_durability(&mut session.connection)?;
        }
        Ok(Writer { target: target.clone(), session: Some(session) })
    }

    /// For what a command does beside the commits.
    pub(super) fn into_target(self) -> Target {
        self.target
    }

    /// Makes a batch durable, and gives for each job what became of it. Messages that were
    /// committed although the server's answer was lost are found when the batch is tried again:
    /// their jobs succeed, as repeats.
    pub(crate) fn commit<'a>(
        &mut self,
        batch: impl Iterator<Item = &'a Job> + Clone,
    ) -> Vec<Outcome> {
        let until = Instant::now() + PATIENCE;
        let groups: Vec<&[Delivered]> = batch.clone().filter_map(group).collect();
        let stored = if groups.is_empty() { Vec::new() } else { self.store(&groups, until) };
        let mut stored = stored.into_iter();
        let outcome = |job: &Job| {
            if group(job).is_some() {
                return stored.next().unwrap_or(Ok(Vec::new()));
            }
            let done = match job {
                Job::Expire(before) => self.with_session(|session| session.expire(*before)),
                _ => self.with_session(|session| counts::count_tail(&mut session.connection)),
            };
            done.map(|()| Vec::new()).map_err(Failure::into_error)
        };
        batch.map(outcome).collect()
    }

    /// Whether another process has stored messages since this was last asked and since this one's
    /// last commit, or does so now. What cannot be read has not changed: the next commit says what
    /// is wrong.
    pub(crate) fn others_committed(&mut self) -> bool {
        let asked = self.with_session(|session| {
            let last = last_lock(&mut session.connection)?;
            let before = std::mem::replace(&mut session.last_lock, last);
            Ok(before != session.last_lock)
        });
        asked.unwrap_or(false)
    }

    /// Stores groups of messages, each of them whole or not at all. Where the data of one may be
    /// why the transaction failed, each half is tried alone, so that a group fails for itself only.
    fn store(&mut self, groups: &[&[Delivered]], until: Instant) -> Vec<Outcome> {
        match self.store_all(groups, until) {
            Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
            Err(failure) if failure.is_of_data() && groups.len() > 1 => {
                let (some, others) = groups.split_at(groups.len() / 2);
                let mut outcomes = self.store(some, until);
                outcomes.extend(self.store(others, until));
                outcomes
            }
            Err(failure) => vec![Err(failure.into_error()); groups.len()],
        }
    }

    /// Stores all groups in one transaction. What can pass is tried again for as long as there is
    /// time; a lock was waited for that long already. Where the time went by over a connection that
    /// is found to be lost, such as one that a firewall has dropped, it is tried once over another.
    fn store_all(
        &mut self,
        groups: &[&[Delivered]],
        until: Instant,
    ) -> Result<Vec<Vec<Stored>>, Failure> {
        let messages: Vec<&Delivered> = groups.iter().copied().flatten().collect();
        let mut is_old = self.session.is_some();
        loop {
            let failure = match self.with_session(|session| session.store(&messages)) {
                Ok(stored) => {
                    let mut stored = stored.into_iter();
                    let of_group =
                        |group: &&[Delivered]| stored.by_ref().take(group.len()).collect();
                    return Ok(groups.iter().map(of_group).collect());
                }
                Err(failure) => failure,
            };
            let is_final = !failure.is_passing() || failure.code() == LOCK_TIMEOUT;
            let is_late = Instant::now() >= until;
            let is_lost = is_old && failure.needs_connection();
            if is_final || (is_late && !is_lost) {
                return Err(failure);
            }
            is_old = false;
            log::debug!(failure:% = failure; "the commit is tried again");
            thread::sleep(TRY_EVERY);
        }
    }

    /// Connects where there is no connection, and gives up one that is of no use any more.
    fn with_session<T>(
        &mut self,
        run: impl FnOnce(&mut Session) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let session = match &mut self.session {
            Some(session) => session,
            none => none.insert(Session::of(Connection::connect(&self.target)?)?),
        };
        let done = run(session);
        if done.as_ref().is_err_and(Failure::needs_connection) {
            self.session = None;
        }
        done
    }
}

/// What a job stores, in the transaction that all such jobs of a batch share.
fn group(job: &Job) -> Option<&[Delivered]> {
    match job {
        Job::Messages(messages) => Some(messages),
        Job::Probe => Some(&[]),
        Job::Expire(_) | Job::Index => None,
    }
}

impl Session {
    fn of(mut connection: Connection) -> Result<Session, Failure> {
        let key = connection.ask("SELECT encode(erasing_key, 'hex') FROM mailslot.totals")?;
        let erasing_key = key.one()?.bytes(0)?;
        let (classes, last_lock) = (Classes::default(), String::new());
        Ok(Session { connection, erasing_key, classes, last_lock })
    }

    /// One transaction, in one round trip.
    fn store(&mut self, messages: &[&Delivered]) -> Result<Vec<Stored>, Failure> {
        let Session { connection, erasing_key, classes, last_lock } = self;
        let hashes = Hashes::of(messages, erasing_key);
        let kinds = classes.kinds(connection, messages)?;
        let answers = with_values(messages, &hashes, &kinds, erasing_key, |values| {
            let insert = Statement::new(INSERT, values);
            connection.run(&[Statement::plain(SETTINGS), Statement::plain(LOCK), insert])
        })?;
        let [_, lock, inserted] = answers.as_slice() else {
            return Err(Failure::unexpected("an answer to a commit is missing"));
        };
        if lock.one()?.integer(0)? > VERSION {
            return Err(Failure::Outdated);
        }
        if !lock.one()?.boolean(1)? {
            epochs::begin(connection)?;
            return Err(Failure::Lost("the server has another history".to_owned()));
        }
        lock.one()?.text(2)?.clone_into(last_lock);
        let mut created = hex_texts(inserted)?;
        // Of a batch's own repeats the first is the new one.
        let created: Vec<bool> =
            hashes.iter().map(|hashes| created.remove(&hex::encode(hashes.id))).collect();
        self.check_known(&hashes, &created)?;
        let stored = |is_created| if is_created { Stored::Created } else { Stored::Duplicate };
        Ok(created.into_iter().map(stored).collect())
    }

    /// A message that was not inserted is a repeat only if the database has it: it is looked for
    /// before it is acknowledged.
    fn check_known(&mut self, hashes: &[Hashes], created: &[bool]) -> Result<(), Failure> {
        let is_new: HashSet<&[u8; 32]> =
            hashes.iter().zip(created).filter(|(_, new)| **new).map(|(hash, _)| &hash.id).collect();
        let repeats: Vec<&Hashes> =
            hashes.iter().filter(|hashes| !is_new.contains(&hashes.id)).collect();
        if repeats.is_empty() {
            return Ok(());
        }
        let ids: Vec<&[u8]> = repeats.iter().map(|hashes| &hashes.id[..]).collect();
        let tombstones: Vec<&[u8]> = repeats.iter().map(|hashes| &hashes.tombstone[..]).collect();
        let values = [Value::Byteas(&ids), Value::Byteas(&tombstones)];
        let answers = self.connection.run_in_order(&[Statement::new(KNOWN, &values)])?;
        let known = hex_texts(answers.first().unwrap_or(&Rows::default()))?;
        let is_known = |hashes: &&Hashes| {
            known.contains(&hex::encode(hashes.id))
                || known.contains(&hex::encode(hashes.tombstone))
        };
        if repeats.iter().all(is_known) {
            return Ok(());
        }
        // It has expired meanwhile, or the key of erased ids is another one.
        Err(Failure::Lost("a message was neither stored nor known".to_owned()))
    }

    fn expire(&mut self, before: Timestamp) -> Result<(), Failure> {
        let values =
            [Value::Integer(before.seconds), Value::Integer(i64::from(before.nanoseconds))];
        let expire = Statement::new(EXPIRE, &values);
        self.connection.run(&[Statement::plain(SETTINGS), expire]).map(drop)
    }
}

fn hex_texts(rows: &Rows) -> Result<HashSet<String>, Failure> {
    rows.iter().map(|row| row.text(0).map(str::to_owned)).collect()
}

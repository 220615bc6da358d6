//! What a power failure leaves of the database, at any moment.
//!
//! fault.c records every call that changes the database's files. [`Disk`] replays the records up to
//! a power failure and makes images of the files as a disk might have them then. Each image is opened with
//! SQLite and compared with what had been acknowledged before it.
//!
//! The model of the disk, which is Linux's page cache over a disk with sectors of 512 bytes:
//! - What was written to a file before its last successful fsync began is on the disk.
//! - Of what was written later, each sector may have any of the contents that it has had since.
//! - A failed fsync marks the pages of 4096 bytes clean. No later fsync writes such a page until the
//!   page is written to again, and then all of its content in the cache is written.
//! - The length of a file is durable with the file's next successful fsync; before that, it may be
//!   any of those that it has had since. Shortening a file is one step: the file is as if it had
//!   never been shortened, or all that was truncated is gone.
//! - A creation, removal or renaming is durable with the next successful fsync of its folder or of a
//!   database file in it; before that, some number of the earliest of them may have happened.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, OpenOptions},
    hash::{DefaultHasher, Hash, Hasher},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use memchr::memmem;
use rusqlite::Connection;
use serde_json::json;
use tempfile::TempDir;

use crate::harness::{
    Inbox, at_once, command, database, fault, message, message_with, with_faults,
};

const SECTOR: usize = 512;
const PAGE_SECTORS: usize = 4096 / SECTOR;
const WAIT: Duration = Duration::from_secs(20);

// The kinds of records, as in fault.c; the last is the test's own.
const CREATED: u64 = 1;
const WRITTEN: u64 = 2;
const TRUNCATED: u64 = 3;
const SYNC_BEGUN: u64 = 4;
const SYNCED: u64 = 5;
const SYNC_FAILED: u64 = 6;
const REMOVED: u64 = 7;
const RENAMED: u64 = 8;
const MARK: u64 = 100;

#[derive(Debug)]
struct Record {
    kind: u64,
    thread: u64,
    inode: u64,
    at: u64,
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Record {
    fn is_mark(&self, text: &str) -> bool {
        self.kind == MARK && self.path == Path::new(text)
    }
}

/// From now on, what changes the database's files is recorded.
fn start_trace(folder: &Path) {
    fs::create_dir_all(folder.join("faults")).unwrap();
    fault(folder, "trace", true);
}

fn trace(folder: &Path) -> PathBuf {
    folder.join("faults/trace")
}

/// Something that the test knows, in its order among the records.
fn mark(folder: &Path, text: &str) {
    let mut record = Vec::new();
    for number in [MARK, 0, 0, 0, text.len() as u64, 0] {
        record.extend_from_slice(&number.to_ne_bytes());
    }
    record.extend_from_slice(text.as_bytes());
    // One write, so that no other record comes between its parts.
    OpenOptions::new().append(true).open(trace(folder)).unwrap().write_all(&record).unwrap();
}

/// All records that are whole: one may be half written while the trace is read.
fn read_trace(folder: &Path) -> Vec<Record> {
    let trace = fs::read(trace(folder)).unwrap();
    let mut rest = trace.as_slice();
    std::iter::from_fn(|| read_record(&mut rest)).collect()
}

fn read_record(rest: &mut &[u8]) -> Option<Record> {
    let mut take = |length: usize| {
        let (bytes, after) = rest.split_at_checked(length)?;
        *rest = after;
        Some(bytes)
    };
    let mut number = || Some(u64::from_ne_bytes(take(8)?.try_into().unwrap()));
    let (kind, thread, inode, at) = (number()?, number()?, number()?, number()?);
    let [path_length, length] = [number()?, number()?].map(|n| usize::try_from(n).unwrap());
    let path = PathBuf::from(std::str::from_utf8(take(path_length)?).unwrap());
    Some(Record { kind, thread, inode, at, path, bytes: take(length)?.to_vec() })
}

type Sector = [u8; SECTOR];

/// A value that is on the disk, and those that it has had since; each with its time.
#[derive(Debug, Clone, Default)]
struct Versions<T> {
    durable: T,
    later: Vec<(usize, T)>,
}

impl<T: Clone> Versions<T> {
    fn newest(&self) -> &T {
        self.later.last().map_or(&self.durable, |(_, value)| value)
    }

    fn set(&mut self, now: usize, value: T) {
        self.later.push((now, value));
    }

    /// What was set up to `time` is on the disk.
    fn sync(&mut self, time: usize) {
        let length = self.later.partition_point(|(set, _)| *set <= time);
        if let Some((_, value)) = self.later.drain(..length).next_back() {
            self.durable = value;
        }
    }

    fn choose(&self, chance: &mut Chance, share: u64) -> &T {
        if self.later.is_empty() || chance.below(100) >= share {
            return &self.durable;
        }
        // The newest in most cases, since only sectors with a long history have others.
        if share == 100 || chance.below(2) == 0 {
            return self.newest();
        }
        &self.later[chance.below(self.later.len() as u64) as usize].1
    }
}

#[derive(Debug, Clone, Default)]
struct File {
    length: Versions<usize>,
    /// `None`: zeros.
    sectors: Vec<Versions<Option<Box<Sector>>>>,
    /// Pages that differ from the disk as far as the kernel knows, and when each was last written.
    dirty: BTreeMap<usize, usize>,
    /// When it was shortened, and what it was before: the disk may have that still.
    before: Option<(usize, Box<File>)>,
}

impl File {
    fn write(&mut self, now: usize, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        self.grow(end);
        if end > *self.length.newest() {
            self.length.set(now, end);
        }
        for number in at / SECTOR..end.div_ceil(SECTOR) {
            let (from, to) = (at.max(number * SECTOR), end.min((number + 1) * SECTOR));
            let part = &bytes[from - at..to - at];
            self.change(now, number, |sector| {
                sector[from - number * SECTOR..to - number * SECTOR].copy_from_slice(part);
            });
        }
    }

    fn truncate(&mut self, now: usize, length: usize) {
        if length >= *self.length.newest() {
            self.grow(length);
            return self.length.set(now, length);
        }
        self.before = Some((now, Box::new(self.clone())));
        self.length = Versions { durable: length, later: Vec::new() };
        self.sectors.truncate(length.div_ceil(SECTOR));
        self.dirty.retain(|page, _| *page < length.div_ceil(SECTOR * PAGE_SECTORS));
        if !length.is_multiple_of(SECTOR) {
            self.change(now, length / SECTOR, |sector| sector[length % SECTOR..].fill(0));
        }
    }

    fn change(&mut self, now: usize, number: usize, change: impl FnOnce(&mut Sector)) {
        let mut sector = self.sectors[number].newest().clone().unwrap_or(Box::new([0; SECTOR]));
        change(&mut sector);
        self.sectors[number].set(now, Some(sector));
        self.dirty.insert(number / PAGE_SECTORS, now);
    }

    fn grow(&mut self, length: usize) {
        let sectors = self.sectors.len().max(length.div_ceil(SECTOR));
        self.sectors.resize_with(sectors, Versions::default);
    }

    /// An fsync that began then with these pages dirty is over.
    fn synced(&mut self, begun: usize, dirty: &[usize], is_ok: bool) {
        if let Some((truncated, before)) = &mut self.before {
            if is_ok && *truncated <= begun {
                self.before = None;
            } else {
                before.synced(begun, dirty, is_ok);
            }
        }
        if is_ok {
            self.length.sync(begun);
            let pages =
                dirty.iter().flat_map(|page| page * PAGE_SECTORS..(page + 1) * PAGE_SECTORS);
            for number in pages {
                if let Some(sector) = self.sectors.get_mut(number) {
                    sector.sync(begun);
                }
            }
        }
        for page in dirty {
            if self.dirty.get(page).is_some_and(|written| *written <= begun) {
                self.dirty.remove(page);
            }
        }
    }

    fn image(&self, chance: &mut Chance, share: u64) -> Vec<u8> {
        if let Some((_, before)) = &self.before
            && chance.below(100) >= share
        {
            return before.image(chance, share);
        }
        let length = *self.length.choose(chance, share);
        let mut image = Vec::with_capacity(length + SECTOR);
        for sector in &self.sectors[..length.div_ceil(SECTOR)] {
            let sector = sector.choose(chance, share);
            image.extend_from_slice(sector.as_deref().unwrap_or(&[0; SECTOR]));
        }
        image.truncate(length);
        image
    }
}

#[derive(Debug)]
enum Naming {
    Created(PathBuf, usize),
    Removed(PathBuf),
    Renamed(PathBuf, PathBuf),
}

impl Naming {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Naming::Created(path, file) => {
                names.insert(path.clone(), *file);
            }
            Naming::Removed(path) => {
                names.remove(path);
            }
            Naming::Renamed(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
        }
    }

    fn folder(&self) -> Option<&Path> {
        match self {
            Naming::Created(path, _) | Naming::Removed(path) | Naming::Renamed(path, _) => {
                path.parent()
            }
        }
    }
}

/// An fsync under way: when it began, and what was dirty then.
#[derive(Debug)]
struct Sync {
    begun: usize,
    dirty: Vec<usize>,
}

type Image = BTreeMap<PathBuf, Vec<u8>>;

/// The files, in the page cache and on the disk.
#[derive(Debug, Default)]
struct Disk {
    now: usize,
    files: Vec<File>,
    by_inode: HashMap<u64, usize>,
    /// Those that are on the disk, and what has been done to them since.
    names: BTreeMap<PathBuf, usize>,
    namings: Vec<(usize, Naming)>,
    /// By thread.
    syncs: HashMap<u64, Sync>,
}

impl Disk {
    fn apply(&mut self, record: &Record) {
        self.now += 1;
        let now = self.now;
        let at = usize::try_from(record.at).unwrap();
        let file = self.by_inode.get(&record.inode).copied();
        let known = || file.unwrap_or_else(|| panic!("the trace has no beginning of {record:?}"));
        match record.kind {
            CREATED => {
                let file = self.files.len();
                self.files.push(File::default());
                self.by_inode.insert(record.inode, file);
                self.namings.push((now, Naming::Created(record.path.clone(), file)));
            }
            WRITTEN => self.files[known()].write(now, at, &record.bytes),
            TRUNCATED => self.files[known()].truncate(now, at),
            SYNC_BEGUN => {
                let dirty = file.map(|file| self.files[file].dirty.keys().copied().collect());
                let sync = Sync { begun: now, dirty: dirty.unwrap_or_default() };
                self.syncs.insert(record.thread, sync);
            }
            SYNCED | SYNC_FAILED => {
                let is_ok = record.kind == SYNCED;
                let Sync { begun, dirty } = self.syncs.remove(&record.thread).unwrap();
                if let Some(file) = file {
                    self.files[file].synced(begun, &dirty, is_ok);
                }
                if is_ok {
                    let is_folder = file.is_none();
                    let folder = if is_folder { Some(&*record.path) } else { record.path.parent() };
                    self.name(begun, folder);
                }
            }
            REMOVED => self.namings.push((now, Naming::Removed(record.path.clone()))),
            RENAMED => {
                let to = PathBuf::from(String::from_utf8(record.bytes.clone()).unwrap());
                self.namings.push((now, Naming::Renamed(record.path.clone(), to)));
            }
            _ => {}
        }
    }

    /// What was done to the names in this folder up to then is on the disk.
    fn name(&mut self, begun: usize, folder: Option<&Path>) {
        self.namings.retain(|(time, naming)| {
            let is_durable = *time <= begun && naming.folder() == folder;
            if is_durable {
                naming.apply(&mut self.names);
            }
            !is_durable
        });
    }

    /// What the disk might have if the power went now. Seed 0 has nothing that is not durable, seed
    /// 1 has all that was written, a greater one chooses.
    fn image(&self, seed: u64) -> Image {
        let mut chance = Chance::new(seed, self.now);
        let mut names = self.names.clone();
        let all = self.namings.len() as u64;
        let happened = match seed {
            0 => 0,
            1 => all,
            _ => chance.below(all + 1),
        };
        for (_, naming) in &self.namings[..happened as usize] {
            naming.apply(&mut names);
        }
        let image = |(path, file): (PathBuf, usize)| {
            let share = chance.share();
            (path, self.files[file].image(&mut chance, share))
        };
        names.into_iter().map(image).collect()
    }
}

/// Numbers that are the same in every run (SplitMix64).
#[derive(Debug)]
struct Chance {
    seed: u64,
    state: u64,
}

impl Chance {
    fn new(seed: u64, salt: usize) -> Chance {
        Chance { seed, state: seed.wrapping_mul(0x1000_0001).wrapping_add(salt as u64) }
    }

    fn below(&mut self, end: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    /// How many in a hundred of a file's sectors reached the disk although no fsync says so.
    fn share(&mut self) -> u64 {
        match self.seed {
            0 => 0,
            1 => 100,
            _ => [0, 5, 50, 95, 100][self.below(5) as usize],
        }
    }
}

/// Looks at images, each only once.
#[derive(Debug)]
struct Looker {
    folder: TempDir,
    seen: HashMap<u64, Result<Vec<String>, String>>,
}

impl Looker {
    fn new() -> Looker {
        Looker { folder: tempfile::tempdir().unwrap(), seen: HashMap::new() }
    }

    /// The ids of all messages in the image, or what is wrong with it.
    fn ids(&mut self, image: &Image) -> Result<Vec<String>, String> {
        let mut hasher = DefaultHasher::new();
        image.hash(&mut hasher);
        let folder = self.folder.path();
        let read = || read_ids(folder, image).map_err(|error| error.to_string());
        self.seen.entry(hasher.finish()).or_insert_with(read).clone()
    }
}

fn read_ids(folder: &Path, image: &Image) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    for file in fs::read_dir(folder)? {
        fs::remove_file(file?.path())?;
    }
    for (path, bytes) in image {
        fs::write(folder.join(path.file_name().unwrap_or_default()), bytes)?;
    }
    let connection = Connection::open(database(folder))?;
    connection.execute_batch("PRAGMA synchronous = OFF")?;
    let whole: String = connection.query_row("PRAGMA integrity_check", (), |row| row.get(0))?;
    if whole != "ok" {
        return Err(whole.into());
    }
    let sql = "SELECT count(*) FROM sqlite_schema WHERE name = 'messages'";
    let has_messages: bool = connection.query_row(sql, (), |row| row.get(0))?;
    if !has_messages {
        return Ok(Vec::new());
    }
    let mut ids = connection.prepare("SELECT message_id FROM messages NOT INDEXED")?;
    let ids = ids.query_map((), |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(ids)
}

/// Cuts the power behind each of these records: whatever the disk has then, every message that had
/// been acknowledged is there once, and the database is whole.
fn lose_power_and_compare(records: &[Record], failures: &BTreeSet<usize>, seeds: u64) {
    let (mut disk, mut looker) = (Disk::default(), Looker::new());
    let mut acknowledged = BTreeSet::new();
    let mut problems = Vec::new();
    for (index, record) in records.iter().enumerate() {
        disk.apply(record);
        if record.kind == MARK
            && let Some(id) = record.path.to_str().unwrap().strip_prefix("acknowledged ")
        {
            acknowledged.insert(id.to_owned());
        }
        if !failures.contains(&index) {
            continue;
        }
        for seed in 0..seeds {
            let problem = match looker.ids(&disk.image(seed)) {
                Ok(ids) => compare(&acknowledged, ids),
                Err(problem) => Some(problem),
            };
            if let Some(problem) = problem {
                problems
                    .push(format!("a power failure behind record {index}, seed {seed}: {problem}"));
            }
        }
    }
    let images = looker.seen.len();
    eprintln!("{} records, {} failures, {images} different images", records.len(), failures.len());
    assert!(
        problems.is_empty(),
        "{} of {} power failures lose something; the first:\n{}",
        problems.len(),
        failures.len() as u64 * seeds,
        problems[..problems.len().min(10)].join("\n")
    );
}

fn compare(acknowledged: &BTreeSet<String>, stored: Vec<String>) -> Option<String> {
    let rows = stored.len();
    let stored: BTreeSet<String> = stored.into_iter().collect();
    let lost: Vec<_> = acknowledged.difference(&stored).collect();
    if !lost.is_empty() {
        let (gone, all) = (lost.len(), acknowledged.len());
        let first = lost[0];
        return Some(format!("{gone} of {all} acknowledged messages are gone, such as {first}"));
    }
    (rows != stored.len()).then(|| format!("{rows} rows have {} ids", stored.len()))
}

/// Where the last record with this mark is.
fn position(records: &[Record], text: &str) -> usize {
    records.iter().rposition(|record| record.is_mark(text)).unwrap()
}

/// Behind every acknowledgement from this record on.
fn acknowledgements(records: &[Record], from: usize) -> BTreeSet<usize> {
    let is_one = |index: &usize| {
        let Record { kind, path, .. } = &records[*index];
        *kind == MARK && path.to_str().unwrap().starts_with("acknowledged ")
    };
    (from..records.len()).filter(is_one).collect()
}

/// Delivers it as a provider does: again for as long as it is answered 503.
fn deliver(inbox: &Inbox, id: &str) {
    let end = Instant::now() + WAIT;
    loop {
        let reply = inbox.deliver(&message(id));
        if reply.status == 200 {
            return mark(inbox.folder.path(), &format!("acknowledged {id}"));
        }
        assert!(reply.status == 503 && Instant::now() < end, "{reply:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn deliver_all(inbox: &Inbox, ids: std::ops::Range<usize>) {
    for id in ids {
        deliver(inbox, &format!("m{id}"));
    }
}

fn start_recorded() -> Inbox {
    let folder = tempfile::tempdir().unwrap();
    start_trace(folder.path());
    Inbox::start_with_faults_in(folder)
}

fn start_again(folder: TempDir) -> Inbox {
    mark(folder.path(), "start");
    let inbox = Inbox::start_with_faults_in(folder);
    mark(inbox.folder.path(), "started");
    inbox
}

#[test]
fn a_power_failure_at_any_moment_of_a_busy_service_loses_nothing_acknowledged() {
    let inbox = start_recorded();
    at_once(8, |thread| {
        for number in 0..25 {
            deliver(&inbox, &format!("m{thread}-{number}"));
        }
    });
    let folder = inbox.kill();
    let records = read_trace(folder.path());
    let mut chance = Chance::new(2, 0);
    let failures = (0..200).map(|_| chance.below(records.len() as u64) as usize).collect();
    lose_power_and_compare(&records, &failures, 3);
}

/// An fsync fails, the sender is answered 503, and the service ends. The frames of that commit are
/// in the log as the page cache has it, and a start would read them there; but the kernel has marked
/// them clean and never writes them, so the log on the disk ends before them for ever.
fn fail_a_commit_and_restart(fault: &str, end: fn(Inbox) -> TempDir) {
    let inbox = start_recorded();
    // Indexes of several pages, which a clean stop moves out of the log: the commit that fails then
    // changes pages that no other frame of the log repairs where a checkpoint is interrupted.
    for number in 0..40 {
        deliver(&inbox, &long_id(number));
    }
    let inbox = start_again(inbox.stop());
    deliver_all(&inbox, 0..5);
    inbox.fault(fault, true);
    let fields = json!({ "from": "+1", "ts": "2024-01-15T10:00:00Z" });
    assert_eq!(inbox.deliver(&message_with(&long_id(0).replace('x', "y"), &fields)).status, 503);
    let folder = end(inbox);
    crate::harness::fault(folder.path(), fault, false);
    let inbox = start_again(folder);
    deliver_all(&inbox, 5..20);
    let folder = inbox.kill();
    let records = read_trace(folder.path());
    let (start, started) = (position(&records, "start"), position(&records, "started"));
    let mut failures = acknowledgements(&records, start);
    failures.extend(start..started);
    failures.insert(records.len() - 1);
    lose_power_and_compare(&records, &failures, 8);
}

fn long_id(number: usize) -> String {
    format!("{number:02}{}", "x".repeat(400))
}

#[test]
fn after_a_failed_commit_and_a_kill_a_power_failure_loses_nothing_acknowledged() {
    fail_a_commit_and_restart("fail_fsync", Inbox::kill);
}

#[test]
fn after_a_failed_commit_and_a_stop_a_power_failure_loses_nothing_acknowledged() {
    fail_a_commit_and_restart("fail_wal_fsync", Inbox::stop);
}

#[test]
fn after_a_failed_commit_a_service_that_goes_on_loses_nothing_acknowledged() {
    let inbox = start_recorded();
    deliver_all(&inbox, 0..5);
    inbox.fault("fail_fsync", true);
    assert_eq!(inbox.deliver(&message("failed")).status, 503);
    inbox.fault("fail_fsync", false);
    deliver_all(&inbox, 5..20);
    let folder = inbox.stop();
    let records = read_trace(folder.path());
    let mut failures = acknowledgements(&records, 0);
    failures.extend(*failures.last().unwrap()..records.len());
    lose_power_and_compare(&records, &failures, 6);
}

/// The process ends between a commit's last write and its fsync. After the restart the message is
/// there, and its repetition changes nothing; yet its 200 says that it is on the disk.
#[test]
fn a_repeated_delivery_is_acknowledged_only_once_the_first_one_is_on_disk() {
    let inbox = start_recorded();
    deliver_all(&inbox, 0..5);
    mark(inbox.folder.path(), "hang");
    inbox.fault("hang_fsync", true);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| {
            let body = message("repeated").to_string();
            let sent = crate::harness::agent()
                .post(inbox.url("/webhook"))
                .header("X-Signature", crate::harness::sign(body.as_bytes()))
                .send(&body);
            assert!(sent.is_err(), "the process was killed before it could answer");
        });
        wait_for_fsync_of_the_log(inbox.folder.path());
        inbox.signal("-KILL");
        first.join().unwrap();
    });
    let folder = inbox.kill();
    fault(folder.path(), "hang_fsync", false);
    let inbox = start_again(folder);
    deliver(&inbox, "repeated");
    let folder = inbox.kill();
    let records = read_trace(folder.path());
    let mut failures = acknowledgements(&records, 0);
    failures.extend(position(&records, "start")..records.len());
    lose_power_and_compare(&records, &failures, 6);
}

/// Behind the mark "hang".
fn wait_for_fsync_of_the_log(folder: &Path) {
    let end = Instant::now() + WAIT;
    loop {
        let records = read_trace(folder);
        let after = &records[position(&records, "hang")..];
        let is_one = |record: &Record| {
            record.kind == SYNC_BEGUN && record.path.to_str().unwrap().ends_with("-wal")
        };
        if after.iter().any(is_one) {
            return;
        }
        assert!(Instant::now() < end, "no fsync begins");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What is erased: the sender, the text, and what the ids begin with.
const ERASED: [&str; 3] = ["+15557654321", "a text to be erased", "erased-"];

/// More than one transaction of `erase` takes, whose pages still have what the next one takes.
fn deliver_to_erase(inbox: &Inbox) {
    at_once(8, |thread| {
        for number in 0..32 {
            let fields = json!({ "from": ERASED[0], "text": ERASED[1] });
            let id = format!("{}{thread}-{number}", ERASED[2]);
            assert_eq!(inbox.deliver(&message_with(&id, &fields)).status, 200);
        }
        for number in 0..4 {
            deliver(inbox, &format!("kept-{thread}-{number}"));
        }
    });
}

fn erase(folder: &Path) {
    let mut erase: Command = command(folder);
    with_faults(&mut erase);
    let output = erase.args(["erase", "--from", ERASED[0], "--yes"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    mark(folder, "erased");
}

/// Cuts the power at many moments from the mark "erased" on.
fn lose_power_and_search(records: &[Record]) {
    let erased = position(records, "erased");
    let mut failures = acknowledgements(records, erased);
    failures.extend(erased..records.len().min(erased + 20));
    failures.extend(records.len() - 5..records.len());
    let mut disk = Disk::default();
    let mut found = Vec::new();
    for (index, record) in records.iter().enumerate() {
        disk.apply(record);
        let seeds = if failures.contains(&index) { 0..8 } else { 0..0 };
        for seed in seeds {
            for (path, bytes) in disk.image(seed) {
                let name = path.file_name().unwrap().display();
                let is_left = |what: &&&str| memmem::find(&bytes, what.as_bytes()).is_some();
                for what in ERASED.iter().filter(is_left) {
                    found.push(format!(
                        "a power failure behind record {index}, seed {seed}: {what} in {name}"
                    ));
                }
            }
        }
    }
    assert!(
        found.is_empty(),
        "a power failure brings back what was erased, {} times; the first:\n{}",
        found.len(),
        found[..found.len().min(10)].join("\n")
    );
    lose_power_and_compare(records, &failures, 4);
}

#[test]
fn what_was_erased_beside_the_service_stays_erased_after_a_power_failure() {
    let inbox = start_recorded();
    deliver_to_erase(&inbox);
    erase(inbox.folder.path());
    deliver_all(&inbox, 0..5);
    let folder = inbox.stop();
    lose_power_and_search(&read_trace(folder.path()));
}

#[test]
fn what_was_erased_without_the_service_stays_erased_after_a_power_failure() {
    let inbox = start_recorded();
    deliver_to_erase(&inbox);
    let folder = inbox.kill();
    erase(folder.path());
    let inbox = start_again(folder);
    deliver_all(&inbox, 0..5);
    let folder = inbox.stop();
    lose_power_and_search(&read_trace(folder.path()));
}

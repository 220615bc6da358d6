//! One JSON object a line on stdout, whoever wrote the record, and nothing else.
//!
//! Owns the queue of lines and the thread that writes them: a reader of the log that stops
//! reading (a paused terminal, a stuck log driver) must not stop a worker, so lines wait in a
//! bounded buffer, and are dropped and counted when it is full.

use std::{
    fmt::Write as _,
    io::Write,
    mem,
    sync::{
        Arc, Condvar, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use log::{
    Level, LevelFilter, Log, Metadata, Record,
    kv::{Error, Key, Value, VisitSource, VisitValue},
};
use serde::Serialize;
use simplelog::{CombinedLogger, SharedLogger};
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

use crate::threads::{lock, spawn};

/// Bytes of log lines that may wait for a slow reader of stdout.
pub const QUEUE_BYTES_MAX: usize = 1024 * 1024;
/// Lines that clients can cause without a signature: at once, and then each second. What they cause
/// beyond is counted, and left out of the log, so that nobody fills a disk with it.
const CLIENT_LINES_MAX: u32 = 1000;
const CLIENT_LINES_PER_SECOND: f64 = 50.0;
/// The target of such lines; and of the operator's troubles, which clients can cause to be repeated.
/// Each has an allowance of its own, so that noise does not hide trouble.
pub(crate) const CLIENT: &str = "mailslot::client";
pub(crate) const TROUBLE: &str = "mailslot::trouble";
/// How long a line waits for others, so that a busy log costs few system calls.
const GATHER_MS: u64 = 5;
/// How long the end of the process waits for a slow reader of stdout.
const FLUSH_MS_MAX: u64 = 1000;

/// RFC 3339, UTC, milliseconds: the form of every time that mailslot writes.
const TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

static SINK: OnceLock<Arc<Sink>> = OnceLock::new();
static PANICS: AtomicU64 = AtomicU64::new(0);
static TINY_HTTP_PANICS: AtomicU64 = AtomicU64::new(0);
static SUPPRESSED: AtomicU64 = AtomicU64::new(0);

/// Lines left out since the start because clients caused too many.
pub(crate) fn suppressed() -> u64 {
    SUPPRESSED.load(Relaxed)
}

/// Panics since [`init`], in any thread, but those of tiny_http.
pub(crate) fn panics() -> u64 {
    PANICS.load(Relaxed)
}

/// Panics of tiny_http, which clients can cause (H7 in docs/TINY_HTTP.md).
pub(crate) fn tiny_http_panics() -> u64 {
    TINY_HTTP_PANICS.load(Relaxed)
}

/// The present as `2026-11-22T10:00:00.123Z`.
#[must_use]
pub fn now() -> String {
    OffsetDateTime::now_utc().format(TIME).unwrap_or_default()
}

/// The same, in seconds since 1970.
pub(crate) fn now_seconds() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

/// The same, in milliseconds.
pub(crate) fn now_ms() -> i64 {
    i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

/// Writes a record whatever the level is.
pub(crate) fn announce(record: &Record<'_>) {
    if let Some(sink) = SINK.get() {
        sink.push(&line(record));
    }
}

/// What stops the lines that still wait from being lost when the process ends.
#[derive(Debug, Clone)]
pub struct Flush(Arc<Sink>);

impl Flush {
    /// Returns when stdout has every line, or after a second.
    pub fn flush(&self) {
        self.0.flush();
    }
}

/// Installs the logger and the panic hook. Later calls of [`log`] and all panics become lines.
///
/// # Errors
/// When the thread that writes cannot be started.
pub fn init(level: LevelFilter) -> std::io::Result<Flush> {
    let sink = Arc::new(Sink::default());
    let writer = Arc::clone(&sink);
    spawn("log", move || writer.write_forever())?;
    // Fails only if a logger is installed already, which then stays.
    let _ = CombinedLogger::init(vec![Box::new(JsonLines {
        sink: Arc::clone(&sink),
        client: Mutex::new(Allowance::new()),
        trouble: Mutex::new(Allowance::new()),
    })]);
    set_level(level);
    let _ = SINK.set(Arc::clone(&sink));
    let at_panic = Arc::clone(&sink);
    std::panic::set_hook(Box::new(move |panic| {
        let thread = thread::current();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("");
        let is_main = thread.name() == Some("main");
        let is_ours = !place.contains("tiny_http");
        let (target, count) =
            if is_ours { (TROUBLE, &PANICS) } else { (CLIENT, &TINY_HTTP_PANICS) };
        count.fetch_add(1, Relaxed);
        log::error!(target: target, thread = thread.name().unwrap_or(""), place = place.as_str(), panic = message; "panic");
        if is_main {
            // The process ends with this thread.
            at_panic.flush();
        }
    }));
    Ok(Flush(sink))
}

/// From now on.
pub fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}

#[derive(Debug, Default)]
struct Sink {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    lines: Vec<u8>,
    dropped: u64,
    writing: bool,
}

impl Sink {
    fn push(&self, line: &[u8]) {
        let mut queue = lock(&self.queue);
        if queue.lines.len() + line.len() > QUEUE_BYTES_MAX {
            queue.dropped += 1;
            return;
        }
        let was_empty = queue.lines.is_empty();
        queue.lines.extend_from_slice(line);
        // While lines wait, the writer is awake or on its way.
        if was_empty && !queue.writing {
            self.changed.notify_all();
        }
    }

    fn write_forever(&self) {
        let mut lines = Vec::new();
        loop {
            let mut queue = lock(&self.queue);
            queue.writing = false;
            self.changed.notify_all();
            while queue.lines.is_empty() {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            drop(queue);
            thread::sleep(Duration::from_millis(GATHER_MS));
            let mut queue = lock(&self.queue);
            mem::swap(&mut lines, &mut queue.lines);
            let dropped = mem::take(&mut queue.dropped);
            queue.writing = true;
            drop(queue);
            // Nobody is left to tell that stdout is gone; the service matters more than its log.
            let _ = std::io::stdout().write_all(&lines);
            lines.clear();
            if dropped > 0 {
                log::warn!(dropped; "log lines dropped: stdout is read too slowly");
            }
        }
    }

    fn flush(&self) {
        let queue = lock(&self.queue);
        let _ =
            self.changed.wait_timeout_while(queue, Duration::from_millis(FLUSH_MS_MAX), |queue| {
                queue.writing || !queue.lines.is_empty()
            });
    }
}

/// How many more lines of [`CLIENT`] may be written now.
#[derive(Debug)]
struct Allowance {
    lines: f64,
    since: Instant,
    suppressed: u64,
    /// When it was last said how many.
    said: Instant,
}

impl Allowance {
    fn new() -> Allowance {
        let now = Instant::now();
        Allowance { lines: f64::from(CLIENT_LINES_MAX), since: now, suppressed: 0, said: now }
    }

    /// Whether one more may be written, and how many were not before it, once a second.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let earned = now.duration_since(self.since).as_secs_f64() * CLIENT_LINES_PER_SECOND;
        self.lines = (self.lines + earned).min(f64::from(CLIENT_LINES_MAX));
        self.since = now;
        if self.lines < 1.0 {
            self.suppressed += 1;
            SUPPRESSED.fetch_add(1, Relaxed);
            return None;
        }
        self.lines -= 1.0;
        if now.duration_since(self.said) < Duration::from_secs(1) {
            return Some(0);
        }
        self.said = now;
        Some(mem::take(&mut self.suppressed))
    }
}

#[derive(Debug)]
struct JsonLines {
    sink: Arc<Sink>,
    client: Mutex<Allowance>,
    trouble: Mutex<Allowance>,
}

impl JsonLines {
    /// tiny_http reports as errors what its guard here expects and handles.
    fn level_of(metadata: &Metadata<'_>) -> Level {
        if metadata.target().starts_with("tiny_http") { Level::Debug } else { metadata.level() }
    }
}

impl Log for JsonLines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        Self::level_of(metadata) <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let allowance = match record.target() {
            CLIENT => Some(&self.client),
            TROUBLE => Some(&self.trouble),
            _ => None,
        };
        if let Some(allowance) = allowance {
            match lock(allowance).take(Instant::now()) {
                None => return,
                Some(0) => {}
                Some(lines) => log::warn!(lines; "log lines left out: clients caused too many"),
            }
        }
        self.sink.push(&line(record));
    }

    fn flush(&self) {
        self.sink.flush();
    }
}

impl SharedLogger for JsonLines {
    /// Every one: which are written is decided by [`log::max_level`], which can change.
    fn level(&self) -> LevelFilter {
        LevelFilter::Trace
    }

    fn config(&self) -> Option<&simplelog::Config> {
        None
    }

    fn as_log(self: Box<Self>) -> Box<dyn Log> {
        self
    }
}

fn line(record: &Record<'_>) -> Vec<u8> {
    let mut line = Line(Vec::with_capacity(384));
    line.0.extend_from_slice(b"{\"ts\":");
    line.value(&now());
    line.field("level", JsonLines::level_of(record.metadata()).as_str());
    if !record.target().starts_with("mailslot") {
        line.field("target", record.target());
    }
    line.field("msg", &record.args());
    let _ = record.key_values().visit(&mut line);
    line.0.extend_from_slice(b"}\n");
    escaped(line.0)
}

/// Lines of JSON or CSV as a terminal can show them: what it would obey instead is written as
/// `\u001b`, which in JSON means the same. The ends of lines and tabs stay.
pub(crate) fn escaped(lines: Vec<u8>) -> Vec<u8> {
    // This is true of nearly all of the log, and quickly found out.
    if lines.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\n')) {
        return lines;
    }
    let text = String::from_utf8_lossy(&lines);
    let mut shown = String::with_capacity(lines.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let is_end = c == '\n' || (c == '\r' && chars.peek() == Some(&'\n'));
        if is_obeyed(c) && !is_end {
            let _ = write!(shown, "\\u{:04x}", u32::from(c));
        } else {
            shown.push(c);
        }
    }
    shown.into_bytes()
}

/// Controls, line separators, and what changes the direction of the text (Unicode's Bidi_Control).
fn is_obeyed(c: char) -> bool {
    let is_separator_or_direction = matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    (c.is_control() && c != '\t') || is_separator_or_direction
}

/// One object, built member by member. serde_json escapes whatever a client sent.
struct Line(Vec<u8>);

impl Line {
    fn field(&mut self, name: &str, value: &(impl Serialize + ?Sized)) {
        self.0.push(b',');
        self.value(name);
        self.0.push(b':');
        self.value(value);
    }

    fn value(&mut self, value: &(impl Serialize + ?Sized)) {
        let _ = serde_json::to_writer(&mut self.0, value);
    }
}

impl<'kvs> VisitSource<'kvs> for Line {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        self.0.push(b',');
        self.value(key.as_str());
        self.0.push(b':');
        value.visit(self)
    }
}

impl VisitValue<'_> for Line {
    fn visit_any(&mut self, value: Value<'_>) -> Result<(), Error> {
        self.value(&value.to_string());
        Ok(())
    }

    fn visit_null(&mut self) -> Result<(), Error> {
        self.value(&());
        Ok(())
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), Error> {
        self.value(&value);
        Ok(())
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), Error> {
        self.value(&value);
        Ok(())
    }

    fn visit_f64(&mut self, value: f64) -> Result<(), Error> {
        self.value(&value);
        Ok(())
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), Error> {
        self.value(&value);
        Ok(())
    }

    fn visit_str(&mut self, value: &str) -> Result<(), Error> {
        self.value(value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_clients_cause_are_bounded_and_the_rest_is_counted() {
        let mut allowance = Allowance::new();
        let start = allowance.since;
        let written = (0..5000).filter(|_| allowance.take(start).is_some()).count();
        assert_eq!(written, 1000);
        let later = start + Duration::from_secs(2);
        assert_eq!(allowance.take(later), Some(4000));
        let written = (0..5000).filter(|_| allowance.take(later).is_some()).count();
        assert_eq!(written, 99);
    }

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        let text = "tab\u{2028}\u{85}\u{9b}31m\u{7f}\u{202e} École 🙂";
        let line = escaped(serde_json::to_vec(text).unwrap());
        let shown = String::from_utf8(line.clone()).unwrap();
        assert_eq!(shown, "\"tab\\u2028\\u0085\\u009b31m\\u007f\\u202e École 🙂\"");
        assert_eq!(serde_json::from_slice::<String>(&line).unwrap(), text);
        let csv = "a,\"\u{1b}[2J\rb\tc\nd\u{200f}\"\r\n".as_bytes();
        let shown = String::from_utf8(escaped(csv.to_vec())).unwrap();
        assert_eq!(shown, "a,\"\\u001b[2J\\u000db\tc\nd\\u200f\"\r\n");
    }
}

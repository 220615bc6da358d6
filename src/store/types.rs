//! What every engine is given and what it gives back. Nothing here knows how an engine stores it.

use std::ops::Range;

use memchr::memmem::Finder;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    error::Error,
    message::{Delivered, Message, fold_case},
    metrics::Source,
    original::{Content, Original},
    timestamp::Timestamp,
};

/// Why a store was not opened.
#[derive(Debug)]
pub(crate) struct Unopened {
    /// For the operator.
    pub(crate) sentence: String,
    /// Trying it again is of no use before the operator has changed something.
    pub(crate) is_of_settings: bool,
}

impl From<String> for Unopened {
    fn from(sentence: String) -> Unopened {
        Unopened { sentence, is_of_settings: false }
    }
}

/// What one submitter asks a commit to carry.
#[derive(Debug)]
pub(crate) enum Job {
    /// Messages that are stored all or none.
    Messages(Vec<Delivered>),
    /// Deletes a few of the oldest messages whose `ts` is earlier than this.
    Expire(Timestamp),
    /// What the engine's background job has prepared is stored ([`super::Store::start_indexing`]).
    Index,
    /// Nothing but the commit itself: it succeeds when a message would be stored.
    Probe,
}

/// What became of one message.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Stored {
    Created,
    /// A message with this id was stored before, by this job too; the first version stays.
    Duplicate,
}

/// What became of a job, once it is on disk: an entry for each of its messages, in order. After an
/// error none of them is stored.
pub(crate) type Outcome = Result<Vec<Stored>, Error>;

/// A position in the order of messages, which is (timestamp, `message_id`): at the message that has
/// it, or where one would be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) timestamp: Timestamp,
    pub(crate) message_id: String,
}

impl Position {
    /// Before every message.
    pub(crate) const START: Position = Position {
        timestamp: Timestamp { seconds: i64::MIN, nanoseconds: 0 },
        message_id: String::new(),
    };

    /// Before every message of this moment.
    pub(crate) fn at(timestamp: Timestamp) -> Position {
        Position { timestamp, message_id: String::new() }
    }

    /// Right behind this one: no text is between a text and the same one with a NUL appended.
    pub(crate) fn next(&self) -> Position {
        Position { timestamp: self.timestamp, message_id: format!("{}\0", self.message_id) }
    }
}

/// Which messages. All conditions hold at once.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Filter {
    /// The one message that has this id.
    pub(crate) message_id: Option<String>,
    pub(crate) from: Option<String>,
    /// How the sender begins.
    pub(crate) from_prefix: Option<String>,
    pub(crate) to: Option<String>,
    /// Inclusive.
    pub(crate) since: Option<Timestamp>,
    /// Exclusive.
    pub(crate) until: Option<Timestamp>,
    /// A substring of the text; it is case-folded already ([`crate::message::fold_case`]).
    pub(crate) q: Option<String>,
    pub(crate) source: Option<Source>,
    pub(crate) kind: Option<String>,
}

impl Filter {
    /// Whether a moment is in the range of time.
    pub(super) fn covers(&self, timestamp: Timestamp) -> bool {
        self.since.is_none_or(|since| timestamp >= since)
            && self.until.is_none_or(|until| timestamp < until)
    }

    fn is_id(&self, message_id: &str) -> bool {
        self.message_id.as_ref().is_none_or(|wanted| wanted == message_id)
    }

    /// Whether a message from a sender matches, as far as the beginning decides.
    pub(super) fn is_from_prefix(&self, msisdn: &str) -> bool {
        self.from_prefix.as_ref().is_none_or(|prefix| msisdn.starts_with(prefix))
    }

    /// Whether a message matches, as far as its sender and its time do not decide. `finder`
    /// searches for `q`.
    pub(super) fn is_match(&self, received: &Received, finder: Option<&Finder<'_>>) -> bool {
        let Received { message, source, kind, .. } = received;
        let text = message.text.as_deref();
        self.is_id(&message.message_id)
            && self.is_from_prefix(&message.from)
            && self.is_to(message.to.as_bytes())
            && self.source.is_none_or(|wanted| wanted == *source)
            && self.kind.as_ref().is_none_or(|wanted| wanted == kind)
            && finder.is_none_or(|finder| text.is_some_and(|text| is_found(finder, text)))
    }

    /// Whether a message to this receiver matches.
    pub(super) fn is_to(&self, msisdn: &[u8]) -> bool {
        self.to.as_ref().is_none_or(|to| to.as_bytes() == msisdn)
    }
}

/// Whether a text has a case-folded substring.
pub(super) fn is_found(finder: &Finder<'_>, text: &str) -> bool {
    finder.find(fold_case(text).as_bytes()).is_some()
}

/// Which part of the messages, and in which direction.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Paging {
    pub(crate) limit: i64,
    pub(crate) start: Start,
    pub(crate) order: Order,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Start {
    Offset(i64),
    /// With what comes after a position, in the order asked for.
    After(Position),
    /// With what comes right before it.
    Before(Position),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Ascending,
    Descending,
}

impl Paging {
    /// Whether the page goes forward from where it starts, in ascending order, whatever the order
    /// is in which it is shown.
    pub(super) fn is_forward(&self) -> bool {
        use Order::{Ascending, Descending};
        matches!(
            (&self.start, self.order),
            (Start::Offset(_) | Start::After(_), Ascending) | (Start::Before(_), Descending)
        )
    }

    /// The position that the page begins with, or ends right before where it goes backward; `None`
    /// where an offset says that.
    pub(super) fn edge(&self) -> Option<Position> {
        match &self.start {
            Start::Offset(_) => None,
            Start::After(position) | Start::Before(position) => {
                Some(if self.is_forward() { position.next() } else { position.clone() })
            }
        }
    }

    /// Which of `total` messages the page has, counted in ascending order. `rank` gives how many
    /// messages come before a position.
    pub(super) fn window(
        &self,
        total: i64,
        rank: impl Fn(&Position) -> Result<i64, Error>,
    ) -> Result<Range<i64>, Error> {
        let edge = match (&self.start, self.edge()) {
            (Start::Offset(offset), _) if self.is_forward() => (*offset).min(total),
            (Start::Offset(offset), _) => (total - offset).max(0),
            (_, edge) => rank(&edge.unwrap_or(Position::START))?,
        };
        Ok(if self.is_forward() {
            edge..edge.saturating_add(self.limit).min(total)
        } else {
            (edge - self.limit).max(0)..edge
        })
    }
}

/// A page of messages.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) messages: Vec<Message>,
    /// How many match in all.
    pub(crate) total: i64,
    /// How many of them come before the page.
    pub(crate) offset: i64,
}

/// A message, when it was stored, and what is stored beside it.
#[derive(Debug, Serialize)]
pub(crate) struct Received {
    #[serde(flatten)]
    pub(crate) message: Message,
    /// RFC 3339, in UTC.
    pub(crate) created_at: String,
    pub(crate) source: Source,
    pub(crate) kind: String,
    /// Only where it was asked for.
    #[serde(skip)]
    pub(crate) original: Option<Original>,
}

/// About how many bytes the JSON of a message has beside its id and its text.
const FIELDS_BYTES: usize = 200;

impl Received {
    pub(super) fn position(&self) -> Position {
        let Message { timestamp, message_id, .. } = &self.message;
        Position { timestamp: *timestamp, message_id: message_id.clone() }
    }

    /// About how many bytes it has as JSON.
    pub(super) fn bytes(&self) -> usize {
        let Message { message_id, text, .. } = &self.message;
        FIELDS_BYTES + escaped(message_id) + text.as_deref().map_or(0, escaped)
    }
}

/// Bytes of a text in JSON, where some characters take six times as many.
fn escaped(text: &str) -> usize {
    let bytes = |byte: u8| match byte {
        0..0x20 => 6,
        b'"' | b'\\' => 2,
        _ => 1,
    };
    text.bytes().map(bytes).sum()
}

/// A message of the feed.
#[derive(Debug, Serialize)]
pub(crate) struct Committed {
    #[serde(flatten)]
    pub(crate) received: Received,
    pub(crate) cursor: String,
}

/// One message, with all that is known of it.
#[derive(Debug, Serialize)]
pub(crate) struct Found {
    #[serde(flatten)]
    message: Message,
    cursor: String,
    /// RFC 3339, in UTC.
    stored_at: String,
    source: Source,
    kind: String,
    original: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    original_too_large_bytes: Option<u32>,
}

impl From<Committed> for Found {
    fn from(Committed { received, cursor }: Committed) -> Found {
        let Received { message, created_at: stored_at, source, kind, original } = received;
        let (original, original_too_large_bytes) = parts(original.as_ref());
        Found { message, cursor, stored_at, source, kind, original, original_too_large_bytes }
    }
}

/// An original, or the length of one that was too large to be kept.
pub(crate) fn parts(original: Option<&Original>) -> (Option<Box<RawValue>>, Option<u32>) {
    match original.map(Original::content) {
        Some(Content::Json(json)) => (Some(json), None),
        Some(Content::TooLarge(bytes)) => (None, Some(bytes)),
        Some(Content::Damaged) | None => (None, None),
    }
}

/// Bytes of one answer of the feed, about: a longer one has fewer messages than were asked for. So
/// an answer fits into the kernel's buffers, and a thousand readers do not take a gigabyte.
pub(crate) const FEED_BYTES_MAX: usize = 65_536;

#[derive(Debug, Serialize)]
pub(crate) struct Stats {
    pub(crate) total_messages: i64,
    pub(crate) senders_count: i64,
    /// The senders of most messages, at most [`TOP_SENDERS`].
    pub(crate) messages_per_sender: Vec<SenderCount>,
    pub(crate) first_message_ts: Option<String>,
    pub(crate) last_message_ts: Option<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct SenderCount {
    pub(crate) from: String,
    pub(crate) count: i64,
}

/// Senders in [`Stats`].
pub(super) const TOP_SENDERS: i64 = 10;

/// Which messages the operator erases.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Selection {
    /// All messages from this sender.
    From(String),
    /// All messages whose `ts` is earlier.
    Before(Timestamp),
}

/// What counting finds, beside what the counters say.
#[derive(Debug)]
pub(crate) struct Recount {
    pub(crate) counts: Vec<Count>,
    /// Senders whose own counter is wrong.
    pub(crate) wrong_senders: i64,
    /// `created_at` of the newest message.
    pub(crate) last_created_at: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Count {
    pub(crate) of: &'static str,
    pub(crate) counted: i64,
    pub(crate) kept: i64,
}

/// What a look at a server has found.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    pub(crate) what: &'static str,
    /// What is so, and what to do.
    pub(crate) message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Ok,
    Warning,
    Problem,
}

impl Finding {
    pub(super) fn new(level: Level, what: &'static str, message: &str) -> Finding {
        Finding { level, what, message: message.to_owned() }
    }
}

/// A message with all that a move keeps.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) cursor: i64,
    pub(crate) received: Received,
}

/// What a move keeps beside the messages.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct History {
    /// The cursors of the feed that were given, as ranges in ascending order, each with its first
    /// and its last one.
    pub(crate) ranges: Vec<(i64, i64)>,
    /// Of the tombstones. It is random, so two databases that have the same one have one origin.
    pub(crate) erasing_key: Vec<u8>,
    /// Messages that were ever erased.
    pub(crate) erased: i64,
}

impl History {
    /// The last cursor that was given; 0 if there has been none.
    pub(crate) fn last_cursor(&self) -> i64 {
        self.ranges.last().map_or(0, |(_, last)| *last)
    }
}

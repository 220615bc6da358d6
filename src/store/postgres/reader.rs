//! Pages and totals. Each worker has a reader of its own, and no reader can write.

use std::{ops::Range, sync::Arc, time::Duration};

use sha2::{Digest, Sha256};

use super::{
    classes::Meant,
    failure::Failure,
    migrate::VERSION,
    ranks::{Ranks, is_search, position_values},
    rows::{self, MESSAGE},
    search,
    snapshot::{READ_TIMEOUT, Session, Snapshot},
    text::encode,
    values::{Rows, Statement, Value},
};
use crate::{
    config::Target,
    error::Error,
    message::Message,
    store::{
        search_slots::{SHORT_SEARCH_MS_MAX, SearchSlots},
        types::{Filter, Listing, Order, Paging, Position},
    },
    timestamp::Timestamp,
};

/// Behind every message.
pub(super) const END: Position = Position {
    timestamp: Timestamp { seconds: i64::MAX, nanoseconds: 0 },
    message_id: String::new(),
};
/// How long the server may take to answer the question whether this process is ready. Shorter than
/// the interval of the watchdog.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// With so few candidates, by party and by time, a search reads each one.
pub(super) const FEW: i64 = 1_024;
/// A page that begins so few messages from the first or the last one is found by a walk from there.
const NEAR: i64 = 256;

#[derive(Debug)]
pub(crate) struct Reader {
    session: Session,
    slots: Arc<SearchSlots>,
}

impl Reader {
    /// Readers share `slots`.
    pub(super) fn new(target: &Target, slots: &Arc<SearchSlots>) -> Reader {
        Reader { session: Session::new(target.clone()), slots: Arc::clone(slots) }
    }

    /// For a process beside the service.
    pub(crate) fn open_read_only(target: &Target) -> Result<Reader, String> {
        let mut reader = Reader::new(target, &Arc::new(SearchSlots::new(1)));
        let connected = reader.session.connect().map(drop);
        connected.map_err(|failure| format!("database {target}: {failure}"))?;
        Ok(reader)
    }

    pub(crate) fn check_schema(&mut self) -> Result<(), Error> {
        let sql = "SELECT writable_from, (SELECT max(id) FROM mailslot.messages)
                   FROM mailslot.sequencer";
        let asked = self.session.ask_within(CHECK_TIMEOUT, sql);
        let rows = asked.map_err(|failure| {
            let away = Error::NotReady("the database server does not answer or takes no writes");
            // A restart of this process would not help against what passes.
            let is_away = failure.is_passing();
            let error = failure.into_error();
            if is_away { away } else { error }
        })?;
        if rows.one()?.integer(0)? <= VERSION {
            Ok(())
        } else {
            Err(Error::NotReady("the database was brought up to date by a newer mailslot"))
        }
    }

    pub(super) fn ask(&mut self, sql: &str, values: &[Value<'_>]) -> Result<Rows, Failure> {
        self.session.ask(sql, values)
    }

    pub(super) fn read<T>(
        &mut self,
        read: impl Fn(&mut Snapshot<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.session.read(READ_TIMEOUT, read)
    }

    pub(crate) fn list(&mut self, filter: &Filter, paging: &Paging) -> Result<Listing, Error> {
        self.answer(filter, |snapshot| list(snapshot, filter, paging))
    }

    /// Reads what a filter means. Where that may take long, it needs one of the slots for that.
    pub(super) fn answer<T>(
        &mut self,
        filter: &Filter,
        read: impl Fn(&mut Snapshot<'_>) -> Result<T, Failure>,
    ) -> Result<T, Error> {
        let is_search = is_search(filter);
        let slot = is_search.then(|| self.slots.take()).flatten();
        let has_time = !is_search || slot.is_some();
        let short = Duration::from_millis(SHORT_SEARCH_MS_MAX);
        let answer = self.session.read(if has_time { READ_TIMEOUT } else { short }, read);
        answer.map_err(|failure| {
            if is_search && failure.code() == search::CANCELED {
                Error::Unavailable(if has_time {
                    "the search takes too long: narrow it down by from, since or until"
                } else {
                    "too many long searches, try again later"
                })
            } else {
                failure.into()
            }
        })
    }

    pub(crate) fn row(&mut self, message_id: &str) -> Option<i64> {
        let sql = "SELECT id FROM mailslot.messages WHERE hash = $1";
        let rows = self.ask(sql, &[Value::Bytes(&Sha256::digest(message_id))]).ok()?;
        rows.iter().next()?.integer(0).ok()
    }

    pub(crate) fn position(&mut self, row: i64) -> Option<Position> {
        let sql = "SELECT ts_s, ts_ns, message_id FROM mailslot.messages WHERE id = $1";
        let rows = self.ask(sql, &[Value::Integer(row)]).ok()?;
        rows::position(rows.iter().next()?).ok()
    }
}

fn list(snapshot: &mut Snapshot<'_>, filter: &Filter, paging: &Paging) -> Result<Listing, Failure> {
    let ranks = Ranks::open(snapshot, filter)?;
    if ranks.total == 0 {
        return Ok(Listing::default());
    }
    let since = filter.since.map(Position::at);
    let until = filter.until.map(Position::at);
    let edge = paging.edge();
    let positions: Vec<_> = [&since, &until, &edge].into_iter().flatten().collect();
    let mut before = ranks.before(snapshot, &positions)?.into_iter();
    let mut before = |position: &Option<Position>, otherwise: i64| {
        position.as_ref().and_then(|_| before.next()).unwrap_or(otherwise)
    };
    let first = before(&since, 0);
    let candidates = (before(&until, ranks.total) - first).max(0);
    let rank = (before(&edge, 0) - first).clamp(0, candidates);
    let range = (since.unwrap_or(Position::START), until.unwrap_or(END));
    let (total, rank, mut messages) = if is_search(filter) {
        let found = search::search(snapshot, filter, paging, candidates <= FEW)?;
        (found.total, found.before, Some(found.messages))
    } else {
        (candidates, rank, None)
    };
    let window = paging.window(total, |_| Ok(rank)).unwrap_or_default();
    if messages.is_none() {
        let window = window.clone();
        let asked = Asked { ranks: &ranks, range, edge, is_forward: paging.is_forward() };
        messages = Some(asked.page(snapshot, first, total, window)?);
    }
    let mut messages = messages.unwrap_or_default();
    let mut offset = window.start;
    if paging.order == Order::Descending {
        messages.reverse();
        offset = total - window.end;
    }
    Ok(Listing { messages, total, offset })
}

/// A page of the messages of a sender, of a receiver, of classes, or of all, from one position to
/// another.
struct Asked<'a> {
    ranks: &'a Ranks<'a>,
    range: (Position, Position),
    edge: Option<Position>,
    is_forward: bool,
}

impl Asked<'_> {
    /// The messages of `window`, in ascending order. `first` messages come before the range, which
    /// has `total`.
    fn page(
        &self,
        snapshot: &mut Snapshot<'_>,
        first: i64,
        total: i64,
        window: Range<i64>,
    ) -> Result<Vec<Message>, Failure> {
        let (start, end) = &self.range;
        let limit = window.end - window.start;
        if limit <= 0 {
            return Ok(Vec::new());
        }
        let mut walk = |from: &Position, is_forward, offset| {
            self.walk(snapshot, from, is_forward, [limit, offset])
        };
        match &self.edge {
            Some(edge) if self.is_forward => walk(edge.max(start), true, 0),
            Some(edge) => walk(edge.min(end), false, 0),
            None if window.start <= NEAR => walk(start, true, window.start),
            None if total - window.end <= NEAR => walk(end, false, total - window.end),
            None => match self.ranks.seek(snapshot, first + window.start)? {
                Some((second, rest)) => {
                    let from = Position::at(Timestamp::from(second));
                    self.walk(snapshot, &from, true, [limit, rest])
                }
                None => self.walk(snapshot, start, true, [limit, window.start]),
            },
        }
    }

    /// The messages from a position on, or those right before it, without the first few.
    fn walk(
        &self,
        snapshot: &mut Snapshot<'_>,
        from: &Position,
        is_forward: bool,
        [limit, offset]: [i64; 2],
    ) -> Result<Vec<Message>, Failure> {
        let classes = self.ranks.classes();
        let (column, msisdn) = self.ranks.party().unzip();
        let sql = match classes {
            Some(_) => by_class(is_forward),
            None => by_time(column, is_forward),
        };
        let id = encode(&from.message_id);
        let [seconds, nanoseconds, id] = position_values(from, &id);
        let (limit, offset) = (Value::Integer(limit), Value::Integer(offset));
        let names = classes.map(Meant::columns);
        let whose = match &names {
            Some([sources, kinds]) => vec![Value::Texts(sources), Value::Texts(kinds)],
            None => msisdn.map(Value::Text).into_iter().collect(),
        };
        let values = [&[seconds, nanoseconds, id, limit, offset], &whose[..]].concat();
        let statements = [Statement::plain(IN_ORDER), Statement::new(&sql, &values)];
        let rows = snapshot.run_last(&statements)?;
        let [_, rows, ..] = &rows[..] else { return Err(Failure::unexpected("no result")) };
        let mut messages =
            rows.iter().map(|row| rows::message(row, 0)).collect::<Result<Vec<_>, _>>()?;
        if !is_forward {
            messages.reverse();
        }
        Ok(messages)
    }
}

/// A bitmap has no order: the server would read all that are on that side, and sort them.
const IN_ORDER: &str = "SELECT set_config('enable_bitmapscan', 'off', true)";

/// The messages of a sender or a receiver `$6`, which `column` has, or all, on one side of the
/// position `$1` to `$3`: `$4` of them, without the first `$5`. A party is a range of its own
/// index, and of no other one: an index by time alone leads to the messages of all parties. `$6` is
/// selected, since the server would take the range of a frequent number that it sees for empty.
fn by_time(column: Option<&str>, is_forward: bool) -> String {
    let (side, end, order) = if is_forward { (">=", "<=", "") } else { ("<", ">=", "DESC") };
    let [columns, values, condition, orders] = match column {
        Some(column) => [
            format!("{column},"),
            "(SELECT $6::text),".to_owned(),
            format!("AND {column} {end} (SELECT $6::text)"),
            format!("{column} {order},"),
        ],
        None => Default::default(),
    };
    format!(
        "SELECT {MESSAGE} FROM mailslot.messages
         WHERE ({columns} ts_s, ts_ns, left(message_id, 256), message_id)
                 {side} ({values} $1, $2, left($3, 256), $3) {condition}
         ORDER BY {orders} ts_s {order}, ts_ns {order}, left(message_id, 256) {order},
             message_id {order}
         LIMIT $4 OFFSET $5"
    )
}

/// The same for the classes whose sources are `$6`, and whose kinds are `$7`. Each class is a range
/// of the index by class, and of no other index.
fn by_class(is_forward: bool) -> String {
    let (side, end, order) = if is_forward { (">=", "<=", "") } else { ("<", ">=", "DESC") };
    format!(
        "SELECT {MESSAGE} FROM (
             SELECT found.id FROM unnest($6::text[], $7::text[]) AS class (source, kind)
             CROSS JOIN LATERAL (
                 SELECT id, ts_s, ts_ns, message_id FROM mailslot.messages
                 WHERE (source, kind, ts_s, ts_ns, left(message_id, 256), message_id)
                         {side} (class.source, class.kind, $1, $2, left($3, 256), $3)
                     AND (source, kind) {end} (class.source, class.kind)
                 ORDER BY source {order}, kind {order}, ts_s {order}, ts_ns {order},
                     left(message_id, 256) {order}, message_id {order}
                 LIMIT $4::bigint + $5::bigint
             ) AS found
             ORDER BY ts_s {order}, ts_ns {order}, message_id {order} LIMIT $4 OFFSET $5
         ) AS page JOIN mailslot.messages USING (id)
         ORDER BY ts_s {order}, ts_ns {order}, message_id {order}"
    )
}

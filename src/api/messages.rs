//! `GET /messages`: a page of the messages that the filters match, with links to the next and the
//! previous page.

use form_urlencoded::Serializer;
use serde::Serialize;

use super::{
    answer::{Answer, Context},
    query::{Filters, Parameter, Query, parameters},
};
use crate::{
    error::Error,
    http::{Request, Response},
    message::Message,
    store::{Filter, Listing, Order, Paging, Position, Reader, Start},
    timestamp::Timestamp,
};

/// Bytes of a `Link` header beyond which it has the next page only, since clients and proxies often
/// refuse longer headers. The next page is always linked, so that following the links never ends
/// early. Its link is about as long as the request line with the same `q`.
pub(crate) const LINK_BYTES_MAX: usize = 8_192;
/// Bytes up to which a cursor contains the whole `message_id`. Of a longer one it contains the
/// beginning and the message's row, so that the position is exact as long as the message exists.
const CURSOR_ID_BYTES: usize = 1_000;
const CURSOR_PREFIX_BYTES: usize = 100;
/// Messages of one page.
pub(crate) const LIMIT_MAX: i64 = 100;
const LIMIT_DEFAULT: i64 = 50;

parameters! {
    Page {
        limit: i64 = integer(LIMIT_DEFAULT, 1..=LIMIT_MAX),
        offset: i64 = integer(0, 0..=i64::MAX),
        order: Order = choice(&[("asc", Order::Ascending), ("desc", Order::Descending)]),
        cursor: Option<String> = text(),
        message_id: Option<String> = text(),
    }
}

pub(super) const PARAMETERS: &[&[Parameter]] = &[Filters::PARAMETERS, Page::PARAMETERS];

#[derive(Serialize)]
struct Body {
    data: Vec<Message>,
    total: i64,
    limit: i64,
    offset: i64,
}

pub(super) fn list(context: &mut Context, request: &Request<'_>) -> Result<Answer, Error> {
    let reader = &mut context.reader;
    let (filter, paging) = parse(Query::of(request), |row| reader.position(row))?;
    let Listing { messages: data, total, offset } = reader.list(&filter, &paging)?;
    let links = links(reader, &Query::of(request), &data, &paging, total, offset);
    // An offset beyond the end is returned as it was requested.
    let offset = if let Start::Offset(asked) = paging.start { asked } else { offset };
    let response = Response::json(&Body { data, total, limit: paging.limit, offset });
    Ok(Answer::Now(response.with(links.map(|links| ("Link", links)))))
}

/// `position_of` gives the position of the message in a row.
fn parse(
    mut query: Query<'_>,
    position_of: impl FnOnce(i64) -> Option<Position>,
) -> Result<(Filter, Paging), Error> {
    let filters = Filters::read(&mut query);
    let Page { limit, offset, order, cursor, message_id } = Page::read(&mut query);
    let filter = Filter { message_id, ..filters.into() };
    let start = match cursor {
        None => Start::Offset(offset),
        Some(cursor) => read_cursor(&cursor, order, position_of).unwrap_or_else(|| {
            let msg = "Input should be the cursor of a Link header";
            query.refuse("value_error", "cursor", msg, &cursor, None);
            Start::Offset(offset)
        }),
    };
    query.finish()?;
    Ok((filter, Paging { limit, start, order }))
}

/// The `Link` header (RFC 8288): the same query with a cursor at the end or the beginning of this
/// page.
fn links(
    reader: &mut Reader,
    query: &Query<'_>,
    data: &[Message],
    paging: &Paging,
    total: i64,
    offset: i64,
) -> Option<String> {
    let (first, last) = (data.first()?, data.last()?);
    let end = offset + i64::try_from(data.len()).unwrap_or(0);
    let mut link = |side: Side, message: &Message, rel: &str| {
        let mut target = Serializer::new(String::new());
        // The cursor of the link replaces these two.
        let names = PARAMETERS.concat().into_iter().map(|parameter| parameter.name);
        for name in names.filter(|name| !["offset", "cursor"].contains(name)) {
            if let Some(value) = query.text(name) {
                // Written as the number, since leading zeros could make it long.
                let value = if name == "limit" { paging.limit.to_string() } else { value };
                target.append_pair(name, &value);
            }
        }
        target.append_pair("cursor", &cursor(side, message, |id| reader.row(id)));
        format!("</messages?{}>; rel=\"{rel}\"", target.finish())
    };
    let next = (end < total).then(|| link(Side::After, last, "next"));
    let previous = (offset > 0).then(|| link(Side::Before, first, "prev"));
    let both = [next.as_deref(), previous.as_deref()].into_iter().flatten().collect::<Vec<_>>();
    let both = both.join(", ");
    if both.len() <= LINK_BYTES_MAX { Some(both).filter(|links| !links.is_empty()) } else { next }
}

/// The side of the cursor's message on which a page is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Side {
    After,
    Before,
}

/// A cursor, opaque to clients: a side, a timestamp and a `message_id`. A long id is replaced by
/// its row and its beginning. `row_of` finds the row, which does not exist if the message was
/// deleted meanwhile.
pub(crate) fn cursor(
    side: Side,
    message: &Message,
    row_of: impl FnOnce(&str) -> Option<i64>,
) -> String {
    let Message { message_id, timestamp: Timestamp { seconds, nanoseconds }, .. } = message;
    if message_id.len() <= CURSOR_ID_BYTES {
        let side = if matches!(side, Side::After) { 'a' } else { 'b' };
        return hex::encode(format!("{side} {seconds} {nanoseconds} {message_id}"));
    }
    let side = if matches!(side, Side::After) { 'A' } else { 'B' };
    let row = row_of(message_id).unwrap_or_default();
    let prefix = &message_id[..message_id.floor_char_boundary(CURSOR_PREFIX_BYTES)];
    hex::encode(format!("{side} {seconds} {nanoseconds} {row} {prefix}"))
}

pub(crate) fn read_cursor(
    text: &str,
    order: Order,
    position_of: impl FnOnce(i64) -> Option<Position>,
) -> Option<Start> {
    let text = String::from_utf8(hex::decode(text).ok()?).ok()?;
    let mut parts = text.splitn(4, ' ');
    let side = parts.next()?;
    let timestamp = Timestamp {
        seconds: parts.next()?.parse().ok()?,
        nanoseconds: parts.next()?.parse().ok()?,
    };
    let rest = parts.next()?;
    let of_id = |id: &str| Position { timestamp, message_id: id.to_owned() };
    let of_row = |side: Side| {
        let (row, prefix) = rest.split_once(' ')?;
        let is_it = |position: &Position| {
            position.timestamp == timestamp && position.message_id.starts_with(prefix)
        };
        // If the message has been deleted, the page begins as far out as its id may have been: it
        // may repeat messages, but it skips none.
        let otherwise = || match (side, order) {
            (Side::After, Order::Ascending) | (Side::Before, Order::Descending) => of_id(prefix),
            (Side::Before, Order::Ascending) | (Side::After, Order::Descending) => {
                behind(of_id(prefix))
            }
        };
        Some(position_of(row.parse().ok()?).filter(is_it).unwrap_or_else(otherwise))
    };
    match side {
        "a" => Some(Start::After(of_id(rest))),
        "b" => Some(Start::Before(of_id(rest))),
        "A" => of_row(Side::After).map(Start::After),
        "B" => of_row(Side::Before).map(Start::Before),
        _ => None,
    }
}

/// The first position after every `message_id` that begins like this one.
fn behind(Position { timestamp, mut message_id }: Position) -> Position {
    while let Some(last) = message_id.pop() {
        if let Some(next) = (last..=char::MAX).nth(1) {
            message_id.push(next);
            return Position { timestamp, message_id };
        }
    }
    // No id of this timestamp comes later.
    let Timestamp { seconds, nanoseconds } = timestamp;
    let timestamp = Timestamp { seconds, nanoseconds: nanoseconds.saturating_add(1) };
    Position { timestamp, message_id }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<(Filter, Paging), Vec<&'static str>> {
        let (target, headers) = (format!("/messages?{query}"), &[][..]);
        let parsed = parse(Query::of(&Request::new(b"", &target, &headers, 0)), |_| None);
        parsed.map_err(|error| match error {
            Error::Invalid { problems, .. } => {
                problems.iter().map(|problem| problem.r#type).collect()
            }
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn numbers_are_integers_in_range() {
        for (query, kind) in [
            ("limit=0", "greater_than_equal"),
            ("limit=101", "less_than_equal"),
            ("limit=-1", "greater_than_equal"),
            ("limit=abc", "int_parsing"),
            ("limit=", "int_parsing"),
            ("limit=1.5", "int_parsing"),
            ("limit=%00", "int_parsing"),
            ("limit=%EF%BC%95", "int_parsing"),
            ("offset=-1", "greater_than_equal"),
            ("offset=100000000000000000000", "less_than_equal"),
            ("offset=-100000000000000000000", "greater_than_equal"),
            ("since=yesterday", "string_pattern_mismatch"),
            ("until=2025-02-30T00:00:00Z", "string_pattern_mismatch"),
            ("order=up", "enum"),
            ("source=sms", "enum"),
            ("cursor=61", "value_error"),
            ("cursor=x", "value_error"),
        ] {
            assert_eq!(read(query).map(|_| ()), Err(vec![kind]), "{query}");
        }
        assert_eq!(read("limit=x&offset=y&since=z&order=q").map(|_| ()).unwrap_err().len(), 4);
        let repeated = read("limit=100&offset=9223372036854775807&limit=1");
        assert!(repeated.is_ok_and(|(_, paging)| paging.limit == 1));
    }

    #[test]
    fn a_typed_plus_is_a_plus() {
        for query in ["from=+919876543210", "from=%2B919876543210", "from=%20919876543210"] {
            assert!(
                read(query).is_ok_and(|(f, _)| f.from.as_deref() == Some("+919876543210")),
                "{query}"
            );
        }
        assert!(read("to=+1").is_ok_and(|(f, _)| f.to.as_deref() == Some("+1")));
        assert!(read("q=a+b").is_ok_and(|(f, _)| f.q.as_deref() == Some("a b")));
        let empty = read(
            "message_id=&from=&from_prefix=&to=&since=&until=&q=&order=&cursor=&source=&kind=",
        );
        assert!(empty.is_ok_and(|(filter, paging)| {
            filter == Filter::default() && paging.start == Start::Offset(0)
        }));
    }

    fn at(nanoseconds: u32, message_id: &str) -> Message {
        Message {
            message_id: message_id.to_owned(),
            from: String::new(),
            to: String::new(),
            ts: String::new(),
            text: None,
            timestamp: Timestamp { seconds: -5, nanoseconds },
        }
    }

    fn position(message: &Message) -> Position {
        Position { timestamp: message.timestamp, message_id: message.message_id.clone() }
    }

    #[test]
    fn a_cursor_survives_its_way_through_a_link() {
        let message = at(7, "a b \u{e9}\0 \"<>");
        let read =
            |side| read_cursor(&cursor(side, &message, |_| None), Order::Ascending, |_| None);
        assert_eq!(read(Side::After), Some(Start::After(position(&message))));
        assert_eq!(read(Side::Before), Some(Start::Before(position(&message))));
    }

    #[test]
    fn a_cursor_of_a_long_id_is_short_and_exact_while_the_message_exists() {
        let long = "\u{1f642}".repeat(8_192);
        let message = at(7, &long);
        let text = cursor(Side::After, &message, |id| (id == long).then_some(42));
        assert!(text.len() < 300, "{}", text.len());
        let exact =
            read_cursor(&text, Order::Ascending, |row| (row == 42).then(|| position(&message)));
        assert_eq!(exact, Some(Start::After(position(&message))));
        // Deleted, or another message in its row.
        let others = [None, Some(position(&at(8, &long))), Some(position(&at(7, "other")))];
        let (first, last) =
            (position(&at(7, &long[..100])), behind(position(&at(7, &long[..100]))));
        assert!(first < position(&message) && position(&message) < last);
        for other in others {
            let read = |side, order| {
                let text = cursor(side, &message, |_| None);
                read_cursor(&text, order, |_| other.clone()).unwrap()
            };
            assert_eq!(read(Side::After, Order::Ascending), Start::After(first.clone()));
            assert_eq!(read(Side::Before, Order::Descending), Start::Before(first.clone()));
            assert_eq!(read(Side::Before, Order::Ascending), Start::Before(last.clone()));
            assert_eq!(read(Side::After, Order::Descending), Start::After(last.clone()));
        }
    }

    #[test]
    fn the_position_behind_a_prefix_is_behind_every_id_with_that_prefix() {
        for (prefix, expected) in [
            ("ab", (7, "ac")),
            ("\u{d7ff}", (7, "\u{e000}")),
            ("a\u{10ffff}\u{10ffff}", (7, "b")),
            ("\u{10ffff}", (8, "")),
        ] {
            let (nanoseconds, id) = expected;
            assert_eq!(
                behind(position(&at(7, prefix))),
                position(&at(nanoseconds, id)),
                "{prefix:?}"
            );
        }
    }
}

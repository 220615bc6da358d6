//! `GET /messages`: which messages, in which page of them, and where the pages beside it are.

use form_urlencoded::Serializer;
use serde::Serialize;

use super::{Answer, Context, query::Query};
use crate::{
    error::Error,
    http::{Request, Response},
    message::{Instant, Message},
    store::{Filter, Listing, Order, Paging, Place, Start},
};

/// Bytes of a `Link` header, which is left out beyond: what is longer, clients and proxies refuse.
pub(crate) const LINK_BYTES_MAX: usize = 8_192;
/// Bytes of a cursor in it: a page beside a message with a longer id is linked by its offset.
const CURSOR_BYTES: usize = 2_048;
/// Messages of one page.
pub(crate) const LIMIT_MAX: i64 = 100;
const LIMIT_DEFAULT: i64 = 50;

#[derive(Serialize)]
struct Body {
    data: Vec<Message>,
    total: i64,
    limit: i64,
    offset: i64,
}

pub(crate) fn list(context: &mut Context, request: &Request<'_>) -> Result<Answer, Error> {
    let (filter, paging) = parse(Query::of(request))?;
    let Listing { messages: data, total, offset } = context.reader.list(&filter, &paging)?;
    let links = links(request, &data, &paging, total, offset);
    // An offset beyond the end is told as it was asked for.
    let offset = if let Start::Offset(asked) = paging.start { asked } else { offset };
    let response = Response::json(&Body { data, total, limit: paging.limit, offset });
    Ok(Answer::Now(response.with(links.map(|links| ("Link", links)))))
}

fn parse(mut query: Query<'_>) -> Result<(Filter, Paging), Error> {
    let filter = query.filter();
    let limit = query.integer("limit", LIMIT_DEFAULT, 1..=LIMIT_MAX);
    let offset = query.integer("offset", 0, 0..=i64::MAX);
    let orders = [("asc", Order::Ascending), ("desc", Order::Descending)];
    let order = query.choice("order", &orders);
    let start = match query.text("cursor") {
        None => Start::Offset(offset),
        Some(cursor) => read_cursor(&cursor).unwrap_or_else(|| {
            let msg = "Input should be the cursor of a Link header";
            query.refuse("value_error", "cursor", msg, &cursor, None);
            Start::Offset(offset)
        }),
    };
    query.finish((filter, Paging { limit, start, order }))
}

/// RFC 8288: the same question with a cursor at either end of the page, where there is more.
fn links(
    request: &Request<'_>,
    data: &[Message],
    paging: &Paging,
    total: i64,
    offset: i64,
) -> Option<String> {
    let (first, last) = (data.first()?, data.last()?);
    let end = offset + i64::try_from(data.len()).unwrap_or(0);
    let link = |is_there: bool, side: char, message: &Message, beside: i64, rel: &str| {
        is_there.then(|| {
            let mut query = Serializer::new(String::new());
            let is_kept = |name: &str| !["cursor", "offset"].contains(&name);
            query.extend_pairs(request.query().filter(|(name, _)| is_kept(name)));
            match cursor(side, message) {
                cursor if cursor.len() <= CURSOR_BYTES => query.append_pair("cursor", &cursor),
                _ => query.append_pair("offset", &beside.to_string()),
            };
            format!("</messages?{}>; rel=\"{rel}\"", query.finish())
        })
    };
    let before = (offset - paging.limit).max(0);
    let links =
        [link(end < total, 'a', last, end, "next"), link(offset > 0, 'b', first, before, "prev")];
    let links = links.into_iter().flatten().collect::<Vec<_>>().join(", ");
    (1..=LINK_BYTES_MAX).contains(&links.len()).then_some(links)
}

/// Opaque to clients: a side, after or before, and a place in the order.
fn cursor(side: char, message: &Message) -> String {
    let Instant { seconds, nanoseconds } = message.instant;
    hex::encode(format!("{side} {seconds} {nanoseconds} {}", message.message_id))
}

fn read_cursor(text: &str) -> Option<Start> {
    let text = String::from_utf8(hex::decode(text).ok()?).ok()?;
    let mut parts = text.splitn(4, ' ');
    let side = parts.next()?;
    let instant =
        Instant { seconds: parts.next()?.parse().ok()?, nanoseconds: parts.next()?.parse().ok()? };
    let place = Place { instant, message_id: parts.next()?.to_owned() };
    match side {
        "a" => Some(Start::After(place)),
        "b" => Some(Start::Before(place)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<(Filter, Paging), Vec<&'static str>> {
        parse(Query::of(&Request::new(b"", query, None))).map_err(|error| match error {
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
        let empty = read("from=&to=&since=&until=&q=&order=&cursor=");
        assert!(empty.is_ok_and(|(filter, paging)| {
            filter == Filter::default() && paging.start == Start::Offset(0)
        }));
    }

    #[test]
    fn a_cursor_survives_its_way_through_a_link() {
        let message = Message {
            message_id: "a b \u{e9}\0 \"<>".to_owned(),
            from: String::new(),
            to: String::new(),
            ts: String::new(),
            text: None,
            instant: Instant { seconds: -5, nanoseconds: 7 },
        };
        let place = Place { instant: message.instant, message_id: message.message_id.clone() };
        assert_eq!(read_cursor(&cursor('a', &message)), Some(Start::After(place.clone())));
        assert_eq!(read_cursor(&cursor('b', &message)), Some(Start::Before(place)));
    }
}

//! `GET /messages`: which messages, in which page of them.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::{Value, json};

use super::{Answer, Context};
use crate::{
    error::{Error, Problem},
    http::{Request, Response},
    message::{self, Message},
    store::Filter,
};

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
    let filter = parse(request.query())?;
    let (data, total) = context.reader.list(&filter)?;
    let Filter { limit, offset, .. } = filter;
    Ok(Answer::Now(Response::json(&Body { data, total, limit, offset })))
}

/// Of a repeated parameter the last counts; an empty filter is none; unknown ones are ignored.
fn parse<'a>(query: impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)>) -> Result<Filter, Error> {
    let (mut limit, mut offset, mut from, mut since, mut q) = (None, None, None, None, None);
    for (name, value) in query {
        match &*name {
            "limit" => limit = Some(value),
            "offset" => offset = Some(value),
            "from" => from = Some(value),
            "since" => since = Some(value),
            "q" => q = Some(value),
            _ => {}
        }
    }
    let mut problems = Vec::new();
    let filter = Filter {
        limit: integer("limit", limit, LIMIT_DEFAULT, (1, LIMIT_MAX), &mut problems),
        offset: integer("offset", offset, 0, (0, i64::MAX), &mut problems),
        from: from.filter(|from| !from.is_empty()).map(|from| plus(&from)),
        since: since.filter(|since| !since.is_empty()).and_then(|since| {
            message::check_ts(&since)
                .map_err(|(kind, msg, ctx)| {
                    problems.push(problem(kind, "since", msg, &since, Some(ctx)));
                })
                .ok()
        }),
        q: q.filter(|q| !q.is_empty()).map(|q| message::fold_case(&q)),
    };
    if problems.is_empty() {
        Ok(filter)
    } else {
        Err(Error::Invalid { problems, message_id: None })
    }
}

/// People type `from=+91…`, and the plus decodes to a space: no number begins with one.
fn plus(from: &str) -> String {
    from.strip_prefix(' ').map_or_else(|| from.to_owned(), |digits| format!("+{digits}"))
}

fn integer(
    name: &'static str,
    value: Option<Cow<'_, str>>,
    default: i64,
    (min, max): (i64, i64),
    problems: &mut Vec<Problem>,
) -> i64 {
    let Some(text) = value else { return default };
    let digits = text.strip_prefix(['-', '+']).unwrap_or(&text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let msg = "Input should be a valid integer, unable to parse string as an integer";
        problems.push(problem("int_parsing", name, msg, &text, None));
        return default;
    }
    // An integer too long for i64 is out of every range, on the side of its sign.
    let number = text.parse().unwrap_or(if text.starts_with('-') { i64::MIN } else { i64::MAX });
    let is_exact = text.parse::<i64>().is_ok();
    if number < min {
        let msg = format!("Input should be greater than or equal to {min}");
        problems.push(problem("greater_than_equal", name, msg, &text, Some(json!({ "ge": min }))));
    } else if number > max || !is_exact {
        let msg = format!("Input should be less than or equal to {max}");
        problems.push(problem("less_than_equal", name, msg, &text, Some(json!({ "le": max }))));
    } else {
        return number;
    }
    default
}

fn problem(
    kind: &'static str,
    name: &str,
    msg: impl Into<String>,
    input: &str,
    ctx: Option<Value>,
) -> Problem {
    Problem::new(kind, [json!("query"), json!(name)], msg, &json!(input), ctx)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<Filter, Vec<&'static str>> {
        parse(form_urlencoded::parse(query.as_bytes())).map_err(|error| match error {
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
        ] {
            assert_eq!(read(query).map(|_| ()), Err(vec![kind]), "{query}");
        }
        assert_eq!(read("limit=x&offset=y&since=z").map(|_| ()).unwrap_err().len(), 3);
        assert!(read("limit=100&offset=9223372036854775807&limit=1").is_ok_and(|f| f.limit == 1));
    }

    #[test]
    fn a_typed_plus_is_a_plus() {
        for query in ["from=+919876543210", "from=%2B919876543210", "from=%20919876543210"] {
            assert!(
                read(query).is_ok_and(|f| f.from.as_deref() == Some("+919876543210")),
                "{query}"
            );
        }
        assert!(read("q=a+b").is_ok_and(|f| f.q.as_deref() == Some("a b")));
        assert!(
            read("from=&since=&q=").is_ok_and(|f| (f.from, f.since, f.q) == (None, None, None))
        );
    }
}

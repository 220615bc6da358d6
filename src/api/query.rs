//! What stands behind the question mark: read into values, with every problem told at once.
//!
//! Of a repeated parameter the last counts; an empty filter is none; unknown ones are ignored.

use std::{borrow::Cow, ops::RangeInclusive};

use serde_json::{Value, json};

use crate::{
    error::{Error, Problem},
    http::Request,
    message::{self, Instant},
    store::Filter,
};

#[derive(Debug)]
pub(super) struct Query<'a> {
    pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    problems: Vec<Problem>,
}

impl<'a> Query<'a> {
    pub(super) fn of(request: &Request<'a>) -> Query<'a> {
        Query { pairs: request.query().collect(), problems: Vec::new() }
    }

    /// What was read, if nothing was wrong with it.
    pub(super) fn finish<T>(self, read: T) -> Result<T, Error> {
        match self.problems {
            problems if problems.is_empty() => Ok(read),
            problems => Err(Error::Invalid { problems, message_id: None }),
        }
    }

    fn last(&self, name: &str) -> Option<Cow<'a, str>> {
        let pair = self.pairs.iter().rfind(|(other, _)| other == name);
        pair.map(|(_, value)| value.clone())
    }

    pub(super) fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        self.last(name).filter(|value| !value.is_empty())
    }

    pub(super) fn filter(&mut self) -> Filter {
        Filter {
            from: self.text("from").map(|from| plus(&from)),
            to: self.text("to").map(|to| plus(&to)),
            since: self.instant("since"),
            until: self.instant("until"),
            q: self.text("q").map(|q| message::fold_case(&q)),
        }
    }

    pub(super) fn instant(&mut self, name: &'static str) -> Option<Instant> {
        let text = self.text(name)?;
        let read = message::check_ts(&text);
        read.map_err(|(kind, msg, ctx)| self.refuse(kind, name, msg, &text, Some(ctx))).ok()
    }

    /// One of these words; the first where it is absent.
    pub(super) fn choice<T: Copy>(&mut self, name: &'static str, words: &[(&str, T)]) -> T {
        let default = words[0].1;
        let Some(text) = self.text(name) else { return default };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return *value;
        }
        let quoted: Vec<String> = words.iter().map(|(word, _)| format!("'{word}'")).collect();
        let expected = quoted.join(" or ");
        let msg = format!("Input should be {expected}");
        self.refuse("enum", name, msg, &text, Some(json!({ "expected": expected })));
        default
    }

    pub(super) fn integer(
        &mut self,
        name: &'static str,
        default: i64,
        range: RangeInclusive<i64>,
    ) -> i64 {
        let Some(text) = self.last(name) else { return default };
        let (min, max) = (*range.start(), *range.end());
        let digits = text.strip_prefix(['-', '+']).unwrap_or(&text);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            let msg = "Input should be a valid integer, unable to parse string as an integer";
            self.refuse("int_parsing", name, msg, &text, None);
            return default;
        }
        // An integer too long for i64 is out of every range, on the side of its sign.
        let number =
            text.parse().unwrap_or(if text.starts_with('-') { i64::MIN } else { i64::MAX });
        let is_exact = text.parse::<i64>().is_ok();
        if number < min {
            let msg = format!("Input should be greater than or equal to {min}");
            self.refuse("greater_than_equal", name, msg, &text, Some(json!({ "ge": min })));
        } else if number > max || !is_exact {
            let msg = format!("Input should be less than or equal to {max}");
            self.refuse("less_than_equal", name, msg, &text, Some(json!({ "le": max })));
        } else {
            return number;
        }
        default
    }

    pub(super) fn refuse(
        &mut self,
        kind: &'static str,
        name: &str,
        msg: impl Into<String>,
        input: &str,
        ctx: Option<Value>,
    ) {
        let loc = [json!("query"), json!(name)];
        self.problems.push(Problem::new(kind, loc, msg, &json!(input), ctx));
    }
}

/// People type `from=+91…`, and the plus decodes to a space: no number begins with one.
fn plus(msisdn: &str) -> String {
    msisdn.strip_prefix(' ').map_or_else(|| msisdn.to_owned(), |digits| format!("+{digits}"))
}

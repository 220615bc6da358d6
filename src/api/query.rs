//! Query parameters: a table for each endpoint, read into values with every problem reported at
//! once.
//!
//! If a parameter is repeated, the last one counts. An empty filter is treated as absent, and
//! unknown parameters are ignored.

use std::{borrow::Cow, ops::RangeInclusive};

use serde_json::{Value, json};

use crate::{
    error::{Error, Problem},
    http::Request,
    message::{self},
    metrics::{Label, Source},
    store::Filter,
    timestamp::Timestamp,
};

/// A row of an endpoint's table, as documentation states it.
#[derive(Debug, Clone, Copy)]
pub struct Parameter {
    pub name: &'static str,
    /// Its schema in OpenAPI: the type, the range, the default.
    pub schema: fn() -> Value,
}

/// Declares the query parameters of an endpoint as a struct with a field for each. A row says what
/// the parameter accepts, by the function of [`Query`] that reads it and the one of [`schema`] that
/// describes it.
macro_rules! parameters {
    ($(#[$doc:meta])* $visibility:vis $name:ident {
        $($field:ident: $type:ty = $kind:ident($($argument:expr),*),)*
    }) => {
        $(#[$doc])*
        #[derive(Debug)]
        $visibility struct $name {
            $($field: $type,)*
        }

        impl $name {
            pub(super) const PARAMETERS: &[$crate::api::query::Parameter] =
                &[$($crate::api::query::Parameter {
                    name: stringify!($field),
                    schema: || $crate::api::query::schema::$kind($($argument),*),
                }),*];

            /// Reads the parameters in the order of the rows. One that is wrong becomes a problem.
            pub(super) fn read(query: &mut $crate::api::query::Query<'_>) -> $name {
                $name { $($field: query.$kind(stringify!($field), $($argument),*)),* }
            }
        }
    };
}
pub(super) use parameters;

parameters! {
    /// The filters of several endpoints.
    pub(super) Filters {
        from: Option<String> = msisdn(),
        from_prefix: Option<String> = msisdn(),
        to: Option<String> = msisdn(),
        since: Option<Timestamp> = timestamp(),
        until: Option<Timestamp> = timestamp(),
        q: Option<String> = text(),
        source: Option<Source> = source(),
        kind: Option<String> = text(),
    }
}

impl From<Filters> for Filter {
    fn from(Filters { from, from_prefix, to, since, until, q, source, kind }: Filters) -> Filter {
        let q = q.map(|q| message::fold_case(&q));
        Filter { message_id: None, from, from_prefix, to, since, until, q, source, kind }
    }
}

#[derive(Debug)]
pub(super) struct Query<'a> {
    pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    problems: Vec<Problem>,
}

impl<'a> Query<'a> {
    pub(super) fn of(request: &Request<'a>) -> Query<'a> {
        Query { pairs: request.query().collect(), problems: Vec::new() }
    }

    /// # Errors
    /// [`Error::Invalid`] with every problem.
    pub(super) fn finish(self) -> Result<(), Error> {
        match self.problems {
            problems if problems.is_empty() => Ok(()),
            problems => Err(Error::Invalid { problems, message_id: None }),
        }
    }

    fn last(&self, name: &str) -> Option<Cow<'a, str>> {
        let pair = self.pairs.iter().rfind(|(other, _)| other == name);
        pair.map(|(_, value)| value.clone())
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.last(name).filter(|value| !value.is_empty()).map(Cow::into_owned)
    }

    /// People type `from=+91…`, and the plus decodes to a space. No number begins with a space.
    fn msisdn(&self, name: &str) -> Option<String> {
        let text = self.text(name)?;
        Some(text.strip_prefix(' ').map(|digits| format!("+{digits}")).unwrap_or(text))
    }

    pub(super) fn timestamp(&mut self, name: &'static str) -> Option<Timestamp> {
        let text = self.text(name)?;
        let instant = message::check_ts(&text);
        instant.map_err(|(kind, msg, ctx)| self.refuse(kind, name, msg, &text, Some(ctx))).ok()
    }

    fn source(&mut self, name: &'static str) -> Option<Source> {
        let text = self.text(name)?;
        let found = Source::named(&text);
        if found.is_none() {
            self.refuse_word(name, &text, Source::VALUES);
        }
        found
    }

    fn refuse_word(&mut self, name: &str, text: &str, words: &[&str]) {
        let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let expected = quoted.join(" or ");
        let msg = format!("Input should be {expected}");
        self.refuse("enum", name, msg, text, Some(json!({ "expected": expected })));
    }

    /// One of these words; the first one where it is absent.
    pub(super) fn choice<T: Copy>(&mut self, name: &'static str, words: &[(&str, T)]) -> T {
        let default = words[0].1;
        let Some(text) = self.text(name) else { return default };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return *value;
        }
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.refuse_word(name, &text, &words);
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

    /// Adds a problem in FastAPI's form. [`Query::finish`] returns all of them.
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

/// For each function of [`Query`], the OpenAPI schema of the values that it accepts.
pub(super) mod schema {
    use std::ops::RangeInclusive;

    use serde_json::{Value, json};

    use crate::metrics::{Label, Source};

    pub(in crate::api) fn text() -> Value {
        json!({ "type": "string" })
    }

    pub(in crate::api) fn msisdn() -> Value {
        json!({ "type": "string" })
    }

    pub(in crate::api) fn source() -> Value {
        json!({ "type": "string", "enum": Source::VALUES })
    }

    pub(in crate::api) fn timestamp() -> Value {
        json!({ "$ref": "#/components/schemas/Timestamp" })
    }

    pub(in crate::api) fn choice<T>(words: &[(&str, T)]) -> Value {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        json!({ "type": "string", "enum": words, "default": words[0] })
    }

    pub(in crate::api) fn integer(default: i64, range: RangeInclusive<i64>) -> Value {
        let (min, max) = range.into_inner();
        json!({ "type": "integer", "default": default, "minimum": min, "maximum": max })
    }
}

//! The domain: a [`Message`] that exists is valid. Pure: no clock, no I/O.
//!
//! Owns the rules of docs/CONTRACT.md's table and the words in which a breach of them is told.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    error::{Error, Problem},
    signature::SignedBody,
    timestamp::Timestamp,
};

/// Characters of a `message_id`.
pub(crate) const MESSAGE_ID_CHARS_MAX: usize = 8192;
/// Characters of a phone number, plus sign included. E.164 has 16; short codes and tests vary.
pub(crate) const MSISDN_CHARS_MAX: usize = 64;
/// Code points of a `text`.
pub(crate) const TEXT_CHARS_MAX: usize = 4096;

const MSISDN_PATTERN: &str = r"^\+[0-9]+$";
const TS_PATTERN: &str = r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?Z$";

/// As it came and as it is shown: `ts` verbatim, an absent text as null.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(clippy::struct_field_names, reason = "the contract's own name")]
pub(crate) struct Message {
    pub(crate) message_id: String,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) ts: String,
    pub(crate) text: Option<String>,
    /// What `ts` says, for ordering.
    #[serde(skip)]
    pub(crate) timestamp: Timestamp,
}

impl Message {
    /// Only a body whose signature has been checked can become a message.
    ///
    /// # Errors
    /// [`Error::Invalid`] with an entry for every bad field.
    pub(crate) fn from_signed(body: &SignedBody<'_>) -> Result<Message, Error> {
        let mut object = parse(body.bytes())
            .map_err(|problem| Error::Invalid { problems: vec![problem], message_id: None })?;
        let mut problems = Vec::new();
        let message_id = field(&object, &mut problems, "message_id", check_message_id);
        let from = field(&object, &mut problems, "from", check_msisdn);
        let to = field(&object, &mut problems, "to", check_msisdn);
        let timestamp = field(&object, &mut problems, "ts", check_ts);
        if object.get("text").is_some_and(|text| !text.is_null()) {
            field(&object, &mut problems, "text", check_text);
        }
        let mut take = |name: &str| match object.remove(name) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        match (message_id, from, to, timestamp) {
            (Some(()), Some(()), Some(()), Some(timestamp)) if problems.is_empty() => Ok(Message {
                message_id: take("message_id").unwrap_or_default(),
                from: take("from").unwrap_or_default(),
                to: take("to").unwrap_or_default(),
                ts: take("ts").unwrap_or_default(),
                text: take("text"),
                timestamp,
            }),
            _ => Err(Error::Invalid {
                problems,
                message_id: message_id.and_then(|()| take("message_id")),
            }),
        }
    }
}

/// JSON as RFC 8259 has it: UTF-8, one value, no NaN, no lone surrogate, nesting bounded (by
/// serde_json, at 128). Of equal keys the last wins.
fn parse(bytes: &[u8]) -> Result<Map<String, Value>, Problem> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(Problem::new(
            "model_attributes_type",
            [json!("body")],
            "Input should be a valid dictionary or object to extract fields from",
            &other,
            None,
        )),
        Err(error) => Err(Problem::new(
            "json_invalid",
            [json!("body"), json!(offset(bytes, &error))],
            "JSON decode error",
            &json!({}),
            Some(json!({ "error": reason(&error) })),
        )),
    }
}

/// serde_json counts lines and columns; clients of FastAPI expect the offset at which the bad token
/// starts, or the end if there should be more.
fn offset(bytes: &[u8], error: &serde_json::Error) -> usize {
    if error.is_eof() {
        return bytes.len();
    }
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let start: usize = lines.take(error.line().saturating_sub(1)).map(<[u8]>::len).sum();
    let at = (start + error.column().saturating_sub(1)).min(bytes.len());
    let word = bytes[..at].iter().rev().take_while(|byte| byte.is_ascii_alphabetic()).count();
    at - word
}

/// The error without the " at line 1 column 2" that `loc` tells already.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or_default().to_owned()
}

type Check<T> = fn(&str) -> Result<T, (&'static str, String, Value)>;

/// `None` if the field is bad, and then `problems` has one entry more.
fn field<T>(
    object: &Map<String, Value>,
    problems: &mut Vec<Problem>,
    name: &'static str,
    check: Check<T>,
) -> Option<T> {
    let loc = [json!("body"), json!(name)];
    let problem = match object.get(name) {
        None => {
            let whole = Value::Object(object.clone());
            Problem::new("missing", loc, "Field required", &whole, None)
        }
        Some(Value::String(text)) => match check(text) {
            Ok(value) => return Some(value),
            Err((kind, msg, ctx)) => Problem::new(kind, loc, msg, &object[name], Some(ctx)),
        },
        Some(other) => {
            Problem::new("string_type", loc, "Input should be a valid string", other, None)
        }
    };
    problems.push(problem);
    None
}

type Breach = (&'static str, String, Value);

fn at_most(text: &str, chars_max: usize) -> Result<(), Breach> {
    // A character has at least a byte, so most texts need no counting.
    if text.len() <= chars_max || text.chars().count() <= chars_max {
        return Ok(());
    }
    let msg = format!("String should have at most {chars_max} characters");
    Err(("string_too_long", msg, json!({ "max_length": chars_max })))
}

fn mismatch(pattern: &str) -> Breach {
    let msg = format!("String should match pattern '{pattern}'");
    ("string_pattern_mismatch", msg, json!({ "pattern": pattern }))
}

fn check_message_id(text: &str) -> Result<(), Breach> {
    if text.is_empty() {
        let msg = "String should have at least 1 character".to_owned();
        return Err(("string_too_short", msg, json!({ "min_length": 1 })));
    }
    at_most(text, MESSAGE_ID_CHARS_MAX)
}

fn check_msisdn(text: &str) -> Result<(), Breach> {
    at_most(text, MSISDN_CHARS_MAX)?;
    match text.strip_prefix('+') {
        Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Ok(())
        }
        _ => Err(mismatch(MSISDN_PATTERN)),
    }
}

fn check_text(text: &str) -> Result<(), Breach> {
    at_most(text, TEXT_CHARS_MAX)
}

/// Also the rule for `since`.
pub(crate) fn check_ts(text: &str) -> Result<Timestamp, Breach> {
    Timestamp::parse(text).ok_or_else(|| {
        let (kind, msg, mut ctx) = mismatch(TS_PATTERN);
        // February 30 fits the pattern; say why it is refused all the same.
        ctx["error"] = json!("must be a real date and time in UTC, from the year 0001 on");
        (kind, msg, ctx)
    })
}

/// Folds case beyond ASCII, so that equal foldings mean "the same but for case".
///
/// Lower, upper, lower gives the classes of Unicode's full case folding with what std has (`ẞ`,
/// `ß` and `ss` are one, and so are `Σ`, `σ` and `ς`); only the dotless ı, whose capital is the
/// ASCII I, must be kept from becoming i.
pub(crate) fn fold_case(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let mut folded = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            'ı' => folded.push(c),
            _ if c.is_ascii() => folded.push(c.to_ascii_lowercase()),
            _ => folded
                .extend(c.to_lowercase().flat_map(char::to_uppercase).flat_map(char::to_lowercase)),
        }
    }
    folded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::signed;

    #[test]
    fn case_folds_beyond_ascii() {
        for (a, b) in [
            ("École", "ÉCOLE"),
            ("ΣΊΣΥΦΟΣ", "σίσυφος"),
            ("straße", "STRASSE"),
            ("ẞ", "ß"),
            ("ПРИВЕТ", "привет"),
            ("İ", "i̇"),
            ("Å", "å"),
            ("ﬀ", "FF"),
        ] {
            assert_eq!(fold_case(a), fold_case(b), "{a} {b}");
        }
        assert_ne!(fold_case("ı"), fold_case("i"));
        assert_ne!(fold_case("é"), fold_case("e"));
    }

    #[test]
    fn the_offset_of_broken_json_is_where_it_breaks() {
        for (body, at) in [
            ("", 0),
            ("{", 1),
            ("nope", 0),
            ("{\"a\":tru}", 5),
            ("   ", 3),
            ("{\"a\":1,}", 7),
            ("{\n\"a\": x}", 7),
            ("{} x", 3),
            ("[1,2", 4),
        ] {
            let Err(problem) = parse(body.as_bytes()) else { panic!("{body} parsed") };
            let found = problem.loc[1].as_u64().unwrap_or(u64::MAX);
            assert_eq!(found, at, "{body}");
        }
    }

    #[test]
    fn hostile_json_is_refused_and_never_panics() {
        let deep = "[".repeat(100_000);
        let bodies: [&[u8]; 8] = [
            b"NaN",
            b"{\"a\":NaN}",
            b"\xff",
            b"{\"message_id\":\"\\ud800\"}",
            b"{\"x\":\"\xc3\x28\"}",
            deep.as_bytes(),
            b"{}{}",
            b"\xef\xbb\xbf{}",
        ];
        for body in bodies {
            let Err(Error::Invalid { problems, .. }) = Message::from_signed(&signed(body)) else {
                panic!("accepted")
            };
            assert_eq!(problems[0].r#type, "json_invalid");
        }
    }
}

//! The domain: a [`Message`] that exists is valid. Pure: no clock, no I/O.
//!
//! Owns the rules of docs/CONTRACT.md's table and the words in which a breach of them is told.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    error::{Error, Problem},
    metrics::Source,
    original::Original,
    signature::SignedBody,
    timestamp::Timestamp,
};

/// Characters of a `message_id`.
pub(crate) const MESSAGE_ID_CHARS_MAX: usize = 8192;
/// Characters of a phone number, plus sign included. E.164 has 16; short codes and tests vary.
pub(crate) const MSISDN_CHARS_MAX: usize = 64;
/// Code points of a `text`.
pub(crate) const TEXT_CHARS_MAX: usize = 4096;
/// Characters of a sender or receiver of a provider's that is no phone number: a name, a short
/// code, or a user id, of which WhatsApp's have up to 135.
pub(crate) const ADDRESS_CHARS_MAX: usize = 160;
/// Characters of a kind; a longer one is cut.
pub(crate) const KIND_CHARS_MAX: usize = 64;

/// The kind of a message that says nothing else.
pub(crate) const TEXT_KIND: &str = "text";
/// Classes of a database, which are pairs of source and kind. A message of one more has
/// [`OTHER_KIND`] instead of its own, so that a provider with many kinds makes no read slow.
pub(crate) const CLASSES_MAX: i64 = 128;
pub(crate) const OTHER_KIND: &str = "other";

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

/// A message, and what is stored beside it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Delivered {
    pub(crate) message: Message,
    pub(crate) source: Source,
    /// The provider's word for the type of the message, such as `text` or `image`.
    pub(crate) kind: String,
    /// What the provider sent, where that says more than the message.
    pub(crate) original: Option<Original>,
}

/// What a provider with a form of its own says of a message.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fields {
    pub(crate) message_id: String,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) timestamp: Timestamp,
    pub(crate) text: Option<String>,
}

/// What a line of an export has beside the message.
#[derive(Deserialize)]
struct Beside<'a> {
    #[serde(borrow, default)]
    source: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    original: Option<&'a RawValue>,
    #[serde(default)]
    original_too_large_bytes: Option<u32>,
}

impl Delivered {
    /// A body of /webhook, which is kept as the original only where it has other members than the
    /// message.
    ///
    /// # Errors
    /// As [`Message::from_signed`].
    pub(crate) fn from_signed(
        body: &SignedBody<'_>,
        keeps_original: bool,
    ) -> Result<Delivered, Error> {
        let (message, has_more) = read(body, check_msisdn)?;
        let json = str::from_utf8(body.bytes()).ok().filter(|_| has_more && keeps_original);
        let original = json.map(|json| Original::of(json.trim_ascii()));
        Ok(Delivered { original, ..Delivered::from(message) })
    }

    /// A line of an export.
    ///
    /// # Errors
    /// [`Error::Invalid`] with an entry for every bad field.
    pub(crate) fn from_export(line: &SignedBody<'_>) -> Result<Delivered, Error> {
        let beside = serde_json::from_slice::<Beside<'_>>(line.bytes()).ok();
        let named = beside.as_ref().and_then(|beside| beside.source.as_deref());
        let source = named.map_or(Some(Source::Webhook), Source::named);
        let check = match source {
            Some(Source::Whatsapp | Source::Twilio) => check_address,
            _ => check_msisdn,
        };
        let (message, _) = read(line, check)?;
        let (Some(source), Some(Beside { kind, original, original_too_large_bytes, .. })) =
            (source, beside)
        else {
            let msg = "Input should be the source, kind and original of an export";
            let problem = Problem::new(
                "value_error",
                [json!("body"), json!("source")],
                msg,
                &json!({}),
                None,
            );
            let message_id = Some(message.message_id);
            return Err(Error::Invalid { problems: vec![problem], message_id });
        };
        Ok(Delivered {
            message,
            source,
            kind: kind
                .map_or_else(|| TEXT_KIND.to_owned(), |kind| truncated(&kind, KIND_CHARS_MAX)),
            original: original
                .map(|json| Original::of(json.get()))
                .or(original_too_large_bytes.map(Original::too_large)),
        })
    }

    /// A provider's message. `kind` may be of any length.
    pub(crate) fn of(message: Message, source: Source, kind: &str) -> Delivered {
        Delivered { message, source, kind: truncated(kind, KIND_CHARS_MAX), original: None }
    }
}

/// As /webhook takes it, with nothing beside it.
impl From<Message> for Delivered {
    fn from(message: Message) -> Delivered {
        Delivered::of(message, Source::Webhook, TEXT_KIND)
    }
}

impl Message {
    /// A message of a provider with a form of its own, which its file of `providers` makes of a
    /// body that is verified. Its sender may be no phone number, and a text that is too long is
    /// cut: nothing can be asked of such a provider.
    ///
    /// # Errors
    /// What is wrong, for the log.
    pub(crate) fn from_fields(fields: Fields) -> Result<Message, &'static str> {
        let Fields { message_id, from, to, timestamp, text } = fields;
        check_message_id(&message_id).map_err(|_| "its id is empty or too long")?;
        check_address(&from).map_err(|_| "its sender is missing or too long")?;
        check_address(&to).map_err(|_| "its receiver is missing or too long")?;
        let ts = timestamp.text();
        if ts.is_empty() {
            return Err("its time is out of range");
        }
        let text = text.map(|text| truncated(&text, TEXT_CHARS_MAX));
        Ok(Message { message_id, from, to, ts, text, timestamp })
    }

    /// Only a body whose signature has been checked can become a message.
    ///
    /// # Errors
    /// [`Error::Invalid`] with an entry for every bad field.
    #[cfg(test)]
    pub(crate) fn from_signed(body: &SignedBody<'_>) -> Result<Message, Error> {
        read(body, check_msisdn).map(|(message, _)| message)
    }

    /// The message that an object has, and whether the object has other members, too.
    ///
    /// # Errors
    /// [`Error::Invalid`] with an entry for every bad field.
    pub(crate) fn from_object(object: Map<String, Value>) -> Result<(Message, bool), Error> {
        from_object(object, check_msisdn)
    }
}

/// `check` is for `from` and `to`.
fn read(body: &SignedBody<'_>, check: Check<()>) -> Result<(Message, bool), Error> {
    let object = parse(body.bytes())
        .map_err(|problem| Error::Invalid { problems: vec![problem], message_id: None })?;
    from_object(object, check)
}

fn from_object(mut object: Map<String, Value>, check: Check<()>) -> Result<(Message, bool), Error> {
    let mut problems = Vec::new();
    let message_id = field(&object, &mut problems, "message_id", check_message_id);
    let from = field(&object, &mut problems, "from", check);
    let to = field(&object, &mut problems, "to", check);
    let timestamp = field(&object, &mut problems, "ts", check_ts);
    if object.get("text").is_some_and(|text| !text.is_null()) {
        field(&object, &mut problems, "text", check_text);
    }
    let mut take = |name: &str| match object.remove(name) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    };
    match (message_id, from, to, timestamp) {
        (Some(()), Some(()), Some(()), Some(timestamp)) if problems.is_empty() => {
            let message = Message {
                message_id: take("message_id").unwrap_or_default(),
                from: take("from").unwrap_or_default(),
                to: take("to").unwrap_or_default(),
                ts: take("ts").unwrap_or_default(),
                text: take("text"),
                timestamp,
            };
            Ok((message, !object.is_empty()))
        }
        _ => Err(Error::Invalid {
            problems,
            message_id: message_id.and_then(|()| take("message_id")),
        }),
    }
}

/// The first characters of a text.
fn truncated(text: &str, chars_max: usize) -> String {
    let end = text.char_indices().nth(chars_max).map_or(text.len(), |(at, _)| at);
    text[..end].to_owned()
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

/// A sender or receiver that may be no phone number.
fn check_address(text: &str) -> Result<(), Breach> {
    if text.is_empty() {
        let msg = "String should have at least 1 character".to_owned();
        return Err(("string_too_short", msg, json!({ "min_length": 1 })));
    }
    at_most(text, ADDRESS_CHARS_MAX)
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
/// Lowercase, uppercase, then lowercase gives the classes of Unicode's full case folding: `ẞ`, `ß`
/// and `ss` are equal, and so are `Σ`, `σ` and `ς`. Only the dotless `ı` needs an exception, since
/// its uppercase is the ASCII `I`.
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

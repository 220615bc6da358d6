//! WhatsApp Cloud API of Meta, also as its partners pass it on.

use hmac::Hmac;
use serde_json::{Value, json};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::{outline::Outline, provider::Provider, reading::Reading};
use crate::{
    config::{Config, Secret},
    error::{Error, Problem},
    http::{Request, Response},
    message::Fields,
    metrics::{Item, Source},
    signature::Keyring,
    timestamp::Timestamp,
};

/// Bytes of a body of Meta's, which has up to 3 MB.
pub(crate) const WHATSAPP_BODY_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Bytes of a challenge that is echoed. Meta's have ten digits.
const CHALLENGE_BYTES_MAX: usize = 256;

/// The header with the signature, and what its value begins with.
pub(crate) const HEADER: &str = "X-Hub-Signature-256";
pub(crate) const PREFIX: &str = "sha256=";
/// The lists and objects around a message: the body, its entries, an entry, its changes, a change,
/// its value, and the messages.
const LEVELS: u8 = 7;
/// What is stored where the body does not say which number a message came to.
const UNKNOWN_RECEIVER: &str = "unknown";

#[derive(Debug)]
pub(crate) struct Whatsapp;

#[derive(Debug)]
pub(crate) struct Keys {
    app_secrets: Keyring<Hmac<Sha256>>,
    verify_tokens: Vec<Secret>,
}

/// A body that an app secret has signed.
#[derive(Debug)]
pub(crate) struct Signed<'a>(&'a [u8]);

impl Keys {
    pub(super) fn of(config: &Config) -> Option<Keys> {
        let secrets = &config.whatsapp_app_secrets;
        (!secrets.is_empty()).then(|| Keys {
            app_secrets: Keyring::new(secrets),
            verify_tokens: config.whatsapp_verify_tokens.clone(),
        })
    }

    /// The response to the request by which Meta makes sure that this endpoint is the operator's:
    /// its challenge, once it has shown the operator's token.
    ///
    /// # Errors
    /// [`Error::WrongVerifyToken`], and [`Error::Invalid`] where there is no challenge to echo.
    pub(crate) fn confirm(&self, request: &Request<'_>) -> Result<Response, Error> {
        let value = |name: &str| {
            let named = request.query().filter(|(other, _)| other == name).last();
            named.map(|(_, value)| value.into_owned()).unwrap_or_default()
        };
        let given = value("hub.verify_token");
        let is_known = self
            .verify_tokens
            .iter()
            .fold(0, |known, token| known | token.expose().ct_eq(given.as_bytes()).unwrap_u8());
        if is_known == 0 || value("hub.mode") != "subscribe" {
            return Err(Error::WrongVerifyToken);
        }
        let challenge = value("hub.challenge");
        let problem = if challenge.is_empty() {
            ("missing", "Field required".to_owned())
        } else if challenge.len() > CHALLENGE_BYTES_MAX {
            let msg = format!("String should have at most {CHALLENGE_BYTES_MAX} characters");
            ("string_too_long", msg)
        } else {
            return Ok(Response::text("text/plain; charset=utf-8", challenge));
        };
        let (kind, msg) = problem;
        let loc = [json!("query"), json!("hub.challenge")];
        let problem = Problem::new(kind, loc, msg, &json!(null), None);
        Err(Error::Invalid { problems: vec![problem], message_id: None })
    }
}

/// The header that signs a body with the current one of these secrets.
pub(crate) fn sign(secrets: &[Secret], body: &[u8]) -> (&'static str, String) {
    let digest = Keyring::<Hmac<Sha256>>::new(secrets).sign(&[body]);
    (HEADER, format!("{PREFIX}{}", hex::encode(digest)))
}

impl Provider for Whatsapp {
    const SOURCE: Source = Source::Whatsapp;
    type Keys = Keys;
    type Signed<'a> = Signed<'a>;

    fn verify<'a>(keys: &Keys, request: &Request<'a>) -> Result<(Signed<'a>, usize), Error> {
        let mut given = [0; 32];
        let digits = request.header(HEADER).and_then(|value| value.strip_prefix(PREFIX));
        hex::decode_to_slice(digits.unwrap_or_default(), &mut given)
            .map_err(|_| Error::InvalidSignature)?;
        let key = keys.app_secrets.find(&[given], &[request.body]);
        Ok((Signed(request.body), key.ok_or(Error::InvalidSignature)?))
    }

    fn read(signed: &Signed<'_>, reading: &mut Reading) {
        let Ok(body) = Outline::of(signed.0, LEVELS) else {
            return reading.skip_invalid("the body is not JSON");
        };
        let Some(entries) = body.member("entry").items() else {
            return reading.skip_invalid("the body has no list of entries");
        };
        for entry in entries {
            let Some(changes) = entry.member("changes").items() else {
                reading.skip_invalid("an entry has no list of changes");
                continue;
            };
            for change in changes {
                read_change(change, reading);
            }
        }
    }

    fn acknowledgement() -> Response {
        Response::json(&json!({ "status": "ok" }))
    }
}

fn read_change(change: &Outline<'_>, reading: &mut Reading) {
    let about = change.member("value");
    let (messages, statuses) = (about.member("messages"), about.member("statuses"));
    let is_of_messages =
        matches!(change.member("field"), Outline::Text(field) if field == "messages");
    if !is_of_messages || messages.is_missing() && statuses.is_missing() {
        return reading.skip(Item::Other);
    }
    for status in list(statuses, reading) {
        let word = &status.value()["status"];
        reading.skip(Item::of_status(word.as_str().unwrap_or_default()));
    }
    let receiver = receiver(about.member("metadata"));
    let contact = || about.member("contacts").items().and_then(<[_]>::first).map(Outline::value);
    for message in list(messages, reading) {
        read_message(message, &receiver, contact, reading);
    }
}

/// The items of a list that may be missing. One that is no list counts as one part.
fn list<'o, 'a>(list: &'o Outline<'a>, reading: &mut Reading) -> &'o [Outline<'a>] {
    let items = list.items();
    if items.is_none() && !list.is_missing() {
        reading.skip_invalid("the messages or the statuses are no list");
    }
    items.unwrap_or_default()
}

fn read_message(
    outline: &Outline<'_>,
    receiver: &str,
    contact: impl FnOnce() -> Option<Value>,
    reading: &mut Reading,
) {
    let message = outline.value();
    let Some(timestamp) = timestamp(&message["timestamp"]) else {
        return reading.skip_invalid("a message has no timestamp in seconds");
    };
    let named = |value: &Value| value.as_str().filter(|sender| !sender.is_empty()).map(address);
    let sender = named(&message["from"]).or_else(|| named(&message["from_user_id"]));
    let sender = sender.or_else(|| named(&contact()?["user_id"]));
    let kind = message["type"].as_str().unwrap_or("unknown");
    let fields = Fields {
        message_id: message["id"].as_str().unwrap_or_default().to_owned(),
        from: sender.unwrap_or_default(),
        to: receiver.to_owned(),
        timestamp,
        text: text(&message, kind),
    };
    reading.add(fields, kind, || outline.json().get());
}

/// Digits are a phone number without its plus. A user id stays as it is.
fn address(sender: &str) -> String {
    let is_number = sender.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { format!("+{sender}") } else { sender.to_owned() }
}

/// The number is written for people, with spaces and the like.
fn receiver(metadata: &Outline<'_>) -> String {
    let about = |name: &str| metadata.member(name).value().as_str().map(str::to_owned);
    let number = about("display_phone_number").unwrap_or_default();
    let digits: String = number.chars().filter(char::is_ascii_digit).collect();
    if !digits.is_empty() {
        return format!("+{digits}");
    }
    about("phone_number_id").unwrap_or_else(|| UNKNOWN_RECEIVER.to_owned())
}

/// Unix seconds, as a text or as a number.
fn timestamp(value: &Value) -> Option<Timestamp> {
    let digits = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    let seconds = Some(digits).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    seconds?.parse::<i64>().ok().map(Timestamp::from)
}

/// What a message of this type says as text, if anything.
fn text(message: &Value, kind: &str) -> Option<String> {
    let of = &message[kind];
    let joined = |texts: Vec<&str>| (!texts.is_empty()).then(|| texts.join(", "));
    let found = match kind {
        "text" | "system" => &of["body"],
        "image" | "video" | "document" => &of["caption"],
        "button" | "order" => &of["text"],
        "reaction" => &of["emoji"],
        "interactive" => {
            let replies = [&of["button_reply"]["title"], &of["list_reply"]["title"]];
            let titles = replies.into_iter().find(|title| title.is_string());
            titles.unwrap_or(&of["nfm_reply"]["body"])
        }
        "location" => {
            let parts = [&of["name"], &of["address"]];
            return joined(parts.into_iter().filter_map(Value::as_str).collect());
        }
        "contacts" => {
            let contacts = of.as_array().into_iter().flatten();
            let names = contacts.filter_map(|contact| contact["name"]["formatted_name"].as_str());
            return joined(names.collect());
        }
        _ => &Value::Null,
    };
    found.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_written_for_people_and_a_sender_without_a_plus_become_numbers() {
        for (shown, number) in [
            ("15550783881", "+15550783881"),
            ("+1 (555) 078-3881", "+15550783881"),
            ("", "106540352242922"),
        ] {
            let metadata =
                json!({ "display_phone_number": shown, "phone_number_id": "106540352242922" });
            let metadata = metadata.to_string();
            let outline = Outline::of(metadata.as_bytes(), 1);
            assert_eq!(outline.map(|metadata| receiver(&metadata)).ok().as_deref(), Some(number));
        }
        assert_eq!(receiver(&Outline::Scalar), UNKNOWN_RECEIVER);
        assert_eq!(address("16505551234"), "+16505551234");
        assert_eq!(address("US.13491208655302741918"), "US.13491208655302741918");
    }

    #[test]
    fn a_time_is_whole_seconds_and_not_before_1970() {
        let read = |value: Value| timestamp(&value).map(|timestamp| timestamp.seconds);
        assert_eq!(read(json!("1749416383")), Some(1_749_416_383));
        assert_eq!(read(json!(0)), Some(0));
        for wrong in [json!(""), json!("-1"), json!("1.0"), json!(" 1"), json!(1.5), json!(null)] {
            assert_eq!(read(wrong.clone()), None, "{wrong}");
        }
    }
}

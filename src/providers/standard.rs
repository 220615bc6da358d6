//! Standard Webhooks 1.0.0, as Svix and others send them: the body of /webhook, alone or as the
//! `data` of an event, with protection against replays.

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::Hmac;
use serde_json::{Map, Value, json};
use sha2::Sha256;

use super::{provider::Provider, reading::Reading};
use crate::{
    config::{Config, Secret},
    error::Error,
    http::{Request, Response},
    logging,
    message::{Message, TEXT_KIND},
    metrics::{Item, Source},
    signature::Keyring,
    timestamp::Timestamp,
};

/// Seconds by which the timestamp of a request may differ from the clock when it is received.
pub(crate) const TIMESTAMP_AGE_S_MAX: i64 = 300;

/// The headers, by their names and by those that Svix had before.
pub(crate) const ID: [&str; 2] = ["webhook-id", "svix-id"];
pub(crate) const TIMESTAMP: [&str; 2] = ["webhook-timestamp", "svix-timestamp"];
pub(crate) const SIGNATURE: [&str; 2] = ["webhook-signature", "svix-signature"];
/// What a signature begins with that is an HMAC-SHA256.
pub(crate) const VERSION: &str = "v1,";

#[derive(Debug)]
pub(crate) struct Standard;

#[derive(Debug)]
pub(crate) struct Keys(Keyring<Hmac<Sha256>>);

/// A body that a secret has signed, with its id and its time.
#[derive(Debug)]
pub(crate) struct Signed<'a> {
    body: &'a [u8],
    id: &'a str,
    timestamp_s: i64,
}

impl Keys {
    pub(super) fn of(config: &Config) -> Option<Keys> {
        let secrets = &config.standard_webhooks_secrets;
        (!secrets.is_empty()).then(|| Keys(Keyring::new(secrets)))
    }
}

/// The headers that sign a body with the current one of these secrets.
pub(crate) fn sign(
    secrets: &[Secret],
    id: &str,
    timestamp_s: i64,
    body: &[u8],
) -> [(&'static str, String); 3] {
    let timestamp = timestamp_s.to_string();
    let digest = Keyring::<Hmac<Sha256>>::new(secrets).sign(&signed_parts(id, &timestamp, body));
    let signature = format!("{VERSION}{}", STANDARD.encode(digest));
    [(ID[0], id.to_owned()), (TIMESTAMP[0], timestamp), (SIGNATURE[0], signature)]
}

fn signed_parts<'a>(id: &'a str, timestamp: &'a str, body: &'a [u8]) -> [&'a [u8]; 5] {
    [id.as_bytes(), b".", timestamp.as_bytes(), b".", body]
}

/// The digests of a header with one or more signatures. Those of other versions are left out.
pub(crate) fn digests(header: &str) -> Vec<Vec<u8>> {
    let signatures = header.split(' ').filter_map(|word| word.strip_prefix(VERSION));
    signatures.filter_map(|base64| STANDARD.decode(base64).ok()).collect()
}

impl Provider for Standard {
    const SOURCE: Source = Source::Standard;
    type Keys = Keys;
    type Signed<'a> = Signed<'a>;

    fn verify<'a>(keys: &Keys, request: &Request<'a>) -> Result<(Signed<'a>, usize), Error> {
        let header = |names: [&'static str; 2]| {
            let found = names.into_iter().find_map(|name| request.header(name));
            found.ok_or(Error::InvalidSignature)
        };
        let (id, timestamp) = (header(ID)?, header(TIMESTAMP)?);
        let digests = digests(header(SIGNATURE)?);
        // With a dot in the id, two requests could have one signed text.
        let is_plain = !id.is_empty() && !id.contains('.');
        let is_number = timestamp.bytes().all(|byte| byte.is_ascii_digit());
        let seconds = timestamp.parse::<i64>().ok().filter(|_| is_plain && is_number);
        let timestamp_s = seconds.ok_or(Error::InvalidSignature)?;
        let key = keys.0.find(&digests, &signed_parts(id, timestamp, request.body));
        let key = key.ok_or(Error::InvalidSignature)?;
        let age_s = request.received_s.saturating_sub(timestamp_s);
        if age_s.saturating_abs() > TIMESTAMP_AGE_S_MAX {
            log::warn!(
                target: logging::CLIENT, source = "standard", age_s, limit_s = TIMESTAMP_AGE_S_MAX;
                "a signed delivery is refused: its timestamp is too old or too new"
            );
            return Err(Error::InvalidSignature);
        }
        Ok((Signed { body: request.body, id, timestamp_s }, key))
    }

    fn read(signed: &Signed<'_>, reading: &mut Reading) {
        let Ok(Value::Object(mut event)) = serde_json::from_slice(signed.body) else {
            return reading.skip_invalid("the body is no JSON object");
        };
        let is_event = !event.contains_key("from") && event.contains_key("data");
        let mut object = match event.remove("data") {
            Some(Value::Object(data)) if is_event => data,
            Some(_) if is_event => return reading.skip(Item::Other),
            data => {
                event.extend(data.map(|data| ("data".to_owned(), data)));
                std::mem::take(&mut event)
            }
        };
        // An event about something else than a message.
        if is_event && !object.contains_key("from") && !object.contains_key("to") {
            return reading.skip(Item::Other);
        }
        complete(&mut object, &event, signed);
        match Message::from_object(object) {
            Ok((message, has_more)) => {
                let json = || String::from_utf8_lossy(signed.body.trim_ascii());
                reading.add_message(message, TEXT_KIND, (is_event || has_more).then_some(json));
            }
            Err(error) => reading.skip_invalid(&sentence(&error)),
        }
    }

    fn acknowledgement() -> Response {
        Response::json(&json!({ "status": "ok" }))
    }
}

/// Adds what the event or the headers say and the message does not.
fn complete(object: &mut Map<String, Value>, event: &Map<String, Value>, signed: &Signed<'_>) {
    object.entry("message_id").or_insert_with(|| json!(signed.id));
    let of_event = event.get("timestamp").filter(|timestamp| {
        timestamp.as_str().is_some_and(|text| Timestamp::parse(text).is_some())
    });
    let of_request = || json!(Timestamp::from(signed.timestamp_s).text());
    object.entry("ts").or_insert_with(|| of_event.cloned().unwrap_or_else(of_request));
}

/// What is wrong with a message, without its values.
fn sentence(error: &Error) -> String {
    let Error::Invalid { problems, .. } = error else { return "it is no message".to_owned() };
    let problem = |problem: &crate::error::Problem| {
        let field = problem.loc.last().and_then(Value::as_str).unwrap_or_default();
        format!("{field}: {}", problem.msg)
    };
    problems.iter().map(problem).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const SENT: i64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;

    fn verifies(id: &str, timestamp: &str, signature: &str, received_s: i64) -> bool {
        let config = Config::read_variables(&[
            ("WEBHOOK_SECRET", "s"),
            ("STANDARD_WEBHOOKS_SECRET", SECRET),
        ]);
        let keys = Keys::of(&config.unwrap_or_else(|error| panic!("{error}"))).unwrap();
        let headers = [(ID[0], id), (TIMESTAMP[0], timestamp), (SIGNATURE[0], signature)];
        let headers = headers.as_slice();
        Standard::verify(&keys, &Request::new(BODY, "/", &headers, received_s)).is_ok()
    }

    /// The example of the Standard Webhooks' own libraries.
    #[test]
    fn the_vector_of_the_libraries_verifies_within_five_minutes_of_its_receipt() {
        let (id, timestamp) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330");
        let good = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        for (received_s, is_fresh) in [
            (SENT, true),
            (SENT + TIMESTAMP_AGE_S_MAX, true),
            (SENT + TIMESTAMP_AGE_S_MAX + 1, false),
            (SENT - TIMESTAMP_AGE_S_MAX, true),
            (SENT - TIMESTAMP_AGE_S_MAX - 1, false),
            (i64::MAX, false),
        ] {
            assert_eq!(verifies(id, timestamp, good, received_s), is_fresh, "{received_s}");
        }
        for header in [format!("v1,AAAA {good}"), format!("v1a,x  {good} v2,y")] {
            assert!(verifies(id, timestamp, &header, SENT), "{header}");
        }
        for header in
            ["", "v1,", "v1,AAAA", &good.replace("v1", "v2"), &good.replace(' ', "")[..40]]
        {
            assert!(!verifies(id, timestamp, header, SENT), "{header}");
        }
        assert!(!verifies(id, "01614265330", good, SENT), "the text is signed, not the number");
        assert!(!verifies("msg.p5jXN8AQM9LWM0D4loKWxJek", timestamp, good, SENT));
    }
}

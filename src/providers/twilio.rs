//! Twilio: SMS, MMS, and WhatsApp as Twilio passes it on.

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::Hmac;
use serde_json::{Map, Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::{provider::Provider, reading::Reading};
use crate::{
    config::{Config, Secret},
    error::Error,
    http::{Request, Response},
    message::{Fields, TEXT_KIND},
    metrics::{Item, Source},
    signature::Keyring,
    timestamp::Timestamp,
};

/// The header with the signature.
pub(crate) const HEADER: &str = "X-Twilio-Signature";
/// The query parameter with the hash of a body that is no form.
const BODY_HASH: &str = "bodySHA256";
/// Any other text would be sent to the person as a message.
const EMPTY_RESPONSE: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response/>";
/// What senders and receivers begin with that are numbers of WhatsApp.
const WHATSAPP_PREFIX: &str = "whatsapp:";

#[derive(Debug)]
pub(crate) struct Twilio;

#[derive(Debug)]
pub(crate) struct Keys {
    auth_tokens: Keyring<Hmac<Sha1>>,
    public_url: String,
}

/// A body that an auth token has signed.
#[derive(Debug)]
pub(crate) struct Signed<'a> {
    body: Body<'a>,
    received_s: i64,
}

#[derive(Debug)]
enum Body<'a> {
    /// The parameters of a form, in the order in which they came.
    Form(Parameters),
    Json(&'a [u8]),
}

pub(crate) type Parameters = Vec<(String, String)>;

impl Keys {
    pub(super) fn of(config: &Config) -> Option<Keys> {
        let tokens = &config.twilio_auth_tokens;
        let public_url = config.public_url.clone().filter(|_| !tokens.is_empty())?;
        Some(Keys { auth_tokens: Keyring::new(tokens), public_url })
    }
}

/// The header that signs a body with the current one of these tokens, as it is posted to this URL.
pub(crate) fn sign(secrets: &[Secret], url: &str, body: &[u8]) -> (&'static str, String) {
    let parameters = signed_parameters(&parameters(body));
    let digest = Keyring::<Hmac<Sha1>>::new(secrets).sign(&[url.as_bytes(), &parameters]);
    (HEADER, STANDARD.encode(digest))
}

/// The parameters of a form, percent-decoded, in order.
pub(crate) fn parameters(body: &[u8]) -> Parameters {
    form_urlencoded::parse(body)
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect()
}

/// The part of the signed text behind the URL: names and values in the order of the names.
/// Parameters with one name stay in the order in which they came.
pub(crate) fn signed_parameters(parameters: &[(String, String)]) -> Vec<u8> {
    let mut sorted: Vec<_> = parameters.iter().collect();
    sorted.sort_by_key(|(name, _)| name);
    sorted
        .into_iter()
        .flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()].concat())
        .collect()
}

/// The URL, and the same one with the default port written or left out: Twilio signs either.
pub(crate) fn spellings(url: &str) -> Vec<String> {
    let mut spellings = vec![url.to_owned()];
    let Some((scheme, rest)) = url.split_once("://") else { return spellings };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let port = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
    let host = authority.rsplit_once(':').filter(|(host, port)| {
        !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) && !host.is_empty()
    });
    spellings.push(match host {
        Some((host, _)) => format!("{scheme}://{host}{path}"),
        None => format!("{scheme}://{authority}{port}{path}"),
    });
    spellings
}

impl Provider for Twilio {
    const SOURCE: Source = Source::Twilio;
    type Keys = Keys;
    type Signed<'a> = Signed<'a>;

    /// The names and values of a form are what is signed, so the form is decoded before: into
    /// names and values, of which nothing is read unless the signature is valid.
    fn verify<'a>(keys: &Keys, request: &Request<'a>) -> Result<(Signed<'a>, usize), Error> {
        let given = STANDARD.decode(request.header(HEADER).unwrap_or_default());
        let given = given.map_err(|_| Error::InvalidSignature)?;
        let hash = request.query().find(|(name, _)| name == BODY_HASH);
        let (body, tail) = if let Some((_, hash)) = hash {
            let mut wanted = [0; 32];
            let is_it = hex::decode_to_slice(&*hash, &mut wanted).is_ok()
                && wanted == *Sha256::digest(request.body);
            if !is_it {
                return Err(Error::InvalidSignature);
            }
            (Body::Json(request.body), Vec::new())
        } else {
            let parameters = parameters(request.body);
            let signed = signed_parameters(&parameters);
            (Body::Form(parameters), signed)
        };
        let url = format!("{}{}", keys.public_url, request.target());
        let mut key = None;
        for url in spellings(&url) {
            key = keys.auth_tokens.find(&[&given], &[url.as_bytes(), &tail]).or(key);
        }
        let signed = Signed { body, received_s: request.received_s };
        Ok((signed, key.ok_or(Error::InvalidSignature)?))
    }

    fn read(signed: &Signed<'_>, reading: &mut Reading) {
        match &signed.body {
            Body::Form(parameters) => {
                read_parameters(parameters, signed.received_s, reading, || as_json(parameters));
            }
            Body::Json(json) => {
                let Ok(object) = serde_json::from_slice::<Map<String, Value>>(json) else {
                    return reading.skip_invalid("the body is no JSON object");
                };
                let texts = object
                    .iter()
                    .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
                let parameters: Parameters = texts.collect();
                read_parameters(&parameters, signed.received_s, reading, || {
                    String::from_utf8_lossy(json).into_owned()
                });
            }
        }
    }

    fn acknowledgement() -> Response {
        Response::text("text/xml", EMPTY_RESPONSE.to_owned())
    }
}

fn read_parameters(
    parameters: &[(String, String)],
    received_s: i64,
    reading: &mut Reading,
    original: impl FnOnce() -> String,
) {
    // Of a repeated parameter the last one counts, as in a query.
    let value = |name: &str| {
        let named = parameters.iter().rfind(|(other, _)| other == name);
        named.map(|(_, value)| value.as_str())
    };
    let status = value("MessageStatus").or(value("SmsStatus")).unwrap_or_default();
    if !["", "received", "receiving"].contains(&status) {
        return reading.skip(Item::of_status(status));
    }
    let ids = ["MessageSid", "SmsMessageSid", "SmsSid"];
    let Some(id) = ids.iter().find_map(|name| value(name)) else {
        // A call, for one.
        if value("CallSid").is_some() {
            reading.skip(Item::Other);
        } else {
            reading.skip_invalid("it has no MessageSid");
        }
        return;
    };
    let address = |name: &str| {
        let address = value(name).unwrap_or_default();
        address.strip_prefix(WHATSAPP_PREFIX).unwrap_or(address).to_owned()
    };
    let fields = Fields {
        message_id: id.to_owned(),
        from: address("From"),
        to: address("To"),
        timestamp: Timestamp::from(received_s),
        text: value("Body").map(str::to_owned),
    };
    let media = value("MediaContentType0").map(|media| {
        let kinds = ["image", "video", "audio"];
        kinds.into_iter().find(|kind| media.starts_with(kind)).unwrap_or("document")
    });
    let kind = value("MessageType").filter(|kind| !kind.is_empty()).or(media);
    reading.add(fields, kind.unwrap_or(TEXT_KIND), original);
}

/// An object with a member for each name; the values of a repeated one are a list.
fn as_json(parameters: &[(String, String)]) -> String {
    let mut object: Map<String, Value> = Map::new();
    for (name, value) in parameters {
        match object.get_mut(name) {
            None => drop(object.insert(name.clone(), json!(value))),
            Some(Value::Array(values)) => values.push(json!(value)),
            Some(first) => *first = json!([first, value]),
        }
    }
    Value::Object(object).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(public_url: &str) -> Keys {
        let config = Config::read_variables(&[
            ("WEBHOOK_SECRET", "s"),
            ("TWILIO_AUTH_TOKEN", "12345"),
            ("PUBLIC_URL", public_url),
        ]);
        Keys::of(&config.unwrap_or_else(|error| panic!("{error}"))).unwrap()
    }

    fn verifies(public_url: &str, target: &str, body: &str, signature: &str) -> bool {
        let headers = [(HEADER, signature)];
        let headers = headers.as_slice();
        Twilio::verify(&keys(public_url), &Request::new(body.as_bytes(), target, &headers, 0))
            .is_ok()
    }

    /// The example of Twilio's documentation.
    #[test]
    fn the_vector_of_twilios_documentation_verifies() {
        const BODY: &str = "Digits=1234&To=%2B18005551212&From=%2B14158675309\
             &Caller=%2B14158675309&CallSid=CA1234567890ABCDE";
        const SIGNATURE: &str = "RSOYDt4T1cUTdK1PDd93/VVr8B8=";
        let base = "https://mycompany.com";
        assert!(verifies(base, "/myapp.php?foo=1&bar=2", BODY, SIGNATURE));
        assert!(verifies("https://mycompany.com:443/", "/myapp.php?foo=1&bar=2", BODY, SIGNATURE));
        for (base, target) in [
            ("http://mycompany.com", "/myapp.php?foo=1&bar=2"),
            ("https://mycompany.com:8443", "/myapp.php?foo=1&bar=2"),
            (base, "/myapp.php?bar=2&foo=1"),
            (base, "/myapp.php"),
        ] {
            // A port that is written may be left out in what is signed.
            let is_other_port = base.ends_with(":8443");
            assert_eq!(verifies(base, target, BODY, SIGNATURE), is_other_port, "{base}{target}");
        }
        assert!(!verifies(
            base,
            "/myapp.php?foo=1&bar=2",
            &BODY.replace("1234", "1235"),
            SIGNATURE
        ));
    }

    #[test]
    fn the_port_of_a_url_is_written_or_left_out() {
        for (url, other) in [
            ("https://a.example/b?c", "https://a.example:443/b?c"),
            ("https://a.example:443/b", "https://a.example/b"),
            ("http://a.example", "http://a.example:80"),
            ("http://[::1]/b:c", "http://[::1]:80/b:c"),
            ("http://[::1]:8000/b", "http://[::1]/b"),
        ] {
            assert_eq!(spellings(url), [url, other]);
        }
    }
}

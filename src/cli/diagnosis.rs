//! Why a signature is not valid: how it, the secret or the body was changed.
//!
//! Every known mistake is tried, alone and together with another one, until the digests are equal.

use base64::{
    Engine,
    alphabet::{STANDARD, URL_SAFE},
    engine::{
        DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig,
        general_purpose::STANDARD as BASE64,
    },
};

use hmac::Hmac;
use sha1::Sha1;
use sha2::Sha256;

use super::{
    json_spacing::respaced,
    scheme::{Scheme, Signing},
};
use crate::{
    config::Secret,
    logging,
    providers::{
        standard::{self, TIMESTAMP_AGE_S_MAX},
        twilio,
        whatsapp::PREFIX,
    },
    signature::Keyring,
};

const SECRET_PREFIX: &[u8] = b"whsec_";
const DIGITS: usize = 64;

/// A key or a body, as it is or as it would be without a mistake, and for the latter what to do.
type Guess = (Vec<u8>, Option<String>);

/// A signature that may be valid, and what it is said to be of.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    pub(super) scheme: Scheme,
    pub(super) secrets: &'a [Secret],
    pub(super) signing: &'a Signing,
    pub(super) signature: &'a str,
    pub(super) body: &'a [u8],
}

/// One sentence for each mistake.
pub(super) fn diagnose(claim: &Claim<'_>) -> Vec<String> {
    let mut advice = Vec::new();
    let wanted = match claim.scheme {
        Scheme::Webhook => read(claim.signature, &mut advice).map(|digest| vec![digest.to_vec()]),
        Scheme::Whatsapp => {
            let digits = claim.signature.trim().strip_prefix(PREFIX).unwrap_or_else(|| {
                advice.push(format!(
                    "the signature does not begin with {PREFIX}: take X-Hub-Signature-256 as it \
                     came, and not X-Hub-Signature"
                ));
                claim.signature
            });
            read(digits, &mut advice).map(|digest| vec![digest.to_vec()])
        }
        Scheme::Twilio => read_base64(claim.signature, 20, &mut advice).map(|digest| vec![digest]),
        Scheme::Standard => claim.read_signatures(&mut advice),
    };
    let Some(wanted) = wanted else { return advice };
    match claim.explain(&wanted) {
        Some(more) => advice.extend(more),
        None => advice.push(format!(
            "it was made with another secret, or of another body{}: compare the provider's secret \
             with {}, and sign exactly the bytes that are sent",
            if claim.scheme == Scheme::Twilio { ", or for another URL" } else { "" },
            claim.scheme.setting()
        )),
    }
    advice.extend(claim.check_clock());
    advice
}

impl Claim<'_> {
    /// Whether the service would take the time for a replay.
    pub(super) fn check_clock(&self) -> Option<String> {
        let age_s = logging::now_seconds().saturating_sub(self.signing.timestamp_s);
        let is_far = age_s.saturating_abs() > TIMESTAMP_AGE_S_MAX;
        (self.scheme == Scheme::Standard && is_far).then(|| {
            format!(
                "the webhook-timestamp is {age_s} seconds old by this machine's clock, and a \
                 request of more than {TIMESTAMP_AGE_S_MAX} is refused as a replay: if it has \
                 just been sent, set the clocks"
            )
        })
    }

    fn read_signatures(&self, advice: &mut Vec<String>) -> Option<Vec<Vec<u8>>> {
        let digests = standard::digests(self.signature);
        if digests.is_empty() {
            advice.push(
                "the signature has no part v1,BASE64: take webhook-signature as it came".to_owned(),
            );
        }
        if self.signing.id.contains('.') {
            advice.push("the webhook-id has a dot, which the scheme does not allow".to_owned());
        }
        (!digests.is_empty()).then_some(digests)
    }

    /// The smallest set of mistakes that leads from a secret and the body to one of these digests.
    fn explain(&self, wanted: &[Vec<u8>]) -> Option<Vec<String>> {
        let mut found: Vec<Vec<String>> = Vec::new();
        let texts = self.texts();
        for (secret, number) in self.secrets.iter().zip(1..) {
            for (key, about_secret) in self.keys(secret.expose(), number) {
                for (text, about_text) in &texts {
                    let digest = match self.scheme {
                        Scheme::Twilio => Keyring::<Hmac<Sha1>>::of_key(&key).sign(&[text]),
                        _ => Keyring::<Hmac<Sha256>>::of_key(&key).sign(&[text]),
                    };
                    if wanted.contains(&digest) {
                        found.push(about_secret.iter().chain(about_text).cloned().collect());
                    }
                }
            }
        }
        found.into_iter().min_by_key(Vec::len)
    }

    /// What may have been signed.
    fn texts(&self) -> Vec<Guess> {
        let Signing { url, id, timestamp_s } = self.signing;
        match self.scheme {
            Scheme::Webhook | Scheme::Whatsapp => bodies(self.body),
            Scheme::Standard => {
                let prefix = format!("{id}.{timestamp_s}.").into_bytes();
                let whole = |(body, about): Guess| ([&prefix[..], &body].concat(), about);
                let mut guesses: Vec<Guess> = bodies(self.body).into_iter().map(whole).collect();
                guesses.push((
                    self.body.to_vec(),
                    Some("the body was signed alone: sign ID.TIMESTAMP.BODY".to_owned()),
                ));
                guesses
            }
            Scheme::Twilio => {
                let parameters = twilio::parameters(self.body);
                let filled: Vec<_> =
                    parameters.iter().filter(|(_, value)| !value.is_empty()).cloned().collect();
                let mut guesses = Vec::new();
                for (url, about_url) in urls(url) {
                    let mut guess = |signed: &[u8], about: Option<&str>| {
                        let about = about_url.clone().or(about.map(str::to_owned));
                        guesses.push(([url.as_bytes(), signed].concat(), about));
                    };
                    guess(&twilio::signed_parameters(&parameters), None);
                    guess(
                        &twilio::signed_parameters(&filled),
                        Some("parameters without a value were not signed: sign all of them"),
                    );
                    guess(b"", Some("the URL was signed alone: sign the form's parameters, too"));
                    guess(self.body, Some("the body was signed as it is: sign its parameters"));
                }
                guesses
            }
        }
    }

    fn keys(&self, secret: &[u8], number: usize) -> Vec<Guess> {
        if self.scheme != Scheme::Standard {
            return keys(secret, number);
        }
        let text = BASE64.encode(secret);
        let advice = |how: &str| Some(format!("secret {number} is used {how} by the sender"));
        vec![
            (secret.to_vec(), None),
            (
                format!("whsec_{text}").into_bytes(),
                advice("as text, with whsec_ and not decoded from base64,"),
            ),
            (text.into_bytes(), advice("as text, without whsec_ and not decoded from base64,")),
        ]
    }
}

/// The URL, and what it may be without a mistake of a proxy or of the console.
fn urls(url: &str) -> Vec<(String, Option<String>)> {
    let mut urls: Vec<(String, Option<String>)> =
        twilio::spellings(url).into_iter().map(|url| (url, None)).collect();
    let advice = |url: &str| {
        Some(format!("{url} was signed: PUBLIC_URL has to be its part before /webhook/twilio"))
    };
    let mut guess = |other: String| {
        if !urls.iter().any(|(known, _)| *known == other) {
            let about = advice(&other);
            urls.push((other, about));
        }
    };
    let other_scheme = match url.split_once("://") {
        Some(("https", rest)) => format!("http://{rest}"),
        Some((_, rest)) => format!("https://{rest}"),
        None => format!("https://{url}"),
    };
    for url in [url.to_owned(), other_scheme] {
        for url in twilio::spellings(&url) {
            guess(format!("{url}/"));
            guess(url.trim_end_matches('/').to_owned());
            if let Some((before, _)) = url.split_once('?') {
                guess(before.to_owned());
            }
            guess(url);
        }
    }
    urls
}

/// A digest of this length in base64.
fn read_base64(signature: &str, bytes: usize, advice: &mut Vec<String>) -> Option<Vec<u8>> {
    let text = signature.trim();
    if text != signature {
        advice.push("the signature has white space around it".to_owned());
    }
    let digest = from_base64(text).filter(|digest| digest.len() == bytes);
    if digest.is_none() {
        advice.push(format!(
            "the signature is not the base64 of {bytes} bytes: take X-Twilio-Signature as it came"
        ));
    }
    digest
}

/// The digest that the signature stands for, if it can be decoded.
fn read(signature: &str, advice: &mut Vec<String>) -> Option<[u8; 32]> {
    let mut text = signature;
    if text.trim() != text {
        text = text.trim();
        advice.push("the signature has white space around it: send the digits alone".to_owned());
    }
    if let Some((prefix, rest)) = text.split_at_checked(PREFIX.len())
        && prefix.eq_ignore_ascii_case(PREFIX)
    {
        text = rest;
        advice.push(format!("the signature begins with {PREFIX}: send the digits alone"));
    }
    let mut wanted = [0; 32];
    if hex::decode_to_slice(text, &mut wanted).is_ok() {
        return Some(wanted);
    }
    if let Some(wanted) = from_base64(text).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok()) {
        advice.push("the signature is written in base64: write it in hexadecimal".to_owned());
        return Some(wanted);
    }
    let length = text.chars().count();
    advice.push(if text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        format!(
            "the signature has {length} hexadecimal digits and HMAC-SHA256 has {DIGITS}: send all \
             of them, of that hash"
        )
    } else {
        format!(
            "the signature is {length} characters that are not hexadecimal: send the {DIGITS} \
             digits of HMAC-SHA256"
        )
    });
    None
}

fn bodies(body: &[u8]) -> Vec<Guess> {
    let mut guesses = vec![(body.to_vec(), None)];
    let mut guess = |bytes: Vec<u8>, advice: String| guesses.push((bytes, Some(advice)));
    for (end, name) in [("\r\n", "\\r\\n"), ("\n", "\\n")] {
        if let Some(shorter) = body.strip_suffix(end.as_bytes()) {
            let advice = format!(
                "the body was signed without the {name} at its end: send it without, or sign it too"
            );
            guess(shorter.to_vec(), advice);
        }
        let advice = format!(
            "the body was signed with {name} at its end, which was removed later: sign it without, \
             as printf %s writes it"
        );
        guess([body, end.as_bytes()].concat(), advice);
    }
    for (space, how) in [("", "without white space"), (" ", "with a space after each , and :")] {
        let advice = format!(
            "the body was signed as JSON {how}, and was serialized again later: send exactly the \
             bytes that were signed"
        );
        guess(respaced(body, space), advice);
    }
    guesses
}

fn keys(secret: &[u8], number: usize) -> Vec<Guess> {
    let mut guesses = vec![(secret.to_vec(), None)];
    let mut guess = |key: Vec<u8>, what: &str| {
        if key != secret {
            guesses.push((key, Some(format!("secret {number} {what}"))));
        }
    };
    guess(
        secret.trim_ascii().to_vec(),
        "has white space around it that the sender's key does not have: remove it from the setting",
    );
    for (end, name) in [("\n", "\\n"), ("\r\n", "\\r\\n")] {
        let advice = format!("has {name} at its end where the body is signed: remove it there");
        guess([secret, end.as_bytes()].concat(), &advice);
    }
    let bare = secret.trim_ascii();
    if let Ok(key) = hex::decode(bare) {
        guess(key, "is decoded from hexadecimal by the sender: sign with the text itself");
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if let Some(key) = from_base64(&text(bare)) {
        guess(key, "is decoded from base64 by the sender: sign with the text itself");
    }
    if let Some(rest) = bare.strip_prefix(SECRET_PREFIX) {
        let advice = "is used without whsec_ by the sender: remove the prefix from the setting";
        guess(rest.to_vec(), advice);
        let advice =
            "is decoded from the base64 behind whsec_ by the sender: sign with the text itself";
        if let Some(key) = from_base64(&text(rest)) {
            guess(key, advice);
        }
    }
    guesses
}

/// Decodes either alphabet of base64, with or without padding.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let lenient =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    [STANDARD, URL_SAFE]
        .iter()
        .find_map(|alphabet| GeneralPurpose::new(alphabet, lenient).decode(text).ok())
}

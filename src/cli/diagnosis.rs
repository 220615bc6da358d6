//! Why a signature is not valid: how it, the secret or the body was changed.
//!
//! Every known mistake is tried, alone and together with another one, until the digests are equal.

use base64::{
    Engine,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use super::json_spacing::respaced;
use crate::{
    config::Secret,
    signature::{digest, scheduled},
};

const PREFIX: &str = "sha256=";
const SECRET_PREFIX: &[u8] = b"whsec_";
const DIGITS: usize = 64;

/// A key or a body, as it is or as it would be without a mistake, and for the latter what to do.
type Guess = (Vec<u8>, Option<String>);

/// One sentence for each mistake.
pub(super) fn diagnose(signature: &str, body: &[u8], secrets: &[Secret]) -> Vec<String> {
    let mut advice = Vec::new();
    let Some(wanted) = read(signature, &mut advice) else { return advice };
    match explain(wanted, body, secrets) {
        Some(more) => advice.extend(more),
        None => advice.push(
            "it was made with another secret, or of another body: compare the provider's secret \
             with WEBHOOK_SECRET, and sign exactly the bytes that are sent"
                .to_owned(),
        ),
    }
    advice
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

/// The smallest set of mistakes that leads from a secret and the body to this digest.
fn explain(wanted: [u8; 32], body: &[u8], secrets: &[Secret]) -> Option<Vec<String>> {
    let bodies = bodies(body);
    let mut found: Vec<Vec<String>> = Vec::new();
    for (secret, number) in secrets.iter().zip(1..) {
        for (key, about_secret) in keys(secret.expose(), number) {
            let key = scheduled(&key);
            for (body, about_body) in &bodies {
                if digest(&key, body) == wanted {
                    found.push(about_secret.iter().chain(about_body).cloned().collect());
                }
            }
        }
    }
    found.into_iter().min_by_key(Vec::len)
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

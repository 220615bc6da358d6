//! Parsers of settings: each gives the value, or says what was expected.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    str::FromStr,
};

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use ipnet::IpNet;
use log::LevelFilter;

use super::secret::Secret;

/// The bytes of a secret, and where they were found.
pub(super) enum Found {
    Variable(String),
    File(Vec<u8>),
}

/// A whole number in this range.
pub(super) fn within<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String>
where
    T: FromStr + PartialOrd + fmt::Display,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("a whole number from {} to {}", range.start(), range.end()))
    }
}

/// `None` for the empty text.
pub(super) fn optional<T>(
    parse: impl Fn(&str) -> Result<T, String>,
) -> impl Fn(&str) -> Result<Option<T>, String> {
    move |text| if text.is_empty() { Ok(None) } else { parse(text).map(Some) }
}

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "a numeric ADDR:PORT such as 127.0.0.1:8000, 0.0.0.0:8000 or [::1]:8000".to_owned()
    })
}

pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" | "1" => Ok(true),
        "off" | "0" => Ok(false),
        _ => Err("on or off, or 1 or 0".to_owned()),
    }
}

pub(super) fn level(text: &str) -> Result<LevelFilter, String> {
    match text.to_ascii_uppercase().as_str() {
        "DEBUG" => Ok(LevelFilter::Debug),
        "INFO" => Ok(LevelFilter::Info),
        "WARNING" | "WARN" => Ok(LevelFilter::Warn),
        "ERROR" => Ok(LevelFilter::Error),
        _ => Err("DEBUG, INFO, WARNING or ERROR".to_owned()),
    }
}

/// The words of a list that is separated by spaces or commas.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split([' ', ',']).filter(|word| !word.is_empty())
}

/// A client may send a name with or without the dot at its end, so the dot is removed here.
pub(super) fn host_names(text: &str) -> Result<Vec<String>, String> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let name = |word: &str| {
        let name = word.strip_suffix('.').unwrap_or(word);
        (!name.is_empty() && name.bytes().all(is_allowed)).then(|| name.to_owned())
    };
    let names = words(text).map(name).collect::<Option<Vec<_>>>();
    names.ok_or_else(|| {
        "space-separated host names such as hooks.example.com, without scheme, port or *".into()
    })
}

pub(super) fn networks(text: &str) -> Result<Vec<IpNet>, String> {
    let network = |word: &str| {
        word.parse::<IpNet>().or_else(|_| word.parse::<IpAddr>().map(IpNet::from)).ok()
    };
    let networks = words(text).map(network).collect::<Option<Vec<_>>>();
    networks.ok_or_else(|| "addresses or networks such as 127.0.0.1 10.0.0.0/8".into())
}

/// The value of the variable is one key as it is; a file has one key a line.
pub(super) fn key_lines(keys_max: usize) -> impl Fn(Found) -> Result<Vec<Secret>, String> {
    move |found| {
        let bytes = match found {
            Found::Variable(text) => return Ok(vec![Secret::new(text)]),
            Found::File(bytes) => bytes,
        };
        let lines = bytes.split(|byte| *byte == b'\n');
        let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let secrets: Vec<Secret> = lines.filter(|line| !line.is_empty()).map(Secret::new).collect();
        match secrets.len() {
            0 => Err("expected at least one secret, one a line".to_owned()),
            count if count > keys_max => Err(format!("expected at most {keys_max} secrets")),
            _ => Ok(secrets),
        }
    }
}

/// What a secret of Standard Webhooks begins with.
const SECRET_PREFIX: &[u8] = b"whsec_";
/// Bytes of such a secret, decoded.
const SECRET_BYTES: RangeInclusive<usize> = 24..=64;

/// Keys of Standard Webhooks, as [`key_lines`]: `whsec_` and base64. Gives them decoded.
pub(super) fn base64_keys(keys_max: usize) -> impl Fn(Found) -> Result<Vec<Secret>, String> {
    move |found| {
        let decode = |secret: &Secret| {
            decode_key(secret.expose()).map(Secret::new).ok_or_else(|| {
                let (first, last) = (SECRET_BYTES.start(), SECRET_BYTES.end());
                format!("expected whsec_ and the base64 of {first} to {last} bytes")
            })
        };
        key_lines(keys_max)(found)?.iter().map(decode).collect()
    }
}

/// The bytes that a secret of Standard Webhooks stands for. The prefix may be missing.
fn decode_key(secret: &[u8]) -> Option<Vec<u8>> {
    let text = secret.trim_ascii();
    let lenient =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let text = text.strip_prefix(SECRET_PREFIX).unwrap_or(text);
    let key = GeneralPurpose::new(&STANDARD, lenient).decode(text).ok()?;
    SECRET_BYTES.contains(&key.len()).then_some(key)
}

/// Without a slash at the end, so that a path can follow.
pub(super) fn base_url(text: &str) -> Result<String, String> {
    let url = text.trim_end_matches('/');
    let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let is_allowed = |byte: u8| byte.is_ascii_graphic() && !b"?#@\"\\<>".contains(&byte);
    match host {
        Some(host)
            if !host.is_empty() && !host.starts_with('/') && host.bytes().all(is_allowed) =>
        {
            Ok(url.to_owned())
        }
        _ => Err("https://HOST or https://HOST/PATH, without a query, as the provider has it \
                  before /webhook/…"
            .into()),
    }
}

/// Tokens as RFC 6750 has them, so that they fit into a header.
pub(super) fn bearer_tokens(found: Found) -> Result<Vec<Secret>, String> {
    let text = match found {
        Found::Variable(text) => text,
        Found::File(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
    };
    let is_sane = |token: &str| token.bytes().all(|byte| byte.is_ascii_graphic());
    let tokens: Vec<&str> = text.split_whitespace().collect();
    if tokens.is_empty() || !tokens.iter().all(|token| is_sane(token)) {
        return Err(
            "expected tokens of visible ASCII characters, separated by spaces or lines".into()
        );
    }
    Ok(tokens.into_iter().map(Secret::new).collect())
}

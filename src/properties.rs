//! What holds for every input of the functions that read what clients, operators and files give.
//!
//! Each function takes any bytes and panics where its property does not hold. `make fuzz` calls
//! each with inputs that libFuzzer searches for; the test below calls each with the inputs of
//! `fuzz/seeds` and with random changes of them, on every run of the tests.

use std::{cell::RefCell, collections::HashMap, str, sync::LazyLock};

use crate::{
    api::messages::{Side, cursor, read_cursor},
    config::{Config, Settings, Source, WORKERS_MAX},
    format::Format,
    http::{HEADERS_MAX, Request, content_length, path_and_query},
    message::{Delivered, KIND_CHARS_MAX, Message, TEXT_CHARS_MAX},
    providers::{
        Configured, Providers, Reading, Standard, Twilio, Whatsapp, standard, twilio, whatsapp,
    },
    signature::SignedBody,
    store::{Order, Page, Position, Received, Start},
    timestamp::Timestamp,
};

pub type Property = fn(&[u8]);

/// A function for each target of `fuzz/`, by its name.
pub const PROPERTIES: [(&str, Property); 9] = [
    ("framing", framing),
    ("target", target),
    ("timestamp", timestamp),
    ("cursor", cursors),
    ("segment", segment),
    ("settings", settings),
    ("whatsapp", whatsapp_body),
    ("twilio", twilio_body),
    ("standard", standard_body),
];

/// Lines of `Name: value`: a length is that of the one Content-Length, and there is no
/// Transfer-Encoding beside it.
pub fn framing(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let headers = text.split('\n').filter_map(|line| line.split_once(':'));
    let headers: Vec<_> = headers.map(|(name, value)| (name, value.trim())).collect();
    let values = |name: &str| {
        let named = headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        named.map(|(_, value)| *value).collect::<Vec<_>>()
    };
    let lengths = values("Content-Length");
    let Ok(length) = content_length("POST", "/", headers.iter().copied()) else { return };
    assert!(values("Transfer-Encoding").is_empty() && values("Host").len() <= 1);
    assert!(headers.len() <= HEADERS_MAX);
    match lengths.as_slice() {
        [] => assert_eq!(length, 0),
        [digits] => {
            assert!(digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.is_empty());
            let number = digits.bytes().fold(0_usize, |number, digit| {
                number.saturating_mul(10).saturating_add(usize::from(digit - b'0'))
            });
            assert_eq!(length, number);
        }
        several => panic!("{length} of {several:?}"),
    }
}

/// The two parts of a request's target are what stands on either side of the first `?`, without a
/// fragment; of a target in absolute form, what stands behind the authority.
pub fn target(data: &[u8]) {
    let Ok(target) = str::from_utf8(data) else { return };
    let (path, query) = path_and_query(target);
    assert!(!path.contains(['?', '#']) && !query.contains('#'));
    let target = target.split('#').next().unwrap_or_default();
    if target.starts_with('/') {
        let whole = target.split_once('?').unwrap_or((target, ""));
        assert_eq!((path, query), whole);
    }
    let lower = target.to_ascii_lowercase();
    if lower.starts_with("http://") || lower.starts_with("https://") {
        assert!(path.starts_with('/'));
    }
}

/// Lines of timestamps: each reads as the timestamp that it writes, and a later text in the order
/// of their digits is the later timestamp.
pub fn timestamp(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let mut before: Option<(String, Timestamp)> = None;
    for line in text.lines() {
        let Some(timestamp) = Timestamp::parse(line) else { continue };
        assert!((20..=30).contains(&line.len()) && line.is_ascii() && line.ends_with('Z'));
        // To the second, a text is what was read.
        assert_eq!(timestamp.text(), format!("{}Z", &line[..19]));
        assert_eq!(Timestamp::parse(&timestamp.text()), Some(Timestamp::from(timestamp.seconds)));
        let fraction = line[19..].trim_start_matches('.').trim_end_matches('Z');
        let digits = format!("{}{fraction:0<9}", &line[..19]);
        assert_eq!(format!("{:09}", timestamp.nanoseconds), digits[19..]);
        if let Some((other, earlier)) = &before {
            assert_eq!(digits.cmp(other), timestamp.cmp(earlier), "{line}");
        }
        before = Some((digits, timestamp));
    }
}

/// A position that is read from a cursor, written as a cursor and read again is the same position,
/// and so is one of any timestamp and id.
pub fn cursors(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let (text, order) = match text.strip_prefix('-') {
        Some(text) => (text, Order::Descending),
        None => (text, Order::Ascending),
    };
    let write = |side, position: &Position, row| {
        let Position { timestamp, message_id } = position.clone();
        let [from, to, ts] = [(); 3].map(|()| String::new());
        cursor(side, &Message { message_id, from, to, ts, text: None, timestamp }, |_| row)
    };
    if let Some(start) = read_cursor(text, order, |_| None) {
        let (side, position) = match &start {
            Start::After(position) => (Side::After, position),
            Start::Before(position) => (Side::Before, position),
            Start::Offset(offset) => panic!("a cursor is no offset: {offset}"),
        };
        let again = read_cursor(&write(side, position, Some(1)), order, |_| Some(position.clone()));
        assert_eq!(again, Some(start));
    }
    let (number, id) = text.split_at_checked(8).unwrap_or((text, text));
    let number = number.bytes().fold(0_i64, |number, byte| number << 8 | i64::from(byte));
    let nanoseconds = u32::try_from(number.rem_euclid(1_000_000_000)).unwrap_or_default();
    let position = Position {
        timestamp: Timestamp { seconds: number >> 32, nanoseconds },
        message_id: id.to_owned(),
    };
    let written = write(Side::After, &position, Some(7));
    let read = read_cursor(&written, order, |row| (row == 7).then(|| position.clone()));
    assert_eq!(read, Some(Start::After(position)));
}

/// What a stored page of a segment holds lies inside of it.
pub fn segment(data: &[u8]) {
    let Some(page) = Page::parse(data) else { return };
    let mut start = 0;
    for row in 0..page.length() {
        let end = page.end(row);
        assert!(start <= end && end <= page.texts.len(), "{row}: {start} to {end}");
        let _ = (page.ts_s(row), page.sender_id(row), page.number(row), page.receiver(row));
        start = end;
    }
    assert_eq!(start, page.texts.len());
}

/// Lines of a file of settings: each problem names a setting, accepted values are within their
/// bounds, and no secret is printed.
pub fn settings(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let file = Settings::parse("file", text);
    let values: HashMap<&str, &str> =
        text.lines().filter_map(|line| line.trim().split_once('=')).collect();
    let asked = RefCell::new(Vec::new());
    let source = Source {
        variable: &|name| {
            asked.borrow_mut().push(name.to_owned());
            Ok(values.get(name).map(|value| value.trim().to_owned()))
        },
        credential: &|_| Ok(None),
        file: &|path| Ok(path.as_bytes().to_vec()),
    };
    match Config::read(&source) {
        Ok(config) => {
            assert!((1..=WORKERS_MAX).contains(&config.workers));
            assert!(!config.webhook_secrets.is_empty());
            let secret = values.get("WEBHOOK_SECRET").map_or("", |secret| secret.trim());
            let is_long = secret.len() > 20;
            assert!(!is_long || !format!("{:?}", config.webhook_secrets).contains(secret));
        }
        Err(error) => {
            let is_named = |problem: &String| {
                asked.borrow().iter().any(|name| problem.contains(name.as_str()))
                    || problem.contains("webhook_secret")
            };
            assert!(!error.0.is_empty() && error.0.iter().all(is_named), "{error}");
        }
    }
    drop(file);
}

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    Config::read_variables(Config::EVERY_ROUTE).unwrap_or_else(|error| panic!("{error}"))
});
/// When the requests are received.
const RECEIVED_S: i64 = 1_700_000_000;

/// A signed body of any bytes has parts, and a message of it is one that an export and an import
/// keep as it is. With another signature it has none.
fn body<P: Configured>(body: &[u8], headers: &[(&'static str, String)]) {
    let providers = Providers::of(&CONFIG);
    let keys = P::keys(&providers).unwrap_or_else(|| panic!("its keys are set"));
    let headers: Vec<(&str, &str)> =
        headers.iter().map(|(name, value)| (*name, &**value)).collect();
    let headers = headers.as_slice();
    let request = Request::new(body, "/x", &headers, RECEIVED_S);
    let (signed, key) = P::verify(keys, &request).unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(key, 0);
    let mut reading = Reading::of(P::SOURCE, true);
    P::read(&signed, &mut reading);
    for Delivered { message, source, kind, original } in reading.messages {
        assert!(kind.chars().count() <= KIND_CHARS_MAX && source == P::SOURCE);
        assert!(message.text.as_ref().is_none_or(|text| text.chars().count() <= TEXT_CHARS_MAX));
        assert_eq!(Timestamp::parse(&message.ts), Some(message.timestamp));
        let created_at = "2025-01-15T10:00:00Z".to_owned();
        let received = Received { message, created_at, source, kind, original };
        let mut line = Vec::new();
        Format::Ndjson.write(&received, &mut line);
        let imported = Delivered::from_export(&SignedBody::from_operator(&line));
        let Received { message, kind, mut original, .. } = received;
        // Line breaks of an original become spaces.
        if body.contains(&b'\n') || body.contains(&b'\r') {
            original = imported.as_ref().ok().and_then(|imported| imported.original.clone());
        }
        assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1));
        assert_eq!(imported, Ok(Delivered { message, source, kind, original }));
    }
    let others = [body, b" "].concat();
    let request = Request::new(&others, "/x?", &headers, RECEIVED_S);
    let is_form = P::SOURCE == crate::metrics::Source::Twilio;
    assert!(is_form || P::verify(keys, &request).is_err());
}

pub fn whatsapp_body(data: &[u8]) {
    body::<Whatsapp>(data, &[whatsapp::sign(&CONFIG.whatsapp_app_secrets, data)]);
}

pub fn twilio_body(data: &[u8]) {
    let signed = twilio::sign(&CONFIG.twilio_auth_tokens, "https://example.com/x", data);
    body::<Twilio>(data, &[signed]);
}

pub fn standard_body(data: &[u8]) {
    let secrets = &CONFIG.standard_webhooks_secrets;
    body::<Standard>(data, &standard::sign(secrets, "msg_1", RECEIVED_S, data));
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// Changed seeds of each target. `make fuzz` tries some thousand times as many.
    const INPUTS: usize = 20_000;

    /// By xorshift64.
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, end: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 >> 33).unwrap() % end
        }

        /// Some bytes replaced, removed, doubled, or taken from another seed.
        fn change(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
            let mut bytes = seeds[self.below(seeds.len())].clone();
            for _ in 0..=self.below(4) {
                let at = self.below(bytes.len() + 1);
                let end = (at + self.below(9)).min(bytes.len());
                let other = &seeds[self.below(seeds.len())];
                let from = self.below(other.len() + 1);
                let new: Vec<u8> = match self.below(5) {
                    0 => vec![u8::try_from(self.below(256)).unwrap()],
                    1 => Vec::new(),
                    2 => bytes[at..end].repeat(2),
                    3 => other[from..].iter().take(12).copied().collect(),
                    _ => bytes[at..end].iter().map(|byte| byte.wrapping_add(1)).collect(),
                };
                bytes.splice(at..end, new);
            }
            bytes
        }
    }

    fn seeds(target: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
        let mut paths: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        assert!(paths.len() >= 3, "{target} has {} seeds", paths.len());
        paths.iter().map(|path| fs::read(path).unwrap()).collect()
    }

    #[test]
    fn every_property_holds_for_the_seeds_and_for_thousands_of_changes_of_them() {
        for (target, property) in PROPERTIES {
            let seeds = seeds(target);
            let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15);
            let changed = (0..INPUTS).map(|_| numbers.change(&seeds)).collect::<Vec<_>>();
            for input in seeds.iter().chain(&changed) {
                let held = std::panic::catch_unwind(|| property(input));
                assert!(held.is_ok(), "{target} of {:?}", String::from_utf8_lossy(input));
            }
        }
    }
}

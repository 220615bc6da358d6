//! Authorization of reads: the read tokens, the sessions of browsers, and the host names that are
//! accepted while there is no token. Pure: from a header to yes or no.

use std::net::{Ipv4Addr, Ipv6Addr};

use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::{
    config::Secret,
    signature::{digest as hmac, scheduled},
};

/// Seconds for which a browser stays signed in.
pub(crate) const SESSION_S_MAX: i64 = 7 * 24 * 3_600;

/// The digests of the read tokens, which all have the same length. Without any, every client may
/// read.
#[derive(Clone)]
pub(crate) struct ReadTokens(Vec<[u8; 32]>);

impl std::fmt::Debug for ReadTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReadTokens(..)")
    }
}

impl ReadTokens {
    pub(crate) fn new(tokens: &[Secret]) -> ReadTokens {
        ReadTokens(tokens.iter().map(|token| digest(token.expose())).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Opens a session for a browser whose `Authorization` header has a read token; `now` is in
    /// seconds since 1970. `None` if it has none.
    ///
    /// A session is its end and an HMAC of that under the token, so that it needs no state and ends
    /// with its token, too.
    pub(crate) fn open_session(&self, header: Option<&str>, now: i64) -> Option<String> {
        let given = digest(&header.and_then(token)?);
        let key = self.0.iter().find(|token| bool::from(token.ct_eq(&given)))?;
        let end = now + SESSION_S_MAX;
        Some(format!("{end}.{}", hex::encode(seal(key, end))))
    }

    /// Whether a session has been opened with one of these tokens, and has not ended.
    pub(crate) fn admit_session(&self, session: &str, now: i64) -> bool {
        let mut given = [0; 32];
        let Some((end, mac)) = session.split_once('.') else { return false };
        let Ok(end) = end.parse::<i64>() else { return false };
        if hex::decode_to_slice(mac, &mut given).is_err() || end <= now {
            return false;
        }
        let is_one = |found, token: &[u8; 32]| found | seal(token, end).ct_eq(&given);
        self.0.iter().fold(Choice::from(0), is_one).into()
    }

    /// `header` is the value of the one `Authorization` header: `Bearer TOKEN` (RFC 6750) or
    /// `Basic` with the token as the password and any user (RFC 7617).
    ///
    /// Takes the same time for every wrong token.
    pub(crate) fn admit(&self, header: Option<&str>) -> bool {
        let given = digest(&header.and_then(token).unwrap_or_default());
        let is_one = |found, token: &[u8; 32]| found | token.ct_eq(&given);
        self.is_empty() || self.0.iter().fold(Choice::from(0), is_one).into()
    }
}

/// The host names under which clients may read while there is no token.
///
/// The site of a malicious page can have its own name resolve to 127.0.0.1 (DNS rebinding). The
/// browser then takes this server's responses for that site's and lets the page read them. It still
/// sends the name, so only names that no attacker's DNS can serve are accepted.
#[derive(Debug, Clone)]
pub(crate) struct Hosts(Vec<String>);

impl Hosts {
    pub(crate) fn new(names: &[String]) -> Hosts {
        Hosts(names.to_vec())
    }

    /// `authority` is the value of a `Host` header, or the authority of a request target: a host,
    /// and maybe a port, which does not matter.
    pub(crate) fn admit(&self, authority: &str) -> bool {
        let host = without_port(authority);
        if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            // Some clients send the zone of a link-local address, too.
            let (address, _) = address.split_once('%').unwrap_or((address, ""));
            return address.parse::<Ipv6Addr>().is_ok();
        }
        // With a dot at its end, a single label is a top-level domain, which an attacker may own.
        let is_label_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let is_single_label = !host.is_empty() && host.bytes().all(is_label_byte);
        let name = host.strip_suffix('.').unwrap_or(host);
        is_single_label
            || host.parse::<Ipv4Addr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || self.0.iter().any(|own| own.eq_ignore_ascii_case(name))
    }
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

fn seal(token: &[u8; 32], end: i64) -> [u8; 32] {
    hmac(&scheduled(token), format!("mailslot session until {end}").as_bytes())
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn token(header: &str) -> Option<Vec<u8>> {
    let (scheme, value) = header.split_once(' ')?;
    let value = value.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(value.as_bytes().to_vec());
    }
    let credentials =
        STANDARD.decode(value).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let colon = credentials.iter().position(|byte| *byte == b':')?;
    Some(credentials[colon + 1..].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_admitted_if_no_attackers_dns_can_serve_it() {
        let hosts = Hosts::new(&["hooks.example.com".to_owned()]);
        for right in [
            "127.0.0.1",
            "127.0.0.1:8000",
            "[::1]",
            "[::1]:8000",
            "[fe80::1%25eth0]:8000",
            "localhost",
            "LOCALHOST.:8000",
            "localhost:",
            "api",
            "my-mail_slot:80",
            "2130706433",
            "hooks.example.com",
            "Hooks.Example.com.:443",
        ] {
            assert!(hosts.admit(right), "{right}");
        }
        for wrong in [
            "",
            ":80",
            ".",
            "..",
            "example.com",
            "x.hooks.example.com",
            "hooks.example.com..",
            "ai.",
            "127.0.0.1.example.com",
            "127.0.0.1:80.example.com",
            "127.1",
            "::1",
            "[::1",
            "[::1]x",
            "[example.com]",
            "[]",
            "user@localhost",
            "localhost:80:80",
            "localhost example.com",
        ] {
            assert!(!hosts.admit(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_session_lasts_until_its_end_and_as_long_as_its_token() {
        let tokens = |tokens: &'static str| {
            let settings = [("WEBHOOK_SECRET", "s"), ("READ_TOKEN", tokens)];
            ReadTokens::new(&crate::config::Config::read_variables(&settings).unwrap().read_tokens)
        };
        let both = tokens("first second");
        let session = both.open_session(Some("Bearer second"), 1_000).unwrap();
        let end = 1_000 + SESSION_S_MAX;
        assert!(both.admit_session(&session, 1_000) && both.admit_session(&session, end - 1));
        assert!(!both.admit_session(&session, end));
        assert!(tokens("second").admit_session(&session, 1_000));
        assert!(!tokens("first").admit_session(&session, 1_000), "its token is no more");
        assert!(!tokens("").admit_session(&session, 1_000));
        let (_, mac) = session.split_once('.').unwrap();
        for forged in [
            String::new(),
            ".".to_owned(),
            mac.to_owned(),
            format!("{}.{mac}", end + 1),
            format!("{end}.{}", mac.replace(&mac[..1], "x")),
            format!("{end}.{}", &mac[2..]),
            format!("{session}00"),
        ] {
            assert!(!both.admit_session(&forged, 1_000), "{forged}");
        }
        assert_eq!(both.open_session(Some("Bearer third"), 1_000), None);
        assert_eq!(both.open_session(None, 1_000), None);
        assert_eq!(tokens("").open_session(Some("Bearer x"), 1_000), None);
    }

    #[test]
    fn each_token_is_accepted_in_either_form_and_nothing_else_is() {
        let config = |tokens: &'static str| {
            let settings = [("WEBHOOK_SECRET", "s"), ("READ_TOKEN", tokens)];
            crate::config::Config::read_variables(&settings)
        };
        let tokens = ReadTokens::new(&config("first second:2").unwrap().read_tokens);
        let basic = |credentials: &str| format!("Basic {}", STANDARD.encode(credentials));
        for right in [
            "Bearer first",
            "bearer first",
            "BEARER  second:2 ",
            &basic(":first"),
            &basic("user:second:2"),
        ] {
            assert!(tokens.admit(Some(right)), "{right}");
        }
        for wrong in [
            "",
            "first",
            "Bearer",
            "Bearer ",
            "Bearer firs",
            "Bearer firstt",
            "Bearer first second:2",
            "Basic first",
            "Basic Zmlyc3Q=",
            &basic("first"),
            &basic("first:"),
            &basic("u: first"),
            "Digest first",
        ] {
            assert!(!tokens.admit(Some(wrong)), "{wrong}");
        }
        assert!(!tokens.admit(None));
        assert!(ReadTokens::new(&config("").unwrap().read_tokens).admit(None));
    }
}

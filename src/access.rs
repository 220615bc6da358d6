//! Who may read. Pure: a header in, a verdict out.

use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::config::Secret;

/// The read tokens' digests, which are of one length whatever the tokens are. None: everybody reads.
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

    /// `header` is the value of the one `Authorization` header: `Bearer TOKEN` (RFC 6750) or `Basic`
    /// with the token as the password and any user (RFC 7617).
    ///
    /// Takes the same time whatever is wrong.
    pub(crate) fn admit(&self, header: Option<&str>) -> bool {
        let given = digest(&header.and_then(token).unwrap_or_default());
        let is_one = |found, token: &[u8; 32]| found | token.ct_eq(&given);
        self.is_empty() || self.0.iter().fold(Choice::from(0), is_one).into()
    }
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
    fn any_of_the_tokens_opens_in_either_form_and_nothing_else_does() {
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
            &basic("anybody:second:2"),
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

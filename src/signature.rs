//! HMAC-SHA256 over the untouched body. Pure: bytes in, verdict out.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::{config::Secret, error::Error};

/// A body whose signature has been checked, or a line of the operator's own file. There is no other
/// way to make one, and no other way to a `Message`: what nobody vouches for cannot be parsed.
#[derive(Debug)]
pub(crate) struct SignedBody<'a>(&'a [u8]);

impl SignedBody<'_> {
    /// Whoever may read the database's folder and run this program vouches for it.
    pub(crate) fn from_operator(line: &[u8]) -> SignedBody<'_> {
        SignedBody(line)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0
    }
}

/// The keys, already scheduled: a request clones two hash states instead of hashing a key.
#[derive(Clone)]
pub(crate) struct Verifier(Vec<Hmac<Sha256>>);

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier(..)")
    }
}

impl Verifier {
    /// The first of the secrets is the current one.
    pub(crate) fn new(secrets: &[Secret]) -> Verifier {
        Verifier(secrets.iter().map(|secret| scheduled(secret.expose())).collect())
    }

    /// `header` is the value of the one `X-Signature` header: 64 hexadecimal digits of either case.
    /// Says with the body which secret it was, counted from 0. Every one is tried, whichever it was,
    /// so that the time tells nothing.
    pub(crate) fn verify<'a>(
        &self,
        header: Option<&str>,
        body: &'a [u8],
    ) -> Result<(SignedBody<'a>, usize), Error> {
        let mut given = [0; 32];
        hex::decode_to_slice(header.unwrap_or_default(), &mut given)
            .map_err(|_| Error::InvalidSignature)?;
        let (mut is_one, mut slot) = (Choice::from(0), 0_u64);
        for (number, mac) in (0..).zip(&self.0) {
            let is_this = digest(mac, body).ct_eq(&given);
            slot.conditional_assign(&number, is_this & !is_one);
            is_one |= is_this;
        }
        if is_one.into() {
            Ok((SignedBody(body), usize::try_from(slot).unwrap_or_default()))
        } else {
            Err(Error::InvalidSignature)
        }
    }

    /// What a sender with the current secret sends along with this body.
    pub(crate) fn sign(&self, body: &[u8]) -> String {
        self.0.first().map_or_else(String::new, |mac| hex::encode(digest(mac, body)))
    }
}

pub(crate) fn scheduled(key: &[u8]) -> Hmac<Sha256> {
    match Hmac::new_from_slice(key) {
        Ok(mac) => mac,
        Err(_) => unreachable!("RFC 2104: HMAC takes a key of any length"),
    }
}

pub(crate) fn digest(mac: &Hmac<Sha256>, body: &[u8]) -> [u8; 32] {
    mac.clone().chain_update(body).finalize().into_bytes().into()
}

#[cfg(test)]
pub(crate) fn signed(body: &[u8]) -> SignedBody<'_> {
    SignedBody(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test case 2.
    #[test]
    fn the_rfc_4231_vector_verifies_in_either_case() {
        let config = crate::config::Config::read_variables(&[("WEBHOOK_SECRET", "Jefe")]);
        let verifier =
            Verifier::new(&config.unwrap_or_else(|error| panic!("{error}")).webhook_secrets);
        let (body, hex) = (
            b"what do ya want for nothing?",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        );
        assert!(verifier.verify(Some(hex), body).is_ok());
        assert!(verifier.verify(Some(&hex.to_uppercase()), body).is_ok());
        for wrong in [
            "",
            &hex[..62],
            &format!("{hex}00"),
            &format!("sha256={hex}"),
            &hex.replace('5', "6"),
            "é",
        ] {
            assert!(verifier.verify(Some(wrong), body).is_err(), "{wrong}");
        }
        assert!(verifier.verify(None, body).is_err());
    }

    #[test]
    fn any_of_the_secrets_verifies_and_the_slot_says_which() {
        let secrets = |lines: &'static [u8]| {
            let config = crate::config::Config::read(&crate::config::Source {
                variable: &|_| Ok(None),
                credential: &|name| Ok((name == "webhook_secret").then(|| lines.to_vec())),
                file: &|_| Err("is not there".to_owned()),
            });
            config.unwrap_or_else(|error| panic!("{error}")).webhook_secrets
        };
        let verifier = Verifier::new(&secrets(b"new\r\n\nold\nnew\n"));
        for (key, slot) in [(&b"new"[..], 0), (b"old", 1)] {
            let signature = hex::encode(digest(&scheduled(key), b"body"));
            let found = verifier.verify(Some(&signature), b"body").map(|(_, slot)| slot);
            assert_eq!(found, Ok(slot));
        }
        assert_eq!(verifier.sign(b"body"), hex::encode(digest(&scheduled(b"new"), b"body")));
    }
}

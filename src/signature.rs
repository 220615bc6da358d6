//! HMAC signatures of a body's bytes as they came. Pure.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::{config::Secret, error::Error};

/// A body whose signature is valid, or a line of a file of the operator's. Only a signed body can
/// become a `Message`, so that no unauthenticated bytes can be parsed.
#[derive(Debug)]
pub(crate) struct SignedBody<'a>(&'a [u8]);

impl SignedBody<'_> {
    /// For `mailslot import`, whose user may write the database anyway.
    pub(crate) fn from_operator(line: &[u8]) -> SignedBody<'_> {
        SignedBody(line)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0
    }
}

/// The keys of an HMAC, already expanded: a request clones two hash states instead of hashing a
/// key.
#[derive(Clone)]
pub(crate) struct Keyring<M>(Vec<M>);

impl<M> std::fmt::Debug for Keyring<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keyring(..)")
    }
}

impl<M: Mac + KeyInit + Clone> Keyring<M> {
    /// The first secret is the current one.
    pub(crate) fn new(secrets: &[Secret]) -> Keyring<M> {
        Keyring(secrets.iter().map(|secret| scheduled(secret.expose())).collect())
    }

    /// One key alone.
    pub(crate) fn of_key(key: &[u8]) -> Keyring<M> {
        Keyring(vec![scheduled(key)])
    }

    /// The index of the first key under which `parts`, one behind the other, have one of these
    /// digests. Every key is always tried, with every digest, so that the time does not depend on
    /// the key.
    pub(crate) fn find(&self, digests: &[impl AsRef<[u8]>], parts: &[&[u8]]) -> Option<usize> {
        let (mut is_one, mut index) = (Choice::from(0), 0_u64);
        for (number, mac) in (0..).zip(&self.0) {
            let digest = digest_parts(mac, parts);
            let mut is_this = Choice::from(0);
            for given in digests {
                is_this |= digest.ct_eq(given.as_ref());
            }
            index.conditional_assign(&number, is_this & !is_one);
            is_one |= is_this;
        }
        bool::from(is_one).then(|| usize::try_from(index).unwrap_or_default())
    }

    /// The digest of `parts` under the current key; empty where there is none.
    pub(crate) fn sign(&self, parts: &[&[u8]]) -> Vec<u8> {
        self.0.first().map_or_else(Vec::new, |mac| digest_parts(mac, parts))
    }
}

fn digest_parts<M: Mac + Clone>(mac: &M, parts: &[&[u8]]) -> Vec<u8> {
    let mut mac = mac.clone();
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().to_vec()
}

/// The keys of `X-Signature`.
#[derive(Debug, Clone)]
pub(crate) struct Verifier(Keyring<Hmac<Sha256>>);

impl Verifier {
    /// The first secret is the current one.
    pub(crate) fn new(secrets: &[Secret]) -> Verifier {
        Verifier(Keyring::new(secrets))
    }

    /// `header` is the value of the only `X-Signature` header: 64 hexadecimal digits in either
    /// case. Returns the index of the key that verifies it, too.
    pub(crate) fn verify<'a>(
        &self,
        header: Option<&str>,
        body: &'a [u8],
    ) -> Result<(SignedBody<'a>, usize), Error> {
        let mut given = [0; 32];
        hex::decode_to_slice(header.unwrap_or_default(), &mut given)
            .map_err(|_| Error::InvalidSignature)?;
        let key = self.0.find(&[given], &[body]).ok_or(Error::InvalidSignature)?;
        Ok((SignedBody(body), key))
    }

    /// The signature of a body with the current key.
    pub(crate) fn sign(&self, body: &[u8]) -> String {
        hex::encode(self.0.sign(&[body]))
    }
}

pub(crate) fn scheduled<M: KeyInit>(key: &[u8]) -> M {
    match M::new_from_slice(key) {
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
    fn each_key_verifies_and_its_index_is_returned() {
        let secrets = |lines: &'static [u8]| {
            let config = crate::config::Config::read(&crate::config::Source {
                variable: &|_| Ok(None),
                credential: &|name| Ok((name == "webhook_secret").then(|| lines.to_vec())),
                file: &|_| Err("is not there".to_owned()),
            });
            config.unwrap_or_else(|error| panic!("{error}")).webhook_secrets
        };
        let verifier = Verifier::new(&secrets(b"new\r\n\nold\nnew\n"));
        for (key, index) in [(&b"new"[..], 0), (b"old", 1)] {
            let signature = hex::encode(digest(&scheduled(key), b"body"));
            let found = verifier.verify(Some(&signature), b"body").map(|(_, index)| index);
            assert_eq!(found, Ok(index));
        }
        assert_eq!(verifier.sign(b"body"), hex::encode(digest(&scheduled(b"new"), b"body")));
    }
}

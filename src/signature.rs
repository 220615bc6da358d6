//! HMAC-SHA256 over the untouched body. Pure: bytes in, verdict out.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

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

/// The key, already scheduled: a request clones two hash states instead of hashing the key.
#[derive(Clone)]
pub(crate) struct Verifier(Hmac<Sha256>);

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier(..)")
    }
}

impl Verifier {
    pub(crate) fn new(secret: &Secret) -> Verifier {
        match Hmac::new_from_slice(secret.expose()) {
            Ok(mac) => Verifier(mac),
            Err(_) => unreachable!("RFC 2104: HMAC takes a key of any length"),
        }
    }

    /// `header` is the value of the one `X-Signature` header: 64 hexadecimal digits of either case.
    pub(crate) fn verify<'a>(
        &self,
        header: Option<&str>,
        body: &'a [u8],
    ) -> Result<SignedBody<'a>, Error> {
        let mut given = [0; 32];
        hex::decode_to_slice(header.unwrap_or_default(), &mut given)
            .map_err(|_| Error::InvalidSignature)?;
        let expected: [u8; 32] = self.0.clone().chain_update(body).finalize().into_bytes().into();
        if expected.ct_eq(&given).into() {
            Ok(SignedBody(body))
        } else {
            Err(Error::InvalidSignature)
        }
    }
}

#[cfg(test)]
impl Verifier {
    pub(crate) fn sign(&self, body: &[u8]) -> String {
        hex::encode(self.0.clone().chain_update(body).finalize().into_bytes())
    }
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
        let config = crate::config::Config::read(&crate::config::Source {
            variable: &|name| Ok((name == "WEBHOOK_SECRET").then(|| "Jefe".to_owned())),
            credential: &|_| Ok(None),
            file: &|_| Err("is not there".to_owned()),
        });
        let verifier =
            Verifier::new(&config.unwrap_or_else(|error| panic!("{error}")).webhook_secret);
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
}

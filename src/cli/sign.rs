//! `mailslot sign` and `mailslot verify`: the signature of a body, made and checked.

use lexopt::{
    Arg::{Long, Value},
    Parser, ValueExt,
};

use super::{Failure, Outcome, diagnosis::diagnose, only_file, read, required, say};
use crate::{
    config::{Config, with_source},
    signature::Verifier,
};

pub(super) const SIGN_HELP: &str = "\
Prints the X-Signature that a sender with the current secret sends with these bytes, which - takes
from stdin. A newline at the end is signed too.
";

pub(super) const VERIFY_HELP: &str = "\
Checks that a signature is of these bytes, which - takes from stdin, under one of the secrets, as the
service does: says which secret it was, or \"not valid\" with exit status 1.

  --signature HEX   the value of the X-Signature header
  --explain         why it is not valid, and what to do
";

pub(super) fn sign(parser: Parser) -> Outcome {
    let body = read(&only_file(parser)?)?;
    let config = with_source(Config::read)?;
    say(&format!("{}\n", Verifier::new(&config.webhook_secrets).sign(&body)))
}

pub(super) fn verify(mut parser: Parser) -> Outcome {
    let (mut file, mut signature, mut explains) = (None, None, false);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("signature") => signature = Some(parser.value()?.string()?),
            Long("explain") => explains = true,
            Value(value) if file.is_none() => file = Some(value),
            _ => return Err(argument.unexpected().into()),
        }
    }
    let signature =
        signature.ok_or_else(|| Failure::Usage("--signature HEX is missing".to_owned()))?;
    let body = read(&required(file)?)?;
    let secrets = with_source(Config::read)?.webhook_secrets;
    if let Ok((_, slot)) = Verifier::new(&secrets).verify(Some(&signature), &body) {
        return say(&format!("ok (secret {})\n", slot + 1));
    }
    say("not valid\n")?;
    if explains {
        for sentence in diagnose(&signature, &body, &secrets) {
            say(&format!("{sentence}\n"))?;
        }
    }
    Err(Failure::Told)
}

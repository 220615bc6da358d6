//! `mailslot sign` and `mailslot verify`: the signature of a body.

use super::{
    command::{Arguments, Command, Operand, flag, option},
    diagnosis::diagnose,
    input::read,
    outcome::{Failure, Outcome},
    output::print,
};
use crate::{
    config::{Config, with_source},
    signature::Verifier,
};

pub(super) const SIGN: Command = Command {
    name: "sign",
    summary: "print the X-Signature of a body",
    description: "\
Prints the X-Signature that a sender with the current secret sends with the bytes of FILE; - reads
stdin. A newline at the end is signed, too.
",
    options: &[],
    operand: Operand::Required("FILE|-"),
    run: sign,
};

pub(super) const VERIFY: Command = Command {
    name: "verify",
    summary: "check the signature of a body, and explain why it is not valid",
    description: "\
Checks, as the service does, that a signature belongs to the bytes of FILE under one of the secrets;
- reads stdin. Prints which secret it was, or \"not valid\" with exit status 1.
",
    options: &[
        option("--signature", "HEX", "the value of the X-Signature header").required(),
        flag("--explain", "print why it is not valid, and what to do"),
    ],
    operand: Operand::Required("FILE|-"),
    run: verify,
};

fn sign(arguments: &Arguments) -> Outcome {
    let body = read(arguments.file())?;
    let config = with_source(Config::read)?;
    print(&format!("{}\n", Verifier::new(&config.webhook_secrets).sign(&body)))
}

fn verify(arguments: &Arguments) -> Outcome {
    let signature = arguments.text("--signature")?.unwrap_or_default();
    let body = read(arguments.file())?;
    let secrets = with_source(Config::read)?.webhook_secrets;
    if let Ok((_, key)) = Verifier::new(&secrets).verify(Some(&signature), &body) {
        return print(&format!("ok (secret {})\n", key + 1));
    }
    print("not valid\n")?;
    if arguments.has("--explain") {
        for sentence in diagnose(&signature, &body, &secrets) {
            print(&format!("{sentence}\n"))?;
        }
    }
    Err(Failure::InOutput)
}

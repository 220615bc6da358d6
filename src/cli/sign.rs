//! `mailslot sign` and `mailslot verify`: the signature of a body.

use super::{
    command::{Arguments, Command, OPTION, Operand, Opt},
    diagnosis::{Claim, diagnose},
    input::read,
    outcome::{Failure, Outcome},
    output::print,
    scheme::{SCHEME, Scheme, Signing, new_id},
};
use crate::{
    config::{Config, with_source},
    logging,
};

const URL: Opt = Opt {
    name: "--url",
    value: "URL",
    help: "twilio: the URL as Twilio's console has it; default PUBLIC_URL/webhook/twilio",
    ..OPTION
};
const ID: Opt = Opt { name: "--id", value: "ID", help: "standard: the webhook-id", ..OPTION };
const TIMESTAMP: Opt =
    Opt { name: "--timestamp", value: "N", help: "standard: the webhook-timestamp", ..OPTION };

pub(super) const SIGN: Command = Command {
    name: "sign",
    summary: "print the signature of a body",
    description: "\
Prints the X-Signature that a sender with the current secret sends with the bytes of FILE; - reads
stdin. A newline at the end is signed, too. With --scheme, prints the provider's headers instead, a
line each, as curl -H @FILE takes them.
",
    options: &[SCHEME, URL, ID, TIMESTAMP],
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
        Opt {
            name: "--signature",
            value: "TEXT",
            is_required: true,
            help: "the value of the X-Signature header, or of the provider's",
            ..OPTION
        },
        Opt { name: "--explain", help: "print why it is not valid, and what to do", ..OPTION },
        SCHEME,
        URL,
        ID,
        TIMESTAMP,
    ],
    operand: Operand::Required("FILE|-"),
    run: verify,
};

/// What the options say of a request beside its body.
fn signing(arguments: &Arguments, config: &Config) -> Result<Signing, Failure> {
    let url = arguments.text("--url")?.unwrap_or_else(|| {
        let public_url = config.public_url.as_deref().unwrap_or_default();
        format!("{public_url}{}", Scheme::Twilio.path())
    });
    Ok(Signing {
        url,
        id: arguments.text("--id")?.unwrap_or_else(new_id),
        timestamp_s: arguments
            .number("--timestamp", 0..=i64::MAX)?
            .unwrap_or_else(logging::now_seconds),
    })
}

fn sign(arguments: &Arguments) -> Outcome {
    let scheme = Scheme::of(arguments)?;
    let body = read(arguments.file())?;
    let config = with_source(Config::read)?;
    let headers = scheme.sign(scheme.secrets(&config)?, &signing(arguments, &config)?, &body);
    for (name, value) in headers {
        print(&match scheme {
            Scheme::Webhook => format!("{value}\n"),
            _ => format!("{name}: {value}\n"),
        })?;
    }
    Ok(())
}

fn verify(arguments: &Arguments) -> Outcome {
    let scheme = Scheme::of(arguments)?;
    let signature = arguments.text("--signature")?.unwrap_or_default();
    for (name, needed) in [("--id", "webhook-id"), ("--timestamp", "webhook-timestamp")] {
        if scheme == Scheme::Standard && !arguments.has(name) {
            return Err(Failure::Usage(format!("{name} is missing: {needed} is signed, too")));
        }
    }
    let body = read(arguments.file())?;
    let config = with_source(Config::read)?;
    let secrets = scheme.secrets(&config)?;
    let signing = signing(arguments, &config)?;
    let claim = Claim { scheme, secrets, signing: &signing, signature: &signature, body: &body };
    if let Some(key) = scheme.verify(&config, &signing, &signature, &body) {
        print(&format!("ok (secret {})\n", key + 1))?;
        if arguments.has("--explain") && scheme == Scheme::Standard {
            claim.check_clock().map_or(Ok(()), |note| print(&format!("{note}\n")))?;
        }
        return Ok(());
    }
    print("not valid\n")?;
    if arguments.has("--explain") {
        for sentence in diagnose(&claim) {
            print(&format!("{sentence}\n"))?;
        }
    }
    Err(Failure::InOutput)
}

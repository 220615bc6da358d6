//! The schemes in which a body can be signed: mailslot's own, and those of the providers.

use super::{
    command::{Arguments, OPTION, Opt},
    outcome::Failure,
};
use crate::{
    config::{Config, Secret},
    error::Error,
    http::Request,
    logging,
    providers::{Configured, Providers, Standard, Twilio, Whatsapp, standard, twilio, whatsapp},
    signature::Verifier,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Webhook,
    Whatsapp,
    Twilio,
    Standard,
}

/// Every scheme by its name. The first one is the default.
const SCHEMES: &[(&str, Scheme)] = &[
    ("webhook", Scheme::Webhook),
    ("whatsapp", Scheme::Whatsapp),
    ("twilio", Scheme::Twilio),
    ("standard", Scheme::Standard),
];

pub(super) const SCHEME: Opt = Opt {
    name: "--scheme",
    value: "S",
    help: "whatsapp, twilio or standard; default webhook, which is X-Signature",
    ..OPTION
};

/// What is signed beside the body, by a scheme that signs more.
#[derive(Debug)]
pub(super) struct Signing {
    /// The URL to which Twilio posts.
    pub(super) url: String,
    /// The id and the time of a request of Standard Webhooks.
    pub(super) id: String,
    pub(super) timestamp_s: i64,
}

/// Headers by their names.
pub(super) type Headers = Vec<(&'static str, String)>;

impl Scheme {
    pub(super) fn of(arguments: &Arguments) -> Result<Scheme, Failure> {
        let Some(name) = arguments.text("--scheme")? else { return Ok(SCHEMES[0].1) };
        let found = SCHEMES.iter().find(|(known, _)| *known == name).map(|(_, scheme)| *scheme);
        let names: Vec<&str> = SCHEMES.iter().map(|(name, _)| *name).collect();
        let expected = || format!("--scheme {name:?}: expected {}", names.join(", "));
        found.ok_or_else(|| Failure::Usage(expected()))
    }

    /// The path at which mailslot takes such bodies.
    pub(super) fn path(self) -> &'static str {
        match self {
            Scheme::Webhook => "/webhook",
            Scheme::Whatsapp => "/webhook/whatsapp",
            Scheme::Twilio => "/webhook/twilio",
            Scheme::Standard => "/webhook/standard",
        }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Scheme::Twilio => "application/x-www-form-urlencoded",
            Scheme::Webhook | Scheme::Whatsapp | Scheme::Standard => "application/json",
        }
    }

    /// The setting that has its secrets.
    pub(super) fn setting(self) -> &'static str {
        match self {
            Scheme::Webhook => "WEBHOOK_SECRET",
            Scheme::Whatsapp => "WHATSAPP_APP_SECRET",
            Scheme::Twilio => "TWILIO_AUTH_TOKEN",
            Scheme::Standard => "STANDARD_WEBHOOKS_SECRET",
        }
    }

    /// # Errors
    /// The settings have no secret of this scheme.
    pub(super) fn secrets(self, config: &Config) -> Result<&[Secret], Failure> {
        let secrets = match self {
            Scheme::Webhook => &config.webhook_secrets,
            Scheme::Whatsapp => &config.whatsapp_app_secrets,
            Scheme::Twilio => &config.twilio_auth_tokens,
            Scheme::Standard => &config.standard_webhooks_secrets,
        };
        if secrets.is_empty() {
            let setting = self.setting();
            let problem = format!("{setting} is not set: this scheme signs with it");
            return Err(Failure::Settings(vec![problem]));
        }
        Ok(secrets)
    }

    /// The headers that a sender with the current secret sends with a body.
    pub(super) fn sign(self, secrets: &[Secret], signing: &Signing, body: &[u8]) -> Headers {
        match self {
            Scheme::Webhook => vec![("X-Signature", Verifier::new(secrets).sign(body))],
            Scheme::Whatsapp => vec![whatsapp::sign(secrets, body)],
            Scheme::Twilio => vec![twilio::sign(secrets, &signing.url, body)],
            Scheme::Standard => {
                standard::sign(secrets, &signing.id, signing.timestamp_s, body).to_vec()
            }
        }
    }

    /// The index of the key that verifies a request, as the service does it.
    pub(super) fn verify(
        self,
        config: &Config,
        signing: &Signing,
        signature: &str,
        body: &[u8],
    ) -> Option<usize> {
        let timestamp = signing.timestamp_s.to_string();
        let headers = [
            ("X-Signature", signature),
            (whatsapp::HEADER, signature),
            (twilio::HEADER, signature),
            (standard::SIGNATURE[0], signature),
            (standard::ID[0], &signing.id),
            (standard::TIMESTAMP[0], &timestamp),
        ];
        let headers = headers.as_slice();
        let public_url = config.public_url.clone().unwrap_or_default();
        let target = signing.url.strip_prefix(&public_url).unwrap_or(&signing.url);
        let request = Request::new(body, target, &headers, signing.timestamp_s);
        let providers = Providers::of(config);
        let found = match self {
            Scheme::Webhook => {
                Verifier::new(&config.webhook_secrets).verify(Some(signature), body).map(|ok| ok.1)
            }
            Scheme::Whatsapp => verified::<Whatsapp>(&providers, &request),
            Scheme::Twilio => verified::<Twilio>(&providers, &request),
            Scheme::Standard => verified::<Standard>(&providers, &request),
        };
        found.ok()
    }
}

fn verified<P: Configured>(providers: &Providers, request: &Request<'_>) -> Result<usize, Error> {
    let keys = P::keys(providers).ok_or(Error::InvalidSignature)?;
    P::verify(keys, request).map(|(_, key)| key)
}

/// A new id of a request.
pub(super) fn new_id() -> String {
    format!("msg_{:x}{:x}", logging::now_ms(), std::process::id())
}

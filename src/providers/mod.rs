//! The providers whose bodies have a form of their own, one file for each: how it signs, how its
//! body becomes messages, and how it wants to be answered. docs/ARCHITECTURE.md says how one is
//! added.

pub(crate) mod whatsapp; // Meta's WhatsApp Cloud API
pub(crate) mod twilio; // Twilio: SMS, MMS and WhatsApp
pub(crate) mod standard; // Standard Webhooks, as Svix and others send them
mod reading; // what is read from a body

use crate::{
    config::Config,
    error::Error,
    http::{Request, Response},
    metrics::Source,
};

pub(crate) use reading::Reading;
pub(crate) use standard::Standard;
pub(crate) use twilio::Twilio;
pub(crate) use whatsapp::{WHATSAPP_BODY_BYTES_MAX, Whatsapp};

/// A provider: a type without values.
pub(crate) trait Provider: 'static {
    const SOURCE: Source;
    /// What its signatures are verified with.
    type Keys;
    /// A request whose signature is valid: only [`Provider::verify`] makes one, so that nothing of
    /// another request can be read as messages.
    type Signed<'a>;

    /// `None` where the operator has not set them.
    fn keys(providers: &Providers) -> Option<&Self::Keys>;

    /// Gives the index of the key that verifies the request, too. Every key is always tried.
    ///
    /// # Errors
    /// [`Error::InvalidSignature`], whatever is wrong.
    fn verify<'a>(
        keys: &Self::Keys,
        request: &Request<'a>,
    ) -> Result<(Self::Signed<'a>, usize), Error>;

    /// Adds each part of the body to `reading`.
    fn read(signed: &Self::Signed<'_>, reading: &mut Reading);

    /// The response that the provider takes as an acknowledgement.
    fn acknowledgement() -> Response;
}

/// What the settings say of the providers.
#[derive(Debug)]
pub(crate) struct Providers {
    whatsapp: Option<whatsapp::Keys>,
    twilio: Option<twilio::Keys>,
    standard: Option<standard::Keys>,
    pub(crate) keeps_originals: bool,
}

impl Providers {
    pub(crate) fn of(config: &Config) -> Providers {
        Providers {
            whatsapp: whatsapp::Keys::of(config),
            twilio: twilio::Keys::of(config),
            standard: standard::Keys::of(config),
            keeps_originals: config.keep_originals,
        }
    }
}

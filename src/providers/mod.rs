//! The providers whose bodies have a form of their own, one file for each: how it signs, how its
//! body becomes messages, and how it wants to be answered. docs/ARCHITECTURE.md says how one is
//! added.

pub(crate) mod whatsapp; // Meta's WhatsApp Cloud API
pub(crate) mod twilio; // Twilio: SMS, MMS and WhatsApp
pub(crate) mod standard; // Standard Webhooks, as Svix and others send them
mod provider; // what each of these files says of its provider
mod reading; // what is read from a body
mod outline; // a body down to its messages

use crate::config::Config;

pub(crate) use provider::Provider;
pub(crate) use reading::Reading;
pub(crate) use standard::Standard;
pub(crate) use twilio::Twilio;
pub(crate) use whatsapp::{WHATSAPP_BODY_BYTES_MAX, Whatsapp};

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

/// A provider whose keys are among the settings.
pub(crate) trait Configured: Provider {
    /// `None` where the operator has not set them.
    fn keys(providers: &Providers) -> Option<&Self::Keys>;
}

impl Configured for Whatsapp {
    fn keys(providers: &Providers) -> Option<&whatsapp::Keys> {
        providers.whatsapp.as_ref()
    }
}

impl Configured for Twilio {
    fn keys(providers: &Providers) -> Option<&twilio::Keys> {
        providers.twilio.as_ref()
    }
}

impl Configured for Standard {
    fn keys(providers: &Providers) -> Option<&standard::Keys> {
        providers.standard.as_ref()
    }
}

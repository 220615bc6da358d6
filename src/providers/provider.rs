//! What each provider's file says of it.

use super::reading::Reading;
use crate::{
    error::Error,
    http::{Request, Response},
    metrics::Source,
};

/// A provider: a type without values.
pub(crate) trait Provider: 'static {
    const SOURCE: Source;
    /// What its signatures are verified with.
    type Keys;
    /// A request whose signature is valid: only [`Provider::verify`] makes one, so that nothing of
    /// another request can be read as messages.
    type Signed<'a>;

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

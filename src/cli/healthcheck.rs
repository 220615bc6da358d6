//! `mailslot healthcheck`: what a container's runtime asks.

use std::time::Duration;

use lexopt::Parser;

use super::{Failure, Outcome};
use crate::{
    config::{Config, with_source},
    service,
};

pub(super) const HELP: &str = "\
Asks the service at LISTEN whether a message posted now would be stored. Exit status: 0 or 1.
";

/// How long `mailslot healthcheck` waits for an answer.
pub(super) const HEALTHCHECK_MS_MAX: u64 = 3_000;

pub(super) fn run(mut parser: Parser) -> Outcome {
    if let Some(argument) = parser.next()? {
        return Err(argument.unexpected().into());
    }
    let address = with_source(Config::read_listen)?;
    let problem = match service::ask_ready(address, Duration::from_millis(HEALTHCHECK_MS_MAX)) {
        Ok((200, _)) => return Ok(()),
        Ok((_, body)) => body,
        Err(error) => error.to_string(),
    };
    Err(Failure::Failed(format!("{address} is not ready: {problem}")))
}

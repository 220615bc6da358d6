//! `mailslot healthcheck`: what a container's runtime asks.

use std::time::Duration;

use lexopt::Parser;

use super::{Failure, Outcome};
use crate::{
    client::ask_ready,
    config::{Config, with_source},
    http,
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
    let timeout = Duration::from_millis(HEALTHCHECK_MS_MAX);
    let problem = match ask_ready(http::reachable(address), timeout) {
        Ok(answer) if answer.status == 200 => return Ok(()),
        Ok(answer) => answer.body,
        Err(error) => error.to_string(),
    };
    Err(Failure::Failed(format!("{address} is not ready: {problem}")))
}

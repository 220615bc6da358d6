//! `mailslot healthcheck`: for a container's runtime.

use std::time::Duration;

use super::{
    command::{Arguments, Command, Operand},
    outcome::{Failure, Outcome},
};
use crate::{
    client::ask_ready,
    config::{Config, with_source},
    http,
};

pub(super) const COMMAND: Command = Command {
    name: "healthcheck",
    summary: "ask the service at LISTEN whether it is ready",
    description: "\
Asks the service at LISTEN whether a message posted now would be stored. Exit status: 0 or 1.
",
    options: &[],
    operand: Operand::None,
    run,
};

/// How long `mailslot healthcheck` waits for an answer.
pub(super) const HEALTHCHECK_MS_MAX: u64 = 3_000;

fn run(_: &Arguments) -> Outcome {
    let address = with_source(Config::read_listen)?;
    let timeout = Duration::from_millis(HEALTHCHECK_MS_MAX);
    let problem = match ask_ready(http::reachable(address), timeout) {
        Ok(answer) if answer.status == 200 => return Ok(()),
        Ok(answer) => answer.body,
        Err(error) => error.to_string(),
    };
    Err(Failure::failed(format!("{address} is not ready: {problem}")))
}

//! `mailslot send`: signed messages, posted as a provider would post them.

use std::{
    ffi::OsString,
    io::{self, BufRead, Write},
    ops::RangeInclusive,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use lexopt::{
    Arg::{Long, Value},
    Parser, ValueExt,
};
use serde_json::json;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
    low_level::emulate_default_handler,
};

use super::{
    Failure, Outcome, number, open, output::Progress, read_line, say, tally::Tally, target::Target,
};
use crate::{
    client::Answer,
    config::{Config, with_source},
    http, logging,
    signature::Verifier,
    threads::{lock, spawn},
};

pub(super) const HELP: &str = "\
Signs messages with the current secret and posts them: the lines of FILE, - being stdin, or made-up
ones that are all different. What is told 503 or 429 is sent again after Retry-After, a few times; so is
what is not answered. Says what was acknowledged, and how fast, also when Ctrl-C interrupts it. Exit status:
1 if not everything was.

  --url URL          http://HOST:PORT/PATH; by default /webhook at LISTEN. https is not spoken: send
                     to mailslot itself, behind the proxy
  --count N          so many messages; all of FILE, or 1, by default
  --rate N           so many a second at most
  --connections N    so many at once, 1 by default
  --json             the report as one JSON object
";

/// How often one message is sent.
const TRIES: u32 = 5;
/// Where the answer says nothing about it, and the longest that is waited for one.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(30);
/// Connections at once: each is a thread.
const CONNECTIONS: RangeInclusive<usize> = 1..=1_000;
const RATES: RangeInclusive<f64> = 0.001..=1e9;

struct Arguments {
    url: Option<String>,
    count: Option<u64>,
    rate: Option<f64>,
    connections: usize,
    as_json: bool,
    file: Option<OsString>,
}

/// The bodies, one after the other, each when its time has come.
struct Queue {
    source: Source,
    left: u64,
    number: u64,
    /// Between two messages.
    every: Duration,
    next: Instant,
}

/// What became of the messages so far; none once that is reported.
type Shared = Mutex<Option<(Tally, Progress)>>;

enum Source {
    File(Box<dyn BufRead + Send>),
    /// What the ids begin with.
    MadeUp(String),
}

pub(super) fn run(parser: Parser) -> Outcome {
    let arguments = parse(parser)?;
    let config = with_source(Config::read)?;
    let url = arguments
        .url
        .unwrap_or_else(|| format!("http://{}/webhook", http::reachable(config.listen)));
    let target = Target::parse(&url).map_err(Failure::Usage)?;
    let source = match &arguments.file {
        Some(file) => Source::File(open(file)?.0),
        None => Source::MadeUp(format!("send-{}-{}", logging::now(), std::process::id())),
    };
    let every = arguments.rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(1.0 / rate));
    let default = if arguments.file.is_some() { u64::MAX } else { 1 };
    let left = arguments.count.unwrap_or(default);
    let queue = Mutex::new(Queue { source, left, number: 0, every, next: Instant::now() });
    let shared = Arc::new(Mutex::new(Some((Tally::start(), Progress::start()))));
    report_when_interrupted(&shared, arguments.as_json)
        .map_err(|error| Failure::Failed(format!("signals cannot be received: {error}")))?;
    let verifier = Verifier::new(&config.webhook_secrets);
    let sent = thread::scope(|scope| {
        let send = || send_all(&queue, &target, &verifier, &shared);
        let senders: Vec<_> = (0..arguments.connections).map(|_| scope.spawn(send)).collect();
        senders.into_iter().try_for_each(|sender| sender.join().unwrap_or(Ok(())))
    });
    let is_clean = report(&mut lock(&shared), arguments.as_json)?;
    sent.map_err(Failure::Failed)?;
    if is_clean { Ok(()) } else { Err(Failure::Told) }
}

/// Prints what became of the messages, once, and says whether all were acknowledged.
fn report(shared: &mut Option<(Tally, Progress)>, as_json: bool) -> Result<bool, Failure> {
    let Some((tally, progress)) = shared.take() else { return Ok(false) };
    drop(progress);
    let is_clean = tally.is_clean();
    say(&tally.report(as_json))?;
    Ok(is_clean)
}

/// On SIGINT or SIGTERM, prints the report at once, since a sender may be waiting for an answer or for
/// a line of stdin, and then ends as a process without a handler would.
fn report_when_interrupted(shared: &Arc<Shared>, as_json: bool) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let shared = Arc::clone(shared);
    let wait = move || {
        let Some(signal) = signals.forever().next() else { return };
        // Kept locked until the process ends, so that the main thread does not end it before.
        let mut shared = lock(&shared);
        if shared.is_some() {
            let _ = report(&mut shared, as_json);
            let note = "interrupted: a message whose answer was still awaited is not counted";
            let _ = writeln!(io::stderr(), "mailslot: {note}");
        }
        let _ = emulate_default_handler(signal);
    };
    spawn("signals", wait).map(drop)
}

fn parse(mut parser: Parser) -> Result<Arguments, Failure> {
    let mut arguments = Arguments {
        url: None,
        count: None,
        rate: None,
        connections: 1,
        as_json: false,
        file: None,
    };
    while let Some(argument) = parser.next()? {
        match argument {
            Long("url") => arguments.url = Some(parser.value()?.string()?),
            Long("count") => arguments.count = Some(number(&mut parser, "--count", 0..=u64::MAX)?),
            Long("rate") => arguments.rate = Some(number(&mut parser, "--rate", RATES)?),
            Long("connections") => {
                arguments.connections = number(&mut parser, "--connections", CONNECTIONS)?;
            }
            Long("json") => arguments.as_json = true,
            Value(value) if arguments.file.is_none() => arguments.file = Some(value),
            _ => return Err(argument.unexpected().into()),
        }
    }
    Ok(arguments)
}

fn send_all(
    queue: &Mutex<Queue>,
    target: &Target,
    verifier: &Verifier,
    shared: &Shared,
) -> Result<(), String> {
    let mut client = target.client();
    loop {
        let Some((body, due)) = lock(queue).next()? else { return Ok(()) };
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let signature = verifier.sign(&body);
        let post = || client.post(&target.path, &body, &signature);
        send(post, shared);
        if let Some((tally, progress)) = &mut *lock(shared) {
            progress.tell(|| tally.progress());
        }
    }
}

fn send(mut post: impl FnMut() -> io::Result<Answer>, shared: &Shared) {
    for attempt in 1..=TRIES {
        let started = Instant::now();
        let answered = post();
        let latency = started.elapsed();
        let is_last = attempt == TRIES;
        let pause = {
            let mut shared = lock(shared);
            let Some((tally, _)) = &mut *shared else { return };
            match &answered {
                Ok(answer) if answer.status == 200 => return tally.acknowledge(latency),
                Ok(answer) if is_last || ![429, 503].contains(&answer.status) => {
                    return tally.refuse(answer.status);
                }
                Err(error) if is_last => return tally.lose(error.to_string()),
                _ => tally.retries += 1,
            }
            match answered {
                Ok(answer) => answer.retry_after.unwrap_or(RETRY),
                // An idle connection may have been closed by the other side: at once on a new one.
                Err(_) if attempt == 1 => Duration::ZERO,
                Err(_) => RETRY,
            }
        };
        thread::sleep(pause.min(RETRY_LONGEST));
    }
}

impl Queue {
    /// A body, and when it is due.
    fn next(&mut self) -> Result<Option<(Vec<u8>, Instant)>, String> {
        if self.left == 0 {
            return Ok(None);
        }
        let Some(body) = self.body()? else { return Ok(None) };
        self.left -= 1;
        let due = self.next.max(Instant::now());
        self.next = due + self.every;
        Ok(Some((body, due)))
    }

    fn body(&mut self) -> Result<Option<Vec<u8>>, String> {
        loop {
            self.number += 1;
            let number = self.number;
            let input = match &mut self.source {
                Source::MadeUp(name) => return Ok(Some(made_up(name, number))),
                Source::File(input) => input,
            };
            let mut line = Vec::new();
            if !read_line(&mut **input, number, &mut line)? {
                return Ok(None);
            }
            let body = line.trim_ascii();
            if !body.is_empty() {
                return Ok(Some(body.to_vec()));
            }
        }
    }
}

fn made_up(name: &str, number: u64) -> Vec<u8> {
    let message = json!({
        "message_id": format!("{name}-{number}"),
        "from": format!("+9198765432{:02}", number % 100),
        "to": "+14155550100",
        "ts": logging::now(),
        "text": format!("Message {number} of mailslot send"),
    });
    message.to_string().into_bytes()
}

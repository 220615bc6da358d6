//! `mailslot send`: posts signed messages as a provider does.

use std::{
    io::{self, BufRead, Write},
    ops::RangeInclusive,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
    low_level::emulate_default_handler,
};

use super::{
    command::{Arguments, Command, OPTION, Operand, Opt},
    input::{open, read_line},
    load_report::LoadReport,
    outcome::{Failure, Outcome},
    output::{Progress, print},
    scheme::{SCHEME, Scheme, Signing, new_id},
    target::Target,
};
use crate::{
    client::Answer,
    config::{Config, Secret, with_source},
    http, logging,
    threads::{lock, spawn},
};

pub(super) const COMMAND: Command = Command {
    name: "send",
    summary: "post signed messages, from a file or generated",
    description: "\
Signs messages with the current secret and posts them: the lines of FILE, where - reads stdin, or
generated ones that are all different. A message that is answered 503 or 429, or not at all, is sent
again after Retry-After, a few times. Prints how many messages were acknowledged, and how fast, also
when Ctrl-C interrupts it. Exit status: 1 if a message was not acknowledged.
",
    options: &[
        Opt {
            name: "--url",
            value: "URL",
            help: "http://HOST:PORT/PATH; default the scheme's at LISTEN. There is no https:\n\
                   send to mailslot itself, behind the proxy",
            ..OPTION
        },
        Opt {
            name: "--count",
            value: "N",
            help: "number of messages; default all of FILE, or 1",
            ..OPTION
        },
        Opt { name: "--rate", value: "N", help: "messages per second at most", ..OPTION },
        Opt { name: "--connections", value: "N", help: "connections at once; default 1", ..OPTION },
        Opt { name: "--json", help: "print the report as one JSON object", ..OPTION },
        SCHEME,
    ],
    operand: Operand::Optional("FILE|-"),
    run,
};

/// How many times a message is sent at most.
const TRIES: u32 = 5;
/// The pause before a message is sent again, where the answer does not say, and the longest one.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(30);
/// Each connection has a thread.
const CONNECTIONS: RangeInclusive<usize> = 1..=1_000;
const RATES: RangeInclusive<f64> = 0.001..=1e9;

/// The bodies in order, each with the time at which it is due.
struct Queue {
    source: Source,
    left: u64,
    number: u64,
    /// The time between two messages.
    every: Duration,
    next: Instant,
}

/// The report on the messages so far; `None` once it is printed.
type Shared = Mutex<Option<(LoadReport, Progress)>>;

enum Source {
    File(Box<dyn BufRead + Send>),
    /// Generated messages, whose ids begin with this.
    Generated(Scheme, String),
}

/// How each body is signed.
struct Signer<'a> {
    scheme: Scheme,
    secrets: &'a [Secret],
    /// The URL as Twilio has it.
    url: String,
}

fn run(arguments: &Arguments) -> Outcome {
    let url = arguments.text("--url")?;
    let count = arguments.number("--count", 0..=u64::MAX)?;
    let rate = arguments.number("--rate", RATES)?;
    let connections = arguments.number("--connections", CONNECTIONS)?.unwrap_or(1);
    let as_json = arguments.has("--json");
    let scheme = Scheme::of(arguments)?;
    let config = with_source(Config::read)?;
    let secrets = scheme.secrets(&config)?;
    let url = url
        .unwrap_or_else(|| format!("http://{}{}", http::reachable(config.listen), scheme.path()));
    let target = Target::parse(&url).map_err(Failure::Usage)?;
    let (source, default_count) = if let Some(file) = arguments.operand() {
        (Source::File(open(file)?.0), u64::MAX)
    } else {
        let name = format!("send-{}-{}", logging::now(), std::process::id());
        (Source::Generated(scheme, name), 1)
    };
    let every = rate.map_or(Duration::ZERO, |rate: f64| Duration::from_secs_f64(1.0 / rate));
    let left = count.unwrap_or(default_count);
    let queue = Mutex::new(Queue { source, left, number: 0, every, next: Instant::now() });
    let shared = Arc::new(Mutex::new(Some((LoadReport::start(), Progress::start()))));
    report_when_interrupted(&shared, as_json)
        .map_err(|error| Failure::failed(format!("signals cannot be received: {error}")))?;
    let public_url = config.public_url.as_deref().unwrap_or_default();
    let signer = Signer { scheme, secrets, url: format!("{public_url}{}", target.path) };
    let sent = thread::scope(|scope| {
        let send = || send_all(&queue, &target, &signer, &shared);
        let senders: Vec<_> = (0..connections).map(|_| scope.spawn(send)).collect();
        senders.into_iter().try_for_each(|sender| sender.join().unwrap_or(Ok(())))
    });
    let is_clean = report(&mut lock(&shared), as_json)?;
    sent.map_err(Failure::failed)?;
    if is_clean { Ok(()) } else { Err(Failure::InOutput) }
}

/// Prints the report, once. True if all messages were acknowledged.
fn report(shared: &mut Option<(LoadReport, Progress)>, as_json: bool) -> Result<bool, Failure> {
    let Some((load_report, progress)) = shared.take() else { return Ok(false) };
    drop(progress);
    let is_clean = load_report.is_clean();
    print(&load_report.render(as_json))?;
    Ok(is_clean)
}

/// On SIGINT or SIGTERM, prints the report at once, since a sender may be waiting for an answer or
/// for a line of stdin. The process then ends as it would without a handler.
fn report_when_interrupted(shared: &Arc<Shared>, as_json: bool) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let shared = Arc::clone(shared);
    let wait = move || {
        let Some(signal) = signals.forever().next() else { return };
        // The lock is held until the process ends, so that the main thread does not end it earlier.
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

fn send_all(
    queue: &Mutex<Queue>,
    target: &Target,
    signer: &Signer<'_>,
    shared: &Shared,
) -> Result<(), String> {
    let mut client = target.client();
    loop {
        let Some((body, due)) = lock(queue).next()? else { return Ok(()) };
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let Signer { scheme, secrets, url } = signer;
        let sign = || {
            let timestamp_s = logging::now_seconds();
            let signing = Signing { url: url.clone(), id: new_id(), timestamp_s };
            scheme.sign(secrets, &signing, &body)
        };
        let post = || client.post(&target.path, &body, scheme.content_type(), &sign());
        send(post, shared);
        if let Some((load_report, progress)) = &mut *lock(shared) {
            progress.show(|| load_report.progress());
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
            let Some((load_report, _)) = &mut *shared else { return };
            match &answered {
                Ok(answer) if answer.status == 200 => return load_report.latencies.push(latency),
                Ok(answer) if is_last || ![429, 503].contains(&answer.status) => {
                    *load_report.refused.entry(answer.status).or_default() += 1;
                    return;
                }
                Err(error) if is_last => {
                    load_report.unanswered += 1;
                    load_report.last_error = Some(error.to_string());
                    return;
                }
                _ => load_report.retries += 1,
            }
            match answered {
                Ok(answer) => answer.retry_after.unwrap_or(RETRY),
                // The server may have closed an idle connection: try again at once on a new one.
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
                Source::Generated(scheme, name) => {
                    return Ok(Some(generated(*scheme, name, number)));
                }
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

fn generated(scheme: Scheme, name: &str, number: u64) -> Vec<u8> {
    let id = format!("{name}-{number}");
    let from = format!("9198765432{:02}", number % 100);
    let text = format!("Message {number} of mailslot send");
    let message = match scheme {
        Scheme::Webhook | Scheme::Standard => json!({
            "message_id": id,
            "from": format!("+{from}"),
            "to": "+14155550100",
            "ts": logging::now(),
            "text": text,
        }),
        Scheme::Whatsapp => {
            let message = json!({
                "from": from,
                "id": id,
                "timestamp": logging::now_seconds().to_string(),
                "type": "text",
                "text": { "body": text },
            });
            let value = json!({
                "messaging_product": "whatsapp",
                "metadata": { "display_phone_number": "14155550100", "phone_number_id": "1" },
                "messages": [message],
            });
            let change = json!({ "field": "messages", "value": value });
            let entry = json!({ "id": "0", "changes": [change] });
            json!({ "object": "whatsapp_business_account", "entry": [entry] })
        }
        Scheme::Twilio => {
            let mut form = form_urlencoded::Serializer::new(String::new());
            form.append_pair("MessageSid", &id).append_pair("From", &format!("+{from}"));
            form.append_pair("To", "+14155550100").append_pair("Body", &text);
            return form.append_pair("NumMedia", "0").finish().into_bytes();
        }
    };
    message.to_string().into_bytes()
}

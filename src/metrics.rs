//! Counters and histograms, kept in atomics, shown as Prometheus text.
//!
//! Owns the names that the README documents. No label ever holds a client's bytes: paths are the
//! routes' own templates, and everything else is one of a fixed list.

use std::{
    fmt::Write,
    sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use crate::{config::SECRETS_MAX, error::Error, logging};

/// Upper bounds of the latency histograms' buckets.
const LATENCY_BUCKETS_MS: [f64; 13] =
    [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 10000.0];
/// Upper bounds of the batch histogram's buckets.
const BATCH_BUCKETS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];
/// Every status that mailslot answers with; the last is for what this list forgot.
const STATUSES: [u16; 13] = [200, 400, 401, 404, 405, 409, 413, 421, 422, 429, 500, 503, 0];

/// How a POST to /webhook ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WebhookResult {
    Created,
    Duplicate,
    InvalidSignature,
    ValidationError,
    TooLarge,
    BadRequest,
    RateLimited,
    Unavailable,
    InternalError,
}

impl WebhookResult {
    pub(crate) const ALL: [WebhookResult; 9] = [
        WebhookResult::Created,
        WebhookResult::Duplicate,
        WebhookResult::InvalidSignature,
        WebhookResult::ValidationError,
        WebhookResult::TooLarge,
        WebhookResult::BadRequest,
        WebhookResult::RateLimited,
        WebhookResult::Unavailable,
        WebhookResult::InternalError,
    ];

    pub(crate) fn of(error: &Error) -> WebhookResult {
        match error {
            Error::InvalidSignature => WebhookResult::InvalidSignature,
            Error::Invalid { .. } => WebhookResult::ValidationError,
            Error::TooLarge { .. } => WebhookResult::TooLarge,
            Error::TooMany => WebhookResult::RateLimited,
            Error::Unavailable(_) | Error::NotReady(_) => WebhookResult::Unavailable,
            Error::Internal => WebhookResult::InternalError,
            Error::Framing(_)
            | Error::NoReadToken { .. }
            | Error::ForeignHost
            | Error::NotFound
            | Error::MethodNotAllowed { .. }
            | Error::CursorAhead => WebhookResult::BadRequest,
        }
    }

    /// Only somebody who has the secret can cause this one.
    pub(crate) fn is_signed(self) -> bool {
        use WebhookResult::{Created, Duplicate, ValidationError};
        matches!(self, Created | Duplicate | ValidationError)
    }

    pub(crate) fn label(self) -> &'static str {
        match self {
            WebhookResult::Created => "created",
            WebhookResult::Duplicate => "duplicate",
            WebhookResult::InvalidSignature => "invalid_signature",
            WebhookResult::ValidationError => "validation_error",
            WebhookResult::TooLarge => "too_large",
            WebhookResult::BadRequest => "bad_request",
            WebhookResult::RateLimited => "rate_limited",
            WebhookResult::Unavailable => "unavailable",
            WebhookResult::InternalError => "internal_error",
        }
    }
}

/// Why a connection was ended that the client may have wanted to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// No request within its deadline.
    Idle,
    /// No body within its deadline.
    Body,
    /// A body shorter than declared.
    Short,
    /// An answer not read within its deadline.
    Answer,
    /// Idle longest, and too many are open.
    Cap,
    /// Idle longest of its address, and too many of that are open.
    Address,
    /// Too many requests sent ahead.
    Pipelined,
    /// A head without end.
    Head,
    /// Bytes faster than they can be refused.
    Flood,
    /// Another connection has the same client address.
    Twin,
}

impl Cut {
    const ALL: [Cut; 10] = [
        Cut::Idle,
        Cut::Body,
        Cut::Short,
        Cut::Answer,
        Cut::Cap,
        Cut::Address,
        Cut::Pipelined,
        Cut::Head,
        Cut::Flood,
        Cut::Twin,
    ];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Cut::Idle => "idle",
            Cut::Body => "body",
            Cut::Short => "short",
            Cut::Answer => "answer",
            Cut::Cap => "cap",
            Cut::Address => "address",
            Cut::Pipelined => "pipelined",
            Cut::Head => "head",
            Cut::Flood => "flood",
            Cut::Twin => "twin",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Metrics {
    started: Instant,
    /// Templates of the routes, and the label that all unknown paths share.
    paths: Vec<&'static str>,
    requests: Vec<[AtomicU64; STATUSES.len()]>,
    webhook: [AtomicU64; WebhookResult::ALL.len()],
    latency_ms: Histogram<{ LATENCY_BUCKETS_MS.len() }>,
    commit_ms: Histogram<{ LATENCY_BUCKETS_MS.len() }>,
    batch: Histogram<{ BATCH_BUCKETS.len() }>,
    commit_failures: AtomicU64,
    /// Deliveries by the secret that verified them.
    verified: [AtomicU64; SECRETS_MAX],
    /// Requests that wait for their commit now.
    parked: AtomicI64,
    /// Readers of the feed that wait for messages now.
    following: AtomicI64,
    connections: AtomicU64,
    leaked: AtomicU64,
    cuts: [AtomicU64; Cut::ALL.len()],
    shed: AtomicU64,
    queue_ms: Histogram<{ LATENCY_BUCKETS_MS.len() }>,
    restarts: u64,
}

/// The label of every path that is no route's.
pub(crate) const OTHER_PATH: &str = "other";

impl Metrics {
    /// `paths` are the routes' templates; any other path is counted as [`OTHER_PATH`].
    /// `restarts` is how often the process has started itself anew.
    pub(crate) fn new(paths: impl IntoIterator<Item = &'static str>, restarts: u64) -> Metrics {
        let mut paths: Vec<_> = paths.into_iter().collect();
        paths.sort_unstable();
        paths.dedup();
        paths.push(OTHER_PATH);
        Metrics {
            started: Instant::now(),
            requests: paths.iter().map(|_| Default::default()).collect(),
            paths,
            webhook: Default::default(),
            latency_ms: Histogram::new(LATENCY_BUCKETS_MS),
            commit_ms: Histogram::new(LATENCY_BUCKETS_MS),
            batch: Histogram::new(BATCH_BUCKETS),
            commit_failures: AtomicU64::new(0),
            verified: Default::default(),
            parked: AtomicI64::new(0),
            following: AtomicI64::new(0),
            connections: AtomicU64::new(0),
            leaked: AtomicU64::new(0),
            cuts: Default::default(),
            shed: AtomicU64::new(0),
            queue_ms: Histogram::new(LATENCY_BUCKETS_MS),
            restarts,
        }
    }

    /// Called before the answer leaves, so that whoever has the answer finds it counted.
    pub(crate) fn answered(&self, path: &str, status: u16, latency: Duration) {
        let path =
            self.paths.iter().position(|known| *known == path).unwrap_or(self.paths.len() - 1);
        let status =
            STATUSES.iter().position(|known| *known == status).unwrap_or(STATUSES.len() - 1);
        self.requests[path][status].fetch_add(1, Relaxed);
        self.latency_ms.observe(milliseconds(latency));
    }

    pub(crate) fn delivered(&self, result: WebhookResult) {
        self.webhook[result as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn committed(&self, rows: usize, latency: Duration) {
        #[expect(clippy::cast_precision_loss, reason = "a batch has at most BATCH_MAX rows")]
        self.batch.observe(rows as f64);
        self.commit_ms.observe(milliseconds(latency));
    }

    /// By which secret, counted from 0.
    pub(crate) fn verified(&self, slot: usize) {
        if let Some(count) = self.verified.get(slot) {
            count.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn commit_failed(&self) {
        self.commit_failures.fetch_add(1, Relaxed);
    }

    pub(crate) fn parked(&self, change: i64) {
        self.parked.fetch_add(change, Relaxed);
    }

    pub(crate) fn following(&self, change: i64) {
        self.following.fetch_add(change, Relaxed);
    }

    pub(crate) fn connections(&self, open: usize, leaked: usize) {
        self.connections.store(open as u64, Relaxed);
        self.leaked.store(leaked as u64, Relaxed);
    }

    /// A request queued now would have to wait this long for a worker.
    pub(crate) fn queued(&self, wait: Duration) {
        self.queue_ms.observe(milliseconds(wait));
    }

    pub(crate) fn shed(&self) {
        self.shed.fetch_add(1, Relaxed);
    }

    pub(crate) fn cut(&self, reason: Cut) {
        self.cuts[reason as usize].fetch_add(1, Relaxed);
    }

    /// Prometheus text format 0.0.4.
    pub(crate) fn render(&self) -> String {
        let mut out = String::with_capacity(8 * 1024);
        let text = &mut out;
        family(text, "http_requests_total", "counter", "Answers by route and status.");
        for (path, counts) in self.paths.iter().zip(&self.requests) {
            for (status, count) in STATUSES.iter().zip(counts) {
                let count = count.load(Relaxed);
                if count > 0 {
                    let labels = format!("{{path=\"{path}\",status=\"{status}\"}}");
                    sample(text, "http_requests_total", &labels, count);
                }
            }
        }
        family(text, "webhook_requests_total", "counter", "POSTs to /webhook by how they ended.");
        for (result, count) in WebhookResult::ALL.iter().zip(&self.webhook) {
            let labels = format!("{{result=\"{}\"}}", result.label());
            sample(text, "webhook_requests_total", &labels, count.load(Relaxed));
        }
        let help = "Signatures by the secret that they were made with, 1 is the current one.";
        family(text, "webhook_secret_used_total", "counter", help);
        for (slot, count) in (1..).zip(&self.verified) {
            let labels = format!("{{slot=\"{slot}\"}}");
            sample(text, "webhook_secret_used_total", &labels, count.load(Relaxed));
        }
        let help = "From a worker taking the request up to its answer, in milliseconds.";
        self.latency_ms.render(text, "request_latency_ms", help);
        self.commit_ms.render(
            text,
            "commit_latency_ms",
            "One commit with its fsync, in milliseconds.",
        );
        self.batch.render(text, "commit_batch_size", "Requests that one commit carried.");
        let help = "How long a request waited for a worker, ten samples a second, in milliseconds.";
        self.queue_ms.render(text, "queue_delay_ms", help);
        self.render_counters(text);
        self.render_gauges(text);
        let help = "Connections ended before the client did, by reason.";
        family(text, "connections_cut_total", "counter", help);
        for (reason, count) in Cut::ALL.iter().zip(&self.cuts) {
            let labels = format!("{{reason=\"{}\"}}", reason.label());
            sample(text, "connections_cut_total", &labels, count.load(Relaxed));
        }
        family(text, "build_info", "gauge", "Always 1; the label is the version.");
        sample(text, "build_info", concat!("{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), 1);
        out
    }

    /// Counters without labels.
    fn render_counters(&self, out: &mut String) {
        for (name, help, value) in [
            (
                "commit_failures_total",
                "Commits that failed; their senders were told 503.",
                self.commit_failures.load(Relaxed),
            ),
            (
                "panics_total",
                "Panics of mailslot, contained; one in a request is an answer of 500.",
                logging::panics(),
            ),
            (
                "tiny_http_panics_total",
                "Panics of tiny_http, contained; clients that reset connections cause them.",
                logging::tiny_http_panics(),
            ),
            (
                "log_lines_suppressed_total",
                "Log lines left out because clients caused too many.",
                logging::suppressed(),
            ),
            (
                "requests_shed_total",
                "Requests told 503 because others waited too long already.",
                self.shed.load(Relaxed),
            ),
            ("restarts_total", "How often the process has started itself anew.", self.restarts),
        ] {
            family(out, name, "counter", help);
            sample(out, name, "", value);
        }
    }

    /// Gauges without labels.
    fn render_gauges(&self, out: &mut String) {
        for (name, help, value) in [
            (
                "parked_requests",
                "Requests that wait for their commit now.",
                u64::try_from(self.parked.load(Relaxed)).unwrap_or(0),
            ),
            (
                "feed_waiting",
                "Readers of the feed that wait for messages now.",
                u64::try_from(self.following.load(Relaxed)).unwrap_or(0),
            ),
            (
                "connections",
                "Open connections, a tenth of a second ago.",
                self.connections.load(Relaxed),
            ),
            (
                "connections_leaked",
                "Connections that tiny_http never closed; too many, and mailslot starts itself anew.",
                self.leaked.load(Relaxed),
            ),
            ("uptime_seconds", "Since the process started.", self.started.elapsed().as_secs()),
        ] {
            family(out, name, "gauge", help);
            sample(out, name, "", value);
        }
    }
}

fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn sample(out: &mut String, name: &str, labels: &str, value: u64) {
    let _ = writeln!(out, "{name}{labels} {value}");
}

pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[derive(Debug)]
struct Histogram<const N: usize> {
    bounds: [f64; N],
    /// One count a bucket, not yet cumulated.
    counts: [AtomicU64; N],
    beyond: AtomicU64,
    /// In thousandths, so that it can be an integer.
    sum_thousandths: AtomicU64,
}

impl<const N: usize> Histogram<N> {
    fn new(bounds: [f64; N]) -> Histogram<N> {
        Histogram {
            bounds,
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            beyond: AtomicU64::new(0),
            sum_thousandths: AtomicU64::new(0),
        }
    }

    fn observe(&self, value: f64) {
        let bucket = self.bounds.iter().position(|bound| value <= *bound);
        bucket.map_or(&self.beyond, |bucket| &self.counts[bucket]).fetch_add(1, Relaxed);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a duration or a count"
        )]
        self.sum_thousandths.fetch_add((value * 1e3) as u64, Relaxed);
    }

    fn render(&self, out: &mut String, name: &str, help: &str) {
        family(out, name, "histogram", help);
        let mut count = 0;
        for (bound, own) in self.bounds.iter().zip(&self.counts) {
            count += own.load(Relaxed);
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {count}");
        }
        count += self.beyond.load(Relaxed);
        let sum = self.sum_thousandths.load(Relaxed);
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {count}");
        let _ = writeln!(out, "{name}_sum {}.{:03}\n{name}_count {count}", sum / 1000, sum % 1000);
    }
}

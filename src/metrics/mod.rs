//! Every metric of /metrics in one table, and the Prometheus text format in which they are shown.
//!
//! A row of the table declares a metric completely: its field in [`Metrics`], its name (with its
//! unit, as Prometheus names end in it), its help, and by its type its kind and its labels. The
//! rendering and the documentation's test follow from that row; code increments its field.
//!
//! No label ever holds a client's bytes: paths are the routes' own, and every other value is one of
//! a fixed list.

mod value; // counters, gauges, histograms
mod label; // the values that a label can have

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

pub(crate) use label::{Disconnect, Item, KeyIndex, Label, Source, WebhookResult};
use value::{Build, Counter, Counters, Gauge, Grid, Histogram, Reading, Responses, Uptime, Value};

use crate::logging;

/// Upper bounds of the buckets of durations, in microseconds.
const DURATION_BUCKETS_US: &[u64] = &[
    500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 10_000_000,
];
/// Upper bounds of the buckets of [`Metrics::commit_batch_size`], in requests.
const BATCH_BUCKETS: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512];
/// Microseconds in the unit of a metric.
const PER_MILLISECOND: u32 = 1_000;
const PER_SECOND: u32 = 1_000_000;

macro_rules! metrics {
    (
        fn new($($argument:ident: $argument_type:ty),*);
        $($(#[$doc:meta])* $field:ident: $value:ty = $new:expr, $name:literal, $help:literal;)*
    ) => {
        #[derive(Debug)]
        pub(crate) struct Metrics {
            $($(#[$doc])* pub(crate) $field: $value,)*
        }

        /// Every metric, in the order of /metrics.
        pub const FAMILIES: &[Family] = &[$(Family {
            name: $name,
            kind: <$value as Value>::KIND,
            labels: <$value as Value>::LABELS,
            help: $help,
        }),*];

        impl Metrics {
            pub(crate) fn new($($argument: $argument_type),*) -> Metrics {
                Metrics { $($field: $new),* }
            }

            /// Prometheus text format 0.0.4.
            pub(crate) fn render(&self) -> String {
                let mut text = String::with_capacity(16 * 1024);
                $(show(&mut text, $name, $help, &self.$field);)*
                text
            }
        }
    };
}

metrics! {
    fn new(paths: Vec<&'static str>, restarts: u64);

    responses: Responses = Responses::new(paths),
        "http_requests_total", "Responses by route and status code.";
    deliveries: Counters<WebhookResult> = Counters::default(),
        "webhook_requests_total", "POST requests to /webhook and below it by result.";
    keys_used: Counters<KeyIndex> = Counters::default(),
        "mailslot_webhook_key_used_total",
        "Valid signatures by the key that made them; key 1 is the current one.";
    provider_keys_used: Grid<Source, KeyIndex> = Grid::default(),
        "mailslot_provider_key_used_total",
        "Valid signatures of providers by the key that made them; key 1 is the current one.";
    items: Grid<Source, Item> = Grid::default(),
        "mailslot_items_total",
        "Messages and other parts of deliveries that were answered 200, by what became of them.";
    /// From the moment at which a worker takes the request to the response.
    request_latency: Histogram = Histogram::new(DURATION_BUCKETS_US, PER_MILLISECOND),
        "request_latency_ms",
        "Time from a worker taking a request to its response, in milliseconds.";
    commit_duration: Histogram = Histogram::new(DURATION_BUCKETS_US, PER_SECOND),
        "mailslot_commit_duration_seconds", "Duration of a commit, including its fsync.";
    commit_batch_size: Histogram = Histogram::new(BATCH_BUCKETS, 1),
        "mailslot_commit_batch_size", "Requests in one commit.";
    /// Requests that are to be committed, or whose commit has not been answered yet.
    commit_queue_length: Gauge = Gauge::default(),
        "mailslot_commit_queue_length", "Requests waiting for their commit.";
    commit_failures: Counter = Counter::default(),
        "mailslot_commit_failures_total",
        "Commits that stored nothing; their requests were answered 503 or 500.";
    /// How long a request that is queued now would wait for a worker.
    queue_delay: Histogram = Histogram::new(DURATION_BUCKETS_US, PER_SECOND),
        "mailslot_queue_delay_seconds",
        "Time a request waits for a worker, sampled ten times a second.";
    requests_shed: Counter = Counter::default(),
        "mailslot_requests_shed_total", "Requests answered 503 because of overload.";
    panics: Reading = Reading(logging::panics),
        "mailslot_panics_total",
        "Panics of mailslot, contained; one during a request is answered 500.";
    tiny_http_panics: Reading = Reading(logging::tiny_http_panics),
        "mailslot_tiny_http_panics_total",
        "Panics of tiny_http, contained; caused by clients that reset connections.";
    log_lines_suppressed: Reading = Reading(logging::suppressed),
        "mailslot_log_lines_suppressed_total",
        "Log lines left out by the rate limit on what clients can cause.";
    feed_waiters: Gauge = Gauge::default(),
        "mailslot_feed_waiters", "Requests to /feed waiting for new messages.";
    connections: Gauge = Gauge::default(),
        "mailslot_connections", "Open connections, at the last scan.";
    connections_closed: Counters<Disconnect> = Counters::default(),
        "mailslot_connections_closed_total",
        "Connections closed by mailslot before the client closed them, by reason.";
    connections_leaked: Gauge = Gauge::default(),
        "mailslot_connections_leaked",
        "Connections that tiny_http never closed; too many of them restart the process.";
    restarts: Counter = Counter::of(restarts),
        "mailslot_restarts_total", "Restarts of the process in place.";
    uptime: Uptime = Uptime(Instant::now()),
        "mailslot_uptime_seconds", "Time since the process started or last restarted in place.";
    build: Build = Build,
        "mailslot_build_info", "Always 1; the label is the version.";
}

/// What the table says of a metric besides its value.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

fn show<V: Value>(text: &mut String, name: &str, help: &str, value: &V) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {}", V::KIND);
    value.write(name, text);
}

pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_shown_in_the_unit_of_its_metric() {
        let metrics = Metrics::new(vec!["/stats"], 3);
        for duration_us in [400, 500, 501, 20_000_000] {
            metrics.request_latency.observe_duration(Duration::from_micros(duration_us));
            metrics.commit_duration.observe_duration(Duration::from_micros(duration_us));
        }
        metrics.commit_batch_size.observe(513);
        let text = metrics.render();
        for line in [
            "request_latency_ms_bucket{le=\"0.5\"} 2",
            "request_latency_ms_bucket{le=\"1\"} 3",
            "request_latency_ms_bucket{le=\"10000\"} 3",
            "request_latency_ms_bucket{le=\"+Inf\"} 4",
            "request_latency_ms_sum 20001.401",
            "mailslot_commit_duration_seconds_bucket{le=\"0.0005\"} 2",
            "mailslot_commit_duration_seconds_bucket{le=\"10\"} 3",
            "mailslot_commit_duration_seconds_sum 20.001401",
            "mailslot_commit_duration_seconds_count 4",
            "mailslot_commit_batch_size_bucket{le=\"512\"} 0",
            "mailslot_commit_batch_size_sum 513",
            "mailslot_restarts_total 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
        }
    }
}

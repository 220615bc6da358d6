//! The load report of `mailslot send`: what became of the messages, and how long it took.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, Instant},
};

use serde_json::json;

#[derive(Debug)]
pub(super) struct LoadReport {
    started: Instant,
    /// From the first byte of a request to the last byte of the answer that acknowledged it.
    pub(super) latencies: Vec<Duration>,
    pub(super) retries: u64,
    /// Messages by the status that refused them.
    pub(super) refused: BTreeMap<u16, u64>,
    /// Messages without an answer, and the reason for the last of them.
    pub(super) unanswered: u64,
    pub(super) last_error: Option<String>,
}

impl LoadReport {
    pub(super) fn start() -> LoadReport {
        LoadReport {
            started: Instant::now(),
            latencies: Vec::new(),
            retries: 0,
            refused: BTreeMap::new(),
            unanswered: 0,
            last_error: None,
        }
    }

    pub(super) fn is_clean(&self) -> bool {
        self.refused.is_empty() && self.unanswered == 0
    }

    pub(super) fn progress(&self) -> String {
        let not: u64 = self.refused.values().sum::<u64>() + self.unanswered;
        let seconds = self.started.elapsed().as_secs_f64();
        let count = self.latencies.len();
        format!("{count} acknowledged, {not} not, {:.0}/s", rate(count, seconds))
    }

    /// For people, or as JSON.
    pub(super) fn render(mut self, as_json: bool) -> String {
        let seconds = self.started.elapsed().as_secs_f64();
        let count = self.latencies.len();
        self.latencies.sort_unstable();
        let at = |percent: usize| {
            let latency = self.latencies.get((count * percent).div_ceil(100).saturating_sub(1));
            latency.map_or(0.0, |latency| (latency.as_secs_f64() * 1e5).round() / 1e2)
        };
        let (p50, p99, max) = (at(50), at(99), at(100));
        if as_json {
            let refused: BTreeMap<String, u64> =
                self.refused.iter().map(|(status, n)| (status.to_string(), *n)).collect();
            let report = json!({
                "acknowledged": count, "refused": refused, "unanswered": self.unanswered,
                "error": self.last_error, "retries": self.retries, "seconds": seconds,
                "latency_ms": { "p50": p50, "p99": p99, "max": max },
            });
            return format!("{report}\n");
        }
        let mut text =
            format!("{count} acknowledged in {seconds:.1} s, {:.0}/s\n", rate(count, seconds));
        for (status, n) in &self.refused {
            let _ = writeln!(text, "{n} refused with {status}");
        }
        if let Some(error) = &self.last_error {
            let _ = writeln!(text, "{} without an answer: {error}", self.unanswered);
        }
        if self.retries > 0 {
            let _ = writeln!(text, "{} sent again", self.retries);
        }
        let _ = writeln!(text, "latency: p50 {p50} ms, p99 {p99} ms, max {max} ms");
        text
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn rate(count: usize, seconds: f64) -> f64 {
    count as f64 / seconds.max(1e-3)
}

//! The types of metrics: counters, gauges and histograms, kept in atomics.

use std::{
    fmt::{Display, Write},
    marker::PhantomData,
    sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use super::label::Label;

/// Every status with which mailslot responds; the last one is for a status that this list lacks.
const STATUSES: [u16; 14] = [200, 400, 401, 403, 404, 405, 409, 413, 421, 422, 429, 500, 503, 0];
/// The value of the label `path` for every path that is not a route's.
const OTHER_PATH: &str = "other";

/// A type of metric: what it records, and its samples as lines of text.
pub(super) trait Value {
    const KIND: &'static str;
    const LABELS: &'static [&'static str] = &[];

    fn write(&self, name: &str, out: &mut String);
}

fn sample(out: &mut String, name: &str, labels: &str, value: impl Display) {
    let _ = writeln!(out, "{name}{labels} {value}");
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn of(count: u64) -> Counter {
        Counter(AtomicU64::new(count))
    }

    pub(crate) fn increment(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

impl Value for Counter {
    const KIND: &'static str = "counter";

    fn write(&self, name: &str, out: &mut String) {
        sample(out, name, "", self.0.load(Relaxed));
    }
}

/// A counter that another module keeps.
#[derive(Debug)]
pub(crate) struct Reading(pub(super) fn() -> u64);

impl Value for Reading {
    const KIND: &'static str = "counter";

    fn write(&self, name: &str, out: &mut String) {
        sample(out, name, "", (self.0)());
    }
}

#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicI64);

impl Gauge {
    /// Changes the value by `change`, which may be negative.
    pub(crate) fn add(&self, change: i64) {
        self.0.fetch_add(change, Relaxed);
    }

    pub(crate) fn set(&self, value: usize) {
        self.0.store(i64::try_from(value).unwrap_or(i64::MAX), Relaxed);
    }
}

impl Value for Gauge {
    const KIND: &'static str = "gauge";

    fn write(&self, name: &str, out: &mut String) {
        // Two threads that add and subtract may be seen in either order.
        sample(out, name, "", self.0.load(Relaxed).max(0));
    }
}

/// One counter for each value of a label, all shown from the start.
#[derive(Debug)]
pub(crate) struct Counters<L> {
    counts: Vec<AtomicU64>,
    label: PhantomData<L>,
}

impl<L: Label> Default for Counters<L> {
    fn default() -> Counters<L> {
        let counts = L::VALUES.iter().map(|_| AtomicU64::default()).collect();
        Counters { counts, label: PhantomData }
    }
}

impl<L: Label> Counters<L> {
    pub(crate) fn increment(&self, label: L) {
        if let Some(count) = self.counts.get(label.index()) {
            count.fetch_add(1, Relaxed);
        }
    }
}

impl<L: Label> Value for Counters<L> {
    const KIND: &'static str = "counter";
    const LABELS: &'static [&'static str] = L::NAMES;

    fn write(&self, name: &str, out: &mut String) {
        let label = L::NAMES[0];
        for (value, count) in L::VALUES.iter().zip(&self.counts) {
            sample(out, name, &format!("{{{label}=\"{value}\"}}"), count.load(Relaxed));
        }
    }
}

/// One counter for each pair of values of two labels, all shown from the start.
#[derive(Debug)]
pub(crate) struct Grid<A, B>(Vec<Counters<B>>, PhantomData<A>);

impl<A: Label, B: Label> Default for Grid<A, B> {
    fn default() -> Grid<A, B> {
        Grid(A::VALUES.iter().map(|_| Counters::default()).collect(), PhantomData)
    }
}

impl<A: Label, B: Label> Grid<A, B> {
    pub(crate) fn increment(&self, row: A, column: B) {
        if let Some(counters) = self.0.get(row.index()) {
            counters.increment(column);
        }
    }
}

impl<A: Label, B: Label> Value for Grid<A, B> {
    const KIND: &'static str = "counter";
    const LABELS: &'static [&'static str] = &[A::NAMES[0], B::NAMES[0]];

    fn write(&self, name: &str, out: &mut String) {
        let [row, column] = [A::NAMES[0], B::NAMES[0]];
        for (value, counters) in A::VALUES.iter().zip(&self.0) {
            for (other, count) in B::VALUES.iter().zip(&counters.counts) {
                let labels = format!("{{{row}=\"{value}\",{column}=\"{other}\"}}");
                sample(out, name, &labels, count.load(Relaxed));
            }
        }
    }
}

/// One counter for each route and status, shown from its first response on.
#[derive(Debug)]
pub(crate) struct Responses {
    paths: Vec<&'static str>,
    counts: Vec<[AtomicU64; STATUSES.len()]>,
}

impl Responses {
    /// `paths` are the routes' own; every other path is counted as [`OTHER_PATH`].
    pub(super) fn new(mut paths: Vec<&'static str>) -> Responses {
        paths.sort_unstable();
        paths.dedup();
        paths.push(OTHER_PATH);
        Responses { counts: paths.iter().map(|_| Default::default()).collect(), paths }
    }

    /// To be called before the response is sent, so that a client which has it finds it counted.
    pub(crate) fn increment(&self, path: &str, status: u16) {
        let path = self.paths.iter().position(|known| *known == path);
        let status = STATUSES.iter().position(|known| *known == status);
        let path = path.unwrap_or(self.paths.len() - 1);
        self.counts[path][status.unwrap_or(STATUSES.len() - 1)].fetch_add(1, Relaxed);
    }
}

impl Value for Responses {
    const KIND: &'static str = "counter";
    const LABELS: &'static [&'static str] = &["path", "status"];

    fn write(&self, name: &str, out: &mut String) {
        for (path, counts) in self.paths.iter().zip(&self.counts) {
            for (status, count) in STATUSES.iter().zip(counts) {
                let count = count.load(Relaxed);
                if count > 0 {
                    let labels = format!("{{path=\"{path}\",status=\"{status}\"}}");
                    sample(out, name, &labels, count);
                }
            }
        }
    }
}

/// Durations, in microseconds, or counts. The text shows both divided by `per_unit`.
#[derive(Debug)]
pub(crate) struct Histogram {
    bounds: &'static [u64],
    /// One count for each bucket, not cumulated; the last one is for what exceeds every bound.
    counts: Vec<AtomicU64>,
    sum: AtomicU64,
    per_unit: u32,
}

impl Histogram {
    pub(super) fn new(bounds: &'static [u64], per_unit: u32) -> Histogram {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::default()).collect();
        Histogram { bounds, counts, sum: AtomicU64::default(), per_unit }
    }

    pub(crate) fn observe(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    pub(crate) fn observe_duration(&self, duration: Duration) {
        self.observe(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    #[expect(clippy::cast_precision_loss, reason = "exact up to 285 years")]
    fn in_units(&self, value: u64) -> f64 {
        value as f64 / f64::from(self.per_unit)
    }
}

impl Value for Histogram {
    const KIND: &'static str = "histogram";
    const LABELS: &'static [&'static str] = &["le"];

    fn write(&self, name: &str, out: &mut String) {
        let bounds = self.bounds.iter().map(|bound| self.in_units(*bound).to_string());
        let mut count = 0;
        for (bound, own) in bounds.chain(["+Inf".to_owned()]).zip(&self.counts) {
            count += own.load(Relaxed);
            sample(out, name, &format!("_bucket{{le=\"{bound}\"}}"), count);
        }
        sample(out, name, "_sum", self.in_units(self.sum.load(Relaxed)));
        sample(out, name, "_count", count);
    }
}

#[derive(Debug)]
pub(crate) struct Uptime(pub(super) Instant);

impl Value for Uptime {
    const KIND: &'static str = "gauge";

    fn write(&self, name: &str, out: &mut String) {
        sample(out, name, "", self.0.elapsed().as_secs());
    }
}

#[derive(Debug)]
pub(crate) struct Build;

impl Value for Build {
    const KIND: &'static str = "gauge";
    const LABELS: &'static [&'static str] = &["version"];

    fn write(&self, name: &str, out: &mut String) {
        sample(out, name, concat!("{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), 1);
    }
}

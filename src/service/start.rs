//! Starting and stopping the service: the database, the socket, and the threads.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::RawFd,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use log::{Level, Record, kv::Value};

use super::{
    access_log::rounded,
    committing,
    exports::Exports,
    feed::Feed,
    maintenance,
    worker::{Find, Shared, Worker},
};
use crate::{
    api::{self, Context, Keys, ROUTES},
    config::{Config, Inherited, Key, Limits, weakness},
    error::STORAGE_UNAVAILABLE,
    http::{self, Restart},
    logging,
    metrics::{Metrics, milliseconds},
    rates::Limiter,
    store::{CommitThread, Job, Store, Writer},
    threads::{lock, spawn},
};

/// How long a stop waits for the requests that are being handled.
pub(super) const DRAIN_MS_MAX: u64 = 10_000;
/// The same, if memory runs out. Senders send again what is not committed by then.
const DRAIN_URGENT_MS: u64 = 250;
/// How long a commit may take before a restart.
const RESTART_PROBE_MS_MAX: u64 = 2_500;
/// How often a stop checks for such requests, and how many times in a row there must be none.
const DRAIN_TICK_MS: u64 = 20;
const DRAIN_QUIET_TICKS: u32 = 3;
/// Descriptors of the process itself, of the database of each worker, and of each connection (a
/// connection has three while a slow client is waited for).
const OWN_DESCRIPTORS: usize = 36;
const DESCRIPTORS_PER_WORKER: usize = 3;
pub(crate) const DESCRIPTORS_PER_CONNECTION: usize = 3;

/// Why the service did not start, or did not restart in place.
#[derive(Debug)]
pub enum Failure {
    /// The settings are wrong: trying again will not help.
    Settings(Vec<String>),
    Failed(Vec<String>),
}

/// Logs the start at any LOG_LEVEL, since with port 0 only this line has the port.
fn announce(config: &Config, address: SocketAddr, start: Duration) {
    let is_loopback = address.ip().to_canonical().is_loopback();
    let (address, database) = (address.to_string(), config.database.to_string());
    let fields = [
        ("version", Value::from(env!("CARGO_PKG_VERSION"))),
        ("address", Value::from(address.as_str())),
        ("database", Value::from(database.as_str())),
        ("workers", Value::from(config.workers)),
        ("start_ms", Value::from(rounded(milliseconds(start)))),
    ];
    let mut record = Record::builder();
    let record = record.level(Level::Info).target(module_path!()).key_values(&fields);
    logging::announce(&record.args(format_args!("listening")).build());
    if config.read_tokens.is_empty() && !is_loopback {
        log::warn!(
            "READ_TOKEN is not set, or empty: every client that reaches this address can read \
             every message; set it, or listen on 127.0.0.1"
        );
    }
    warn_of_weak_keys(config);
}

fn warn_of_weak_keys(config: &Config) {
    for Key { name, secret, .. } in config.keys() {
        if let Some(weakness) = weakness(secret) {
            log::warn!("{name} has {weakness}");
        }
    }
}

/// The listening socket: systemd's, that of an earlier mailslot in this process, or a new one.
fn socket(config: &Config) -> Result<TcpListener, String> {
    match config.inherited.socket() {
        Some(number) => http::inherit(number)
            .map_err(|error| format!("the inherited socket cannot be used: {error}")),
        None => http::listen_on(config.listen)
            .map_err(|error| format!("LISTEN={}: cannot listen there: {error}", config.listen)),
    }
}

/// Reduces the number of connections to the descriptors that there are.
fn within_descriptors(limits: Limits, workers: usize) -> Limits {
    let own = OWN_DESCRIPTORS + DESCRIPTORS_PER_WORKER * workers;
    let possible = http::raise_descriptor_limit().saturating_sub(own) / DESCRIPTORS_PER_CONNECTION;
    let connections = limits.connections.min(possible.max(1));
    if connections < limits.connections {
        log::warn!(
            connections;
            "fewer connections than MAX_CONNECTIONS: raise the limit on open files"
        );
    }
    Limits { connections, ..limits }
}

/// The running service. [`Server::stop`] stops it; dropping it does not.
pub(super) struct Server {
    inherited: Inherited,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    committer: CommitThread,
}

impl Server {
    /// Opens the database, listens, and starts the workers.
    ///
    /// # Errors
    /// Every reason, each as a sentence for the operator.
    pub(super) fn start(config: &Config) -> Result<Server, Failure> {
        Server::start_with(config, api::find)
    }

    fn start_with(config: &Config, find: Find) -> Result<Server, Failure> {
        let started = Instant::now();
        let keys = Keys::of(config);
        let opened = Store::open(
            &config.database,
            config.workers,
            config.search_index,
            api::has_providers(&keys),
        );
        let (opened, socket) = match (opened, socket(config)) {
            (Ok(opened), Ok(socket)) => (opened, socket),
            (opened, socket) => {
                let unopened = opened.err();
                let is_of_settings = unopened.as_ref().is_some_and(|why| why.is_of_settings);
                let problems = [unopened.map(|why| why.sentence), socket.err()];
                let problems = problems.into_iter().flatten().collect();
                return Err(if is_of_settings {
                    Failure::Settings(problems)
                } else {
                    Failure::Failed(problems)
                });
            }
        };
        let server = Server::start_threads(config, find, &keys, opened, socket);
        let server = server.map_err(|problem| Failure::Failed(vec![problem]))?;
        announce(config, server.shared.listener.address(), started.elapsed());
        Ok(server)
    }

    /// Opens what each thread needs, starts the threads, and last of all lets tiny_http accept.
    fn start_threads(
        config: &Config,
        find: Find,
        keys: &Arc<Keys>,
        (store, writer): (Store, Writer),
        socket: TcpListener,
    ) -> Result<Server, String> {
        let text = |error: io::Error| error.to_string();
        // tiny_http does not survive it when the last descriptor is in use.
        let limits = within_descriptors(config.limits(), config.workers);
        let paths = ROUTES.iter().map(|route| route.path).collect();
        let metrics = Arc::new(Metrics::new(paths, config.inherited.restarts));

        let database = &config.database;
        let not_read = |_| format!("database {database}: it cannot be opened once more");
        let reader = || store.reader().map_err(not_read);
        let context = || {
            let (keys, metrics) = (Arc::clone(keys), Arc::clone(&metrics));
            Ok(Context { keys, reader: reader()?, metrics })
        };
        let contexts =
            (0..config.workers).map(|_| context()).collect::<Result<Vec<_>, String>>()?;
        let follower = reader()?;
        let expirer = config.retention.map(|days| reader().map(|reader| (reader, days)));
        let expirer = expirer.transpose()?;

        let listener = http::Server::new(socket, limits, Arc::clone(&metrics)).map_err(text)?;
        let is_ready = writer.not_ready().is_none();
        let feed = Arc::new(Feed::start(follower, limits.connections, &metrics).map_err(text)?);
        let (commits, committer) = committing::start(writer, &metrics, &feed).map_err(text)?;
        let commit = || {
            let commits = commits.clone();
            move |job: Job| commits.commit(job)
        };
        if !is_ready {
            maintenance::start_beginning(commit()).map_err(text)?;
        }
        store.start_indexing(commit())?;
        if let Some((reader, retention)) = expirer {
            maintenance::start_expiring(reader, retention, commit()).map_err(text)?;
        }

        let exports = Exports::new(store, Arc::clone(&metrics));
        let (keys, limiter) = (Mutex::new(Arc::clone(keys)), Limiter::new(config.rates()));
        let shared = Shared { find, keys, limiter, listener, feed, exports, commits, metrics };
        let shared = Arc::new(shared);
        let worker = |(number, context)| {
            let mut worker = Worker { context, shared: Arc::clone(&shared) };
            spawn(&format!("worker-{number}"), move || worker.run()).map_err(text)
        };
        let workers = (0..).zip(contexts).map(worker).collect::<Result<Vec<_>, String>>()?;
        let accepting = shared.listener.accept();
        accepting.map_err(|error| format!("tiny_http cannot be started: {error}"))?;
        Ok(Server { inherited: config.inherited, shared, workers, committer })
    }

    /// The address at which a client on this machine reaches the service.
    #[must_use]
    pub(super) fn address(&self) -> SocketAddr {
        http::reachable(self.shared.listener.address())
    }

    /// True where a commit fails now for a reason that may pass, or takes long. A program that a
    /// newer one has made outdated is not one of these cases: it is to be replaced.
    pub(super) fn is_storage_away(&self) -> bool {
        let patience = Duration::from_millis(RESTART_PROBE_MS_MAX);
        let outcome = self.shared.commits.commit_within(Job::Probe, patience);
        outcome.is_none_or(|outcome| outcome == Err(STORAGE_UNAVAILABLE))
    }

    /// Applies secrets, tokens and host names from the next request on.
    pub(super) fn replace_keys(&self, config: &Config) {
        warn_of_weak_keys(config);
        *lock(&self.shared.keys) = Keys::of(config);
    }

    /// The restart of the process for which the service may ask.
    pub(super) fn restart(&self) -> &Restart {
        &self.shared.listener.restart
    }

    /// Accepts no more connections, answers the requests that are being handled, and moves the
    /// write-ahead log into the database. Takes at most [`DRAIN_MS_MAX`], and then the time of the
    /// last commit and of a checkpoint. With `is_restart`, connections wait in the kernel
    /// meanwhile. Returns the descriptor of the listening socket, if this process passes it on to
    /// the next program.
    ///
    /// # Errors
    /// When the socket cannot be passed on.
    pub(super) fn stop(self, is_restart: bool) -> io::Result<Option<RawFd>> {
        let Shared { listener, feed, commits, .. } = &*self.shared;
        let keeps_socket = is_restart || self.inherited.from_systemd.is_some();
        if let Err(error) = listener.drain(keeps_socket) {
            log::warn!(error:% = error; "cannot stop listening");
        }
        feed.close();
        let started = Instant::now();
        let mut quiet_ticks = 0;
        while quiet_ticks < DRAIN_QUIET_TICKS
            && !listener.restart.is_urgent()
            && started.elapsed() < Duration::from_millis(DRAIN_MS_MAX)
        {
            thread::sleep(Duration::from_millis(DRAIN_TICK_MS));
            quiet_ticks = if listener.is_busy() { 0 } else { quiet_ticks + 1 };
        }
        listener.stop(self.workers.len());
        // Workers are not joined, since the process ends anyway. The committer gets the rest of the
        // drain time, but at least DRAIN_URGENT_MS.
        let left = Duration::from_millis(DRAIN_MS_MAX).saturating_sub(started.elapsed());
        let urgent = Duration::from_millis(DRAIN_URGENT_MS);
        let is_urgent = listener.restart.is_urgent();
        match self.committer.stop(if is_urgent { urgent } else { left.max(urgent) }) {
            Some(mut writer) => writer.checkpoint(),
            None => {
                log::warn!(queued = commits.length(); "stopped while requests wait for a commit");
            }
        }
        log::info!(drain_ms = rounded(milliseconds(started.elapsed())); "stopped");
        // An inherited socket survives the next `exec`, too.
        match (is_restart, self.inherited) {
            (false, _) | (_, Inherited { from_systemd: Some(_), .. }) => Ok(None),
            (_, Inherited { from_itself: Some(number), .. }) => Ok(Some(number)),
            _ => listener.pass_on().map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpStream,
    };

    use super::*;
    use crate::{api::Route, error::Error, http::Method};

    fn find_or_panic(method: &Method, path: &str, keys: &Keys) -> Result<&'static Route, Error> {
        static PANICS: Route = Route { handler: |_, _| panic!("asked to"), ..api::MONITORING };
        if path == "/panic" { Ok(&PANICS) } else { api::find(method, path, keys) }
    }

    #[test]
    fn a_panic_costs_one_request_and_not_its_worker() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("mailslot.db").display().to_string();
        let config = Config::read_variables(&[
            ("WEBHOOK_SECRET", "secret"),
            ("DATABASE_URL", &database),
            ("LISTEN", "127.0.0.1:0"),
            ("WORKERS", "1"),
        ]);
        let server = Server::start_with(&config.unwrap(), find_or_panic).unwrap();
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut ask = |path: &str| {
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            let mut answer = [0; 4096];
            let length = stream.read(&mut answer).unwrap();
            String::from_utf8_lossy(&answer[..length]).into_owned()
        };
        for _ in 0..3 {
            let answer = ask("/panic");
            assert!(answer.starts_with("HTTP/1.1 500 Internal Server Error\r\n"), "{answer}");
            assert!(answer.ends_with(r#"{"detail":"Internal Server Error"}"#), "{answer}");
            assert!(ask("/health/live").starts_with("HTTP/1.1 200 "), "on the same connection");
        }
        assert_eq!(server.stop(false).unwrap(), None);
    }
}

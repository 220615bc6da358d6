//! Threads: who they are, how they start, how they stop; and the life of a request.
//!
//! A worker takes a request up, lets its route answer, and answers; or parks it for the next
//! commit and takes the next one up. It waits for the disk only.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::RawFd,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        mpsc::{Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use log::{Level, Record, kv::Value};

use crate::{
    api::{Answer, Context, Keys, health},
    chores,
    config::{Config, Inherited, Limits, weakness},
    error::Error,
    export::Exports,
    feed::Feed,
    front::{self, Arrival, Ending, Importance, Listener},
    http::{Exchange, Intake, Method, Response},
    logging,
    metrics::{Metrics, WebhookResult, milliseconds},
    rates::Limiter,
    routes::{self, Access, Route},
    store::{
        Entry, GroupCommit, Leader, Outcome, Packer, Reader, Searches, Stored, Writer, answer_all,
    },
};

/// How long a stop waits for requests in hand before it goes on without them.
pub const DRAIN_MS_MAX: u64 = 10_000;
/// The same, where memory runs out: what is not committed by then is sent again.
const DRAIN_HASTY_MS: u64 = 250;
/// How often it looks, and how often in a row it must see nothing in hand.
const DRAIN_TICK_MS: u64 = 20;
const DRAIN_QUIET_TICKS: u32 = 3;
/// Descriptors: of all that is no connection, of a worker's database, of a connection (three while a
/// slow client is waited for).
const OWN_DESCRIPTORS: usize = 36;
const DESCRIPTORS_PER_WORKER: usize = 3;
pub(crate) const DESCRIPTORS_PER_CONNECTION: usize = 3;
/// Bytes of a client's path, method or message_id in a log line.
const LOGGED_BYTES_MAX: usize = 512;

/// What waits for its commit, and who wants to know.
struct Parked {
    entry: Entry,
    asker: Asker,
}

enum Asker {
    /// A request, and how to tell it.
    Client(Exchange, fn(Outcome) -> Result<Response, Error>),
    /// A thread of this program.
    Thread(Sender<Outcome>),
}

/// The start line, at any LOG_LEVEL: with port 0 it is the only place that tells the port.
fn announce(config: &Config, address: SocketAddr, start: Duration) {
    let is_loopback = address.ip().to_canonical().is_loopback();
    let (address, database) = (address.to_string(), config.database.display().to_string());
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
            "READ_TOKEN is not set, or empty: anyone who reaches this address can read every message; set it, or listen on 127.0.0.1"
        );
    }
    warn_of_weak_keys(config);
}

fn warn_of_weak_keys(config: &Config) {
    for (name, key) in config.keys() {
        if let Some(weakness) = weakness(key) {
            log::warn!("{name} has {weakness}");
        }
    }
}

/// The listening socket: systemd's, that of the process before, or a new one.
fn socket(config: &Config) -> Result<TcpListener, String> {
    match config.inherited.socket() {
        Some(number) => front::inherit(number)
            .map_err(|error| format!("the socket that was passed cannot be used: {error}")),
        None => front::listen_on(config.listen)
            .map_err(|error| format!("LISTEN={}: cannot listen there: {error}", config.listen)),
    }
}

/// To the microsecond.
fn rounded(milliseconds: f64) -> f64 {
    (milliseconds * 1e3).round() / 1e3
}

/// As many connections as there are descriptors for, when those are fewer than is configured.
fn within_descriptors(limits: Limits, workers: usize) -> Limits {
    let own = OWN_DESCRIPTORS + DESCRIPTORS_PER_WORKER * workers;
    let possible = front::raise_descriptor_limit().saturating_sub(own) / DESCRIPTORS_PER_CONNECTION;
    let connections = limits.connections.min(possible.max(1));
    if connections < limits.connections {
        log::warn!(connections; "fewer connections than MAX_CONNECTIONS: raise the limit on open files");
    }
    Limits { connections, ..limits }
}

/// What answers a method and a path: [`routes::find`], but for the tests.
type Find = fn(&Method, &str) -> Result<Route, Error>;

type Store = GroupCommit<Writer, Parked>;

/// How the service is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// For good.
    Exit,
    /// To be started anew by this process itself, so that nobody who connects meanwhile is refused.
    Restart,
}

/// The running service. [`Server::stop`] ends it; dropping it ends nothing.
pub struct Server {
    inherited: Inherited,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server({:?})", self.shared.listener)
    }
}

impl Server {
    /// Opens the database, listens, and starts the workers.
    ///
    /// # Errors
    /// Every reason at once, each a sentence for the operator.
    pub fn start(config: &Config) -> Result<Server, Vec<String>> {
        Server::start_with(config, routes::find)
    }

    fn start_with(config: &Config, find: Find) -> Result<Server, Vec<String>> {
        let started = Instant::now();
        // A connection takes two descriptors, and tiny_http does not survive the last one.
        let limits = within_descriptors(config.limits, config.workers);
        let writer = Writer::open(&config.database);
        let (writer, socket) = match (writer, socket(config)) {
            (Ok(writer), Ok(socket)) => (writer, socket),
            (writer, socket) => {
                return Err([writer.err(), socket.err()].into_iter().flatten().collect());
            }
        };
        let one = |problem: String| vec![problem];
        let paths = routes::ROUTES.iter().map(|(_, path, ..)| *path);
        let metrics = Arc::new(Metrics::new(paths, config.inherited.restarts));
        let unopened = |error| one(format!("database {}: {error}", config.database.display()));
        let searches = Searches::open(&config.database, config.workers).map_err(unopened)?;
        let keys = Keys::of(config);
        let reader = || Reader::open(&config.database, &searches).map_err(unopened);
        let mut contexts = Vec::with_capacity(config.workers);
        for _ in 0..config.workers {
            let (keys, metrics) = (Arc::clone(&keys), Arc::clone(&metrics));
            contexts.push(Context { keys, reader: reader()?, metrics });
        }
        let packer = Packer::open(&config.database).map_err(unopened)?;
        let follower = reader()?;
        let expirer = config.retention.map(|days| reader().map(|reader| (reader, days)));
        let expirer = expirer.transpose()?;
        let no_thread = |error: std::io::Error| one(format!("a thread cannot be started: {error}"));
        let listener = Listener::new(socket, Arc::clone(&metrics)).map_err(no_thread)?;
        front::start_guard(Arc::clone(&listener), limits).map_err(no_thread)?;
        let is_begun = writer.not_begun().is_none();
        let store = Arc::new(Store::new(writer));
        let (feed, events) = Feed::new(limits.connections, &metrics);
        let feed = Arc::new(feed);
        let replier = Replier::start(&metrics, &feed).map_err(no_thread)?;
        let own = replier.clone();
        let reply = move |exchange, response: &_| own.reply(exchange, response, None);
        events.serve(follower, reply).map_err(no_thread)?;
        let exports = Exports::of(config.database.clone(), Arc::clone(&searches));
        let (keys, limiter) = (RwLock::new(keys), Limiter::new(config.rates.clone()));
        if !is_begun {
            chores::start_beginning(submission(&store, &replier)).map_err(no_thread)?;
        }
        chores::start_packing(packer, submission(&store, &replier)).map_err(no_thread)?;
        if let Some((reader, retention)) = expirer {
            let submit = submission(&store, &replier);
            chores::start_expiring(reader, retention, submit).map_err(no_thread)?;
        }
        let shared =
            Arc::new(Shared { find, keys, limiter, listener, feed, exports, store, replier });
        let mut workers = Vec::with_capacity(contexts.len());
        for (number, context) in contexts.into_iter().enumerate() {
            let mut worker = Worker { context, shared: Arc::clone(&shared) };
            let thread = thread::Builder::new().name(format!("worker-{number}"));
            workers.push(thread.spawn(move || worker.run()).map_err(no_thread)?);
        }
        let not_started = |error| one(format!("tiny_http cannot be started: {error}"));
        shared.listener.accept().map_err(not_started)?;
        announce(config, shared.listener.address(), started.elapsed());
        Ok(Server { inherited: config.inherited, shared, workers })
    }

    /// Where a client on this machine reaches the service.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        front::reachable(self.shared.listener.address())
    }

    /// From the next request on, these secrets, tokens and host names count.
    pub fn replace_keys(&self, config: &Config) {
        warn_of_weak_keys(config);
        *self.shared.keys.write().unwrap_or_else(PoisonError::into_inner) = Keys::of(config);
    }

    /// Why the service asks for a restart of the process with [`Stop::Restart`], if it does. It raises
    /// SIGUSR1 when that changes.
    #[must_use]
    pub fn restart_reason(&self) -> Option<String> {
        self.shared.listener.restart_reason()
    }

    /// The service goes on. It asks again after a second, if nothing has changed by then.
    pub fn refuse_restart(&self) {
        self.shared.listener.refuse_restart();
    }

    /// Takes no more connections, answers what is in hand, makes it durable, moves the write-ahead
    /// log into the database. Takes at most [`DRAIN_MS_MAX`] and the time of a checkpoint. For a
    /// restart, gives the number of the listening socket, if this process is to pass it on.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn stop(self, stop: Stop) -> io::Result<Option<RawFd>> {
        let Shared { listener, feed, store, .. } = &*self.shared;
        let is_kept = stop == Stop::Restart || self.inherited.from_systemd.is_some();
        let ending = if is_kept { Ending::Keep } else { Ending::Close };
        if let Err(error) = listener.drain(ending) {
            log::warn!(error:% = error; "cannot stop listening");
        }
        feed.close();
        let started = Instant::now();
        let mut quiet_ticks = 0;
        while quiet_ticks < DRAIN_QUIET_TICKS
            && !listener.is_hasty()
            && started.elapsed() < Duration::from_millis(DRAIN_MS_MAX)
        {
            thread::sleep(Duration::from_millis(DRAIN_TICK_MS));
            quiet_ticks = if listener.is_busy() { 0 } else { quiet_ticks + 1 };
        }
        listener.stop(self.workers.len());
        // Workers are not joined: one may still hang on a client, and the process ends anyway. But
        // a commit under way is waited for.
        let mut writer = store.close();
        let patience_ms = if listener.is_hasty() { DRAIN_HASTY_MS } else { DRAIN_MS_MAX };
        while writer.is_none() && started.elapsed() < Duration::from_millis(patience_ms) {
            thread::sleep(Duration::from_millis(DRAIN_TICK_MS));
            writer = store.close();
        }
        match writer {
            Some(writer) => writer.checkpoint(),
            None => log::warn!(parked = store.parked(); "stopped with requests in hand"),
        }
        log::info!(drain_ms = rounded(milliseconds(started.elapsed())); "stopped");
        // What was inherited survives as it has before.
        match (stop, self.inherited) {
            (Stop::Exit, _) | (_, Inherited { from_systemd: Some(_), .. }) => Ok(None),
            (_, Inherited { from_itself: Some(number), .. }) => Ok(Some(number)),
            _ => listener.pass_on().map(Some),
        }
    }
}

/// What the workers share.
struct Shared {
    find: Find,
    /// Replaced as a whole when they are read again.
    keys: RwLock<Arc<Keys>>,
    limiter: Limiter,
    listener: Arc<Listener>,
    feed: Arc<Feed>,
    exports: Exports,
    store: Arc<Store>,
    replier: Replier,
}

struct Worker {
    context: Context,
    shared: Arc<Shared>,
}

impl Worker {
    fn run(&mut self) {
        let mut buffer = Vec::new();
        while let Some(arrival) = self.shared.listener.next() {
            // A handler's own panic is answered in `serve`. Any other costs its request too, which
            // is answered 500 when it is dropped, and not this thread.
            let _ = catch_unwind(AssertUnwindSafe(|| self.take_up(arrival, &mut buffer)));
        }
    }

    fn take_up(&mut self, arrival: Arrival, buffer: &mut Vec<u8>) {
        match Exchange::new(arrival).read_body(buffer) {
            Intake::Read(exchange) => self.serve(exchange, buffer),
            Intake::Awaited => {}
            Intake::Refused(exchange, error) => {
                let response = Response::from(&error);
                record(&self.shared.replier.metrics, &exchange, &response, None);
                exchange.refuse(&response);
            }
        }
    }

    fn serve(&mut self, exchange: Exchange, body: &[u8]) {
        // The panic hook has logged it; a panic costs one request.
        let answer = catch_unwind(AssertUnwindSafe(|| self.route(&exchange, body)));
        match answer.unwrap_or(Err(Error::Internal)) {
            Ok(Answer::Now(response)) => self.shared.replier.reply(exchange, &response, None),
            Ok(Answer::AfterCommit(entry, then)) => {
                self.park(Parked { entry, asker: Asker::Client(exchange, then) });
            }
            Ok(Answer::WhenCommitted(follow)) => {
                let client = self.client(&exchange);
                if let Err((exchange, error)) = self.shared.feed.wait(exchange, client, follow) {
                    self.shared.replier.reply(exchange, &Response::from(&error), None);
                }
            }
            Ok(Answer::Export(wanted)) => {
                let metrics = Arc::clone(&self.shared.replier.metrics);
                let record =
                    move |exchange: &_, response: &_| record(&metrics, exchange, response, None);
                let (client, exports) = (self.client(&exchange), &self.shared.exports);
                if let Err((exchange, error)) = exports.start(exchange, client, wanted, record) {
                    self.shared.replier.reply(exchange, &Response::from(&error), None);
                }
            }
            Err(error) => {
                let message_id = match &error {
                    Error::Invalid { message_id, .. } => message_id.as_deref(),
                    _ => None,
                };
                self.shared.replier.reply(exchange, &Response::from(&error), message_id);
            }
        }
    }

    /// The address that limits count by.
    fn client(&self, exchange: &Exchange) -> IpAddr {
        self.shared.limiter.client(exchange.peer(), exchange.forwarded())
    }

    fn route(&mut self, exchange: &Exchange, body: &[u8]) -> Result<Answer, Error> {
        let (handler, importance, access) = (self.shared.find)(exchange.method(), exchange.path())?;
        let limiter = &self.shared.limiter;
        if importance != Importance::Health && !limiter.is_idle() {
            let client = self.client(exchange);
            // Who watches over us must hear from us, however much is asked.
            if !(client.is_loopback() && exchange.path() == "/health/ready") {
                limiter.admit(client, Instant::now())?;
            }
        }
        self.context.keys =
            Arc::clone(&self.shared.keys.read().unwrap_or_else(PoisonError::into_inner));
        let Keys { tokens, hosts, .. } = &*self.context.keys;
        if access != Access::Anyone && !tokens.admit(exchange.authorization()) {
            return Err(Error::NoReadToken { is_script: exchange.is_script() });
        }
        let is_open = access == Access::Reader && tokens.is_empty();
        if is_open && !exchange.hosts().all(|host| hosts.admit(host)) {
            return Err(Error::ForeignHost);
        }
        if self.shared.listener.sheds(importance) {
            self.shared.replier.metrics.shed();
            return Err(Error::Unavailable("overloaded, try again later"));
        }
        handler(&mut self.context, &exchange.request(body))
    }

    fn park(&self, parked: Parked) {
        self.shared.replier.metrics.parked(1);
        if let Err(parked) = self.shared.store.submit(parked, &self.shared.replier) {
            let error = Error::Unavailable("too much waits for the disk, try again later");
            self.shared.replier.answer(parked, Err(error));
        }
    }
}

/// A way to the group commit for a thread of this program, which waits for the outcome. `None` if
/// there is no room for it now.
fn submission(
    store: &Arc<Store>,
    replier: &Replier,
) -> impl Fn(Entry) -> Option<Outcome> + Send + use<> {
    let (store, replier) = (Arc::clone(store), replier.clone());
    move |entry| {
        let (told, outcome) = channel();
        replier.metrics.parked(1);
        if store.submit_aside(Parked { entry, asker: Asker::Thread(told) }, &replier).is_err() {
            replier.metrics.parked(-1);
            return None;
        }
        outcome.recv().ok()
    }
}

/// Who tells requests what became of them: the worker that leads, or a thread beside it.
#[derive(Clone)]
struct Replier {
    metrics: Arc<Metrics>,
    feed: Arc<Feed>,
    /// To that thread.
    answers: Sender<Vec<(Parked, Outcome)>>,
}

impl Replier {
    fn start(metrics: &Arc<Metrics>, feed: &Arc<Feed>) -> io::Result<Replier> {
        let (answers, handed_over) = channel();
        let replier = Replier { metrics: Arc::clone(metrics), feed: Arc::clone(feed), answers };
        let own = replier.clone();
        let run = move || {
            while let Ok(answers) = handed_over.recv() {
                answer_all(&own, answers);
            }
        };
        thread::Builder::new().name("replier".into()).spawn(run).map(|_| replier)
    }

    /// Counts, logs, and sends an answer: in this order, so that whoever has it finds it counted.
    fn reply(&self, mut exchange: Exchange, response: &Response, message_id: Option<&str>) {
        let instead = exchange.make_room(response).map_err(|error| Response::from(&error));
        let response = instead.as_ref().err().unwrap_or(response);
        record(&self.metrics, &exchange, response, message_id);
        exchange.answer(response);
    }
}

impl Leader<Writer, Parked> for Replier {
    fn commit(&self, writer: &mut Writer, batch: &[Parked]) -> Vec<Outcome> {
        let started = Instant::now();
        let outcomes = writer.commit(batch.iter().map(|parked| &parked.entry));
        self.metrics.committed(batch.len(), started.elapsed());
        if outcomes.iter().all(Result::is_err) {
            self.metrics.commit_failed();
        }
        let created = outcomes.iter().filter(|outcome| **outcome == Ok(Stored::Created)).count();
        self.feed.committed(created as u64);
        outcomes
    }

    fn answer(&self, Parked { entry, asker }: Parked, outcome: Outcome) {
        self.metrics.parked(-1);
        let (exchange, then) = match asker {
            Asker::Client(exchange, then) => (exchange, then),
            Asker::Thread(told) => {
                let _ = told.send(outcome);
                return;
            }
        };
        let response = then(outcome).unwrap_or_else(|error| Response::from(&error));
        let message_id = match &entry {
            Entry::Message(message) => Some(message.message_id.as_str()),
            Entry::Pack(_) | Entry::Expire(_) | Entry::Probe => None,
        };
        self.reply(exchange, &response, message_id);
    }

    fn hand_over(&self, answers: Vec<(Parked, Outcome)>) {
        // That thread ends with the process only.
        let _ = self.answers.send(answers);
    }
}

fn record(metrics: &Metrics, exchange: &Exchange, response: &Response, message_id: Option<&str>) {
    let (method, path, status) = (exchange.method(), exchange.path(), response.status);
    let latency = exchange.elapsed();
    metrics.answered(path, status, latency);
    let result = response.result.filter(|_| path == "/webhook" && *method == Method::Post);
    // A browser is told 401 before it asks for a token; a provider never should be.
    let is_refused = status == 401 && result.is_some();
    let level = if is_refused || status >= 500 {
        Level::Error
    } else if path == "/health/ready" && is_watchdog(exchange) {
        Level::Debug
    } else {
        Level::Info
    };
    if let Some(result) = result {
        metrics.delivered(result);
    }
    if level > log::max_level() {
        return;
    }
    let mut fields: Vec<(&str, Value<'_>)> = vec![
        ("request_id", Value::from(exchange.request_id.as_str())),
        ("method", Value::from(cut(method.as_str()))),
        ("path", Value::from(cut(path))),
        ("status", Value::from(status)),
        ("latency_ms", Value::from(rounded(milliseconds(latency)))),
    ];
    if let Some(result) = result {
        fields.extend(message_id.map(|id| ("message_id", Value::from(cut(id)))));
        fields.push(("dup", Value::from(result == WebhookResult::Duplicate)));
        fields.push(("result", Value::from(result.label())));
    }
    // Who has no secret must not fill the log.
    let is_signed = result.is_some_and(WebhookResult::is_signed);
    let mut record = Record::builder();
    let target = if is_signed { module_path!() } else { logging::CLIENT };
    let record = record.level(level).target(target).key_values(&fields);
    log::logger().log(&record.args(format_args!("request")).build());
}

/// A client's bytes in a log line are bounded.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(LOGGED_BYTES_MAX)]
}

/// One `GET /health/ready`, as a client would ask it: the status, and the body.
///
/// # Errors
/// When nobody answers in time.
pub fn ask_ready(address: SocketAddr, wait_max: Duration) -> io::Result<(u16, String)> {
    ask(connect(address, wait_max)?)
}

fn connect(address: SocketAddr, wait_max: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&front::reachable(address), wait_max)?;
    stream.set_read_timeout(Some(wait_max))?;
    Ok(stream)
}

fn ask(mut stream: TcpStream) -> io::Result<(u16, String)> {
    stream.write_all(b"GET /health/ready HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(4096).read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::other("that was no answer"))?;
    Ok((status, answer.lines().last().unwrap_or_default().to_owned()))
}

/// The watchdog's own end of its connection while it asks. No other client can have that address and
/// port at the same time, so none can have its requests logged as the watchdog's.
/// An answer that the watchdog has not waited for is logged as any other.
static WATCHDOG: Mutex<Option<SocketAddr>> = Mutex::new(None);

fn set_watchdog(address: Option<SocketAddr>) {
    *WATCHDOG.lock().unwrap_or_else(PoisonError::into_inner) = address;
}

fn is_watchdog(exchange: &Exchange) -> bool {
    let canonical = |address: SocketAddr| (address.ip().to_canonical(), address.port());
    let watchdog = *WATCHDOG.lock().unwrap_or_else(PoisonError::into_inner);
    watchdog.map(canonical) == Some(canonical(exchange.peer_address()))
}

/// Whether a restart could do no good: requests are taken, answered, and find the database. A disk
/// that takes no write is not mended by one, and its senders are told 503 meanwhile.
#[must_use]
pub fn is_alive(address: SocketAddr, wait_max: Duration) -> bool {
    let answered = connect(address, wait_max).and_then(|stream| {
        set_watchdog(Some(stream.local_addr()?));
        ask(stream)
    });
    set_watchdog(None);
    answered.is_ok_and(|(status, body)| {
        status == 200 || (status == 503 && !body.contains(health::UNREADABLE))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find_or_panic(method: &Method, path: &str) -> Result<Route, Error> {
        // Of a kind that is never shed, however busy the machine is.
        if path == "/panic" {
            return Ok((|_, _| panic!("asked to"), Importance::Health, Access::Anyone));
        }
        routes::find(method, path)
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
        assert_eq!(server.stop(Stop::Exit).unwrap(), None);
    }
}

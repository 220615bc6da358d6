//! One real mailslot for each test: its own port, its own folder, its log read line by line. With
//! `TEST_ENGINE=postgres` it stores in a database of its own, of a private PostgreSQL.

#[path = "server.rs"]
pub mod server;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::{net::UnixDatagram, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, OnceLock, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use tempfile::TempDir;

use self::server::Server;

pub const SECRET: &str = "testsecret";
const WAIT: Duration = Duration::from_secs(20);

pub struct Inbox {
    child: Child,
    log: Mutex<mpsc::Receiver<Value>>,
    log_reader: Option<JoinHandle<Result<(), String>>>,
    /// The log line that it started with.
    pub started: Value,
    pub address: SocketAddr,
    agent: ureq::Agent,
    pub folder: TempDir,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub text: String,
    pub json: Value,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        values.next().map(|(_, value)| value.as_str())
    }

    /// `type` and `loc` of each entry of FastAPI's list.
    pub fn problems(&self) -> Vec<(String, Value)> {
        let detail = self.json["detail"].as_array().unwrap_or_else(|| panic!("no list: {self:?}"));
        let problem =
            |entry: &Value| (entry["type"].as_str().unwrap().to_owned(), entry["loc"].clone());
        detail.iter().map(problem).collect()
    }
}

/// The command that starts the real binary, with nothing of this process's environment.
pub fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mailslot"));
    command
        .env_clear()
        .current_dir(folder)
        .env("LISTEN", "127.0.0.1:0")
        .env("DATABASE_URL", database_url(folder))
        .env("WEBHOOK_SECRET", SECRET);
    command
}

/// The socket in a service's folder on which it notifies systemd.
pub fn notify_socket(folder: &Path, wait: Duration) -> UnixDatagram {
    let socket = UnixDatagram::bind(folder.join("notify")).unwrap();
    socket.set_read_timeout(Some(wait)).unwrap();
    socket
}

/// The next notification.
pub fn notification(socket: &UnixDatagram) -> String {
    let mut state = [0; 64];
    let length = socket.recv(&mut state).unwrap();
    String::from_utf8_lossy(&state[..length]).trim_end().to_owned()
}

/// Which engine the tests of this process run on.
pub fn on_postgres() -> bool {
    std::env::var("TEST_ENGINE").is_ok_and(|engine| engine == "postgres")
}

/// Where the mailslot of this folder stores.
pub fn database_url(folder: &Path) -> String {
    if on_postgres() {
        return Server::shared().url(folder);
    }
    format!("sqlite:///{}", database(folder).display())
}

/// The command's own folder says which disk fails: see fault.c.
pub fn with_faults(command: &mut Command) {
    let faults = command.get_current_dir().unwrap().join("faults");
    fs::create_dir_all(&faults).unwrap();
    command.env("LD_PRELOAD", fault_library()).env("FAULTS", faults);
}

/// On PostgreSQL a trigger does what the disk does in fault.c, as far as the server would report it.
pub fn fault(folder: &Path, name: &str, on: bool) {
    if on_postgres() {
        execute(folder, "DROP FUNCTION IF EXISTS public.fault CASCADE");
        let fault = match name {
            "slow_fsync" => "PERFORM pg_sleep(0.03)",
            "disk_full" => "RAISE 'by a test' USING ERRCODE = '53100'",
            "fail_fsync" => "RAISE 'by a test' USING ERRCODE = '58030'",
            _ => panic!("no such fault of a server: {name}"),
        };
        if on {
            execute(
                folder,
                &format!(
                    "CREATE FUNCTION public.fault() RETURNS trigger LANGUAGE plpgsql AS
                         $$BEGIN {fault}; RETURN NULL; END$$;
                     CREATE TRIGGER fault AFTER INSERT ON messages
                         FOR EACH STATEMENT EXECUTE FUNCTION public.fault()"
                ),
            );
        }
        return;
    }
    let path = folder.join("faults").join(name);
    if on { fs::write(path, "").unwrap() } else { fs::remove_file(path).unwrap() }
}

pub fn database(folder: &Path) -> PathBuf {
    folder.join("mailslot.db")
}

impl Inbox {
    pub fn start() -> Inbox {
        Inbox::start_in(tempfile::tempdir().unwrap())
    }

    pub fn start_in(folder: TempDir) -> Inbox {
        Inbox::start_with(folder, |_| {})
    }

    pub fn start_with(folder: TempDir, adjust: impl FnOnce(&mut Command)) -> Inbox {
        let mut command = command(folder.path());
        adjust(&mut command);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, log) = mpsc::channel();
        let log_reader = std::thread::spawn(move || {
            for line in stdout.lines() {
                let line = line.map_err(|error| error.to_string())?;
                let value: Value =
                    serde_json::from_str(&line).map_err(|_| format!("no JSON: {line}"))?;
                if !value.is_object() || value["ts"].is_null() || value["level"].is_null() {
                    return Err(format!("no log line: {line}"));
                }
                let _ = sender.send(value);
            }
            Ok(())
        });
        let mut inbox = Inbox {
            child,
            log: Mutex::new(log),
            log_reader: Some(log_reader),
            started: Value::Null,
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
            agent: agent(),
            folder,
        };
        inbox.started = inbox.wait_for_log(|line| line["msg"] == "listening");
        inbox.address = inbox.started["address"].as_str().unwrap().parse().unwrap();
        inbox
    }

    /// A mailslot whose disk fails on demand: see fault.c.
    pub fn start_with_faults() -> Inbox {
        Inbox::start_with_faults_in(tempfile::tempdir().unwrap())
    }

    pub fn start_with_faults_in(folder: TempDir) -> Inbox {
        Inbox::start_with(folder, with_faults)
    }

    pub fn fault(&self, name: &str, on: bool) {
        fault(self.folder.path(), name, on);
    }

    pub fn wait_for_log(&self, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        let end = Instant::now() + WAIT;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.log.lock().unwrap().recv_timeout(left) {
                Ok(line) if wanted(&line) => return line,
                Ok(_) => {}
                Err(error) => panic!("the log has no such line: {error}"),
            }
        }
    }

    /// The log line of the request with this id.
    pub fn request_log(&self, reply: &Reply) -> Value {
        let id = reply.header("X-Request-ID").unwrap().to_owned();
        self.wait_for_log(|line| line["request_id"] == id.as_str())
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A read that is shed is asked for again: the machine is slow then, and not the program wrong.
    pub fn get(&self, path: &str) -> Reply {
        let end = Instant::now() + WAIT;
        loop {
            let answer = reply(self.agent.get(self.url(path)).call());
            let is_shed = answer.json["detail"] == "overloaded, try again later";
            if !is_shed || Instant::now() > end {
                return answer;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The answer once it is no 503, such as while other requests have all places.
    pub fn get_served(&self, path: &str) -> Reply {
        let end = Instant::now() + WAIT;
        loop {
            let reply = self.get(path);
            if reply.status != 503 || Instant::now() > end {
                return reply;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn request(&self, method: &str, path: &str) -> Reply {
        let request = ureq::http::Request::builder().method(method).uri(self.url(path));
        // A body of no bytes rather than none, for which ureq would send Transfer-Encoding.
        reply(self.agent.run(request.body("").unwrap()))
    }

    pub fn deliver(&self, message: &Value) -> Reply {
        self.deliver_raw(message.to_string().as_bytes())
    }

    /// Any bytes, rightly signed.
    pub fn deliver_raw(&self, body: &[u8]) -> Reply {
        self.post(body, &[("X-Signature", &sign(body))])
    }

    pub fn post(&self, body: &[u8], headers: &[(&str, &str)]) -> Reply {
        self.post_to("/webhook", body, headers)
    }

    pub fn post_to(&self, path: &str, body: &[u8], headers: &[(&str, &str)]) -> Reply {
        let mut request = self.agent.post(self.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        reply(request.send(body))
    }

    /// Bytes as they are; all that comes back until the server closes or `WAIT` is over.
    pub fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream
    }

    /// A number that SQL finds in the database, as `sqlite3` or `psql` would while mailslot runs.
    pub fn count(&self, sql: &str) -> i64 {
        count(self.folder.path(), sql)
    }

    /// Runs SQL as an operator would beside mailslot.
    pub fn execute(&self, sql: &str) {
        execute(self.folder.path(), sql);
    }

    pub fn rows(&self) -> i64 {
        self.count("SELECT count(*) FROM messages")
    }

    /// The value of one metric, labels and all.
    pub fn metric(&self, name: &str) -> u64 {
        let text = self.get("/metrics").text;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no metric {name}")).parse::<f64>().unwrap() as u64
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Stops it as an operator would; its folder stays.
    pub fn stop(mut self) -> TempDir {
        self.signal("-TERM");
        let status = self.child.wait().unwrap();
        assert_eq!((status.code(), status.signal()), (Some(0), None));
        std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap())
    }

    /// As if the machine had lost the process at this instant.
    pub fn kill(mut self) -> TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap())
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let lines = self.log_reader.take().map(JoinHandle::join);
        // A kill may have cut the last line.
        if let Some(Ok(Err(problem))) = lines
            && problem.ends_with('}')
            && !std::thread::panicking()
        {
            panic!("stdout: {problem}");
        }
    }
}

/// By the shell's own `kill`: a new machine may have no other.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("sh").args(["-c", &format!("kill {name} {pid}")]).status();
    assert!(status.unwrap().success());
}

pub fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder().http_status_as_error(false);
    ureq::Agent::new_with_config(config.timeout_global(Some(WAIT)).build())
}

pub fn reply(result: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Reply {
    let mut response = result.unwrap();
    let headers = response.headers().iter();
    let headers =
        headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
    let headers = headers.collect();
    let text = response.body_mut().read_to_string().unwrap();
    let json = serde_json::from_str(&text).unwrap_or(Value::Null);
    Reply { status: response.status().as_u16(), headers, text, json }
}

/// Starts mailslot where it must not start, and gives what it said.
pub fn refused(adjust: impl FnOnce(&mut Command)) -> Output {
    refused_in(tempfile::tempdir().unwrap().path(), adjust)
}

pub fn refused_in(folder: &Path, adjust: impl FnOnce(&mut Command)) -> Output {
    let mut command = command(folder);
    adjust(&mut command);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let end = Instant::now() + WAIT;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > end {
            child.kill().unwrap();
            panic!("it started");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

pub fn count(folder: &Path, sql: &str) -> i64 {
    if on_postgres() {
        let server = Server::shared();
        let found = server.sql(&server.database(folder), sql);
        return found.parse().unwrap_or_else(|_| panic!("{sql}: {found}"));
    }
    let connection = rusqlite::Connection::open(database(folder)).unwrap();
    connection.busy_timeout(WAIT).unwrap();
    connection.query_row(sql, (), |row| row.get(0)).unwrap()
}

pub fn execute(folder: &Path, sql: &str) {
    if on_postgres() {
        let server = Server::shared();
        server.sql(&server.database(folder), sql);
        return;
    }
    let connection = rusqlite::Connection::open(database(folder)).unwrap();
    connection.busy_timeout(WAIT).unwrap();
    connection.execute_batch(sql).unwrap();
}

/// Until a condition holds, however busy the machine is.
pub fn wait_for(mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + 3 * WAIT;
    while !holds() {
        assert!(Instant::now() < end, "it took too long");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn message(id: &str) -> Value {
    json!({
        "message_id": id, "from": "+919876543210", "to": "+14155550100",
        "ts": "2025-01-15T10:00:00Z", "text": "Hello"
    })
}

/// The message with some of its fields replaced.
pub fn message_with(id: &str, fields: &Value) -> Value {
    let mut message = message(id);
    for (name, value) in fields.as_object().unwrap() {
        message[name] = value.clone();
    }
    message
}

pub fn sign(body: &[u8]) -> String {
    sign_with(SECRET, body)
}

pub fn sign_with(secret: &str, body: &[u8]) -> String {
    let mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    hex::encode(mac.chain_update(body).finalize().into_bytes())
}

/// Runs `work` in `threads` threads at once and gives their results.
pub fn at_once<T: Send>(threads: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let barrier = std::sync::Barrier::new(threads);
    let run = |number| {
        barrier.wait();
        work(number)
    };
    std::thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = (0..threads).map(|number| scope.spawn(move || run(number))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

pub fn fault_library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        // A name of its own: another test process may be loading the library just now.
        let library = format!("{}/fault-{}.so", env!("CARGO_TARGET_TMPDIR"), std::process::id());
        let library = PathBuf::from(library);
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/fault.c");
        let status = Command::new("cc")
            .args(["-O1", "-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(source)
            .status();
        assert!(status.unwrap().success());
        library
    })
}

//! The private PostgreSQL of a test binary: started when a test first needs it, by a user who is not
//! root, in a temporary folder, with a database for each folder that a test stores in.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, OnceLock},
};

use crate::harness::{signal, wait_for};

/// What runs and stops it.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/postgres/server.sh");
/// More than all tests at once have.
const CONNECTIONS: &str = "max_connections=400";

#[derive(Debug)]
pub struct Server {
    pub folder: PathBuf,
    pub port: u16,
    options: Vec<String>,
    child: Mutex<Child>,
    /// Whether that of each folder is there.
    databases: Mutex<BTreeMap<PathBuf, Arc<OnceLock<()>>>>,
}

impl Server {
    /// The one that the tests of this binary share.
    pub fn shared() -> &'static Server {
        static SERVER: OnceLock<Server> = OnceLock::new();
        SERVER.get_or_init(|| Server::start(&[], &[]))
    }

    /// One of a test's own, which may stop it and change its settings.
    pub fn start(settings: &[&str], environment: &[(&str, &str)]) -> Server {
        let name = format!("mailslot-test-{}-{}", std::process::id(), free_port());
        let folder = std::env::temp_dir().join(name);
        let port = free_port();
        let settings = [&[CONNECTIONS], settings].concat();
        let options: Vec<_> =
            settings.iter().flat_map(|setting| ["-c".to_owned(), (*setting).to_owned()]).collect();
        let mut child = Command::new(SCRIPT)
            .arg("run")
            .arg(&folder)
            .arg(port.to_string())
            .args(&options)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "PostgreSQL did not start: see make postgres");
        // Its standard input stays open as long as this process, also one that is killed.
        Server { folder, port, options, child: Mutex::new(child), databases: Mutex::default() }
    }

    /// The setting of a mailslot that stores in the database of this folder.
    pub fn url(&self, folder: &Path) -> String {
        let name = self.database(folder);
        format!("postgres://mailslot:secret@127.0.0.1:{}/{name}?sslmode=disable", self.port)
    }

    /// The name of a folder's database, which is created when it is first asked for. Tests do not
    /// wait for each other's: the server takes a second for one on a busy machine.
    pub fn database(&self, folder: &Path) -> String {
        let name = name(folder);
        let (created, gone) = {
            let mut databases = self.databases.lock().unwrap();
            // Those of folders that are gone would fill the disk.
            let gone: Vec<_> = databases.extract_if(.., |folder, _| !folder.exists()).collect();
            (Arc::clone(databases.entry(folder.to_owned()).or_default()), gone)
        };
        for (folder, _) in gone {
            let drop = format!("DROP DATABASE IF EXISTS \"{}\" WITH (FORCE)", self::name(&folder));
            self.sql("postgres", &drop);
        }
        created.get_or_init(|| {
            self.sql("postgres", &format!("CREATE DATABASE \"{name}\" OWNER mailslot"));
        });
        name
    }

    /// Runs SQL as the superuser and gives the rows, their values divided by `|`.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        self.try_sql(database, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    pub fn try_sql(&self, database: &str, sql: &str) -> Result<String, String> {
        let output = self.psql(database).args(["-c", sql]).output().unwrap();
        if output.status.success() {
            return Ok(String::from_utf8(output.stdout).unwrap().trim_end().to_owned());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// psql as the superuser, with mailslot's schema in its path.
    pub fn psql(&self, database: &str) -> Command {
        let mut command = Command::new("psql");
        command.args([
            "-qAtX",
            "-v",
            "ON_ERROR_STOP=1",
            "-p",
            &self.port.to_string(),
            "-U",
            "postgres",
        ]);
        command.arg("-h").arg(&self.folder).args(["-d", database]);
        command.env("PGOPTIONS", "-c search_path=mailslot,public -c client_min_messages=error");
        command
    }

    /// A session in which these statements have been run, and which stays open.
    pub fn session(&self, database: &str, sql: &str) -> Session {
        let mut child = self.psql(database);
        let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        writeln!(child.stdin.as_mut().unwrap(), "{sql};\n\\echo done").unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line == "done"), "{sql}");
        Session(child)
    }

    /// Adds settings that a reload takes, by ALTER SYSTEM.
    pub fn set(&self, name: &str, value: &str) {
        self.sql("postgres", &format!("ALTER SYSTEM SET {name} = '{value}'"));
        self.sql("postgres", "SELECT pg_reload_conf()");
        // Every process reads the file in its own time.
        wait_for(|| self.sql("postgres", &format!("SHOW {name}")) == value);
    }

    pub fn stop(&self, mode: &str) {
        script(&["stop", self.folder.to_str().unwrap(), mode]);
    }

    /// After a stop, with further settings.
    pub fn start_again(&self, settings: &[&str]) {
        let (folder, port) = (self.folder.to_str().unwrap(), self.port.to_string());
        let mut arguments = vec!["start", folder, &port];
        arguments.extend(self.options.iter().map(String::as_str));
        for setting in settings {
            arguments.extend(["-c", setting]);
        }
        script(&arguments);
    }

    pub fn postmaster(&self) -> u32 {
        let file = fs::read_to_string(self.folder.join("data/postmaster.pid")).unwrap();
        file.lines().next().unwrap().parse().unwrap()
    }

    /// Kills one server process of a database with SIGKILL: the server then ends all sessions.
    pub fn kill_session(&self, database: &str) -> bool {
        let find = format!(
            "SELECT pid FROM pg_stat_activity WHERE datname = '{database}' AND usename = 'mailslot'
             ORDER BY state = 'active' DESC LIMIT 1"
        );
        let Some(pid) = self.try_sql("postgres", &find).ok().and_then(|pid| pid.parse().ok())
        else {
            return false;
        };
        signal(pid, "-KILL");
        true
    }

    /// Waits until it takes connections, after a crash of its own.
    pub fn wait(&self) {
        wait_for(|| self.try_sql("postgres", "SELECT 1").is_ok());
    }
}

/// Its end is that of its transaction.
#[derive(Debug)]
pub struct Session(Child);

impl Drop for Session {
    fn drop(&mut self) {
        self.0.stdin.take();
        let _ = self.0.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap();
        child.stdin.take();
        let _ = child.wait();
    }
}

fn script(arguments: &[&str]) {
    let output = Command::new(SCRIPT).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// The name of a folder's database. Names of folders may differ by case alone, as names of databases do
/// that are quoted.
fn name(folder: &Path) -> String {
    let path = folder.to_string_lossy();
    let letters: String =
        path.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    // PostgreSQL's names have 63 bytes; what differs is at the end.
    letters[letters.len().saturating_sub(60)..].to_owned()
}

/// It may be taken until the server listens; then the server does not start, and the test says so.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

//! A connection to a PostgreSQL server, without an async runtime: statements go out in one write,
//! and their answers are read until all have come, so that a transaction is one round trip.
//!
//! Every statement is the unnamed one and everything is of one transaction, so that a pooler may
//! give each transaction another connection (pgbouncer with `pool_mode = transaction`).

use std::{
    io::{Read, Write},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use postgres_protocol::message::{backend::Message, frontend};

use super::{
    failure::{Failure, Report, WARNING},
    login::{CancelKey, log_in},
    messages::Messages,
    stream::{CONNECT_TIMEOUT, Stream},
    values::{Row, Rows, Statement, Value},
};
use crate::config::{Host, Target};

/// How long a server may be silent while it runs what was sent. A statement's own timeouts, which
/// give a better answer, are shorter.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
const READ_TIMEOUT: Duration = Duration::from_secs(15);
const SLOW_TIMEOUT: Duration = Duration::from_hours(4);

#[derive(Debug)]
pub(super) struct Connection {
    stream: Stream,
    messages: Messages,
    output: BytesMut,
    timeout: Duration,
    target: Target,
    host: Host,
    key: Option<CancelKey>,
}

/// How the statements of one round trip follow each other.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Order {
    /// All values are with the server before the first statement runs.
    BoundFirst,
    /// Each runs before the next one is bound, so that the next one sees what it has done.
    OneByOne,
}

impl Connection {
    /// Logs in to the first host that is a primary.
    ///
    /// # Errors
    /// A sentence about each host.
    pub(super) fn connect(target: &Target) -> Result<Connection, Failure> {
        let mut problems = Vec::new();
        for host in &target.hosts {
            match Connection::connect_to(host, target) {
                Ok(connection) => return Ok(connection),
                Err(failure) => problems.push((host, failure)),
            }
        }
        if let [(_, failure)] = problems.as_slice() {
            return Err(failure.clone());
        }
        let sentences = problems.iter().map(|(host, failure)| format!("{host}: {failure}"));
        let sentence = sentences.collect::<Vec<_>>().join("; ");
        let is_passing = problems.iter().any(|(_, failure)| failure.is_passing());
        Err(if is_passing { Failure::Lost(sentence) } else { Failure::Settings(sentence) })
    }

    fn connect_to(host: &Host, target: &Target) -> Result<Connection, Failure> {
        let mut stream = Stream::connect(host, target)?;
        let mut messages = Messages::new();
        let key = log_in(&mut stream, &mut messages, target)?;
        let (target, host, output) = (target.clone(), host.clone(), BytesMut::new());
        stream.set_timeout(READ_TIMEOUT)?;
        let timeout = READ_TIMEOUT;
        let mut connection = Connection { stream, messages, output, timeout, target, host, key };
        let asked = "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on'";
        // A pooler logs clients in by itself while its server is away.
        if connection.ask_within(CONNECT_TIMEOUT, asked)?.one()?.boolean(0)? {
            return Err(Failure::Lost(
                "it takes no writes, since it is a standby or read-only: \
                 name the primary in DATABASE_URL, or all hosts, separated by commas"
                    .to_owned(),
            ));
        }
        Ok(connection)
    }

    /// Runs statements as one transaction in one round trip, which commits at its end. All values
    /// are with the server before the first statement runs: if this machine fails while it sends
    /// them, no lock is held for it.
    ///
    /// A SELECT of these reads what was committed before it was bound, so not what an earlier one
    /// has waited for; a row that it locks, and what INSERT, UPDATE and DELETE read, is newest.
    ///
    /// # Errors
    /// The first statement's; nothing is committed then. Or [`WARNING`], where the server warns
    /// beside the commit: it is committed here, and perhaps not on the standby. Or that the
    /// connection is lost: whether it is committed is unknown then.
    pub(super) fn run(&mut self, statements: &[Statement<'_>]) -> Result<Vec<Rows>, Failure> {
        self.run_within(WRITE_TIMEOUT, statements)
    }

    /// The same, for statements that wait for locks for longer.
    pub(super) fn run_within(
        &mut self,
        timeout: Duration,
        statements: &[Statement<'_>],
    ) -> Result<Vec<Rows>, Failure> {
        self.set_timeout(timeout)?;
        self.round_trip(statements, Order::BoundFirst)
    }

    /// Runs statements one after the other in one round trip. They are one transaction, unless
    /// there are BEGIN and COMMIT among them; after a failure it is rolled back.
    pub(super) fn run_in_order(
        &mut self,
        statements: &[Statement<'_>],
    ) -> Result<Vec<Rows>, Failure> {
        self.set_timeout(READ_TIMEOUT)?;
        self.round_trip(statements, Order::OneByOne)
    }

    /// The same, for statements that read everything.
    pub(super) fn run_slowly(
        &mut self,
        statements: &[Statement<'_>],
    ) -> Result<Vec<Rows>, Failure> {
        self.set_timeout(SLOW_TIMEOUT)?;
        self.round_trip(statements, Order::OneByOne)
    }

    /// Runs one statement without values.
    pub(super) fn ask(&mut self, sql: &str) -> Result<Rows, Failure> {
        self.ask_within(READ_TIMEOUT, sql)
    }

    pub(super) fn ask_within(&mut self, timeout: Duration, sql: &str) -> Result<Rows, Failure> {
        self.set_timeout(timeout)?;
        self.round_trip(&[Statement::plain(sql)], Order::OneByOne)?.pop().ok_or_else(no_answer)
    }

    /// Runs a text of several statements without values, as one transaction, for as long as it
    /// takes up to `timeout`.
    pub(super) fn run_script(&mut self, sql: &str, timeout: Duration) -> Result<(), Failure> {
        self.set_timeout(timeout)?;
        self.output.clear();
        frontend::query(sql, &mut self.output)?;
        self.exchange(false).map(drop)
    }

    fn set_timeout(&mut self, timeout: Duration) -> Result<(), Failure> {
        if self.timeout != timeout {
            self.stream.set_timeout(timeout)?;
            self.timeout = timeout;
        }
        Ok(())
    }

    fn round_trip(
        &mut self,
        statements: &[Statement<'_>],
        order: Order,
    ) -> Result<Vec<Rows>, Failure> {
        self.output.clear();
        let is_bound_first = order == Order::BoundFirst;
        for (number, statement) in statements.iter().enumerate() {
            let portal = if is_bound_first { format!("p{number}") } else { String::new() };
            bind(statement, &portal, &mut self.output)?;
            if !is_bound_first {
                frontend::execute(&portal, 0, &mut self.output)?;
            }
        }
        if is_bound_first {
            for number in 0..statements.len() {
                frontend::execute(&format!("p{number}"), 0, &mut self.output)?;
            }
        }
        frontend::sync(&mut self.output);
        let answers = self.exchange(is_bound_first)?;
        if answers.len() == statements.len() { Ok(answers) } else { Err(no_answer()) }
    }

    /// Sends what is in `output`, and reads until the server has answered all of it. What it still
    /// runs after a timeout is canceled, so that it holds no lock any longer.
    fn exchange(&mut self, warnings_fail: bool) -> Result<Vec<Rows>, Failure> {
        let started = Instant::now();
        let done = self.stream.write_all(&self.output).and_then(|()| self.stream.flush());
        // Where it could not be written, the server may have said why before it closed.
        let answers = self.answers(warnings_fail);
        let answers = match (done, answers) {
            (Err(error), Ok(_)) => Err(error.into()),
            (_, answers) => answers,
        };
        if matches!(answers, Err(Failure::Lost(_))) && started.elapsed() >= self.timeout {
            self.cancel();
        }
        answers
    }

    fn answers(&mut self, warnings_fail: bool) -> Result<Vec<Rows>, Failure> {
        let (mut answers, mut rows, mut failure) = (Vec::new(), Rows::default(), None);
        loop {
            match self.messages.next(&mut self.stream)? {
                Message::DataRow(body) => rows.push(Row::read(&body)?),
                Message::CommandComplete(_) | Message::EmptyQueryResponse => {
                    answers.push(std::mem::take(&mut rows));
                }
                Message::ErrorResponse(body) => {
                    let report = Report::read(body.fields())?;
                    if report.is_last() {
                        return Err(Failure::Lost(report.message));
                    }
                    failure.get_or_insert_with(|| report.into_failure());
                }
                Message::NoticeResponse(body) if warnings_fail => {
                    let report = Report::read(body.fields())?;
                    // "committed locally, but might not have been replicated to the standby"
                    if report.is_warning() {
                        failure.get_or_insert_with(|| Failure::refused(WARNING, report.message));
                    }
                }
                Message::ReadyForQuery(body) if body.status() == b'E' => {
                    self.output.clear();
                    frontend::query("ROLLBACK", &mut self.output)?;
                    self.stream.write_all(&self.output)?;
                }
                Message::ReadyForQuery(_) => return failure.map_or(Ok(answers), Err),
                _ => {}
            }
        }
    }

    /// Asks the server to stop what this connection runs. It answers nothing to that.
    fn cancel(&self) {
        let Some(CancelKey { process, secret }) = self.key else { return };
        let mut request = BytesMut::new();
        frontend::cancel_request(process, secret, &mut request);
        if let Ok(mut stream) = Stream::connect(&self.host, &self.target) {
            let _ = stream.write_all(&request).and_then(|()| stream.flush());
            // Closed once it is done.
            let _ = stream.read(&mut [0]);
        }
    }
}

fn bind(statement: &Statement<'_>, portal: &str, output: &mut BytesMut) -> Result<(), Failure> {
    let Statement { sql, values } = statement;
    frontend::parse("", sql, values.iter().map(Value::oid), output)?;
    let encode = |value: &Value<'_>, buffer: &mut BytesMut| value.encode(buffer);
    let (binary, text) = ([1], [0]);
    frontend::bind(portal, "", binary, *values, encode, text, output).map_err(|error| {
        Failure::unexpected(match error {
            frontend::BindError::Conversion(error) => error.to_string(),
            frontend::BindError::Serialization(error) => error.to_string(),
        })
    })
}

fn no_answer() -> Failure {
    Failure::unexpected("an answer is missing")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::config::Tls;

    /// A message of a server, and the fields of its errors and notices.
    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[tag][..], &length, body].concat()
    }

    fn report(tag: u8, severity: &str, code: &str, text: &str) -> Vec<u8> {
        let body = format!("S{severity}\0V{severity}\0C{code}\0M{text}\0\0");
        message(tag, body.as_bytes())
    }

    /// A connection, and the end of its server, which has sent these messages.
    fn connection(sent: &[Vec<u8>]) -> (Connection, UnixStream) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&sent.concat()).unwrap();
        let host = Host { name: "/nowhere".to_owned(), port: 1 };
        let target = Target {
            hosts: vec![host.clone()],
            user: "user".to_owned(),
            password: None,
            database: "database".to_owned(),
            tls: Tls::Disable,
            root_certificates: None,
        };
        let mut stream = Stream::Unix(ours);
        stream.set_timeout(READ_TIMEOUT).unwrap();
        let connection = Connection {
            stream,
            messages: Messages::new(),
            output: BytesMut::new(),
            timeout: READ_TIMEOUT,
            target,
            host,
            key: None,
        };
        (connection, theirs)
    }

    fn done() -> [Vec<u8>; 2] {
        [message(b'C', b"INSERT 0 1\0"), message(b'Z', b"I")]
    }

    const ONE: &[Statement<'_>] = &[Statement { sql: "x", values: &[] }];

    /// The types of the messages that a connection sends to a server that is silent.
    fn sent(run: impl FnOnce(&mut Connection)) -> String {
        let (mut connection, mut server) = connection(&[]);
        connection.stream.set_timeout(Duration::from_millis(1)).unwrap();
        connection.timeout = Duration::from_millis(1);
        run(&mut connection);
        drop(connection);
        let (mut bytes, mut tags) = (Vec::new(), String::new());
        server.read_to_end(&mut bytes).unwrap();
        let mut rest = bytes.as_slice();
        while let Some((head, _)) = rest.split_first_chunk::<5>() {
            tags.push(char::from(head[0]));
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            rest = &rest[1 + length..];
        }
        tags
    }

    /// Or a machine that fails while it sends many values would hold a lock with the rest of them.
    #[test]
    fn all_values_are_sent_before_the_first_statement_is_run() {
        let three = ["x", "y", "z"].map(Statement::plain);
        let commit = sent(|connection| {
            drop(connection.round_trip(&three, Order::BoundFirst));
        });
        assert_eq!(commit, "PBPBPBEEES");
        let read = sent(|connection| {
            drop(connection.round_trip(&three, Order::OneByOne));
        });
        assert_eq!(read, "PBEPBEPBES");
    }

    #[test]
    fn a_warning_beside_a_commit_is_a_failure_and_a_notice_is_none() {
        let warning = report(b'N', "WARNING", "01000", "not replicated");
        let [committed, ready] = done();
        let (mut connection, _server) = connection(&[
            committed.clone(),
            warning.clone(),
            ready.clone(),
            warning,
            committed,
            ready,
        ]);
        let failure = connection.run(ONE).unwrap_err();
        assert_eq!(failure, Failure::refused(WARNING, "not replicated"));
        assert!(failure.is_passing() && !failure.needs_connection());
        assert_eq!(connection.run_in_order(ONE).map(|answers| answers.len()), Ok(1));
        let notice = report(b'N', "NOTICE", "00000", "by the way");
        let [committed, ready] = done();
        let (mut connection, _server) = self::connection(&[notice, committed, ready]);
        assert!(connection.run(ONE).is_ok());
    }

    #[test]
    fn the_first_error_counts_and_the_connection_goes_on_after_it() {
        let [committed, ready] = done();
        let error = report(b'E', "ERROR", "23505", "twice");
        let (mut connection, server) =
            connection(&[error, message(b'Z', b"E"), ready.clone(), committed, ready]);
        assert_eq!(connection.run(ONE).unwrap_err(), Failure::refused("23505", "twice"));
        assert!(connection.run(ONE).is_ok());
        drop(server);
        assert!(matches!(connection.run(ONE), Err(Failure::Lost(_))));
    }

    #[test]
    fn a_server_that_ends_says_why_and_half_a_message_is_no_answer() {
        let (mut ended, _server) =
            connection(&[report(b'E', "FATAL", "57P01", "terminated by the administrator")]);
        let failure = ended.run(ONE).unwrap_err();
        assert_eq!(failure, Failure::Lost("terminated by the administrator".to_owned()));
        let half = message(b'C', b"INSERT 0 1\0")[..7].to_vec();
        let (mut ended_early, server) = connection(&[half]);
        server.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(matches!(ended_early.run(ONE), Err(Failure::Lost(_))));
        let (mut nonsense, _server) = connection(&[b"HTTP/1.1 400 Bad Request\r\n".to_vec()]);
        assert!(matches!(nonsense.run(ONE), Err(Failure::Lost(_))));
    }

    #[test]
    fn columns_are_read_as_what_they_are() {
        let row = [&[0, 3][..], &[0, 0, 0, 2], b"42", &[255; 4], &[0, 0, 0, 2], b"\xff\xfe"];
        let [committed, ready] = done();
        let (mut connection, _server) =
            connection(&[message(b'D', &row.concat()), committed, ready]);
        let answers = connection.run(ONE).unwrap();
        let row = answers[0].one().unwrap();
        assert_eq!((row.integer(0), row.text(0)), (Ok(42), Ok("42")));
        assert_eq!(row.optional_integer(1), Ok(None));
        assert!(row.integer(1).is_err() && row.text(2).is_err() && row.text(3).is_err());
    }

    #[test]
    fn a_login_without_scram_is_refused() {
        for (asked, words) in [
            (&[0, 0, 0, 3][..], "in clear or as MD5"),
            (&[0, 0, 0, 5, 1, 2, 3, 4], "in clear or as MD5"),
            (&[0, 0, 0, 7], "another proof"),
            (b"\0\0\0\x0aSCRAM-SHA-512\0\0", "SCRAM-SHA-256"),
            (b"\0\0\0\x0aSCRAM-SHA-256\0\0", "DATABASE_URL has none"),
        ] {
            let (mut connection, _server) = connection(&[message(b'R', asked)]);
            let Connection { stream, messages, target, .. } = &mut connection;
            let failure = log_in(stream, messages, target).unwrap_err();
            assert!(matches!(&failure, Failure::Settings(_)), "{failure:?}");
            assert!(failure.to_string().contains(words), "{failure}");
        }
    }
}

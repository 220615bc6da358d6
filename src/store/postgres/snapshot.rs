//! Reading: a connection that is opened again where it was lost, and several statements of one
//! moment.

use std::time::{Duration, Instant};

use super::{
    connection::Connection,
    failure::Failure,
    values::{Rows, Statement, Value},
};
use crate::config::Target;

/// How long a statement of a read may take. A connection waits longer for an answer.
pub(super) const READ_MS_MAX: u64 = 10_000;
pub(super) const READ_TIMEOUT: Duration = Duration::from_millis(READ_MS_MAX);

/// A connection that is closed is found to be within this time.
const LOST_WITHIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Session {
    target: Target,
    connection: Option<Connection>,
}

impl Session {
    pub(super) fn new(target: Target) -> Session {
        Session { target, connection: None }
    }

    /// # Errors
    /// Why there is no connection.
    pub(super) fn connect(&mut self) -> Result<&mut Connection, Failure> {
        match &mut self.connection {
            Some(connection) => Ok(connection),
            none => Ok(none.insert(Connection::connect(&self.target)?)),
        }
    }

    /// The rows of one statement.
    pub(super) fn ask(&mut self, sql: &str, values: &[Value<'_>]) -> Result<Rows, Failure> {
        self.repeat(|connection| {
            let rows = connection.run_in_order(&[Statement::new(sql, values)])?;
            Ok(rows.into_iter().next().unwrap_or_default())
        })
    }

    /// The rows of one statement without values, from a server that answers soon.
    pub(super) fn ask_within(&mut self, timeout: Duration, sql: &str) -> Result<Rows, Failure> {
        self.repeat(|connection| connection.ask_within(timeout, sql))
    }

    /// What `read` reads, all of it of one moment. `read` is called once more where the connection
    /// was lost.
    pub(super) fn read<T>(
        &mut self,
        timeout: Duration,
        read: impl Fn(&mut Snapshot<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.repeat(|connection| {
            let mut snapshot = Snapshot { connection, timeout, state: State::Unread };
            let value = read(&mut snapshot);
            if snapshot.state == State::Open {
                snapshot.run_last(&[])?;
            }
            value
        })
    }

    /// Once more over a new connection, where an old one is found to be lost. That is found at
    /// once: a server that has not answered in time would be waited for a second time.
    fn repeat<T>(
        &mut self,
        run: impl Fn(&mut Connection) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let (is_old, started) = (self.connection.is_some(), Instant::now());
        let value = self.once(&run);
        let is_lost = value.as_ref().is_err_and(Failure::needs_connection);
        if is_old && is_lost && started.elapsed() < LOST_WITHIN { self.once(&run) } else { value }
    }

    fn once<T>(
        &mut self,
        run: &impl Fn(&mut Connection) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let value = run(self.connect()?);
        if value.as_ref().is_err_and(Failure::needs_connection) {
            self.connection = None;
        }
        value
    }
}

/// The database at one moment.
#[derive(Debug)]
pub(super) struct Snapshot<'a> {
    connection: &'a mut Connection,
    timeout: Duration,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The moment is that of the first statement.
    Unread,
    Open,
    Ended,
}

impl Snapshot<'_> {
    /// The rows of each statement, all by one round trip.
    pub(super) fn run(&mut self, statements: &[Statement<'_>]) -> Result<Vec<Rows>, Failure> {
        self.run_with(statements, false)
    }

    /// The same for the last statements of a read, which saves a round trip.
    pub(super) fn run_last(&mut self, statements: &[Statement<'_>]) -> Result<Vec<Rows>, Failure> {
        self.run_with(statements, true)
    }

    /// The rows of one statement.
    pub(super) fn ask(&mut self, sql: &str, values: &[Value<'_>]) -> Result<Rows, Failure> {
        let rows = self.run(&[Statement::new(sql, values)])?;
        Ok(rows.into_iter().next().unwrap_or_default())
    }

    fn run_with(
        &mut self,
        statements: &[Statement<'_>],
        is_last: bool,
    ) -> Result<Vec<Rows>, Failure> {
        let timeout = self.timeout.as_millis().to_string();
        let timeout = [Value::Text(&timeout)];
        let mut all = Vec::with_capacity(statements.len() + 3);
        let begins = self.state == State::Unread;
        if begins {
            all.extend([Statement::new(BEGIN, &[]), Statement::new(SETTINGS, &timeout)]);
        }
        all.extend(statements);
        if is_last {
            all.push(Statement::new("COMMIT", &[]));
        }
        // A failure ends the transaction.
        self.state = State::Ended;
        let mut rows = self.connection.run_in_order(&all)?;
        self.state = if is_last { State::Ended } else { State::Open };
        rows.truncate(all.len() - usize::from(is_last));
        Ok(rows.split_off(if begins { 2.min(rows.len()) } else { 0 }))
    }
}

/// Begins a transaction of one moment, which writes nothing.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
/// Of this transaction alone, since a pooler may give the connection to another client afterwards.
/// What is read is small, or found by an index: without these settings the server compiles a
/// statement or starts processes for it, which takes many times as long, or scans a table whose
/// statistics it does not have yet.
const SETTINGS: &str = "
    SELECT set_config('jit', 'off', true), set_config('max_parallel_workers_per_gather', '0', true),
        set_config('enable_seqscan', 'off', true), set_config('statement_timeout', $1, true),
        set_config('idle_in_transaction_session_timeout', '10s', true)";

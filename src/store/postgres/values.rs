//! Values of statements, and rows of answers. Values go in binary; columns come as text, since a
//! number of any type reads the same then.

use std::{error, ops::Range};

use bytes::{Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::{IsNull, Oid, message::backend::DataRowBody, types};

use super::failure::Failure;

/// A statement and what stands for `$1`, `$2` and so on in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Statement<'a> {
    pub(super) sql: &'a str,
    pub(super) values: &'a [Value<'a>],
}

impl<'a> Statement<'a> {
    pub(super) fn new(sql: &'a str, values: &'a [Value<'a>]) -> Statement<'a> {
        Statement { sql, values }
    }

    /// Without values.
    pub(super) fn plain(sql: &'a str) -> Statement<'a> {
        Statement { sql, values: &[] }
    }
}

/// A value of a statement. A text must not contain U+0000 (text.rs).
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    Null,
    /// `bigint`
    Integer(i64),
    Text(&'a str),
    /// `bytea`
    Bytes(&'a [u8]),
    Texts(&'a [Option<&'a str>]),
    Integers(&'a [i64]),
    Byteas(&'a [&'a [u8]]),
}

/// From the server's table `pg_type`.
const BYTEA: Oid = 17;
const BIGINT: Oid = 20;
const TEXT: Oid = 25;
const BYTEAS: Oid = 1001;
const TEXTS: Oid = 1009;
const BIGINTS: Oid = 1016;

pub(super) type Encoded = Result<IsNull, Box<dyn error::Error + Sync + Send>>;

impl Value<'_> {
    /// Zero lets the server decide.
    pub(super) fn oid(&self) -> Oid {
        match self {
            Value::Null => 0,
            Value::Integer(_) => BIGINT,
            Value::Text(_) => TEXT,
            Value::Bytes(_) => BYTEA,
            Value::Texts(_) => TEXTS,
            Value::Integers(_) => BIGINTS,
            Value::Byteas(_) => BYTEAS,
        }
    }

    pub(super) fn encode(&self, buffer: &mut BytesMut) -> Encoded {
        match self {
            Value::Null => return Ok(IsNull::Yes),
            Value::Integer(value) => types::int8_to_sql(*value, buffer),
            Value::Text(value) => types::text_to_sql(value, buffer),
            Value::Bytes(value) => types::bytea_to_sql(value, buffer),
            Value::Texts(values) => array(TEXT, values, buffer, |value, buffer| {
                value.map_or(IsNull::Yes, |text| {
                    types::text_to_sql(text, buffer);
                    IsNull::No
                })
            })?,
            Value::Integers(values) => array(BIGINT, values, buffer, |value, buffer| {
                types::int8_to_sql(*value, buffer);
                IsNull::No
            })?,
            Value::Byteas(values) => array(BYTEA, values, buffer, |value, buffer| {
                types::bytea_to_sql(value, buffer);
                IsNull::No
            })?,
        }
        Ok(IsNull::No)
    }
}

fn array<T>(
    element: Oid,
    values: &[T],
    buffer: &mut BytesMut,
    encode: impl Fn(&T, &mut BytesMut) -> IsNull,
) -> Result<(), Box<dyn error::Error + Sync + Send>> {
    let dimension = types::ArrayDimension { len: i32::try_from(values.len())?, lower_bound: 1 };
    let encode = |value: &T, buffer: &mut BytesMut| Ok(encode(value, buffer));
    types::array_to_sql([dimension], element, values, encode, buffer)
}

/// The rows of one statement.
#[derive(Debug, Default)]
pub(super) struct Rows(Vec<Row>);

impl Rows {
    pub(super) fn push(&mut self, row: Row) {
        self.0.push(row);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Row> {
        self.0.iter()
    }

    /// The only row of a statement that always has one.
    pub(super) fn one(&self) -> Result<&Row, Failure> {
        self.0.first().ok_or_else(|| Failure::unexpected("a row is missing"))
    }
}

#[derive(Debug)]
pub(super) struct Row {
    bytes: Bytes,
    columns: Vec<Option<Range<usize>>>,
}

impl Row {
    pub(super) fn read(body: &DataRowBody) -> Result<Row, Failure> {
        Ok(Row { columns: body.ranges().collect()?, bytes: body.buffer_bytes().clone() })
    }

    /// The column at this index, which counts from 0; `None` for null.
    pub(super) fn optional_text(&self, index: usize) -> Result<Option<&str>, Failure> {
        let wrong = || Failure::unexpected(format!("column {index} is not as expected"));
        let Some(range) = self.columns.get(index).ok_or_else(wrong)? else { return Ok(None) };
        let bytes = self.bytes.get(range.clone()).ok_or_else(wrong)?;
        str::from_utf8(bytes).map(Some).map_err(|_| wrong())
    }

    pub(super) fn text(&self, index: usize) -> Result<&str, Failure> {
        let missing = || Failure::unexpected(format!("column {index} is null"));
        self.optional_text(index)?.ok_or_else(missing)
    }

    pub(super) fn optional_integer(&self, index: usize) -> Result<Option<i64>, Failure> {
        let wrong = |_| Failure::unexpected(format!("column {index} is no integer"));
        self.optional_text(index)?.map(|text| text.parse().map_err(wrong)).transpose()
    }

    pub(super) fn integer(&self, index: usize) -> Result<i64, Failure> {
        let missing = || Failure::unexpected(format!("column {index} is null"));
        self.optional_integer(index)?.ok_or_else(missing)
    }

    pub(super) fn boolean(&self, index: usize) -> Result<bool, Failure> {
        Ok(self.text(index)? == "t")
    }

    /// Of `encode(…, 'hex')`: a bytea's own text depends on a setting of the server.
    pub(super) fn bytes(&self, index: usize) -> Result<Vec<u8>, Failure> {
        let wrong = |_| Failure::unexpected(format!("column {index} is not hexadecimal"));
        hex::decode(self.text(index)?).map_err(wrong)
    }
}

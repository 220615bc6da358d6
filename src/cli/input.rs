//! The files that a command reads; `-` stands for stdin.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, BufRead, BufReader, Read},
};

use super::outcome::Failure;
use crate::http::BODY_BYTES_MAX;

/// The input, and its length where that is known.
pub(super) fn open(file: &OsStr) -> Result<(Box<dyn BufRead + Send>, Option<u64>), Failure> {
    if file == "-" {
        return Ok((Box::new(BufReader::new(io::stdin())), None));
    }
    let opened = File::open(file).and_then(|file| Ok((file.metadata()?, file)));
    match opened {
        Ok((metadata, file)) => {
            let length = metadata.is_file().then_some(metadata.len());
            Ok((Box::new(BufReader::new(file)), length))
        }
        Err(error) => Err(Failure::failed(format!("{}: {error}", file.display()))),
    }
}

pub(super) fn read(file: &OsStr) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let (mut input, _) = open(file)?;
    match input.read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(Failure::failed(format!("{}: {error}", file.display()))),
    }
}

/// Reads the next line, which may be as long as the body of a delivery. False at the end.
pub(super) fn read_line(
    input: &mut dyn BufRead,
    number: u64,
    line: &mut Vec<u8>,
) -> Result<bool, String> {
    line.clear();
    let length = Read::take(&mut *input, BODY_BYTES_MAX as u64 + 1)
        .read_until(b'\n', line)
        .map_err(|error| format!("line {number} cannot be read: {error}"))?;
    if length > BODY_BYTES_MAX {
        return Err(format!("line {number} is longer than {BODY_BYTES_MAX} bytes"));
    }
    Ok(length > 0)
}

//! A small HTTP/1.1 client without TLS, for `mailslot send`, `healthcheck`, `check` and the
//! watchdog.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// Bytes of a response that are read: of its head, and of its body.
const HEAD_BYTES: u64 = 65_536;
const BODY_BYTES: u64 = 65_536;

/// A connection to one server, kept from one request to the next as long as the server keeps it.
#[derive(Debug)]
pub(crate) struct Client {
    address: SocketAddr,
    host: String,
    /// For connecting, and for each read and write.
    timeout: Duration,
    stream: Option<BufReader<TcpStream>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: String,
}

impl Client {
    pub(crate) fn new(address: SocketAddr, host: String, timeout: Duration) -> Client {
        Client { address, host, timeout, stream: None }
    }

    /// Connects, and gives the client's own address.
    ///
    /// # Errors
    /// When the server does not accept the connection in time.
    pub(crate) fn connect(&mut self) -> io::Result<SocketAddr> {
        let stream = TcpStream::connect_timeout(&self.address, self.timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        let own_address = stream.local_addr()?;
        self.stream = Some(BufReader::new(stream));
        Ok(own_address)
    }

    pub(crate) fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host), b"")
    }

    pub(crate) fn post(
        &mut self,
        path: &str,
        body: &[u8],
        content_type: &str,
        headers: &[(&str, String)],
    ) -> io::Result<Answer> {
        let lines = headers
            .iter()
            .fold(String::new(), |lines, (name, value)| lines + name + ": " + value + "\r\n");
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: {content_type}\r\n\
             {lines}Content-Length: {}\r\n\r\n",
            self.host,
            body.len()
        );
        self.send(&head, body)
    }

    /// After an error the connection is given up.
    fn send(&mut self, head: &str, body: &[u8]) -> io::Result<Answer> {
        if self.stream.is_none() {
            self.connect()?;
        }
        let mut stream = self.stream.take().ok_or(io::ErrorKind::NotConnected)?;
        stream.get_mut().write_all(&[head.as_bytes(), body].concat())?;
        let (answer, is_kept) = read_answer(&mut stream)?;
        self.stream = is_kept.then_some(stream);
        Ok(answer)
    }
}

/// An answer, and whether the connection can take another request.
fn read_answer(stream: &mut BufReader<TcpStream>) -> io::Result<(Answer, bool)> {
    let mut head = stream.take(HEAD_BYTES);
    let mut line = String::new();
    head.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.filter(|_| line.starts_with("HTTP/1."));
    let status = status.ok_or_else(|| io::Error::other("the server did not answer in HTTP"))?;
    let (mut retry_after, mut length, mut is_kept) = (None, None, true);
    loop {
        line.clear();
        head.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else { break };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "retry-after" => retry_after = value.parse().ok().map(Duration::from_secs),
            "content-length" => length = value.parse::<u64>().ok(),
            "connection" => is_kept = !value.eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
    if line != "\r\n" {
        return Err(io::Error::other("the answer is incomplete"));
    }
    let mut body = Vec::new();
    match length.filter(|length| *length <= BODY_BYTES) {
        Some(length) => {
            stream.take(length).read_to_end(&mut body)?;
        }
        // The end of this body is unknown, so the connection is of no more use.
        None => is_kept = false,
    }
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok((Answer { status, retry_after, body }, is_kept))
}

/// `GET /health/ready` at an address that this machine can reach.
///
/// # Errors
/// When the service does not answer in time.
pub(crate) fn ask_ready(address: SocketAddr, timeout: Duration) -> io::Result<Answer> {
    Client::new(address, address.to_string(), timeout).get("/health/ready")
}

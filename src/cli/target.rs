//! Where messages are sent to, and one connection to it: HTTP/1.1 in the clear.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    time::Duration,
};

/// Longer than the service itself ever takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of an answer's head or body.
const ANSWER_BYTES: u64 = 65_536;

#[derive(Debug)]
pub(super) struct Target {
    address: SocketAddr,
    host: String,
    path: String,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) retry_after: Option<Duration>,
}

impl Target {
    /// # Errors
    /// What was expected.
    pub(super) fn parse(url: &str) -> Result<Target, String> {
        let Some(rest) = url.strip_prefix("http://") else {
            return Err(format!(
                "--url {url:?}: expected http://HOST:PORT/PATH; https is not spoken here: send to mailslot itself, behind the proxy"
            ));
        };
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let with_port = if has_port { host.to_owned() } else { format!("{host}:80") };
        let found = with_port.to_socket_addrs().map_err(|error| error.to_string());
        let address = found.and_then(|mut all| all.next().ok_or("no address".to_owned()));
        let path = if path.is_empty() { "/" } else { path };
        Ok(Target {
            address: address.map_err(|problem| format!("--url {url:?}: {problem}"))?,
            host: host.to_owned(),
            path: path.to_owned(),
        })
    }
}

/// Kept from one message to the next, as long as the other side keeps it.
#[derive(Debug)]
pub(super) struct Client<'a> {
    target: &'a Target,
    stream: Option<BufReader<TcpStream>>,
}

impl<'a> Client<'a> {
    pub(super) fn new(target: &'a Target) -> Client<'a> {
        Client { target, stream: None }
    }

    /// # Errors
    /// Where no answer came; the connection is then given up.
    pub(super) fn post(&mut self, body: &[u8], signature: &str) -> io::Result<Answer> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect()?,
        };
        let Target { host, path, .. } = self.target;
        let mut request = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nX-Signature: {signature}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        stream.get_mut().write_all(&request)?;
        let (answer, keeps) = read(&mut stream)?;
        if keeps {
            self.stream = Some(stream);
        }
        Ok(answer)
    }

    fn connect(&self) -> io::Result<BufReader<TcpStream>> {
        let stream = TcpStream::connect_timeout(&self.target.address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(BufReader::new(stream))
    }
}

/// An answer, and whether another may come on this connection.
fn read(stream: &mut BufReader<TcpStream>) -> io::Result<(Answer, bool)> {
    let mut input = stream.take(ANSWER_BYTES);
    let mut line = String::new();
    input.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.filter(|_| line.starts_with("HTTP/1."));
    let status = status.ok_or_else(|| io::Error::other("no HTTP answer"))?;
    let (mut retry_after, mut length, mut keeps) = (None, None, true);
    loop {
        line.clear();
        input.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else { break };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "retry-after" => retry_after = value.parse().ok().map(Duration::from_secs),
            "content-length" => length = value.parse::<u64>().ok(),
            "connection" => keeps = !value.eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
    if line != "\r\n" {
        return Err(io::Error::other("the answer is cut"));
    }
    match length.filter(|length| *length <= input.limit()) {
        Some(length) => io::copy(&mut input.take(length), &mut io::sink()).map(|_| ())?,
        // Where it ends is unknown.
        None => keeps = false,
    }
    Ok((Answer { status, retry_after }, keeps))
}

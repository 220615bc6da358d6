//! Sockets to a server: TCP with or without TLS, and unix sockets.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    os::unix::net::UnixStream,
    time::Duration,
};

use bytes::BytesMut;
use postgres_protocol::message::frontend;

use super::failure::Failure;
#[cfg(feature = "tls")]
use super::tls;
use crate::config::{Host, Target, Tls};

/// How long connecting to one address may take, and the answer to each message of a login.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    #[cfg(feature = "tls")]
    Tls(Box<tls::TlsStream>),
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stream(..)")
    }
}

impl Stream {
    pub(super) fn connect(host: &Host, target: &Target) -> Result<Stream, Failure> {
        if host.is_socket() {
            let stream = UnixStream::connect(format!("{}/.s.PGSQL.{}", host.name, host.port))?;
            let mut stream = Stream::Unix(stream);
            stream.set_timeout(CONNECT_TIMEOUT)?;
            return Ok(stream);
        }
        let tcp = connect_tcp(host)?;
        let mut stream = Stream::Tcp(tcp);
        stream.set_timeout(CONNECT_TIMEOUT)?;
        if target.tls == Tls::Disable {
            return Ok(stream);
        }
        let mut request = BytesMut::new();
        frontend::ssl_request(&mut request);
        stream.write_all(&request)?;
        // One byte and no more: what follows it has to be encrypted.
        let mut answer = [0];
        stream.read_exact(&mut answer)?;
        match (answer, stream) {
            #[cfg(feature = "tls")]
            ([b'S'], Stream::Tcp(tcp)) => Ok(Stream::Tls(Box::new(tls::wrap(tcp, host, target)?))),
            _ => Err(Failure::Settings(
                "it does not accept TLS: set ssl = on there, or sslmode=disable in DATABASE_URL \
                 if the network is trusted"
                    .to_owned(),
            )),
        }
    }

    /// For each read and each write from now on.
    pub(super) fn set_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        let timeout = Some(timeout);
        let set = |stream: &TcpStream| {
            stream.set_read_timeout(timeout).and_then(|()| stream.set_write_timeout(timeout))
        };
        match self {
            Stream::Tcp(stream) => set(stream),
            Stream::Unix(stream) => {
                stream.set_read_timeout(timeout).and_then(|()| stream.set_write_timeout(timeout))
            }
            #[cfg(feature = "tls")]
            Stream::Tls(stream) => set(&stream.sock),
        }
    }
}

fn connect_tcp(host: &Host) -> Result<TcpStream, Failure> {
    let mut failure = Failure::Lost("its name has no address".to_owned());
    let addresses = (host.name.as_str(), host.port).to_socket_addrs();
    let addresses = addresses.map_err(|error| {
        Failure::Lost(format!("the address of its name cannot be found: {error}"))
    })?;
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => failure = error.into(),
        }
    }
    Err(failure)
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
            #[cfg(feature = "tls")]
            Stream::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(buffer),
            Stream::Unix(stream) => stream.write(buffer),
            #[cfg(feature = "tls")]
            Stream::Tls(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.flush(),
            Stream::Unix(stream) => stream.flush(),
            #[cfg(feature = "tls")]
            Stream::Tls(stream) => stream.flush(),
        }
    }
}

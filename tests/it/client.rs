//! A well-behaved client: one connection, kept as long as the server keeps it, every answer timed.
//! It never tries anything twice, so that a lost request is seen.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::net;

use crate::harness::{message, sign};

pub struct Client {
    address: SocketAddr,
    source: Ipv4Addr,
    connection: Option<BufReader<TcpStream>>,
    /// When the connection was made or the last answer on it read; and how long after that the next
    /// request had been sent.
    used: Instant,
    idle: Duration,
}

impl Client {
    pub fn new(address: SocketAddr) -> Client {
        Client::at(Ipv4Addr::LOCALHOST, address)
    }

    fn at(source: Ipv4Addr, address: SocketAddr) -> Client {
        Client { address, source, connection: None, used: Instant::now(), idle: Duration::ZERO }
    }

    /// The status, or what went wrong.
    pub fn deliver(&mut self, id: &str) -> Result<u16, String> {
        let body = message(id).to_string();
        let head = format!(
            "POST /webhook HTTP/1.1\r\nHost: x\r\nX-Signature: {}\r\nContent-Length: {}\r\n\r\n",
            sign(body.as_bytes()),
            body.len()
        );
        self.ask(&(head + &body))
    }

    /// Posts bytes with these headers.
    pub fn post(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<u16, String> {
        let headers: String =
            headers.iter().flat_map(|(name, value)| [*name, ": ", *value, "\r\n"]).collect();
        let length = body.len();
        self.ask(&format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        ))
    }

    pub fn get(&mut self, path: &str) -> Result<u16, String> {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
    }

    /// The body of a GET that must be answered 200.
    pub fn read(&mut self, path: &str) -> Result<String, String> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        match self.exchange(&request)? {
            (200, body) => String::from_utf8(body).map_err(|error| error.to_string()),
            (status, _) => Err(format!("{path} was answered {status}")),
        }
    }

    fn ask(&mut self, request: &str) -> Result<u16, String> {
        self.exchange(request).map(|(status, _)| status)
    }

    /// An error says how long the connection was idle before the request, since a server that
    /// drains may close it meanwhile.
    fn exchange(&mut self, request: &str) -> Result<(u16, Vec<u8>), String> {
        let asked = Instant::now();
        let answer = self.try_exchange(request);
        self.used = Instant::now();
        answer.map_err(|error| {
            self.connection = None;
            let (took, idle) = (asked.elapsed().as_millis(), self.idle.as_millis());
            format!("{error} after {took} ms, on a connection that was idle for {idle} ms before")
        })
    }

    fn try_exchange(&mut self, request: &str) -> std::io::Result<(u16, Vec<u8>)> {
        if self.connection.is_none() {
            let stream = connect(self.source, self.address)?;
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            stream.set_nodelay(true)?;
            self.connection = Some(BufReader::new(stream));
            self.used = Instant::now();
        }
        let connection = self.connection.as_mut().unwrap();
        connection.get_mut().write_all(request.as_bytes())?;
        self.idle = self.used.elapsed();
        let (mut status, mut length, mut is_last) = (0, 0, false);
        loop {
            let mut line = String::new();
            if connection.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            match line.trim_end().split_once(' ') {
                None if line.trim_end().is_empty() => break,
                Some(("HTTP/1.1", rest)) => status = rest[..3].parse().unwrap(),
                Some(("Content-Length:", value)) => length = value.parse().unwrap(),
                Some(("Connection:", "close")) => is_last = true,
                _ => {}
            }
        }
        let mut body = vec![0; length];
        connection.read_exact(&mut body)?;
        if is_last {
            self.connection = None;
        }
        Ok((status, body))
    }
}

fn connect(source: Ipv4Addr, address: SocketAddr) -> std::io::Result<TcpStream> {
    let flags = net::SocketFlags::CLOEXEC;
    let (family, kind) = (net::AddressFamily::INET, net::SocketType::STREAM);
    let socket = net::socket_with(family, kind, flags, None)?;
    net::bind(&socket, &SocketAddrV4::new(source, 0))?;
    net::connect(&socket, &address)?;
    Ok(TcpStream::from(socket))
}

/// Delivers one message after the other, on connections kept and new in turn, until it is asked for the
/// results.
pub struct Companion {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: JoinHandle<()>,
}

#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// How long each answer of 200 took.
    pub waits: Vec<Duration>,
    /// Answers of 503, after which a sender sends again.
    pub unavailable: usize,
    pub failures: Vec<String>,
}

impl Companion {
    pub fn start(source: Ipv4Addr, address: SocketAddr, name: &str) -> Companion {
        let (stop, seen) =
            (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
        let (asked, shared, name) = (Arc::clone(&stop), Arc::clone(&seen), name.to_owned());
        let thread = std::thread::spawn(move || {
            let mut client = Client::at(source, address);
            for number in 0.. {
                if asked.load(SeqCst) {
                    return;
                }
                if number % 10 == 0 {
                    client = Client::at(source, address);
                }
                let started = Instant::now();
                let answer = client.deliver(&format!("{name}-{number}"));
                let mut seen = shared.lock().unwrap();
                match answer {
                    Ok(200) => seen.waits.push(started.elapsed()),
                    Ok(503) => seen.unavailable += 1,
                    other => seen.failures.push(format!("{other:?}")),
                }
                drop(seen);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        Companion { stop, seen, thread }
    }

    pub fn stop(self) -> Seen {
        self.stop.store(true, SeqCst);
        self.thread.join().unwrap();
        let seen = self.seen.lock().unwrap();
        seen.clone()
    }
}

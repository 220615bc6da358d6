//! The yardstick: what `tiny_http` alone can do on this machine.
//!
//! `bare ADDR:PORT WORKERS [raw]` reads every body and answers a constant. It has no guard, no
//! signature, no database and no log, so the distance from here to mailslot is what those cost.
//!
//! The plain form answers as the documentation of `tiny_http` does, with a `Response`. The `raw`
//! form writes the head and the body itself in one go, which saves the library some allocations:
//! `bench.py` measures both and holds mailslot against each.

use std::error::Error;
use std::io::{self, Write};
use std::sync::Arc;
use std::{env, thread};

use tiny_http::{Header, Request, Response, Server};

const USAGE: &str = "usage: bare ADDR:PORT WORKERS [raw]";
const BODY: &str = r#"{"status":"ok"}"#;

type Answer = fn(Request, &Header) -> io::Result<()>;

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (address, workers, answer): (_, _, Answer) = match arguments.as_slice() {
        [address, workers] => (address, workers, answer_plainly),
        [address, workers, form] if form == "raw" => (address, workers, answer_raw),
        _ => return Err(USAGE.into()),
    };
    let workers: usize = workers.parse()?;
    let server = Arc::new(Server::http(address.as_str())?);
    let content_type = Header::from_bytes("Content-Type", "application/json")
        .map_err(|()| "tiny_http refuses its own kind of header")?;

    // With port 0 the system picks the port, so the line says which one it was.
    writeln!(io::stdout(), "listening on {}", server.server_addr())?;

    let threads: Vec<_> = (0..workers)
        .map(|_| {
            let (server, content_type) = (Arc::clone(&server), content_type.clone());
            thread::spawn(move || work(&server, &content_type, answer))
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| "a worker panicked")??;
    }
    Ok(())
}

fn work(server: &Server, content_type: &Header, answer: Answer) -> io::Result<()> {
    let mut body = Vec::new();
    loop {
        let mut request = server.recv()?;
        body.clear();
        // A client that has gone away is no reason to stop serving the others.
        if request.as_reader().read_to_end(&mut body).is_ok() {
            let _ = answer(request, content_type);
        }
    }
}

fn answer_plainly(request: Request, content_type: &Header) -> io::Result<()> {
    request.respond(Response::from_string(BODY).with_header(content_type.clone()))
}

fn answer_raw(request: Request, content_type: &Header) -> io::Result<()> {
    let answer = format!(
        "HTTP/1.1 200 OK\r\n{content_type}\r\nContent-Length: {}\r\n\r\n{BODY}",
        BODY.len(),
    );
    let mut writer = request.into_writer();
    writer.write_all(answer.as_bytes())?;
    // tiny_http buffers what it writes: without this the answer would wait for the next one.
    writer.flush()
}

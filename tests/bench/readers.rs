//! Readers who wait: `readers ADDR COUNT SECONDS` follows the feed on so many connections at once,
//! each with a thread of its own, and prints how many answers with messages came, to one reader at
//! least and at most, how many messages they had, and how long after its storing the newest one of each
//! answer was there, as JSON.

use std::{
    error::Error,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

const DAY_MS: u64 = 86_400_000;

#[derive(Default)]
struct Seen {
    messages: usize,
    lags_ms: Vec<u64>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, count, seconds] = &arguments[..] else {
        return Err("usage: readers ADDR COUNT SECONDS".into());
    };
    let until = Instant::now() + Duration::from_secs(seconds.parse()?);
    let readers: Vec<_> = (0..count.parse()?)
        .map(|_| {
            let address = address.clone();
            let builder = thread::Builder::new().stack_size(128 * 1024);
            builder.spawn(move || follow(&address, until).map_err(|error| error.to_string()))
        })
        .collect::<Result<_, _>>()?;
    let (mut lags_ms, mut messages, mut failed) = (Vec::new(), 0, 0);
    let (mut fewest, mut most) = (usize::MAX, 0);
    for reader in readers {
        match reader.join().map_err(|_| "a reader panicked")? {
            Ok(seen) => {
                messages += seen.messages;
                fewest = fewest.min(seen.lags_ms.len());
                most = most.max(seen.lags_ms.len());
                lags_ms.extend(seen.lags_ms);
            }
            Err(_) => failed += 1,
        }
    }
    lags_ms.sort_unstable();
    let at = |share: usize| lags_ms.get(lags_ms.len() * share / 100).copied().unwrap_or(0);
    let fewest = fewest.min(most);
    let (answers, p50, p99) = (lags_ms.len(), at(50), at(99));
    let max = lags_ms.last().copied().unwrap_or(0);
    let report = format!(
        r#"{{"answers":{answers},"fewest":{fewest},"most":{most},"messages":{messages},"failed":{failed},"p50_ms":{p50},"p99_ms":{p99},"max_ms":{max}}}"#
    );
    writeln!(std::io::stdout(), "{report}")?;
    Ok(())
}

fn follow(address: &str, until: Instant) -> Result<Seen, Box<dyn Error>> {
    let mut connection = BufReader::new(TcpStream::connect(address)?);
    connection.get_ref().set_read_timeout(Some(Duration::from_secs(40)))?;
    let mut seen = Seen::default();
    let mut next = "latest".to_owned();
    let mut wait = 0;
    while Instant::now() < until {
        let left = until.saturating_duration_since(Instant::now()).as_secs() + 1;
        let path = format!("/feed?after={next}&wait={}", wait.min(left));
        write!(connection.get_mut(), "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")?;
        let body = answer(&mut connection)?;
        if let Some(created_at) = last_value(&body, "\"created_at\":\"") {
            seen.messages += body.matches("\"cursor\":").count();
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
            let now_ms = now.as_secs() * 1_000 + u64::from(now.subsec_millis());
            seen.lags_ms.push((now_ms % DAY_MS + DAY_MS - milliseconds(created_at)?) % DAY_MS);
        }
        last_value(&body, "\"next\":\"").ok_or("no cursor")?.clone_into(&mut next);
        wait = 30;
    }
    Ok(seen)
}

fn answer(connection: &mut BufReader<TcpStream>) -> Result<String, Box<dyn Error>> {
    let (mut line, mut length) = (String::new(), 0);
    loop {
        line.clear();
        connection.read_line(&mut line)?;
        if let Some(value) = line.strip_prefix("Content-Length: ") {
            length = value.trim_end().parse()?;
        } else if line.starts_with("HTTP/1.1 ") && !line.starts_with("HTTP/1.1 200") {
            return Err(line.into());
        } else if line == "\r\n" {
            break;
        } else if line.is_empty() {
            return Err("the connection has ended".into());
        }
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body)?;
    Ok(String::from_utf8(body)?)
}

fn last_value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.rsplit_once(name)?;
    rest.split('"').next()
}

/// Of the day, from `2025-01-15T10:00:00.123Z`.
fn milliseconds(ts: &str) -> Result<u64, Box<dyn Error>> {
    let number = |from: usize, to: usize| ts.get(from..to).unwrap_or_default().parse::<u64>();
    Ok(((number(11, 13)? * 60 + number(14, 16)?) * 60 + number(17, 19)?) * 1_000 + number(20, 23)?)
}

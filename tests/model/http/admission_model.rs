//! Workers, connections and slots as in the service, with a queue that behaves as tiny_http's does:
//! it returns the requests of a connection in their order, and it sends their responses in that
//! order only.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::SocketAddr,
    sync::Arc,
};

use loom::{
    sync::{Condvar, Mutex},
    thread,
};

use super::{
    admission::{Admission, Received, Source},
    sync::lock,
};

#[derive(Debug, Clone, Copy)]
struct Request {
    /// Its connection.
    port: u16,
    /// Its number among the requests of the connection.
    number: u32,
    /// Its body is read by another thread, which then gives it back to the workers.
    awaits_body: bool,
}

#[derive(Default)]
struct Queue {
    /// `None`: unblocked.
    entries: Mutex<VecDeque<Option<Request>>>,
    changed: Condvar,
    responses: Mutex<Responses>,
}

#[derive(Default)]
struct Responses {
    /// By connection: the request whose response tiny_http sends next.
    next: HashMap<u16, u32>,
    sent: usize,
}

impl Queue {
    fn push(&self, entry: Option<Request>) {
        lock(&self.entries).push_back(entry);
        self.changed.notify_one();
    }

    /// Sends a response, and returns how many have been sent. tiny_http would block this thread
    /// until the responses before it are sent: it must never come to that.
    fn send_response(&self, Request { port, number, .. }: Request) -> usize {
        let mut responses = lock(&self.responses);
        let next = responses.next.entry(port).or_default();
        assert_eq!(number, *next, "a worker waits for the response before its own");
        *next += 1;
        responses.sent += 1;
        responses.sent
    }
}

impl Source for Queue {
    type Request = Request;

    fn receive(&self) -> io::Result<Option<(SocketAddr, Request)>> {
        let mut entries = lock(&self.entries);
        loop {
            if let Some(entry) = entries.pop_front() {
                let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
                return Ok(entry.map(|request| (address(request.port), request)));
            }
            entries = self.changed.wait(entries).unwrap();
        }
    }

    fn unblock(&self) {
        self.push(None);
    }

    fn discard(request: Request) {
        panic!("{request:?} gets no response");
    }
}

const WORKERS: usize = 2;

/// What a worker of the service does, until `count` requests have been answered.
fn work(admission: &Arc<Admission<Queue>>, queue: &Queue, count: usize) {
    loop {
        let received = admission.receive(|_| unreachable!("no connection has ended"));
        match received.unwrap() {
            Received::Request(request, slot) if request.awaits_body => {
                let admission = Arc::clone(admission);
                let request = Request { awaits_body: false, ..request };
                thread::spawn(move || admission.wake(Received::Request(request, slot)));
            }
            Received::Request(request, slot) => {
                let sent = queue.send_response(request);
                drop(slot);
                if sent == count {
                    (0..WORKERS).for_each(|_| admission.wake(Received::Stop));
                }
            }
            Received::Stop => return,
            Received::TooMany(..) | Received::Probe(_) => unreachable!(),
        }
    }
}

/// Lets the workers answer requests that arrive one by one. A request that waits for ever keeps the
/// workers from ending, and loom then reports a deadlock.
fn check(requests: &'static [Request]) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(move || {
        let queue = Arc::new(Queue::default());
        let admission = Admission::new(Arc::clone(&queue));
        let spawn = |_| {
            let (admission, queue) = (Arc::clone(&admission), Arc::clone(&queue));
            thread::spawn(move || work(&admission, &queue, requests.len()))
        };
        let workers: Vec<_> = (0..WORKERS).map(spawn).collect();
        for request in requests {
            queue.push(Some(*request));
        }
        for worker in workers {
            worker.join().unwrap();
        }
        assert_eq!(lock(&queue.responses).sent, requests.len());
        assert!(!admission.with(|connections| connections.is_any_in_flight()));
    });
}

const fn request(port: u16, number: u32) -> Request {
    Request { port, number, awaits_body: false }
}

#[test]
fn requests_of_one_connection_are_admitted_in_the_order_in_which_tiny_http_queued_them() {
    check(&const { [request(1, 0), request(1, 1), request(1, 2)] });
}

#[test]
fn no_request_waits_for_ever_while_other_connections_send_some() {
    check(&const { [request(1, 0), request(2, 0), request(1, 1)] });
}

#[test]
fn a_request_that_comes_back_with_its_body_is_answered_before_those_behind_it() {
    const FIRST: Request = Request { awaits_body: true, ..request(1, 0) };
    check(&const { [FIRST, request(1, 1)] });
}

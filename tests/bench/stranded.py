"""Did the server really serve every connection?

tiny_http hands connections to a pool of threads. A connection that comes while one of them is
idle, but already promised to another connection, is queued, and stays there until some other
connection closes: for good, under keep-alive. wrk waits for its answer without a word and counts
one connection fewer, and the figures look better for it. So look from outside, at the kernel's
table of sockets: the request of a stranded connection sits there, unread.
"""
import contextlib
import selectors
import socket
import time

SAMPLE_SECONDS = 0.1
# A connection is stranded when the same bytes lie unread in so many samples in a row. A busy server
# has something unread often, but never for long the same: post.lua varies the requests' lengths.
SAMPLES = 6
# More than the four threads that the pool of tiny_http always keeps.
OCCUPIED_THREADS = 8
# Long enough for a thread of the pool to get from its start, or from a connection, to its rest.
SETTLE_SECONDS = 0.02
ESTABLISHED = "01"
REQUEST = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def unread_bytes(port):
    """How much each of the server's connections holds unread, by the client's address.

    /proc/net/tcp alone will do, because every server here listens on 127.0.0.1.
    """
    server_side = f":{port:04X}"
    unread = {}
    with open("/proc/net/tcp", encoding="ascii") as table:
        for line in table:
            _, local, remote, state, queues = line.split(maxsplit=5)[:5]
            if state == ESTABLISHED and local.endswith(server_side):
                unread[remote] = int(queues.partition(":")[2], 16)
    return unread


class Watch:
    """Samples a server's connections while wrk runs, and frees the stranded ones."""

    def __init__(self, port, connections):
        self.port = port
        self.connections = connections
        self.not_of_wrk = unread_bytes(port).keys()
        self.complete_samples = 0
        self.unmoved = {}  # client -> (unread bytes, samples in a row that showed just these)
        self.seen = set()
        self.left = set()

    def sample(self):
        unread = {client: count for client, count in unread_bytes(self.port).items()
                  if client not in self.not_of_wrk}
        # wrk opens them one by one and closes them so, too: what was stranded then still counts.
        if len(unread) < self.connections:
            return
        self.complete_samples += 1
        self.unmoved = {client: (count, self.run_length(client, count) + 1)
                        for client, count in unread.items() if count > 0}
        self.left = {client for client, (_, run) in self.unmoved.items() if run >= SAMPLES}
        self.seen |= self.left
        self.rescue()

    def run_length(self, client, count):
        before, run = self.unmoved.get(client, (None, 0))
        return run if before == count else 0

    def rescue(self):
        """A new connection makes the pool add a thread, which then finds the stranded one."""
        for _ in self.left:
            connect(self.port).close()

    @property
    def rescued(self):
        return len(self.seen - self.left)

    @property
    def conclusive(self):
        return self.complete_samples > SAMPLES


def occupy_idle_threads(port):
    """Open a few connections, one after the other, and have each answered.

    While they stay open no thread of the pool is idle, so that each connection that follows gets
    a new thread at once and none is stranded: what is measured is the server at work, and not
    the first moments after a burst. That is a figure of its own, see `burst`.
    """
    with contextlib.ExitStack() as clients:
        for _ in range(OCCUPIED_THREADS):
            time.sleep(SETTLE_SECONDS)
            client = clients.enter_context(connect(port))
            client.sendall(REQUEST)
            if not client.recv(4096):
                raise ConnectionError("the server closed a connection instead of answering")
        return clients.pop_all()


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def burst(port, connections, seconds):
    """Open connections all at once, then ask one thing on each.

    Returns the milliseconds after which each one was answered; of stranded ones there are none.
    """
    time.sleep(SETTLE_SECONDS)
    # Closing an answered connection would free a stranded one, so all stay open to the end.
    with contextlib.ExitStack() as opened, selectors.DefaultSelector() as waiting:
        clients = [opened.enter_context(connect(port)) for _ in range(connections)]
        begin = time.perf_counter()
        for client in clients:
            client.sendall(REQUEST)
            waiting.register(client, selectors.EVENT_READ)
        latencies = []
        while waiting.get_map() and time.perf_counter() - begin < seconds:
            for key, _ in waiting.select(timeout=0.1):
                latencies.append((time.perf_counter() - begin) * 1000)
                waiting.unregister(key.fileobj)
        return latencies

#!/usr/bin/env python3
"""Measures mailslot on PostgreSQL: one node and two, beside mailslot on SQLite and the seed's stack.

`make bench-postgres` builds what is needed and calls this. A private PostgreSQL with its own defaults
(fsync and synchronous_commit are on) is started by tests/postgres/server.sh, in a temporary folder. All
servers are measured in turn, through HTTP, with 64 requests in flight in all. The seed's stack is that of
tests/bench/baseline: FastAPI, SQLAlchemy and asyncpg, one row per transaction. Then a million messages are
imported, and read. The environment may set:
  SECONDS_PER_RUN  length of each measurement (5)
  REPEAT           rounds; the tables show medians (3); 0 measures no deliveries
  ROWS             messages that are read (1000000); 0 measures no reads
  MAILSLOT_BIN     the mailslot to measure (target/release/mailslot)
  TMPDIR           where the databases go; in a memory file system durability would cost nothing
Exit status: 0 measured, whatever the figures; 1 something was answered with an error.
"""
import contextlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote, urlencode

sys.dont_write_bytecode = True

import fill
import machine
import servers
from messages import signed_lines

SECONDS = int(os.environ.get("SECONDS_PER_RUN") or 5)
REPEAT = int(os.environ.get("REPEAT") or 3)
ROWS = int(os.environ.get("ROWS", 1_000_000))
IN_FLIGHT = 64
# More than any server here takes in this time; a file's repeats would cost less than new messages.
MESSAGES_PER_SECOND = 30_000
SERVER = servers.HERE.parent / "postgres" / "server.sh"
SAMPLES, SAMPLE_SECONDS, SAMPLES_LEAST = 200, 1.0, 5
HEAVY, LIGHT = "+919800000001", "+919800009000"
# Receivers of two thirds of the messages, of a third, and of a thousandth.
MAIN, SECOND, QUIET = "+14155550100", "+14155550101", "+14155550102"
RECENT, HALF = "2025-12-30T00:00:00Z", "2025-07-02T12:00:00Z"


def say(text):
    print(text, file=sys.stderr, flush=True)


class Postgres:
    def __init__(self, folder):
        self.folder, self.port, self.databases = Path(folder) / "postgres", servers.free_port(), 0
        self.process = subprocess.Popen([SERVER, "run", self.folder, str(self.port)], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self.process.stdout.readline() != "ready\n":
            sys.exit("PostgreSQL did not start: see make postgres")

    def sql(self, text, database="postgres"):
        command = ["psql", "-qAtX", "-h", self.folder, "-p", str(self.port), "-U", "postgres",
                   "-d", database, "-c", text]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    @contextlib.contextmanager
    def database(self):
        """The URL of a new one, without its scheme. It is gone in the end."""
        self.databases += 1
        name = f"bench{self.databases}"
        self.sql(f"CREATE DATABASE {name} OWNER mailslot")
        try:
            yield f"mailslot:secret@127.0.0.1:{self.port}/{name}"
        finally:
            self.sql(f"DROP DATABASE {name} WITH (FORCE)")
            # What one run has left to write is not the next one's.
            self.sql("CHECKPOINT")

    def cpu_seconds(self):
        """Of the postmaster, its processes, and those of them that have ended."""
        postmaster = (self.folder / "data/postmaster.pid").read_text().split()[0]
        total = sum(map(int, stat(postmaster)[11:15]))
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                fields = stat(pid)
                if fields[1] == postmaster:
                    total += sum(map(int, fields[11:15]))
        return total / servers.CLOCK_TICKS

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


def stat(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


@contextlib.contextmanager
def nodes(postgres, folder, count, search_index="on"):
    with contextlib.ExitStack() as stack:
        url = "postgres://" + stack.enter_context(postgres.database()) + "?sslmode=disable"
        yield [stack.enter_context(servers.mailslot(own(folder, number), DATABASE_URL=url,
                                                    SEARCH_INDEX=search_index))
               for number in range(count)]


@contextlib.contextmanager
def sqlite(_, folder):
    with servers.mailslot(own(folder, 0)) as server:
        yield [server]


@contextlib.contextmanager
def seed(postgres, folder):
    with postgres.database() as url, servers.baseline(own(folder, 0), f"postgresql+asyncpg://{url}") as server:
        yield [server]


def own(folder, number):
    path = Path(folder) / f"node{number}"
    path.mkdir()
    return path


STACKS = {
    "seed's stack on PostgreSQL": seed,
    "mailslot on SQLite": sqlite,
    "mailslot on PostgreSQL, one node": lambda postgres, folder: nodes(postgres, folder, 1),
    "the same, SEARCH_INDEX=off": lambda postgres, folder: nodes(postgres, folder, 1, "off"),
    "mailslot on PostgreSQL, two nodes": lambda postgres, folder: nodes(postgres, folder, 2),
}


def load(postgres, folder, start, files):
    """What all nodes of a stack took together, each with its share of what is in flight."""
    with start(postgres, folder) as running:
        before = postgres.cpu_seconds(), sum(server.cpu_seconds() for server in running)
        wrks = [wrk(server, IN_FLIGHT // len(running), file) for server, file in zip(running, files)]
        found = [result(process) for process in wrks]
        after = postgres.cpu_seconds(), sum(server.cpu_seconds() for server in running)
        requests = sum(each["requests"] for each in found)
        errors = sum(each["non_2xx"] + each["socket_errors"] for each in found)
        stored = running[0].stored_messages()
        if errors or stored < requests or any(each["repeats"] for each in found):
            raise servers.BenchError(f"{requests} answers, {errors} of them errors, {stored} stored: {found}")
        return {"rows/s": sum(each["rps"] for each in found),
                "p50 ms": max(each["p50_ms"] for each in found),
                "p99 ms": max(each["p99_ms"] for each in found),
                "PostgreSQL µs/row": (after[0] - before[0]) * 1e6 / requests,
                "node µs/row": (after[1] - before[1]) * 1e6 / requests,
                "node MB": max(server.peak_memory_mb() for server in running)}


def wrk(server, connections, file):
    environment = {**os.environ, "WRK_THREADS": "1", "REQUESTS": str(file)}
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{SECONDS}s",
               "--timeout", "10s", "--script", str(servers.HERE / "post.lua"), server.url + "/webhook"]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT)


def result(process):
    output = process.communicate()[0]
    _, found, line = output.partition("RESULT ")
    if process.returncode or not found:
        raise servers.BenchError(f"wrk failed: {output.strip()}")
    return json.loads(line)


def writes(postgres, folder):
    files = []
    for number in range(2):
        files.append(folder / f"messages{number}.tsv")
        with open(files[-1], "w", encoding="utf-8") as file:
            file.writelines(signed_lines(MESSAGES_PER_SECOND * SECONDS, servers.SECRET, prefix=f"n{number}"))
    rounds = {name: [] for name in STACKS}
    for turn in range(REPEAT):
        for name, start in STACKS.items():
            with tempfile.TemporaryDirectory(dir=folder) as own_folder:
                rounds[name].append(load(postgres, own_folder, start, files))
            say(f"round {turn + 1}: {name}: {rounds[name][-1]['rows/s']:.0f} rows/s")
    medians = {name: {figure: statistics.median(each[figure] for each in found) for figure in found[0]}
               for name, found in rounds.items()}
    figures = list(next(iter(medians.values())))
    yield f"| {IN_FLIGHT} in flight in all | " + " | ".join(figures) + " |"
    yield "|---|" + "---|" * len(figures)
    for name, found in medians.items():
        yield f"| {name} | " + " | ".join(f"{found[figure]:,.{digits(found[figure])}f}" for figure in figures) + " |"
    one = rounds["mailslot on PostgreSQL, one node"]
    for other in ("seed's stack on PostgreSQL", "mailslot on SQLite"):
        ratios = [each["rows/s"] / beside["rows/s"] for each, beside in zip(one, rounds[other])]
        yield f"\none node against {other}: {statistics.median(ratios):.2f} × ({min(ratios):.2f} to {max(ratios):.2f})"


def digits(number):
    return 0 if number >= 20 else 1


def questions():
    for name, parameters in (
            ("no filter", {}), ("in the middle", {"offset": ROWS // 2}), ("the last page", {"offset": ROWS - 50}),
            ("descending", {"order": "desc"}), ("from a busy sender", {"from": HEAVY}),
            ("from a quiet sender", {"from": LIGHT}), ("from nobody", {"from": "+999"}),
            ("since two days", {"since": RECENT}), ("since half a year", {"since": HALF}),
            ("from a busy sender, since half a year", {"from": HEAVY, "since": HALF}),
            ("to the busiest receiver", {"to": MAIN}), ("to a second receiver", {"to": SECOND}),
            ("to a quiet receiver", {"to": QUIET}), ("to nobody", {"to": "+999"}),
            ("to the busiest receiver, descending", {"to": MAIN, "order": "desc"}),
            ("to a second receiver, since half a year", {"to": SECOND, "since": HALF}),
            ("to the busiest receiver, in the middle", {"to": MAIN, "offset": ROWS // 3}),
            ("to a second receiver, in the middle", {"to": SECOND, "offset": ROWS // 6}),
            ("to a quiet receiver, in the middle", {"to": QUIET, "offset": ROWS // 2000}),
            ("of a source", {"source": "whatsapp"}), ("of a kind", {"kind": "text"}),
            ("of a source and a kind", {"source": "whatsapp", "kind": "image"}),
            ("of a source, in the middle", {"source": "whatsapp", "offset": ROWS // 20}),
            ("of a kind, in the middle", {"kind": "text", "offset": ROWS // 2}),
            ("of a source and a kind, in the middle",
             {"source": "whatsapp", "kind": "image", "offset": ROWS // 40}),
            ("of a source, since half a year, descending", {"source": "whatsapp", "since": HALF, "order": "desc"}),
            ("q in ten messages", {"q": "quokka"}), ("q in none", {"q": "zyzzyva"}),
            ("q in most", {"q": "the"}), ("q of two letters", {"q": "to"}),
            ("q in most, from a busy sender", {"q": "the", "from": HEAVY})):
        yield f"/messages, {name}", "/messages?" + urlencode(parameters, quote_via=quote)
    yield "/stats", "/stats"
    for name, parameters in (("", {}), (", of a source", {"source": "whatsapp"}),
                             (", to a second receiver", {"to": SECOND})):
        yield f"/stats/series, the hours of a week{name}", "/stats/series?" + urlencode(
            {"bucket": "hour", "since": "2025-06-01T00:00:00Z", "until": "2025-06-08T00:00:00Z", **parameters},
            quote_via=quote)
    yield "/feed, 100 of the first", "/feed?after=0&limit=100"
    yield "/feed, nothing new", "/feed?after=latest"


def of_several_groups(count):
    """The lines of fill.py, a tenth of them of another source, and half of these of another kind; and to
    several receivers."""
    for number, line in enumerate(fill.lines(count)):
        receiver = QUIET if number % 1000 == 1 else SECOND if number % 3 == 0 else MAIN
        line = line.replace(MAIN, receiver)
        kind = {0: "text", 10: "image"}.get(number % 20)
        yield json.dumps({**json.loads(line), "source": "whatsapp", "kind": kind}) + "\n" if kind else line


def reads(postgres, folder):
    with postgres.database() as database:
        url = f"postgres://{database}?sslmode=disable"
        say(f"importing {ROWS:,} messages")
        began = time.monotonic()
        with subprocess.Popen([servers.MAILSLOT, "import", "-"], stdin=subprocess.PIPE, text=True,
                              stderr=subprocess.DEVNULL, env={"DATABASE_URL": url}) as importing:
            importing.stdin.writelines(of_several_groups(ROWS))
        if importing.returncode:
            raise servers.BenchError("the import failed")
        rate = ROWS / (time.monotonic() - began)
        with servers.mailslot(own(folder, "s"), DATABASE_URL=url) as server:
            wait_until_counted(postgres, database.rpartition("/")[2])
            yield f"\n{ROWS:,} messages, imported at {rate:,.0f} a second\n"
            yield "| read | p50 ms | p99 ms |"
            yield "|---|---|---|"
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            for name, path in questions():
                times = measure(connection, path)
                yield f"| {name} | {times[len(times) // 2]:.2f} | {times[int(len(times) * 0.99)]:.2f} |"
            yield f"\nmemory of the node: {server.peak_memory_mb():.0f} MB at most"
            size = int(postgres.sql("SELECT pg_database_size(current_database())", database.rpartition("/")[2]))
            yield f"bytes of the database for each message: {size / ROWS:.0f}"


def wait_until_counted(postgres, database):
    end = time.monotonic() + 600
    counted = "SELECT (SELECT max(id) FROM mailslot.messages) = counted_id FROM mailslot.totals"
    while postgres.sql(counted, database) != "t":
        if time.monotonic() > end:
            raise servers.BenchError("the messages were not counted in time")
        time.sleep(0.5)


def measure(connection, path):
    times, began = [], time.perf_counter()
    while len(times) < SAMPLES_LEAST or (
            len(times) < SAMPLES and time.perf_counter() - began < SAMPLE_SECONDS):
        # The same question in other words: mailslot may remember what recent searches found.
        asked = path
        if "q=" in path and "since" not in path:
            asked += f"&since=0001-01-01T00:00:00.{len(times) + 1:09}Z"
        begin = time.perf_counter()
        connection.request("GET", asked)
        answer = connection.getresponse()
        body = answer.read()
        times.append((time.perf_counter() - begin) * 1e3)
        if answer.status != 200:
            raise servers.BenchError(f"{asked}: {answer.status} {body[:200]}")
    return sorted(times)


def main():
    servers.install_baseline()
    with tempfile.TemporaryDirectory(prefix="mailslot-bench-") as temporary:
        folder = Path(temporary)
        # The server's user must reach its own folder in it.
        folder.chmod(0o711)
        print(json.dumps(machine.description(folder)))
        postgres = Postgres(folder)
        try:
            print(f"PostgreSQL {postgres.sql('SHOW server_version')}\n", flush=True)
            for line in writes(postgres, folder) if REPEAT else ():
                print(line, flush=True)
            for line in reads(postgres, folder) if ROWS else ():
                print(line, flush=True)
        except servers.BenchError as error:
            print(f"PROBLEM {error}")
            return 1
        finally:
            postgres.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Measures mailslot, bare tiny_http and, with BASELINE=1, a FastAPI service, in one run.

`make bench` builds what is needed and calls this. Everything happens on 127.0.0.1 and in a
temporary folder. The environment may set:
  SECONDS_PER_RUN  length of each measurement, at least 3 (5)
  REPEAT           how often to measure everything; the table shows medians (1)
  BASELINE         1: measure the FastAPI baseline too
  WRK_THREADS      threads of the load generator: 1, 2, 4, 8 or 16 (1)
  MAILSLOT_BIN     the mailslot to measure (target/release/mailslot)
  BARE_BIN         the yardstick (target/release/examples/bare)
  TMPDIR           where the databases go; in a memory file system durability would cost nothing
mailslot's own settings, such as WORKERS, reach it; bare then gets as many workers.
Exit status: 0 measured, whatever the figures; 1 something could not be measured or was answered
with an error; 2 something is missing or set wrongly.
"""
import contextlib
import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.dont_write_bytecode = True  # a benchmark leaves no __pycache__ behind in the source tree

import machine
import proxy
import report
import servers
import stranded
from messages import signed_lines
from servers import BenchError

POST_CONNECTIONS = (1, 16, 64, 256)
BASELINE_CONNECTIONS = (16, 64)
PROXY_CONNECTIONS = 64
GETS = (("/messages", 16), ("/stats", 16), ("/health/live", 64))
# The database that this many connections filled is the one that the GETs read.
GET_AFTER_CONNECTIONS = 64
STARTS = 5
BURST_CONNECTIONS = 64
BURST_SECONDS = 2
BURSTS = 5
FOLLOWING = 1_000
FOLLOWED_CONNECTIONS = 64
FOLLOWED_ROUNDS = 3
FORMS = ("plain", "raw")  # of the bare listener
TURNS, TURNS_CONNECTIONS = 7, 64
# Messages whose ts lie anywhere in a year, and such as come in the order of their ts.
LOADS = {"mailslot": False, "mailslot live": True}
# Work that an operator has done beside deliveries, on a database of so many messages.
BESIDE = ("nothing", "backup", "import", "retention")
BESIDE_MESSAGES = 200_000
# What stores the messages that it answers.
DURABLE = (servers.mailslot, servers.baseline, proxy.mailslot_behind_nginx)
BESIDE_ROUNDS = 3
# Messages, and how many a second: so that every reader gets each, and so that there are more
# answers to send than there is time, where all are to have as many.
QUIET_MESSAGES, QUIET_RATE = 100, 10
FAIR_MESSAGES, FAIR_RATE = 1_500, 150
# More than any server here takes; if one does take more, the file is made longer.
MESSAGES_PER_SECOND = 30_000


class SettingError(Exception):
    """The environment asks for something that is not possible."""


def whole_number(name, default, least):
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or int(text) < least:
        raise SettingError(f"{name}={text}: expected a whole number, at least {least}")
    return int(text)


class Bench:
    def __init__(self, folder):
        self.folder = Path(folder)
        # Shorter runs prove nothing about stranded connections: bare listens with a backlog of 128,
        # so that of 256 connections at once some come only when TCP tries again, after a second.
        self.seconds = whole_number("SECONDS_PER_RUN", 5, least=3)
        self.repeat = whole_number("REPEAT", 1, least=1)
        self.threads = whole_number("WRK_THREADS", 1, least=1)
        if any(number % self.threads for number in POST_CONNECTIONS[1:]):
            raise SettingError(f"WRK_THREADS={self.threads}: expected 1, 2, 4, 8 or 16")
        self.with_baseline = os.environ.get("BASELINE") == "1"
        self.workers = None  # of the bare listener: as many as mailslot says it has
        self.messages = 0
        self.runs = {}  # (server, request, connections) -> one dict of figures for each repeat
        self.problems = []

    def everything(self):
        if self.with_baseline:
            servers.install_baseline()
        measured_on = machine.description(self.folder)  # before the bench itself is its load
        starts = self.start_to_ready_ms()
        if self.workers is None:
            raise BenchError("mailslot's line \"listening\" does not say how many workers it has")
        self.write_messages(MESSAGES_PER_SECOND * self.seconds)
        for turn in range(self.repeat):
            say(f"repeat {turn + 1} of {self.repeat}")
            for connections in POST_CONNECTIONS:
                self.measure_at(connections)
        return {
            "machine": measured_on,
            "settings": self.settings(),
            "rows": [row(key, runs) for key, runs in self.runs.items()],
            "in_turn": self.in_turn(),
            "followed": self.followed(),
            "beside": self.beside(),
            "bursts": [self.bursts("mailslot", servers.mailslot),
                       *self.bursts_behind_nginx(), self.bursts("bare", self.bare())],
            "start_to_ready_ms": {"best": min(starts), "all": starts},
            "binary_bytes": binary_sizes(),
            "problems": self.problems,
        }

    def settings(self):
        settings = {"seconds_per_run": self.seconds, "repeat": self.repeat,
                    "wrk_threads": self.threads, "bare_workers": self.workers,
                    "baseline": self.with_baseline}
        if self.with_baseline:
            settings["baseline_versions"] = servers.baseline_versions()
        return settings

    # What is measured

    def start_to_ready_ms(self):
        """From the spawn to the first 200 of /health/ready, each time on a new database."""
        times = []
        for _ in range(STARTS):
            with self.new_folder() as folder:
                begin = time.perf_counter()
                with servers.mailslot(folder) as server:
                    while server.get("/health/ready")[0] != 200:
                        if time.perf_counter() - begin > servers.START_SECONDS_MAX:
                            raise BenchError("mailslot did not become ready")
                        time.sleep(0.0005)
                    times.append((time.perf_counter() - begin) * 1000)
                    self.workers = server.announced.get("workers")
        return times

    def measure_at(self, connections):
        """All servers in turn, so that a slow minute of the machine does not hit only one."""
        with self.new_folder() as folder:
            self.measure_durable_post("mailslot", servers.mailslot, folder, connections)
            if connections == GET_AFTER_CONNECTIONS:
                for path, readers in GETS:
                    self.measure("mailslot", servers.mailslot, folder, path, readers)
        if proxy.is_installed() and connections == PROXY_CONNECTIONS:
            with self.new_folder() as folder:
                self.measure_durable_post("nginx", proxy.mailslot_behind_nginx, folder, connections)
        for form in FORMS:
            with self.new_folder() as folder:
                self.measure(server_name(form), self.bare(form), folder, "/webhook", connections)
        if self.with_baseline and connections in BASELINE_CONNECTIONS:
            with self.new_folder() as folder:
                self.measure_durable_post("fastapi", servers.baseline, folder, connections)

    def measure_durable_post(self, name, start, folder, connections):
        figures = self.durable_load(name, start, folder, connections)
        self.keep(name, "/webhook", connections, figures)

    def durable_load(self, name, start, folder, connections, live=False):
        """A POST load in which no message came twice, and all that was answered is stored."""
        while True:
            figures = self.load(name, start, folder, "/webhook", connections, live)
            if not figures["repeats"]:
                break
            say("the messages did not last, so once more with more of them")
            self.write_messages(self.messages * 3)
            empty(folder)
        accepted = figures["requests"] - figures["non_2xx"]
        if figures["stored"] < accepted:
            self.problem(f"{name} at {connections} connections answered {accepted} messages "
                         f"but stored {figures['stored']}")
        return figures

    def measure(self, name, start, folder, path, connections):
        figures = self.load(name, start, folder, path, connections)
        self.keep(name, path, connections, figures)

    def bursts(self, name, start):
        """How a server that has just started takes many connections at once."""
        latencies = []
        for _ in range(BURSTS):
            with self.new_folder() as folder, start(folder) as server:
                latencies += stranded.burst(server.port, BURST_CONNECTIONS, BURST_SECONDS)
        return {"server": name, "connections": BURST_CONNECTIONS * BURSTS,
                "answered": len(latencies), "seconds": BURST_SECONDS,
                "slowest_ms": max(latencies, default=0)}

    def bursts_behind_nginx(self):
        """The same with deliveries through nginx, which then needs many connections to mailslot."""
        if not proxy.is_installed():
            return
        latencies = []
        lines = signed_lines(BURST_CONNECTIONS * BURSTS, servers.SECRET, prefix="burst")
        for _ in range(BURSTS):
            with self.new_folder() as folder, proxy.mailslot_behind_nginx(folder) as server:
                took, failed = proxy.burst(server.url, itertools.islice(lines, BURST_CONNECTIONS))
                if failed:
                    self.problem(f"a burst through nginx: {len(failed)} failed, {failed[0]}")
                latencies += [each * 1000 for each in took if each < BURST_SECONDS]
        yield {"server": "nginx", "connections": BURST_CONNECTIONS * BURSTS,
               "answered": len(latencies), "seconds": BURST_SECONDS,
               "slowest_ms": max(latencies, default=0)}

    def in_turn(self):
        """The same load, one server right after the other and again: where the machine changes its
        speed from minute to minute, only neighbours can be compared."""
        found = {name: [] for name in (*LOADS, *map(server_name, FORMS))}
        for _ in range(TURNS):
            for name, live in LOADS.items():
                with self.new_folder() as folder:
                    found[name].append(self.durable_load(name, servers.mailslot, folder,
                                                         TURNS_CONNECTIONS, live))
            for form in FORMS:
                with self.new_folder() as folder:
                    found[server_name(form)].append(self.load(
                        server_name(form), self.bare(form), folder, "/webhook", TURNS_CONNECTIONS))
        return found

    def followed(self):
        """What a thousand waiting readers cost the deliveries, and how soon they get new messages."""
        rates, loaded = {0: [], FOLLOWING: []}, []
        for _ in range(FOLLOWED_ROUNDS):
            for readers, found in rates.items():
                say(f"mailslot /webhook at {FOLLOWED_CONNECTIONS} connections, {readers} following")
                with self.new_folder() as folder, \
                        servers.mailslot(folder, MAX_CONNECTIONS="4096") as server:
                    watch = stranded.Watch(server.port, FOLLOWED_CONNECTIONS)
                    following = self.start_readers(server, readers, self.seconds + 3)
                    figures = self.wrk(server.url, "/webhook", FOLLOWED_CONNECTIONS, watch)
                    found.append(figures["rps"])
                    loaded += [json.loads(following.communicate()[0])] if readers else []
        quiet = self.follow(QUIET_MESSAGES, QUIET_RATE)
        fair = self.follow(FAIR_MESSAGES, FAIR_RATE)
        failed = sum(each["failed"] for each in [*loaded, quiet, fair])
        if failed or quiet["messages"] != QUIET_MESSAGES * FOLLOWING:
            self.problem(f"of {FOLLOWING} readers some failed ({failed}) or missed something: {quiet}")
        alone, beside = (statistics.median(found) for found in rates.values())
        return {"readers": FOLLOWING, "ratio": beside / alone, "rates": rates, "loaded": loaded,
                "quiet": quiet, "fair": fair}

    def follow(self, messages, rate):
        """What a thousand readers get of so many messages per second."""
        with self.new_folder() as folder, servers.mailslot(folder, MAX_CONNECTIONS="4096") as server:
            say(f"{messages} messages, {rate} a second, {FOLLOWING} following")
            following = self.start_readers(server, FOLLOWING, 5 + messages // rate)
            begin = time.monotonic()
            lines = signed_lines(messages, servers.SECRET, prefix="follow")
            for number, line in enumerate(lines):
                signature, body = line.rstrip().split("\t")
                server.post("/webhook", body, {"X-Signature": signature})
                time.sleep(max(0, begin + number / rate - time.monotonic()))
            return json.loads(following.communicate()[0])

    def beside(self):
        """How fast an import is, and what deliveries get while an operator's work is done."""
        lines, others = self.folder / "lines.ndjson", self.folder / "others.ndjson"
        for path, count in ((lines, BESIDE_MESSAGES), (others, BESIDE_MESSAGES // 2)):
            with open(path, "wb") as file:
                subprocess.run([sys.executable, servers.HERE / "fill.py", str(count)],
                               stdout=file, check=True)
        found = {}
        with self.new_folder() as folder:
            say(f"importing {BESIDE_MESSAGES} messages")
            begin = time.perf_counter()
            self.verb(folder, "import", lines).wait()
            found["import_rate"] = BESIDE_MESSAGES / (time.perf_counter() - begin)
            rounds = {work: [] for work in BESIDE}
            for _ in range(BESIDE_ROUNDS):
                for work, figures in rounds.items():
                    say(f"mailslot /webhook at {FOLLOWED_CONNECTIONS} connections, beside: {work}")
                    with self.new_folder() as own:
                        shutil.copy(f"{folder}/bench.db", own)
                        figures.append(self.deliver_beside(own, work, others))
        for work, figures in rounds.items():
            found[work] = {name: statistics.median(each[name] for each in figures)
                           for name in figures[0]}
        return found

    def deliver_beside(self, folder, work, lines):
        """What deliveries get; and what became of the work in the same time: how long a backup took,
        how many messages expired or were imported."""
        settings = {"RETENTION_DAYS": "30"} if work == "retention" else {}
        with servers.mailslot(folder, **settings) as server:
            rows = server.stored_messages()
            begun = {"backup": lambda: self.verb(folder, "backup", "--force", f"{folder}/copy.db"),
                     "import": lambda: self.verb(folder, "import", lines)}.get(work)
            process = begun() if begun else None
            begin = time.perf_counter()
            watch = stranded.Watch(server.port, FOLLOWED_CONNECTIONS)
            figures = self.wrk(server.url, "/webhook", FOLLOWED_CONNECTIONS, watch)
            more = server.stored_messages() - rows - figures["requests"]
            found = {"rps": figures["rps"], "p99_ms": figures["p99_ms"]}
            if work == "backup":
                failed = process.wait()
                found["seconds"] = time.perf_counter() - begin
            elif work == "import":
                # It has more lines than it can store in this time, and steps back no longer now.
                failed = process.poll() is not None
                process.kill()
                process.wait()
                found["imported_rate"] = more / (time.perf_counter() - begin)
            else:
                failed = False
                if work == "retention":
                    found["gone"] = -more
            if failed:
                self.problem(f"{work} beside deliveries failed, or ended too early")
            if figures["non_2xx"]:
                self.problem(f"beside {work}: {figures['non_2xx']} answers were errors")
            return found

    def verb(self, folder, *arguments):
        environment = {"DATABASE_URL": f"sqlite:///{folder}/bench.db"}
        return subprocess.Popen([servers.MAILSLOT, *arguments], env=environment,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def start_readers(self, server, readers, seconds):
        """Waiting readers, in a process of their own."""
        command = [servers.READERS, f"127.0.0.1:{server.port}", str(readers), str(seconds)]
        process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE)
        deadline = time.monotonic() + servers.START_SECONDS_MAX
        while server.metric("mailslot_feed_waiters") < readers:
            if time.monotonic() > deadline:
                process.kill()
                raise BenchError("the readers do not come to wait")
            time.sleep(0.05)
        return process

    # How it is measured

    def load(self, name, start, folder, path, connections, live=False):
        """Start a server, put wrk on it and return the figures of both."""
        say(f"{name} {path} at {connections} connections")
        with start(folder) as server, stranded.occupy_idle_threads(server.port):
            # nginx opens as many connections to mailslot as it needs at once.
            seen = 1 if start is proxy.mailslot_behind_nginx else connections
            watch = stranded.Watch(server.port, seen)
            cpu_before = server.cpu_seconds()
            figures = self.wrk(server.url, path, connections, watch, live)
            cpu_seconds = server.cpu_seconds() - cpu_before
            figures["cpu_us"] = cpu_seconds * 1e6 / max(figures["requests"], 1)
            figures["peak_memory_mb"] = server.peak_memory_mb()
            if path == "/webhook" and start in DURABLE:
                figures["stored"] = server.stored_messages()
        self.check(f"{name} {path} at {connections} connections", figures)
        return figures

    def wrk(self, url, path, connections, watch, live=False):
        threads = min(self.threads, connections)
        environment = {**os.environ, "WRK_THREADS": str(threads)}
        environment.pop("REQUESTS", None)
        if path == "/webhook":
            environment["REQUESTS"] = str(self.message_file(live))
        command = ["wrk", "--threads", str(threads), "--connections", str(connections),
                   "--duration", f"{self.seconds}s", "--timeout", "10s",
                   "--script", str(servers.HERE / "post.lua"), url + path]
        with subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT) as process:
            try:
                while process.poll() is None:
                    watch.sample()
                    time.sleep(stranded.SAMPLE_SECONDS)
                output = process.stdout.read()
            finally:
                process.kill()
        _, found, result = output.partition("RESULT ")
        if process.returncode != 0 or not found:
            raise BenchError(f"wrk failed: {output.strip()}")
        return {**json.loads(result), "rescued": watch.rescued, "left": len(watch.left),
                "conclusive": watch.conclusive}

    def keep(self, name, path, connections, figures):
        self.runs.setdefault((name, path, connections), []).append(figures)

    def check(self, where, figures):
        if figures["non_2xx"]:
            self.problem(f"{where}: {figures['non_2xx']} answers were errors")
        if figures["left"]:
            self.problem(f"{where}: {figures['left']} connections were never served")
        if not figures["conclusive"]:
            self.problem(f"{where}: not all connections were seen open for long enough")
        if not figures["requests"]:
            self.problem(f"{where}: nothing was answered")

    def problem(self, text):
        say(f"PROBLEM {text}")
        self.problems.append(text)

    # What it takes

    def bare(self, form="plain"):
        return lambda folder: servers.bare(folder, self.workers, form)

    def message_file(self, live):
        return self.folder / f"messages-{'live' if live else 'year'}.tsv"

    def write_messages(self, count):
        say(f"signing {count} messages, twice")
        self.messages = count
        for live in LOADS.values():
            with open(self.message_file(live), "w", encoding="utf-8") as file:
                file.writelines(signed_lines(count, servers.SECRET, prefix="bench", live=live))

    def new_folder(self):
        return tempfile.TemporaryDirectory(dir=self.folder, prefix="run-")


def server_name(form):
    return "bare" if form == "plain" else f"bare {form}"


def empty(folder):
    for file in Path(folder).iterdir():
        file.unlink()


def row(key, runs):
    """One line of the table: medians of what varies, sums of what should be nought."""
    server, request, connections = key
    figures = {"server": server, "request": request, "connections": connections}
    for name in ("rps", "p50_ms", "p99_ms", "p999_ms", "max_ms", "cpu_us"):
        figures[name] = statistics.median(run[name] for run in runs)
    for name in ("requests", "non_2xx", "socket_errors", "rescued", "left"):
        figures[name] = sum(run[name] for run in runs)
    figures["peak_memory_mb"] = max(run["peak_memory_mb"] for run in runs)
    figures["runs"] = runs
    return figures


def binary_sizes():
    static = next(iter(sorted(servers.TARGET.glob("*-linux-*/release/mailslot"))), None)
    return {"mailslot": servers.MAILSLOT.stat().st_size,
            "static": static.stat().st_size if static else None}


def say(text):
    print(text, file=sys.stderr, flush=True)


def check_tools():
    if shutil.which("wrk") is None:
        return "wrk is not installed: apt-get install wrk"
    for binary in (servers.MAILSLOT, servers.BARE, servers.READERS):
        if not binary.exists():
            return (f"{binary} is missing: "
                    "cargo build --release --bin mailslot --example bare --example readers")
    return None


def main():
    if missing := check_tools():
        say(missing)
        return 2
    # However it ends, the `with` blocks must get to end the children.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: sys.exit(128 + received))
    try:
        with tempfile.TemporaryDirectory(prefix="mailslot-bench-") as folder:
            result = Bench(folder).everything()
    except SettingError as error:
        say(str(error))
        return 2
    except (BenchError, OSError) as error:
        say(f"bench: {error}")
        return 1
    report.add_conclusions(result)
    print(report.text(result))
    file = servers.TARGET / "bench" / "result.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 1 if result["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Kills the primary of a PostgreSQL cluster under load, again and again, and counts what that costs.

`make test-failover` installs what is needed and calls this: etcd, three members run by Patroni in
synchronous mode from packaging/patroni.yml.example, two mailslots, and HAProxy in front of them with
packaging/haproxy.cfg.example. Everything runs on 127.0.0.1, as an unprivileged user, in a temporary
folder. Senders post each message until it is acknowledged, and each a second time; two followers read
the feed of each node. KILLS times, Patroni, the primary and all its processes get SIGKILL at once.

It fails if an acknowledged message is not stored, if one is stored or followed twice, or skipped, if a
cursor is given to two messages, or if an answer is neither 200 nor one that a sender repeats. It prints
how long deliveries stood still and what senders were answered. The environment may set:
  KILLS         how often (5)
  SENDERS       connections that post (32)
  MAILSLOT_BIN  the mailslot to test (target/release/mailslot)
Exit status: 0 all held; 1 something did not; 2 something is missing.
"""
import collections
import contextlib
import hashlib
import hmac
import http.client
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
MAILSLOT = os.environ.get("MAILSLOT_BIN") or ROOT / "target/release/mailslot"
KILLS = int(os.environ.get("KILLS") or 5)
SENDERS = int(os.environ.get("SENDERS") or 32)
SECRET = "a secret of sixteen bytes or more"
MEMBERS = 3
WAIT_SECONDS = 180
# Between two kills, so that there is load before each and time to see it flow again.
PAUSE_SECONDS = 10
# What makes a sender post again: no answer, mailslot's own 503 and 500, and the balancer's.
REPEATED = {"no answer", 500, 502, 503, 504}


def say(text):
    print(text, file=sys.stderr, flush=True)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def as_nobody(arguments):
    """PostgreSQL refuses root."""
    if os.getuid():
        return arguments
    group = subprocess.run(["id", "-g", "nobody"], capture_output=True, text=True, check=True).stdout.strip()
    return ["setpriv", "--reuid=nobody", f"--regid={group}", "--clear-groups", "--", *arguments]


def wait_for(what, holds):
    end = time.monotonic() + WAIT_SECONDS
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if found := holds():
                return found
        if time.monotonic() > end:
            raise SystemExit(f"waited {WAIT_SECONDS} s in vain: {what}")
        time.sleep(0.1)


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=40)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Cluster:
    """etcd and the members, and where each of them listens."""

    def __init__(self, folder):
        self.folder = folder
        self.etcd_port, peer = free_ports(2)
        ports = free_ports(2 * MEMBERS)
        self.ports, self.api_ports = ports[:MEMBERS], ports[MEMBERS:]
        self.processes = {}
        self.spawn("etcd", ["etcd", "--data-dir", f"{folder}/etcd", "--log-level", "error",
                            "--listen-client-urls", f"http://127.0.0.1:{self.etcd_port}",
                            "--advertise-client-urls", f"http://127.0.0.1:{self.etcd_port}",
                            "--listen-peer-urls", f"http://127.0.0.1:{peer}",
                            "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
                            "--initial-cluster", f"default=http://127.0.0.1:{peer}"])
        wait_for("etcd", lambda: get(self.etcd_port, "/health")[0] == 200)
        for member in range(MEMBERS):
            self.write_configuration(member)
            self.start(member)
        wait_for("a synchronous standby", self.is_whole)

    def write_configuration(self, member):
        """The example, with this machine's addresses, one for each of the three machines."""
        text = (ROOT / "packaging/patroni.yml.example").read_text()
        binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
        for old, new in (
                ("10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379", f"127.0.0.1:{self.etcd_port}"),
                ("member-1", f"member-{member + 1}"),
                ("10.0.0.1:8008", f"127.0.0.1:{self.api_ports[member]}"),
                ("10.0.0.1:5432", f"127.0.0.1:{self.ports[member]}"),
                ("10.0.0.0/24", "127.0.0.1/32"),
                ("/var/lib/postgresql/15/mailslot", f"{self.folder}/member-{member + 1}"),
                ("/usr/lib/postgresql/15/bin", str(binaries[-1])),
                ("local all postgres peer", "local all postgres trust"),
                ("  parameters:\n    password_encryption",
                 f"  parameters:\n    unix_socket_directories: {self.folder}\n    password_encryption")):
            assert old in text, old
            text = text.replace(old, new)
        Path(self.folder, f"member-{member + 1}.yml").write_text(text)

    def spawn(self, name, arguments):
        # Patroni keeps the passwords of its member at home.
        home = Path(self.folder, f"{name}.home")
        home.mkdir(exist_ok=True)
        if not os.getuid():
            shutil.chown(home, "nobody")
        with open(f"{self.folder}/{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(
                as_nobody(arguments), stdout=log, stderr=log, cwd=home, start_new_session=True,
                env=os.environ | {"HOME": str(home)})

    def start(self, member):
        name = f"member-{member + 1}"
        self.spawn(name, ["patroni", f"{self.folder}/{name}.yml"])

    def members(self):
        for port in self.api_ports:
            with contextlib.suppress(OSError, http.client.HTTPException):
                return json.loads(get(port, "/cluster")[1])["members"]
        return []

    def is_whole(self):
        members = self.members()
        roles = collections.Counter(member["role"] for member in members)
        return (len(members) == MEMBERS and roles["leader"] == 1 and roles["sync_standby"] == 1
                and all(member["state"] in ("running", "streaming") for member in members))

    def primary(self):
        """The number of the member that is the primary."""
        for member in self.members():
            if member["role"] == "leader":
                return int(member["name"].split("-")[1]) - 1
        return None

    def sql(self, database, text, member=None):
        member = wait_for("a primary", lambda: self.primary() is not None) and self.primary() \
            if member is None else member
        done = subprocess.run(["psql", "-qAtX", "-v", "ON_ERROR_STOP=1", "-h", self.folder,
                               "-p", str(self.ports[member]), "-U", "postgres", "-d", database, "-c", text],
                              capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{text}: {done.stderr}")
        return done.stdout.strip()

    def kill_primary(self):
        """Patroni, the postmaster and all its processes, as if the machine had lost power."""
        member = self.primary()
        pids = [self.processes[f"member-{member + 1}"].pid]
        data = f"{self.folder}/member-{member + 1}"
        pids.append(int(Path(data, "postmaster.pid").read_text().split()[0]))
        tree = pids + [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and parent(pid) in pids]
        for pid in tree:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.processes[f"member-{member + 1}"].wait()
        return member

    def stop(self):
        for name, process in reversed(self.processes.items()):
            process.terminate()
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for member in range(MEMBERS):
            with contextlib.suppress(OSError, ValueError):
                path = Path(self.folder, f"member-{member + 1}", "postmaster.pid")
                os.kill(int(path.read_text().split()[0]), signal.SIGQUIT)


def parent(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except (OSError, IndexError):
        return None


class Senders:
    """Post messages until they are acknowledged, as a provider does."""

    def __init__(self, port):
        self.port, self.stopped, self.lock = port, threading.Event(), threading.Lock()
        self.acknowledged = {}  # id -> how often
        self.answers = collections.Counter()
        self.times = []  # of each 200, when it came
        self.slowest = 0
        self.threads = [threading.Thread(target=self.send, args=(number,)) for number in range(SENDERS)]
        for thread in self.threads:
            thread.start()

    def send(self, number):
        connection = None
        for count in range(10 ** 9):
            if self.stopped.is_set():
                return
            for _ in range(2):
                connection = self.deliver(connection, f"s{number}-{count}")

    def deliver(self, connection, message_id):
        body = json.dumps({"message_id": message_id, "from": "+919876543210", "to": "+14155550100",
                           "ts": "2025-01-15T10:00:00Z", "text": f"of {message_id}"}).encode()
        signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        while True:
            connection = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=40)
            began = time.monotonic()
            try:
                connection.request("POST", "/webhook", body, {"X-Signature": signature})
                answer = connection.getresponse()
                answer.read()
                status = answer.status
            except (OSError, http.client.HTTPException):
                connection.close()
                connection, status = None, "no answer"
            now = time.monotonic()
            with self.lock:
                self.answers[status] += 1
                self.slowest = max(self.slowest, now - began)
                if status == 200:
                    self.times.append(now)
                    self.acknowledged[message_id] = self.acknowledged.get(message_id, 0) + 1
                    return connection
            time.sleep(0.2)

    def pause_after(self, moment):
        """How long it took from a moment until deliveries flowed again: up to the end of the longest
        time without any acknowledgement that began before the next pause."""
        with self.lock:
            times = [each for each in self.times if each > moment - 1]
        gaps = [(later - earlier, later) for earlier, later in zip(times, times[1:])]
        return max(gaps)[1] - moment

    def stop(self):
        self.stopped.set()
        for thread in self.threads:
            thread.join()


class Follower(threading.Thread):
    """Reads one node's feed from the beginning, and goes on with its last cursor after each failure."""

    def __init__(self, port):
        super().__init__()
        self.port, self.stopped, self.found, self.problems = port, threading.Event(), [], []
        self.start()

    def run(self):
        after = "0"
        while True:
            was_stopped = self.stopped.is_set()
            try:
                status, body = get(self.port, f"/feed?after={after}&limit=1000&wait=1")
            except (OSError, http.client.HTTPException):
                time.sleep(0.1)
                continue
            if status == 409:
                self.problems.append(f"409 at cursor {after}")
                return
            if status != 200:
                time.sleep(0.1)
                continue
            page = json.loads(body)
            self.found += [(int(each["cursor"]), each["message_id"]) for each in page["data"]]
            after = page["next"]
            if was_stopped and not page["data"]:
                return


@contextlib.contextmanager
def running(arguments, environment, log):
    with open(log, "ab") as output:
        process = subprocess.Popen(arguments, env=environment, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def mailslot(folder, number, port, url):
    environment = {"DATABASE_URL": url, "LISTEN": f"127.0.0.1:{port}", "WEBHOOK_SECRET": SECRET}
    return running([MAILSLOT], environment, f"{folder}/mailslot-{number}.log")


def haproxy(folder, port, nodes):
    text = (ROOT / "packaging/haproxy.cfg.example").read_text()
    text = text.replace("bind :8000", f"bind 127.0.0.1:{port}")
    for number, node in enumerate(nodes, 1):
        text = text.replace(f"mailslot-{number}:8000", f"127.0.0.1:{node}")
    Path(folder, "haproxy.cfg").write_text(text)
    return running(["haproxy", "-f", f"{folder}/haproxy.cfg"], dict(os.environ), f"{folder}/haproxy.log")


def judge(acknowledged, stored, followers, answers):
    """Everything that must not be, as sentences."""
    ids = [message_id for _, message_id in stored]
    yield from (f"{message_id} was acknowledged and is not stored"
                for message_id in set(acknowledged) - set(ids))
    yield from (f"{message_id} is stored {n} times"
                for message_id, n in collections.Counter(ids).items() if n > 1)
    owner = dict(stored)
    for number, follower in enumerate(followers, 1):
        yield from follower.problems
        cursors = [cursor for cursor, _ in follower.found]
        if any(later <= earlier for earlier, later in zip(cursors, cursors[1:])):
            yield f"the cursors of node {number} do not grow"
        seen = collections.Counter(message_id for _, message_id in follower.found)
        yield from (f"node {number} gave {message_id} {n} times" for message_id, n in seen.items() if n > 1)
        yield from (f"node {number} skipped {message_id}" for message_id in set(ids) - set(seen))
        for cursor, message_id in follower.found:
            if owner.get(cursor) != message_id:
                yield f"cursor {cursor} was given to {message_id} and belongs to {owner.get(cursor)}"
    yield from (f"senders were answered {status}" for status in set(answers) - REPEATED - {200})


def drill(folder):
    cluster = Cluster(folder)
    try:
        say("the cluster is there: a primary, a synchronous standby, another standby")
        cluster.sql("postgres", "CREATE ROLE mailslot LOGIN PASSWORD 'secret'")
        cluster.sql("postgres", "CREATE DATABASE mailslot OWNER mailslot ENCODING 'UTF8' TEMPLATE template0")
        hosts = ",".join(f"127.0.0.1:{port}" for port in cluster.ports)
        url = f"postgres://mailslot:secret@{hosts}/mailslot?sslmode=disable"
        balancer, *nodes = free_ports(3)
        with contextlib.ExitStack() as stack:
            for number, port in enumerate(nodes, 1):
                stack.enter_context(mailslot(folder, number, port, url))
                wait_for(f"mailslot {number}", lambda: get(port, "/health/ready")[0] == 200)
            stack.enter_context(haproxy(folder, balancer, nodes))
            wait_for("the balancer", lambda: get(balancer, "/health/ready")[0] == 200)
            return under_load(cluster, balancer, nodes)
    finally:
        cluster.stop()


def under_load(cluster, balancer, nodes):
    senders, followers = Senders(balancer), [Follower(port) for port in nodes]
    pauses = []
    try:
        for kill in range(KILLS):
            time.sleep(PAUSE_SECONDS)
            moment = time.monotonic()
            member = cluster.kill_primary()
            wait_for("another primary", lambda: cluster.primary() not in (None, member))
            wait_for("deliveries", lambda: senders.times[-1] > time.monotonic() - 0.5
                     and senders.times[-1] > moment + 2)
            time.sleep(2)
            pauses.append(senders.pause_after(moment))
            say(f"kill {kill + 1}: member {member + 1}; deliveries flowed again after {pauses[-1]:.1f} s")
            cluster.start(member)
            wait_for("a whole cluster", cluster.is_whole)
    finally:
        senders.stop()
        for follower in followers:
            follower.stopped.set()
            follower.join()
    rows = cluster.sql("mailslot", "SELECT id, message_id FROM mailslot.messages ORDER BY id")
    stored = [(int(row.split("|")[0]), row.split("|")[1]) for row in rows.splitlines()]
    problems = list(judge(senders.acknowledged, stored, followers, senders.answers))
    timelines = cluster.sql("mailslot", "SELECT timeline_id FROM pg_control_checkpoint()")
    print(f"kills of the primary: {KILLS}, now on timeline {timelines}")
    print(f"messages acknowledged: {len(senders.acknowledged)}, stored: {len(stored)}")
    print(f"deliveries flowed again after: {', '.join(f'{pause:.1f}' for pause in pauses)} s, "
          f"median {statistics.median(pauses):.1f} s")
    print(f"answers: {dict(senders.answers)}; the slowest took {senders.slowest:.1f} s")
    print(f"followed: {', '.join(str(len(each.found)) for each in followers)}")
    for problem in problems[:20]:
        print(f"PROBLEM {problem}")
    print(f"problems: {len(problems)}")
    return 1 if problems else 0


def main():
    missing = [name for name in ("patroni", "etcd", "haproxy", "psql") if not shutil.which(name)]
    if missing:
        say(f"missing here: {' '.join(missing)}; see make test-failover")
        return 2
    folder = tempfile.mkdtemp(prefix="mailslot-failover-")
    try:
        os.chmod(folder, 0o700)
        if not os.getuid():
            shutil.chown(folder, "nobody")
        status = drill(folder)
        if status:
            kept = f"{folder}.kept"
            shutil.copytree(folder, kept, ignore=shutil.ignore_patterns("member-?", "etcd"))
            say(f"the logs are in {kept}")
        return status
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())

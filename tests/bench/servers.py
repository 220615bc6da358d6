"""Starts the servers that are measured, and asks the system what they cost."""
import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGET = HERE.parents[1] / "target"
MAILSLOT = Path(os.environ.get("MAILSLOT_BIN", TARGET / "release" / "mailslot")).resolve()
BARE = Path(os.environ.get("BARE_BIN", TARGET / "release" / "examples" / "bare")).resolve()
READERS = TARGET / "release" / "examples" / "readers"
BASELINE_PYTHON = TARGET / "bench" / "venv" / "bin" / "python"

SECRET = "testsecret"
START_SECONDS_MAX = 20
STOP_SECONDS_MAX = 10
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """Something could not be measured."""


@dataclass
class Server:
    process: subprocess.Popen
    port: int
    announced: dict = field(default_factory=dict)
    url: str = None  # of the proxy in front of it, if there is one

    def __post_init__(self):
        self.url = self.url or f"http://127.0.0.1:{self.port}"

    def cpu_seconds(self):
        """User and system time of all its threads, those that have ended too."""
        after_name = self.proc_file("stat").rpartition(")")[2].split()
        user, system = after_name[11:13]
        return (int(user) + int(system)) / CLOCK_TICKS

    def peak_memory_mb(self):
        kilobytes = re.search(r"VmHWM:\s+(\d+) kB", self.proc_file("status")).group(1)
        return int(kilobytes) * 1024 / 1e6

    def proc_file(self, name):
        if self.process.poll() is not None:
            raise BenchError(f"{self.process.args[0]} ended by itself, "
                             f"exit status {self.process.returncode}")
        return Path(f"/proc/{self.process.pid}/{name}").read_text(encoding="utf-8")

    def get(self, path):
        """The status and body of one GET on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()

    def post(self, path, body, headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("POST", path, body.encode(), headers)
            if connection.getresponse().status != 200:
                raise BenchError("a message was not taken")

    def metric(self, name):
        _, body = self.get("/metrics")
        return float(re.search(rf"^{name} (\S+)$", body.decode(), re.MULTILINE).group(1))

    def stored_messages(self):
        _, body = self.get("/stats")
        return json.loads(body)["total_messages"]


def mailslot(folder, **more):
    """mailslot as it comes, on the database in `folder`, logging every request to a file there."""
    settings = {"WEBHOOK_SECRET": SECRET, "DATABASE_URL": f"sqlite:///{folder}/bench.db",
                "LISTEN": "127.0.0.1:0", "LOG_LEVEL": "INFO", **more}
    return running([MAILSLOT], folder, settings, mailslot_announcement)


def bare(folder, workers, form):
    command = [BARE, "127.0.0.1:0", str(workers)] + (["raw"] if form == "raw" else [])
    return running(command, folder, {}, bare_announcement)


def baseline(folder, database=None):
    settings = {"WEBHOOK_SECRET": SECRET,
                "DATABASE_URL": database or f"sqlite+aiosqlite:///{folder}/bench.db",
                "PYTHONDONTWRITEBYTECODE": "1"}
    command = [BASELINE_PYTHON, "-m", "uvicorn", "app:app", "--app-dir", HERE / "baseline",
               "--host", "127.0.0.1", "--port", "0", "--workers", "1"]
    return running(command, folder, settings, baseline_announcement)


def install_baseline():
    """FastAPI and what it needs, in a virtual environment that later runs find again."""
    if baseline_is_installed():
        return
    folder = BASELINE_PYTHON.parents[1]
    print(f"installing the FastAPI baseline into {folder}", file=sys.stderr)
    pip = [BASELINE_PYTHON, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    try:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([*pip, "install", "-r", HERE / "baseline" / "requirements.txt"], check=True)
    except subprocess.CalledProcessError as error:
        raise BenchError(f"the FastAPI baseline could not be installed: {error}") from error


def baseline_is_installed():
    imports = [BASELINE_PYTHON, "-c", "import aiosqlite, asyncpg, fastapi, greenlet, sqlalchemy, uvicorn"]
    return (BASELINE_PYTHON.exists()
            and subprocess.run(imports, capture_output=True, check=False).returncode == 0)


def baseline_versions():
    pip = [BASELINE_PYTHON, "-m", "pip", "--disable-pip-version-check", "freeze"]
    return subprocess.run(pip, capture_output=True, check=True, text=True).stdout.split()


def mailslot_announcement(line):
    """mailslot logs JSON, one object a line; one of them says where it listens."""
    with contextlib.suppress(ValueError):
        record = json.loads(line)
        if record.get("msg") == "listening":
            return int(record["address"].rpartition(":")[2]), record
    return None


def bare_announcement(line):
    found = re.match(r"listening on .*:(\d+)$", line)
    return (int(found.group(1)), {}) if found else None


def baseline_announcement(line):
    found = re.search(r"Uvicorn running on http://127\.0\.0\.1:(\d+)", line)
    return (int(found.group(1)), {}) if found else None


@contextlib.contextmanager
def running(command, folder, settings, announcement):
    """A server as a child process, from the moment it listens to the end of the `with` block."""
    output = Path(folder) / "output.log"
    with open(output, "wb") as stdout:
        process = subprocess.Popen(command, cwd=folder, env={**os.environ, **settings},
                                   stdin=subprocess.DEVNULL, stdout=stdout,
                                   stderr=subprocess.STDOUT)
    try:
        yield Server(process, *wait_until_listening(process, output, announcement))
    finally:
        stop(process)


def wait_until_listening(process, output, announcement):
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline:
        text = output.read_text(encoding="utf-8", errors="replace")
        for line in text.splitlines():
            if found := announcement(line):
                return found
        if process.poll() is not None:
            break
        time.sleep(0.0005)
    raise BenchError(f"{process.args[0]} did not say where it listens; it said:\n{text[-2000:]}")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def stop(process):
    process.terminate()
    try:
        process.wait(STOP_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        print(f"{process.args[0]} did not stop when asked, so it is killed", file=sys.stderr)
    finally:  # also when a second ^C comes while this waits
        process.kill()
        process.wait()

"""Four times the searches that mailslot can answer, with deliveries beside them:

    MAILSLOT_BIN=... python3 tests/bench/overload.py

Open loop: requests come when they come, on connections of their own, whatever became of those before.
Prints what was admitted and how fast, what was shed, and how soon it was over. Standard library only.
"""

import http.client
import itertools
import os
import tempfile
import threading
import time

import messages
import scale
import servers

ROWS = int(os.environ.get("ROWS", "1000000"))
LOAD = float(os.environ.get("LOAD", "4"))
SECONDS = float(os.environ.get("SECONDS", "15"))
PATIENCE_S = 30


def search(numbers=itertools.count()):
    """Most of the messages hold it, and none of these searches is the same as another."""
    return f"/messages?q=the&since=2024-12-31T00:00:00.{next(numbers):09}Z"


class Kind:
    def __init__(self, rate, send):
        self.rate, self.send, self.answers = rate, send, []
        self.lock = threading.Lock()

    def ask(self):
        started = time.monotonic()
        try:
            status = self.send()
        except Exception as error:  # whatever it was, the request has failed
            status = type(error).__name__
        with self.lock:
            self.answers.append((started, time.monotonic() - started, status))

    def run(self, until):
        due = time.monotonic()
        while due < until:
            time.sleep(max(0, due - time.monotonic()))
            threading.Thread(target=self.ask, daemon=True).start()
            due += 1 / self.rate


def run():
    with tempfile.TemporaryDirectory() as folder:
        scale.fill(f"{folder}/bench.db", ROWS)
        with servers.mailslot(folder) as server:
            scale.wait_until_packed(f"{folder}/bench.db")
            measure(server)


def measure(server):
    def get(path):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
        connection.request("GET", path)
        status = connection.getresponse().status
        connection.close()
        return status

    lines = messages.signed_lines(100_000, servers.SECRET, "overload")

    def deliver():
        signature, body = next(lines).rstrip().split("\t")
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
        connection.request("POST", "/webhook", body.encode(), {"X-Signature": signature})
        status = connection.getresponse().status
        connection.close()
        return status

    # What it can do: as many at once as it has workers.
    done, until = [], time.monotonic() + 4
    def closed_loop():
        while time.monotonic() < until:
            done.append(get(search()))
    threads = [threading.Thread(target=closed_loop) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    capacity = done.count(200) / 4

    kinds = {
        "search": Kind(LOAD * capacity, lambda: get(search())),
        "deliver": Kind(50, deliver),
        "live": Kind(5, lambda: get("/health/live")),
        "metrics": Kind(2, lambda: get("/metrics")),
    }
    until = time.monotonic() + SECONDS
    threads = [threading.Thread(target=kind.run, args=(until,)) for kind in kinds.values()]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    over = time.monotonic()
    # Over it is when ten deliveries and searches in a row are answered as on a quiet day.
    good = 0
    while good < 10 and time.monotonic() < over + 60:
        started = time.monotonic()
        try:
            is_good = get(search()) == 200 and deliver() == 200 and time.monotonic() - started < 0.5
        except Exception:
            is_good = False
        good = good + 1 if is_good else 0
        recovered = started - over
    memory = server.peak_memory_mb()
    print(f"{servers.MAILSLOT}: can answer {capacity:.0f} searches/s, gets {LOAD * capacity:.0f}; "
          f"peak memory {memory:.0f} MB, over {max(recovered, 0):.1f} s after the load")
    print(f"  {'':9}{'asked':>7}{'200':>7}{'503':>7}{'failed':>8}{'200/s':>8}{'p50 ms':>9}{'p99 ms':>9}"
          f"{'503 p99':>9}")
    for label, kind in kinds.items():
        # The first three seconds are the controller's.
        settled = [answer for answer in kind.answers if answer[0] > until - SECONDS + 3]
        admitted = sorted(wait * 1e3 for _, wait, status in settled if status == 200)
        shed = sorted(wait * 1e3 for _, wait, status in settled if status == 503)
        failed = len(settled) - len(admitted) - len(shed)
        at = lambda waits, share: waits[int(share * (len(waits) - 1))] if waits else float("nan")
        print(f"  {label:9}{len(settled):7}{len(admitted):7}{len(shed):7}{failed:8}"
              f"{len(admitted) / (SECONDS - 3):8.1f}{at(admitted, .5):9.1f}{at(admitted, .99):9.1f}"
              f"{at(shed, .99):9.1f}")


run()

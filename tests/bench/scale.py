#!/usr/bin/env python3
"""Measures what reading costs at 10^4, 10^5, 10^6 messages and, with ROWS=10000000, at 10^7.

`make bench-scale` builds what is needed and calls this. The databases are filled by `mailslot
import` with the messages of fill.py, and read through HTTP, one request after the other on one
connection. Beside it, where plain SQL over the same table and its indexes answers the same question:
a count and a page with OFFSET, by Python's sqlite3. The environment may set:
  ROWS           the largest size: 10000, 100000, 1000000, 10000000 (1000000)
  SCALE_FOLDER   where the databases go, and are found again by the next run (a temporary folder)
  MAILSLOT_BIN   the mailslot to measure (target/release/mailslot)
"""
import http.client
import itertools
import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote, urlencode

sys.dont_write_bytecode = True

import machine

HERE = Path(__file__).parent
MAILSLOT = os.environ.get("MAILSLOT_BIN") or HERE.parent.parent / "target/release/mailslot"
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
PACK_SECONDS_MAX = 1_800
SAMPLES, SAMPLE_SECONDS, SAMPLES_LEAST = 200, 1.0, 5
HALF, RECENT = "2025-07-02T12:00:00Z", "2025-12-30T00:00:00Z"


def say(text):
    print(text, file=sys.stderr, flush=True)


def fill(database, rows):
    """Through the program's own import, with an estimate of the time left."""
    lines = subprocess.Popen([sys.executable, HERE / "fill.py", str(rows)], stdout=subprocess.PIPE)
    started = reported = time.monotonic()
    importing = subprocess.Popen([MAILSLOT, "import", "-"], stdin=lines.stdout, text=True,
                                 stderr=subprocess.PIPE, env={"DATABASE_URL": str(database)})
    for line in importing.stderr:
        stored = int(re.match(r"(\d+) messages", line)[1])
        if stored and time.monotonic() - reported > 5:
            reported = time.monotonic()
            left = (reported - started) * (rows - stored) / stored
            say(f"  {stored:,} of {rows:,} messages, {left:.0f} s left")
    if importing.wait() or lines.wait():
        sys.exit("the import failed")
    say(f"  {rows / (time.monotonic() - started):,.0f} messages/s imported (fill.py takes a part of it)")


def wait_until_packed(database):
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    started = reported = time.monotonic()
    while True:
        missing = connection.execute("SELECT count(*) - 1 FROM segments WHERE trigrams IS NULL").fetchone()[0]
        if missing <= 0:
            return
        if time.monotonic() - reported > 5:
            reported = time.monotonic()
            say(f"  {missing:,} blocks still to be packed")
        if time.monotonic() - started > PACK_SECONDS_MAX:
            sys.exit("the texts were not packed in time")
        time.sleep(0.2)


def classes(connection):
    """Name, parameters, and what plain SQL needs: its WHERE."""
    msisdn = lambda n: connection.execute(
        "SELECT msisdn FROM senders ORDER BY n DESC, msisdn LIMIT 1 OFFSET ?", (n,)).fetchone()[0]
    senders = connection.execute("SELECT senders FROM totals").fetchone()[0]
    heavy, light = msisdn(0), msisdn(senders - 1)
    filters = [
        ("no filter", {}), ("from heavy", {"from": heavy}), ("from light", {"from": light}),
        ("from absent", {"from": "+999"}), ("since recent", {"since": RECENT}),
        ("since half", {"since": HALF}), ("from heavy, since half", {"from": heavy, "since": HALF}),
    ]
    for name, parameters in filters:
        for q_name, q in (("", None), ("q rare", "quokka"), ("q common", "the"), ("q absent", "zyzzyva")):
            if q:
                yield f"{name}, {q_name}", parameters | {"q": q}
            else:
                yield name, parameters
    yield "q a number, absent", {"q": "1234567"}
    yield "q two letters", {"q": "to"}
    yield "q two common words", {"q": "hello order"}


def offsets(total):
    return {"": 0} if total <= 200 else {"": 0, "middle": total // 2, "end": total - 50}


WORDINGS = itertools.count(1)


def asked_anew(parameters):
    """The same question in other words: mailslot remembers what recent searches found."""
    if "q" not in parameters:
        return parameters
    since = parameters.get("since", "0001-01-01T00:00:00Z")
    return parameters | {"since": f"{since[:-1]}.{next(WORDINGS):09}Z"}


def measure(ask):
    times, started = [], time.perf_counter()
    while len(times) < SAMPLES_LEAST or (
            len(times) < SAMPLES and time.perf_counter() - started < SAMPLE_SECONDS):
        begin = time.perf_counter()
        ask(len(times) + 1)
        times.append((time.perf_counter() - begin) * 1e3)
    times.sort()
    return times[len(times) // 2], times[min(len(times) - 1, int(len(times) * 0.99))]


def naive(connection, parameters):
    """The count and the page by plain SQL, once, in ms."""
    where, values = ["1"], []
    if "from" in parameters:
        where.append("from_msisdn = ?"), values.append(parameters["from"])
    if "since" in parameters:
        where.append("(ts_s, ts_ns) >= (unixepoch(?), 0)"), values.append(parameters["since"])
    if "q" in parameters:
        where.append("text LIKE ?"), values.append(f"%{parameters['q']}%")
    where = " AND ".join(where)
    begin = time.perf_counter()
    total = connection.execute(f"SELECT count(*) FROM messages WHERE {where}", values).fetchone()[0]
    connection.execute(
        f"SELECT message_id, from_msisdn, to_msisdn, ts, text FROM messages WHERE {where} "
        "ORDER BY ts_s, ts_ns, message_id LIMIT 50 OFFSET ?",
        (*values, parameters.get("offset", 0))).fetchall()
    return total, (time.perf_counter() - begin) * 1e3


def read(folder, rows, found):
    database = folder / f"{rows}.db"
    say(f"{rows:,} messages")
    if not database.exists():
        fill(database, rows)
    environment = {"WEBHOOK_SECRET": "x", "DATABASE_URL": str(database), "LISTEN": "127.0.0.1:0",
                   "LOG_LEVEL": "ERROR"}
    server = subprocess.Popen([MAILSLOT], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        line = json.loads(server.stdout.readline())
        say(f"  started in {line['start_ms']:.0f} ms")
        found.setdefault("start", {})[rows] = (line["start_ms"], line["start_ms"], None)
        wait_until_packed(database)
        host, port = line["address"].rsplit(":", 1)
        http_connection = http.client.HTTPConnection(host, int(port))
        connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)

        def get(path):
            http_connection.request("GET", path)
            answer = http_connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                sys.exit(f"{path}: {answer.status} {body[:200]}")
            return json.loads(body)

        def messages(parameters):
            return get("/messages?" + urlencode(parameters, quote_via=quote))

        def one(name, ask, plain):
            p50, p99 = measure(ask)
            found.setdefault(name, {})[rows] = (p50, p99, plain)

        begin = time.perf_counter()
        connection.execute("SELECT count(*), count(DISTINCT from_msisdn) FROM messages").fetchone()
        connection.execute("SELECT from_msisdn, count(*) AS n FROM messages GROUP BY 1 "
                           "ORDER BY n DESC, 1 LIMIT 10").fetchall()
        one("/stats", lambda _: get("/stats"), (time.perf_counter() - begin) * 1e3)
        for name, parameters in classes(connection):
            total = messages(parameters)["total"]
            for where, offset in offsets(total).items():
                asked = parameters | ({"offset": offset} if offset else {})
                plain_total, plain = naive(connection, asked)
                if plain_total != total:
                    sys.exit(f"{asked}: total {total}, plain SQL says {plain_total}")
                one(f"{name}{', ' + where if where else ''}",
                    lambda _: messages(asked_anew(asked)), plain)
        one("no filter, q common, the next pages",
            lambda number: messages({"q": "the", "offset": 50 * number}), None)
    finally:
        server.terminate()
        server.wait()


def table(found, sizes):
    yield "| query | " + " | ".join(f"{size:,}" for size in sizes) + " | growth | plain SQL |"
    yield "|---|" + "---|" * (len(sizes) + 2)
    for name, results in found.items():
        cells = [f"{results[size][0]:.2f} / {results[size][1]:.2f}" if size in results else ""
                 for size in sizes]
        both = [results[size][0] for size in sizes if size in results]
        growth = f"{both[-1] / both[0]:.1f} ×" if sizes[0] in results and sizes[-1] in results else ""
        plain = results.get(sizes[-1], (0, 0, None))[2]
        yield f"| {name} | {' | '.join(cells)} | {growth} | {f'{plain:,.0f}' if plain is not None else ''} |"


def main():
    rows = int(os.environ.get("ROWS") or 1_000_000)
    sizes = [size for size in SIZES if size <= rows]
    if sizes[-1:] != [rows]:
        sys.exit(f"ROWS={rows}: expected one of {', '.join(map(str, SIZES))}")
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(os.environ.get("SCALE_FOLDER") or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print(json.dumps(machine.description(folder)))
        for size in sizes:
            read(folder, size, found)
    print("p50 / p99 in ms through HTTP; plain SQL: ms at the largest size\n")
    print("\n".join(table(found, sizes)))


if __name__ == "__main__":
    main()

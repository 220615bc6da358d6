#!/usr/bin/env python3
"""Measures what a provider's form costs: bodies of WhatsApp's with one message and with a hundred, and
those of /webhook, one right after the other and again.

`make bench` calls this, too. The environment may set SECONDS_PER_RUN (5), ROUNDS (5), CONNECTIONS (64) and MAILSLOT_BIN.
"""
import hashlib
import hmac
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

sys.dont_write_bytecode = True

import servers
from messages import message

SECONDS = int(os.environ.get("SECONDS_PER_RUN") or 5)
ROUNDS = int(os.environ.get("ROUNDS") or 5)
CONNECTIONS = int(os.environ.get("CONNECTIONS") or 64)
APP_SECRET = "0123456789abcdef0123456789abcdef"
# Messages of a body, and how many bodies are more than any server here takes in a second.
LOADS = {"/webhook": (1, 30_000), "whatsapp, 1": (1, 30_000), "whatsapp, 100": (100, 1_500)}
SETTINGS = {"WHATSAPP_APP_SECRET": APP_SECRET, "WHATSAPP_VERIFY_TOKEN": "a token of the bench"}


def seconds(ts):
    """Since 1970: in order, as those of the bodies of /webhook are."""
    return str(int(datetime.fromisoformat(ts).timestamp()))


def whatsapp(messages):
    theirs = [{"from": each["from"][1:], "id": f"wamid.{each['message_id']}", "timestamp": seconds(each["ts"]),
               "type": "text", "text": {"body": each["text"]}} for each in messages]
    value = {"messaging_product": "whatsapp",
             "metadata": {"display_phone_number": "14155550100", "phone_number_id": "106540352242922"},
             "contacts": [{"profile": {"name": "Sheena Nelson"}, "wa_id": theirs[0]["from"]}],
             "messages": theirs}
    change = {"field": "messages", "value": value}
    return {"object": "whatsapp_business_account", "entry": [{"id": "1022901", "changes": [change]}]}


def write(path, load):
    count, per_second = LOADS[load]
    numbers = random.Random(load)
    with open(path, "w", encoding="utf-8") as file:
        for number in range(per_second * SECONDS):
            messages = [message(numbers, f"{number}-{each}", 10_000, number % 86_400, 80)
                        for each in range(count)]
            if load == "/webhook":
                body, secret, prefix = messages[0], servers.SECRET, ""
            else:
                body, secret, prefix = whatsapp(messages), APP_SECRET, "sha256="
            body = json.dumps(body, separators=(",", ":"))
            file.write(prefix + hmac.new(secret.encode(), body.encode(), hashlib.sha256).hexdigest())
            file.write(f"\t{body}\n")


def measure(path, load, folder, originals):
    """Messages per second, and microseconds of processor time for each."""
    target, header = "/webhook", "X-Signature"
    if load != "/webhook":
        target, header = "/webhook/whatsapp", "X-Hub-Signature-256"
    with servers.mailslot(folder, KEEP_ORIGINALS=originals, **SETTINGS) as server:
        before = server.cpu_seconds()
        command = ["wrk", "--threads", "1", "--connections", str(CONNECTIONS), "--duration", f"{SECONDS}s",
                   "--timeout", "10s", "--script", str(servers.HERE / "post.lua"), server.url + target]
        environment = {**os.environ, "REQUESTS": str(path), "SIGNATURE_HEADER": header}
        output = subprocess.run(command, env=environment, text=True, check=True, stdout=subprocess.PIPE).stdout
        found = json.loads(output.partition("RESULT ")[2])
        if found["non_2xx"] or found["repeats"]:
            raise servers.BenchError(f"{load}: {found}")
        stored = server.stored_messages()
        cpu_us = (server.cpu_seconds() - before) * 1e6 / stored
        size = sum(file.stat().st_size for file in Path(folder).iterdir() if "bench.db" in file.name)
        return stored / found["seconds"], cpu_us, found["p99_ms"], size / stored


def main():
    loads = [("/webhook", "1"), ("whatsapp, 1", "1"), ("whatsapp, 1", "0"), ("whatsapp, 100", "1")]
    with tempfile.TemporaryDirectory(prefix="mailslot-bench-") as folder:
        folder = Path(folder)
        for number, load in enumerate(LOADS):
            write(folder / f"{number}.tsv", load)
        found = {load: [] for load in loads}
        for _ in range(ROUNDS):
            for load, originals in loads:
                path = folder / f"{list(LOADS).index(load)}.tsv"
                with tempfile.TemporaryDirectory(dir=folder) as own:
                    found[load, originals].append(measure(path, load, own, originals))
    base = [each[0] for each in found[loads[0]]]
    print(f"{'load':<32} messages/s  of /webhook  cpu us  p99 ms  bytes")
    for (load, originals), runs in found.items():
        rate, cpu_us, p99_ms, size = (statistics.median(column) for column in zip(*runs))
        ratio = statistics.median(run[0] / other for run, other in zip(runs, base))
        name = load + ("" if originals == "1" else ", KEEP_ORIGINALS=0")
        print(f"{name:<32} {rate:>10.0f}  {ratio:>11.2f}  {cpu_us:>6.0f}  {p99_ms:>6.1f}  {size:>5.0f}")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Write messages for `mailslot import`, one JSON object a line.

Usage: fill.py N

A year of messages as they would have come in: by 10,000 senders, of whom few write much and many
little (Zipf), 80 bytes of text each, from the first second of 2025 to the last, about in the order
of their ts, a hundredth of them up to a day late. A fifth carry a six-digit code. Planted for
searching: "quokka" in ten messages of every million (at least one), "the" in seven of ten.
The same N gives the same lines.
"""
import bisect
import itertools
import json
import random
import sys
from datetime import datetime, timedelta, timezone

SENDERS = 10_000
YEAR = datetime(2025, 1, 1, tzinfo=timezone.utc)
YEAR_SECONDS = 365 * 86400
SYLLABLES = "ka re mo ti sun lo pa ver ni sho der el ga tra ix um be qua zi fen".split()
COMMON = ("to you your is and for of hello order please thanks code delivery payment invoice today "
          "meeting call balance account confirm late home office train ticket bank").split()


def lines(count):
    source = random.Random(count)
    weights = list(itertools.accumulate(1 / rank for rank in range(1, SENDERS + 1)))
    words = COMMON + ["".join(source.choices(SYLLABLES, k=source.randint(2, 4)))
                      for _ in range(2_000)]
    word_weights = list(itertools.accumulate(1 / rank for rank in range(1, len(words) + 1)))
    # Texts are drawn from a stock, since drawing words takes longer than mailslot takes to store them.
    stock = []
    for _ in range(50_000):
        text = " ".join(source.choices(words, cum_weights=word_weights, k=11))
        stock.append(("The " if source.random() < 0.7 else "") + text)
    planted = max(1, count // 100_000)
    every = count // planted
    for number in range(count):
        sender = bisect.bisect(weights, source.random() * weights[-1])
        second = number * YEAR_SECONDS // count + source.randrange(60)
        if source.random() < 0.01:
            second -= source.randrange(86_400)
        second = min(max(second, 0), YEAR_SECONDS - 1)
        text = stock[int(source.random() * len(stock))]
        if source.random() < 0.2:
            text += f" {source.randrange(1_000_000):06d}"
        if number % every == every // 2:
            text += " Quokka"
        yield json.dumps({
            "message_id": f"{source.getrandbits(64):016x}-{number}",
            "from": f"+9198{sender:08d}",
            "to": "+14155550100",
            "ts": (YEAR + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "text": text,
        }) + "\n"


if __name__ == "__main__":
    for line in lines(int(sys.argv[1])):
        sys.stdout.write(line)
